"""The ``virtex`` command and what all commands share."""

import os
import signal
import subprocess
import sys

import pytest

from virtex import cli
from virtex.cli import COMMANDS, run_tool, tool_parser
from virtex.engine.signals import SigtermReceived
from virtex.errors import UserError

SLOW_IMPORTS = ("torch", "numpy", "detectron2", "sklearn", "PIL")


def run_virtex(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "virtex", *argv]
    return subprocess.run(command, capture_output=True, text=True)


def exit_of(capsys, function, *arguments):
    """Return exit status, stdout and stderr of a function that ends the program."""
    with pytest.raises(SystemExit) as caught:
        function(*arguments)
    return caught.value.code, *capsys.readouterr()


def test_help_lists_commands_without_slow_imports():
    code = (
        "import sys\nfrom virtex import cli\n"
        "try: cli.main(['--help'])\n"
        f"finally: assert not sys.modules.keys() & {set(SLOW_IMPORTS)}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, command in COMMANDS.items():
        assert any(
            line.split() == [name, *command.help.split()] for line in done.stdout.split("\n")
        )


def test_help_of_commands_imports_nothing_slow():
    code = (
        "import importlib, sys\nfrom virtex.cli import COMMANDS\n"
        "for name, command in COMMANDS.items():\n"
        "    print(importlib.import_module(command.module).build_parser().format_help())\n"
        f"    found = sys.modules.keys() & {set(SLOW_IMPORTS)}\n"
        "    assert not found, (name, found)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "python eval_tools/voc07_svm.py" in done.stdout


def test_commands_need_no_docstrings():
    code = (
        "import importlib, sys\nfrom virtex import cli\n"
        "for command in cli.COMMANDS.values():\n"
        "    print(importlib.import_module(command.module).build_parser().format_help())\n"
    )
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--list-formats" in done.stdout


def test_names_of_any_bytes_are_escaped(tmp_path):
    """Neither UTF-8 nor the locale's encoding is expected of a path."""
    names = [b"caf\xc3\xa9", b"bad\xff"]
    code = (
        "import sys\nfrom virtex.cli import run_tool, tool_parser\n"
        "from virtex.errors import UserError\n"
        "def main(args):\n    open(args.path).close()\n    print(args.path)\n"
        "    raise UserError(args.path, 'area.reason')\n"
        "parser = tool_parser('')\nparser.add_argument('path')\nrun_tool(main, parser)\n"
    )
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    for name in names:
        path = os.path.join(os.fsencode(tmp_path), name)
        open(path, "w").close()
        for locale in ({}, ascii_only):
            environment = {**os.environ, **locale}
            command = [sys.executable, "-c", code, path]
            done = subprocess.run(command, capture_output=True, env=environment)
            assert done.returncode == 2
            assert name[:3] in done.stdout and name[:3] in done.stderr
            assert b"[area.reason]" in done.stderr and b"Traceback" not in done.stderr


def test_command_and_alias_run():
    done = run_virtex("inspect", "--list-formats")
    assert done.returncode == 0, done.stderr
    assert "moco" in done.stdout
    for name in ("inspect", "inspect_checkpoint"):
        assert f"usage: virtex {name} " in run_virtex(name, "--help").stdout


def test_subcommand_usage_names_the_whole_command():
    assert "usage: virtex zoo list " in run_virtex("zoo", "list", "--help").stdout


def test_modules_name_themselves():
    command = [sys.executable, "-m", "virtex.pretrain", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "usage: python -m virtex.pretrain " in done.stdout


def test_unknown_command_suggests_one(capsys):
    status, _, err = exit_of(capsys, cli.main, ["svn"])
    assert status == 2
    assert "did you mean svm?" in err and "[arguments.invalid]" in err


def test_unknown_option_suggests_one(capsys):
    parser = tool_parser("Summary.")
    parser.add_argument("--checkpoint")
    status, _, err = exit_of(capsys, run_tool, lambda args: 0, parser, ["--chekpoint=a"])
    assert status == 2
    assert "--chekpoint=a; did you mean --checkpoint? [arguments.invalid]" in err


@pytest.mark.parametrize(
    "error, status, code",
    [
        (UserError("message", "area.reason"), 2, "[area.reason]"),
        (SigtermReceived("saved at 3"), 75, "saved at 3"),
        (KeyboardInterrupt(), 130, "--resume"),
        (MemoryError(), 2, "[device.out_of_memory]"),
        (OSError(28, "No space left", "file"), 2, "[environment.os_error]"),
        (BrokenPipeError(32, "Broken pipe"), 2, "[environment.os_error]"),  # not of our output
    ],
)
def test_exit_status_of_errors(capsys, error, status, code):
    def fail(args):
        raise error

    handler = signal.getsignal(signal.SIGTERM)
    parser = tool_parser("Summary.")
    parser.add_argument("--resume", action="store_true")
    try:
        found, _, err = exit_of(capsys, run_tool, fail, parser, [])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert found == status
    assert code in err


PRINTING = """
import sys
from pathlib import Path
from virtex.cli import run_tool, tool_parser
from virtex.errors import UserError

def main(args):
    for number in range(20_000):
        print(f"line {number}")
        print(f"line {number}", file=sys.stderr, flush=True)
    Path(args.out).write_text("done")
    if args.out.endswith("invalid"):
        raise UserError("message", "area.reason")

parser = tool_parser("Summary.")
parser.add_argument("out")
run_tool(main, parser)
"""


@pytest.mark.parametrize(
    "redirection, name, status, unbuffered",
    [
        ("2>&1 | head -1", "out", 0, ""),
        ("2>&1 | head -1", "invalid", 2, "1"),
        (">&- 2>&-", "invalid", 2, ""),
    ],
)
def test_closed_output_does_not_end_the_work(tmp_path, redirection, name, status, unbuffered):
    out = tmp_path / name
    script = f'set -o pipefail; "$0" -c "$1" "$2" {redirection}'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, PRINTING, str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert done.returncode == status
    assert out.read_text() == "done"
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_empty_value_is_refused(capsys):
    parser = tool_parser("Summary.")
    parser.add_argument("--output-dir")
    parser.add_argument("overrides", nargs="*")
    for argv in (["--output-dir", ""], ["--output-dir="]):
        status, _, err = exit_of(capsys, run_tool, lambda args: 0, parser, argv)
        assert status == 2
        assert "--output-dir" in err and "[arguments.invalid]" in err
    assert exit_of(capsys, run_tool, lambda args: 0, parser, ["KEY", ""])[0] == 0


def test_output_folder_must_be_utf8(capsys):
    parser = tool_parser("Summary.")
    parser.add_argument("--output-dir")
    argv = ["--output-dir", os.fsdecode(b"bad\xff")]
    status, _, err = exit_of(capsys, run_tool, lambda args: 0, parser, argv)
    assert status == 2 and "[arguments.output_dir]" in err


@pytest.mark.parametrize(
    "kind, valid, invalid",
    [
        (cli.non_negative_int, "0", ("-1", "1.5", "")),
        (cli.positive_int, "1", ("0", "x")),
        (cli.positive_float, "0.5", ("0", "nan", "inf")),
        (cli.fraction, "1", ("0", "1.1")),
        (cli.int_list, "2,1", ("0,1", "1,,2")),
    ],
)
def test_argument_types(kind, valid, invalid):
    assert kind(valid) == ((1, 2) if kind is cli.int_list else float(valid))
    for text in invalid:
        with pytest.raises(cli.argparse.ArgumentTypeError):
            kind(text)
