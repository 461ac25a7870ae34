"""Models have the tensor names and shapes of the published checkpoints."""

import json
from pathlib import Path

import pytest
import torch

from virtex.config import load_config, packaged_configs
from virtex.pretraining.models.build import build_model

PUBLISHED = json.loads(Path(__file__).with_name("published_state_dicts.json").read_text())
VISUAL = PUBLISHED.pop("visual")  # the same ResNet-50 in every one of them


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_tensors(name):
    with torch.device("meta"):
        model = build_model(load_config(name))
    ours = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert ours == VISUAL | PUBLISHED[name]


@pytest.mark.parametrize("name", sorted(packaged_configs()))
def test_packaged_config_builds(name):
    with torch.device("meta"):
        model = build_model(load_config(name))
    assert all(key.startswith(("visual.", "textual.", "backward_")) for key in model.state_dict())


def test_published_file_loads_strictly(tmp_path):
    """Tied tensors are stored once under each name."""
    name = "depth_ablations/bicaptioning_R_50_L2_H1024"
    shapes = VISUAL | PUBLISHED[name]
    tensors = {
        key: torch.full(shape, 0.5) if shape else torch.tensor(7) for key, shape in shapes.items()
    }
    torch.save({"model": tensors, "iteration": 500000}, tmp_path / "published.pth")
    stored = torch.load(tmp_path / "published.pth", weights_only=True)["model"]
    model = build_model(load_config(name))
    model.load_state_dict(stored, strict=True)
    assert (model.textual.transformer.layers[1].linear2.weight == 0.5).all()
    assert model.visual.cnn.bn1.num_batches_tracked == 7
