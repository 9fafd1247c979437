"""genlab reconstruct, latents and anomalies: what they write, and what they refuse in one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SETTINGS = ["autoencoder_tiny", "--device", "cpu", "train.tensorboard=false", "train.steps=30", "data.image_size=8"]


@pytest.fixture(scope="module")
def run(genlab, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("autoencoder") / "run"
    outcome = genlab(
        "train",
        *SETTINGS,
        "data.classes=[0,1,2]",
        "corruption.gaussian=0.2",
        "train.sample_every=30",
        "--run-dir",
        folder,
    )
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture(scope="module")
def gan(genlab, tmp_path_factory) -> Path:
    """A run of an algorithm without an encoder."""
    folder = tmp_path_factory.mktemp("gan") / "run"
    words = ["dcgan_tiny", "--device", "cpu", "train.tensorboard=false", "train.steps=1", "evaluate.metrics=[]"]
    assert genlab("train", *words, "--run-dir", folder).code == 0
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Twelve grey pictures of 10x12 px in two classes, one of which the model knows."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for index in range(12):
        name = "1" if index % 2 else "noise"
        (folder / name).mkdir(exist_ok=True)
        pixels = random.integers(0, 256, (12, 10), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name / f"{index:02d}.png")
    return folder


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_training_ends_with_the_score_and_the_pictures(run):
    assert sorted(path.name for path in (run / "samples").iterdir()) == [
        "step_00000030.png",
        "step_00000030_latents.png",
    ]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["reconstruction_mse"]
    assert rows[0]["better"] == "lower"


def test_reconstruct_writes_a_row_of_each_kind(genlab, run, tmp_path):
    outcome = genlab("reconstruct", run, "-n", 5, "-o", tmp_path / "grid.png")
    assert outcome.code == 0, outcome.err
    assert "5 images of digits (test), rows input | corrupted | output, step 30" in outcome.out
    tile = 8 * 8 + 2  # 8 px enlarged to 64, and the space between
    assert size(tmp_path / "grid.png") == (5 * tile + 2, 3 * tile + 2)


def test_reconstruct_takes_a_folder_and_a_single_file_at_other_sizes(genlab, run, pictures, tmp_path):
    for path, count in ((pictures, 12), (pictures / "1" / "01.png", 1)):
        outcome = genlab("reconstruct", run, path, "-o", tmp_path / "grid.png")
        assert outcome.code == 0, outcome.err
        assert f"{count} images of {path}" in outcome.out


def test_the_same_seed_corrupts_alike(genlab, run, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert genlab("reconstruct", run, "--seed", seed, "-o", tmp_path / f"{name}.png").code == 0
    content = {name: (tmp_path / f"{name}.png").read_bytes() for name in "abc"}
    assert content["a"] == content["b"] != content["c"]


def test_latents_draws_the_plane(genlab, run, pictures, tmp_path):
    outcome = genlab("latents", run, "-n", 40, "-o", tmp_path / "plane.png")
    assert outcome.code == 0, outcome.err
    assert "codes of 40 images of digits (test), 4 numbers each, step 30" in outcome.out
    assert size(tmp_path / "plane.png")[0] > 1000
    assert genlab("latents", run, pictures, "-o", tmp_path / "own.png").code == 0


def test_anomalies_ranks_every_image_and_judges_by_the_labels(genlab, run, tmp_path):
    """The model knows 0, 1 and 2; the test split holds all ten."""
    outcome = genlab("anomalies", run, "-o", tmp_path / "out", "--quantile", 0.9)
    assert outcome.code == 0, outcome.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "anomalies.csv",
        "errors.png",
        "most_anomalous.png",
    ]
    with open(tmp_path / "out" / "anomalies.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 297
    errors = [float(row["error"]) for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert [int(row["rank"]) for row in rows] == list(range(1, 298))
    assert {row["class"] for row in rows} == set("0123456789")
    anomalous = [row["anomalous"] == "True" for row in rows]
    assert anomalous == [float(row["over_threshold"]) > 1 for row in rows]
    assert f"{sum(anomalous)} of 297 images of digits (test) are above" in outcome.out
    assert "AUC 0." in outcome.out


def test_anomalies_of_a_folder_names_its_files(genlab, run, pictures, tmp_path):
    outcome = genlab("anomalies", run, pictures, "-o", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out)
    assert summary["images"] == 12
    assert 0 <= summary["auc"] <= 1
    with open(tmp_path / "out" / "anomalies.csv", encoding="utf-8") as file:
        names = {row["image"] for row in csv.DictReader(file)}
    assert names == {path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png")}


def test_bad_input_is_refused_in_one_line(genlab, run, gan, pictures, tmp_path):
    colour, used = tmp_path / "colour", tmp_path / "used"
    colour.mkdir()
    used.mkdir()
    Image.new("RGB", (8, 8)).save(colour / "a.png")
    (used / "notes.txt").write_text("mine")
    (tmp_path / "text.png").write_text("no image")
    new, out = tmp_path / "new.png", ["-o", tmp_path / "new"]
    cases = {
        (
            "reconstruct",
            run,
            tmp_path / "none",
            "-o",
            new,
        ): "expected an image, a folder or a zip archive of images, got",
        ("reconstruct", run, colour, "-o", new): "expected images of 1 channel(s), as the model was trained on, got 3",
        ("reconstruct", run, colour / "a.png", "-o", new): "expected images of 1 channel(s)",
        ("reconstruct", run, tmp_path / "text.png", "-o", new): "text.png",
        ("reconstruct", run, used, "-o", new): "expected images",
        ("reconstruct", run, "--split", "holiday", "-o", new): "expected split",
        ("latents", run, "--root", colour, "-o", new): "root: expected none, as data set 'digits' reads no files, got",
        ("sample", run, "-o", new): "algorithm autoencoder: has no latent space to draw from; expected a model of cgan",
        ("reconstruct", run, "-o", tmp_path / "grid.txt"): "expected a picture file",
        ("reconstruct", gan, "-o", new): "algorithm dcgan: has no reconstructions; expected a model of",
        ("latents", gan, "-o", new): "algorithm dcgan: has no codes of images; expected a model of",
        ("latents", run, pictures / "1" / "01.png", "-o", new): "expected at least 2 images for a plot, got 1",
        ("anomalies", gan, *out): "algorithm dcgan: has no reconstructions",
        ("anomalies", run, "-o", used): "expected an empty or new folder",
        ("anomalies", run, "-o", used / "notes.txt"): "expected a folder to write into, got a file",
        ("anomalies", run, *out, "--quantile", 1.0): "--quantile: expected a number between 0 and 1, got 1.0",
        ("anomalies", run, *out, "--measure", "ssim"): "measure: expected one of relative, mse, got 'ssim'",
        ("anomalies", run, *out, "--blur", -2): "blur: expected 0 to 64 pixels",
        ("anomalies", run, *out, "--normal", "0,ten"): "--normal: expected some of 0, 1, 2",
    }
    for words, message in cases.items():
        outcome = genlab(*words)
        assert outcome.code == 2, words
        assert len(outcome.error_lines) == 1, outcome.err
        assert message in outcome.err, words
    assert not new.exists()
    assert not (tmp_path / "new").exists()
    assert (used / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("verb", ["reconstruct", "latents", "anomalies"])
def test_help_has_an_example(genlab, verb):
    outcome = genlab(verb, "--help")
    assert outcome.code == 0
    assert f"genlab {verb} runs/" in outcome.out
