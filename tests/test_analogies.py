"""Files of analogies: how they are read, answered and refused."""

from __future__ import annotations

import pytest
import torch

from genlab.analogies import answer, read_questions
from genlab.errors import UserError
from genlab.word_vectors import WordVectors

WORDS = ("king", "queen", "man", "woman", "apple", "prince")
VECTORS = WordVectors(
    WORDS, torch.tensor([[1.0, 1, 0], [1, -1, 0], [0.1, 1, 0], [0.1, -1, 0], [0, 0, 2], [1.0, 0.9, 0.3]])
)
FILE = """: capital-common-countries
Athens Greece Oslo Norway
: family
man king woman queen
KING queen man WOMAN
king queen apple man

woman queen man king
"""


def test_questions_with_unknown_words_are_not_asked_and_sections_are_counted(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text(FILE)
    questions = read_questions(path)
    assert len(questions) == 5 and questions[0].section == "capital-common-countries"
    answers = answer(VECTORS, questions)
    assert (answers.right, answers.asked) == (3, 4) and answers.accuracy == 0.75
    assert answers.sections == {"family": (3, 4)}


def test_answers_are_those_of_single_analogies(tmp_path):
    vectors = WordVectors(tuple(f"w{n}" for n in range(40)), torch.randn(40, 6))
    path = tmp_path / "questions.txt"
    rows = torch.stack([torch.randperm(40)[:3] for _ in range(700)]).tolist()  # more than are answered at a time
    right = [vectors.analogy(*(f"w{n}" for n in row), count=1)[0][0] for row in rows]
    lines = [
        f"w{a} w{b} w{c} {found if number % 3 else 'w0'}"
        for number, ((a, b, c), found) in enumerate(zip(rows, right, strict=True))
    ]
    path.write_text("\n".join(lines))
    expected = sum(bool(number % 3) or found == "w0" for number, found in enumerate(right))
    answers = answer(vectors, read_questions(path))
    assert (answers.right, answers.asked) == (expected, 700)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("man king woman\n", 'line 1: expected four words or ": section", got'),
        (": family\nman king woman queen prince\n", "line 2: expected four words"),
        (": family\n", "expected lines of four words, got none"),
        (b"\xff\xfe a b c", "expected utf-8 text"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "questions.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_questions(path)


def test_questions_that_the_model_knows_nothing_of_are_told(tmp_path):
    path = tmp_path / "questions.txt"
    path.write_text("a b c d\n")
    with pytest.raises(UserError, match="expected questions of the 6 words of the model, got 1 with words"):
        answer(VECTORS, read_questions(path))
