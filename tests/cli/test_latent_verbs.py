"""genlab traverse, manifold and likelihood, as a user types them."""

from __future__ import annotations

import json

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def runs(genlab, tmp_path_factory):
    """Finished runs of a plain, a conditional two-latent, and another algorithm's model."""
    folder = tmp_path_factory.mktemp("latent-runs")
    quick = ["train.steps=2", "train.tensorboard=false", "evaluate.metrics=[]", "--device", "cpu"]
    conditional = ["model.conditional=true", "model.latent_dim=2"]
    for name, words in {
        "plain": ["vae_tiny"],
        "plane": ["vae_tiny", *conditional],
        "dcgan": ["dcgan_tiny", "data.batch_size=4", "model.base_channels=2"],
    }.items():
        outcome = genlab("train", *words, *quick, "--run-dir", folder / name)
        assert outcome.code == 0, outcome.err
    return folder


def test_traverse_writes_a_row_per_code(genlab, runs, tmp_path):
    outcome = genlab("traverse", runs / "plain", "--steps", 5, "-o", tmp_path / "rows.png")
    assert outcome.code == 0, outcome.err
    assert sorted(outcome.out.split("rows ")[1].split(", step")[0].split(", ")) == ["z0", "z1", "z2", "z3"]
    tile = 64 + 2
    assert Image.open(tmp_path / "rows.png").size == (5 * tile + 2, 4 * tile + 2)
    fewer = genlab("traverse", runs / "plain", "--rows", 3, "--draws", 2, "-o", tmp_path / "fewer.png")
    assert fewer.code == 0
    assert Image.open(tmp_path / "fewer.png").size == (11 * tile + 2, 2 * tile + 2), "one code from two places"


def test_traverse_walks_the_codes_asked_for_in_their_order(genlab, runs, tmp_path):
    outcome = genlab("traverse", runs / "plain", "--codes", "z3,z0", "--draws", 2, "-o", tmp_path / "two.png")
    assert "rows z3, z0, step 2, seed 0" in outcome.out
    assert Image.open(tmp_path / "two.png").size[1] == 4 * 66 + 2


def test_manifold_draws_a_square_of_a_class(genlab, runs, tmp_path):
    words = ["manifold", runs / "plane", "--size", 4, "-o"]
    outcome = genlab(*words, tmp_path / "a.png", "--class", "7")
    assert "4 x 4 latents, class 7" in outcome.out, outcome.err
    assert Image.open(tmp_path / "a.png").size == (4 * 66 + 2, 4 * 66 + 2)
    genlab(*words, tmp_path / "b.png", "--class", "0")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_classes_are_told_by_their_names(genlab, tmp_path):
    words = ["data.name=shapes", "data.image_size=8", "data.limit=64", "model.conditional=true", "model.latent_dim=2"]
    quick = ["train.steps=1", "train.tensorboard=false", "evaluate.metrics=[]", "--device", "cpu"]
    outcome = genlab("train", "vae_tiny", *words, *quick, "--run-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    for verb, shape in (("manifold", ["--size", 2]), ("traverse", ["--steps", 2])):
        drawn = genlab(verb, tmp_path / "run", *shape, "--class", "star", "-o", tmp_path / "x.png")
        assert ", class star, step 1" in drawn.out, drawn.err


def test_likelihood_prints_and_keeps_its_numbers_with_their_protocol(genlab, runs):
    outcome = genlab("likelihood", runs / "plain", "-k", 60, "--images", 20, "--split", "train", "--json")
    assert outcome.code == 0, outcome.err
    rows = {row["name"]: row for row in map(json.loads, outcome.out.splitlines())}
    assert set(rows) == {"nll", "elbo", "iwae_bound", "active_units"}
    protocol = rows["nll"]["protocol"]
    assert (protocol["k"], protocol["count"], protocol["split"]) == (60, 20, "train")
    assert protocol["checkpoint"] == "step_00000002.safetensors"
    assert -rows["nll"]["value"] >= rows["elbo"]["value"]
    kept = [json.loads(line) for line in (runs / "plain" / "metrics.jsonl").read_text().splitlines()]
    assert [row["value"] for row in kept[-4:]] == [rows[row["name"]]["value"] for row in kept[-4:]]
    whole = genlab("likelihood", runs / "plain", "-k", 1, "--images", "all")
    assert "count=297" in whole.out, whole.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["traverse", "{}/dcgan"], "algorithm dcgan: has no codes to traverse; expected a model of "),
        (["manifold", "{}/dcgan"], "algorithm dcgan: has no plane of latents to draw; expected a model of "),
        (["likelihood", "{}/dcgan"], "algorithm dcgan: gives no probability of a picture; expected a model of "),
        (["traverse", "{}/plain", "--codes", "z4"], "code: expected one of z0, z1, z2, z3, got 'z4'; did you mean"),
        (["traverse", "{}/plain", "--codes", ","], "--codes: expected names such as z0,z1, got ','"),
        (["traverse", "{}/plain", "--class", "3"], "was trained without labels"),
        (["traverse", "{}/plane", "--class", "ten"], "--class: expected 0 to 9, got 'ten'"),
        (["traverse", "{}/plane", "--class", "10"], "--class: expected 0 to 9, got '10'"),
        (["traverse", "{}/plain", "-o", "rows.txt"], "rows.txt: expected a picture file"),
        (["traverse", "{}/plain", "--rows", "256", "--steps", "256"], "expected at most 4096 pictures in one grid"),
        (["manifold", "{}/plain"], "manifold: expected a model with model.latent_dim=2, got 4"),
        (["likelihood", "{}/plain", "--images", "1"], "--images: expected a number from 2 on, or all, got '1'"),
        (["likelihood", "{}/plain", "--split", "tset"], "tset"),
        (["likelihood", "{}/plain", "--root", "x"], "root: expected none, as data set 'digits' reads no files, got x"),
        (["likelihood", "{}/nowhere"], "no such file or folder"),
    ],
)
def test_bad_input_is_one_line(genlab, runs, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    outcome = genlab(*[word.replace("{}", str(runs)) for word in words])
    assert outcome.code == 2
    assert len(outcome.error_lines) == 1
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []
