"""`--class` of sample and interpolate, and `genlab arithmetic`, on tiny models with and without classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def conditional(genlab, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("conditional") / "run"
    words = ["train.steps=2", "train.sample_count=10", "train.tensorboard=false", "evaluate.metrics=[]"]
    outcome = genlab("train", "cgan_tiny", "--device", "cpu", "--run-dir", run, *words)
    assert outcome.code == 0, outcome.err
    return run


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def grid_size(columns: int, rows: int, side: int = 56) -> tuple[int, int]:
    return columns * (side + 2) + 2, rows * (side + 2) + 2


def test_all_classes_give_a_row_each(genlab, conditional, tmp_path):
    outcome = genlab("sample", conditional, "--class", "all", "-n", 3, "-o", tmp_path / "grid.png")
    assert outcome.code == 0, outcome.err
    assert "30 pictures of classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in outcome.out
    assert size_of(tmp_path / "grid.png") == grid_size(3, 10)


def test_classes_may_be_named_one_by_one_and_have_eight_pictures_each(genlab, conditional, tmp_path):
    outcome = genlab("sample", conditional, "--class", "3", "--class", "7", "-o", tmp_path / "grid.png")
    assert outcome.code == 0, outcome.err
    assert size_of(tmp_path / "grid.png") == grid_size(8, 2)


def test_a_folder_gets_one_folder_a_class(genlab, conditional, tmp_path):
    outcome = genlab("sample", conditional, "--class", "3", "--class", "7", "-n", 2, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert written == ["3/000000.png", "3/000001.png", "7/000000.png", "7/000001.png"]


def test_without_a_class_all_are_drawn_from(genlab, conditional, tmp_path):
    assert genlab("sample", conditional, "-n", 9, "-o", tmp_path / "grid.png").code == 0
    assert size_of(tmp_path / "grid.png") == grid_size(3, 3)


def test_a_walk_stays_in_its_class(genlab, conditional, tmp_path):
    words = ["--rows", 2, "--steps", 3, "-o", tmp_path / "walk.png"]
    outcome = genlab("interpolate", conditional, "--class", "4", *words)
    assert outcome.code == 0, outcome.err
    assert "of class 4" in outcome.out
    assert size_of(tmp_path / "walk.png") == grid_size(3, 2)
    assert genlab("interpolate", conditional, *words).code == 0  # one class is drawn for the whole picture


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class", "11"], "error: --class: expected 0 to 9, got '11'"),
        (["--class", "three"], "error: --class: expected 0 to 9, got 'three'"),
        (["--class", "3", "--class", "3"], "error: --class: expected each class once, got 3, 3"),
        (["--class", "all", "--class", "3"], "error: --class: expected all alone, got it beside 3"),
        (["--class", "all", "-n", 500], "error: -n: expected at most 4096 pictures in one grid, got 5000"),
    ],
)
def test_classes_that_do_not_exist_are_one_line_and_write_nothing(genlab, conditional, tmp_path, words, message):
    outcome = genlab("sample", conditional, *words, "-o", tmp_path / "grid.png")
    assert outcome.code == 2
    assert len(outcome.error_lines) == 1
    assert outcome.err.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_classes_says_so(genlab, trained, tmp_path):
    for verb in ("sample", "interpolate"):
        outcome = genlab(verb, trained[0], "--class", "3", "-o", tmp_path / "grid.png")
        assert outcome.code == 2
        assert "was trained without labels" in outcome.err
        assert len(outcome.error_lines) == 1


def test_named_classes_are_found_and_guessed():
    from types import SimpleNamespace

    from genlab.cli.classes import class_name, class_number, class_numbers
    from genlab.errors import UserError

    trainer = SimpleNamespace(
        data=SimpleNamespace(class_names=("cat", "dog", "2")), label_count=3, check_labels=lambda labels: None
    )
    assert [class_number(trainer, text) for text in ("dog", "0", "2")] == [1, 0, 2]
    assert class_numbers(trainer, ["all"]) == [0, 1, 2]
    assert class_name(trainer, 1) == "dog"
    with pytest.raises(UserError, match="expected cat, dog, 2 or 0 to 2, got 'dogg'; did you mean 'dog'"):
        class_number(trainer, "dogg")


def test_arithmetic_writes_the_sheet_and_the_sum(genlab, trained, tmp_path):
    sheet, total = tmp_path / "sheet.png", tmp_path / "sum.png"
    words = ["--a", "3,7,12", "--b", "1, 20", "--c", "5", "--sheet", sheet, "-o", total]
    outcome = genlab("arithmetic", trained[0], *words)
    assert outcome.code == 0, outcome.err
    assert "mean(3, 7, 12) - mean(1, 20) + mean(5)" in outcome.out
    assert size_of(sheet) == grid_size(8, 8)
    assert size_of(total) == grid_size(8, 3)


def test_arithmetic_of_a_conditional_model_keeps_to_one_class(genlab, conditional, tmp_path):
    words = ["--a", "1", "--b", "2", "--c", "3", "--class", "5", "-o", tmp_path / "sum.png"]
    outcome = genlab("arithmetic", conditional, *words)
    assert outcome.code == 0, outcome.err
    assert "class 5" in outcome.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: arithmetic: expected --a, --b and --c with the numbers of pictures, or --sheet to see them"),
        (["--a", "1"], "error: arithmetic: expected --a, --b and --c together, got no --b, --c"),
        (["--a", "x", "--b", "1", "--c", "1"], "error: --a: expected numbers of pictures such as 3,7,12, got 'x'"),
        (["--a", "1", "--b", "64", "--c", "1"], "error: --b: expected pictures 0 to 63 of the sheet, got 64"),
        (["--a", "1", "--b", "2", "--c", "1,1"], "error: --c: expected each picture once, got 1, 1"),
    ],
)
def test_sums_that_are_none_are_one_line_and_write_nothing(genlab, trained, tmp_path, words, message):
    outcome = genlab("arithmetic", trained[0], *words, "-o", tmp_path / "sum.png")
    assert outcome.code == 2
    assert len(outcome.error_lines) == 1
    assert outcome.err.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_of_one_class_stops_a_conditional_training_before_it_begins(genlab, tmp_path):
    outcome = genlab("train", "cgan_tiny", "data.classes=[3]", "--run-dir", tmp_path / "run")
    assert outcome.code == 2
    assert len(outcome.error_lines) == 1
    assert "expected at least 2 classes, which algorithm cgan needs, got only 3; widen data.classes" in outcome.err
    assert not (tmp_path / "run").exists()


def test_points_are_scattered_by_sample_and_refused_where_pictures_are_needed(genlab, tmp_path):
    words = ["data.name=ring", "train.steps=1", "train.tensorboard=false", "evaluate.metrics=[]"]
    assert genlab("train", "gan_tiny", "--device", "cpu", "--run-dir", tmp_path / "run", *words).code == 0
    outcome = genlab("sample", tmp_path / "run", "-n", 100, "-o", tmp_path / "points.png")
    assert outcome.code == 0, outcome.err
    assert size_of(tmp_path / "points.png") == (512, 512)
    refused = [
        (["sample", tmp_path / "run", "-o", tmp_path / "folder"], "error: -o: expected a picture file"),
        (["interpolate", tmp_path / "run", "-o", tmp_path / "x.png"], "error: interpolate: expected a model of images"),
        (
            ["arithmetic", tmp_path / "run", "--sheet", tmp_path / "x.png"],
            "error: arithmetic: expected a model of images",
        ),
    ]
    for command, message in refused:
        outcome = genlab(*command)
        assert outcome.code == 2
        assert outcome.err.startswith(message)
        assert len(outcome.error_lines) == 1
    assert not (tmp_path / "x.png").exists()
    assert not (tmp_path / "folder").exists()
