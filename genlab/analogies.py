"""Analogies in the questions-words format of Mikolov et al. (2013a): lines "a b c d", under headings ": section"."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from genlab.data.text_files import read_lines
from genlab.errors import DataError
from genlab.word_vectors import WordVectors

BATCH = 512  # questions answered at a time


class Question(NamedTuple):
    """What is to `c` as `b` is to `a`: `d`."""

    section: str
    a: str
    b: str
    c: str
    d: str


@dataclass(frozen=True)
class Answers:
    """How questions were answered.

    Attributes:
        right, asked: of all; questions with an unknown word are not asked.
        sections: name -> (right, asked), sections without a question that was asked left out.
    """

    right: int
    asked: int
    sections: dict[str, tuple[int, int]]

    @property
    def accuracy(self) -> float:
        return self.right / self.asked


def read_questions(path: Path) -> list[Question]:
    """The questions of a file.

    Raises:
        DataError: unreadable, a line that is not four words, or no question; names the line.
    """
    questions, section = [], ""
    for number, line in enumerate(read_lines(path), start=1):
        if line.startswith(":"):
            section = line[1:].strip()
        elif line.strip():
            words = line.split()
            if len(words) != 4:
                raise DataError(f'{path}: line {number}: expected four words or ": section", got {line[:60]!r}')
            questions.append(Question(section, *words))
    if not questions:
        raise DataError(f"{path}: expected lines of four words, got none")
    return questions


def answer(vectors: WordVectors, questions: list[Question]) -> Answers:
    """Answers each question with the word nearest to b - a + c by cosine, a, b and c left out.

    Words are looked up as they are written and, if unknown, in lower case.

    Raises:
        DataError: no question whose words are all known.
    """
    rows = [[vectors.find(word) for word in question[1:]] for question in questions]
    known = [number for number, row in enumerate(rows) if None not in row]
    if not known:
        raise DataError(
            f"analogies: expected questions of the {len(vectors.words)} words of the model, got {len(questions)} with "
            "words that it does not know"
        )
    table = torch.tensor([rows[number] for number in known])
    hits = torch.cat([_hits(vectors, part) for part in table.split(BATCH)]).tolist()
    sections: dict[str, tuple[int, int]] = {}
    for number, hit in zip(known, hits, strict=True):
        right, asked = sections.get(questions[number].section, (0, 0))
        sections[questions[number].section] = (right + hit, asked + 1)
    return Answers(sum(hits), len(known), sections)


def _hits(vectors: WordVectors, rows: torch.Tensor) -> torch.Tensor:
    """Bool (N,): whether questions (N, 4) are answered rightly."""
    directions = vectors.directions
    a, b, c = (directions[rows[:, column]] for column in range(3))
    similarity = (b - a + c) @ directions.T
    similarity.scatter_(1, rows[:, :3], -torch.inf)
    return similarity.argmax(1) == rows[:, 3]
