"""The three Java programs that pycocoevalcap brings: PTB tokenizer, METEOR 1.5 and SPICE 1.0.

pycocoevalcap's own wrappers write beside their jars, do not look at exit statuses, can wait for
ever and download by themselves; these drive the same jars without.
"""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from virtex.captioning.java_process import (
    OPTIONS,
    VERSION_SECONDS,
    conversation,
    failure,
    find_java,
    java_version,
    run,
)
from virtex.captioning.scores import Captions, References
from virtex.errors import UserError

# below pycocoevalcap
TOKENIZER = Path("tokenizer", "stanford-corenlp-3.4.1.jar")
METEOR = Path("meteor", "meteor-1.5.jar")
SPICE = Path("spice", "spice-1.0.jar")
SPICE_MODELS = tuple(
    Path("spice", "lib", f"stanford-corenlp-3.6.0{part}.jar") for part in ("", "-models")
)
GET_SPICE_MODELS = "python -m pycocoevalcap.spice.get_stanford_models"

SECONDS, SECONDS_A_CAPTION = 600, 1  # after which a program is taken to hang
# besides "\n", what ends a line, and so a caption, for the tokenizer
LINE_ENDS = str.maketrans(dict.fromkeys("\n\r\v\f\u2028\u2029", " "))
METEOR_STATISTICS = 23  # numbers that METEOR 1.5 makes of a caption and its references

# SPICE 1.0 writes its results by the JavaScript of Java, which is gone since this version. There
# a program of ours calls SPICE and writes them; a JDK compiles it as it is run.
WITHOUT_JAVASCRIPT = 15
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


# ---- what there is


def package_folder() -> Path | None:
    """Where pycocoevalcap and its jars are; None where it is not installed."""
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return next((Path(f) for f in folders if Path(f, TOKENIZER).is_file()), None)


def java_missing() -> str | None:
    """What the tokenizer and METEOR lack, and how to get it; None if they can run."""
    if package_folder() is None:
        return "pycocoevalcap is not installed: pip install pycocoevalcap"
    java = find_java()
    if java is None:
        return "there is no Java: install a Java runtime, or set JAVA_HOME to one"
    try:
        java_version(java)
    except UserError as error:
        return str(error)
    return None


def spice_models_missing() -> list[str]:
    """Names of the jars of CoreNLP 3.6.0 that SPICE needs and that are not there."""
    folder = package_folder() or Path()
    return [path.name for path in SPICE_MODELS if not (folder / path).is_file()]


def spice_missing() -> str | None:
    """What SPICE lacks besides, and how to get it; None if it can run.

    Raises:
        UserError: as ``java_command``, or Java is broken.
    """
    models = spice_models_missing()
    if models:
        return f"{' and '.join(models)} are a download of their own: {GET_SPICE_MODELS}"
    java, *_ = java_command(SPICE)
    version = java_version(java)
    if major(version) < WITHOUT_JAVASCRIPT:
        return None
    modules, _ = run(java, [java, "--list-modules"], VERSION_SECONDS)
    if "jdk.compiler@" in modules:
        return None
    return f"with Java {version}, it needs a JDK, and there is a runtime alone: install a JDK"


def major(version: str) -> int:
    """Of "1.8.0_412" 8, of "17.0.15" 17."""
    return int(re.split(r"\D", version.removeprefix("1."))[0])


def java_command(jar: Path, *options: str) -> list[str]:
    """A command, but for the class to run.

    Raises:
        UserError: there is no Java, or no pycocoevalcap.
    """
    java, folder = find_java(), package_folder()
    if java is None or folder is None:
        raise UserError(java_missing() or "", "captioning.java_missing")
    return [java, *OPTIONS, *options, "-cp", str(folder / jar)]


def patience(captions: int) -> int:
    """Seconds after which a program that reads so many captions is taken to hang."""
    return SECONDS + SECONDS_A_CAPTION * captions


# ---- the programs


def tokenize(captions: Sequence[str]) -> list[list[str]]:
    """Tokens of each caption by CoreNLP 3.4.1: lower-case, without COCO's list of punctuation.

    Raises:
        UserError: the tokenizer cannot be run, has died, or returns too few or too many lines.
    """
    name = "the PTB tokenizer"
    command = [*java_command(TOKENIZER), "edu.stanford.nlp.process.PTBTokenizer"]
    command += ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    text = "".join(caption.translate(LINE_ENDS) + "\n" for caption in captions)
    output, errors = run(name, command, patience(len(captions)), text)
    *lines, rest = output.split("\n")
    if rest or len(lines) != len(captions):
        how = f"returned {len(lines)} lines for {len(captions)} captions"
        raise failure(name, how, errors or output)
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    left_out = {"", *PUNCTUATIONS}
    # a token may hold a no-break space, where a plain split() would cut it
    return [[t for t in line.rstrip().split(" ") if t not in left_out] for line in lines]


def meteor(captions: Captions, references: References) -> tuple[float, np.ndarray]:
    """METEOR 1.5 (Denkowski and Lavie, 2014) of tokenized captions, as fractions.

    Returns:
        The corpus's, of statistics that are added up, and (images,).

    Raises:
        UserError: METEOR cannot be run, has died, or answers anything but its numbers.
    """
    command = [*java_command(METEOR, "-Xmx2G"), "Meteor", "-", "-", "-stdio", "-l", "en", "-norm"]
    seconds = patience(len(captions) + sum(map(len, references)))
    with conversation("METEOR", command, seconds) as ask:
        statistics = []
        for caption, own in zip(captions, references, strict=True):
            # what separates sentences is not to be in one
            sentences = [" ".join(tokens).replace("|||", "") for tokens in (*own, caption)]
            statistics += ask(" ||| ".join(["SCORE", *sentences]), 1, METEOR_STATISTICS)
        answers = ask(" ||| ".join(["EVAL", *statistics]), len(captions) + 1, 1)
    *per_image, corpus = map(float, answers)
    return corpus, np.array(per_image)


def spice(captions: Captions, references: References) -> tuple[float, np.ndarray]:
    """SPICE 1.0 (Anderson et al., 2016) of tokenized captions, as fractions.

    Without SPICE's cache of parsed references, which no Java after 8 can write and two runs
    cannot share.

    Returns:
        The mean over images, as pycocoevalcap has it NaN where an image's is, and (images,).

    Raises:
        UserError: SPICE cannot be run, has died, or returns anything but its scores.
    """
    reason = spice_missing()
    if reason:
        raise UserError(f"SPICE cannot be run: {reason}")
    images = [
        {"image_id": number, "test": " ".join(caption), "refs": [" ".join(r) for r in own]}
        for number, (caption, own) in enumerate(zip(captions, references, strict=True))
    ]
    with tempfile.TemporaryDirectory(prefix="virtex-spice-") as name:
        given, returned = Path(name, "captions.json"), Path(name, "scores.json")
        given.write_text(json.dumps(images), encoding="utf-8")
        seconds = patience(len(captions) + sum(map(len, references)))
        _, errors = run("SPICE", spice_command(given, returned), seconds)
        try:
            per_image = read_spice(returned, len(images))
        except (OSError, ValueError, KeyError, TypeError) as error:
            how = f"did not return the scores of {len(images)} images"
            raise failure("SPICE", how, errors or repr(error)) from error
    return float(per_image.mean()), per_image


def read_spice(path: Path, images: int) -> np.ndarray:
    """F-score of each image, (images,); NaN where there is none, which in JSON is null."""
    scores = json.loads(path.read_text(encoding="utf-8"))
    found = {item["image_id"]: item["scores"]["All"]["f"] for item in scores}
    if len(scores) != images:
        raise ValueError(f"{len(scores)} scores")
    return np.array([found[number] for number in range(images)], dtype=np.float64)


def spice_command(given: Path, returned: Path) -> list[str]:
    """The jar's own main class, or ``SPICE_PROGRAM`` where that cannot write.

    Args:
        given, returned: its JSON; the folder of the first takes the program too.
    """
    # of a thread that is out of memory, the others would never hear
    command = java_command(SPICE, "-Xmx8G", "-XX:+ExitOnOutOfMemoryError")
    if major(java_version(command[0])) < WITHOUT_JAVASCRIPT:
        main = ["edu.anu.spice.SpiceScorer", str(given), "-out", str(returned), "-silent"]
        return command + main
    program = given.parent / "SpiceScores.java"
    program.write_text(SPICE_PROGRAM, encoding="utf-8")
    return [*command, str(program), str(given), str(returned)]
