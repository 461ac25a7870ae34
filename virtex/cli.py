"""What every command-line tool does the same way.

A tool reads top to bottom: ``build_parser``, then ``main(args)``, then
``run_tool(main, build_parser())``. Heavy imports belong inside ``main``, so that
``--help`` answers at once.
"""

import argparse
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from virtex.data.listing import shown
from virtex.engine.signals import RESUME, SigtermReceived, end_workers, raise_on_sigterm
from virtex.errors import UserError, describe_os_error, ignore_reported_errors, named

CHECKPOINT = "file, https://…, virtex://NAME, torchvision://NAME or random:NAME?seed=N"


def tool_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose ``--help`` is the tool's docstring (``doc``), examples included."""
    summary, _, rest = doc.strip().partition("\n\n")
    return argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_zoo_argument(parser: argparse.ArgumentParser) -> None:
    """``--zoo``: model zoo files of one's own, which ``run_tool`` puts into the environment."""
    parser.add_argument(
        "--zoo",
        action="append",
        default=[],
        metavar="FILE",
        help="another file like model_zoo.yaml, for virtex://NAME (as $VIRTEX_ZOO; repeatable)",
    )


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """``--format`` and ``--trust-pickle``: how a checkpoint file is to be read; ``--zoo``."""
    parser.add_argument(
        "--format",
        default="auto",
        metavar="NAME",
        help="checkpoint format; auto recognizes it (default: auto)",
    )
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="allow the file to run code while it is unpickled; only for files you trust",
    )
    add_zoo_argument(parser)


def add_probe_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """What every probe needs: checkpoint, protocol, data, output, seed, workers, the run.

    Args:
        output: the default of ``--output-dir``.
    """
    parser.add_argument("--checkpoint", help=CHECKPOINT)
    add_checkpoint_arguments(parser)
    parser.add_argument("--data-root", default="datasets", metavar="DIR", help="default: datasets")
    parser.add_argument("--output-dir", default=output, metavar="DIR", help=f"default: {output}")
    parser.add_argument("--seed", type=non_negative, default=0, metavar="N", help="default: 0")
    add_num_workers(parser)
    add_run_arguments(parser)
    # of the flags below, which not every probe has
    parser.set_defaults(list_cache=False, skip_bad_images=False)


def add_num_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-workers",
        type=non_negative,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="processes that load images, for each GPU (default: 4, at most the number of cores)",
    )


def add_feature_arguments(parser: argparse.ArgumentParser) -> None:
    """How features are computed, and where they are kept."""
    features = parser.add_argument_group("features")
    features.add_argument(
        "--batch-size",
        type=positive,
        default=64,
        metavar="N",
        help="images at once in each process; halved where memory runs out (default: 64)",
    )
    features.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="features that are computed once and shared by all probes (default: "
        "$VIRTEX_FEATURE_CACHE, or virtex/features in iopath's cache)",
    )
    features.add_argument(
        "--cache-limit",
        type=above_zero,
        default=100.0,
        metavar="GB",
        help="the longest unused features are dropped beyond it (default: 100)",
    )
    features.add_argument("--list-cache", action="store_true", help="show what it holds, and stop")


def add_classifier_training_arguments(parser: argparse.ArgumentParser) -> None:
    """How a linear layer's training is saved, logged and kept going."""
    training = parser.add_argument_group("training")
    training.add_argument(
        "--checkpoint-every",
        type=positive,
        default=5000,
        metavar="N",
        help="iterations between checkpoints, each validated; the last always is (default: 5000)",
    )
    training.add_argument("--log-every", type=positive, default=20, metavar="N", help="default: 20")
    add_skip_bad_images(training)


def add_skip_bad_images(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--skip-bad-images",
        action="store_true",
        help="train on without images that cannot be read (each is named in the log)",
    )


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """``--skip-bad-images`` and what ``add_run_arguments`` adds."""
    add_skip_bad_images(parser)
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """``--resume``, ``--overwrite``, the machines, ``KEY VALUE``."""
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument("--resume", action="store_true", help="continue the run in --output-dir")
    folder.add_argument("--overwrite", action="store_true", help="replace the run there")
    machines = parser.add_argument_group("machines")
    machines.add_argument(
        "--num-gpus", type=non_negative, metavar="N", help="on this machine; 0: CPU (default: all)"
    )
    machines.add_argument("--num-machines", type=int, default=1, metavar="N")
    machines.add_argument("--machine-rank", type=int, default=0, metavar="N", help="of this one")
    machines.add_argument("--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="settings, written as in the config"
    )


def non_negative(text: str) -> int:
    """An argument that is a whole number of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def positive(text: str) -> int:
    """An argument that is a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def above_zero(text: str) -> float:
    """An argument that is a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def share(text: str) -> float:
    """An argument that is a number above 0 and at most 1."""
    value = above_zero(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return value


def integer_list(text: str) -> tuple[int, ...]:
    """An argument such as 1,2,4,8: whole numbers above 0, each once, ascending."""
    return tuple(sorted({positive(part) for part in text.split(",")}))


def use_zoo_files(paths: Sequence[str]) -> None:
    """Add zoo files to the environment, for every process that this one starts."""
    for path in paths:
        if os.pathsep in path:
            raise UserError(f"--zoo {path}: a path with {os.pathsep!r} in it cannot be named")
    if paths:
        there = os.environ.get("VIRTEX_ZOO", "")
        whole = [there] if there else []
        os.environ["VIRTEX_ZOO"] = os.pathsep.join([*whole, *map(os.path.abspath, paths)])


def run_tool(
    main: Callable[[argparse.Namespace], int | None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
    commands: bool = False,
) -> None:
    """Parse, run, and leave with an exit status.

    0: done. 2: the user must fix something. 75: stopped by SIGTERM, and ``--resume`` goes on.
    130: interrupted by Ctrl-C. 143: ended by SIGTERM, where nothing can be resumed.

    Args:
        commands: the parser has subcommands, between whose flags nothing can stand anywhere.
    """
    # KEY VALUE pairs may stand anywhere between the flags
    args = parser.parse_args(argv) if commands else parser.parse_intermixed_args(argv)
    threading.excepthook = ignore_reported_errors
    if hasattr(sys.stdout, "reconfigure"):  # a file's name may hold what is no character
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        use_zoo_files(getattr(args, "zoo", []))
        with raise_on_sigterm() if hasattr(args, "resume") else nullcontext():
            status = main(args)
        with named("standard output"):
            sys.stdout.flush()
    except UserError as error:
        print(f"{parser.prog}: error: {shown(str(error))} [{error.code}]", file=sys.stderr)
        status = 2
    except SigtermReceived as stopped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may come from a cluster and a launcher
        print(f"{parser.prog}: {stopped}", file=sys.stderr)
        status = RESUME
    except KeyboardInterrupt:
        remedy = "; --resume goes on from what is saved" if hasattr(args, "resume") else ""
        print(f"{parser.prog}: interrupted{remedy}", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        sys.stderr.close()
        status = 0
    except MemoryError:
        remedy = "use smaller batches, then go on with --resume"
        remedy = remedy if hasattr(args, "resume") else "close other programs"
        print(f"{parser.prog}: error: memory ran out; {remedy}", file=sys.stderr)
        status = 2
    except OSError as error:
        if (sentence := describe_os_error(error)) is None:
            raise
        print(f"{parser.prog}: error: {sentence}", file=sys.stderr)
        status = 2
        try:
            sys.stdout.flush()
        except OSError:  # else Python complains, after the end, of what a full disk did not take
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    end_workers()
    sys.exit(status or 0)
