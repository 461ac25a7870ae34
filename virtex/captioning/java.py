"""Run the Java programs bundled with pycocoevalcap: PTB tokenizer, METEOR 1.5 and SPICE 1.0.

pycocoevalcap's own wrappers write next to their jars, ignore exit statuses, can wait forever and
download files without asking. This module runs the same jars as subprocesses with a timeout; a
program that fails raises UserError with the end of its output.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from virtex.captioning.metrics import Captions, References
from virtex.errors import UserError, set_error_path

# Relative to the folder of pycocoevalcap.
TOKENIZER_JAR = Path("tokenizer", "stanford-corenlp-3.4.1.jar")
METEOR_JAR = Path("meteor", "meteor-1.5.jar")
SPICE_JAR = Path("spice", "spice-1.0.jar")
SPICE_MODELS = tuple(
    Path("spice", "lib", f"stanford-corenlp-3.6.0{part}.jar") for part in ("", "-models")
)
GET_SPICE_MODELS = "python -m pycocoevalcap.spice.get_stanford_models"

# The programs read and write with the encoding and language of the machine unless they are set:
# with a German locale, METEOR writes 0,5 for 0.5.
OPTIONS = ("-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")
VERSION_TIMEOUT = 60  # seconds
TIMEOUT, TIMEOUT_PER_CAPTION = 600, 1  # seconds
QUOTED_LINES, QUOTED_CHARACTERS = 4, 500  # of a program's output in an error
# What ends a line, and thus a caption, for the tokenizer.
LINE_ENDS = str.maketrans(dict.fromkeys("\n\r\v\f\u2028\u2029", " "))
METEOR_STATISTICS = 23  # numbers that METEOR 1.5 computes for a caption and its references

# SPICE 1.0 writes its results with Java's JavaScript engine, which Java 15 removed. For later
# versions, this program calls SPICE and writes the results; a JDK compiles it on the fly.
FIRST_WITHOUT_JAVASCRIPT = 15
SPICE_PROGRAM = """
import edu.anu.spice.*;
import java.nio.file.*;
import java.util.*;
import org.json.simple.*;

class SpiceScores {
    public static void main(String[] paths) throws Exception {
        List<String> captions = new ArrayList<>(), references = new ArrayList<>();
        List<Integer> counts = new ArrayList<>();
        String input = new String(Files.readAllBytes(Paths.get(paths[0])), "UTF-8");
        JSONArray images = (JSONArray) JSONValue.parseWithException(input);
        for (Object image : images) {
            captions.add((String) ((JSONObject) image).get("test"));
            JSONArray own = (JSONArray) ((JSONObject) image).get("refs");
            for (Object reference : own) references.add((String) reference);
            counts.add(own.size());
        }
        int threads = Runtime.getRuntime().availableProcessors();
        SpiceParser parser = new SpiceParser(null, threads, true);  // no cache; synonyms
        List<SceneGraph> expected = parser.parseCaptions(references, counts);
        List<SceneGraph> found = parser.parseCaptions(captions);
        SpiceStats stats = new SpiceStats(new HashMap<>(), false);
        for (int i = 0; i < images.size(); i++) {
            Object id = ((JSONObject) images.get(i)).get("image_id");
            stats.score(id, found.get(i), expected.get(i), true);
        }
        Files.write(Paths.get(paths[1]), stats.toJSONString().getBytes("UTF-8"));
    }
}
"""


# ---- Installation


def find_java() -> str | None:
    """Return the path of ``java`` in JAVA_HOME, else in PATH; None if there is none."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=os.path.join(home, "bin")) if home else None
    found = found or shutil.which("java")
    return os.path.abspath(found) if found else None


def java_version(java: str) -> str:
    """Return the version that Java prints, such as "1.8.0_412" or "17.0.15".

    Raises:
        UserError: it cannot be run, or prints no version.
    """
    _, output = run_program(java, [java, "-version"], VERSION_TIMEOUT)
    version = re.search(r'version "(\d[^"]*)"', output)
    if not version:
        raise program_error(java, "printed no version", output)
    return version[1]


def package_folder() -> Path | None:
    """Return the folder of pycocoevalcap and its jars; None if it is not installed."""
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next((Path(f) for f in folders if Path(f, TOKENIZER_JAR).is_file()), None)


def missing_java() -> str | None:
    """Return why the tokenizer and METEOR cannot run, and how to fix it; None if they can."""
    if package_folder() is None:
        return "pycocoevalcap is not installed: pip install pycocoevalcap"
    java = find_java()
    if java is None:
        return "Java was not found: install a Java runtime, or set JAVA_HOME"
    try:
        java_version(java)
    except UserError as error:
        return str(error)
    return None


def missing_spice_models() -> list[str]:
    """Return the names of the CoreNLP 3.6.0 jars that SPICE needs and that are missing."""
    folder = package_folder() or Path()
    return [path.name for path in SPICE_MODELS if not (folder / path).is_file()]


def missing_spice() -> str | None:
    """Return why SPICE in particular cannot run, and how to fix it; None if it can.

    Raises:
        UserError: as ``java_command``, or Java is broken.
    """
    models = missing_spice_models()
    if models:
        return f"{' and '.join(models)} must be downloaded separately: {GET_SPICE_MODELS}"
    java, *_ = java_command(SPICE_JAR)
    version = java_version(java)
    if major_version(version) < FIRST_WITHOUT_JAVASCRIPT:
        return None
    modules, _ = run_program(java, [java, "--list-modules"], VERSION_TIMEOUT)
    if "jdk.compiler@" in modules:
        return None
    return f"Java {version} is a runtime without a compiler: install a JDK"


def major_version(version: str) -> int:
    """Return 8 for "1.8.0_412", 17 for "17.0.15"."""
    return int(re.split(r"\D", version.removeprefix("1."))[0])


# ---- Running programs


def java_command(jar: Path, *options: str) -> list[str]:
    """Return the command line up to the class to run.

    Raises:
        UserError: Java or pycocoevalcap is missing.
    """
    java, folder = find_java(), package_folder()
    if java is None or folder is None:
        raise UserError(missing_java() or "Java was not found", code="captioning.no_java")
    return [java, *OPTIONS, *options, "-cp", str(folder / jar)]


def run_program(
    name: str, command: Sequence[str], timeout: float, text: str = ""
) -> tuple[str, str]:
    """Run a program to completion.

    Args:
        name: of the program, for errors.
        timeout: in seconds.
        text: standard input.

    Returns:
        Its standard output and standard error.

    Raises:
        UserError: it cannot be started, fails, or exceeds the timeout.
    """
    try:
        process = subprocess.run(
            command,
            input=text.encode("utf-8", "replace"),
            capture_output=True,
            timeout=timeout,
            cwd=temporary_folder(),  # where Java writes a report if it crashes
        )
    except OSError as error:
        raise program_error(name, "could not be started", str(error)) from error
    except subprocess.TimeoutExpired as error:
        errors = (error.stderr or b"").decode("utf-8", "replace")
        raise program_error(name, f"did not finish within {timeout:g} seconds", errors) from error
    output, errors = (
        stream.decode("utf-8", "replace") for stream in (process.stdout, process.stderr)
    )
    status = process.returncode
    if status:
        killed = f"was killed by {signal.Signals(-status).name}" if status < 0 else ""
        raise program_error(name, killed or f"failed with exit status {status}", errors or output)
    return output, errors


def temporary_folder() -> str:
    """Return the folder of temporary files.

    Raises:
        UserError: none can be written to.
    """
    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UserError(
            f"TMPDIR ({os.environ.get('TMPDIR', 'not set')}) and the system's folders of temporary "
            "files are full or not writable; free some space, or set TMPDIR to another folder",
            code="captioning.no_temporary_folder",
        ) from error


def program_error(name: str, problem: str, output: str) -> UserError:
    """Return an error that quotes the end of a program's output, without Java stack frames."""
    lines = [line.strip() for line in output.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("at ", "... "))]
    quoted = f" ({' | '.join(lines[-QUOTED_LINES:])[-QUOTED_CHARACTERS:]})" if lines else ""
    return UserError(
        f"{name} {problem}{quoted}; fix it and rerun with --resume, or use --resume --scorer "
        "python",
        code="captioning.java_failed",
    )


def timeout_for(captions: int) -> int:
    """Return the timeout in seconds of a program that reads this many captions."""
    return TIMEOUT + TIMEOUT_PER_CAPTION * captions


# ---- The programs


def tokenize(captions: Sequence[str]) -> list[list[str]]:
    """Tokenize captions with CoreNLP 3.4.1: lower case, without COCO's list of punctuation.

    Raises:
        UserError: the tokenizer fails, or returns another number of lines.
    """
    name = "the PTB tokenizer"
    command = [*java_command(TOKENIZER_JAR), "edu.stanford.nlp.process.PTBTokenizer"]
    command += ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    text = "".join(caption.translate(LINE_ENDS) + "\n" for caption in captions)
    output, errors = run_program(name, command, timeout_for(len(captions)), text)
    *lines, rest = output.split("\n")
    if rest or len(lines) != len(captions):
        problem = f"returned {len(lines)} lines for {len(captions)} captions"
        raise program_error(name, problem, errors or output)
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    ignored = {"", *PUNCTUATIONS}
    # split at " " only: a token may contain a no-break space
    return [[t for t in line.rstrip().split(" ") if t not in ignored] for line in lines]


def meteor(captions: Captions, references: References) -> tuple[float, np.ndarray]:
    """Compute METEOR 1.5 (Denkowski and Lavie, 2014) of tokenized captions, as fractions.

    Returns:
        METEOR of the corpus, from summed statistics, and of the images, (images,).

    Raises:
        UserError: METEOR fails, or returns anything but its numbers.
    """
    command = [*java_command(METEOR_JAR, "-Xmx2G"), "Meteor", "-", "-", "-stdio", "-l", "en"]
    command.append("-norm")
    timeout = timeout_for(len(captions) + sum(map(len, references)))

    def query(lines: Sequence[str], answers: int, numbers: int) -> list[str]:
        output, errors = run_program("METEOR", command, timeout, "".join(f"{x}\n" for x in lines))
        found = [line.strip() for line in output.splitlines()]
        wrong = [line for line in found if not _is_numbers(line, numbers)]
        if wrong or len(found) != answers:
            problem = f"returned {len(found)} lines of numbers, expected {answers}"
            problem = f"returned {wrong[0][:QUOTED_CHARACTERS]!r}" if wrong else problem
            raise program_error("METEOR", problem, errors)
        return found

    # "|||" separates sentences, so no sentence may contain it
    sentences = [
        [" ".join(tokens).replace("|||", "") for tokens in (*refs, caption)]
        for caption, refs in zip(captions, references, strict=True)
    ]
    lines = [" ||| ".join(["SCORE", *texts]) for texts in sentences]
    statistics = query(lines, len(captions), METEOR_STATISTICS)
    answers = query([" ||| ".join(["EVAL", *statistics])], len(captions) + 1, 1)
    *per_image, corpus = map(float, answers)
    return corpus, np.array(per_image)


def _is_numbers(text: str, count: int) -> bool:
    try:
        return len([float(word) for word in text.split()]) == count
    except ValueError:
        return False


def spice(captions: Captions, references: References) -> tuple[float, np.ndarray]:
    """Compute SPICE 1.0 (Anderson et al., 2016) of tokenized captions, as fractions.

    SPICE's cache of parsed references is not used: Java after 8 cannot write it, and concurrent
    runs cannot share it.

    Returns:
        the mean over images, which as in pycocoevalcap is NaN if an image's is, and (images,).

    Raises:
        UserError: SPICE fails, or returns anything but its scores.
    """
    reason = missing_spice()
    if reason:
        raise UserError(f"SPICE cannot run: {reason}", code="captioning.no_spice")
    images = [
        {"image_id": index, "test": " ".join(caption), "refs": [" ".join(r) for r in refs]}
        for index, (caption, refs) in enumerate(zip(captions, references, strict=True))
    ]
    with (
        set_error_path(f"TMPDIR ({temporary_folder()})"),
        tempfile.TemporaryDirectory(prefix="virtex-spice-") as folder,
    ):
        given, returned = Path(folder, "captions.json"), Path(folder, "scores.json")
        given.write_text(json.dumps(images), encoding="utf-8")
        timeout = timeout_for(len(captions) + sum(map(len, references)))
        _, errors = run_program("SPICE", spice_command(given, returned), timeout)
        try:
            per_image = read_spice(returned, len(images))
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"did not return the scores of {len(images)} images"
            raise program_error("SPICE", problem, errors or repr(error)) from error
    return float(per_image.mean()), per_image


def read_spice(path: Path, images: int) -> np.ndarray:
    """Read the F-score of each image, (images,); NaN (in JSON, null) if undefined."""
    scores = json.loads(path.read_text(encoding="utf-8"))
    found = {item["image_id"]: item["scores"]["All"]["f"] for item in scores}
    if len(scores) != images:
        raise ValueError(f"{len(scores)} scores")
    return np.array([found[index] for index in range(images)], dtype=np.float64)


def spice_command(given: Path, returned: Path) -> list[str]:
    """Return the command of the jar's own main class, or of ``SPICE_PROGRAM`` if that fails.

    Args:
        given, returned: JSON files; the program is written next to the first.
    """
    # without the option, SPICE waits forever for a thread that ran out of memory
    command = java_command(SPICE_JAR, "-Xmx8G", "-XX:+ExitOnOutOfMemoryError")
    if major_version(java_version(command[0])) < FIRST_WITHOUT_JAVASCRIPT:
        main = ["edu.anu.spice.SpiceScorer", str(given), "-out", str(returned), "-silent"]
        return command + main
    program = given.parent / "SpiceScores.java"
    program.write_text(SPICE_PROGRAM, encoding="utf-8")
    return [*command, str(program), str(given), str(returned)]
