"""A zoo file of unknown origin is read, or rejected with an error that names its path."""

import os

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tests.hostile.data_mutations import broken, mutated
from tests.hostile.data_runs import guarded, require_plain, run
from virtex.eval_tools import model_zoo

WHOLE = {
    "x-shared": {"arch": "resnet18", "license": "MIT", "format": "torchvision"},
    "models": {
        "my/model": {
            "urls": ["https://a.org/m.pth?dl=1", "http://b.org:80/m.pth"],
            "file": "m.pth",
            "sha256": "0123abcd",
            "size": 100,
            "holds": "model",
            "config": "mine.yaml",
            "tokenizer": "mine.model",
            "input": {
                "channel_order": "RGB", "mean": [0.5] * 3, "std": [0.2] * 3, "scale": 1.0
            },
            "pretraining_data": "my own",
            "source": "https://a.org",
            "results": [
                {
                    "task": "voc07_svm", "protocol": "paper", "metric": "mAP", "value": 80.0,
                    "source": "ours",
                }
            ],
        },
        "other": {"urls": ["https://a.org/o.pth"]},
    },
}  # fmt: skip
ADDRESSES = (
    *("ftp://a.org/m.pth", "file:///etc/passwd", "https://../m.pth", "https://a.org/../../m.pth"),
    *("https://[::1/m", "https://a.org:99999999/m.pth", "https://u:p@../x/m.pth", "virtex://x"),
    *("https://a.org/" + "m" * 300, "https://a.org/" + "m/" * 900 + "m", "https://\u00e9.org/m"),
    *("https://a.org/m\0.pth", "https://a.org/m.pth\n", "javascript:alert(1)", "https://.x/m"),
)
CONFIGS = ("../outside/secret.yaml", "outside/../../outside/secret.yaml", ".", "mine.yaml/x")
# what YAML has beyond JSON
TEXTS = (
    "models: {a: {urls: *x}}", "&a [*a]", "models: &a {x: *a}", "models: {a: &b {input: *b}}",
    "? [1, 2]\n: 3", "? {a: 1}\n: 3", "models: {? [a] : {}}", "!!timestamp x", "!!int ''",
    "!!float ''", "!!bool x", "!!binary é", "!!omap x", "!!set x", "!!pairs [1]", "!!merge x: 1",
    "models: {1: {}, 0x10: {}, ~: {}}", f"0x{'f' * 9000}: 1", f"models: {{0x{'f' * 9000}: 1}}",
    f"models: {{a: {{size: 0x{'f' * 9000}}}}}", "models: {a: {size: 1:2:3:4}}", "---\n---\n",
    "!!python/object/apply:os.system ['false']", "!!python/name:os.system", "%YAML 9.9\n--- a",
    'models: {a: {urls: ["https://a.org/m"], license: "\\ud800"}}', "models: {<<: [{}, {}]}",
    'models: {a: {urls: ["https://a.org/m"], arch: "\\e[31m"}}', "models: {<<: *models}",
    'models: {a: {urls: ["https://a.org/m"], license: "\\n\\n"}}', "x" * 400_000, "[" * 100_000,
    "models: {a: {urls: [https://a.org/m], file: 'a\tb'}}", "- " * 20_000, "{" * 20_000, "\ufeff",
)  # fmt: skip
DOUBLED = "\n".join(
    ["x-0: &a0 {k: v}", *(f"x-{n}: &a{n} {{<<: *a{n - 1}, <<: *a{n - 1}}}" for n in range(1, 40))]
)
CHAINED = "\n".join(
    ["x-0: &a0 {k0: v}", *(f"x-{n}: &a{n} {{<<: *a{n - 1}, k{n}: v}}" for n in range(1, 1500))]
)
AROUND_ITSELF = "x-0: &a0 {<<: *a0}"


def as_yaml(content):
    """As a person would write it."""
    return yaml.safe_dump(content, allow_unicode=True, width=10**9)


@st.composite
def zoo_files(draw):
    if draw(st.integers(0, 5)) == 0:
        text = draw(st.sampled_from([*TEXTS, DOUBLED, AROUND_ITSELF]))
        return draw(st.sampled_from([text, f"{as_yaml(WHOLE)}{text}", f"{text}\n{as_yaml(WHOLE)}"]))
    content = draw(mutated(WHOLE, (*ADDRESSES, *CONFIGS)))
    return as_yaml(content).replace("\x01digits\x01", "9" * 5000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for a zoo file; beside it one that nobody has named."""
    top = tmp_path_factory.mktemp("zoo")
    (top / "outside").mkdir()
    (top / "outside/secret.yaml").write_text("OPTIM: {LR: 0.1}")
    (top / "zoo").mkdir()
    (top / "zoo/mine.yaml").write_text("OPTIM: {LR: 0.1}")
    return top / "zoo"


@pytest.fixture(autouse=True)
def isolated_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("VIRTEX_ZOO", "")


def look_at(folder, content):
    """List, list as JSON, print the config: all that reads a zoo file without the network."""
    path = folder / "zoo.yaml"
    path.write_bytes(content)
    for words in (["list", "my", "other"], ["list", "--json", "a"], ["config", "my/model"]):
        os.environ["VIRTEX_ZOO"] = ""
        with guarded(folder.parent / "outside"):
            status, out, err = run(model_zoo, *words, "--zoo", path)
        require_plain(status, err, path, "my/model", "mine.yaml", "config", "[zoo.no_match]")
        assert "\x1b" not in out
        assert "\x1b" not in err
        if str(path) in err:
            break  # it cannot be read, by whichever command
    assert sorted(os.listdir(folder)) == ["mine.yaml", "zoo.yaml"]


@given(zoo_files())
@example(DOUBLED)
@example(CHAINED)
@example(AROUND_ITSELF)
@example("models: {a: {urls: [https://../x/m.pth]}}")
@example('models: {a: {urls: ["https://a.org/m\\0.pth"]}}')
@example("models: {my/model: {urls: [https://a.org/m], config: ../outside/secret.yaml}}")
@example("#" * 600_000)
def test_any_zoo_file_is_read_or_rejected(folder, text):
    look_at(folder, text.encode("utf-8", "surrogatepass"))


@given(broken(as_yaml(WHOLE)))
def test_any_bytes_are_read_or_rejected_as_a_zoo_file(folder, content):
    look_at(folder, content)


@given(st.text(max_size=200))
def test_any_model_name_on_the_command_line(name):
    status, _, err = run(model_zoo, "config", f"x{name}")
    require_plain(status, err, "[zoo.")


def test_links_to_themselves_and_pipes_are_rejected(tmp_path, monkeypatch):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for name in ("loop", "pipe"):
        monkeypatch.setenv("VIRTEX_ZOO", "")  # which --zoo adds to
        status, _, err = run(model_zoo, "list", "--zoo", tmp_path / name)
        require_plain(status, err, tmp_path / name)
        assert status == 2
