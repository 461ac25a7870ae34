"""Scoring captions in percent, with and without Java."""

import math

import numpy as np
import pytest

from tests.captioning.java_stubs import (
    hide_pycocoevalcap,
    install_java,
    install_pycocoevalcap,
    needs_java,
)
from tests.errors import raises_code
from virtex.captioning import java
from virtex.captioning.scoring import (
    choose_scorer,
    pycocoevalcap_bleu,
    pycocoevalcap_cider,
    pycocoevalcap_rouge,
    score,
)

CAPTIONS = {"b": "A man rides a horse.", "a": "Two cats, on a café's sofa!", 7: ""}
REFERENCES = {
    "a": ["A cat on a sofa", "two cats sleeping on the (red) sofa", "Cats."],
    7: ["A bus."],
    "b": ["A man riding a horse", "a man rides a brown horse"],
}
IN_PYTHON = ["CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"]


@pytest.fixture(scope="module")
def with_java():
    return score(CAPTIONS, REFERENCES, "java")


@pytest.fixture(scope="module")
def in_python():
    return score(CAPTIONS, REFERENCES, "python")


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)


# ---- Choice of the scorer


def test_auto_without_java(tmp_path, monkeypatch, no_java, caplog):
    install_pycocoevalcap(tmp_path, monkeypatch)
    assert choose_scorer("auto") == "python"
    assert caplog.records


def test_auto_without_pycocoevalcap(tmp_path, monkeypatch):
    install_java(tmp_path, monkeypatch, "pass")
    hide_pycocoevalcap(monkeypatch)
    assert choose_scorer("auto") == "python"


def test_auto_with_java(tmp_path, monkeypatch):
    install_java(tmp_path, monkeypatch, "pass")
    install_pycocoevalcap(tmp_path, monkeypatch)
    assert choose_scorer("auto") == "java"


def test_java_required_but_missing(tmp_path, monkeypatch, no_java):
    install_pycocoevalcap(tmp_path, monkeypatch)
    with raises_code("captioning.no_java"):
        choose_scorer("java")
    with raises_code("captioning.no_java"):
        score(CAPTIONS, REFERENCES, "java")


def test_python_scorer_needs_nothing(monkeypatch, no_java):
    hide_pycocoevalcap(monkeypatch)
    assert choose_scorer("python") == "python"


def test_unknown_scorer_is_rejected():
    with pytest.raises(ValueError, match="auto, java, python"):
        choose_scorer("rust")


# ---- Scores


def test_python_metrics(in_python):
    assert list(in_python.metrics) == IN_PYTHON == list(in_python.per_image)
    assert all(map(math.isfinite, in_python.metrics.values()))
    (note,) = in_python.notes
    assert "METEOR" in note and "SPICE" in note


def test_note_explains_missing_java(monkeypatch, no_java, tmp_path):
    install_pycocoevalcap(tmp_path, monkeypatch)
    (note,) = score(CAPTIONS, REFERENCES, "auto").notes
    assert "JAVA_HOME" in note


def test_scores_are_percent(in_python):
    same = {image: own[0] for image, own in REFERENCES.items()}
    metrics = score(same, {image: [text] for image, text in same.items()}, "python").metrics
    assert metrics["ROUGE-L"] == pytest.approx(100)
    assert metrics["BLEU-1"] == pytest.approx(100)
    assert score({0: "x", 1: "a b c d"}, {0: ["y"], 1: ["a b c d"]}, "python").metrics[
        "CIDEr"
    ] == pytest.approx(1000 / 2)


def test_images_follow_the_order_of_captions(in_python):
    for name, values in in_python.per_image.items():
        assert values.shape == (3,) and values.dtype == np.float64
        for place, image in enumerate(CAPTIONS):
            if name != "CIDEr":  # which depends on the other images
                one = score({image: CAPTIONS[image]}, {image: REFERENCES[image]}, "python")
                assert one.per_image[name][0] == pytest.approx(values[place])


def test_cider_and_rouge_are_means_over_images(in_python):
    for name in ("CIDEr", "ROUGE-L"):
        assert in_python.metrics[name] == pytest.approx(in_python.per_image[name].mean())


def test_parts_are_timed(in_python):
    parts = ["tokenize", "cider", "bleu", "rouge_l"]
    assert list(in_python.timing) == [f"{part}_seconds" for part in parts]
    assert all(seconds >= 0 for seconds in in_python.timing.values())


def test_setup_names_scorer_and_tokenizer(in_python):
    assert set(in_python.setup) == {"scorer", "tokenizer"}


@pytest.mark.parametrize(
    ("captions", "references"),
    [({}, {}), ({1: "a"}, {2: ["a"]}), ({1: "a"}, {1: []})],
    ids=["no_image", "other_images", "no_reference"],
)
def test_invalid_input_is_rejected(captions, references):
    with pytest.raises(ValueError, match="reference"):
        score(captions, references, "python")


def test_references_without_words_are_rejected():
    with raises_code("captioning.empty_references"):
        score({1: "a cat", 2: "a dog"}, {1: ["."], 2: ["", "!"]}, "python")


# ---- Java


@pytest.mark.whole
@needs_java
def test_java_gives_the_same_scores_and_meteor(with_java, in_python):
    assert list(with_java.metrics)[:7] == [*IN_PYTHON, "METEOR"] == list(with_java.per_image)[:7]
    for name in IN_PYTHON:
        assert with_java.metrics[name] == pytest.approx(in_python.metrics[name], abs=1e-9)
        np.testing.assert_allclose(
            with_java.per_image[name], in_python.per_image[name], atol=1e-9, rtol=0
        )
    assert 0 < with_java.metrics["METEOR"] < 100
    assert with_java.per_image["METEOR"][2] == 0  # without a word


@pytest.mark.whole
@needs_java
def test_java_version_is_reported(with_java):
    assert set(with_java.setup) == {"scorer", "tokenizer", "java"}
    assert with_java.setup["java"] == java.java_version(java.find_java())


@pytest.mark.whole
@needs_java
def test_spice_without_models_is_omitted(with_java):
    if java.missing_spice() is None:
        pytest.skip("SPICE's models are installed")
    assert "SPICE" not in with_java.metrics and "SPICE" not in with_java.per_image
    (note,) = with_java.notes
    assert java.GET_SPICE_MODELS in note


@needs_java
def test_pycocoevalcap_prints_nothing(capfd):
    for measure in (pycocoevalcap_cider, pycocoevalcap_bleu, pycocoevalcap_rouge):
        measure([["a", "cat"]], [[["a", "dog"]]])
    assert capfd.readouterr() == ("", "")


# a stub of all three programs
THREE_PROGRAMS = """
if "edu.stanford.nlp.process.PTBTokenizer" in arguments:
    sys.stdout.write(sys.stdin.read().lower())
elif "Meteor" in arguments:
    for line in sys.stdin:
        answer = "1.0 " * 23 if line.startswith("SCORE") else "0.5\\n" * line.count("|||") + "0.25"
        print(answer, flush=True)
else:
    images = json.load(open(arguments[-2]))
    scores = [{{"image_id": n, "scores": {{"All": {{"f": f}}}}}} for n, f in enumerate({spice})]
    open(arguments[-1], "w").write(json.dumps(scores))
"""


@pytest.fixture
def with_spice(tmp_path, monkeypatch):
    """Score with stubs of the three programs; SPICE returns the given scores."""

    def scored(spice):
        install_pycocoevalcap(tmp_path, monkeypatch, *java.SPICE_MODELS)
        install_java(tmp_path, monkeypatch, THREE_PROGRAMS.format(spice=spice))
        return score(CAPTIONS, REFERENCES, "java")

    return scored


@needs_java
def test_spice_is_the_last_metric(with_spice):
    found = with_spice([0.25, 0.5, 0])
    assert list(found.metrics) == [*IN_PYTHON, "METEOR", "SPICE"]
    assert found.metrics["METEOR"] == 25 and found.metrics["SPICE"] == 25
    np.testing.assert_array_equal(found.per_image["SPICE"], [25, 50, 0])
    assert not found.notes


@needs_java
def test_undefined_spice_is_noted(with_spice):
    found = with_spice([0.25, None, 0])
    assert math.isnan(found.metrics["SPICE"])
    np.testing.assert_array_equal(found.per_image["SPICE"], [25, np.nan, 0])
    (note,) = found.notes
    assert "1 of 3 images" in note


@needs_java
def test_failing_java_is_not_replaced(tmp_path, monkeypatch):
    install_java(tmp_path, monkeypatch, 'sys.exit("no memory")')
    with raises_code("captioning.java_failed", "no memory"):
        score(CAPTIONS, REFERENCES, "auto")
