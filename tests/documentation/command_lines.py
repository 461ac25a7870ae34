"""Command lines of the documentation, understood without running them.

What stands in a block that needs full data is still checked: by the real parser of the tool, by
the tool's settings, by the zoo's names and by the targets of the Makefile.
"""

import contextlib
import importlib
import importlib.util
import io
import itertools
import re
import shlex
from pathlib import Path
from types import ModuleType

from tests.documentation.markdown_pages import ROOT
from virtex import zoo
from virtex.config import find_config, load_config
from virtex.errors import UserError
from virtex.evaluate_all.tasks import TASKS, choose_tasks

HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?(.*?)\n.*?\n\1\n", re.DOTALL)
PUNCTUATION = "();<>|&"
ASSIGNMENT = re.compile(r"\w+=.*", re.DOTALL)
KEYWORDS = ("do", "done", "then", "else", "fi", "if", "while", "time", "exec", "!")
# Commands of a shell and of others' programs, whose arguments are theirs to check.
OTHERS = (
    *("cat", "cd", "cp", "curl", "echo", "export", "head", "java", "ln", "ls", "mkdir", "mv"),
    *("rm", "tar", "unzip", "wget", "source", "git", "pip", "uv", "apt-get", "tensorboard"),
    *("sbatch", "srun", "squeue", "scontrol", "test", "set", "sed", "grep", "python3"),
)
OTHER_MODULES = ("pip", "venv", "pytest", "pycocoevalcap.spice.get_stanford_models", "torch")
# torchrun's own flags that take no value
TORCHRUN_ALONE = ("--standalone", "--no-python")


class Wrong(Exception):
    """What is wrong with a command line."""


def check_shell(text: str) -> None:
    """Check every command of a block.

    Raises:
        Wrong: naming the first that cannot be.
    """
    for words in commands(text):
        check_command(words)


def commands(text: str) -> list[list[str]]:
    """The simple commands of a block; one in a loop once for each value of the loop's variable."""
    text = HEREDOC.sub(r"\2\n", text).replace("\\\n", " ")
    found, loops = [], {}
    for line in text.splitlines():
        for words in simple_commands(line):
            if words[0] == "for":
                loops[words[1]] = words[words.index("in") + 1 :]
            else:
                found += unrolled(words, loops)
    return found


def simple_commands(line: str) -> list[list[str]]:
    """The commands of a line, without redirections, assignments and keywords before them."""
    lexer = shlex.shlex(re.sub(r"\d>&\d", "", line), posix=True, punctuation_chars=PUNCTUATION)
    lexer.whitespace_split = True
    parts, redirected = [[]], False
    for word in lexer:
        if set(word) <= set(PUNCTUATION):
            redirected = set(word) <= {"<", ">", "&"} and word not in ("&", "&&")
            if not redirected:
                parts.append([])
        elif redirected:
            redirected = False
        else:
            parts[-1].append(word)
    stripped = []
    for part in parts:
        rest = itertools.dropwhile(lambda w: w in KEYWORDS or ASSIGNMENT.fullmatch(w), part)
        stripped += [words] if (words := list(rest)) else []
    return stripped


def unrolled(words: list[str], loops: dict[str, list[str]]) -> list[list[str]]:
    """A command with each value of the loop variables that it uses."""
    used = [name for name in loops if any(f"${name}" in w or f"${{{name}" in w for w in words)]
    choices = itertools.product(*(loops[name] for name in used))
    return [
        [filled(word, dict(zip(used, values, strict=True))) for word in words] for values in choices
    ]


def filled(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        pattern = rf"\$(?:{name}\b|\{{{name}\b[^}}]*\}})"
        word = re.sub(pattern, lambda _, value=value: value, word)
    return word


def check_command(words: list[str]) -> None:
    """Check one command.

    Raises:
        Wrong: it cannot be.
    """
    program = words[0].rpartition("/")[2]
    for word in words:
        if word.startswith("virtex://"):
            told(zoo.find, word.removeprefix("virtex://"))
    if re.fullmatch(r"python(3(\.\d+)?)?", program):
        check_python(words[1:])
    elif program == "torchrun":
        check_python(without_torchrun_flags(words[1:]))
    elif program == "make":
        check_targets(words[1:])
    elif program not in OTHERS:
        raise Wrong(f"an unknown command: {shlex.join(words)}")


def without_torchrun_flags(words: list[str]) -> list[str]:
    while words and words[0].startswith("--"):
        alone = words[0] in TORCHRUN_ALONE or "=" in words[0]
        words = words[1 if alone else 2 :]
    return words


def check_targets(targets: list[str]) -> None:
    rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in targets:
        if target not in rules and not ASSIGNMENT.fullmatch(target):
            raise Wrong(f"the Makefile has no target {target}")


def check_python(words: list[str]) -> None:
    if not words or words[0] == "-c":
        return
    if words[0] == "-m":
        if words[1].startswith("virtex."):
            check_tool(imported(words[1]), words[2:])
        elif words[1] not in OTHER_MODULES:
            raise Wrong(f"python -m {words[1]} is unknown")
        elif words[1] == "pytest":
            for word in words[2:]:
                if word.startswith("tests") and not (ROOT / word).exists():
                    raise Wrong(f"there is no {word}")
        return
    path = ROOT / words[0]
    if not path.is_file():
        raise Wrong(f"there is no {words[0]}")
    if path.parent == ROOT / "eval_tools":
        check_tool(imported(f"virtex.eval_tools.{path.stem}"), words[1:])
    elif path.parent == ROOT / "benchmarks":
        module = benchmark(path)
        if hasattr(module, "build_parser"):
            parse(module, words[1:])


def imported(name: str) -> ModuleType:
    """What ``python -m name`` runs."""
    try:
        module = importlib.import_module(name)
        return (
            importlib.import_module(f"{name}.__main__") if hasattr(module, "__path__") else module
        )
    except ModuleNotFoundError as error:
        raise Wrong(f"python -m {name}: {error}") from error


def benchmark(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"documented_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_tool(module: ModuleType, words: list[str]) -> None:
    """Arguments as the tool's own parser takes them, then its settings and protocols."""
    args = parse(module, words)
    name = module.__name__.rpartition(".")[2]
    if name == "evaluate_all":
        told(choose_tasks, args.tasks, args.protocol)
    elif name == "pretrain" and args.config and is_packaged(args.config):
        told(load_config, args.config, args.overrides)
    elif name == "model_zoo" and args.command != "list":
        for wanted in getattr(args, "names", None) or [args.name]:
            told(zoo.find, wanted)
    elif name == "detectron2_transfer" and args.config:
        pass  # a file of the reader's own
    else:
        for task in TASKS.values():
            if task.tool == f"{name}.py" and getattr(args, "task", task.name) == task.name:
                told(task.plans, args)
                break


def is_packaged(config: str) -> bool:
    """Whether a pretraining config is one of the package's; else it is the reader's own."""
    if config.endswith(".yaml"):
        return False
    told(find_config, config)
    return True


def told(function, *arguments) -> None:
    try:
        function(*arguments)
    except UserError as error:
        raise Wrong(str(error)) from error


def parse(module: ModuleType, words: list[str]):
    """The arguments, by the tool's parser.

    Raises:
        Wrong: it does not take them.
    """
    if hasattr(module, "words_of_arguments"):
        words = module.words_of_arguments(words)
    parser, said = module.build_parser(), io.StringIO()
    commands = parser._subparsers is not None
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return parser.parse_args(words) if commands else parser.parse_intermixed_args(words)
    except SystemExit as error:
        if not error.code:  # --help
            raise Wrong(f"{module.__name__} --help is no example") from error
        raise Wrong(f"{module.__name__} {shlex.join(words)}: {said.getvalue()}") from error
