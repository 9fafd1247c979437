"""The first layer of models of text: learnt from the start, given and fixed, given and tuned, or both at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genlab.word_vectors import WordVectors

CHANNELS = ("rand", "static", "non_static", "multichannel")


class WordEmbedding(nn.Embedding):
    """Vectors of tokens, in the four variants of Kim (2014), section 3.1.

    rand: learnt from random ones. static: given, fixed. non_static: given, tuned. multichannel: a tuned and a fixed
    channel of given ones side by side. Given vectors come by `load`; words without one keep a random vector.

    Args:
        vocabulary: number of tokens.
        dim: length of a vector.
        channels: one of `CHANNELS`.
        padding: the token whose vector is zero and stays so; None: none is.
        scale: random vectors are uniform in [-scale, scale].

    Attributes:
        weight: (V, dim), the tuned table; of static the fixed one.
        given: the fixed table of multichannel, else None.
        dim: numbers of what `forward` gives: twice `dim` with multichannel.
    """

    def __init__(
        self, vocabulary: int, dim: int, channels: str = "rand", padding: int | None = None, scale: float = 0.25
    ) -> None:
        start = torch.empty(vocabulary, dim).uniform_(-scale, scale)
        if padding is not None:
            start[padding] = 0.0
        super().__init__(vocabulary, dim, padding_idx=padding, _weight=start)
        self.weight.requires_grad_(channels != "static")
        self.register_buffer("given", start.clone() if channels == "multichannel" else None)
        self.dim = dim * (2 if channels == "multichannel" else 1)

    def load(self, vectors: WordVectors, tokens: Sequence[str], generator: torch.Generator | None = None) -> None:
        """Puts given vectors in place.

        Words without one are drawn with the variance of those that have (Kim 2014, section 3.2).

        Args:
            vectors: of any words.
            tokens: of the first rows, in their order.
            generator: that vectors are drawn from; default: torch's own.

        Raises:
            ValueError: vectors of another length, or of none of the tokens.
        """
        if vectors.vectors.shape[1] != self.embedding_dim:
            raise ValueError(f"expected vectors of {self.embedding_dim} numbers, got {vectors.vectors.shape[1]}")
        rows, known = vectors.rows_for(tokens)
        if not known.any():
            raise ValueError(f"expected vectors of some of the {len(tokens)} tokens, got none")
        drawn = torch.empty_like(rows).uniform_(-1, 1, generator=generator)
        spread = rows[known].std(unbiased=False) * 3**0.5  # of the uniform distribution of that variance
        fresh = torch.where(known[:, None], rows, drawn * spread)
        if self.padding_idx is not None:
            fresh[self.padding_idx] = 0.0
        with torch.no_grad():
            for table in (self.weight, self.given):
                if table is not None:
                    table[: len(tokens)] = fresh.to(table.device)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) int64 to (N, T, dim)."""
        tuned = super().forward(tokens)
        if self.given is None:
            return tuned
        return torch.cat([nn.functional.embedding(tokens, self.given), tuned], dim=-1)
