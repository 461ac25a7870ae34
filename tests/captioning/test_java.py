"""The Java programs of pycocoevalcap: what they return, and every way in which they can fail."""

import json
import os
import shutil
import time

import numpy as np
import pytest

from tests.captioning.stand_ins_for_java import (
    find_first,
    hide_pycocoevalcap,
    needs_java,
    put_java,
    put_pycocoevalcap,
)
from virtex.captioning import java
from virtex.captioning.java_process import run
from virtex.errors import UserError

# a machine whose language and encoding would spoil what programs read
GERMAN = "-Duser.language=de -Duser.country=DE -Dfile.encoding=US-ASCII"
CAPTIONS, REFERENCES = [["a", "cat"], ["dog"]], [[["a", "cat"], ["cat"]], [["a", "dog"]]]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for pycocoevalcap that has SPICE's models."""
    return put_pycocoevalcap(tmp_path, monkeypatch, *java.SPICE_MODELS)


@pytest.fixture
def stand_in(tmp_path, monkeypatch, package):
    """Puts a ``java`` in place that runs Python."""
    return lambda body, **options: put_java(tmp_path, monkeypatch, body, **options)


def sentence(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


# ---- what there is


def test_java_of_java_home_goes_first(stand_in, monkeypatch, tmp_path):
    on_path = stand_in("pass")
    assert java.find_java() == str(on_path)
    home = tmp_path / "home"
    shutil.copytree(on_path.parent, home / "bin")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert java.find_java() == str(home / "bin" / "java")


def test_a_java_home_without_java_is_passed_over(stand_in, monkeypatch, tmp_path):
    on_path = stand_in("pass")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.find_java() == str(on_path)


def test_no_java_is_told_with_what_to_do(package, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert java.find_java() is None
    assert "install a Java runtime" in java.java_missing()
    assert "install a Java runtime" in sentence(java.tokenize, ["a"])


def test_no_pycocoevalcap_is_told_with_what_to_do(monkeypatch):
    hide_pycocoevalcap(monkeypatch)
    assert java.package_folder() is None
    assert java.java_missing() == "pycocoevalcap is not installed: pip install pycocoevalcap"
    assert "pip install pycocoevalcap" in sentence(java.meteor, CAPTIONS, REFERENCES)


@pytest.mark.parametrize("version", ["17.0.1", "1.8.0_412"])
def test_the_version_is_what_java_tells(stand_in, version):
    assert java.java_version(stand_in("pass", version=version)) == version


def test_a_java_that_is_none_counts_as_missing(stand_in):
    path = stand_in("pass")
    path.write_text("#!/bin/sh\necho 'Unable to locate a Java Runtime.' >&2\nexit 1\n")
    assert "Unable to locate a Java Runtime." in java.java_missing()


# ---- the tokenizer


@needs_java
def test_the_tokenizer_makes_cocos_tokens_of_any_text_on_any_machine(monkeypatch):
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", GERMAN)
    monkeypatch.setenv("LC_ALL", "C")
    captions = {
        "A man's “naïve” Café, in Paris.": "a man 's naïve café in paris",
        "(one)": "-lrb- one -rrb-",  # COCO's list has -LRB- in capitals, and so does not drop it
        "": "",
        " ?! . ": "?!",
        "two\nlines\r\nof\N{LINE SEPARATOR}it\x0b": "two lines of it",
        "1 1/2 cups": "1\N{NO-BREAK SPACE}1/2 cups",
        "日本 \N{DOG FACE} dog": "日本 dog",
        "I": "i",
        "...": "",
    }
    found = java.tokenize(list(captions))
    assert [" ".join(tokens) for tokens in found] == list(captions.values())
    assert "1\N{NO-BREAK SPACE}1/2" in found[5]


@needs_java
def test_nothing_is_left_behind(monkeypatch, tmp_path):
    folder = java.package_folder() / java.TOKENIZER.parent
    before = sorted(folder.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    java.tokenize(["a cat"])
    assert sorted(folder.iterdir()) == before and not list(tmp_path.iterdir())


def test_too_few_lines_are_no_captions(stand_in):
    stand_in('print("a cat"); print("half of the captions is enough", file=sys.stderr)')
    said = sentence(java.tokenize, ["a cat", "a dog"])
    assert "returned 1 lines for 2 captions" in said
    assert "half of the captions is enough" in said


def test_a_last_line_that_is_cut_is_no_caption(stand_in):
    stand_in('print("a cat"); print("a d", end="")')
    assert "returned" in sentence(java.tokenize, ["a cat", "a dog"])


# ---- every program that fails

FAILURES = {
    "dies": ('sys.exit("no memory for you")', ["ended with exit status 1", "no memory for you"]),
    "is killed": (
        'print("swapping", file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGKILL)',
        ["was killed by SIGKILL", "swapping"],
    ),
    "dies on stdout": ('print("Terminating"); sys.exit(3)', ["exit status 3", "Terminating"]),
    "floods stderr": (
        'sys.stderr.write("x" * 300_000 + "\\nthe end"); sys.exit(1)',
        ["ended with exit status 1", "the end"],
    ),
}
PROGRAMS = {
    "the PTB tokenizer": (java.tokenize, ["a cat"] * 20_000),
    "METEOR": (java.meteor, CAPTIONS, REFERENCES),
    "SPICE": (java.spice, CAPTIONS, REFERENCES),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_program_that_fails_is_quoted(stand_in, program, failure):
    body, quoted = FAILURES[failure]
    stand_in(body)
    call, *arguments = PROGRAMS[program]
    said = sentence(call, *arguments)
    assert said.startswith(program) and "\n" not in said
    assert all(part in said for part in quoted), said


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_hangs_is_ended(stand_in, monkeypatch, tmp_path, program):
    monkeypatch.setattr(java, "SECONDS", 5)  # a busy machine takes one to start a process
    monkeypatch.setattr(java, "SECONDS_A_CAPTION", 0)
    number = tmp_path / "number"
    stand_in(f"open({str(number)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    call, *arguments = PROGRAMS[program]
    start = time.perf_counter()
    assert "did not end in 5 seconds" in sentence(call, *arguments)
    assert time.perf_counter() - start < 60
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), 0)


def test_the_stack_of_java_is_not_quoted(stand_in):
    trace = ["java.lang.Oops: cannot read", "\tat a.B.c(B.java:1)", "\t... 3 more"]
    stand_in(f"sys.exit({os.linesep.join(trace)!r})")
    said = sentence(java.tokenize, ["a"])
    assert "(java.lang.Oops: cannot read)" in said


def test_a_java_that_cannot_be_started_is_told(stand_in):
    stand_in("pass").write_text("#!/nowhere/python\n")
    assert "cannot be started" in sentence(java.tokenize, ["a"])


# ---- METEOR

# a stand-in that follows METEOR's protocol; what it answers to a line can be spoiled
METEOR = """
for line in sys.stdin:
    kind, *parts = line.rstrip("\\n").split(" ||| ")
    if kind == "SCORE":
        {score}
    else:
        {evaluate}
    sys.stdout.flush()
{after}
"""


def meteor_that(
    score='print("1.0 " * 23)', evaluate='print("0.5\\n" * len(parts) + "0.25")', after="pass"
):
    return METEOR.format(score=score, evaluate=evaluate, after=after)


@needs_java
def test_meteor_is_that_of_pycocoevalcap_on_any_machine(monkeypatch):
    """Numbers of ``pycocoevalcap.meteor.meteor.Meteor`` on the same tokens."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", GERMAN)
    captions = ["a man riding horse", "", "the naïve café", "zzz", "a ||| dog"]
    references = [
        ["a man rides a horse", "man on a horse"],
        ["a cat"],
        ["naïve café"],
        ["", "a"],
        ["a dog"],
    ]
    value, per_image = java.meteor(
        [text.split(" ") for text in captions],
        [[text.split(" ") for text in own] for own in references],
    )
    assert value == pytest.approx(0.3834704097192293, abs=1e-12)
    np.testing.assert_allclose(
        per_image, [0.3874187120549737, 0, 0.4660191824608054, 0, 1], atol=1e-12
    )


def test_meteors_answers_are_those_of_the_images_and_of_all(stand_in):
    stand_in(meteor_that(evaluate='print("0.5\\n0.75\\n0.25")'))
    value, per_image = java.meteor(CAPTIONS, REFERENCES)
    assert value == 0.25
    np.testing.assert_array_equal(per_image, [0.5, 0.75])


def test_a_full_stderr_does_not_stop_meteor(stand_in):
    stand_in('sys.stderr.write("x" * 300_000)\n' + meteor_that())
    assert java.meteor(CAPTIONS, REFERENCES)[0] == 0.25


TALK = {
    "garbage for statistics": (
        {"score": 'print("no numbers"); print("why", file=sys.stderr)'},
        ["said 'no numbers'", "why"],
    ),
    "too few statistics": ({"score": 'print("1.0 " * 22)'}, ["said '1.0 1.0"]),
    "an end before the first answer": (
        {"score": 'sys.exit("early")'},
        ["ended with exit status 1", "early"],
    ),
    "an end before the scores": ({"evaluate": "sys.exit()"}, ["ended with exit status 0"]),
    "too few scores": (
        {"evaluate": 'print("0.5"); sys.exit("half")'},
        ["ended with exit status 1", "half"],
    ),
    "garbage for a score": ({"evaluate": 'print("0.5\\nError: no")'}, ["said 'Error: no'"]),
    "too many scores": (
        {"evaluate": 'print("0.5\\n" * 4)'},
        ["said '0.5', which it was not asked for"],
    ),
    "a death after the scores": (
        {"after": 'sys.exit("late")'},
        ["ended with exit status 1", "late"],
    ),
}


@pytest.mark.parametrize("talk", TALK)
def test_meteor_that_talks_otherwise_is_quoted(stand_in, talk):
    spoiled, quoted = TALK[talk]
    stand_in(meteor_that(**spoiled))
    said = sentence(java.meteor, CAPTIONS, REFERENCES)
    assert said.startswith("METEOR ") and all(part in said for part in quoted), said


# ---- SPICE

# writes SPICE's JSON; Java 17 is told the file last, Java 8 behind -out
SPICE = """
images = json.load(open(arguments[{given}]))
result = [
    {{"image_id": image["image_id"], "scores": {{"All": {{"f": f, "pr": 0.0}}}}}}
    for image, f in zip(images, {scores})
]
open(arguments[{returned}], "w").write(json.dumps(result))
"""
OF_JAVA_17 = {"given": -2, "returned": -1}
OF_JAVA_8 = {"given": -4, "returned": -2}


def test_spice_is_read_by_image_and_averaged(stand_in):
    stand_in(SPICE.format(scores=[0.25, 0.5], **OF_JAVA_17))
    value, per_image = java.spice(CAPTIONS, REFERENCES)
    assert value == 0.375
    np.testing.assert_array_equal(per_image, [0.25, 0.5])


def test_spices_order_is_that_of_its_numbers(stand_in):
    body = SPICE.format(scores=[0.25, 0.5], **OF_JAVA_17).replace("(result)", "(result[::-1])")
    stand_in(body)
    np.testing.assert_array_equal(java.spice(CAPTIONS, REFERENCES)[1], [0.25, 0.5])


def test_spice_is_given_the_tokens(stand_in, tmp_path):
    kept = tmp_path / "kept.json"
    body = SPICE.format(scores=[0, 0], **OF_JAVA_17)
    stand_in(f"{body}\njson.dump(images, open({str(kept)!r}, 'w'))")
    java.spice([["naïve", "cat"], []], REFERENCES)
    assert json.loads(kept.read_text()) == [
        {"image_id": 0, "test": "naïve cat", "refs": ["a cat", "cat"]},
        {"image_id": 1, "test": "", "refs": ["a dog"]},
    ]


def test_an_image_without_spice_is_nan_and_so_is_the_mean(stand_in):
    stand_in(SPICE.format(scores=[0.25, None], **OF_JAVA_17))
    value, per_image = java.spice(CAPTIONS, REFERENCES)
    np.testing.assert_array_equal(per_image, [0.25, np.nan])
    assert np.isnan(value)


def test_a_java_with_javascript_runs_spices_own_program(stand_in):
    own = 'assert "edu.anu.spice.SpiceScorer" in arguments'
    body = SPICE.format(scores=[1, 0], **OF_JAVA_8)
    stand_in(f"{own}\n{body}", version="1.8.0_412")
    assert java.spice(CAPTIONS, REFERENCES)[0] == 0.5


@pytest.mark.parametrize(
    "body",
    [
        SPICE.format(scores=[0.5], **OF_JAVA_17),
        SPICE.format(scores=[0.5, "much"], **OF_JAVA_17),
        'open(arguments[-1], "w").write("Parsing")',
        'print("well done")',
    ],
    ids=["too few", "no number", "no JSON", "no file"],
)
def test_what_spice_does_not_return_is_no_score(stand_in, body):
    stand_in(body)
    said = sentence(java.spice, CAPTIONS, REFERENCES)
    assert said.startswith("SPICE did not return the scores of 2 images")


def test_spices_models_are_told_with_how_to_get_them(tmp_path, monkeypatch):
    put_pycocoevalcap(tmp_path, monkeypatch, java.SPICE_MODELS[0])
    put_java(tmp_path, monkeypatch, "pass")
    assert java.spice_models_missing() == ["stanford-corenlp-3.6.0-models.jar"]
    said = java.spice_missing()
    assert "python -m pycocoevalcap.spice.get_stanford_models" in said
    assert "stanford-corenlp-3.6.0-models.jar" in sentence(java.spice, CAPTIONS, REFERENCES)


def test_a_late_java_without_a_compiler_cannot_run_spice(stand_in):
    stand_in("pass", compiler="java.xml")
    assert "install a JDK" in java.spice_missing()
    stand_in("pass", version="11.0.2", compiler="java.xml")
    assert java.spice_missing() is None


@pytest.fixture
def spice_without_models(tmp_path, monkeypatch):
    """The real SPICE; for its CoreNLP it has the tokenizer's, in which there are no models."""
    real, root = java.package_folder(), tmp_path / "site-packages" / "pycocoevalcap"
    shutil.copytree(
        real / java.SPICE.parent / "lib", root / "spice" / "lib", copy_function=os.symlink
    )
    shutil.copy(real / java.SPICE, root / java.SPICE)
    for jar in (java.TOKENIZER, *java.SPICE_MODELS):
        (root / jar).parent.mkdir(exist_ok=True)
        (root / jar).symlink_to(real / java.TOKENIZER)
    find_first(root.parent, monkeypatch)
    if java.spice_missing():
        pytest.skip(java.spice_missing())
    yield
    shutil.rmtree(root)


@needs_java
def test_spice_of_no_images_is_no_scores(spice_without_models, tmp_path):
    """That is as far as it comes without models: it starts, reads and writes on this Java."""
    (tmp_path / "captions.json").write_text("[]")
    command = java.spice_command(tmp_path / "captions.json", tmp_path / "scores.json")
    run("SPICE", command, 60)
    assert len(java.read_spice(tmp_path / "scores.json", 0)) == 0


@needs_java
def test_spice_that_cannot_load_its_parser_is_quoted(spice_without_models):
    said = sentence(java.spice, CAPTIONS, REFERENCES)
    assert "SPICE ended with exit status 1" in said and "englishPCFG" in said
