"""The Lookahead optimizer (arXiv 1907.08610): k steps forward, 1 step back."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lookahead:
    """Maintain slow weights for any optimizer.

    After every k-th step they move by ``alpha`` towards the fast weights, which then continue from
    there. It registers hooks rather than wrapping the optimizer, so that gradient scalers and
    schedulers work on the optimizer itself::

        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        lookahead = Lookahead(optimizer, k=5, alpha=0.5)
        optimizer.step()  # updates the slow weights every fifth time

    A step that a gradient scaler skips is not counted. The slow weights are initialized before the
    first step; no parameters can be added after it.

    Attributes:
        k: steps between updates of the slow weights.
        alpha: step size of the slow weights, in (0, 1]; 1 changes nothing.
        step: number of optimizer steps.
    """

    def __init__(self, optimizer: Optimizer, k: int = 5, alpha: float = 0.5):
        """
        Raises:
            ValueError: ``k`` is not positive, or ``alpha`` not in (0, 1].
        """
        if k < 1 or not 0 < alpha <= 1:
            raise ValueError(f"Lookahead needs k >= 1 and alpha in (0, 1], not {k} and {alpha}")
        self.optimizer, self.k, self.alpha, self.step = optimizer, k, alpha, 0
        self._slow: list[Tensor] = []
        optimizer.register_step_pre_hook(lambda *_: self._start())
        optimizer.register_step_post_hook(lambda *_: self._after_step())

    def state_dict(self) -> dict[str, Any]:
        """Return ``{"step": int, "slow": tensors in the order of the optimizer's groups}``."""
        self._start()
        return {"step": self.step, "slow": list(self._slow)}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of a run with the same parameters; ``k`` and ``alpha`` are kept.

        Raises:
            ValueError: the state does not match; nothing is changed.
        """
        if set(state_dict) != {"step", "slow"}:
            raise ValueError(f"Lookahead's state has step and slow, not {', '.join(state_dict)}")
        fast, slow = self._fast(), state_dict["slow"]
        shapes = [tuple(weight.shape) for weight in fast]
        if [tuple(weight.shape) for weight in slow] != shapes:
            raise ValueError(
                f"Lookahead's state has {len(slow)} slow weights that are not of the shapes of "
                f"the optimizer's {len(fast)} parameters"
            )
        self.step = int(state_dict["step"])
        self._slow = [new.detach().to(old, copy=True) for new, old in zip(slow, fast, strict=True)]

    def _fast(self) -> list[Tensor]:
        groups = self.optimizer.param_groups
        return [parameter.detach() for group in groups for parameter in group["params"]]

    def _start(self) -> None:
        if not self._slow:
            self._slow = [weight.clone() for weight in self._fast()]

    @torch.no_grad()
    def _after_step(self) -> None:
        # A fused optimizer is always called, and skips an overflowing step in its kernel.
        found_inf = getattr(self.optimizer, "found_inf", None)
        if found_inf is not None and found_inf.item():
            return
        self.step += 1
        if self.step % self.k:
            return
        fast = self._fast()
        if len(fast) != len(self._slow):
            raise ValueError("parameters were added to the optimizer after Lookahead's first step")
        torch._foreach_lerp_(self._slow, fast, self.alpha)
        torch._foreach_copy_(fast, self._slow)
