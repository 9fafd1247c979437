"""Data that Pix2Pix and CycleGAN cannot be trained on: one line, exit code 2, no run directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def draw(path: Path, height: int = 32, width: int = 32, channels: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, channels), dtype=np.uint8)
    Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(path)
    return path


@pytest.fixture
def refused(genlab, tmp_path):
    """refused(algorithm, *overrides) trains on the folder `set` and gives the one line of the refusal."""

    def train(algorithm: str, *overrides: str) -> str:
        words = [f"data.name={'paired' if algorithm == 'pix2pix' else 'unpaired'}", f"data.root={tmp_path / 'set'}"]
        words += ["data.limit=null", "evaluate.metrics=[]", "train.tensorboard=false", "data.batch_size=2", *overrides]
        outcome = genlab("train", f"{algorithm}_tiny", *words, "--device", "cpu", "--run-dir", tmp_path / "run")
        assert outcome.code == 2, outcome.err
        assert len(outcome.error_lines) == 1, outcome.err
        assert outcome.err.startswith("error: ")
        return outcome.err

    return train


def test_a_file_without_a_partner_is_named(refused, tmp_path):
    for name in ("A/1.png", "A/2.png", "A/3.png", "B/1.png", "B/2.png"):
        draw(tmp_path / "set" / name)
    line = refused("pix2pix")
    assert "A/3.png: expected its partner in B" in line
    assert not (tmp_path / "run").exists()


def test_a_missing_domain_is_named(refused, tmp_path):
    for name in ("trainA/1.png", "trainA/2.png", "trainA/3.png"):
        draw(tmp_path / "set" / name)
    line = refused("cyclegan")
    assert "expected two folders A and B (or trainA, trainB, testA, testB), got A" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("layout", ["{split}{domain}/{number}.png", "{domain}/{split}/{number}.png"])
def test_a_domain_without_test_images_is_named(refused, tmp_path, layout):
    for split, domain in (("train", "A"), ("train", "B"), ("test", "A")):
        for number in range(3):
            draw(tmp_path / "set" / layout.format(split=split, domain=domain, number=number))
    assert "expected test images of both domains, got none of B; add them, or" in refused("cyclegan")
    assert not (tmp_path / "run").exists()


def test_a_single_test_image_of_a_domain_is_too_few_to_compare_by(refused, tmp_path):
    for folder, count in (("trainA", 3), ("trainB", 3), ("testA", 2), ("testB", 1)):
        for number in range(count):
            draw(tmp_path / "set" / folder / f"{number}.png")
    line = refused("cyclegan", "evaluate.metrics=null")
    assert "expected at least 2 test images of each domain for frechet and kid, got 2 and 1; add some, or" in line
    assert not (tmp_path / "run").exists()


def test_a_third_domain_is_named(refused, tmp_path):
    for name in ("A/1.png", "B/1.png", "C/1.png"):
        draw(tmp_path / "set" / name)
    assert "expected two folders A and B" in refused("cyclegan")
    assert "got A, B, C" in refused("pix2pix")


def test_domains_of_different_channels_are_named(refused, tmp_path):
    for name in ("A/1.png", "A/2.png", "A/3.png"):
        draw(tmp_path / "set" / name)
        draw(tmp_path / "set" / name.replace("A", "B"), channels=1)
    for algorithm in ("pix2pix", "cyclegan"):
        line = refused(algorithm)
        assert "expected 3 channels as in" in line
        assert "data.channels" in line


def test_an_odd_width_cannot_be_two_pictures(refused, tmp_path):
    for number in range(4):
        draw(tmp_path / "set" / f"{number}.png", width=63)
    assert "expected an even width (A and B side by side), got 63 pixels (4 files are no pairs)" in refused("pix2pix")
    assert not (tmp_path / "run").exists()


def test_one_picture_among_pairs_is_named(genlab, refused, tmp_path):
    for number in range(5):
        draw(tmp_path / "set" / "train" / f"{number}.png", width=64)
        draw(tmp_path / "set" / "test" / f"{number}.png", width=64)
    draw(tmp_path / "set" / "train" / "alone.png")
    line = refused("pix2pix")
    assert "alone.png: expected A and B side by side, 2.00 times as wide as high like most files, got 32 x 32" in line
    assert not (tmp_path / "run").exists()
    outcome = genlab("data", "check", "--paired", tmp_path / "set")
    assert outcome.code == 2
    assert f"error: unpaired: {tmp_path / 'set' / 'train' / 'alone.png'}: expected A and B side by side" in outcome.out


def test_a_size_that_the_networks_cannot_make_is_named(refused, tmp_path):
    for name in ("A/1.png", "B/1.png"):
        draw(tmp_path / "set" / name)
    assert "expected a square of 32, 64, 128, 256, 512 px, got 96x96" in refused("pix2pix", "data.image_size=96")
    assert "in multiples of 4, got 34x34" in refused("cyclegan", "data.image_size=34")


def test_a_missing_folder_is_named(refused, tmp_path):
    for algorithm in ("pix2pix", "cyclegan"):
        assert f"{tmp_path / 'set'}: expected a folder or a zip archive, got nothing" in refused(algorithm)


@pytest.mark.parametrize(("algorithm", "kind"), [("pix2pix", "paired"), ("cyclegan", "unpaired")])
def test_a_set_of_another_kind_is_refused(refused, algorithm, kind):
    line = refused(algorithm, "data.name=digits")
    assert f"algorithm {algorithm}: expected a data set of {kind}, got images" in line
    assert "`genlab list datasets`" in line


@pytest.mark.parametrize("algorithm", ["pix2pix", "cyclegan"])
def test_metrics_of_samples_are_refused_before_the_training(refused, tmp_path, algorithm):
    name = "outline_pairs" if algorithm == "pix2pix" else "two_domains"
    line = refused(algorithm, f"data.name={name}", "evaluate.metrics=[fid]")
    assert "makes no images from noise alone" in line
    assert not (tmp_path / "run").exists()


def test_batch_larger_than_the_set_is_refused(refused, tmp_path):
    for name in ("A/1.png", "A/2.png", "B/1.png", "B/2.png"):
        draw(tmp_path / "set" / name)
    assert "data.batch_size" in refused("cyclegan", "data.batch_size=64")
