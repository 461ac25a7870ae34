"""The ``virtex`` command, and what all commands share: arguments, errors, exit statuses.

A command is a module with ``build_parser()``, ``main(args)`` and, to be run by itself,
``run_tool(main, build_parser())``. It imports what is slow to import inside ``main``, so that
``--help`` is fast.
"""

import argparse
import difflib
import importlib
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, NoReturn

import virtex
from virtex.engine.signals import (
    RESUME,
    SigtermReceived,
    kill_workers,
    protect_output,
    raise_on_sigterm,
)
from virtex.errors import UserError, describe_os_error, ignore_reported_errors, set_error_path
from virtex.text import is_encodable, printable, redact


class Command(NamedTuple):
    module: str
    help: str


COMMANDS = {
    "transfer": Command("virtex.eval_tools.detectron2_transfer", "train and score a detector"),
    "predict": Command("virtex.eval_tools.predict", "run a trained detector on any images"),
    "svm": Command("virtex.eval_tools.voc07_svm", "evaluate on VOC07 with linear SVMs"),
    "linear": Command(
        "virtex.eval_tools.imagenet_linear", "train a linear probe, or use k-nearest neighbors"
    ),
    "suite": Command("virtex.eval_tools.frozen_suite", "evaluate frozen features on many datasets"),
    "finetune": Command(
        "virtex.eval_tools.inaturalist_finetune", "fine-tune a classifier end to end"
    ),
    "probe": Command("virtex.eval_tools.probe", "evaluate on a task registered by a plugin"),
    "captioning": Command(
        "virtex.eval_tools.coco_captioning", "caption images and score the captions"
    ),
    "evaluate-all": Command(
        "virtex.eval_tools.evaluate_all", "evaluate many checkpoints on many tasks"
    ),
    "leaderboard": Command("virtex.eval_tools.leaderboard", "collect results in a leaderboard"),
    "inspect": Command("virtex.eval_tools.inspect_checkpoint", "show what a checkpoint contains"),
    "zoo": Command("virtex.eval_tools.model_zoo", "list and download pretrained models"),
    "check-data": Command("virtex.eval_tools.check_data", "check the datasets below a data root"),
    "toy-data": Command("virtex.eval_tools.make_toy_data", "generate small datasets"),
    "pretrain": Command("virtex.pretrain", "pretrain a backbone with captions"),
    "tokenizer": Command("virtex.data.tokenizer", "train a tokenizer on captions"),
    "doctor": Command("virtex.doctor", "report the environment and check the installation"),
}
# The module names are aliases: ``virtex voc07_svm`` is ``virtex svm``.
ALIASES = {command.module.rpartition(".")[2]: name for name, command in COMMANDS.items()}

CHECKPOINT = (
    "file, https://…, virtex://NAME, timm://NAME, hf://ORG/REPO, torchvision://NAME or "
    "random:NAME?seed=N"
)


class ToolParser(argparse.ArgumentParser):
    """A parser whose errors suggest the option that a misspelled one resembles."""

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        # as of an unset shell variable; a path would mean the current folder
        if not arg_string and action.dest not in ("overrides", "arguments"):
            raise argparse.ArgumentError(action, "expected a value, but it is empty")
        return super()._get_value(action, arg_string)

    def error(self, message: str) -> NoReturn:
        words = re.findall(r"--[\w-]+", message) if "unrecognized arguments" in message else []
        close = [suggest(word, self._option_string_actions) for word in words]
        super().error(f"{redact(message)}{''.join(close)} [arguments.invalid]")


def suggest(word: str, choices: Sequence[str] | dict[str, argparse.Action]) -> str:
    """Return "; did you mean …?" for the closest of the choices, "" if none is close."""
    close = difflib.get_close_matches(word, choices, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def tool_parser(doc: str | None, cls: type[ToolParser] = ToolParser) -> ToolParser:
    """Return a parser whose ``--help`` is the module's docstring (``doc``), examples included.

    ``python -OO`` has no docstrings: there, ``--help`` lists the options only.
    """
    summary, _, rest = (doc or "").strip().partition("\n\n")
    return cls(
        prog=program_name(),
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def program_name() -> str:
    """Return how the program was started: ``virtex svm``, ``voc07_svm.py``, ``python -m …``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.name.startswith("virtex.") and sys.argv[0] == spec.origin:
        return f"python -m {spec.name}"
    return os.path.basename(sys.argv[0])


def add_zoo_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--zoo``: further zoo files, which ``run_tool`` puts into the environment."""
    parser.add_argument(
        "--zoo",
        action="append",
        default=[],
        metavar="FILE",
        help="additional zoo file for virtex://NAME, as in $VIRTEX_ZOO; repeatable",
    )


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--format``, ``--trust-pickle`` and ``--zoo``."""
    parser.add_argument(
        "--format",
        default="auto",
        metavar="NAME",
        help="checkpoint format (default: auto, detect it)",
    )
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="unpickle arbitrary objects, which can execute code; only for trusted files",
    )
    add_zoo_argument(parser)


def add_probe_arguments(parser: argparse.ArgumentParser, output: str) -> None:
    """Add the options that every probe has.

    Args:
        output: the default ``--output-dir``.
    """
    parser.add_argument("--checkpoint", help=CHECKPOINT)
    add_checkpoint_arguments(parser)
    parser.add_argument("--data-root", default="datasets", metavar="DIR", help="default: datasets")
    parser.add_argument("--output-dir", default=output, metavar="DIR", help=f"default: {output}")
    parser.add_argument("--seed", type=non_negative_int, default=0, metavar="N", help="default: 0")
    add_num_workers(parser)
    add_run_arguments(parser)
    # for probes without these options
    parser.set_defaults(list_cache=False, skip_bad_images=False)


def add_num_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num-workers",
        type=non_negative_int,
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="data loading processes per GPU (default: 4, at most the number of cores)",
    )


def add_feature_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of feature extraction and its cache."""
    features = parser.add_argument_group("features")
    features.add_argument(
        "--batch-size",
        type=positive_int,
        default=64,
        metavar="N",
        help="images per process and batch; halved if memory runs out (default: 64)",
    )
    features.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="cache of features, shared by all probes (default: $VIRTEX_FEATURE_CACHE, or "
        "virtex/features in iopath's cache)",
    )
    features.add_argument(
        "--cache-limit",
        type=positive_float,
        default=100.0,
        metavar="GB",
        help="size above which the least recently used features are deleted (default: 100)",
    )
    features.add_argument("--list-cache", action="store_true", help="list its content and exit")


def add_classifier_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a classifier's training."""
    training = parser.add_argument_group("training")
    training.add_argument(
        "--checkpoint-every",
        type=positive_int,
        default=5000,
        metavar="N",
        help="iterations between checkpoints and validations (default: 5000)",
    )
    training.add_argument(
        "--log-every", type=positive_int, default=20, metavar="N", help="default: 20"
    )
    add_skip_bad_images(training)


def add_skip_bad_images(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--skip-bad-images",
        action="store_true",
        help="skip images that cannot be read; each is logged",
    )


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--skip-bad-images`` and the options of ``add_run_arguments``."""
    add_skip_bad_images(parser)
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume``, ``--overwrite``, the distributed options and ``KEY VALUE``."""
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument("--resume", action="store_true", help="continue the run in --output-dir")
    folder.add_argument(
        "--overwrite", action="store_true", help="delete and replace the run in --output-dir"
    )
    machines = parser.add_argument_group("distributed")
    machines.add_argument(
        "--num-gpus",
        type=non_negative_int,
        metavar="N",
        help="GPUs of this machine; 0: CPU (default: all)",
    )
    machines.add_argument("--num-machines", type=int, default=1, metavar="N")
    machines.add_argument(
        "--machine-rank", type=int, default=0, metavar="N", help="rank of this machine"
    )
    machines.add_argument("--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config overrides")


def non_negative_int(text: str) -> int:
    """Argument type: an integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 0")
    return int(text)


def positive_int(text: str) -> int:
    """Argument type: an integer of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


def positive_float(text: str) -> float:
    """Argument type: a finite number greater than 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return value


def fraction(text: str) -> float:
    """Argument type: a number in (0, 1]."""
    value = positive_float(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0 and at most 1")
    return value


def int_list(text: str) -> tuple[int, ...]:
    """Argument type: integers of at least 1, as in 1,2,4,8; sorted, without duplicates."""
    return tuple(sorted({positive_int(part) for part in text.split(",")}))


def use_zoo_files(paths: Sequence[str]) -> None:
    """Add zoo files to ``$VIRTEX_ZOO``, which child processes inherit."""
    for path in paths:
        if os.pathsep in path:
            raise UserError(
                f"--zoo {path}: expected a path without {os.pathsep!r}; rename it",
                "arguments.zoo",
            )
    if paths:
        known = filter(None, [os.environ.get("VIRTEX_ZOO")])
        os.environ["VIRTEX_ZOO"] = os.pathsep.join([*known, *map(os.path.abspath, paths)])


def run_tool(
    main: Callable[[argparse.Namespace], int | None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Parse the arguments, run ``main``, and exit.

    Exit status 0: success. 2: invalid input. 75: stopped by SIGTERM, to be continued with
    ``--resume``. 130: interrupted by Ctrl-C. 143: ended by SIGTERM, nothing to resume.
    """
    protect_output()
    if any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
        args = parser.parse_args(argv)  # subcommands exclude intermixed arguments
    else:
        args = parser.parse_intermixed_args(argv)  # KEY VALUE pairs between options
    threading.excepthook = ignore_reported_errors
    if hasattr(sys.stdout, "reconfigure"):  # file names may not be valid text
        sys.stdout.reconfigure(errors="backslashreplace")
    can_resume = hasattr(args, "resume")
    try:
        use_zoo_files(getattr(args, "zoo", []))
        if not is_encodable(str(getattr(args, "output_dir", ""))):  # TensorBoard cannot write there
            raise UserError(
                f"--output-dir {args.output_dir}: expected a name in UTF-8; choose another one, or "
                "set PYTHONUTF8=1 if the locale is not UTF-8",
                "arguments.output_dir",
            )
        with raise_on_sigterm() if can_resume else nullcontext():
            status = main(args)
        with set_error_path("standard output"):
            sys.stdout.flush()
    except UserError as error:
        print(f"{parser.prog}: error: {printable(str(error))} [{error.code}]", file=sys.stderr)
        status = 2
    except SigtermReceived as stopped:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # scheduler and launcher may both send it
        print(f"{parser.prog}: {stopped}", file=sys.stderr)
        status = RESUME
    except KeyboardInterrupt:
        fix = "; --resume continues from the last checkpoint, if any" if can_resume else ""
        print(f"{parser.prog}: interrupted{fix}", file=sys.stderr)
        status = 130
    except MemoryError:
        fix = "reduce the batch size and --resume" if can_resume else "close other programs"
        print(f"{parser.prog}: error: out of memory; {fix} [device.out_of_memory]", file=sys.stderr)
        status = 2
    except OSError as error:
        if (sentence := describe_os_error(error)) is None:
            raise
        print(f"{parser.prog}: error: {sentence} [environment.os_error]", file=sys.stderr)
        status = 2
        try:
            sys.stdout.flush()
        except OSError:  # on a full disk, the interpreter would fail to flush again at exit
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    kill_workers()
    sys.exit(status or 0)


def command_table() -> str:
    """Return the commands, one a line."""
    lines = [f"  {name:13} {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["commands:", *lines, "", "Run virtex COMMAND --help for its options."])


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``virtex COMMAND …``; imports only the module of that command."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = ToolParser(
        prog="virtex",
        usage="virtex [-h] [--version] COMMAND ...",
        description="Evaluate pretrained visual backbones on downstream tasks.",
        epilog=command_table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"virtex {virtex.__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of the commands below")
    name = parser.parse_args(argv[:1]).command
    command = COMMANDS.get(ALIASES.get(name, name))
    if command is None:
        parser.error(f"unknown command {name!r}{suggest(name, [*COMMANDS, *ALIASES])}")
    sys.argv = [f"virtex {name}", *argv[1:]]  # argparse takes the program name from here
    tool = importlib.import_module(command.module)
    run_tool(tool.main, tool.build_parser())
