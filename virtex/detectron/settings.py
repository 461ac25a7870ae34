"""From a protocol to the settings of one run, with every deviation from it accounted for."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from detectron2.config import CfgNode

from virtex.config.reading import parse_literal
from virtex.detectron.checks import check_sound, check_values
from virtex.detectron.config_files import default_config
from virtex.detectron.keys import get_key, set_key, walk
from virtex.errors import UserError
from virtex.protocols import Protocol
from virtex.quoting import quoted
from virtex.records import Deviation

# What cannot change a number, or stands elsewhere in the record.
NEUTRAL_KEYS = (
    "OUTPUT_DIR",
    "SEED",
    "VERSION",
    "VIS_PERIOD",
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.REFERENCE_WORLD_SIZE",
    "TEST.EVAL_PERIOD",
)
NORM_KEYS = (
    "MODEL.RESNETS.NORM",
    "MODEL.FPN.NORM",
    "MODEL.ROI_BOX_HEAD.NORM",
    "MODEL.ROI_MASK_HEAD.NORM",
    "MODEL.SEM_SEG_HEAD.NORM",
)
# What Detectron2 raises for a file that is no YAML, no mapping, or sets unknown keys.
NOT_A_CONFIG = (
    *(yaml.YAMLError, KeyError, ValueError, TypeError, AttributeError, AssertionError, OSError),
    *(RecursionError, MemoryError),
)
SCALED_LENGTHS = ("SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS", "SOLVER.CHECKPOINT_PERIOD")


@dataclass
class RunSettings:
    """The settings of one run.

    Attributes:
        cfg: the whole configuration, to be completed by the data and the checkpoint.
        reference: the protocol's own configuration, untouched.
        overridden: keys the user set.
        scaled: keys that follow the batch size.
        said: sentences for the log and the record: what was changed and why.
        by_checkpoint: keys the checkpoint decides; a protocol written for ResNet-50 is not
            departed from by these.
    """

    cfg: CfgNode
    reference: CfgNode
    overridden: tuple[str, ...]
    scaled: tuple[str, ...]
    said: list[str]
    by_checkpoint: tuple[str, ...] = ()

    def set_by_checkpoint(self, settings: dict[str, Any]) -> None:
        """Write what the checkpoint decides.

        Raises:
            UserError: the user set one of these keys to something else.
        """
        for key, value in settings.items():
            if key in self.overridden and get_key(self.cfg, key) != value:
                raise UserError(
                    f"{key} is {value!r} for this checkpoint and cannot be overridden "
                    f"with {get_key(self.cfg, key)!r}; leave it out"
                )
            set_key(self.cfg, key, value)
        self.by_checkpoint = tuple(settings)

    def set_by_data(self, key: str, value: Any) -> None:
        """Write what the data decides (the number of classes), saying so where it differs.

        Raises:
            UserError: the user set it to something else.
        """
        if get_key(self.cfg, key) != value:
            if key in self.overridden:
                raise UserError(f"{key} is {value} in the data, not {get_key(self.cfg, key)}")
            self.said.append(f"{key} is {value}, as in the data, not {get_key(self.cfg, key)}")
            set_key(self.cfg, key, value)

    def deviations(self) -> list[Deviation]:
        """Every setting that differs from the protocol's, in the order of their names."""
        return [
            Deviation(key, before, now, self.why(key))
            for key, now in walk(self.cfg)
            if key not in self.by_checkpoint + NEUTRAL_KEYS
            and now != (before := get_key(self.reference, key))
            # BN in one process is what SyncBN is in several
            and not (before == "SyncBN" and key in NORM_KEYS and key not in self.overridden)
        ]

    def why(self, key: str) -> str:
        if key in self.overridden:
            return "override"
        return "scaled" if key in self.scaled else "data"


def build_settings(
    protocol: Protocol, overrides: Sequence[str], world_size: int, device: str
) -> RunSettings:
    """Settings of a run: the protocol, scaled to the processes at hand, then the overrides.

    The batch is the protocol's share for ``world_size`` processes, or what the user says. By
    the linear scaling rule (Goyal et al., arXiv 1706.02677) the learning rate follows it, and
    the number of iterations, steps and warm-up go the other way, so that as many images are
    seen; a key that the user sets is taken as it is. A protocol with
    ``SOLVER.REFERENCE_WORLD_SIZE 0`` is never scaled.

    Args:
        overrides: ``KEY VALUE KEY VALUE …`` as in Detectron2.
        world_size: processes over all machines.
        device: ``"cuda"`` or ``"cpu"``.

    Raises:
        UserError: the YAML or an override is not valid; the nearest key is named.
    """
    reference = load_config(protocol)
    cfg = reference.clone()
    keys = tuple(overrides[0::2])
    merge_overrides(cfg, overrides)
    check_values(cfg, keys, device)
    settings = RunSettings(cfg, reference, keys, (), [])
    scale_to_batch(settings, world_size)
    check_sound(cfg)
    if cfg.SOLVER.IMS_PER_BATCH % world_size:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}, which {world_size} processes "
            f"cannot share evenly; give a multiple of {world_size}"
        )
    cfg.MODEL.DEVICE = device
    cfg.MODEL.WEIGHTS = ""  # the checkpoint is loaded and verified by its adapter
    if "DATALOADER.NUM_WORKERS" not in keys:
        cfg.DATALOADER.NUM_WORKERS = min(cfg.DATALOADER.NUM_WORKERS, os.cpu_count() or 1)
    replace_sync_bn(settings, world_size, device)
    return settings


def load_config(protocol: Protocol) -> CfgNode:
    """The protocol's YAML on Detectron2's defaults.

    Raises:
        UserError: the file is not valid YAML, or sets keys that Detectron2 does not have.
    """
    cfg = default_config()
    try:
        cfg.merge_from_file(str(protocol.config))
        check_sound(cfg)
    except UserError as error:
        raise UserError(f"{protocol.config} is not a Detectron2 config: {error}") from error
    except NOT_A_CONFIG as error:
        reason = (str(error).strip("'\"").splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{protocol.config} is not a Detectron2 config: {quoted(reason, 300)}"
        ) from error
    return cfg


def merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Set ``KEY VALUE …`` pairs.

    Raises:
        UserError: a key does not exist (the nearest is named), a value has the wrong type.
    """
    if len(overrides) % 2:
        raise UserError(
            f"overrides come in pairs KEY VALUE; '{quoted(str(overrides[-1]))}' stands alone"
        )
    known = [key for key, _ in walk(cfg)]
    for key, text in zip(overrides[0::2], overrides[1::2], strict=True):
        if key not in known:
            near = difflib.get_close_matches(key[:100], known, n=1, cutoff=0.0)
            raise UserError(f"there is no setting {quoted(key)}; the nearest is {near[0]}")
        try:
            cfg.merge_from_list([key, parse_literal(text)])
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            reason = quoted(str(error).partition(" for config key")[0], 200)
            raise UserError(f"{key} cannot be '{quoted(text)}': {reason}") from error


def scale_to_batch(settings: RunSettings, world_size: int) -> None:
    """Let learning rate and schedule follow the batch size, and say so."""
    cfg, solver = settings.cfg, settings.cfg.SOLVER
    base = settings.reference.SOLVER
    if solver.REFERENCE_WORLD_SIZE <= 0:
        return
    if "SOLVER.IMS_PER_BATCH" not in settings.overridden:
        share = base.IMS_PER_BATCH * world_size // solver.REFERENCE_WORLD_SIZE
        solver.IMS_PER_BATCH = max(share, 1)
    factor = solver.IMS_PER_BATCH / base.IMS_PER_BATCH
    if factor == 1:
        return
    wanted = {
        "SOLVER.BASE_LR": base.BASE_LR * factor,
        "SOLVER.STEPS": [round(step / factor) for step in base.STEPS],
        **{key: round(get_key(settings.reference, key) / factor) for key in SCALED_LENGTHS},
    }
    scaled = [key for key in wanted if key not in settings.overridden]
    for key in scaled:
        set_key(cfg, key, wanted[key])
    settings.scaled = ("SOLVER.IMS_PER_BATCH", *scaled)
    settings.said.append(
        f"batch {solver.IMS_PER_BATCH} instead of {base.IMS_PER_BATCH} (factor {factor:g}): "
        f"learning rate {solver.BASE_LR:g} instead of {base.BASE_LR:g}, "
        f"{solver.MAX_ITER} iterations instead of {base.MAX_ITER}, steps {tuple(solver.STEPS)}"
    )


def replace_sync_bn(settings: RunSettings, world_size: int, device: str) -> None:
    """SyncBN needs several processes with GPUs: BN in one, Detectron2's naive one on CPUs."""
    if device == "cuda" and world_size > 1:
        return
    norm = "BN" if world_size == 1 else "naiveSyncBN"
    changed = [key for key in NORM_KEYS if get_key(settings.cfg, key) == "SyncBN"]
    for key in changed:
        set_key(settings.cfg, key, norm)
    if changed:
        where = "one process" if world_size == 1 else "processes on CPUs"
        settings.said.append(f"SyncBN is {norm} in {where} ({', '.join(changed)})")
