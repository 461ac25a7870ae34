"""Check the command lines of the documentation against the tools' parsers, without running them."""

import argparse
import contextlib
import importlib
import io
import re
import shlex
from types import ModuleType

from tests.documentation.markdown_pages import ROOT
from virtex import zoo
from virtex.errors import UserError

HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?(.*?)\n.*?\n\1\n", re.DOTALL)
LOOP = re.compile(r"\bfor (\w+) in (.*?);\s*do\b(.*?)\bdone\b", re.DOTALL)
ASSIGNMENT = re.compile(r"\w+=.*", re.DOTALL)


class InvalidCommand(Exception):
    """A command that the tool would reject."""


def check_shell(text: str) -> None:
    """Check every command of a block that runs a tool of this repository.

    Raises:
        InvalidCommand: the first that is not valid.
    """
    text = HEREDOC.sub(r"\2\n", text).replace("\\\n", " ")
    text = LOOP.sub(unroll, text)
    for command in re.split(r"[;\n|]|&&", text):
        words = shlex.split(re.split(r"\s\d?>", command)[0], comments=True)
        while words and (ASSIGNMENT.fullmatch(words[0]) or words[0] in ("srun", "time")):
            words.pop(0)
            while words and words[0].startswith("--"):
                words.pop(0)
        if words:
            check_command(words)


def unroll(loop: re.Match[str]) -> str:
    """Repeat the body of a loop for each value of its variable."""
    name, values, body = loop.groups()
    return "\n".join(body.replace(f"${name}", value) for value in values.split())


def check_command(words: list[str]) -> None:
    program, arguments = words[0].rpartition("/")[2], words[1:]
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        unknown = [w for w in arguments if w not in targets and not ASSIGNMENT.fullmatch(w)]
        if unknown:
            raise InvalidCommand(f"the Makefile has no target {unknown[0]}")
    if program == "torchrun":
        while arguments and arguments[0].startswith("--"):
            arguments = arguments[
                1 if "=" in arguments[0] or arguments[0] == "--standalone" else 2 :
            ]
        program = "python"
    if program == "python" and arguments[:1] == ["-m"]:
        if arguments[1].startswith("virtex."):
            check_tool(arguments[1], arguments[2:])
    elif (
        program == "python" and arguments and arguments[0].startswith(("eval_tools", "benchmarks"))
    ):
        if not (ROOT / arguments[0]).is_file():
            raise InvalidCommand(f"{arguments[0]} does not exist")
        module = arguments[0].removesuffix(".py").replace("/", ".")
        check_tool(module.replace("eval_tools", "virtex.eval_tools"), arguments[1:])


def check_tool(name: str, words: list[str]) -> None:
    """Parse the arguments with the tool's parser, and look up the names of models."""
    try:
        module = importlib.import_module(name)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{name}.__main__")
    except ModuleNotFoundError as error:
        raise InvalidCommand(f"python -m {name}: {error}") from error
    if hasattr(module, "build_parser"):
        parse(module, words)
    for word in words:
        if word.startswith("virtex://"):
            try:
                zoo.find(word.removeprefix("virtex://"))
            except UserError as error:
                raise InvalidCommand(str(error)) from error


def parse(module: ModuleType, words: list[str]) -> argparse.Namespace:
    parser, printed = module.build_parser(), io.StringIO()
    has_commands = parser._subparsers is not None
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            return parser.parse_args(words) if has_commands else parser.parse_intermixed_args(words)
    except SystemExit as error:
        if error.code:
            line = f"{module.__name__} {shlex.join(words)}"
            raise InvalidCommand(f"{line}: {printed.getvalue()}") from error
        return argparse.Namespace()
