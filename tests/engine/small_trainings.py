"""Tiny trainings, in one process and in two."""

import os
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import start_processes
from torch.nn import functional as F

from tests.faults.processes import torchrun_environments  # with its fork server
from tests.pretraining.small_models import VOCABULARY, some_captions
from virtex.config import default_config
from virtex.data.streams import TrainingStream
from virtex.engine.distributed import distribute, init_process_group, rank, world_size
from virtex.engine.loop import LoopSettings, RunningSums, TrainingLoop, objective
from virtex.engine.losses import LossSum, total_loss
from virtex.optim import Lookahead, build_optimizer, build_schedule
from virtex.pretraining.models.captioning import CaptioningModel
from virtex.pretraining.models.classification import ClassificationModel
from virtex.pretraining.models.masked_lm import MaskedLMModel
from virtex.pretraining.models.textual import LinearTextualHead, TransformerTextualHead
from virtex.pretraining.models.transformer import TransformerDecoder

FEATURES, IMAGES, BATCH, ITERATIONS = 16, 10, 4, 8
LENGTHS = [3, 30, 8, 17, 25, 4, 12, 29, 6, 20]
CLIP = 1e-3


class TinyVisual(nn.Module):
    """A grid of 2 x 2 features; convolution and BatchNorm where a backbone has its own."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, FEATURES, 8, stride=8), nn.BatchNorm2d(FEATURES))

    def forward(self, images):
        return self.cnn(images)


def small_head(dropout=0.0):
    transformer = TransformerDecoder(1, 32, 4, 64, dropout, False)
    return TransformerTextualHead(FEATURES, VOCABULARY, transformer, 32, dropout)


def textual_half(task):
    """A model in float64 that takes features for images."""
    torch.manual_seed(0)
    visual = nn.Identity()
    if task == "bicaptioning":
        model = CaptioningModel(visual, small_head(), bidirectional=True)
    elif task == "masked_lm":
        model = MaskedLMModel(visual, small_head())
    else:
        model = ClassificationModel(visual, LinearTextualHead(FEATURES, VOCABULARY), (0, 1, 2, 3))
    return model.double()


def images_of(indices, channels, size, dtype=torch.float32):
    """Random images determined by their indices."""
    return torch.stack(
        [
            torch.randn(channels, size, size, generator=torch.Generator().manual_seed(i)).to(dtype)
            for i in indices
        ]
    )


def captions_of(indices):
    tokens, lengths = some_captions(LENGTHS)
    tokens, lengths = tokens[indices], lengths[indices]
    return {"tokens": tokens[:, : int(lengths.max())], "lengths": lengths}


def share_of(task):
    """This process's share of four images whose losses have very different counts."""
    indices = list(range(4))[rank() :: world_size()]
    batch = {"image": images_of(indices, FEATURES, 2, torch.float64)}
    batch["image_id"] = torch.tensor(indices)
    batch |= captions_of(indices)
    if task == "masked_lm":
        batch["labels"] = batch["tokens"].clone()
        for row, index in zip(batch["labels"], indices, strict=True):
            row[1 + (1, 28, 2, 7)[index] :] = 0
            row[0] = 0
    if task == "classification":
        # the second image has no label, so the second process counts one image only
        batch["labels"] = torch.tensor([[5, 6, 7], [0, 0, 0], [8, 0, 0], [9, 10, 0]])[indices]
    return batch


def gradients(task, loss_of):
    model = textual_half(task)
    shared = distribute(model)
    loss_of(shared(share_of(task))).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def stream(start=0, channels=3, size=16, dtype=torch.float32):
    """Endless batches of this process, starting at an iteration."""
    for keys in TrainingStream(IMAGES, BATCH, 0, rank(), world_size(), start):
        indices = [index for _, index in keys]
        yield {
            "image": images_of(indices, channels, size, dtype),
            "image_id": torch.tensor(indices),
            **captions_of(indices),
        }


def features(start=0):
    return stream(start, FEATURES, 2, torch.float64)


def interrupted(batches, iterations):
    """Raise KeyboardInterrupt after some batches."""
    yield from islice(batches, iterations)
    raise KeyboardInterrupt


def small_loop(folder, model=None, evaluate=None, **settings):
    """A loop over ``stream``: bicaptioning with dropout, BatchNorm, a schedule, Lookahead."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"iterations": ITERATIONS, "log_every": 1, "checkpoint_every": 3, **settings}
    config = default_config()
    optim = config.OPTIM
    optim.NUM_ITERATIONS, optim.WARMUP_STEPS = settings["iterations"], 2
    optim.LR = optim.CNN_LR = 0.05
    if model is None:
        torch.manual_seed(0)
        model = CaptioningModel(TinyVisual(), small_head(dropout=0.1), bidirectional=True)
    optimizer = build_optimizer(config, model)
    lookahead = Lookahead(optimizer, k=3)
    return TrainingLoop(
        model,
        optimizer,
        build_schedule(config, optimizer),
        LoopSettings(batch_size=BATCH, **settings),
        folder,
        {"lookahead": lookahead},
        evaluate,
    )


def plain_loop(folder, model, **settings):
    """SGD with learning rate 1: a step is the clipped gradient."""
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.SGD([{"name": "all", "params": list(model.parameters())}], lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    return TrainingLoop(
        model, optimizer, schedule, LoopSettings(batch_size=BATCH, **settings), folder
    )


def clipped_change(folder):
    """The change of each weight in one clipped step."""
    model = textual_half("bicaptioning")
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    plain_loop(folder, model, iterations=1, clip_norm=CLIP).run(features())
    return {name: weight.detach() - before[name] for name, weight in model.named_parameters()}


class Dropped(nn.Module):
    """Records dropout masks."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32))
        self.drawn = []

    def forward(self, batch):
        kept = F.dropout(torch.ones(32), training=self.training)
        self.drawn.append(kept)
        return {"dropped": LossSum((kept * self.weight).sum(), torch.tensor(1))}


def dropout_draws(folder, iterations=6):
    """Masks of an uninterrupted run, and of one resumed after iteration 3."""
    whole = Dropped()
    plain_loop(folder / "whole", whole, iterations=iterations).run(stream())
    first = plain_loop(folder / "parts", Dropped(), iterations=iterations, checkpoint_every=3)
    try:
        first.run(interrupted(stream(), 4))
    except KeyboardInterrupt:
        torch.rand(7)  # advances the random state
    resumed = Dropped()
    loop = plain_loop(folder / "parts", resumed, iterations=iterations)
    loop.run(stream(loop.resume()))
    return torch.stack(whole.drawn), torch.stack(resumed.drawn)


def statistics_at_validation(folder):
    """BatchNorm statistics of this process during validation."""
    seen = []

    def evaluate(iteration, writer):
        seen.append({n: b.clone() for n, b in loop.model.named_buffers() if "running" in n})
        return {}

    loop = small_loop(folder, evaluate=evaluate, iterations=3)
    loop.run(stream())
    return seen[-1]


def means_of_the_first_process():
    """Means where only the first process has losses."""
    sums = RunningSums()
    if rank() == 0:
        sums.add({"one": LossSum(torch.tensor(6.0), torch.tensor(4))})
    return sums.means()


def everything(folder: Path):
    """All results of two processes at once, as starting processes is slow."""
    tasks = ("bicaptioning", "masked_lm", "classification")
    result = {
        "objective": {task: gradients(task, objective) for task in tasks},
        "own mean": {task: gradients(task, total_loss) for task in tasks},
        "clipped": clipped_change(folder / "clipped"),
        "dropout": dropout_draws(folder / "dropout"),
        "statistics": statistics_at_validation(folder / "statistics"),
        "means": means_of_the_first_process(),
    }
    small_loop(folder / "run", textual_half("bicaptioning"), clip_norm=1.0).run(features())
    return result


def in_two_processes(folder):
    """``everything`` of both processes."""
    start_processes(_one_of_two, (folder, torchrun_environments(2)), 2, start_method="forkserver")
    return [torch.load(folder / f"{number}.pt", weights_only=True) for number in (0, 1)]


def _one_of_two(number, folder, environments):
    os.environ |= environments[number]
    torch.set_num_threads(1)
    init_process_group("cpu")
    torch.save(everything(folder), folder / f"{number}.pt")
    dist.destroy_process_group()
