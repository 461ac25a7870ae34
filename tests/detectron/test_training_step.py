"""Gradient accumulation, mixed precision and the moving average of weights."""

import itertools
import random
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import SimpleTrainer
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.detectron.tiny_networks import TinyArch, TinyFamily, make_backbone
from tests.errors import raises_code
from tests.run_states import assert_equal
from virtex.backbones.registry import FAMILIES, get_families
from virtex.detectron.adapters import convert_backbone
from virtex.detectron.datasets import register_detection_sets, training_samples
from virtex.detectron.ema import MovingAverage
from virtex.detectron.loading import ResumableBatches
from virtex.detectron.settings import build_settings
from virtex.detectron.trainer import Trainer, build_detector
from virtex.detectron.training_step import (
    LossNormalizer,
    TrainingStep,
    keep_float32,
    require_compiler,
)
from virtex.engine.randomness import seed_everything
from virtex.tasks import packaged_protocol


class TinyDetector(nn.Module):
    """Two losses, each a mean over the images of a batch."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, batch):
        found = self.layers(torch.stack([sample["image"] for sample in batch])).float()
        return {"loss_cls": found[:, 0].square().mean(), "loss_box": found[:, 1].abs().mean()}


def make_batches(size, count=100):
    """The same samples, whatever the size of a batch."""
    images = torch.randn(size * count, 6, generator=torch.Generator().manual_seed(1))
    samples = [{"image": image} for image in images]
    return iter([samples[i : i + size] for i in range(0, len(samples), size)])


def train(step_type, size, *arguments, model=None, iterations=3):
    """Train a tiny detector; return it and the losses that were logged."""
    model = model or TinyDetector()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step, logged = step_type(model, make_batches(size), optimizer, *arguments), []
    with EventStorage() as storage:
        for step.iter in range(iterations):
            storage.iter = step.iter
            step.run_step()
            names = ("total_loss", "loss_cls", "loss_box")
            logged.append([storage.history(name).latest() for name in names])
    return model, torch.tensor(logged)


def test_one_micro_batch_matches_detectron2():
    (ours, our_losses), (model, losses) = train(TrainingStep, 8), train(SimpleTrainer, 8)
    assert_equal(ours.state_dict(), model.state_dict())
    assert torch.equal(our_losses, losses)


def test_micro_batches_train_as_the_whole_batch():
    (ours, our_losses), (model, losses) = train(TrainingStep, 2, 4), train(SimpleTrainer, 8)
    torch.testing.assert_close(ours.state_dict(), model.state_dict())
    torch.testing.assert_close(our_losses, losses)


def test_micro_batches_train_as_the_whole_batch_in_bfloat16():
    (ours, _), (model, _) = train(TrainingStep, 2, 4, torch.bfloat16), train(SimpleTrainer, 8)
    difference = max(
        (ours.state_dict()[name] - tensor).abs().max()
        for name, tensor in model.state_dict().items()
    )
    assert 0 < difference < 0.02


def test_float16_is_scaled():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    ours, _ = train(TrainingStep, 2, 4, torch.float16, scaler)
    torch.testing.assert_close(
        ours.state_dict(), train(SimpleTrainer, 8)[0].state_dict(), atol=2e-3, rtol=0
    )


def test_overflow_skips_the_step():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    model, _ = train(TrainingStep, 2, 2, torch.float16, scaler, iterations=1)
    assert_equal(model.state_dict(), TinyDetector().state_dict())
    assert scaler.get_scale() == 2.0**59


def test_loss_that_is_not_finite_changes_no_weight():
    model = TinyDetector()
    with torch.no_grad():
        model.layers[2].bias[0] = torch.inf
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(FloatingPointError):
        train(TrainingStep, 2, 2, model=model)
    assert_equal(model.state_dict(), before)


def test_gradients_are_reduced_once_per_step():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model, reduced = nn.parallel.DistributedDataParallel(TinyDetector()), []

        def count(_, bucket):
            reduced.append(bucket)
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        model.register_comm_hook(None, count)
        train(TrainingStep, 2, 4, model=model, iterations=3)
    finally:
        dist.destroy_process_group()
    assert len(reduced) == 3
    expected, _ = train(SimpleTrainer, 8, iterations=3)
    torch.testing.assert_close(model.module.state_dict(), expected.state_dict())


@pytest.mark.parametrize("start", [0, 7])
def test_micro_batches_match_more_processes(start):
    """Compared with Detectron2's own grouping of each process's share of the stream."""
    shapes = random.Random(0)
    images = [{"width": shapes.choice([3, 5]), "height": 4, "index": i} for i in range(30)]

    def batches_of(rank):
        stream = TrainingSampler(len(images), seed=0)._infinite_indices()
        share = itertools.islice(stream, rank, 300, 3)
        return AspectRatioGroupedDataset([images[index] for index in share], 2)

    iterations = zip(*map(batches_of, range(3)), strict=False)
    expected = [
        [[image["index"] for image in batch] for batch in batches]
        for batches in itertools.islice(iterations, start, 20)
    ]
    wide = [image["width"] > image["height"] for image in images]
    ours = iter(ResumableBatches(TrainingSampler(30, seed=0), wide, 2, start, accumulate=3))
    found = [[[i for _, i in next(ours)] for _ in range(3)] for _ in range(start, 20)]
    assert found == expected
    assert len(expected) == 20 - start


def test_position_in_the_stream_does_not_depend_on_accumulation():
    def images(accumulate):
        batches = iter(
            ResumableBatches(TrainingSampler(30, seed=0), None, 12 // accumulate, 2, accumulate)
        )
        return [sorted(one for _ in range(accumulate) for one in next(batches)) for _ in range(5)]

    assert images(1) == images(4)
    assert images(1)[0][0][0] == 24


def test_bfloat16_does_not_move_boxes():
    features = (torch.arange(1024) >= 802).to(torch.bfloat16).expand(1, 1, 4, 1024)
    boxes = [Boxes(torch.tensor([[803.0, 0.0, 805.0, 4.0]]))]
    model = nn.ModuleList([ROIPooler(1, (1.0,), 0, "ROIAlignV2")])
    exact = model[0]([features.float()], boxes)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(model[0]([features], boxes).float(), exact)  # Detectron2's
        keep_float32(model)
        assert torch.equal(model[0]([features], boxes), exact)


def test_naive_sync_bn_computes_in_float32():
    model, features = nn.Sequential(NaiveSyncBatchNorm(2)), torch.randn(2, 2, 3, 3).bfloat16()
    expected = model(features.float())
    keep_float32(model)
    assert_equal(model(features), expected)


def test_compilation_without_a_compiler_is_refused():
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    no_compiler = config.patch({"cpp.cxx": ("no-such-compiler",)})
    refused = raises_code("environment.compiler", "MODEL.BACKBONE.COMPILE")
    with fresh_cache(), no_compiler, refused:
        require_compiler("cpu")


def test_normalizer_of_retinanet_is_restored():
    model = nn.Module()
    for value in (100.0, 2.5):
        saved = LossNormalizer(model).state_dict()
        assert saved == {"loss_normalizer": value}
        model.loss_normalizer = 2.5
    LossNormalizer(model).load_state_dict({"loss_normalizer": 7.0})
    assert model.loss_normalizer == 7.0


def test_moving_average():
    """Compared with that of torch."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = MovingAverage(model, 0.9)
    average.trainer = type("Owner", (), {"model": model})
    expected = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    expected.n_averaged.fill_(1)  # starts with the initial weights
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().sum().backward()
        optimizer.step()
        average.after_step()
        expected.update_parameters(model)
    counter = "1.num_batches_tracked"  # torch averages it, too
    found, reference = average.model.state_dict(), expected.module.state_dict()
    assert found.pop(counter) == 3
    reference.pop(counter)
    torch.testing.assert_close(found, reference)
    assert not torch.equal(found["0.weight"], model[0].weight)


@pytest.mark.whole
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_backbone_trains_as_the_eager_one(toy, tmp_path, monkeypatch):
    get_families()
    monkeypatch.setitem(FAMILIES, "tiny", TinyFamily())
    register_detection_sets(toy)
    small = {
        **{"MODEL.FPN.OUT_CHANNELS": 8, "MODEL.ROI_BOX_HEAD.FC_DIM": 8},
        **{"MODEL.ROI_MASK_HEAD.CONV_DIM": 8, "INPUT.MIN_SIZE_TRAIN": "(64,)"},
        **{"SOLVER.MAX_ITER": 1, "SOLVER.STEPS": "()", "SOLVER.IMS_PER_BATCH": 2},
        **{"DATALOADER.NUM_WORKERS": 0, "TEST.PRECISE_BN.NUM_ITER": 1},
    }
    trained, graphs = [], []
    for compiled in (False, True):
        overrides = [*map(str, itertools.chain(*small.items())), "MODEL.BACKBONE.COMPILE"]
        protocol = packaged_protocol("coco", "toy")
        settings = build_settings(protocol, [*overrides, str(compiled)], 1, "cpu")
        cfg = settings.cfg
        settings.set_from_checkpoint(convert_backbone(make_backbone(TinyArch()), cfg).settings)
        cfg.SEED, cfg.OUTPUT_DIR = 0, str(tmp_path / str(compiled))
        Path(cfg.OUTPUT_DIR).mkdir()
        seed_everything("detector", 0)
        model = build_detector(cfg)
        Trainer(cfg, model, training_samples(cfg)).train()
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        trained.append(model.state_dict())
    assert graphs == [0, 1]  # PreciseBN and evaluation run eagerly
    torch.testing.assert_close(trained[0], trained[1], atol=1e-4, rtol=1e-4)
