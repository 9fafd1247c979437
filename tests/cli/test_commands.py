"""From a configuration to pictures, scores and a report, by the commands that a user types."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from genlab.cli.listings import named_settings
from genlab.config import config_directory, parse_config
from genlab.errors import ConfigError
from genlab.images import save_image
from genlab.models.classifiers import CLASSIFIERS
from genlab.trainers import ALGORITHMS

VERBS = [
    "train", "sample", "evaluate", "fid", "is", "statistics", "report", "list", "doctor", "build",
    "data check", "bench step", "interpolate", "arithmetic", "traverse", "manifold", "reconstruct", "latents",
    "translate", "anomalies", "likelihood", "predict-text", "fill-mask", "export-bert", "generate",
    "translate-text", "caption", "cross-validate", "neighbours", "analogies", "export-vectors",
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(genlab, verb: str) -> None:
    outcome = genlab(*verb.split(), "--help")
    assert outcome.code == 0
    assert f"genlab {verb} " in outcome.out.split("Usage:")[1]
    assert len(re.findall(rf"genlab {verb}\b", outcome.out)) >= 2, "the usage line, and an example"
    runs = re.findall(rf"genlab {verb} runs/(\S+)", outcome.out)
    names = {path.stem for path in config_directory().glob("*.yaml")}
    assert {run.rpartition("-")[0] for run in runs} <= names, "runs as `genlab train` names them"


def test_without_words_the_help_is_shown(genlab) -> None:
    outcome = genlab()
    assert outcome.code == 0
    assert all(verb.split()[0] in outcome.out for verb in VERBS)


def test_train_writes_a_whole_run(trained) -> None:
    run, outcome = trained
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml", "log.jsonl", "metrics.jsonl", "samples", "checkpoints", "report.html"
    }  # fmt: skip
    assert (run / "samples" / "step_00000008.png").is_file()
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["steps"] == 8


def test_train_says_what_runs_and_where_the_results_are(trained) -> None:
    run, outcome = trained
    assert outcome.err == ""
    assert re.search(r"^kernels: (matmul|native|torch|plain PyTorch)", outcome.out, flags=re.M)
    assert re.search(r"^settings: .*train.steps=8", outcome.out, flags=re.M)
    assert re.search(r"^step 8/8  loss_d \d", outcome.out, flags=re.M)
    assert "images/s" in outcome.out and "eta" in outcome.out
    assert "frechet[" in outcome.out and "is[" in outcome.out
    for name in ("samples/step_00000008.png", "report.html", "checkpoints/best.safetensors"):
        assert str(run / name) in outcome.out


def test_train_numbers_runs_by_the_name_of_the_configuration(genlab, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["dcgan_tiny", "train.steps=1", "evaluate.metrics=[]", "--device", "cpu"]
    assert genlab("train", *short).code == 0
    assert genlab("train", *short).code == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"dcgan_tiny-1", "dcgan_tiny-2"}
    outcome = genlab("train", *short, "train.steps=3", "--resume", "auto")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "runs" / "dcgan_tiny-2" / "checkpoints" / "step_00000003.safetensors").exists()


def test_resume_by_path_goes_on_in_the_same_run(genlab, run_copy: Path) -> None:
    checkpoint = run_copy / "checkpoints" / "step_00000004.safetensors"
    outcome = genlab("train", "dcgan_tiny", "evaluate.metrics=[]", "--resume", checkpoint, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    steps = [json.loads(line).get("step") for line in (run_copy / "log.jsonl").read_text().splitlines()]
    assert steps[-1] == 8 and steps.count(6) == 1


def test_sample_writes_a_grid_that_the_seed_fixes(genlab, trained, tmp_path: Path) -> None:
    run, _ = trained
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        outcome = genlab("sample", run, "-n", 6, "-o", tmp_path / f"{name}.png", "--seed", seed, "--columns", 3)
        assert outcome.code == 0, outcome.err
    assert Image.open(tmp_path / "a.png").size == (3 * 58 + 2, 2 * 58 + 2)  # 28 px twice as large, 2 px between
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_sample_writes_single_pictures_into_a_folder(genlab, trained, tmp_path: Path) -> None:
    run, _ = trained
    assert genlab("sample", run, "-n", 5, "-o", tmp_path / "pictures").code == 0
    files = sorted((tmp_path / "pictures").iterdir())
    assert [file.name for file in files] == [f"{index:06d}.png" for index in range(5)]
    assert Image.open(files[0]).size == (28, 28)


def test_sample_takes_checkpoints_by_step_best_and_file(genlab, trained, tmp_path: Path) -> None:
    run, _ = trained
    checkpoint = run / "checkpoints" / "step_00000004.safetensors"
    by_step = genlab("sample", run, "-n", 4, "-o", tmp_path / "step.png", "--which", 4)
    by_file = genlab("sample", checkpoint, "-n", 4, "-o", tmp_path / "file.png")
    best = genlab("sample", run, "-n", 4, "-o", tmp_path / "best.png", "--which", "best")
    raw = genlab("sample", run, "-n", 4, "-o", tmp_path / "raw.png", "--which", 4, "--weights", "raw")
    assert [o.code for o in (by_step, by_file, best, raw)] == [0, 0, 0, 0]
    assert "step 4" in by_step.out and "step 8" in best.out
    same, other = (tmp_path / "file.png").read_bytes(), (tmp_path / "raw.png").read_bytes()
    assert (tmp_path / "step.png").read_bytes() == same != other


def test_interpolate_draws_walks_as_rows(genlab, trained, tmp_path: Path) -> None:
    run, _ = trained
    outcome = genlab("interpolate", run, "--rows", 2, "--steps", 5, "-o", tmp_path / "walk.png")
    assert outcome.code == 0, outcome.err
    assert Image.open(tmp_path / "walk.png").size == (5 * 58 + 2, 2 * 58 + 2)


def test_evaluate_adds_scores_with_their_protocol(genlab, run_copy: Path) -> None:
    before = (run_copy / "metrics.jsonl").read_text()
    outcome = genlab("evaluate", run_copy, "--metrics", "fid,is,prdc", "--samples", 100, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    text = (run_copy / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.removeprefix(before).splitlines()]
    assert [row["name"].split("[")[0] for row in rows] == [
        "frechet",
        "is",
        "precision",
        "recall",
        "density",
        "coverage",
    ]
    assert all(row["step"] == 8 and row["protocol"]["extractor_hash"] for row in rows)
    assert rows[0]["protocol"]["fake"]["count"] == 100 and rows[0]["protocol"]["real"]["split"] == "train"
    assert "protocol: " in outcome.out and "coverage[" in outcome.out
    assert "coverage[" in (run_copy / "report.html").read_text()


def test_evaluate_prints_json_for_scripts(genlab, run_copy: Path) -> None:
    outcome = genlab("evaluate", run_copy, "--metrics", "is", "--samples", 50, "--json")
    row = json.loads(outcome.out)
    assert row["name"].startswith("is[") and row["protocol"]["fake"]["count"] == 50


def test_report_prints_its_path(genlab, run_copy: Path) -> None:
    (run_copy / "report.html").unlink()
    outcome = genlab("report", run_copy)
    assert outcome.out.strip() == str(run_copy / "report.html")
    assert (run_copy / "report.html").is_file()


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Inception file with random weights: what is tested is the way, not the number."""
    from genlab.metrics.extractors.inception import build_network

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(build_network().state_dict(), path)
    return path


def write_pictures(folder: Path, count: int) -> Path:
    for index in range(count):
        save_image(torch.rand(3, 16, 16) * 2 - 1, folder / f"{index}.png")
    return folder


def test_fid_of_a_folder_with_its_own_statistics_is_nothing(genlab, inception_weights: Path, tmp_path: Path) -> None:
    pictures, options = write_pictures(tmp_path / "a", 66), ["--dims", 64, "--inception-weights", inception_weights]
    saved = genlab("statistics", pictures, tmp_path / "a.npz", *options)
    assert saved.code == 0, saved.err
    outcome = genlab("fid", tmp_path / "a.npz", pictures, *options, "--json")
    assert outcome.code == 0, outcome.err
    score = json.loads(outcome.out)
    assert score["name"] == "frechet[inception64]"
    assert abs(score["value"]) < 1e-3
    assert score["protocol"]["weights"] == "random.pth"


def test_is_of_a_folder_carries_its_protocol(genlab, inception_weights: Path, tmp_path: Path) -> None:
    outcome = genlab("is", write_pictures(tmp_path / "a", 10), "--inception-weights", inception_weights)
    assert outcome.code == 0, outcome.err
    assert re.search(r"^\s*is\b", outcome.out, flags=re.M) and "splits=10" in outcome.out


@pytest.mark.parametrize(
    "what, names",
    [
        ("models", ["dcgan", "unet_generator", "progressive_discriminator", "sgan_mlp_generator"]),
        ("algorithms", ["dcgan"]),
        ("classifiers", ["lenet5", "small_cnn", "resnet18", "resnext50_32x4d", "vit_cifar"]),
        ("configs", ["dcgan_digits", "dcgan_tiny"]),
        ("datasets", ["digits", "mnist", "folder", "ring"]),
        ("ops", ["conv2d", "conv_transpose2d"]),
        ("extractors", ["inception", "classifier"]),
        ("losses", ["hinge", "wasserstein", "gradient_penalty", "r1", "drift", "consistency", "manifold_entropy"]),
        ("metrics", ["fid", "prdc", "class_kl", "active_units"]),
        ("settings", ["optimizer.name", "train.schedule.name", "model.network"]),
    ],
)
def test_list_names_what_there_is(genlab, what: str, names: list[str]) -> None:
    outcome = genlab("list", what)
    assert outcome.code == 0, outcome.err
    words = outcome.out.split()
    assert all(name in words for name in names)


def test_every_network_of_a_classifier_is_listed_among_the_models_too(genlab) -> None:
    words = genlab("list", "models").out.split()
    assert set(CLASSIFIERS.names()) <= set(words)


def test_names_that_settings_list_are_those_that_a_configuration_takes(genlab) -> None:
    found = {(key, algorithm): names for algorithm in ALGORITHMS.names()
             for key, names in named_settings(ALGORITHMS.get(algorithm).config_class)}  # fmt: skip
    assert found["model.network", "classifier"] == CLASSIFIERS.names()
    assert found["model.network", "infogan"] == ["infogan"] and found["model.network", "progressive"] == ["progressive"]
    assert "hinge" in found["gan.loss", "dcgan"] and "lstm" in found["model.network", "seq2seq"]
    for algorithm, key in (("dcgan", "model.network"), ("cgan", "model.network"), ("dcgan", "gan.loss")):
        for name in found[key, algorithm]:
            parse_config({"algorithm": algorithm, **nested(key, name)}, "test")
        with pytest.raises(ConfigError):
            parse_config({"algorithm": algorithm, **nested(key, "nothing_of_the_kind")}, "test")
    for (key, algorithm), names in found.items():
        if key.startswith(("train.on_", "optimizer.", "kernels.")):
            for name in names:
                parse_config({"algorithm": algorithm, **nested(key, name)}, "test")


def nested(key: str, value: str) -> dict:
    """{"a": {"b": value}} of "a.b"."""
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


def test_configurations_are_listed_with_the_whole_first_sentence(genlab) -> None:
    text = " ".join(genlab("list", "configs").out.split())
    assert "beside picture and z (Sohn, Lee and Yan 2015; Kingma et al. 2014, M2)" in text


def test_data_check_lists_every_bad_file_at_once(genlab, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "pictures", 3)
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:60])
    outcome = genlab("data", "check", folder)
    assert outcome.code == 2
    assert "empty.png" in outcome.out and "cut.png" in outcome.out
    assert len(outcome.error_lines) == 1 and "2 faults" in outcome.err
    assert genlab("data", "check", write_pictures(tmp_path / "good", 3)).code == 0


def test_doctor_ends_with_what_to_do(genlab) -> None:
    outcome = genlab("doctor")
    last = outcome.out.strip().splitlines()[-1]
    assert outcome.code == 0
    assert last == "nothing to mend" or last.startswith("to mend: ")
    assert all(subject in outcome.out for subject in ("python", "torch", "compiler", "nvcc", "kernels", "conv2d"))
    facts = json.loads(genlab("doctor", "--json").out)
    assert {"facts", "findings", "remedy"} == set(facts)


def test_doctor_is_strict_on_request(genlab, monkeypatch: pytest.MonkeyPatch) -> None:
    from genlab.doctor import Facts

    lacking = Facts(torch="2.14.1", compiler=None)
    monkeypatch.setattr("genlab.doctor.gather", lambda: lacking)
    assert genlab("doctor").code == 0
    assert genlab("doctor", "--strict").code == 2
    monkeypatch.setattr("genlab.doctor.gather", lambda: Facts(torch=None))
    assert genlab("doctor").code == 2


def test_version_is_the_package_s(genlab) -> None:
    from genlab import __version__

    assert genlab("--version").out.strip() == f"genlab {__version__}"
