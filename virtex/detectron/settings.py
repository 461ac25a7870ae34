"""Build the configuration of a run from its protocol and record every deviation from it."""

import difflib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from virtex.config import flatten, get_setting, set_setting
from virtex.detectron.checks import validate_run, validate_types
from virtex.detectron.config_files import merge_detectron2_overrides, read_config_file
from virtex.errors import UserError
from virtex.protocols import Protocol
from virtex.records import Deviation
from virtex.text import escape

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
    "MODEL.RETINANET.NORM",
    "MODEL.SEM_SEG_HEAD.NORM",
    "MODEL.VIT.NORM",
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
        from_checkpoint: keys set by the checkpoint; they are not deviations from a protocol
            written for ResNet-50 (``MODEL.VIT.DEPTH`` is one, and not listed here).
        reasons: key -> ``Deviation.reason``, if neither overridden nor scaled; default ``"data"``.
    """

    cfg: CfgNode
    reference: CfgNode
    overridden: tuple[str, ...]
    scaled: tuple[str, ...]
    notes: list[str]
    from_checkpoint: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)

    def set_from_checkpoint(self, settings: dict[str, Any]) -> None:
        """Set the keys that the checkpoint determines.

        Raises:
            UserError: the user set one of them to another value.
        """
        for key, value in settings.items():
            if key in self.overridden and get_setting(self.cfg, key) != value:
                raise UserError(
                    f"{key} must be {value!r} for this checkpoint, not "
                    f"{get_setting(self.cfg, key)!r}; remove the override",
                    code="config.invalid_override",
                )
            set_setting(self.cfg, key, value)
        self.from_checkpoint = tuple(key for key in settings if key != "MODEL.VIT.DEPTH")
        self.reasons["MODEL.VIT.DEPTH"] = "checkpoint"

    def set_from_data(self, key: str, value: Any) -> None:
        """Set a key that the data determines (the number of classes).

        Raises:
            UserError: the user set it to another value.
        """
        before = get_setting(self.cfg, key)
        if before != value:
            if key in self.overridden:
                raise UserError(
                    f"{key} must be {value} for this data, not {before}; remove the override",
                    code="config.invalid_override",
                )
            self.notes.append(f"{key} set to {value} from the data, instead of {before}")
            set_setting(self.cfg, key, value)

    def deviations(self) -> list[Deviation]:
        """List the settings that differ from the protocol's, sorted by key."""
        return [
            Deviation(key, before, now, self.why(key))
            for key, now in sorted(flatten(self.cfg).items())
            if key not in self.from_checkpoint + NEUTRAL_KEYS
            and now != (before := get_setting(self.reference, key))
            # SyncBN in one process is BN
            and not (before == "SyncBN" and key in NORM_KEYS and key not in self.overridden)
        ]

    def why(self, key: str) -> str:
        if key in self.overridden:
            return "override"
        return "scaled" if key in self.scaled else self.reasons.get(key, "data")


def build_settings(
    protocol: Protocol, overrides: Sequence[str], world_size: int, device: str
) -> RunSettings:
    """Build the settings of a run: the protocol, the overrides, scaled to the number of processes.

    The batch is the protocol's share for ``world_size`` processes unless overridden, or for
    ``SOLVER.ACCUMULATE`` times as many, up to the protocol's batch. By the linear scaling rule
    (Goyal et al., arXiv 1706.02677) the learning rate is scaled with it, and iterations, steps and
    warm-up inversely, so that the same number of images is seen. Keys set by the user are not
    scaled, nor are protocols with ``SOLVER.REFERENCE_WORLD_SIZE 0``.

    Args:
        overrides: ``KEY VALUE KEY VALUE …`` as in Detectron2.
        world_size: number of processes on all machines.
        device: ``"cuda"`` or ``"cpu"``.

    Raises:
        UserError: the YAML file or an override is not valid.
    """
    reference = load_config(protocol)
    cfg = reference.clone()
    merge_detectron2_overrides(cfg, overrides)
    keys = tuple(map(str, overrides[0::2]))
    validate_run(cfg, keys, device)
    settings = RunSettings(cfg, reference, keys, (), [])
    scale_to_batch(settings, world_size)
    validate_types(cfg)
    parts = world_size * cfg.SOLVER.ACCUMULATE
    if cfg.SOLVER.IMS_PER_BATCH % parts:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH must be a multiple of {parts}, the number of processes "
            f"({world_size}) times SOLVER.ACCUMULATE ({cfg.SOLVER.ACCUMULATE}), not "
            f"{cfg.SOLVER.IMS_PER_BATCH}",
            code="config.batch_size",
        )
    if cfg.SOLVER.ACCUMULATE > 1:
        settings.notes.append(
            f"gradients are averaged over {cfg.SOLVER.ACCUMULATE} micro-batches of "
            f"{cfg.SOLVER.IMS_PER_BATCH // parts} images per process; batch norm statistics are "
            "those of one micro-batch"
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
    cfg = read_config_file(protocol.config)
    try:
        validate_types(cfg)
    except UserError as error:
        raise UserError(
            f"{protocol.config} is not a valid Detectron2 config: {error}", code=error.code
        ) from error
    return cfg


def scale_to_batch(settings: RunSettings, world_size: int) -> None:
    """Scale the learning rate and the schedule with the batch size."""
    cfg, solver = settings.cfg, settings.cfg.SOLVER
    base, expected = settings.reference.SOLVER, solver.REFERENCE_WORLD_SIZE
    if expected <= 0:
        return
    if "SOLVER.IMS_PER_BATCH" not in settings.overridden:
        shares = min(world_size * solver.ACCUMULATE, max(world_size, expected))
        solver.IMS_PER_BATCH = max(base.IMS_PER_BATCH * shares // expected, 1)
    factor = solver.IMS_PER_BATCH / base.IMS_PER_BATCH
    if factor != 1:
        scaled = {
            "SOLVER.BASE_LR": base.BASE_LR * factor,
            **{key: round(get_setting(settings.reference, key) / factor) for key in SCALED_LENGTHS},
        }
        if has_steps(solver):
            scaled["SOLVER.STEPS"] = [round(step / factor) for step in base.STEPS]
        keys = [key for key in scaled if key not in settings.overridden]
        for key in keys:
            set_setting(cfg, key, scaled[key])
        settings.scaled = ("SOLVER.IMS_PER_BATCH", *keys)
    if factor != 1 or world_size < expected:
        settings.notes.append(describe_scaling(cfg, base, world_size))


def has_steps(solver: CfgNode) -> bool:
    """Return whether the schedule has steps, unlike polynomial or cosine decay."""
    return "Step" in solver.LR_SCHEDULER_NAME


def describe_scaling(cfg: CfgNode, base: CfgNode, world_size: int) -> str:
    """Describe, in several lines, how a protocol is scaled to the number of processes.

    Args:
        base: ``SOLVER`` of the protocol.
    """
    solver, expected = cfg.SOLVER, cfg.SOLVER.REFERENCE_WORLD_SIZE
    images = solver.IMS_PER_BATCH * solver.MAX_ITER / (base.IMS_PER_BATCH * base.MAX_ITER)
    per_process = base.IMS_PER_BATCH / expected

    def compare(now: float, before: float) -> str:
        return f"{now:.10g}" + ("" if now == before else f" instead of {before:.10g}")

    lines = [
        f"processes {compare(world_size, expected)}",
        f"batch size {compare(solver.IMS_PER_BATCH, base.IMS_PER_BATCH)}",
        f"learning rate {compare(solver.BASE_LR, base.BASE_LR)}",
        f"iterations {compare(solver.MAX_ITER, base.MAX_ITER)}, "
        + f"steps {tuple(solver.STEPS)}, " * has_steps(solver)
        + f"warm-up {compare(solver.WARMUP_ITERS, base.WARMUP_ITERS)}",
        f"relative to the protocol on {expected} processes: {images:.3g} times the images, about "
        f"{images * expected / world_size:.3g} times the training time",
        "images in memory per process "
        + compare(solver.IMS_PER_BATCH / world_size / solver.ACCUMULATE, per_process),
    ]
    # the fewest micro-batches that need no more memory than the protocol
    smallest = math.ceil(expected / world_size)
    fitting = [
        n
        for n in range(smallest, base.IMS_PER_BATCH + 1)
        if not base.IMS_PER_BATCH % (n * world_size)
    ]
    if smallest > solver.ACCUMULATE and fitting:
        lines.append(
            "to keep the protocol's batch size, learning rate, schedule and memory: "
            f"SOLVER.IMS_PER_BATCH {base.IMS_PER_BATCH} SOLVER.ACCUMULATE {fitting[0]}"
        )
    return "\n  ".join(lines)


def replace_sync_bn(settings: RunSettings, world_size: int, device: str) -> None:
    """Use BN in one process and Detectron2's naiveSyncBN on CPUs, where SyncBN cannot run."""
    if device == "cuda" and world_size > 1:
        return
    norm = "BN" if world_size == 1 else "naiveSyncBN"
    changed = [key for key in NORM_KEYS if get_setting(settings.cfg, key) == "SyncBN"]
    for key in changed:
        set_setting(settings.cfg, key, norm)
    if changed:
        where = "one process" if world_size == 1 else "processes on CPUs"
        settings.notes.append(f"SyncBN replaced by {norm} in {where} ({', '.join(changed)})")


def find_config(name: str) -> Path:
    """Return a config file, given by its path or as ``COCO-Detection/….yaml`` of Detectron2's zoo.

    Raises:
        UserError: it does not exist.
    """
    import detectron2

    if os.path.isfile(name):
        return Path(name)
    folder = Path(detectron2.__file__).parent / "model_zoo" / "configs"
    if os.path.isfile(folder / name):
        return folder / name
    names = [str(path.relative_to(folder)) for path in folder.glob("**/*.yaml")]
    near = difflib.get_close_matches(name[:100], names, n=1)
    hint = f"; did you mean {near[0]} of Detectron2's model zoo?" if near else ""
    raise UserError(f"config file {escape(name, 300)} not found{hint}", code="config.not_found")
