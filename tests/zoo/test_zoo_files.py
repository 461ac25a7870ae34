"""A zoo file is read whole, or the first thing wrong with it is said with line and key."""

import csv
from pathlib import Path

import pytest

from virtex import zoo
from virtex.checkpoints import InputSpec
from virtex.errors import UserError
from virtex.zoo.entries import entries_of
from virtex.zoo.files import cached_file

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


@pytest.fixture
def written(tmp_path):
    def write(text, name="zoo.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def problem(path):
    with pytest.raises(UserError) as error:
        entries_of(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_entry_is_read_with_what_is_silent_filled_in(written):
    path = written(WHOLE)
    entry = entries_of(path)["my/model"]
    assert entry.urls == ("https://a.org/m.pth?dl=1", "http://b.org/m.pth")
    assert (entry.file, entry.sha256, entry.size) == ("m.pth", "0123abcd", 100)
    assert (entry.arch, entry.format, entry.holds, entry.config) == (
        "resnet18",
        "auto",
        "backbone",
        "",
    )
    assert entry.input == InputSpec("RGB", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 1.0)
    result = zoo.PublishedResult(
        "my/model", "voc07_svm", "paper", "mAP", 80.0, "our paper", "resnet18", "my/model"
    )
    assert entry.results == (result,)
    assert entry.zoo_file == path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("license: MIT", "license: MIT", "models.my/model.license: unknown; there is urls, file"),
        ("size: 100", "size: 1e2", "line 8, models.my/model.size: it should be a whole number"),
        ("size: 100", "size: yes", "line 8, models.my/model.size: it should be a whole number"),
        ('"0123ABCD"', "01234567", "line 7, models.my/model.sha256: it should be 8 to 64 hex"),
        ('"0123ABCD"', '"0123"', "line 7, models.my/model.sha256: it should be 8 to 64 hex"),
        ('["https://a.org/m.pth?dl=1", http://b.org/m.pth]', "https://a.org/m.pth", "line 6, "),
        ('"https://a.org/m.pth?dl=1"', "file:///etc/passwd", "line 6, models.my/model.urls: it sh"),
        ('"https://a.org/m.pth?dl=1"', "https://[", "not YAML"),
        ('["https://a.org/m.pth?dl=1", http://b.org/m.pth]', "[]", "line 6, models.my/model.urls"),
        ("size: 100", "file: ../m.pth", "line 8, models.my/model.file: it should be a file name"),
        ("size: 100", "file: .bashrc", "line 8, models.my/model.file: it should be a file name"),
        ("size: 100", "holds: all", "line 8, models.my/model.holds: it should be backbone or mod"),
        ("size: 100", "size: 1\n    size: 2", "line 9, models.my/model.size: it is there twice"),
        ("std: [0.2, 0.2, 0.2]", "std: [0.2, 0, 0.2]", "line 1, models.my/model.input.std: it sho"),
        ("std: [0.2, 0.2, 0.2]", "std: [0.2, .nan, 1]", "line 1, models.my/model.input.std: it s"),
        ("channel_order: RGB, ", "", "line 9, models.my/model.input: it lacks channel_order"),
        ("scale: 1.0", "scale: 0.5", "line 1, models.my/model.input.scale: it should be 1.0 or"),
        ("value: 80", "value: high", "line 11, models.my/model.results.0.value: it should be a n"),
        (", source: our paper", "", "line 11, models.my/model.results.0: it lacks source: text"),
        ("      - {task", "      - x\n      - {task", "line 11, models.my/model.results.0: it "),
        ("my/model:", "../model:", "line 4, models.../model: a name is letters, digits"),
        ("my/model:", "7:", "line 4, models.7: a name is letters, digits"),
        ("models:", "model:", "line 3, model: unknown; there is models"),
        ("    <<: *mine", "    <<: *yours", "line 5 is not YAML: found undefined alias 'yours'"),
        ("size: 100", "holds: model", "models.my/model: it holds a model, of which it lacks"),
        ("size: 100", "size: 100\n   x: 1", "line 9 is not YAML"),
        ("size: 100", "license: !!python/object/apply:os.system [x]", "line 8 is not YAML: could"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_line_and_key(old, new, said, written):
    assert old in WHOLE
    path = written(WHOLE.replace(old, new))
    assert f"the zoo file {path}" in problem(path)
    assert said in problem(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no models"),
        ("[]", "it has no models"),
        ("models: []", "it has no models"),
        ("models: {a: 1}", "line 1, models.a: it should be a mapping with urls"),
        ("models: {a: {}}", "line 1, models.a: it lacks urls: a list of addresses"),
        ("models: {a: {urls: [https://a.org/m]}, a: {urls: [https://a.org/m]}}", "there twice"),
        ("[" * 5000, "nested too deeply"),
        ("a: 2020-99-99", "is not YAML"),
        ("\x00", "is not YAML"),
        ("models: {a: {urls: [https://a.org/m?dl=1]}}", "(an address with ? belongs in quotes)"),
        ("models: {a: {urls: ['https://a.org/?dl=1']}}", "a list of addresses of a file"),
    ],
)
def test_what_is_no_zoo_is_said(text, said, written):
    assert said in problem(written(text))


def test_anchors_that_multiply_are_no_trap(written):
    levels = ["x-0: &a0 [x]"] + [f"x-{n}: &a{n} [{f'*a{n - 1}, ' * 9}]" for n in range(1, 12)]
    text = "\n".join([*levels, "models: {a: {urls: *a11}}"])
    assert "models.a.urls: it should be a list of addresses" in problem(written(text))


def test_merges_that_multiply_are_no_trap(written):
    levels = ["x-0: &a0 {k: v}"]
    levels += [f"x-{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 40)]
    text = "\n".join([*levels, "models: {}"])
    assert "<<: it takes one mapping, *name" in problem(written(text))


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    assert "cannot be read: No such file" in problem(tmp_path / "absent.yaml")
    assert "cannot be read: Is a directory" in problem(tmp_path)
    (tmp_path / "zoo.yaml").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text; name a YAML file" in problem(tmp_path / "zoo.yaml")


def test_files_of_ones_own_stand_beside_the_packaged_one(written, monkeypatch):
    other = written("models: {your/model: {urls: [https://c.org/m.pth]}}", "other.yaml")
    monkeypatch.setenv("VIRTEX_ZOO", f"{written(WHOLE)}:{other}:")
    assert zoo.find("my/model").urls[0] == "https://a.org/m.pth?dl=1"
    assert zoo.find("your/model").zoo_file == other
    assert zoo.find("hub/resnet50").zoo_file == zoo.ZOO_FILE


def test_a_name_in_two_files_is_refused(written, monkeypatch):
    path = written("models: {hub/resnet50: {urls: [https://c.org/m.pth]}}")
    monkeypatch.setenv("VIRTEX_ZOO", str(path))
    with pytest.raises(UserError, match=f"{path} has a model 'hub/resnet50', and .*rename yours"):
        zoo.entries()


def test_a_changed_file_is_read_again(written, monkeypatch):
    path = written(WHOLE)
    monkeypatch.setenv("VIRTEX_ZOO", str(path))
    assert zoo.find("my/model").size == 100
    path.write_text(WHOLE.replace("size: 100", "size: 200"))
    assert zoo.find("my/model").size == 200


# The packaged file


def test_every_packaged_entry_says_all_there_is_to_say():
    from virtex.checkpoints.formats import get_format
    from virtex.config import packaged_configs

    for name, entry in entries_of(zoo.ZOO_FILE).items():
        assert get_format(entry.format).name == entry.format, name
        said = (entry.arch, entry.license, entry.source, entry.pretraining_data, entry.input)
        assert all(said), name
        assert all(url.startswith("https://") for url in entry.urls), name
        assert entry.config in ("", *packaged_configs()), name
        assert entry.config or entry.holds == "backbone", name
        assert entry.source.startswith("https://"), name


def test_every_published_number_is_under_a_packaged_protocol():
    from virtex.tasks import TASKS

    known = {
        (task, protocol.name)
        for task, named in ((name, task.protocols) for name, task in TASKS.items())
        for protocol in named.values()
    }
    found = zoo.published_results()
    assert {(result.task, result.protocol) for result in found} <= known
    assert all(0 < result.value < 100 and result.source for result in found)


def test_every_published_number_is_there_once():
    found = [(r.model, r.task, r.protocol, r.metric) for r in zoo.published_results()]
    assert len(found) == len(set(found)) == 90


def test_the_list_and_the_numbers_of_other_models_do_not_overlap():
    with open(Path(zoo.ZOO_FILE).with_name("published_results.csv"), newline="") as file:
        others = {row["model"] for row in csv.DictReader(file)}
    assert not others & set(zoo.entries())


@pytest.mark.parametrize("name", ["resnet50", "resnext101_64x4d", "wide_resnet101_2"])
def test_torchvisions_addresses_are_those_that_torchvision_gives(name):
    import torchvision

    weights = torchvision.models.get_model_weights(name)
    entry = zoo.find(f"torchvision/{name}")
    assert entry.urls == (weights["IMAGENET1K_V1"].url,)
    assert f"-{entry.sha256}." in entry.urls[0]


def test_a_measured_model_finds_its_entry_by_name_address_or_hash():
    entry = zoo.find("torchvision/resnet50")
    whole = entry.sha256 + "0" * 56
    assert zoo.matching("virtex://torchvision/resnet50", whole) == entry
    assert zoo.matching(entry.urls[0], whole) == entry
    assert zoo.matching("some/file.pth", whole) == entry
    assert zoo.matching("some/file.pth", "0" * 64) is None
    assert zoo.matching("torchvision/resnet50", "0" * 64) is None  # a folder of that name
    best = zoo.find("task_ablations/bicaptioning_R_50_L1_H2048")
    assert zoo.matching("virtex://bicaptioning_R_50_L1_H2048", "0" * 64) == best


def test_a_measured_model_of_another_hash_is_not_the_entrys():
    assert zoo.matching("virtex://torchvision/resnet50", "f" * 64) is None
    assert zoo.matching("virtex://a/model/of/a/file/not/given", "f" * 64) is None


def test_numbers_of_ones_own_for_a_packaged_config_are_kept(written, monkeypatch):
    path = written(
        WHOLE.replace("    size: 100", "    config: task_ablations/bicaptioning_R_50_L1_H2048")
    )
    monkeypatch.setenv("VIRTEX_ZOO", str(path))
    assert [r.value for r in zoo.published_results() if r.model == "my/model"] == [80.0]


def test_files_of_one_name_have_places_of_their_own(written, monkeypatch):
    rows = [f"{name}: {{urls: [https://h.org/{name}.pth], file: m.pth}}" for name in "ab"]
    text = f"models: {{{', '.join(rows)}}}"
    monkeypatch.setenv("VIRTEX_ZOO", str(written(text)))
    first, second = (cached_file(zoo.find(name)) for name in ("a", "b"))
    assert first.name == second.name == "m.pth" and first != second
