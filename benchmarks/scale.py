#!/usr/bin/env python3
"""Seconds and memory of what grows with the data: sizes swept, slope printed.

Each measurement runs in a process of its own, on input that another process has made. Of each size
it tells seconds (the median of several runs where they are short), seconds on a core, the memory
that the work took of its own beside what the process had before, and what was resident with the
pages of mapped files, which the system takes back when it needs them. Below the table stands the
slope of log(seconds) over log(size) in the upper half of the sizes: 1 is linear, n log n is about
1.1. Exit status 1: something has a slope above 1.15. Nothing else should run on the machine.

examples:
  python benchmarks/scale.py --output scale.md   # everything: 35 minutes, 15 GB of disk
  python benchmarks/scale.py leaderboard svm-images
  python benchmarks/scale.py leaderboard --sizes 1000 2000 4000
  python benchmarks/scale.py --quick   # tiny sizes, which tell only that all of it runs
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.scaling import SUBJECTS
from benchmarks.scaling.judging import judged, table_text
from benchmarks.scaling.measuring import measured_here, run_one, sweep


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "subjects", nargs="*", metavar="SUBJECT", help=f"default: all: {', '.join(SUBJECTS)}"
    )
    parser.add_argument("--sizes", nargs="+", type=int, metavar="N", help="in place of a subject's")
    parser.add_argument("--quick", action="store_true", help="tiny sizes in one process")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="the tables go there too")
    parser.add_argument(
        "--folder", type=Path, help="where input is made and removed (default: /tmp)"
    )
    parser.add_argument(
        "--one", nargs=4, metavar=("SUBJECT", "PART", "SIZE", "FOLDER"), help=argparse.SUPPRESS
    )
    return parser


def main() -> int:
    parser = build_parser()
    args = parser.parse_args()
    if args.one:
        subject, part, size, folder = args.one
        run_one(SUBJECTS[subject], part, int(size), Path(folder))
        return 0
    unknown = sorted(set(args.subjects) - SUBJECTS.keys())
    if unknown:
        parser.error(f"there is no subject {unknown[0]}; there are {', '.join(SUBJECTS)}")
    texts, sound = [machine()], True
    print(texts[0], flush=True)
    for name in args.subjects or SUBJECTS:
        subject = SUBJECTS[name]
        sizes = args.sizes or (subject.quick if args.quick else subject.sizes)
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="scale-") as folder:
            measure = measured_here if args.quick else sweep
            rows = measure(name, subject, sizes, Path(folder))
        verdicts = {} if args.quick else judged(subject, rows)
        texts.append(table_text(name, subject, rows, verdicts))
        print(texts[-1], flush=True)
        sound &= all(
            verdict.sound or not subject.parts[part].judged for part, verdict in verdicts.items()
        )
        if args.output:
            args.output.write_text("\n".join(texts))
    return 0 if sound else 1


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{os.cpu_count()} cores, {memory:.0f} GB of memory\n"


if __name__ == "__main__":
    sys.exit(main())
