#!/usr/bin/env python3
"""Run all benchmarks and write one table, with a description of the machine.

Each benchmark runs in its own process, with one thread and one worker per usable core. The table
states which references are not installed. For a failed benchmark it has the last line of stderr,
and the exit status is 1. Use a quiet machine.

examples:
  python benchmarks/run_all.py                           # make bench
  taskset -c 0,1 python benchmarks/run_all.py            # on two cores of a larger machine
  python benchmarks/run_all.py --device cuda --output benchmarks/RESULTS_GPU.md
  python benchmarks/run_all.py --only svm leaderboard --output some.md
  # in parts: benchmarks with rows in the folder are skipped
  python benchmarks/run_all.py --only transfer_overhead --rows output/bench
  python benchmarks/run_all.py --rows output/bench
"""

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.measure import Row, number, usable_cores

HERE = Path(__file__).resolve().parent
LIMIT = 900  # seconds of one benchmark
FAILED = "failed"  # prefix of the note of a row without numbers
WHOLE_COCO = (
    "--protocol 2x --checkpoint random:resnet50?seed=0 --images 200 --iterations 30 "
    "SOLVER.IMS_PER_BATCH 16 DATALOADER.NUM_WORKERS {cores}"
)
# device -> what runs there; {cores} is as many as the process may use
COMMANDS = {
    "cpu": (
        "svm.py --device cpu",
        "linear_probe.py --device cpu",
        "caption_scores.py",
        "leaderboard.py 10000",
        "transfer_overhead.py --num-gpus 0",
        "feature_extraction.py --device cpu",
        "pretraining_throughput.py --device cpu --repeat 3 --iterations 2",
    ),
    "cuda": (
        f"transfer_overhead.py {WHOLE_COCO}",
        f"transfer_overhead.py {WHOLE_COCO} SOLVER.AMP.ENABLED True",
        "pretraining_throughput.py --device cuda",
        "feature_extraction.py --device cuda",
        "svm.py --device cuda",
        "linear_probe.py --device cuda",
    ),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted({command.split(".py")[0] for found in COMMANDS.values() for command in found})
    parser.add_argument("--device", choices=tuple(COMMANDS), help="default: all available")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument(
        "--output", type=Path, default=HERE / "RESULTS.md", help="default: benchmarks/RESULTS.md"
    )
    parser.add_argument("--rows", type=Path, metavar="DIR", help="keep the measured rows there")
    return parser


def main() -> int:
    args = build_parser().parse_args()
    started = load_average()
    devices = [args.device] if args.device else ["cpu", *(["cuda"] if gpus() else [])]
    commands = [command for device in devices for command in COMMANDS[device]]
    with tempfile.TemporaryDirectory() as name:
        folder = args.rows or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for command in commands:
            if not args.only or command.split(".py")[0] in args.only:
                measure(command, folder, args.quick)
        found = {command: rows_of(command, folder) for command in commands}
    args.output.write_text(page(found, machine(started), args.quick))
    print(f"wrote {args.output}")
    return int(any(map(has_failed, found.values())))


# One benchmark ---------------------------------------------------------------------------------


def measure(command: str, folder: Path, quick: bool) -> None:
    """Run a benchmark unless its rows exist; its output goes to the terminal."""
    if is_measured(command, folder):
        return
    file = rows_file(command, folder)
    file.unlink(missing_ok=True)
    line = as_typed(command)
    print(f"\n$ {line}", flush=True)
    words = [sys.executable, *shlex.split(line)[1:], "--json", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(usable_cores())}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        try:
            done = subprocess.run(
                words + ["--quick"] * quick,
                cwd=HERE.parent,
                env=environment,
                stderr=errors,
                timeout=LIMIT,
            )
            failed = done.returncode != 0
        except subprocess.TimeoutExpired:
            failed = True
            print(f"took more than {LIMIT} s", file=errors, flush=True)
        errors.seek(0)
        messages = errors.read()
    print(f"({time.perf_counter() - start:.0f} s)", flush=True)
    if failed or not file.is_file():
        print(messages, file=sys.stderr)
        last = (messages.strip().splitlines() or ["no message"])[-1]
        row = Row(command.split(".py")[0], "", note=f"{FAILED}: {last[:200]}")
        file.write_text(json.dumps([asdict(row)]))


def as_typed(command: str) -> str:
    """Return a command as typed in the repository's folder."""
    words = command.format(cores=usable_cores()).split()
    return shlex.join(["python", f"benchmarks/{words[0]}", *words[1:]])


def rows_file(command: str, folder: Path) -> Path:
    return folder / (re.sub(r"[^\w.]+", "_", command) + ".json")


def is_measured(command: str, folder: Path) -> bool:
    rows = rows_of(command, folder)
    return bool(rows) and not has_failed(rows)


def has_failed(rows: list[Row]) -> bool:
    return any(row.note.startswith(FAILED) for row in rows)


def rows_of(command: str, folder: Path) -> list[Row]:
    """Return a benchmark's rows; none if it has not run."""
    file = rows_file(command, folder)
    return [Row(**fields) for fields in json.loads(file.read_text())] if file.is_file() else []


# The page --------------------------------------------------------------------------------------


def page(found: dict[str, list[Row]], head: dict[str, str], quick: bool) -> str:
    """Return the Markdown of all rows."""
    lines = [
        "# Results of the benchmarks",
        "",
        "Written by `python benchmarks/run_all.py`"
        + (" --quick: no real sizes." if quick else "."),
        "",
        *(f"- {name}: {value}" for name, value in head.items()),
        "",
        "Ours and the reference take turns in one process; the table shows their medians. The",
        "ratio is the median of the pairs' ratios; above 1 ours is faster.",
        "",
        "| benchmark | what is measured | ours | reference | ratio | unit | command |",
        "|---|---|---|---|---|---|---|",
    ]
    for command, rows in found.items():
        for row in rows:
            beside = f"{row.beside} {number(row.reference)}".strip()
            cells = [
                command.split(".py")[0],
                f"{row.name} ({row.note})" if row.note else row.name,
                number(row.ours),
                beside,
                number(row.ratio),
                row.unit,
                f"`{as_typed(command)}`",
            ]
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def machine(started: str) -> dict[str, str]:
    """Describe the machine and software."""
    packages = ("torch", "torchvision", "numpy", "scikit-learn", "pillow", "opencv-python")
    return {
        "processor": f"{processor()}, {usable_cores()} of {os.cpu_count()} cores used",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "GPU": ", ".join(gpus()) or "none",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {version(name)}" for name in packages),
        "Detectron2": version("detectron2", "detectron2-cdo"),
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "load average at the start": started,
    }


def processor() -> str:
    """Return the CPU's model name on Linux."""
    file = Path("/proc/cpuinfo")
    match = re.search(r"^model name\s*:\s*(.+)$", file.read_text() if file.is_file() else "", re.M)
    return match[1] if match else platform.machine()


def gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]


def version(*names: str) -> str:
    """Return the version of the first of these distributions that is installed."""
    for name in names:
        try:
            return f"{metadata.version(name)}" + (f" ({name})" if len(names) > 1 else "")
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


def commit() -> str:
    from virtex.records import git_revision

    return git_revision() or "not in a checkout"


def load_average() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


if __name__ == "__main__":
    sys.exit(main())
