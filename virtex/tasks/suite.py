"""Frozen features on many small datasets: logistic regression, nearest neighbors, low-shot.

The datasets are those of Ericsson et al. (arXiv 2011.13377) and others.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from virtex.data.layouts import missing_paths
from virtex.data.suite_sets import MEAN_AP, SUITE, SuiteSet
from virtex.errors import UserError
from virtex.tasks.registry import Task, build_protocols, register_task

if TYPE_CHECKING:
    from virtex.evaluator import Evaluator
    from virtex.protocols import Protocol
    from virtex.runner import Evaluation, Job

logger = logging.getLogger("virtex.suite")


def build_evaluator(job: Evaluation) -> Evaluator:
    """Build the evaluator that matches the settings of the protocol."""
    from virtex.probes.logistic import LogisticProbe, LowShotProbe
    from virtex.tasks.jobs import build_extractor

    entry, extractor = SUITE[job.protocol.task], build_extractor(job)
    splits = entry.read(Path(job.args.data_root))
    if "KNN" in job.settings:
        from virtex.probes.knn import NearestNeighbors

        return NearestNeighbors(splits.train, splits.test, job.settings, extractor, splits.val)
    sets = (splits.train, splits.val, splits.test, job.settings, extractor, entry.metric)
    if "LOW_SHOT" in job.settings:
        return LowShotProbe(*sets, seed=job.args.seed)
    return LogisticProbe(*sets)


def build_suite_protocols(entry: SuiteSet) -> dict[str, Protocol]:
    logistic = build_protocols(
        entry.name, entry.metric, entry.images, {"logistic": "suite_logistic"}
    )
    low_shot = build_protocols(
        entry.name, f"16-shot/{entry.metric}", entry.images, {"low-shot": "suite_low_shot"}
    )
    knn = build_protocols(entry.name, "top1", entry.images, {"knn": "suite_knn"})
    # k-NN predicts a single label
    return logistic | ({} if entry.metric == MEAN_AP else knn) | low_shot


def plan_suite(args: argparse.Namespace) -> list[Job]:
    """Plan ``frozen_suite``: a job for each dataset and protocol, each in a subfolder."""
    from virtex.tasks.jobs import plan_probe

    jobs: list[Job] = []
    for name in args.tasks:
        task = SUITE_TASKS[name]
        for short in args.protocols:
            if short in task.protocols:
                folder = Path(args.output_dir, name if short == "logistic" else f"{name}_{short}")
                protocol = task.protocol(short)
                jobs.append(plan_probe(args, task, build_evaluator, protocol, folder=folder))
    return jobs


def select_tasks(args: argparse.Namespace) -> list[str]:
    """Return the requested tasks whose data was found, and log the others.

    Raises:
        UserError: the data of all of them is missing.
    """
    found = [n for n in args.tasks if not missing_paths(args.data_root, SUITE_TASKS[n].layout)]
    if not found:
        raise UserError(
            f"--data-root {args.data_root} must contain at least one of the datasets "
            f"{', '.join(args.tasks)}, but has none; list what is missing with --dry-run",
            "data.missing",
        )
    if skipped := [name for name in args.tasks if name not in found]:
        logger.warning("skipped, because data is missing: %s", ", ".join(skipped))
    return found


def list_suite(args: argparse.Namespace) -> str:
    """Return a table of the requested datasets: sizes, and what is missing in the data root."""
    from tabulate import tabulate

    rows = []
    for name in args.tasks:
        entry = SUITE[name]
        missing = missing_paths(args.data_root, entry.layout)
        images = sum(entry.images.values()) or "unknown"
        status = "found" if not missing else f"missing {missing[0]}"
        rows.append((name, entry.num_classes, images, entry.metric, status, entry.layout.source))
    header = ("dataset", "classes", "images", "metric", "data", "source")
    return tabulate(rows, headers=header, disable_numparse=True)


SUITE_TASKS = {
    entry.name: register_task(
        Task(
            name=entry.name,
            title=entry.title,
            layout=entry.layout,
            protocols=build_suite_protocols(entry),
            build_evaluator=build_evaluator,
            read_data=entry.read,
        )
    )
    for entry in SUITE.values()
}
