"""VOC's lists and XML of unknown origin are read, or refused with the file and what is wrong."""

import os
import re
from functools import partial

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import example, given
from hypothesis import strategies as st

from tests.hostile.data_mutations import broken
from tests.hostile.data_runs import guarded, outcome, require_plain, run
from tests.hostile.toy_root import copied, smallest
from virtex.data.voc import read_voc07
from virtex.detectron.datasets import register_detection_sets, require_paths
from virtex.detectron.evaluation import VOCEvaluator
from virtex.eval_tools import check_data
from virtex.tasks import TASKS

LISTED = "VOC2007/ImageSets/Main/test.txt"
CLASSES = "VOC2007/ImageSets/Main/cat_test.txt"
STEM = (smallest() / LISTED).read_text().split()[0]
XML = f"VOC2007/Annotations/{STEM}.xml"
WHOLE = (smallest() / XML).read_text()
TAGS = re.findall(r"<(\w+)>", WHOLE)
TEXTS = (
    *("", "nan", "inf", "-inf", "1e400", "-1", "0", "1.5", "9" * 400, "9" * 5000, "100001", "x"),
    *("\u0661\u0662", "1_000", " 7 ", "0x10", "True", "unicorn", "cat ", "../../../etc/passwd"),
    *("&laugh;", "&amp;", "&#0;", "&#xD800;", "<![CDATA[12]]>", "<deep/>", "\x1b[31m", "]]>"),
)
LAUGHS = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
BOMB = f'<!DOCTYPE x [<!ENTITY a0 "ha">{LAUGHS}]>'
QUADRATIC = f'<!DOCTYPE x [<!ENTITY a11 "{"h" * 100_000}">]>'
EXTERNAL = '<!DOCTYPE x [<!ENTITY a11 SYSTEM "{}">]>'
HEADS = (
    *(BOMB, QUADRATIC, EXTERNAL.format("file://{top}/outside/secret.jpg")),
    *('<?xml version="1.0" encoding="klingon"?>', '<?xml version="1.0" encoding="utf-16"?>'),
    *('<?xml version="1.0" encoding="utf-7"?>', '<?xml version="9"?>', "\ufeff", "<a>" * 50_000),
    *('<!DOCTYPE x SYSTEM "file://{top}/outside/secret.jpg">', "<a/>", "\0"),
)
STEMS = (
    *("../../outside/secret", "{top}/outside/secret", "..", ".", "a\0b", "x" * 300, "\x1b[31m"),
    *(
        "\u2028",
        "a b",
        "\u00e9",
        STEM,
        f"./{STEM}",
        f"{STEM}.jpg",
        "{0}",
        "-1",
        "",
        "\x0c",
        "\ufeff",
    ),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return copied(tmp_path_factory.mktemp("voc"), "VOC2007", "VOC2012")


def read_all(root, path):
    """As check_data, the detectors and the SVM read it; a scorer can read what is taken."""
    with guarded(root.parent / "outside"):
        for task in ("voc", "voc07_svm"):
            status, out, err = run(check_data, "--data-root", root, "--task", task)
            require_plain(status, err, root / path, root)
            outcome(partial(TASKS[task].read_data, root), root)
            assert all(c.isprintable() or c == "\n" for c in out + err)
        register_detection_sets(root)
        outcome(partial(read_voc07, root, "test"), root / path, root)
        if outcome(partial(detection_samples, "voc_2007_test"), root / path, root):
            evaluator = VOCEvaluator("voc_2007_test")
            evaluator.reset()
            assert evaluator.evaluate()["bbox/AP"] >= 0


def detection_samples(name):
    samples = DatasetCatalog.get(name)
    require_paths(sample["file_name"] for sample in samples)
    assert MetadataCatalog.get(name).split == "test"


@st.composite
def voc_xml(draw):
    """VOC's XML with tags that are lost, twice there or hold other text; perhaps another head."""
    text = WHOLE
    for _ in range(draw(st.integers(0, 2))):
        tag = draw(st.sampled_from(TAGS))
        found = re.search(rf"<{tag}>.*?</{tag}>", text, re.DOTALL)
        if not found:
            continue
        other = draw(st.sampled_from([*TEXTS, "&a11;", "&a11;" * 200, found[0], None]))
        instead = "" if other is None else f"<{tag}>{other}</{tag}>"
        text = text[: found.start()] + instead + text[found.end() :]
    head = draw(st.sampled_from(["", "", *HEADS]))
    return head + text


@st.composite
def lists(draw, original, words):
    """A text file with lines that are lost, twice there, joined, or hold other words."""
    lines = original.splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines)))
        word = draw(st.sampled_from(words))
        end = draw(st.sampled_from(["\n", "\r\n", "\r", "", "\n\n", "\x0b", "\u2028"]))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            lines.insert(at, f"{word}{end}")
        elif lines and kind == 1:
            lines[min(at, len(lines) - 1)] = f"{word}{end}"
        elif lines and kind == 2:
            del lines[min(at, len(lines) - 1)]
        else:
            lines.append(end)
    return "".join(lines)


def spoil(root, path, text):
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    (root / path).write_bytes(content.replace(b"{top}", os.fsencode(root.parent)))


@given(voc_xml())
@example(BOMB + WHOLE.replace(">0<", ">&a11;<"))
@example(QUADRATIC + WHOLE.replace("VOC2007<", "&a11;" * 1000 + "<"))
@example(HEADS[2] + WHOLE.replace("<pose>", "<pose>&a11;"))
@example('<?xml version="1.0" encoding="klingon"?>' + WHOLE)
@example(WHOLE.replace("<truncated>0", "<truncated>"))
@pytest.mark.timeout(3000)
def test_any_xml_file_is_read_or_rejected(root, text):
    try:
        spoil(root, XML, text)
        read_all(root, XML)
    finally:
        spoil(root, XML, WHOLE)


@given(broken(WHOLE))
@pytest.mark.timeout(3000)
def test_corrupted_xml_file_is_read_or_rejected(root, content):
    try:
        spoil(root, XML, content)
        read_all(root, XML)
    finally:
        spoil(root, XML, WHOLE)


@given(st.sampled_from([LISTED, CLASSES]), st.data())
@pytest.mark.timeout(3000)
def test_any_list_is_read_or_rejected(root, path, data):
    before = (smallest() / path).read_text()
    words = [*STEMS, *(f"{stem} {label}" for stem in STEMS[:3] for label in ("1", "2", ""))]
    try:
        spoil(root, path, data.draw(st.one_of(lists(before, words), broken(before))))
        read_all(root, path)
    finally:
        spoil(root, path, before)


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device"])
def test_non_regular_annotation_file(root, kind):
    make = {
        "pipe": lambda path: os.mkfifo(path),
        "folder": lambda path: path.mkdir(),
        "loop": lambda path: path.symlink_to(path),
        "device": lambda path: path.symlink_to("/dev/zero"),
    }
    for path in (XML, LISTED, CLASSES):
        (root / path).rename(root / "aside")
        make[kind](root / path)
        try:
            read_all(root, path)
        finally:
            (root / path).rmdir() if kind == "folder" else (root / path).unlink()
            (root / "aside").rename(root / path)
