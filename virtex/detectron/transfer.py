"""The main job: a pretrained backbone into a detector, trained, scored and recorded."""

import argparse
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from virtex import run_folder
from virtex.checkpoints.inputs import saved_input
from virtex.detectron.checkpointing import load_detector
from virtex.detectron.compat import local_process_group
from virtex.detectron.datasets import DETECTION_SETS
from virtex.detectron.evaluation import evaluate
from virtex.detectron.gallery import write_gallery
from virtex.detectron.install import installed
from virtex.detectron.run import Run, prepare
from virtex.detectron.scoring import default_scorer
from virtex.detectron.trainer import Trainer, write_scores
from virtex.engine.checkpoints import last_checkpoint
from virtex.engine.distributed import is_main, launch
from virtex.engine.progress import LogFile
from virtex.errors import UserError
from virtex.files import replace_file, sha256_of
from virtex.records import RECORD_NAME, Deviation, Result, environment, read_record

logger = logging.getLogger("virtex.transfer")
# what an evaluation does not depend on
EVAL_ONLY_IGNORED = (
    *("processes", "skip_bad_images", "overrides.SOLVER.", "overrides.DATALOADER.", "data."),
)
LOGGERS = ("fvcore", "detectron2", "virtex")


def main(args: argparse.Namespace) -> int:
    """Run what the command line asks for, in as many processes as it asks for.

    Returns:
        the exit status.

    Raises:
        UserError: something the user must fix; nothing is written then.
    """
    with run_folder.claim_folder(
        Path(args.output_dir),
        args.resume or args.eval_only,
        args.overwrite,
        run_folder.list_inputs(args),
        is_main(args),
    ):
        return launch(transfer, args)


def transfer(args: argparse.Namespace) -> None:
    """One process of the job."""
    with local_process_group():
        run_transfer(args)


def run_transfer(args: argparse.Namespace) -> None:
    """Prepare, train, evaluate, record."""
    started = time.perf_counter()
    for name in LOGGERS:
        setup_logger(distributed_rank=comm.get_rank(), name=name)
    run, folder = prepare(args), Path(args.output_dir)
    if args.eval_only:
        evaluate_trained(run, folder, args.weights)
        return
    if not args.overwrite:
        run_folder.check_same_run(folder, run.identity())
    if args.resume and (folder / RECORD_NAME).is_file():
        logger.info("this run is finished; its record:")
        if comm.is_main_process():
            print_summary(read_record(folder / RECORD_NAME), folder)
        return
    open_folder(run, folder, args.overwrite)
    timing = {"prepare_seconds": time.perf_counter() - started, **train(run, args)}
    finish(run, folder, timing, run.deviations(), trained=True)


def evaluate_trained(run: Run, folder: Path, weights: str | None) -> None:
    """Score the newest checkpoint of the run in ``folder``, or a detector from elsewhere.

    The record of an unfinished run goes to a folder of its own, so that it cannot stand for
    the finished one.

    Raises:
        UserError: there are no weights, or they are of another detector; nothing is written.
    """
    started = run_folder.read_run_file(folder)
    if weights:
        if started is not None:
            raise UserError(f"{folder} holds a run; give --weights another --output-dir")
        deviations = [*run.deviations(), from_elsewhere(run, Path(weights))]
        open_folder(run, folder, overwrite=False, identity=False)
        finish(run, folder, {}, deviations)
        return
    path = last_checkpoint(folder)
    if started is None or path is None:
        raise UserError(f"{folder} holds no checkpoint to evaluate; train first, or use --weights")
    run_folder.check_same_run(folder, run.identity(), EVAL_ONLY_IGNORED)
    content = load_detector(run.detector, path)
    logger.info("evaluating %s", path)
    done, wanted = content["iteration"] + 1, run.cfg.SOLVER.MAX_ITER
    deviations = [Deviation(**d) for d in started["deviations"]]
    run.data |= started["identity"]["data"]
    if done != wanted:
        deviations.append(Deviation("iterations trained", wanted, done, "override"))
        folder = folder / f"evaluation_{done:07d}"
        folder.mkdir(exist_ok=True)
    finish(run, folder, train_timing(run, content["stopwatch"]["seconds"], done), deviations)


def from_elsewhere(run: Run, path: Path) -> Deviation:
    """Fill the detector from ``path`` and say which weights those are."""
    load_detector(run.detector, path)
    logger.info("evaluating %s", path)
    return Deviation("weights sha256", "trained by this run", sha256_of(path), "override")


def open_folder(run: Run, folder: Path, overwrite: bool, identity: bool = True) -> None:
    """From here on the run writes: what it was started with, configuration, log."""
    comm.synchronize()  # the others may still be looking at what the folder holds
    if comm.is_main_process():
        if overwrite:
            run_folder.clear(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if identity and not (folder / run_folder.RUN_FILE).exists():
                run_folder.write_run_file(
                    folder, run.identity(), deviations=[asdict(d) for d in run.deviations()]
                )
            replace_file(folder / "config.yaml", lambda file: file.write(run.cfg.dump().encode()))
        except OSError as error:
            raise UserError(
                f"--output-dir {folder} cannot be written ({error.strerror or error}); make room "
                "there, or name another"
            ) from error
    comm.synchronize()
    for name in LOGGERS:
        add_log_file(logging.getLogger(name), folder)
    logger.info("Environment: %s", json.dumps({**environment(), **setup_of(run)}, indent=1))
    logger.info("Backbone: %s", json.dumps(run.backbone.record(), indent=1))
    logger.info("Verified: %s", json.dumps(run.verification))
    for sentence in run.settings.notes:
        logger.warning(sentence)
    log_deviations(run.deviations())


def add_log_file(target: logging.Logger, folder: Path) -> None:
    """Log to ``folder/log.txt`` too, each process to its own file, as Detectron2 does."""
    rank = comm.get_rank()
    path = folder / ("log.txt" if rank == 0 else f"log.txt.rank{rank}")
    for handler in [h for h in target.handlers if isinstance(h, logging.FileHandler)]:
        target.removeHandler(handler)
        handler.close()
    handler = LogFile(path)
    handler.setFormatter(
        logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S")
    )
    target.addHandler(handler)


def train(run: Run, args: argparse.Namespace) -> dict[str, float]:
    """Train to the end, from the newest checkpoint with ``--resume``. Returns the timing."""
    trainer = Trainer(
        run.cfg,
        run.detector,
        run.train,
        skip_bad_images=args.skip_bad_images,
        evaluate=lambda: evaluate(run.cfg, run.detector, run.test, None),
        extra=saved_input(run.backbone),
    )
    if args.resume:
        logger.info("resuming after iteration %d", trainer.resume())
    trainer.train()
    return train_timing(run, trainer.stopwatch.seconds(), trainer.max_iter)


def train_timing(run: Run, seconds: float, iterations: int) -> dict[str, float]:
    images = run.cfg.SOLVER.IMS_PER_BATCH * iterations
    return {"train_seconds": seconds, "train_images_per_second": images / max(seconds, 1e-9)}


def finish(
    run: Run,
    folder: Path,
    timing: dict[str, float],
    deviations: list[Deviation],
    trained: bool = False,
) -> None:
    """Score, draw the gallery, write the record and print where everything is.

    Args:
        trained: just now, so that the scores end the curves of the training.
    """
    start = time.perf_counter()
    metrics = evaluate(run.cfg, run.detector, run.test, folder)
    seconds = time.perf_counter() - start
    if not comm.is_main_process():
        return
    images = sum(len(samples) for samples in run.test.values())
    timing |= {"evaluate_seconds": seconds, "evaluate_images_per_second": images / seconds}
    result = build_result(run, metrics, timing, deviations)
    for name, samples in run.test.items():
        write_gallery(run.cfg, run.detector, name, samples, folder / run_folder.GALLERY)
    if trained:
        write_scores(folder, run.cfg.SOLVER.MAX_ITER, metrics)
    result.write(folder)  # the last, for it says that the run is finished
    print_summary(result.record(), folder)


def build_result(
    run: Run, metrics: dict[str, float], timing: dict[str, float], deviations: list[Deviation]
) -> Result:
    entry = DETECTION_SETS.get(run.cfg.DATASETS.TEST[0])
    return Result(
        task=entry.task if entry else run.protocol.task,
        protocol={"name": run.protocol.name, "version": run.protocol.version},
        deviations=deviations,
        metrics=metrics,
        primary_metric=next(m for m in metrics if m.endswith(run.protocol.primary_metric)),
        model=run.backbone.record(),
        seed=run.cfg.SEED,
        timing={name: round(value, 3) for name, value in timing.items()},
        data=run.data,
        verification=run.verification,
        setup=setup_of(run),
        notes=run.settings.notes,
    )


def setup_of(run: Run) -> dict[str, Any]:
    """What ran the evaluation."""
    found = installed()
    return {
        "detectron2": found and {"version": found.version, "distribution": found.kind},
        "device": run.cfg.MODEL.DEVICE,
        "processes": comm.get_world_size(),
        "scorer": default_scorer(),
    }


def log_deviations(deviations: list[Deviation]) -> None:
    """Say at the start how this run differs from its protocol."""
    if deviations:
        rows = [(d.key, d.protocol, d.run, d.reason) for d in deviations]
        heads = ["setting", "protocol", "this run", "reason"]
        table = tabulate(rows, headers=heads, disable_numparse=True)
        logger.warning("This run deviates from its protocol:\n%s", table)


def print_summary(record: dict[str, Any], folder: Path) -> None:
    """The table of scores, and where everything is."""
    protocol, metrics = record["protocol"], record["metrics"]
    print(f"\n{record['model']['name']}: {record['task']}, protocol {protocol['name']}")
    kinds = sorted({name.rpartition("/")[0] for name in metrics})
    names = list(dict.fromkeys(name.rpartition("/")[2] for name in metrics))
    rows = [[kind, *(metrics.get(f"{kind}/{name}") for name in names)] for kind in kinds]
    print(tabulate(rows, headers=["", *names], floatfmt=".2f", missingval="-"))
    print(f"deviations from the protocol: {len(protocol['overrides'])}")
    print(f"gallery: {folder / run_folder.GALLERY}")
    print(f"record:  {folder / RECORD_NAME}", flush=True)
