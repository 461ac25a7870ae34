"""From a protocol to the settings of one run, with every deviation from it accounted for."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from virtex.config import flatten, get_setting, set_setting
from virtex.detectron.checks import validate_run, validate_types
from virtex.detectron.config_files import merge_detectron2_overrides, read_config_file
from virtex.errors import UserError
from virtex.protocols import Protocol
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
            if key in self.overridden and get_setting(self.cfg, key) != value:
                raise UserError(
                    f"{key} is {value!r} for this checkpoint and cannot be overridden "
                    f"with {get_setting(self.cfg, key)!r}; leave it out"
                )
            set_setting(self.cfg, key, value)
        self.by_checkpoint = tuple(settings)

    def set_by_data(self, key: str, value: Any) -> None:
        """Write what the data decides (the number of classes), saying so where it differs.

        Raises:
            UserError: the user set it to something else.
        """
        if get_setting(self.cfg, key) != value:
            if key in self.overridden:
                raise UserError(f"{key} is {value} in the data, not {get_setting(self.cfg, key)}")
            self.said.append(f"{key} is {value}, as in the data, not {get_setting(self.cfg, key)}")
            set_setting(self.cfg, key, value)

    def deviations(self) -> list[Deviation]:
        """Every setting that differs from the protocol's, in the order of their names."""
        return [
            Deviation(key, before, now, self.why(key))
            for key, now in sorted(flatten(self.cfg).items())
            if key not in self.by_checkpoint + NEUTRAL_KEYS
            and now != (before := get_setting(self.reference, key))
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
    merge_detectron2_overrides(cfg, overrides)
    keys = tuple(map(str, overrides[0::2]))
    validate_run(cfg, keys, device)
    settings = RunSettings(cfg, reference, keys, (), [])
    scale_to_batch(settings, world_size)
    validate_types(cfg)
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
    cfg = read_config_file(protocol.config)
    try:
        validate_types(cfg)
    except UserError as error:
        raise UserError(
            f"{protocol.config} is not a valid Detectron2 config: {error}", code=error.code
        ) from error
    return cfg


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
        **{key: round(get_setting(settings.reference, key) / factor) for key in SCALED_LENGTHS},
    }
    scaled = [key for key in wanted if key not in settings.overridden]
    for key in scaled:
        set_setting(cfg, key, wanted[key])
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
    changed = [key for key in NORM_KEYS if get_setting(settings.cfg, key) == "SyncBN"]
    for key in changed:
        set_setting(settings.cfg, key, norm)
    if changed:
        where = "one process" if world_size == 1 else "processes on CPUs"
        settings.said.append(f"SyncBN is {norm} in {where} ({', '.join(changed)})")
