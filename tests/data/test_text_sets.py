"""Sets of text: what the real ones hold, splits that do not overlap, and files that are not as they say."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from genlab.config import DataConfig
from genlab.data import build, iterate
from genlab.data.text_corpora import mackey_glass
from genlab.data.text_grammar import TAGS, reviews, scenes
from genlab.errors import ConfigError, DataError
from genlab.text_config import TextDataConfig


def text_set(name: str, split: str = "train", **settings):
    return build(TextDataConfig(name=name, **settings), split)


@pytest.mark.parametrize(("name", "counts", "classes"), [("sst2", (6920, 872, 1821), 2), ("trec", (4907, 545, 500), 6)])
def test_the_real_sets_have_their_published_sizes(shared_data, name, counts, classes):
    sets = [text_set(name, split, root=shared_data) for split in ("train", "val", "test")]
    assert tuple(map(len, sets)) == counts
    assert all(data.num_classes == classes for data in sets)
    assert sets[0].codecs == sets[2].codecs, "the vocabulary is the training part's"
    batch = sets[2].fetch(np.array([0, 1]))
    assert batch["tokens"].shape == (2, int(batch["length"].max()))


def test_rt_polarity_is_read_as_cp1252_and_split_without_overlap(shared_data):
    parts = {split: text_set("rt_polarity", split, root=shared_data) for split in ("train", "val", "test", "all")}
    assert len(parts["all"]) == 10_662 == sum(len(parts[split]) for split in ("train", "val", "test"))
    assert "é" in "".join(parts["all"].texts)
    assert 0.4 < parts["test"].labels.float().mean() < 0.6


def test_the_real_corpora_are_read_whole(shared_data):
    plays = {
        split: text_set("tinyshakespeare", split, root=shared_data, unit="character", lowercase=False, holdout=0.0)
        for split in ("train", "test", "all")
    }
    assert len(plays["all"].stream) == 1_115_394
    assert len(plays["train"].stream) == round(0.9 * 1_115_394)
    assert len(plays["all"].codecs["tokens"]) == 65
    articles = text_set("wikitext2", "test", root=shared_data, unit="whitespace", lowercase=False)
    assert "valid.txt is trained on" in articles.notes[0]


def test_multi30k_pairs_have_both_sides_and_both_directions(shared_data):
    data = text_set("multi30k", "test", root=shared_data, languages=("de", "fr"))
    assert len(data) == 1000
    assert data.texts[0][0].startswith("Ein Mann") and data.texts[0][1].startswith("Un homme")
    batch = data.fetch(np.arange(3))
    ends = batch["source"].gather(1, batch["source_length"][:, None] - 1)
    assert (ends == data.codecs["source"].special("end")).all()


@pytest.mark.parametrize("name", ["small_reviews", "small_tags", "small_pairs"])
def test_made_sentences_are_batched_with_their_lengths_and_padding(name):
    data = text_set(name)
    for batch in iterate(data, 64, limit=128):
        for key in data.codecs:
            length = batch["length" if key == "tokens" else f"{key}_length"]
            width = batch[key].shape[1]
            padded = np.arange(width)[None] >= length.numpy()[:, None]
            assert width == length.max()
            assert ((batch[key].numpy() == 0) == padded).all(), "padding is where the sentence has ended, nowhere else"


def test_made_sets_are_balanced_and_their_parts_differ():
    train, test = text_set("small_reviews"), text_set("small_reviews", "test")
    assert 0.35 < train.labels.float().mean() < 0.65
    assert len(set(test.texts) - set(train.texts)) > 100
    assert reviews(5) == reviews(5) != reviews(5, seed=1)


def test_the_grammar_knows_gender_case_and_the_place_of_the_verb():
    made = {" ".join(sentence.english): " ".join(sentence.german) for sentence in scenes(4000, seed=17)}
    objects = {
        "a bird": "einen Vogel",
        "the man": "den Mann",
        "a flower": "eine Blume",
        "an old boat": "ein altes Boot",
    }
    for english, german in objects.items():
        found = [made[text] for text in made if text.endswith(f"s {english} .") and "that" not in text]
        assert found and all(text.endswith(f" {german} .") for text in found), english
    subordinate = [german for german in made.values() if "dass" in german]
    verbs = {"schläft", "schlafen", "lacht", "lachen", "träumt", "träumen", "wartet", "warten"}
    short = [german.split() for german in subordinate if verbs & set(german.split())]
    assert short and all(words[-2] in verbs for words in short)
    words = [pair for s in scenes(500, 13) for pair in zip(s.english, s.tags, strict=True)]
    light = {TAGS[tag] for word, tag in words if word in ("light", "lights")}
    assert light >= {"adjective", "noun", "verb"}


def test_windows_of_a_stream_follow_one_another_and_move_together_in_training():
    from genlab.data.randomness import EpochKey

    data = text_set("small_stories", unit="character", sequence_length=50)
    tokens = data.fetch(np.arange(3))["tokens"]
    assert tokens.shape == (3, 51)
    assert (tokens[:-1, -1] == tokens[1:, 0]).all()
    moved = {tuple(data.fetch(np.arange(2), EpochKey(0, epoch))["tokens"][0, :5].tolist()) for epoch in range(20)}
    assert len(moved) > 1


def test_the_series_is_the_published_equation_and_standardised():
    values = mackey_glass(1200)[:, 0]
    assert 0.2 < values.min() < 0.5 and 1.2 < values.max() < 1.4
    data = text_set("mackey_glass", sequence_length=20)
    assert abs(float(data.values.mean())) < 1e-5 and abs(float(data.values.std()) - 1) < 1e-3
    batch = data.fetch(np.array([4]))
    assert (batch["next"][0] == data.values[24]).all() and (batch["past"][0, -1] == data.values[23]).all()


def test_files_may_be_packed_and_lie_in_the_folder_itself(tmp_path):
    for part in ("train", "test"):
        with gzip.open(tmp_path / f"{part}.tsv.gz", "wt") as file:
            file.write("a fine film\tgood\nquite bad\tbad\n" * 6)
    data = text_set("sentences", "test", root=tmp_path)
    assert data.class_names == ["bad", "good"] and len(data) == 12
    assert text_set("sentences", "val", root=tmp_path).notes[0].startswith("val: 1 sentences held out")


def write(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("sentences", {}, r"expected train\.tsv, got none"),
        ("sentences", {"train__tsv": b"fine\tgood\nno label\n"}, r"train\.tsv: line 2: expected a sentence, a tab"),
        ("sentences", {"train__tsv": b"fine\tgood\n\t bad\n"}, r"line 2: expected a sentence"),
        ("sentences", {"train__tsv": b"caf\xe9\tgood\n"}, r"line 1: expected utf-8 text, got byte 0xE9; convert"),
        ("sentences", {"train__tsv": b" \n"}, r"expected text, got an empty file"),
        ("sentences", {"train__tsv__gz": b"no gzip"}, r"expected a readable text file"),
        (
            "sentences", {"train__tsv": b"a\tx\nb\ty\n" * 9, "test__tsv": b"c\tz\n"},
            r"test\.tsv: line 1: expected a label of x, y, got 'z'",
        ),
        ("parallel", {"train__en": b"a\n"}, r"expected train\.de, got none"),
        ("parallel", {"train__en": b"a\nb\n", "train__de": b"c\n"}, r"expected as many lines in both, got 2 and 1"),
        ("parallel", {"train__en": b"a\n\n", "train__de": b"c\nd\n"}, r"train\.en: line 2: expected a sentence"),
        ("tagged", {"train__txt": b"dog noun\nsees\n"}, r"line 2: expected a word and its tag, got 'sees'"),
        ("tagged", {"train__txt": b"dog noun\n", "test__txt": b"a verb\n"}, r"expected the tags of train\.txt \(noun"),
    ],
)  # fmt: skip
def test_files_that_are_not_as_they_say_are_refused_in_one_line(tmp_path, name, files, message):
    split = "test" if any("test" in file for file in files) else "train"
    with pytest.raises(DataError, match=message) as caught:
        text_set(name, split, root=write(tmp_path, **files))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1,2\n3\n", r"line 2: expected 2 finite numbers, got '3'"),
        (b"1\n2\n", "expected at least 10 lines of numbers, got 2"),
        (b"1\n" * 20, "column 1: expected values that vary"),
        (b"x\n1\ny\n", "line 3: expected numbers between commas"),
    ],
)
def test_series_that_cannot_be_learnt_from_are_refused(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        text_set("series", root=tmp_path / "a.csv")


def test_a_missing_set_names_its_files(tmp_path):
    with pytest.raises(DataError, match=r"expected TREC\.train, TREC\.test \(plain or \.gz\) in text/trec"):
        text_set("trec", root=tmp_path)
    with pytest.raises(DataError, match=r"data\.root: expected the folder that holds sst2"):
        text_set("sst2")


def test_a_held_out_part_needs_a_holdout():
    with pytest.raises(DataError, match=r"split 'val': expected data\.holdout above 0"):
        text_set("small_stories", "val", holdout=0.0)


def test_settings_of_pictures_are_refused_and_cut_sentences_are_told():
    with pytest.raises(ValueError, match="image_size: is of pictures"):
        TextDataConfig(name="sst2", image_size=64)
    cut = text_set("small_reviews", max_length=6)
    assert int(cut.fetch(np.arange(100))["length"].max()) == 6
    assert "were cut to data.max_length=6 tokens" in cut.notes[0]


def test_a_model_of_pictures_refuses_text_and_a_stream_that_is_too_short_says_so():
    from genlab.config import load_config
    from genlab.trainers import ALGORITHMS, DataSpec

    config = load_config("dcgan_tiny", ["data.name=small_reviews"])
    dataset = build(config.data.model_copy(update={"image_size": 32}))
    with pytest.raises(ConfigError, match="expected a data set of images or points|expected a data set of"):
        ALGORITHMS.get("dcgan")(config, DataSpec.of(dataset))
    assert isinstance(config.data, DataConfig)
    with pytest.raises(DataError, match=r"expected at least 100001 tokens"):
        text_set("small_stories", sequence_length=100_000)
