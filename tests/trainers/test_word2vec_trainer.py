"""word2vec: words of one group come together, epochs are steps, vectors move on to other models, and refusals."""

from __future__ import annotations

import json

import pytest
import torch

from genlab import data
from genlab.checkpoint import find_checkpoint, load_bundle
from genlab.config import load_config
from genlab.data.text_grammar import ADVERBS, BEINGS, INTRANSITIVE, SPEECH, THINGS, TRANSITIVE
from genlab.errors import CheckpointError, ConfigError, DataError
from genlab.trainers import ALGORITHMS, DataSpec, train
from genlab.word_vectors import load_vectors

# Words that the grammar puts into the same places. Some words are both noun and verb, so they belong to no group.
_TWICE = {"dreams", "lights", "light", "dream"}
GROUPS = [
    {noun.one for noun in BEINGS + THINGS} - _TWICE,
    {noun.many for noun in BEINGS + THINGS} - _TWICE,
    {verb.one for verb in TRANSITIVE} - _TWICE,
    {verb.many for verb in TRANSITIVE} - _TWICE,
    {verb.one for verb in INTRANSITIVE} - _TWICE,
    {verb.many for verb in INTRANSITIVE} - _TWICE,
    {english for english, _ in ADVERBS},
    {verb.one for verb in SPEECH},
    {verb.many for verb in SPEECH},
]
QUIET = ["train.tensorboard=false", "train.log_every=200", "train.sample_every=5000", "train.checkpoint_every=5000"]


def togetherness(vectors) -> float:
    """Share of words of a group whose nearest word, of all in groups, is of the same group."""
    grouped = [(word, group) for group in GROUPS if len(group) > 1 for word in sorted(group) if word in vectors.numbers]
    rows = vectors.directions[[vectors.number(word) for word, _ in grouped]]
    similarity = rows @ rows.T
    nearest = similarity.fill_diagonal_(-2.0).argmax(1).tolist()
    return sum(grouped[near][1] is group for near, (_, group) in zip(nearest, grouped, strict=True)) / len(grouped)


@pytest.mark.parametrize("objective", ["negative_sampling", "hierarchical_softmax"])
@pytest.mark.parametrize("architecture", ["skip_gram", "cbow"])
def test_words_of_one_group_are_nearest_to_one_another(tmp_path, architecture, objective):
    settings = [f"model.architecture={architecture}", f"model.objective={objective}", "model.embedding_dim=24"]
    settings += [
        "train.steps=600",
        "model.window=2",
        "model.subsample=null",
        "evaluate.metrics=[]",
        "optimizer.lr=0.05",
    ]
    result = train(load_config("word2vec_tiny", [*QUIET, *settings]), tmp_path / "run")
    before = load_vectors(tmp_path / "run" / "checkpoints" / "step_00000000.safetensors")
    assert togetherness(before) < 0.4
    assert togetherness(load_vectors(result.last_checkpoint)) >= 0.8


def test_months_of_real_text_are_nearest_to_months(tmp_path, shared_data):
    months = ["january", "february", "march", "april", "june", "july", "august", "september", "october", "november"]
    months += ["december"]
    settings = ["epochs=6", "model.negatives=5", "model.embedding_dim=48", "optimizer.lr=0.06", "evaluate.metrics=[]"]
    config = load_config("word2vec_wikitext2", [*QUIET, f"data.root={shared_data}", *settings])
    vectors = load_vectors(train(config, tmp_path / "run").last_checkpoint)
    near = [word for month in months for word, _ in vectors.nearest(month, 5)]
    assert sum(word in months for word in near) / len(near) >= 0.5  # of some seven thousand words


def test_the_loss_falls_and_the_rate_falls_to_nothing(tmp_path):
    settings = ["train.steps=120", "train.log_every=20", "evaluate.metrics=[own]"]
    result = train(load_config("word2vec_tiny", settings), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert rows[-1]["learning_rate"] == pytest.approx(0.05 * (1 / 120 + 1e-4 * 119 / 120), rel=1e-6)
    assert all(0 < row["kept"] < 1 and -1 <= row["mean_cosine"] <= 1 for row in rows)
    scores = {row["name"]: row["value"] for row in result.last_scores}
    assert set(scores) == {"val_nats_per_prediction", "test_nats_per_prediction"}
    assert scores["val_nats_per_prediction"] == pytest.approx(rows[-1]["loss"], rel=0.1)


def test_threads_without_locks_learn_as_well(tmp_path):
    settings = ["train.steps=60", "train.deterministic=false", "train.log_every=60", "evaluate.metrics=[own]"]
    threads, losses = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            result = train(load_config("word2vec_tiny", settings), tmp_path / str(count))
            losses.append(result.last_scores[0]["value"])
    finally:
        torch.set_num_threads(threads)
    assert losses[1] == pytest.approx(losses[0], rel=0.03)


def test_epochs_are_passes_over_the_text(tmp_path):
    config = load_config("word2vec_tiny", ["train.steps=1000", "epochs=2", "data.batch_size=7000"])
    blocks = ALGORITHMS.get("word2vec")(config, DataSpec.of(data.build(config.data))).open_stream(
        data.build(config.data), seed=0
    )
    result = train(config, tmp_path / "run", evaluator=None)
    assert result.step == 2 * blocks.batches_per_epoch
    resumed = train(config, tmp_path / "run", resume="auto", evaluator=None)
    assert resumed.step == result.step
    with pytest.raises(ConfigError, match=r"train\.steps: expected nothing beside epochs=2, which are \d+ steps here"):
        train(load_config("word2vec_tiny", ["epochs=2"]), tmp_path / "other", evaluator=None)


# -- what its vectors are good for -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """A run on the sentences that the classifier learns from."""
    path = tmp_path_factory.mktemp("reviews") / "run"
    settings = ["data.name=small_reviews", "data.min_count=1", "model.embedding_dim=8", "evaluate.metrics=[]"]
    train(load_config("word2vec_tiny", [*QUIET, *settings]), path)
    return path


CLASSIFIER = ["train.steps=1", "train.tensorboard=false", "model.channels=static", "evaluate.metrics=[]"]


@pytest.mark.parametrize("source", ["run", "checkpoint", "text", "gz"])
def test_a_classifier_begins_with_its_vectors(reviews, tmp_path, source):
    import gzip

    text = tmp_path / "vectors.txt"
    load_vectors(reviews).save_text(text)
    packed = tmp_path / "vectors.txt.gz"
    packed.write_bytes(gzip.compress(text.read_bytes()))
    place = {"run": reviews, "checkpoint": find_checkpoint(reviews), "text": text, "gz": packed}[source]
    config = load_config("sentence_classifier_tiny", [*CLASSIFIER, f"model.vectors={place}"])
    trainer = load_bundle(train(config, tmp_path / "run").last_checkpoint).trainer
    vectors = load_vectors(reviews)
    table = trainer.networks["classifier"].embedding.weight
    for word in ("plot", "dull", "brilliant", "."):
        expected = vectors.vectors[vectors.number(word)]
        torch.testing.assert_close(table[trainer.codec.numbers[word]], expected, rtol=1e-5, atol=1e-6)
    assert table.abs().max() > 0


def test_vectors_of_another_length_and_runs_of_another_algorithm_are_refused(reviews, tmp_path):
    overrides = [*CLASSIFIER, f"model.vectors={reviews}", "model.embedding=9"]
    with pytest.raises(ConfigError, match="expected vectors of 9 numbers, got 8; set model.embedding"):
        train(load_config("sentence_classifier_tiny", overrides), tmp_path / "a")
    other = train(load_config("sentence_classifier_tiny", ["train.steps=1", "evaluate.metrics=[]"]), tmp_path / "b")
    with pytest.raises(CheckpointError, match="expected a run of algorithm word2vec or a text file of word vectors"):
        load_vectors(other.run_path)
    with pytest.raises(CheckpointError, match="expected checkpoints, found none"):
        load_vectors(tmp_path)


def test_special_tokens_have_no_vector(reviews):
    words = load_vectors(reviews).words
    assert "<unk>" not in words and "<pad>" not in words and "plot" in words


def test_the_counts_come_back_with_the_checkpoint(tmp_path):
    settings = ["model.objective=hierarchical_softmax", "train.steps=2", "evaluate.metrics=[]"]
    result = train(load_config("word2vec_tiny", [*QUIET, *settings]), tmp_path / "run")
    tables = load_bundle(result.last_checkpoint).trainer.networks["vectors"]
    lengths = tables.objective.path_starts.diff()
    assert tables.counts.max() > 1 and lengths[tables.counts.argmax()] == lengths.min()


def test_analogies_of_a_file_are_scored_in_training(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text(": number\ndog dogs cat cats\nboat boats house houses\nOslo Norway Rome Italy\n")
    config = load_config("word2vec_tiny", [*QUIET, f"analogies={path}"])
    rows = {row["name"]: row for row in train(config, tmp_path / "run").last_scores}
    assert rows["analogy_coverage"]["value"] == pytest.approx(2 / 3)
    assert rows["analogy_accuracy"]["protocol"]["count"] == 2


# -- diagnosis and refusals ------------------------------------------------------------------------------------------


def test_words_that_are_all_alike_are_a_finding():
    config = load_config("word2vec_tiny")
    trainer = ALGORITHMS.get("word2vec")(config, DataSpec.of(data.build(config.data)))
    spread = trainer.vital_signs(lambda n: {})["mean_cosine"]
    assert abs(float(spread)) < 0.1 and trainer.findings({"mean_cosine": float(spread)}) == []
    with torch.no_grad():
        trainer.networks["vectors"].inputs.add_(5.0)
    sign = float(trainer.vital_signs(lambda n: {})["mean_cosine"])
    (finding,) = trainer.findings({"mean_cosine": sign})
    assert finding.what == "collapse" and "all words are alike: the mean cosine of two of them is 1.00" in finding.text


def test_a_gpu_is_refused_where_results_are_to_be_the_same_every_time():
    config = load_config("word2vec_tiny")
    dataset = data.build(config.data)
    trainer = ALGORITHMS.get("word2vec")(config, DataSpec.of(dataset))
    trainer.device = torch.device("cuda")
    with pytest.raises(ConfigError, match=r"train\.deterministic: expected false on cuda, where"):
        trainer.open_stream(dataset, seed=0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.window=0", r"model\.window: expected greater than or equal to 1, got 0"),
        ("model.embedding_dim=0", r"embedding_dim: expected greater than or equal to 1"),
        ("model.negatives=0", r"negatives: expected greater than or equal to 1"),
        ("model.subsample=0", r"subsample: expected greater than 0"),
        ("model.architecture=glove", "expected 'cbow' or 'skip_gram', got 'glove'"),
        ("model.objective=softmax", "expected 'negative_sampling' or 'hierarchical_softmax'"),
        ("data.unit=character", "expected 'word' or 'whitespace', got 'character'"),
        ("train.grad_accumulation=2", "every prediction is a step of its own"),
        ("epochs=0", "epochs: expected greater than or equal to 1"),
        ("optimizer.lr=0", r"lr: expected greater than 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("word2vec_tiny", [override])


def test_a_vocabulary_that_nothing_is_left_of_is_told(tmp_path):
    with pytest.raises(DataError, match="expected tokens that occur 100000 times, got none; lower data.min_count"):
        train(load_config("word2vec_tiny", ["data.min_count=100000"]), tmp_path / "run")
    with pytest.raises(ConfigError, match="expected a data set of text or sentences, got images"):
        train(load_config("word2vec_tiny", ["data.name=digits"]), tmp_path / "run")
