"""The captioning tool: captions, scores, page; resumed and with several processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from tests.captioning.small_captioners import (
    STEPS,
    TOOL,
    arguments,
    command,
    exit_status,
    read_captions,
    read_record,
    run_to_end,
    write_checkpoint,
)
from tests.pretraining_runs import VAL_IMAGES
from virtex.captioning.images import read_coco_images
from virtex.captioning.scoring import score
from virtex.checkpoints.loading import load_backbone
from virtex.data.decoding import COMPOSITED, SCALED
from virtex.data.tokenizer import train_tokenizer
from virtex.eval_tools import coco_captioning
from virtex.files import sha256_of
from virtex.tasks.coco_captioning import plan

NUM_IMAGES = 150
METRICS = ["CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"]


@pytest.fixture
def out(tmp_path):
    yield tmp_path / "out"
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def finished(data, checkpoint, tmp_path_factory):
    """A finished run on COCO; do not modify."""
    return run_to_end(checkpoint, tmp_path_factory.mktemp("run") / "out", "--data-root", data)


@pytest.fixture
def unfinished(finished, out):
    """A copy of the run without its record."""
    shutil.copytree(finished, out)
    (out / "result.json").unlink()
    return out


@pytest.fixture
def damaged(data, tmp_path):
    """COCO val2017 with a truncated image, a text file and an empty file."""
    root = tmp_path / "data"
    shutil.copytree(data / "coco", root / "coco")
    images = sorted((root / "coco/val2017").iterdir())
    images[1].write_bytes(images[1].read_bytes()[:400])
    images[4].write_text("not an image")
    images[7].write_bytes(b"")
    return root, [images[index].name for index in (1, 4, 7)]


def references_of(root):
    images = read_coco_images(root)
    return dict(zip(images.ids, images.references, strict=True))


def deviations_of(folder):
    protocol = read_record(folder)["protocol"]
    return {d["key"]: (d["run"], d["reason"]) for d in protocol["overrides"]}


def assert_rejected(capsys, out, checkpoint, code, *flags, **settings):
    """Expect exit status 2 with this code, and no output folder."""
    capsys.readouterr()
    assert exit_status(arguments(checkpoint, out, *flags, **settings)) == 2
    error = capsys.readouterr().err
    assert f"[{code}]" in error and "Traceback" not in error and not out.exists()
    return error


# Results -----------------------------------------------------------------------------------------


def test_captions_are_in_coco_result_format(finished, data):
    from pycocotools.coco import COCO

    captions = read_captions(finished)
    assert list(captions) == list(read_coco_images(data).ids)
    assert len(set(captions.values())) > 1
    coco = COCO(data / "coco/annotations/captions_val2017.json")
    assert len(coco.loadRes(str(finished / "captions.json")).anns) == VAL_IMAGES


def test_record(finished, data, checkpoint):
    record = read_record(finished)
    captions = read_captions(finished)
    assert record["metrics"] == score(captions, references_of(data), "python").metrics
    assert list(record["metrics"]) == METRICS
    assert record["metrics"]["CIDEr"] > 0 and record["metrics"]["BLEU-1"] > 0
    assert (record["task"], record["primary_metric"]) == ("coco_captioning", "CIDEr")
    assert record["model"]["name"] == str(checkpoint)
    assert record["data"]["coco_captions_val2017"]["images"] == VAL_IMAGES
    assert record["details"]["captions"] == "captions.json"
    vocabulary = checkpoint.with_name("tokenizer.model")
    assert record["details"]["vocabulary_sha256"] == sha256_of(vocabulary)
    assert sha256_of(vocabulary) in (finished / "captions.html").read_text()
    assert record["timing"]["caption_images_per_second"] > 0
    assert deviations_of(finished)["caption scorer"] == ("python", "software")
    assert deviations_of(finished)["MODEL.DECODER.MAX_DECODING_STEPS"] == (STEPS, "override")
    assert any("METEOR" in note and "SPICE" in note for note in record["notes"])


def test_page_shows_all_images_with_references(finished, data):
    page = (finished / "captions.html").read_text()
    images = read_coco_images(data)
    assert page.count('src="data:image/jpeg;base64,') == VAL_IMAGES
    for name, references in zip(images.files, images.references, strict=True):
        assert name in page
        assert all(reference in page for reference in references)


def test_no_other_files_are_left(finished):
    names = {path.name for path in finished.iterdir() if "tfevents" not in path.name}
    assert names == {
        *("captions.json", "captions.html", "result.json", "run.json"),
        *("config.yaml", "log.txt", "metrics.json", ".manifest.jsonl"),
    }


# Captions depend on image and seed only ----------------------------------------------------------


def test_captions_do_not_depend_on_batch_size(data, checkpoint, finished, out):
    run_to_end(checkpoint, out, "--data-root", data, "--batch-size", "64")
    assert read_captions(out) == read_captions(finished)


def test_sampled_captions_depend_on_seed_and_image_only(data, checkpoint, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(data / "coco/val2017", folder)

    def sample(name, seed, batch_size):
        flags = ("--nucleus", "0.9", "--seed", seed, "--batch-size", batch_size, "--images", folder)
        return read_captions(run_to_end(checkpoint, tmp_path / name, *flags))

    first = sample("first", 0, 4)
    assert first == sample("batches", 0, 2)
    assert first != sample("seed", 1, 4)
    min(folder.iterdir()).unlink()
    fewer = sample("fewer", 0, 4)
    assert len(fewer) == len(first) - 1 and fewer.items() < first.items()


def test_decoding_options_are_settings(data, checkpoint, out):
    run_to_end(checkpoint, out, "--data-root", data, "--beam-size", "2", "--max-length", "3")
    deviations = deviations_of(out)
    decoder = {k.rpartition(".")[2]: v for k, (v, _) in deviations.items() if "DECODER" in k}
    assert decoder == {"BEAM_SIZE": 2, "MAX_DECODING_STEPS": 3}


@pytest.mark.whole
def test_two_processes_caption_each_image_once(data, checkpoint, finished, out):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", str(TOOL)),
            *arguments(checkpoint, out, "--data-root", data, "--batch-size", "1"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_captions(out) == read_captions(finished)
    assert read_record(out)["metrics"] == read_record(finished)["metrics"]
    assert read_record(out)["environment"]["processes"] == 2
    assert not list(out.glob("captions.partial*"))


# Resuming ----------------------------------------------------------------------------------------


@pytest.mark.whole
def test_killed_run_resumes_with_the_same_captions(data, checkpoint, out, tmp_path):
    folder = tmp_path / "many"  # enough that the run is killed before it ends
    folder.mkdir()
    images = sorted((data / "coco/val2017").iterdir())
    for index in range(NUM_IMAGES):
        shutil.copy2(images[index % len(images)], folder / f"{index}.jpg")
    flags = ("--nucleus", "0.9", "--batch-size", "1", "--images", folder)
    process = subprocess.Popen(
        command(checkpoint, out, *flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    partial = out / "captions.partial.rank0.jsonl"
    while not (partial.exists() and partial.read_text().count("\n") >= 2):
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "captions.json").exists()
    with open(partial, "a") as file:
        file.write('[8, "a torn li')
    run_to_end(checkpoint, out, *flags, "--resume")
    assert "resuming after" in (out / "log.txt").read_text()
    uninterrupted = run_to_end(checkpoint, out.with_name("uninterrupted"), *flags)
    assert read_captions(out) == read_captions(uninterrupted)
    assert len(read_captions(out)) == NUM_IMAGES
    assert not list(out.glob("captions.partial*"))


def test_resuming_keeps_finished_captions(data, checkpoint, unfinished):
    (unfinished / "captions.html").unlink()
    rows = json.loads((unfinished / "captions.json").read_text())
    rows[0]["caption"] = "kept as it is"
    (unfinished / "captions.json").write_text(json.dumps(rows))
    run_to_end(checkpoint, unfinished, "--data-root", data, "--resume")
    assert read_captions(unfinished)[rows[0]["image_id"]] == "kept as it is"
    assert "caption_images_per_second" not in read_record(unfinished)["timing"]
    assert "kept as it is" in (unfinished / "captions.html").read_text()


def test_resuming_with_other_vocabulary_is_rejected(data, checkpoint, unfinished, tmp_path, capsys):
    other = tmp_path / "other.model"
    train_tokenizer(["a red circle and a blue square on a green background"] * 3, 40, other)
    flags = ("--data-root", data, "--resume", "--tokenizer", other)
    assert exit_status(arguments(checkpoint, unfinished, *flags)) == 2
    assert "vocabulary_sha256" in capsys.readouterr().err


def test_scorer_is_not_part_of_the_identity(finished):
    assert "scorer" not in (finished / "run.json").read_text()


# Images ------------------------------------------------------------------------------------------


def test_unreadable_images_are_reported_and_left_out(damaged, checkpoint, out):
    root, names = damaged
    run_to_end(checkpoint, out, "--data-root", root)
    record, images = read_record(out), read_coco_images(root)
    assert record["details"]["unreadable"] == names
    assert all(name in record["notes"][0] for name in names)
    assert deviations_of(out)["coco_captions_val2017: unreadable images"] == (3, "data")
    captions = read_captions(out)
    lost = {images.ids[list(images.files).index(name)] for name in names}
    assert set(captions) == set(images.ids) - lost
    references = {image_id: references_of(root)[image_id] for image_id in captions}
    assert record["metrics"] == score(captions, references, "python").metrics


def test_custom_images_are_captioned_without_scores(data, checkpoint, finished, out, tmp_path):
    folder = tmp_path / "holiday"
    persons = shutil.ignore_patterns("0000005*")  # have no captions
    shutil.copytree(data / "coco/val2017", folder, ignore=persons)
    first, *others = sorted(folder.iterdir())
    first.rename(folder / "beach.jpg")
    Image.new("L", (50, 40), 200).save(folder / "gray.png")
    Image.new("RGB", (20_000, 1)).save(folder / "line.png")  # left out: cannot be resized
    run_to_end(checkpoint, out, "--images", folder)
    captions, expected = read_captions(out), read_captions(finished)
    assert {"beach.jpg", "gray.png"} < set(captions) and "line.png" not in captions
    assert captions["beach.jpg"] == expected[int(first.stem)]
    assert all(captions[path.name] == expected[int(path.stem)] for path in others)
    assert not (out / "result.json").exists()
    page = (out / "captions.html").read_text()
    assert "gray.png" in page and "CIDEr" not in page


def test_images_are_transformed_as_in_pretraining(data, vocabulary, out, tmp_path):
    steps = ["smallest_resize::{'interpolation': 'bicubic', 'antialias': True}", "center_crop"]
    normalize = "normalize::{'mean': (0.5, 0.5, 0.5), 'std': (0.25, 0.25, 0.25)}"
    settings = {"DATA__IMAGE_TRANSFORM_VAL": [*steps, normalize]}
    checkpoint = write_checkpoint(tmp_path / "pretraining", vocabulary, **settings)
    path = min((data / "coco/val2017").iterdir())
    argv = arguments(checkpoint, out, "--data-root", data, DATA__IMAGE_RESIZE_SIZE=40)
    args = coco_captioning.build_parser().parse_args(argv)
    job = plan(args)[0]
    job.prepare(load_backbone(str(checkpoint)))
    job.setup()
    image = np.array(as_dino(40, 32)(Image.open(path).convert("RGB"))) / 255
    found = job.evaluator.transformed[0, 0]["image"].permute(1, 2, 0).numpy()
    assert np.abs(found - (image - 0.5) / 0.25).max() <= 2 / 255 / 0.25 + 1e-5
    preprocessing = job.build_result({"CIDEr": 0.0}).record()["protocol"]["preprocessing"]
    assert preprocessing["IMAGE_TRANSFORM"][0] == {
        "name": "smallest_resize", "interpolation": "bicubic", "antialias": True,
    }  # fmt: skip
    assert preprocessing["IMAGE_RESIZE_SIZE"] == 40


def as_dino(resize, crop):
    """DINO's preprocessing of a Pillow image."""
    bicubic = transforms.InterpolationMode.BICUBIC
    steps = [transforms.Resize(resize, bicubic), transforms.CenterCrop(crop)]
    return transforms.Compose(steps)


def test_converted_images_are_counted(data, checkpoint, out, tmp_path):
    root = Path(shutil.copytree(data / "coco", tmp_path / "data/coco")).parent
    first, second, *_ = sorted((root / "coco/val2017").iterdir())
    image = Image.open(first).convert("RGBA")
    image.putalpha(100)
    image.save(first, "PNG")  # named .jpg
    Image.fromarray(np.full((48, 64), 20_000, np.uint16)).save(second, "PNG")
    run_to_end(checkpoint, out, "--data-root", root, "--num-workers", "2")
    assert read_record(out)["details"]["converted_images"] == {COMPOSITED: 1, SCALED: 1}
    assert COMPOSITED in (out / "log.txt").read_text()


def test_unknown_transform_of_pretraining_is_rejected(data, vocabulary, out, tmp_path, capsys):
    settings = {"DATA__IMAGE_TRANSFORM_VAL": ["blur"]}
    checkpoint = write_checkpoint(tmp_path / "pretraining", vocabulary, **settings)
    error = assert_rejected(
        capsys, out, checkpoint, "config.unknown_transform", "--data-root", data
    )
    assert "blur" in error


def test_file_names_need_not_be_unicode(data, checkpoint, out, tmp_path):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    shutil.copy(min((data / "coco/val2017").iterdir()), os.path.join(folder, b"caf\xe9.jpg"))
    run_to_end(checkpoint, out, "--images", tmp_path / "odd")
    assert list(read_captions(out)) == [os.fsdecode(b"caf\xe9.jpg")]
    (out / "captions.html").unlink()
    run_to_end(checkpoint, out, "--images", tmp_path / "odd", "--resume")
    assert (out / "captions.html").is_file()


# Errors ------------------------------------------------------------------------------------------


def test_backbone_is_rejected(data, out, capsys):
    checkpoint, code = "random:resnet18?seed=0", "captioning.not_a_captioning_model"
    assert_rejected(capsys, out, checkpoint, code, "--data-root", data)


def test_no_readable_image(checkpoint, out, tmp_path, capsys):
    (tmp_path / "a.jpg").write_text("not an image")
    assert exit_status(arguments(checkpoint, out, "--images", tmp_path / "a.jpg")) == 2
    assert "[captioning.no_readable_image]" in capsys.readouterr().err
    assert not (out / "captions.json").exists() and not (out / "captions.html").exists()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--beam-size", "2", "--nucleus", "0.9"), "--nucleus"),
        (("--nucleus", "1.5"), "--nucleus"),
        (("--beam-size", "0"), "--beam-size"),
        (("--max-length", "31"), "MAX_CAPTION_LENGTH"),
        (("MODEL.DECODER.NAME", "magic"), "nucleus_sampling"),
    ],
)
def test_invalid_options_are_rejected(data, checkpoint, out, capsys, flags, named):
    assert exit_status(arguments(checkpoint, out, "--data-root", data, *flags)) == 2
    error = capsys.readouterr().err
    assert named in error and "Traceback" not in error and not out.exists()
