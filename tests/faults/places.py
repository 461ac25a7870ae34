"""What the small runs read; made once for all tests of a process."""

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision

from tests.captioning import small_captioners
from tests.checkpoints.fault_server import Answer, start_server
from tests.leaderboard import board_records
from tests.pretraining_runs import CAPTIONS, VOCABULARY
from virtex.data.tokenizer import read_caption_files, train_tokenizer
from virtex.data.toy import write_toy_data

RECORDS = 40
PAUSE = 0.0005  # seconds before each 64 KB of a download
ZOO = "models: {{my/model: {{urls: [{}], arch: resnet18}}}}"


@dataclass(frozen=True)
class Places:
    """What the runs read.

    Attributes:
        data: toy data of all tasks, and a vocabulary of its captions.
        captions: those of the training images.
        network: a ResNet-18 as torchvision saves it; url: it, from a server.
        captioner: a captioning model.
        records: of evaluations.
        zoo: names ``my/model``, which is at ``url``.
        scratch: takes whatever else there is; gone in the end.
    """

    data: Path
    captions: Path
    network: Path
    url: str
    captioner: Path
    records: Path
    zoo: Path
    scratch: Path


@functools.cache
def scratch() -> Path:
    keeper = scratch.keeper = tempfile.TemporaryDirectory(prefix="virtex-faults-")
    return Path(keeper.name)


@functools.cache
def network() -> Path:
    """A ResNet-18 as torchvision saves it."""
    path = scratch() / "resnet18.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


@functools.cache
def places() -> Places:
    root = scratch()
    data, vocabulary = root / "data", root / "data/vocab/toy.model"
    write_toy_data(data, seed=0, train_images=40, val_images=21, coco_train_images=24)
    captions = data / CAPTIONS.format("train")
    train_tokenizer(read_caption_files([captions]), VOCABULARY, vocabulary)
    captioner = small_captioners.write_checkpoint(root / "captioner", vocabulary)
    names = [f"model_{number}.pth" for number in range(RECORDS)]
    records = [board_records.record(name, value=50 + len(name)) for name in names]
    board_records.write(root / "records", *records)
    server, _ = start_server()
    url = server.serve("/m.pth", network().read_bytes(), Answer(pause=PAUSE))
    (root / "zoo.yaml").write_text(ZOO.format(url))
    return Places(
        data, captions, network(), url, captioner, root / "records", root / "zoo.yaml", root
    )
