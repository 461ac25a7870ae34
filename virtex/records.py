"""The result record that every evaluation writes: metrics, model, protocol and environment."""

import functools
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import virtex
from virtex.errors import UserError
from virtex.files import read_file, replace_file

SCHEMA_VERSION = 2
RECORD_NAME = "result.json"


@dataclass(frozen=True)
class Deviation:
    """A setting of a run that differs from its protocol; an entry of ``protocol.overrides``.

    Attributes:
        key: the setting, as in ``SOLVER.MAX_ITER``.
        protocol: its value under the protocol.
        run: its value in this run.
        reason: ``"override"``, ``"scaled"`` (with the batch size), ``"data"``, ``"checkpoint"``
            (of another size than the protocol is for), ``"device"`` or ``"software"`` (a missing
            package).
    """

    key: str
    protocol: Any
    run: Any
    reason: str


@dataclass(frozen=True)
class Result:
    """One evaluation of one backbone on one task (JSON types only).

    Attributes:
        task: ``coco``, ``lvis``, ``voc``, …
        protocol: name and version of the packaged protocol, and the ``preprocessing`` of images.
        deviations: every setting that differs from it; empty for a full run.
        metrics: ``"bbox/AP"`` -> value in percent; None if undefined.
        primary_metric: the key of ``metrics`` that ranks models.
        model: ``Backbone.record()``.
        seed: the seed of the run.
        timing: seconds by phase, images per second.
        data: dataset name -> its size and the hash of its annotations.
        verification: checks of the loaded weights.
        details: values chosen during the run, such as the costs of SVMs.
        setup: additions to ``environment``: device, processes, scorer, engine.
    """

    task: str
    protocol: dict[str, Any]
    deviations: list[Deviation]
    metrics: Mapping[str, float | None]
    primary_metric: str
    model: dict[str, Any]
    seed: int
    timing: dict[str, float]
    higher_is_better: bool = True
    data: dict[str, Any] = field(default_factory=dict)
    verification: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Return the JSON object to write."""
        return {
            "schema_version": SCHEMA_VERSION,
            "task": self.task,
            "protocol": {**self.protocol, "overrides": [asdict(d) for d in self.deviations]},
            "metrics": {name: finite_or_none(value) for name, value in self.metrics.items()},
            "primary_metric": self.primary_metric,
            "higher_is_better": self.higher_is_better,
            "model": self.model,
            "data": self.data,
            "verification": self.verification,
            "details": self.details,
            "seed": self.seed,
            "environment": {**environment(), **self.setup},
            "timing": self.timing,
            "notes": self.notes,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def write(self, folder: Path) -> Path:
        """Write ``folder/result.json`` atomically and return its path."""
        path = folder / RECORD_NAME
        write_json(path, self.record())
        return path


def finite_or_none(value: float | None) -> float | None:
    """Replace NaN (no ground truth of that kind), which JSON cannot represent, by None."""
    return None if value is None or not math.isfinite(value) else float(value)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; bytes of file names that are not valid UTF-8 become question marks."""
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda file: file.write(text.encode(errors="replace")))


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a finished run of this version.

    Raises:
        UserError: it is not a valid record, or of an earlier version.
    """
    from pydantic import ValidationError

    from virtex.schemas import ResultRecord, describe_error

    try:
        content = read_file(path)
        version = ResultRecord.model_validate_json(content).schema_version
        if version == SCHEMA_VERSION:
            return json.loads(content)
        problem = f"schema_version {version} is from an earlier release"
    except OSError as error:
        problem = error.strerror or str(error)
    except ValidationError as error:
        problem = describe_error(error)
    raise UserError(
        f"{path} is not a valid record ({problem}); move {path.parent} away, or choose another "
        "--output-dir",
        "records.invalid",
    )


def environment() -> dict[str, Any]:
    """Return the versions and hardware that results depend on."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "virtex": virtex.__version__,
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": package_version("torchvision"),
        "numpy": package_version("numpy"),
        "platform": platform.platform(),
        "cpu": platform.machine(),
        "cpu_count": os.cpu_count(),
        "gpus": gpus,
    }


def package_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@functools.cache  # of the code that was imported, whatever is checked out later
def git_revision() -> str | None:
    """Return the commit of this checkout, with "+changes" if modified; None without one."""
    folder = Path(virtex.__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None
    try:
        show = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty=+changes", "--abbrev=40"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return show.stdout.strip()
