"""Word vectors: nearest words, analogies, text files, and files that hold none."""

from __future__ import annotations

import pytest
import torch

from genlab.errors import UserError
from genlab.word_vectors import WordVectors, load_vectors

WORDS = ("king", "queen", "man", "woman", "apple")
VECTORS = WordVectors(WORDS, torch.tensor([[1.0, 1, 0], [1, -1, 0], [0.1, 1, 0], [0.1, -1, 0], [0, 0, 2]]))


def test_nearest_words_are_those_of_largest_cosine_without_the_word_itself():
    found = VECTORS.nearest("king", 2)
    assert [word for word, _ in found] == ["man", "queen"]
    assert found[0][1] == pytest.approx(1.1 / (2**0.5 * 1.01**0.5), rel=1e-5)


def test_an_analogy_leaves_its_three_words_out():
    assert VECTORS.analogy("man", "king", "woman", 1)[0][0] == "queen"
    assert VECTORS.analogy("MAN", "king", "woman", 1)[0][0] == "queen"


def test_an_unknown_word_names_the_nearest_spelling():
    with pytest.raises(UserError, match="word: expected one of the 5 of the model, got 'quen'; did you mean 'queen'"):
        VECTORS.nearest("quen")


def test_text_files_survive_a_round_trip_with_and_without_the_line_of_sizes(tmp_path):
    path = tmp_path / "a.vec"
    VECTORS.save_text(path)
    again = load_vectors(path)
    assert again.words == WORDS
    torch.testing.assert_close(again.vectors, VECTORS.vectors)
    plain = tmp_path / "glove.txt"
    plain.write_text("\n".join(path.read_text().splitlines()[1:]))
    assert load_vectors(plain).words == WORDS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 1 2\nb 1\n", "line 2: expected a new word and 2 numbers"),
        ("a 1 2\na 3 4\n", "line 2"),
        ("a x y\n", "not a text file of word vectors"),
        ("", "got none"),
    ],
)
def test_files_that_hold_no_vectors_are_refused(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_vectors(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="none.txt: not a text file of word vectors .*No such file"):
        load_vectors(tmp_path / "none.txt")


def test_tokens_without_a_vector_are_told_apart():
    rows, known = VECTORS.rows_for(["pear", "queen"])
    assert known.tolist() == [False, True]
    assert not rows[0].any() and torch.equal(rows[1], VECTORS.vectors[1])
