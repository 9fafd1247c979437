"""Bad input at the command line: exit code 2, one line that names the thing and the remedy, nothing lost."""

from __future__ import annotations

import errno
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.cli.failures import describe_failure
from genlab.errors import RunError

SHORT = ["train", "dcgan_tiny", "evaluate.metrics=[]", "--device", "cpu"]


def check(outcome, *parts: str) -> None:
    """One error line on stderr with all of the parts, exit code 2, no traceback."""
    assert outcome.code == 2, f"exit {outcome.code}: {outcome.err}"
    assert len(outcome.error_lines) == 1, outcome.err
    assert outcome.err.startswith("error: ")
    for part in parts:
        assert part in outcome.err, outcome.err


@pytest.mark.parametrize(
    "words, parts",
    [
        (["train.stesp=3"], ["unknown key 'train.stesp'", "did you mean 'train.steps'"]),
        (["gan.los=hinge"], ["unknown key 'gan.los'", "did you mean 'gan.loss'"]),
        (["train.steps=many"], ["train.steps", "integer", "'many'"]),
        (["train.steps=0"], ["train.steps", "1", "0"]),
        (["data.batch_size=-4"], ["data.batch_size", "1", "-4"]),
        (["generator_optimizer.lr=nan"], ["generator_optimizer.lr"]),
        (["train.precision=fp8"], ["train.precision", "fp32", "fp8"]),
        (["gan.loss=hing"], ["gan.loss", "did you mean 'hinge'"]),
        (["data.image_size=30"], ["data.image_size", "28, 32, 64, 128", "30"]),
        (["data.name=digit"], ["expected one of", "did you mean 'digits'"]),
        (["train.steps"], ["override 'train.steps'", "key=value"]),
        (["algorithm=dcgna"], ["algorithm", "did you mean 'dcgan'"]),
        (["data.batch_size=100000"], ["1500", "100000"]),
        (["data.name=ring"], ["points", "images"]),
        (["train.grad_accumulation=3"], ["data.batch_size", "3"]),
        (["data.name=folder"], ["data.root"]),
        (["data.name=folder", "data.root=no/such/place"], ["no/such/place"]),
        (["data.name=mnist", "data.root=."], ["MNIST", "data.download=true"]),
    ],
)
def test_wrong_settings_name_key_and_remedy(
    genlab, tmp_path: Path, monkeypatch, words: list[str], parts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    check(genlab(*SHORT, *words, "--run-dir", "run"), *parts)
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize(
    "words, parts",
    [
        ([], ["missing argument 'CONFIG'", "genlab train --help"]),
        (["dcgan_tniy"], ["did you mean 'dcgan_tiny'"]),
        (["no/such.yaml"], ["no/such.yaml", "genlab list configs"]),
        (["dcgan_tiny", "--device", "tpu"], ["cpu, cuda or cuda:N", "'tpu'"]),
        (["dcgan_tiny", "--bogus"], ["--bogus", "genlab train --help"]),
        (["dcgan_tiny", "--resume", "no/such.safetensors"], ["no/such.safetensors", "no such file"]),
    ],
)
def test_wrong_words_of_train_are_named(genlab, words: list[str], parts: list[str]) -> None:
    check(genlab("train", *words), *parts)


@pytest.mark.parametrize(
    "words, parts",
    [
        (["trian"], ["'trian'", "'train'"]),
        (["data"], ["missing command", "genlab data --help"]),
        (["list", "things"], ["'things'", "datasets"]),
        (["report", "no/such/run"], ["no/such/run", "no such folder"]),
        (["sample", "no/such/run"], ["no/such/run", "no such file or folder"]),
        (["sample", ".", "-n", "0"], ["'-n'", "0"]),
        (["fid", "no/a", "no/b"], ["no/a"]),
        (["is", "no/a"], ["no/a"]),
        (["data", "check", "no/a"], ["no/a"]),
        (["evaluate", "no/such/run"], ["no/such/run"]),
        (["bench", "step", "--precision", "fp64"], ["--precision", "fp64", "fp32"]),
    ],
)
def test_wrong_words_of_other_verbs_are_named(genlab, tmp_path: Path, monkeypatch, words, parts) -> None:
    monkeypatch.chdir(tmp_path)
    check(genlab(*words), *parts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_where_there_is_none_is_refused_before_anything_is_written(genlab, tmp_path: Path) -> None:
    check(genlab("train", "dcgan_tiny", "--device", "cuda", "--run-dir", tmp_path / "run"), "cuda", "no GPU", "cpu")
    assert not (tmp_path / "run").exists()


def test_empty_folder_and_bad_images_are_named(genlab, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    check(
        genlab(*SHORT, "data.name=folder", f"data.root={folder}", "--run-dir", tmp_path / "run"), str(folder), "empty"
    )
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    outcome = genlab(
        *SHORT, "data.name=folder", f"data.root={folder}", "data.batch_size=1", "--run-dir", tmp_path / "run"
    )
    check(outcome, "broken.png")


def test_a_split_that_only_the_scores_need_is_missed_before_the_training(genlab, tmp_path: Path) -> None:
    words = ["vae_tiny", "evaluate.likelihood_split=tset", "evaluate.metrics=[own]", "--run-dir", tmp_path / "run"]
    check(genlab("train", *words), "expected split train, test, all, got 'tset'", "set evaluate.metrics=[]")
    draws = np.random.default_rng(0)
    for place in ("train/cat", "train/dog", "test/cat"):
        (tmp_path / "data" / place).mkdir(parents=True)
        for number in range(8):
            pixels = draws.integers(0, 255, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / place / f"{number}.png")
    words = ["classifier_tiny", "data.name=folder", f"data.root={tmp_path / 'data'}", "data.batch_size=4"]
    check(genlab("train", *words, "--run-dir", tmp_path / "run"), "every class in the test split, got none of dog")
    assert not (tmp_path / "run").exists()


def test_second_run_into_a_used_directory_is_refused(genlab, run_copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_copy.rglob("*") if path.is_file()}
    check(genlab(*SHORT, "--run-dir", run_copy), str(run_copy), "--resume auto", "--run-dir")
    assert before == {path: path.stat().st_mtime_ns for path in run_copy.rglob("*") if path.is_file()}


def test_resume_into_a_changed_configuration_lists_each_difference(genlab, run_copy: Path) -> None:
    words = [*SHORT, "gan.loss=hinge", "model.latent_dim=9", "--run-dir", run_copy, "--resume", "auto"]
    check(genlab(*words), "gan.loss: 'non_saturating' -> 'hinge'", "model.latent_dim: 8 -> 9")


class Payload:
    """A pickle of this writes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("verb", ["sample", "interpolate", "evaluate"])
def test_pickle_with_code_is_refused_unopened(genlab, tmp_path: Path, verb: str) -> None:
    evil, trace = tmp_path / "model.safetensors", tmp_path / "it-ran"
    evil.write_bytes(pickle.dumps(Payload(trace)))
    check(genlab(verb, evil), "model.safetensors", "pickle")
    torch.save({"weights": Payload(trace)}, evil)
    check(genlab(verb, evil), "model.safetensors", "pickle")
    assert not trace.exists()


def test_truncated_and_foreign_checkpoints_are_named(genlab, run_copy: Path, tmp_path: Path) -> None:
    checkpoint = run_copy / "checkpoints" / "step_00000008.safetensors"
    whole = checkpoint.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        checkpoint.write_bytes(whole[:size])
        check(genlab("sample", run_copy, "-o", tmp_path / "x.png"), "step_00000008.safetensors")
    changed = bytearray(whole)
    changed[-3] ^= 1
    checkpoint.write_bytes(changed)
    check(genlab("sample", run_copy, "-o", tmp_path / "x.png"), "damaged")
    assert not (tmp_path / "x.png").exists()
    assert genlab("sample", run_copy, "--which", 4, "-o", tmp_path / "x.png").code == 0


def test_run_without_checkpoints_or_with_another_step_says_so(genlab, run_copy: Path) -> None:
    check(genlab("sample", run_copy, "--which", 7), "steps 0, 4, 8", "7")
    check(genlab("sample", run_copy, "--which", "first"), "--which", "'first'")
    shutil.rmtree(run_copy / "checkpoints")
    (run_copy / "checkpoints").mkdir()
    check(genlab("sample", run_copy), "found none")


def test_output_that_would_mix_or_overwrite_is_refused(genlab, trained, tmp_path: Path) -> None:
    run, _ = trained
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old.txt").write_text("old")
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder.png").mkdir()
    check(genlab("sample", run, "-n", 2, "-o", tmp_path / "full"), "empty or new folder")
    check(genlab("sample", run, "-n", 2, "-o", tmp_path / "file"), "got a file")
    check(genlab("sample", run, "-n", 2, "-o", tmp_path / "folder.png"), "got a folder")
    check(genlab("sample", run, "-n", 2, "-o", tmp_path / "x.bmp3"), ".bmp3", ".png")
    check(genlab("sample", run, "-n", 5000, "-o", tmp_path / "x.png"), "4096")
    check(genlab("interpolate", run, "-o", tmp_path / "new"), "expected a picture file")
    many = genlab("interpolate", run, "--rows", 100, "--steps", 100, "-o", tmp_path / "x.png")
    check(many, "x.png: expected at most 4096 pictures in one grid, got 10000; ask for fewer")
    assert (tmp_path / "file").read_text() == "old"


def test_output_that_cannot_be_made_is_refused_before_the_model_is_opened(genlab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    below = tmp_path / "file" / "folder" / "x.png"
    for verb in ("sample", "interpolate", "manifold", "latents"):
        check(genlab(verb, "no/such/run", "-o", below), "x.png: expected a place in a folder", "file", "choose another")
    check(genlab("anomalies", "no/such/run", "-o", below.parent), "expected a place in a folder")


def test_output_that_proves_impossible_is_one_line(genlab, trained, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("genlab.cli.generate.check_place", lambda path: None)  # as on a file system that misleads it
    (tmp_path / "file").write_text("old")
    outcome = genlab("sample", trained[0], "-n", 2, "-o", tmp_path / "file" / "x.png")
    check(outcome, "x.png: cannot be written", "choose another place")


@pytest.mark.parametrize(
    "words, parts",
    [
        (["--metrics", "fdi"], ["'fdi'", "did you mean 'fid'"]),
        (["--metrics", ""], ["got none"]),
        (["--extractor", "inceptoin"], ["did you mean 'inception'"]),
        (["--extractor", "inception", "--inception-weights", "no/such.pth"], ["no/such.pth", "does not exist"]),
        (["--samples", "20"], ["65", "20"]),
        (["--split", "tset"], ["split", "'tset'"]),
        (["--metrics", "own"], ["--metrics asks for no score that algorithm dcgan has"]),
        (["--metrics", "own", "--split", "test"], ["--split: expected metrics of samples", "'test'"]),
    ],
)
def test_scores_that_cannot_be_had_are_refused(genlab, run_copy: Path, words: list[str], parts: list[str]) -> None:
    before = (run_copy / "metrics.jsonl").read_text()
    check(genlab("evaluate", run_copy, *words), *parts)
    assert (run_copy / "metrics.jsonl").read_text() == before


def test_loss_that_is_not_finite_stops_with_step_and_batch(genlab, tmp_path: Path) -> None:
    words = ["generator_optimizer.lr=1e30", "discriminator_optimizer.lr=1e30", "--run-dir", tmp_path / "run"]
    outcome = genlab(*SHORT, *words)
    check(outcome, "loss_", "finite", "step", "batch", "learning rate")
    assert list((tmp_path / "run" / "checkpoints").glob("step_*.safetensors"))
    assert (tmp_path / "run" / "report.html").is_file()


def test_kernels_can_be_required(genlab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genlab import _extension

    missing = _extension.Status(False, "genlab._C is not built; run `genlab build`", False)
    monkeypatch.setattr(_extension, "status", lambda: missing)
    check(genlab(*SHORT, "--require-kernels", "--run-dir", tmp_path / "run"), "kernels.require", "genlab build")
    outcome = genlab(*SHORT, "train.steps=1", "--run-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "kernels: plain PyTorch, because genlab._C is not built; run `genlab build`" in outcome.out


def test_failed_build_is_one_line(genlab, monkeypatch: pytest.MonkeyPatch) -> None:
    from genlab import build

    result = build.BuildResult(
        False, False, "there is no C++ compiler (apt-get install g++, or set CXX)", None, 0.0, None
    )
    monkeypatch.setattr(build, "build", lambda **_: result)
    check(genlab("build"), "apt-get install g++", "plain PyTorch")


def test_full_disk_is_one_line(genlab, trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "grid.png")

    monkeypatch.setattr("genlab.images.save_grid", fail)
    check(genlab("sample", trained[0], "-o", tmp_path / "grid.png"), "grid.png", "No space left", "free some space")


def test_debug_keeps_the_traceback(genlab) -> None:
    for words in (["--debug", "report", "no/run"], ["report", "no/run", "--debug"]):
        outcome = genlab(*words)
        assert outcome.code == 2
        assert "Traceback" in outcome.err and outcome.error_lines[-1].startswith("error: run no/run")


def test_defect_keeps_its_traceback_and_exits_with_1(genlab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("defect")

    monkeypatch.setattr("genlab.report.write_report", fail)
    outcome = genlab("report", ".")
    assert outcome.code == 1
    assert "Traceback" in outcome.err and "ZeroDivisionError: defect" in outcome.err


def test_other_processes_of_a_run_name_themselves(genlab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert genlab("report", "no/run").err.startswith("rank 1: error: run no/run")


@pytest.mark.parametrize(
    "error, parts",
    [
        (RunError("two\nlines  of text"), ["two lines of text"]),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            ["/a/b: No space left on device", "free some space"],
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), ["/a: Permission denied", "permissions"]),
        (OSError(errno.EROFS, "Read-only file system", "/a"), ["mounted for writing"]),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), ["out of memory", "data.batch_size"]),
    ],
)
def test_failures_that_a_user_can_mend_are_one_line(error: Exception, parts: list[str]) -> None:
    line = describe_failure(error)
    assert line is not None and "\n" not in line
    assert all(part in line for part in parts)


@pytest.mark.parametrize("error", [KeyError("x"), OSError(errno.EIO, "Input/output error"), RuntimeError("x")])
def test_other_failures_are_defects(error: Exception) -> None:
    assert describe_failure(error) is None


def test_debug_behind_a_bare_double_dash_is_a_word() -> None:
    from genlab.cli.app import _take_debug

    words = ["fid", "--debug", "--", "--debug"]
    assert _take_debug(words) and words == ["fid", "--", "--debug"]
    assert sys.argv  # the process's own words are left alone
