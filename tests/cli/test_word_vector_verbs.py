"""neighbours, analogies, export-vectors and evaluate --analogies as a person calls them."""

from __future__ import annotations

import json

import pytest

WORDS = {"king": "1 1 0", "queen": "1 -1 0", "man": "0.1 1 0", "woman": "0.1 -1 0", "apple": "0 0 2"}


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "v.txt"
    path.write_text("5 3\n" + "".join(f"{word} {row}\n" for word, row in WORDS.items()))
    return path


@pytest.fixture(scope="module")
def run(genlab, tmp_path_factory):
    path = tmp_path_factory.mktemp("word2vec") / "run"
    outcome = genlab("train", "word2vec_tiny", "--run-dir", path, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    return path


def test_neighbours_of_a_text_file_and_of_a_run(genlab, vectors, run):
    outcome = genlab("neighbours", vectors, "king", "WOMAN", "-n", "2")
    assert outcome.code == 0
    assert outcome.out.splitlines() == ["king\tman 0.77, queen 0.00", "WOMAN\tqueen 0.77, apple 0.00"]
    found = json.loads(genlab("neighbours", run, "dog", "-n", "3", "--json").out)
    assert found["word"] == "dog" and len(found["nearest"]) == 3
    assert all(-1.001 <= near["cosine"] <= 1.001 and near["word"] != "dog" for near in found["nearest"])


def test_analogies_one_or_several(genlab, vectors):
    outcome = genlab("analogies", vectors, "man", "king", "woman", "king", "queen", "man", "-n", "1")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["man : king = woman : ?", "king : queen = man : ?"]
    assert [line.split("\t")[1].split()[0] for line in lines] == ["queen", "woman"]


def test_exported_vectors_are_the_runs(genlab, run, tmp_path):
    file = tmp_path / "deep" / "v.txt"
    outcome = genlab("export-vectors", run, file)
    assert outcome.code == 0 and outcome.out.strip() == f"{file}: 72 words of 16 numbers"
    assert file.read_text().splitlines()[0] == "72 16"
    words = ("neighbours", "dog", "cat")
    assert genlab(words[0], file, *words[1:]).out == genlab(words[0], run, *words[1:]).out


def test_evaluate_answers_a_file_of_analogies(genlab, run, tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text(": number\ndog dogs cat cats\nOslo Norway Rome Italy\n")
    outcome = genlab("evaluate", run, "--analogies", path, "--device", "cpu", "--json")
    assert outcome.code == 0, outcome.err
    rows = {row["name"]: row for row in map(json.loads, outcome.out.splitlines())}
    assert {"val_nats_per_prediction", "analogy_accuracy", "analogy_coverage"} <= set(rows)
    assert rows["analogy_accuracy"]["protocol"]["checkpoint"] == "step_00000008.safetensors"
    assert rows["analogy_coverage"]["value"] == 0.5
    assert "analogy_accuracy" in (run / "metrics.jsonl").read_text()


def refused(outcome) -> str:
    assert outcome.code == 2 and outcome.out == ""
    (line,) = outcome.error_lines
    return line


def test_wrong_input_ends_in_one_line(genlab, vectors, run, trained, tmp_path):
    dcgan = trained[0]
    assert "got 'quen'; did you mean 'queen'?" in refused(genlab("neighbours", vectors, "king", "quen"))
    assert "got 'womn'; did you mean 'woman'?" in refused(genlab("analogies", vectors, "man", "king", "womn"))
    assert "expected words in threes, such as man king woman, got 2" in refused(
        genlab("analogies", vectors, "man", "king")
    )
    for verb in (("neighbours", "king"), ("analogies", "a", "b", "c"), ("export-vectors", tmp_path / "v.txt")):
        assert "expected a run of algorithm word2vec" in refused(genlab(verb[0], dcgan, *verb[1:]))
    assert "No such file" in refused(genlab("neighbours", tmp_path / "none", "king"))
    assert "expected a file to write, got a folder" in refused(genlab("export-vectors", run, tmp_path))
    questions = tmp_path / "q.txt"
    questions.write_text("a b c\n")
    assert "line 1: expected four words" in refused(genlab("evaluate", run, "--analogies", questions))
    assert "--analogies: expected a model of algorithm word2vec, got one of dcgan" in refused(
        genlab("evaluate", dcgan, "--analogies", questions)
    )
