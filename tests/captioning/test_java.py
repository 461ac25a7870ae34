"""The Java programs of pycocoevalcap: what they return, and how they fail."""

import json
import os
import shutil

import numpy as np
import pytest

from tests.captioning.java_stubs import (
    hide_pycocoevalcap,
    install_java,
    install_pycocoevalcap,
    needs_java,
    prepend_path,
)
from tests.errors import raises_code
from virtex.captioning import java

# a locale and encoding that would corrupt what the programs read and write
GERMAN = "-Duser.language=de -Duser.country=DE -Dfile.encoding=US-ASCII"
CAPTIONS, REFERENCES = [["a", "cat"], ["dog"]], [[["a", "cat"], ["cat"]], [["a", "dog"]]]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stub of pycocoevalcap with SPICE's models."""
    return install_pycocoevalcap(tmp_path, monkeypatch, *java.SPICE_MODELS)


@pytest.fixture
def stub(tmp_path, monkeypatch, package):
    """Install a ``java`` that runs Python."""
    return lambda body, **options: install_java(tmp_path, monkeypatch, body, **options)


def error_of(call, *arguments, code="captioning.java_failed"):
    with raises_code(code) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- What is installed


def test_java_home_comes_first(stub, monkeypatch, tmp_path):
    on_path = stub("pass")
    assert java.find_java() == str(on_path)
    home = tmp_path / "home"
    shutil.copytree(on_path.parent, home / "bin")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert java.find_java() == str(home / "bin" / "java")


def test_java_home_without_java_is_ignored(stub, monkeypatch, tmp_path):
    on_path = stub("pass")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.find_java() == str(on_path)


def test_missing_java(package, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert java.find_java() is None
    assert "install a Java runtime" in java.missing_java()
    error_of(java.tokenize, ["a"], code="captioning.no_java")


def test_missing_pycocoevalcap(monkeypatch):
    hide_pycocoevalcap(monkeypatch)
    assert java.package_folder() is None
    assert "pip install pycocoevalcap" in java.missing_java()
    error_of(java.meteor, CAPTIONS, REFERENCES, code="captioning.no_java")


@pytest.mark.parametrize("version", ["17.0.1", "1.8.0_412"])
def test_java_version(stub, version):
    assert java.java_version(stub("pass", version=version)) == version


def test_broken_java_counts_as_missing(stub):
    path = stub("pass")
    path.write_text("#!/bin/sh\necho 'Unable to locate a Java Runtime.' >&2\nexit 1\n")
    assert "Unable to locate a Java Runtime." in java.missing_java()


# ---- Tokenizer


@needs_java
def test_tokenizer_with_any_locale(monkeypatch):
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
def test_tokenizer_leaves_no_files(monkeypatch, tmp_path):
    folder = java.package_folder() / java.TOKENIZER_JAR.parent
    before = sorted(folder.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    java.tokenize(["a cat"])
    assert sorted(folder.iterdir()) == before and not list(tmp_path.iterdir())


def test_tokenizer_returning_too_few_lines(stub):
    stub('print("a cat"); print("half of the captions is enough", file=sys.stderr)')
    assert "half of the captions is enough" in error_of(java.tokenize, ["a cat", "a dog"])


def test_tokenizer_returning_truncated_line(stub):
    stub('print("a cat"); print("a d", end="")')
    error_of(java.tokenize, ["a cat", "a dog"])


# ---- Failures

FAILURES = {
    "dies": ('sys.exit("no memory for you")', ["exit status 1", "no memory for you"]),
    "killed": (
        'print("swapping", file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGKILL)',
        ["SIGKILL", "swapping"],
    ),
    "dies_on_stdout": ('print("Terminating"); sys.exit(3)', ["exit status 3", "Terminating"]),
    "floods_stderr": (
        'sys.stderr.write("x" * 300_000 + "\\nthe end"); sys.exit(1)',
        ["exit status 1", "the end"],
    ),
}
PROGRAMS = {
    "the PTB tokenizer": (java.tokenize, ["a cat"]),
    "METEOR": (java.meteor, CAPTIONS, REFERENCES),
    "SPICE": (java.spice, CAPTIONS, REFERENCES),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failing_program_is_quoted(stub, failure):
    body, quoted = FAILURES[failure]
    stub(body)
    message = error_of(java.tokenize, ["a cat"])
    assert all(part in message for part in quoted), message


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_reports_failure(stub, program):
    stub('sys.exit("no memory for you")')
    call, *arguments = PROGRAMS[program]
    message = error_of(call, *arguments)
    assert message.startswith(program) and "no memory for you" in message


def test_hanging_program_is_killed(stub, monkeypatch):
    monkeypatch.setattr(java, "TIMEOUT", 1)
    monkeypatch.setattr(java, "TIMEOUT_PER_CAPTION", 0)
    stub("time.sleep(600)")
    assert "1 seconds" in error_of(java.tokenize, ["a"])


def test_java_stack_is_not_quoted(stub):
    trace = ["java.lang.Oops: cannot read", "\tat a.B.c(B.java:1)", "\t... 3 more"]
    stub(f"sys.exit({os.linesep.join(trace)!r})")
    assert "(java.lang.Oops: cannot read)" in error_of(java.tokenize, ["a"])


def test_java_that_cannot_be_started(stub):
    stub("pass").write_text("#!/nowhere/python\n")
    error_of(java.tokenize, ["a"])


# ---- METEOR

# a stub that follows METEOR's protocol, with replaceable answers
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


def meteor_stub(
    score='print("1.0 " * 23)', evaluate='print("0.5\\n" * len(parts) + "0.25")', after="pass"
):
    return METEOR.format(score=score, evaluate=evaluate, after=after)


@pytest.mark.whole
@needs_java
def test_meteor_matches_pycocoevalcap_with_any_locale(monkeypatch):
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


def test_meteor_of_images_and_corpus(stub):
    stub(meteor_stub(evaluate='print("0.5\\n0.75\\n0.25")'))
    value, per_image = java.meteor(CAPTIONS, REFERENCES)
    assert value == 0.25
    np.testing.assert_array_equal(per_image, [0.5, 0.75])


def test_full_stderr_does_not_block_meteor(stub):
    stub('sys.stderr.write("x" * 300_000)\n' + meteor_stub())
    assert java.meteor(CAPTIONS, REFERENCES)[0] == 0.25


METEOR_FAILURES = {
    "garbage_statistics": (
        {"score": 'print("no numbers"); print("why", file=sys.stderr)'},
        ["'no numbers'", "why"],
    ),
    "too_few_statistics": ({"score": 'print("1.0 " * 22)'}, ["'1.0 1.0"]),
    "exit_before_scores": ({"evaluate": "sys.exit()"}, ["0 lines"]),
    "garbage_score": ({"evaluate": 'print("0.5\\nError: no")'}, ["'Error: no'"]),
    "too_many_scores": ({"evaluate": 'print("0.5\\n" * 4)'}, []),
    "exit_after_scores": ({"after": 'sys.exit("late")'}, ["exit status 1", "late"]),
}


@pytest.mark.parametrize("failure", METEOR_FAILURES)
def test_unexpected_meteor_output_is_quoted(stub, failure):
    changes, quoted = METEOR_FAILURES[failure]
    stub(meteor_stub(**changes))
    message = error_of(java.meteor, CAPTIONS, REFERENCES)
    assert message.startswith("METEOR ") and all(part in message for part in quoted), message


# ---- SPICE

# writes SPICE's JSON; with Java 17 the file is the last argument, with Java 8 that of -out
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


def test_spice_of_images_and_mean(stub):
    stub(SPICE.format(scores=[0.25, 0.5], **OF_JAVA_17))
    value, per_image = java.spice(CAPTIONS, REFERENCES)
    assert value == 0.375
    np.testing.assert_array_equal(per_image, [0.25, 0.5])


def test_spice_results_may_be_in_any_order(stub):
    body = SPICE.format(scores=[0.25, 0.5], **OF_JAVA_17).replace("(result)", "(result[::-1])")
    stub(body)
    np.testing.assert_array_equal(java.spice(CAPTIONS, REFERENCES)[1], [0.25, 0.5])


def test_spice_input(stub, tmp_path):
    kept = tmp_path / "kept.json"
    body = SPICE.format(scores=[0, 0], **OF_JAVA_17)
    stub(f"{body}\njson.dump(images, open({str(kept)!r}, 'w'))")
    java.spice([["naïve", "cat"], []], REFERENCES)
    assert json.loads(kept.read_text()) == [
        {"image_id": 0, "test": "naïve cat", "refs": ["a cat", "cat"]},
        {"image_id": 1, "test": "", "refs": ["a dog"]},
    ]


def test_undefined_spice_is_nan(stub):
    stub(SPICE.format(scores=[0.25, None], **OF_JAVA_17))
    value, per_image = java.spice(CAPTIONS, REFERENCES)
    np.testing.assert_array_equal(per_image, [0.25, np.nan])
    assert np.isnan(value)


def test_java_8_runs_the_main_class_of_spice(stub):
    own = 'assert "edu.anu.spice.SpiceScorer" in arguments'
    body = SPICE.format(scores=[1, 0], **OF_JAVA_8)
    stub(f"{own}\n{body}", version="1.8.0_412")
    assert java.spice(CAPTIONS, REFERENCES)[0] == 0.5


@pytest.mark.parametrize(
    "body",
    [
        SPICE.format(scores=[0.5], **OF_JAVA_17),
        SPICE.format(scores=[0.5, "much"], **OF_JAVA_17),
        'open(arguments[-1], "w").write("Parsing")',
        'print("well done")',
    ],
    ids=["too_few", "not_a_number", "not_json", "no_file"],
)
def test_invalid_spice_output(stub, body):
    stub(body)
    assert error_of(java.spice, CAPTIONS, REFERENCES).startswith("SPICE ")


def test_missing_spice_models(tmp_path, monkeypatch):
    install_pycocoevalcap(tmp_path, monkeypatch, java.SPICE_MODELS[0])
    install_java(tmp_path, monkeypatch, "pass")
    assert java.missing_spice_models() == ["stanford-corenlp-3.6.0-models.jar"]
    assert java.GET_SPICE_MODELS in java.missing_spice()
    error_of(java.spice, CAPTIONS, REFERENCES, code="captioning.no_spice")


def test_spice_needs_a_compiler_since_java_15(stub):
    stub("pass", compiler="java.xml")
    assert "install a JDK" in java.missing_spice()
    stub("pass", version="11.0.2", compiler="java.xml")
    assert java.missing_spice() is None


@pytest.fixture
def spice_without_models(tmp_path, monkeypatch):
    """The real SPICE with the tokenizer's CoreNLP, which has no models."""
    real, root = java.package_folder(), tmp_path / "site-packages" / "pycocoevalcap"
    shutil.copytree(
        real / java.SPICE_JAR.parent / "lib", root / "spice" / "lib", copy_function=os.symlink
    )
    shutil.copy(real / java.SPICE_JAR, root / java.SPICE_JAR)
    for jar in (java.TOKENIZER_JAR, *java.SPICE_MODELS):
        (root / jar).parent.mkdir(exist_ok=True)
        (root / jar).symlink_to(real / java.TOKENIZER_JAR)
    prepend_path(root.parent, monkeypatch)
    if java.missing_spice():
        pytest.skip(java.missing_spice())
    yield
    shutil.rmtree(root)


@needs_java
def test_spice_starts_reads_and_writes(spice_without_models, tmp_path):
    """Without models it can only process zero images."""
    (tmp_path / "captions.json").write_text("[]")
    command = java.spice_command(tmp_path / "captions.json", tmp_path / "scores.json")
    java.run_program("SPICE", command, 500)
    assert len(java.read_spice(tmp_path / "scores.json", 0)) == 0


@needs_java
def test_spice_without_parser_is_quoted(spice_without_models):
    assert "englishPCFG" in error_of(java.spice, CAPTIONS, REFERENCES)


def test_folder_of_temporary_files_that_cannot_be_written(monkeypatch):
    def fail():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(java.tempfile, "_get_default_tempdir", fail)
    monkeypatch.setattr(java.tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", "/full")
    with raises_code("captioning.no_temporary_folder", "TMPDIR (/full)"):
        java.run_program("true", ["true"], 10)
