"""A zoo file is read, or the first invalid field is named by its path."""

import csv

import pytest

from tests.errors import raises_code
from virtex import zoo
from virtex.checkpoints import InputSpec
from virtex.zoo.entries import entries_of
from virtex.zoo.files import cached_file
from virtex.zoo.published import RESULTS_FILE

WHOLE = """\
x-rgb: &rgb {channel_order: RGB, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2], scale: 1.0}
x-mine: &mine {arch: resnet18, license: MIT}
models:
  my/model:
    <<: *mine
    urls: ["https://a.org/m.pth?dl=1", http://b.org/m.pth]
    sha256: "0123ABCD"
    size: 100
    input: *rgb
    results:
      - {task: voc07_svm, protocol: paper, metric: mAP, value: 80, source: our paper}
"""
URLS = '["https://a.org/m.pth?dl=1", http://b.org/m.pth]'


@pytest.fixture
def written(tmp_path):
    def write(text, name="zoo.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_entry_is_read_with_defaults(written):
    path = written(WHOLE)
    entry = entries_of(path)["my/model"]
    assert entry.urls == ("https://a.org/m.pth?dl=1", "http://b.org/m.pth")
    assert (entry.file, entry.sha256, entry.size) == ("m.pth", "0123abcd", 100)
    assert (entry.arch, entry.format, entry.holds) == ("resnet18", "auto", "backbone")
    assert (entry.config, entry.license, entry.zoo_file) == ("", "MIT", path)
    assert entry.input == InputSpec("RGB", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 1.0)
    [result] = entry.results
    assert (result.model, result.arch, result.entry) == ("my/model", "resnet18", "my/model")
    assert (result.task, result.protocol, result.metric) == ("voc07_svm", "paper", "mAP")
    assert (result.value, result.source) == (80.0, "our paper")
    british = entries_of(written(WHOLE.replace("license", "licence"), "b.yaml"))["my/model"]
    assert british.license == "MIT"


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("size: 100", "sise: 100", "models.my/model.sise"),
        ("size: 100", "size: 1e2", "models.my/model.size"),
        ("size: 100", "size: yes", "models.my/model.size"),
        ('"0123ABCD"', "01234567", "models.my/model.sha256"),
        ('"0123ABCD"', '"0123"', "models.my/model.sha256"),
        (URLS, "https://a.org/m.pth", "models.my/model.urls"),
        (URLS, "[]", "models.my/model.urls"),
        (URLS, "[file:///etc/passwd]", "models.my/model.urls.0"),
        (URLS, "['https://a.org/?dl=1']", "models.my/model.urls.0"),
        (URLS, "['https://../m.pth']", "models.my/model.urls.0"),
        ("size: 100", "file: ../m.pth", "models.my/model.file"),
        ("size: 100", "file: .bashrc", "models.my/model.file"),
        ("size: 100", "config: ../mine.yaml", "models.my/model.config"),
        ("size: 100", "holds: all", "models.my/model.holds"),
        ("size: 100", "holds: model", "models.my/model"),
        ("std: [0.2, 0.2, 0.2]", "std: [0.2, 0, 0.2]", "models.my/model.input.std.1"),
        ("std: [0.2, 0.2, 0.2]", "std: [0.2, .nan, 1]", "models.my/model.input.std.1"),
        ("channel_order: RGB, ", "", "models.my/model.input.channel_order"),
        ("scale: 1.0", "scale: 0.5", "models.my/model.input.scale"),
        ("scale: 1.0", "scal: 255", "models.my/model.input.scal"),
        ("value: 80", "value: high", "models.my/model.results.0.value"),
        (", source: our paper", "", "models.my/model.results.0.source"),
        ("      - {task", "      - x\n      - {task", "models.my/model.results.0"),
        ("my/model:", "../model:", "models.../model"),
        ("my/model:", "7:", "models.7"),
        ("models:", "model:", "models"),
    ],
)
def test_invalid_field_is_named(old, new, path, written):
    assert old in WHOLE
    file = written(WHOLE.replace(old, new))
    with raises_code("zoo.invalid", f"{file}: {path}: ") as caught:
        entries_of(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (WHOLE.replace("size: 100", "size: 1\n    size: 2"), "line 9: invalid YAML"),
        (WHOLE.replace("*mine", "*yours"), "line 5: invalid YAML"),
        (WHOLE.replace("size: 100", "size: 100\n   x: 1"), "line 9: invalid YAML"),
        (WHOLE.replace("MIT", "!!python/object/apply:os.system [x]"), "line 2: invalid YAML"),
        ("models: {a: {urls: [https://a.org/m?dl=1]}}", "quote a URL that contains ?"),
        ("[" * 5000, "nested"),
        ("a: 2020-99-99", "invalid YAML"),
        ("\x00", "invalid YAML"),
        ("#" * 600_000, "500000 bytes"),
        ("", "dictionary"),
        ("[]", "dictionary"),
        ("models: []", "models: "),
        ("models: {a: 1}", "models.a: "),
        ("models: {a: {}}", "models.a.urls: "),
    ],
)
def test_invalid_file_is_named(text, named, written):
    path = written(text)
    with raises_code("zoo.invalid", path, named):
        entries_of(path)


@pytest.mark.parametrize("level", ["[{refs}]", "{{<<: [{refs}]}}"], ids=["anchors", "merges"])
def test_anchors_that_multiply_are_rejected(level, written):
    first = "x-0: &a0 {k: v}"
    levels = [
        f"x-{n}: &a{n} " + level.format(refs=", ".join([f"*a{n - 1}"] * 9)) for n in range(1, 40)
    ]
    path = written("\n".join([first, *levels, "models: {a: {urls: *a39}}"]))
    with raises_code("zoo.invalid", path):
        entries_of(path)


def test_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with raises_code("zoo.not_found", path):
            entries_of(path)
    (tmp_path / "zoo.yaml").write_bytes(b"\xff\xfe\x00")
    with raises_code("zoo.invalid", tmp_path / "zoo.yaml"):
        entries_of(tmp_path / "zoo.yaml")


def test_user_files_are_added_and_read_again(written, monkeypatch):
    other = written("models: {your/model: {urls: [https://c.org/m.pth]}}", "other.yaml")
    monkeypatch.setenv("VIRTEX_ZOO", f"{written(WHOLE)}:{other}:")
    assert zoo.find("my/model").size == 100
    assert zoo.find("your/model").zoo_file == other
    assert zoo.find("hub/resnet50").zoo_file == zoo.ZOO_FILE
    written(WHOLE.replace("size: 100", "size: 200"))
    assert zoo.find("my/model").size == 200


def test_name_in_two_files_is_an_error(written, monkeypatch):
    path = written("models: {hub/resnet50: {urls: [https://c.org/m.pth]}}")
    monkeypatch.setenv("VIRTEX_ZOO", str(path))
    with raises_code("zoo.duplicate", path, "hub/resnet50"):
        zoo.entries()


def test_packaged_entries_are_complete():
    from virtex.checkpoints.formats import get_format
    from virtex.config import packaged_configs

    for name, entry in entries_of(zoo.ZOO_FILE).items():
        assert get_format(entry.format).name == entry.format, name
        fields = (entry.arch, entry.license, entry.source, entry.pretraining_data, entry.input)
        assert all(fields), name
        assert all(url.startswith("https://") for url in (*entry.urls, entry.source)), name
        assert entry.config in ("", *packaged_configs()), name
        assert entry.config or entry.holds == "backbone", name


def test_published_numbers_are_of_packaged_protocols():
    from virtex.tasks import TASKS

    known = {(task.name, one.name) for task in TASKS.values() for one in task.protocols.values()}
    found = zoo.published_results()
    assert {(result.task, result.protocol) for result in found} <= known
    assert all(0 < result.value < 100 and result.source for result in found)
    numbers = [(r.model, r.task, r.protocol, r.metric) for r in found]
    assert len(numbers) == len(set(numbers)) == 152
    with open(RESULTS_FILE, newline="") as file:
        others = {row["model"] for row in csv.DictReader(file)}
    assert not others & set(zoo.entries())


@pytest.mark.parametrize("name", ["resnet50", "resnext101_64x4d", "wide_resnet101_2"])
def test_torchvision_addresses_are_those_of_torchvision(name):
    import torchvision

    weights = torchvision.models.get_model_weights(name)
    entry = zoo.find(f"torchvision/{name}")
    assert entry.urls == (weights["IMAGENET1K_V1"].url,)
    assert f"-{entry.sha256}." in entry.urls[0]


def test_model_matches_its_entry_by_name_address_or_hash():
    entry = zoo.find("torchvision/resnet50")
    whole = entry.sha256 + "0" * 56
    assert zoo.match_entry("virtex://torchvision/resnet50", whole) == entry
    assert zoo.match_entry(entry.urls[0], whole) == entry
    assert zoo.match_entry("some/file.pth", whole) == entry
    assert zoo.match_entry("some/file.pth", "0" * 64) is None
    assert zoo.match_entry("torchvision/resnet50", "0" * 64) is None  # a folder of that name
    assert zoo.match_entry("virtex://torchvision/resnet50", "f" * 64) is None
    assert zoo.match_entry("virtex://not/in/any/file", "f" * 64) is None
    best = zoo.find("task_ablations/bicaptioning_R_50_L1_H2048")
    assert zoo.match_entry("virtex://bicaptioning_R_50_L1_H2048", "0" * 64) == best


def test_own_numbers_of_a_packaged_config_are_kept(written, monkeypatch):
    path = written(
        WHOLE.replace("    size: 100", "    config: task_ablations/bicaptioning_R_50_L1_H2048")
    )
    monkeypatch.setenv("VIRTEX_ZOO", str(path))
    assert [r.value for r in zoo.published_results() if r.model == "my/model"] == [80.0]


def test_files_of_one_name_have_separate_places(written, monkeypatch):
    rows = [f"{name}: {{urls: [https://h.org/{name}.pth], file: m.pth}}" for name in "ab"]
    monkeypatch.setenv("VIRTEX_ZOO", str(written(f"models: {{{', '.join(rows)}}}")))
    first, second = (cached_file(zoo.find(name)) for name in ("a", "b"))
    assert first.name == second.name == "m.pth" and first != second
