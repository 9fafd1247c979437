"""genlab translate: both models, both directions, and every input that stops it before a file is written."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.checkpoint import load_bundle

SMALL = ["evaluate.metrics=[]", "train.steps=2", "train.sample_count=3", "train.tensorboard=false", "--device", "cpu"]


@pytest.fixture(scope="module")
def models(genlab, tmp_path_factory) -> dict[str, Path]:
    runs = {name: tmp_path_factory.mktemp("translators") / name for name in ("pix2pix", "cyclegan")}
    for name, run in runs.items():
        outcome = genlab("train", f"{name}_tiny", *SMALL, "--run-dir", run)
        assert outcome.code == 0, outcome.err
    return runs


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three images of 32 px: one below a folder, one JPEG, two of one stem."""
    folder = tmp_path / "in"
    for index, name in enumerate(["a.png", "deep/a.png", "a.bmp", "b.jpg"]):
        draw(folder / name, index)
    (folder / "notes.txt").write_text("not an image")
    return folder


def draw(path: Path, seed: int, height: int = 32, width: int = 32, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels, mode).save(path)
    return path


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def check_refused(outcome, out: Path, *parts: str) -> None:
    assert outcome.code == 2, outcome.err
    assert len(outcome.error_lines) == 1, outcome.err
    for part in parts:
        assert part in outcome.err, outcome.err
    assert not out.exists() or not any(out.rglob("*.png")), "nothing may be written"


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_a_folder_gives_one_png_for_each_image(genlab, models, pictures, tmp_path, name):
    outcome = genlab("translate", models[name], pictures, tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "4 pictures, a_to_b, step 2" in outcome.out
    assert written(tmp_path / "out") == ["a.bmp.png", "a.png.png", "b.png", "deep/a.png"]
    assert Image.open(tmp_path / "out" / "b.png").size == (32, 32)


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_the_pictures_are_those_of_the_model(genlab, models, pictures, tmp_path, name):
    genlab("translate", models[name], pictures, tmp_path / "out", "--seed", 3)
    trainer = load_bundle(models[name]).trainer
    images = []
    for file in ("a.bmp", "a.png", "b.jpg", "deep/a.png"):
        pixels = np.asarray(Image.open(pictures / file)).astype(np.float32) / 127.5 - 1
        images.append(torch.from_numpy(pixels).permute(2, 0, 1))
    expected = trainer.translate(torch.stack(images), torch.Generator().manual_seed(3))
    for file, picture in zip(("a.bmp.png", "a.png.png", "b.png", "deep/a.png"), expected, strict=True):
        found = torch.from_numpy(np.array(Image.open(tmp_path / "out" / file))).permute(2, 0, 1)
        assert (found - (picture * 127.5 + 127.5)).abs().max() <= 1, file


def test_the_directions_of_a_cyclegan_are_its_two_generators(genlab, models, pictures, tmp_path):
    for way in ("a_to_b", "b_to_a"):
        assert genlab("translate", models["cyclegan"], pictures, tmp_path / way, "--direction", way).code == 0
    there, back = (np.asarray(Image.open(tmp_path / way / "b.png")).astype(int) for way in ("a_to_b", "b_to_a"))
    assert np.abs(there - back).max() > 5


def test_a_pix2pix_is_asked_for_its_own_direction_only(genlab, models, pictures, tmp_path):
    outcome = genlab("translate", models["pix2pix"], pictures, tmp_path / "out", "--direction", "b_to_a")
    check_refused(outcome, tmp_path / "out", "expected a_to_b", "got b_to_a")


def test_one_image_gives_one_file_or_a_folder(genlab, models, pictures, tmp_path):
    assert genlab("translate", models["cyclegan"], pictures / "b.jpg", tmp_path / "one.png").code == 0
    assert genlab("translate", models["cyclegan"], pictures / "b.jpg", tmp_path / "folder").code == 0
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "folder" / "b.png").read_bytes()
    assert written(tmp_path / "folder") == ["b.png"]


def test_a_zip_is_read_in_place(genlab, models, pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(pictures / "b.jpg", "set/b.jpg")
        archive.write(pictures / "a.png", "set/a.png")
    assert genlab("translate", models["cyclegan"], tmp_path / "set.zip", tmp_path / "out").code == 0
    assert written(tmp_path / "out") == ["a.png", "b.png"]


def test_another_size_is_refused_with_what_the_model_takes_and_resized_when_asked(genlab, models, tmp_path):
    draw(tmp_path / "in" / "a.png", 0)
    draw(tmp_path / "in" / "b.png", 1, height=40, width=48)
    draw(tmp_path / "in" / "c.png", 2, height=16, width=16)
    outcome = genlab("translate", models["pix2pix"], tmp_path / "in", tmp_path / "out")
    check_refused(
        outcome, tmp_path / "out", "b.png", "expected 32x32 pixels", "got 40x48 (2 of 3 files differ)", "--resize"
    )
    assert genlab("translate", models["pix2pix"], tmp_path / "in", tmp_path / "out", "--resize").code == 0
    assert Image.open(tmp_path / "out" / "b.png").size == (32, 32)


def test_pairs_side_by_side_are_told_apart_from_a_wrong_size(genlab, models, tmp_path):
    pair = draw(tmp_path / "in" / "1.png", 0, width=64)
    check_refused(
        genlab("translate", models["cyclegan"], tmp_path / "in", tmp_path / "out"), tmp_path / "out", "--half"
    )
    Image.open(pair).crop((32, 0, 64, 32)).save(tmp_path / "right.png")
    assert genlab("translate", models["cyclegan"], tmp_path / "in", tmp_path / "out", "--half", "right").code == 0
    assert genlab("translate", models["cyclegan"], tmp_path / "right.png", tmp_path / "alone.png").code == 0
    assert (tmp_path / "out" / "1.png").read_bytes() == (tmp_path / "alone.png").read_bytes()


@pytest.mark.parametrize(("mode", "count"), [("L", 1), ("RGBA", 4)])
def test_another_number_of_channels_is_refused(genlab, models, tmp_path, mode, count):
    draw(tmp_path / "in" / "a.png", 0, mode=mode)
    outcome = genlab("translate", models["pix2pix"], tmp_path / "in", tmp_path / "out", "--resize")
    check_refused(outcome, tmp_path / "out", "a.png", "expected 3 channels", f"got {count}", "convert")


def test_channels_are_converted_where_the_training_converted_them(genlab, tmp_path):
    run = tmp_path / "grey"
    assert genlab("train", "cyclegan_tiny", *SMALL, "data.channels=1", "--run-dir", run).code == 0
    draw(tmp_path / "a.png", 0)
    assert genlab("translate", run, tmp_path / "a.png", tmp_path / "out.png").code == 0
    assert Image.open(tmp_path / "out.png").mode == "L"


def test_all_unreadable_files_are_named_and_nothing_is_written(genlab, models, pictures, tmp_path):
    (pictures / "zero.png").write_bytes(b"")
    (pictures / "text.png").write_text("no picture")
    whole = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(whole, "png")
    (pictures / "cut.png").write_bytes(whole.getvalue()[:60])
    outcome = genlab("translate", models["cyclegan"], pictures, tmp_path / "out")
    check_refused(
        outcome, tmp_path / "out",
        "3 of 7", "zero.png (zero bytes)", "text.png (no image)", "cut.png (breaks off or is damaged)",
    )  # fmt: skip


def test_missing_and_empty_inputs_are_named(genlab, models, tmp_path):
    out = tmp_path / "out"
    check_refused(genlab("translate", models["cyclegan"], tmp_path / "nowhere", out), out, "nowhere", "got nothing")
    (tmp_path / "empty").mkdir()
    check_refused(genlab("translate", models["cyclegan"], tmp_path / "empty", out), out, "expected images", "empty")
    (tmp_path / "empty" / "notes.txt").write_text("text")
    check_refused(genlab("translate", models["cyclegan"], tmp_path / "empty", out), out, "1 files of other kinds")


def test_nothing_is_written_over(genlab, models, pictures, tmp_path):
    out = tmp_path / "out"
    draw(out / "b.png", 9)
    before = (out / "b.png").read_bytes()
    for target in (out, out / "b.png", pictures):
        outcome = genlab("translate", models["cyclegan"], pictures / "b.jpg", target)
        assert outcome.code == 2, target
        assert len(outcome.error_lines) == 1
    assert written(out) == ["b.png"]
    assert (out / "b.png").read_bytes() == before
    outcome = genlab("translate", models["cyclegan"], pictures, tmp_path / "grid.png")
    check_refused(outcome, tmp_path / "grid.png", "expected a folder")
    text, below = tmp_path / "b.txt", out / "b.png" / "below"
    check_refused(genlab("translate", models["cyclegan"], pictures / "b.jpg", text), text, "got the suffix '.txt'")
    check_refused(genlab("translate", models["cyclegan"], pictures, below), below, "expected a place in a folder")


def test_a_model_that_does_not_translate_is_refused_with_those_that_do(genlab, trained, pictures, tmp_path):
    outcome = genlab("translate", trained[0], pictures, tmp_path / "out")
    check_refused(outcome, tmp_path / "out", "cyclegan, pix2pix", "got one of dcgan")


def test_a_translator_is_not_sampled(genlab, models, tmp_path):
    check_refused(genlab("sample", models["pix2pix"], "-o", tmp_path / "s.png"), tmp_path / "s.png", "genlab translate")
