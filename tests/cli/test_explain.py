"""genlab explain: pictures into the run and its report or into a folder, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

QUIET = ["--device", "cpu", "train.tensorboard=false", "train.steps=4", "train.sample_every=4", "data.image_size=16"]


@pytest.fixture(scope="module")
def run(genlab, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("explained") / "run"
    outcome = genlab("train", "classifier_tiny", *QUIET, "evaluate.metrics=[]", "--run-dir", folder)
    assert outcome.code == 0, outcome.err
    return folder


def test_pictures_go_into_the_run_and_its_report(genlab, run):
    outcome = genlab("explain", run, "-n", 3, "--tsne", 40)
    assert outcome.code == 0, outcome.err
    page = (run / "report.html").read_text()
    for name in ("filters", "maps_1", "maps_4", "explained", "tsne"):
        path = run / "samples" / f"step_00000004_{name}.png"
        assert path.exists()
        assert f"{name}, step 4" in page
        assert str(path) in outcome.out


def test_a_folder_and_a_class_may_be_named(genlab, run, tmp_path):
    for number, folder in (("3", "three"), ("8", "eight")):
        outcome = genlab("explain", run, "-n", 2, "--class", number, "--tsne", 0, "-o", tmp_path / folder)
        assert outcome.code == 0, outcome.err
        assert not (tmp_path / folder / "tsne.png").exists()
    three, eight = (Image.open(tmp_path / folder / "explained.png") for folder in ("three", "eight"))
    assert three.size == eight.size
    assert three.tobytes() != eight.tobytes()
    own = genlab("explain", run, tmp_path / "three" / "explained.png", "-o", tmp_path / "own")
    assert own.code == 2  # a coloured picture for a model of grey ones
    assert "expected images of 1 channel(s)" in own.err


def test_a_transformer_shows_its_attention_in_place_of_maps(genlab, tmp_path):
    vit = ["model.network=vit_tiny", "model.depth=1", "model.patch=8", "evaluate.metrics=[]"]
    trained = genlab("train", "classifier_tiny", *QUIET, *vit, "--run-dir", tmp_path / "vit")
    assert trained.code == 0, trained.err
    outcome = genlab("explain", tmp_path / "vit", "-n", 2, "--tsne", 0, "-o", tmp_path / "seen")
    assert outcome.code == 0, outcome.err
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {"filters.png", "attention.png", "explained.png"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class", "ten"], "--class: expected one of 0, 1, 2"),
        (["-o", "picture.png"], "-o: expected a folder, got the picture file picture.png"),
        (["--split", "val"], "split: expected train, validation, test, got 'val'"),
    ],
)
def test_what_it_refuses(genlab, run, words, message):
    outcome = genlab("explain", run, *words)
    assert outcome.code == 2
    assert len(outcome.error_lines) == 1
    assert message in outcome.err


def test_a_generator_is_refused(genlab, trained):
    outcome = genlab("explain", trained[0])
    assert outcome.code == 2
    assert "explain: expected a model of algorithm classifier, got one of dcgan" in outcome.err
