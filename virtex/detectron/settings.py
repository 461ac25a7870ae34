"""Build the configuration of a run from its protocol and record every deviation from it."""

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

# Keys that cannot change a result, or that the record stores elsewhere.
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
# Raised by Detectron2 for a file that is not YAML, not a mapping, or has unknown keys.
NOT_A_CONFIG = (
    *(yaml.YAMLError, KeyError, ValueError, TypeError, AttributeError, AssertionError, OSError),
    *(RecursionError, MemoryError),
)
SCALED_LENGTHS = ("SOLVER.MAX_ITER", "SOLVER.WARMUP_ITERS", "SOLVER.CHECKPOINT_PERIOD")


@dataclass
class RunSettings:
    """The settings of one run.

    Attributes:
        cfg: the configuration, to be completed from the data and the checkpoint.
        reference: the configuration of the protocol, unchanged.
        overridden: keys set by the user.
        scaled: keys scaled with the batch size.
        notes: sentences for the log and the record about adjusted settings.
        by_checkpoint: keys set by the checkpoint; they are not deviations from a protocol
            written for ResNet-50.
    """

    cfg: CfgNode
    reference: CfgNode
    overridden: tuple[str, ...]
    scaled: tuple[str, ...]
    notes: list[str]
    by_checkpoint: tuple[str, ...] = ()

    def set_by_checkpoint(self, settings: dict[str, Any]) -> None:
        """Set the keys that the checkpoint determines.

        Raises:
            UserError: the user set one of them to another value.
        """
        for key, value in settings.items():
            if key in self.overridden and get_key(self.cfg, key) != value:
                raise UserError(
                    f"{key} must be {value!r} for this checkpoint, not "
                    f"{get_key(self.cfg, key)!r}; remove the override",
                    code="config.conflict",
                )
            set_key(self.cfg, key, value)
        self.by_checkpoint = tuple(settings)

    def set_by_data(self, key: str, value: Any) -> None:
        """Set a key that the data determines (the number of classes).

        Raises:
            UserError: the user set it to another value.
        """
        before = get_key(self.cfg, key)
        if before != value:
            if key in self.overridden:
                raise UserError(
                    f"{key} must be {value} for this data, not {before}; remove the override",
                    code="config.conflict",
                )
            self.notes.append(f"{key} set to {value} from the data, instead of {before}")
            set_key(self.cfg, key, value)

    def deviations(self) -> list[Deviation]:
        """List the settings that differ from the protocol's, sorted by key."""
        return [
            Deviation(key, before, now, self.why(key))
            for key, now in walk(self.cfg)
            if key not in self.by_checkpoint + NEUTRAL_KEYS
            and now != (before := get_key(self.reference, key))
            # SyncBN in one process is BN
            and not (before == "SyncBN" and key in NORM_KEYS and key not in self.overridden)
        ]

    def why(self, key: str) -> str:
        if key in self.overridden:
            return "override"
        return "scaled" if key in self.scaled else "data"


def build_settings(
    protocol: Protocol, overrides: Sequence[str], world_size: int, device: str
) -> RunSettings:
    """Build the settings of a run: the protocol, the overrides, scaled to the number of processes.

    The batch is the protocol's share for ``world_size`` processes unless overridden. By the
    linear scaling rule (Goyal et al., arXiv 1706.02677) the learning rate is scaled with it, and
    iterations, steps and warm-up inversely, so that the same number of images is seen. Keys set
    by the user are not scaled, nor are protocols with ``SOLVER.REFERENCE_WORLD_SIZE 0``.

    Args:
        overrides: ``KEY VALUE KEY VALUE …`` as in Detectron2.
        world_size: number of processes on all machines.
        device: ``"cuda"`` or ``"cpu"``.

    Raises:
        UserError: the YAML file or an override is not valid.
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
            f"SOLVER.IMS_PER_BATCH must be a multiple of the {world_size} processes, not "
            f"{cfg.SOLVER.IMS_PER_BATCH}",
            code="config.batch_size",
        )
    cfg.MODEL.DEVICE = device
    cfg.MODEL.WEIGHTS = ""  # the checkpoint is loaded and verified by its adapter
    if "DATALOADER.NUM_WORKERS" not in keys:
        cfg.DATALOADER.NUM_WORKERS = min(cfg.DATALOADER.NUM_WORKERS, os.cpu_count() or 1)
    replace_sync_bn(settings, world_size, device)
    return settings


def load_config(protocol: Protocol) -> CfgNode:
    """Load the protocol's YAML file over Detectron2's defaults.

    Raises:
        UserError: the file is not valid YAML or has unknown keys.
    """
    cfg = default_config()
    try:
        cfg.merge_from_file(str(protocol.config))
        check_sound(cfg)
    except UserError as error:
        raise UserError(
            f"{protocol.config} is not a Detectron2 config: {error}", code="config.file"
        ) from error
    except NOT_A_CONFIG as error:
        reason = (str(error).strip("'\"").splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{protocol.config} is not a Detectron2 config: {quoted(reason, 300)}",
            code="config.file",
        ) from error
    return cfg


def merge_overrides(cfg: CfgNode, overrides: Sequence[str]) -> None:
    """Apply ``KEY VALUE …`` pairs.

    Raises:
        UserError: a key is unknown (the closest is suggested) or a value has the wrong type.
    """
    if len(overrides) % 2:
        raise UserError(
            f"expected pairs KEY VALUE, but '{quoted(str(overrides[-1]))}' has no counterpart",
            code="config.override_pairs",
        )
    known = [key for key, _ in walk(cfg)]
    for key, text in zip(overrides[0::2], overrides[1::2], strict=True):
        if key not in known:
            near = difflib.get_close_matches(key[:100], known, n=1, cutoff=0.0)
            raise UserError(
                f"unknown setting {quoted(key)}; did you mean {near[0]}?", code="config.unknown_key"
            )
        try:
            cfg.merge_from_list([key, parse_literal(text)])
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
            reason = quoted(str(error).partition(" for config key")[0], 200)
            raise UserError(
                f"invalid value '{quoted(text)}' of {key}: {reason}", code="config.value"
            ) from error


def scale_to_batch(settings: RunSettings, world_size: int) -> None:
    """Scale the learning rate and the schedule with the batch size."""
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
    scaled = {
        "SOLVER.BASE_LR": base.BASE_LR * factor,
        "SOLVER.STEPS": [round(step / factor) for step in base.STEPS],
        **{key: round(get_key(settings.reference, key) / factor) for key in SCALED_LENGTHS},
    }
    keys = [key for key in scaled if key not in settings.overridden]
    for key in keys:
        set_key(cfg, key, scaled[key])
    settings.scaled = ("SOLVER.IMS_PER_BATCH", *keys)
    settings.notes.append(
        f"batch size {solver.IMS_PER_BATCH} instead of {base.IMS_PER_BATCH} (factor {factor:g}): "
        f"learning rate {solver.BASE_LR:g} instead of {base.BASE_LR:g}, "
        f"{solver.MAX_ITER} iterations instead of {base.MAX_ITER}, steps {tuple(solver.STEPS)}"
    )


def replace_sync_bn(settings: RunSettings, world_size: int, device: str) -> None:
    """Use BN in one process and Detectron2's naiveSyncBN on CPUs, where SyncBN cannot run."""
    if device == "cuda" and world_size > 1:
        return
    norm = "BN" if world_size == 1 else "naiveSyncBN"
    changed = [key for key in NORM_KEYS if get_key(settings.cfg, key) == "SyncBN"]
    for key in changed:
        set_key(settings.cfg, key, norm)
    if changed:
        where = "one process" if world_size == 1 else "processes on CPUs"
        settings.notes.append(f"SyncBN replaced by {norm} in {where} ({', '.join(changed)})")
