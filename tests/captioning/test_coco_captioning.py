"""The tool: captions, their scores, the page; resumed, shared out, and its sentences."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from tests.captioning.small_captioners import (
    STEPS,
    TOOL,
    arguments,
    captions_in,
    command,
    ended_well,
    record_in,
    status_of,
)
from tests.pretraining_runs import VAL_IMAGES
from virtex.captioning.pictures import coco_pictures
from virtex.captioning.scoring import score
from virtex.checkpoints.hashing import sha256_of
from virtex.data.tokenizer import train_tokenizer

PICTURES = 150
METRICS = ["CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"]


@pytest.fixture
def out(tmp_path):
    yield tmp_path / "out"
    shutil.rmtree(tmp_path)


@pytest.fixture(scope="module")
def finished(data, checkpoint, tmp_path_factory):
    """A finished run on COCO; to look at and never to change."""
    return ended_well(checkpoint, tmp_path_factory.mktemp("run") / "out", "--data-root", data)


@pytest.fixture
def spoiled(data, tmp_path):
    """COCO's val with a picture that is cut, one that is none, and one that is empty."""
    root = tmp_path / "data"
    shutil.copytree(data / "coco", root / "coco")
    images = sorted((root / "coco/val2017").iterdir())
    images[1].write_bytes(images[1].read_bytes()[:400])
    images[4].write_text("no picture")
    images[7].write_bytes(b"")
    return root, [images[index].name for index in (1, 4, 7)]


def refused(capsys, out, checkpoint, *flags, **settings):
    """The sentence with which the tool declines; nothing is written."""
    capsys.readouterr()
    assert status_of(arguments(checkpoint, out, *flags, **settings)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and not out.exists()
    sentence = error.partition("error: ")[2].strip()
    assert sentence and "\n" not in sentence
    return sentence


def test_captions_of_coco_are_in_its_result_format(finished, data):
    from pycocotools.coco import COCO

    captions = captions_in(finished)
    assert list(captions) == list(coco_pictures(data).ids)
    assert len(set(captions.values())) > 1
    coco = COCO(data / "coco/annotations/captions_val2017.json")
    assert len(coco.loadRes(str(finished / "captions.json")).anns) == VAL_IMAGES


def test_the_record_tells_the_scores_of_these_captions(finished, data, checkpoint):
    record, pictures = record_in(finished), coco_pictures(data)
    references = dict(zip(pictures.ids, pictures.references, strict=True))
    assert record["metrics"] == score(captions_in(finished), references, "python").metrics
    assert list(record["metrics"]) == METRICS
    assert record["metrics"]["CIDEr"] > 0 and record["metrics"]["BLEU-1"] > 0
    assert (record["task"], record["primary_metric"]) == ("coco_captioning", "CIDEr")
    assert record["model"]["name"] == str(checkpoint)
    assert record["data"]["coco_captions_val2017"]["images"] == VAL_IMAGES
    assert record["details"]["captions"] == "captions.json"
    vocabulary = checkpoint.with_name("tokenizer.model")
    assert record["details"]["vocabulary sha256"] == sha256_of(vocabulary)
    assert sha256_of(vocabulary) in (finished / "captions.html").read_text()
    assert record["timing"]["caption_images_per_second"] > 0


def test_the_record_tells_what_scored_and_that_it_is_not_the_protocols(finished):
    record = record_in(finished)
    deviations = {d["key"]: (d["run"], d["reason"]) for d in record["protocol"]["overrides"]}
    assert deviations["caption scorer"] == ("python", "software")
    assert deviations["MODEL.DECODER.MAX_DECODING_STEPS"] == (STEPS, "override")
    assert any("METEOR" in note and "SPICE" in note for note in record["notes"])


def test_the_page_shows_every_picture_with_caption_and_references(finished, data):
    page = (finished / "captions.html").read_text()
    pictures = coco_pictures(data)
    assert page.count('src="data:image/jpeg;base64,') == VAL_IMAGES
    for name, references in zip(pictures.files, pictures.references, strict=True):
        assert name in page
        assert all(reference in page for reference in references)


def test_nothing_but_the_results_is_left(finished):
    names = {path.name for path in finished.iterdir() if "tfevents" not in path.name}
    assert names == {
        *("captions.json", "captions.html", "result.json", "run.json"),
        *("config.yaml", "log.txt", "metrics.json"),
    }


def test_a_caption_does_not_depend_on_the_batch(data, checkpoint, finished, out):
    ended_well(checkpoint, out, "--data-root", data, "--batch-size", "64")
    assert captions_in(out) == captions_in(finished)


def test_words_are_drawn_from_the_seed_and_the_picture_alone(data, checkpoint, tmp_path):
    def drawn(seed, batch):
        flags = ("--nucleus", "0.9", "--seed", seed, "--batch-size", batch)
        return captions_in(
            ended_well(checkpoint, tmp_path / f"{seed}_{batch}", "--data-root", data, *flags)
        )

    first = drawn(0, 4)
    assert first == drawn(0, 2)
    assert first != drawn(1, 4)


def test_words_that_are_drawn_do_not_depend_on_the_other_pictures(data, checkpoint, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(data / "coco/val2017", folder)
    flags = ("--nucleus", "0.9", "--images", folder)
    whole = captions_in(ended_well(checkpoint, tmp_path / "whole", *flags))
    min(folder.iterdir()).unlink()
    fewer = captions_in(ended_well(checkpoint, tmp_path / "fewer", *flags))
    assert len(fewer) == VAL_IMAGES - 1 and fewer.items() < whole.items()


def test_flags_of_decoding_are_settings(data, checkpoint, out):
    ended_well(checkpoint, out, "--data-root", data, "--beam-size", "2", "--max-length", "3")
    deviations = record_in(out)["protocol"]["overrides"]
    overrides = {d["key"]: d["run"] for d in deviations if d["reason"] == "override"}
    decoder = {k.rpartition(".")[2]: v for k, v in overrides.items() if "DECODER" in k}
    assert decoder == {"BEAM_SIZE": 2, "MAX_DECODING_STEPS": 3}


@pytest.fixture
def many_pictures(data, tmp_path):
    """So many that even someone slow can end a run in its middle."""
    folder = tmp_path / "many"
    folder.mkdir()
    images = sorted((data / "coco/val2017").iterdir())
    for number in range(PICTURES):
        shutil.copy2(images[number % len(images)], folder / f"{number}.jpg")
    return folder


def test_a_run_that_is_killed_goes_on_with_the_same_captions(many_pictures, checkpoint, out):
    flags = ("--nucleus", "0.9", "--batch-size", "1", "--images", many_pictures)
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(command(checkpoint, out, *flags), stdout=nowhere, stderr=nowhere)
    kept = out / "captions.partial.rank0.jsonl"
    while not (kept.exists() and kept.read_text().count("\n") >= 2):
        assert process.poll() is None
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "captions.json").exists()
    with open(kept, "a") as file:
        file.write('[8, "a torn li')
    ended_well(checkpoint, out, *flags, "--resume")
    assert "going on after" in (out / "log.txt").read_text()
    undisturbed = ended_well(checkpoint, out.with_name("undisturbed"), *flags)
    assert captions_in(out) == captions_in(undisturbed)
    assert len(captions_in(out)) == PICTURES
    assert not list(out.glob("captions.partial*"))


def test_a_run_killed_before_its_record_writes_no_caption_anew(data, checkpoint, finished, out):
    shutil.copytree(finished, out)
    (out / "result.json").unlink()
    (out / "captions.html").unlink()
    rows = json.loads((out / "captions.json").read_text())
    rows[0]["caption"] = "kept as it is"
    (out / "captions.json").write_text(json.dumps(rows))
    ended_well(checkpoint, out, "--data-root", data, "--resume")
    assert captions_in(out)[rows[0]["image_id"]] == "kept as it is"
    assert "caption_images_per_second" not in record_in(out)["timing"]
    assert "kept as it is" in (out / "captions.html").read_text()


def test_two_processes_caption_each_picture_once(data, checkpoint, finished, out):
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
    assert captions_in(out) == captions_in(finished)
    assert record_in(out)["metrics"] == record_in(finished)["metrics"]
    assert record_in(out)["environment"]["processes"] == 2
    assert not list(out.glob("captions.partial*"))


def test_pictures_that_do_not_decode_are_named_counted_and_left_out(spoiled, checkpoint, out):
    root, names = spoiled
    ended_well(checkpoint, out, "--data-root", root)
    record, pictures = record_in(out), coco_pictures(root)
    assert record["details"]["unreadable"] == names
    assert f"3 of {VAL_IMAGES} pictures cannot be read and are left out" in record["notes"][0]
    assert all(name in record["notes"][0] for name in names)
    deviations = {d["key"]: d["run"] for d in record["protocol"]["overrides"]}
    assert deviations["coco_captions_val2017: unreadable images"] == 3
    captions = captions_in(out)
    lost = {pictures.ids[list(pictures.files).index(name)] for name in names}
    assert set(captions) == set(pictures.ids) - lost
    references = dict(zip(pictures.ids, pictures.references, strict=True))
    kept = {image_id: references[image_id] for image_id in captions}
    assert record["metrics"] == score(captions, kept, "python").metrics


def test_any_pictures_are_captioned_without_scores(data, checkpoint, finished, out, tmp_path):
    folder = tmp_path / "holiday"
    shutil.copytree(data / "coco/val2017", folder)
    first, *others = sorted(folder.iterdir())
    first.rename(folder / "beach.jpg")
    Image.new("L", (50, 40), 200).save(folder / "grey.png")
    ended_well(checkpoint, out, "--images", folder)
    captions = captions_in(out)
    assert {"beach.jpg", "grey.png"} < set(captions)
    expected = captions_in(finished)
    assert captions["beach.jpg"] == expected[int(first.stem)]
    assert all(captions[path.name] == expected[int(path.stem)] for path in others)
    assert not (out / "result.json").exists()
    page = (out / "captions.html").read_text()
    assert "grey.png" in page and "CIDEr" not in page


def test_an_output_path_without_folders_will_do(data, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended_well(checkpoint, "captions", "--images", data / "coco/val2017")
    ended_well(checkpoint, "not/there/yet", "--images", data / "coco/val2017")
    assert all(
        (tmp_path / name / "captions.json").is_file() for name in ("captions", "not/there/yet")
    )


def test_a_finished_run_is_not_done_again(data, checkpoint, finished, capsys):
    before = (finished / "result.json").read_bytes()
    ended_well(checkpoint, finished, "--data-root", data, "--resume")
    assert "this run is finished" in capsys.readouterr().out
    assert (finished / "result.json").read_bytes() == before


def test_a_folder_with_another_run_is_refused(data, checkpoint, finished, capsys):
    argv = arguments(checkpoint, finished, "--data-root", data)
    assert status_of(argv) == 2
    assert "holds another run" in capsys.readouterr().err
    assert status_of([*argv, "--resume", "--beam-size", "3"]) == 2
    assert "MODEL.DECODER.BEAM_SIZE" in capsys.readouterr().err


def test_a_folder_without_pictures_is_one_sentence(checkpoint, out, tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    said = refused(capsys, out, checkpoint, "--images", tmp_path / "texts")
    assert "is empty; name pictures, or a folder that holds some" in said


def test_another_vocabulary_cannot_go_on_with_a_run(
    data, checkpoint, finished, out, tmp_path, capsys
):
    shutil.copytree(finished, out)
    (out / "result.json").unlink()
    other = tmp_path / "other.model"
    train_tokenizer(["a red circle and a blue square on a green background"] * 3, 40, other)
    flags = ("--data-root", data, "--resume", "--tokenizer", other)
    assert status_of(arguments(checkpoint, out, *flags)) == 2
    assert "was started with vocabulary sha256" in capsys.readouterr().err


def test_another_scorer_may_score_what_a_run_has_written(data, checkpoint, finished, out):
    shutil.copytree(finished, out)
    (out / "result.json").unlink()
    identity = json.loads((out / "run.json").read_text())
    assert not any("scorer" in key for key in identity)
    ended_well(checkpoint, out, "--data-root", data, "--resume", "--scorer", "auto")
    assert record_in(out)["metrics"]["CIDEr"] == pytest.approx(
        record_in(finished)["metrics"]["CIDEr"], abs=1e-6
    )


def test_names_that_are_no_text_are_names_too(data, checkpoint, out, tmp_path):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    picture = min((data / "coco/val2017").iterdir())
    shutil.copy(picture, os.path.join(folder, b"caf\xe9.jpg"))
    ended_well(checkpoint, out, "--images", tmp_path / "odd")
    assert list(captions_in(out)) == [os.fsdecode(b"caf\xe9.jpg")]
    (out / "captions.html").unlink()
    ended_well(checkpoint, out, "--images", tmp_path / "odd", "--resume")
    assert (out / "captions.html").is_file()


def test_a_line_is_no_picture(data, checkpoint, out, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (20_000, 1)).save(folder / "line.png")
    Image.new("RGB", (2, 1)).save(folder / "small.png")
    ended_well(checkpoint, out, "--images", folder)
    assert list(captions_in(out)) == ["small.png"]


@pytest.mark.parametrize("name", ["{}/run/model_final.pth", "~/run/model_final.pth"])
def test_overwriting_never_deletes_what_the_run_reads(
    data, checkpoint, tmp_path, capsys, monkeypatch, name
):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = tmp_path / "run"
    shutil.copytree(checkpoint.parent, run)
    (run / "run.json").write_text("{}")
    before = sorted(path.name for path in run.iterdir())
    argv = arguments(name.format(tmp_path), run, "--data-root", data, "--overwrite")
    assert status_of(argv) == 2
    assert "which this run reads; name another --output-dir" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_a_folder_that_no_run_has_filled_is_left_alone(data, checkpoint, tmp_path, capsys, flags):
    (tmp_path / "gallery").mkdir()
    shutil.copy(min((data / "coco/val2017").iterdir()), tmp_path / "gallery/a.jpg")
    assert status_of(arguments(checkpoint, tmp_path, "--images", tmp_path, *flags)) == 2
    assert "holds gallery, which a run would write, but no run" in capsys.readouterr().err
    assert (tmp_path / "gallery/a.jpg").is_file()


def test_a_setting_behind_the_pictures_is_told(data, checkpoint, out, capsys):
    flags = ("--images", data / "coco/val2017", "MODEL.DECODER.BEAM_SIZE", "2")
    said = refused(capsys, out, checkpoint, *flags)
    assert "MODEL.DECODER.BEAM_SIZE for a picture; let it come before --images" in said


def test_a_backbone_alone_is_one_sentence(data, out, capsys):
    said = refused(capsys, out, "random:resnet18?seed=0", "--data-root", data)
    assert "is a backbone alone, without a textual head" in said


def test_missing_data_are_told(checkpoint, out, tmp_path, capsys):
    assert status_of(arguments(checkpoint, out, "--data-root", tmp_path / "nowhere")) == 2
    said = capsys.readouterr().err
    assert "captions_val2017.json" in said and "make_toy_data OUT" in said and not out.exists()


def test_pictures_none_of_which_can_be_read_are_an_error(checkpoint, out, tmp_path, capsys):
    (tmp_path / "a.jpg").write_text("no picture")
    assert status_of(arguments(checkpoint, out, "--images", tmp_path / "a.jpg")) == 2
    assert "not one of the 1 pictures can be read" in capsys.readouterr().err
    assert not (out / "captions.json").exists() and not (out / "captions.html").exists()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--beam-size", "2", "--nucleus", "0.9"), "give one"),
        (("--nucleus", "1.5"), "not a number above 0 and at most 1"),
        (("--beam-size", "0"), "not a whole number above 0"),
        (("--max-length", "31"), "MAX_CAPTION_LENGTH"),
        (("--protocol", "papre"), "no protocol 'papre'"),
        (("DATA.IMAGE_TRANSFORM", "['blur']"), "no image transform 'blur'"),
        (("MODEL.DECODER.NAME", "magic"), "beam_search, nucleus_sampling"),
    ],
)
def test_what_cannot_be_is_said(data, checkpoint, out, capsys, flags, reason):
    assert status_of(arguments(checkpoint, out, "--data-root", data, *flags)) == 2
    said = capsys.readouterr().err
    assert reason in said and "Traceback" not in said and not out.exists()
