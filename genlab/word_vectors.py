"""Word vectors in text files: their nearest words and analogies, and their use in other models."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from genlab.errors import CheckpointError, DataError, UserError
from genlab.registry import nearest


@dataclass(frozen=True)
class WordVectors:
    """Words and a vector of each.

    Attributes:
        words: each once.
        vectors: float32 (V, D).
    """

    words: tuple[str, ...]
    vectors: Tensor

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    @cached_property
    def directions(self) -> Tensor:
        """The vectors at length 1; a vector of zeros stays one."""
        return self.vectors / self.vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)

    def find(self, word: str) -> int | None:
        """Row of a word as it is written or, if there is none, in lower case."""
        return self.numbers.get(word, self.numbers.get(word.lower()))

    def number(self, word: str) -> int:
        """Row of a word, as `find` gives it.

        Raises:
            UserError: unknown; names the most similar spelling.
        """
        row = self.find(word)
        if row is not None:
            return row
        guess = nearest(word, self.words)
        hint = f"; did you mean {guess!r}?" if guess else ""
        raise UserError(f"word: expected one of the {len(self.words)} of the model, got {word!r}{hint}")

    def nearest(self, word: str, count: int = 10) -> list[tuple[str, float]]:
        """The `count` words of largest cosine similarity to `word`, with it."""
        row = self.number(word)
        return self._ranked(self.directions[row], {row}, count)

    def analogy(self, a: str, b: str, c: str, count: int = 5) -> list[tuple[str, float]]:
        """What is to `c` as `b` is to `a`: nearest to b - a + c, those three left out (Mikolov et al. 2013)."""
        rows = [self.number(word) for word in (a, b, c)]
        first, second, third = self.directions[rows]
        return self._ranked(second - first + third, set(rows), count)

    def _ranked(self, query: Tensor, left_out: set[int], count: int) -> list[tuple[str, float]]:
        similarity = self.directions @ (query / query.norm().clamp(min=1e-12))
        order = similarity.argsort(descending=True, stable=True)[: count + len(left_out)].tolist()
        return [(self.words[row], float(similarity[row])) for row in order if row not in left_out][:count]

    def rows_for(self, tokens: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(vectors (N, D), bool (N,)): the vector of each token that has one; the others' rows are zeros."""
        rows = torch.tensor([self.numbers.get(token, -1) for token in tokens])
        known = rows >= 0
        return torch.where(known[:, None], self.vectors[rows.clamp(min=0)], torch.zeros(())), known

    def save_text(self, path: Path) -> None:
        """Writes word2vec's text format: a line "V D", then a word and its numbers on each line."""
        lines = [f"{len(self.words)} {self.vectors.shape[1]}"]
        lines += [
            f"{word} {' '.join(f'{value:.6g}' for value in row)}"
            for word, row in zip(self.words, self.vectors.tolist(), strict=True)
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def load_vectors(path: Path) -> WordVectors:
    """The vectors of a run of algorithm word2vec, or of one of its checkpoints, or in a text file.

    Text files are read as word2vec, GloVe and fastText write them, plain or gzipped.

    Raises:
        CheckpointError: a folder or checkpoint that is not of word2vec.
        DataError: no such file, or lines that are no vectors of one length; names the line.
    """
    path = path.expanduser()
    if path.is_dir() or path.suffix == ".safetensors":
        return _run_vectors(path)
    words: dict[str, None] = {}
    rows: list[list[float]] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                word, *values = line.rstrip().split(" ")
                if number == 1 and len(values) == 1 and word.isdigit():
                    continue  # the line of sizes
                row = [float(value) for value in values]
                if not row or (rows and len(row) != len(rows[0])) or word in words:
                    raise ValueError(
                        f"line {number}: expected a new word and {len(rows[0]) if rows else 'its'} numbers"
                    )
                words[word] = None
                rows.append(row)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: not a text file of word vectors ({error})") from None
    if not rows:
        raise DataError(f"{path}: expected word vectors, got none")
    return WordVectors(tuple(words), torch.tensor(rows, dtype=torch.float32))


def _run_vectors(path: Path) -> WordVectors:
    from genlab.checkpoint import load_bundle

    trainer = load_bundle(path).trainer
    if not hasattr(trainer, "vectors"):
        raise CheckpointError(
            f"{path}: expected a run of algorithm word2vec or a text file of word vectors, got a run of "
            f"{trainer.config.algorithm}"
        )
    return trainer.vectors()
