"""eval_tools/model_zoo.py as a user runs it, and virtex:// as a checkpoint's name."""

import json
import subprocess
import sys

import pytest
import torch
import torchvision
import yaml

from tests.checkpoints.fault_server import Answer, start_server
from virtex import zoo
from virtex.checkpoints import http_download
from virtex.cli import run_tool
from virtex.config import load_config
from virtex.eval_tools import inspect_checkpoint, model_zoo


@pytest.fixture(autouse=True)
def isolated_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VIRTEX_ZOO", "")


@pytest.fixture
def tool(capsys):
    """Run the tool; return the exit status, stdout and stderr."""

    def run(*argv):
        with pytest.raises(SystemExit) as exit:
            run_tool(model_zoo.main, model_zoo.build_parser(), list(map(str, argv)))
        shown = capsys.readouterr()
        return exit.value.code, shown.out, shown.err

    return run


@pytest.fixture
def shelf(tmp_path):
    """A zoo file with one model, whose file a local server has."""
    faults, running = start_server()
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "m.pth")
    content = (tmp_path / "m.pth").read_bytes()
    url = faults.serve("/m.pth", content, Answer(cut=10_000_000), Answer())
    path = tmp_path / "zoo.yaml"
    path.write_text(f"models: {{my/model: {{urls: [{url}], arch: resnet18}}}}")
    yield path
    running.shutdown()
    running.server_close()


def test_list_shows_published_numbers(tool):
    status, out, _ = tool("list")
    assert status == 0
    assert len(out.splitlines()) == len(zoo.entries()) + 2
    line = next(line for line in out.splitlines() if line.startswith("width_ablations/bicapt"))
    assert "voc07_svm mAP 88.4, imagenet_linear top1 51.8" in line


def test_list_as_json_has_all_fields(tool):
    status, out, _ = tool("list", "moco/", "--json")
    found = json.loads(out)
    assert status == 0
    assert [entry["name"] for entry in found] == ["moco/v1_200ep", "moco/v2_200ep", "moco/v2_800ep"]
    last = found[-1]
    assert last["urls"][0].endswith("moco_v2_800ep_pretrain.pth.tar")
    assert last["cached"] is None and last["pinned_sha256"] is None
    values = {result["metric"]: result["value"] for result in last["results"]}
    assert values["bbox/AP50"] == 82.5


@pytest.mark.parametrize("patterns", [("MOCO/",), ("moco/*",), ("moco/v1*", "moco/v2")])
def test_patterns_are_substrings_or_wildcards(tool, patterns):
    assert [line.split()[0] for line in tool("list", *patterns)[1].splitlines()[2:]] == [
        "moco/v1_200ep",
        "moco/v2_200ep",
        "moco/v2_800ep",
    ]


def test_pattern_without_a_match_is_an_error(tool):
    status, _, err = tool("list", "nothing-of-that")
    assert status == 2
    assert "nothing-of-that" in err and "[zoo.no_match]" in err


@pytest.mark.parametrize(
    "name", ["depth_ablations/bicaptioning_R_50_L4_H1024", "token_classification_R_50"]
)
def test_config_reproduces_the_model(tool, tmp_path, name):
    path = tmp_path / "new" / "config.yaml"
    assert tool("config", name, "-o", path)[:2] == (0, f"{path}\n")
    assert load_config(path) == load_config(zoo.find(name).config)
    assert tool("config", name)[1] == path.read_text()


def test_config_is_found_beside_the_zoo_file(tool, tmp_path):
    tool("config", "token_classification_R_50", "-o", tmp_path / "zoo" / "ours.yaml")
    path = tmp_path / "zoo" / "zoo.yaml"
    path.write_text(
        "models: {our/model: {urls: [https://a.org/m.pth], holds: model, config: ours.yaml}}"
    )
    status, out, _ = tool("config", "our/model", "--zoo", path)
    assert status == 0
    assert yaml.safe_load(out)["MODEL"]["NAME"] == "token_classification"


def test_backbone_has_the_config_of_its_model(tool):
    _, out, _ = tool("config", "hub/resnet50")
    assert out.startswith("# hub/resnet50: the backbone of a model of this config\n")
    assert yaml.safe_load(out)["MODEL"]["TEXTUAL"]["NAME"].endswith("L1_H2048_A32_F8192")


def test_foreign_model_has_no_config(tool):
    status, _, err = tool("config", "moco/v2_800ep")
    assert status == 2
    assert "moco/v2_800ep" in err and "https://" in err and "[zoo.no_config]" in err


def test_config_replaces_no_other_file(tool, tmp_path):
    (tmp_path / "mine.yaml").write_text("mine")
    status, _, err = tool("config", "hub/resnet50", "-o", tmp_path / "mine.yaml")
    assert status == 2 and "mine.yaml" in err and "[zoo.output]" in err
    assert (tmp_path / "mine.yaml").read_text() == "mine"


def test_config_that_cannot_be_written_is_an_error(tool, tmp_path):
    status, _, err = tool("config", "hub/resnet50", "-o", tmp_path)
    assert status == 2
    assert f"--output {tmp_path}" in err and "[zoo.output]" in err


def test_download_prints_its_path(tool, shelf, tmp_path):
    status, out, _ = tool("download", "my/model", "--zoo", shelf)
    assert status == 0
    path = out.strip()
    assert path.startswith(str(tmp_path / "cache"))
    with open(path, "rb") as file, open(tmp_path / "m.pth", "rb") as wanted:
        assert file.read() == wanted.read()
    found = json.loads(tool("list", "my/model", "--json", "--zoo", shelf)[1])
    assert found[0]["cached"] == path
    assert len(found[0]["pinned_sha256"]) == 64


def test_copy_is_written_to_the_named_folder(tool, shelf, tmp_path):
    copy = tmp_path / "models" / "m.pth"
    for _ in range(2):  # an existing copy is kept
        status, out, _ = tool("download", "model", "--zoo", shelf, "-o", tmp_path / "models")
        assert (status, out) == (0, f"{copy}\n")
    assert copy.read_bytes() == (tmp_path / "m.pth").read_bytes()
    assert [path.name for path in copy.parent.iterdir()] == ["m.pth"]
    assert json.loads(tool("list", "my/model", "--json", "--zoo", shelf)[1])[0]["cached"]


def test_copy_replaces_no_other_file(tool, shelf, tmp_path):
    copy = tmp_path / "models" / "m.pth"
    copy.parent.mkdir()
    copy.write_bytes(b"another model")
    status, out, err = tool("download", "model", "--zoo", shelf, "-o", copy.parent)
    assert (status, out) == (2, "")
    assert str(copy) in err and "[zoo.download]" in err
    assert copy.read_bytes() == b"another model"


def test_folder_that_cannot_be_made_is_an_error(tool, shelf):
    status, _, err = tool("download", "model", "--zoo", shelf, "-o", shelf)
    assert status == 2 and f"{shelf}/m.pth" in err


def test_failed_download_stops_no_other(tool, shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(http_download, "BACK_OFF", 0.01)
    text = shelf.read_text()
    address = text.partition("[")[2].partition("/m.pth")[0]
    shelf.write_text(f"{text[:-1]}, my/other: {{urls: [{address}/gone.pth]}}}}")
    status, out, err = tool("download", "other", "model", "--zoo", shelf)
    assert status == 2 and out.endswith("m.pth\n")
    assert "gone.pth" in err and "404" in err and "[zoo.download]" in err


def test_unknown_name_stops_before_any_download(tool, shelf, tmp_path):
    status, out, err = tool("download", "my/model", "my/modl", "--zoo", shelf)
    assert (status, out) == (2, "")
    assert "my/modl" in err and "my/model" in err and "[zoo.unknown_model]" in err
    assert not (tmp_path / "cache").exists()


def test_invalid_zoo_file_is_one_line(tool, tmp_path):
    (tmp_path / "zoo.yaml").write_text("models:\n  a:\n    url: x\n")
    status, _, err = tool("list", "--zoo", tmp_path / "zoo.yaml")
    assert status == 2
    assert err.count("\n") == 1 and "models.a.url" in err and "[zoo.invalid]" in err


def test_without_a_command_the_usage_is_shown():
    command = [sys.executable, "eval_tools/model_zoo.py"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2 and "COMMAND" in found.stderr


def test_entry_is_a_checkpoint_name(tool, shelf, capsys):
    argv = ["virtex://my/model", "--zoo", str(shelf), "--json"]
    with pytest.raises(SystemExit) as exit:
        run_tool(inspect_checkpoint.main, inspect_checkpoint.build_parser(), argv)
    assert exit.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["complete"] and found["requested"] == "virtex://my/model"
