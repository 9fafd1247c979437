"""The first layer of models of text: learnt from the start, given and fixed, given and tuned, or both at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genlab.word_vectors import WordVectors

CHANNELS = ("rand", "static", "non_static", "multichannel")


class WordEmbedding(nn.Module):
    """Vectors of tokens, in the four variants of Kim (2014), section 3.1.

    rand: learnt from random ones. static: given, fixed. non_static: given, tuned. multichannel: one channel of each of
    the latter two, side by side. Given vectors come by `load`; words without one keep a random vector.

    Args:
        vocabulary: number of tokens.
        dim: length of a vector.
        channels: one of `CHANNELS`.
        padding: the token whose vector is zero and stays so; None: none is.
        scale: random vectors are uniform in [-scale, scale].
    """

    def __init__(
        self, vocabulary: int, dim: int, channels: str = "rand", padding: int | None = None, scale: float = 0.25
    ) -> None:
        super().__init__()
        self.channels, self.padding = channels, padding
        start = torch.empty(vocabulary, dim).uniform_(-scale, scale)
        if padding is not None:
            start[padding] = 0.0
        if channels in ("static", "multichannel"):
            self.register_buffer("given", start.clone())
        if channels != "static":
            self.tuned = nn.Embedding(vocabulary, dim, padding_idx=padding, _weight=start.clone())
        self.dim = dim * (2 if channels == "multichannel" else 1)

    def load(self, vectors: WordVectors, tokens: Sequence[str]) -> int:
        """Puts given vectors in place; returns how many of the tokens have one.

        Words without one are drawn with the variance of those that have (Kim 2014, section 3.2).

        Raises:
            ValueError: vectors of another length.
        """
        tables = [table for table in (getattr(self, "given", None),) if table is not None]
        tables += [self.tuned.weight] if self.channels != "static" else []
        length = tables[0].shape[1]
        if vectors.vectors.shape[1] != length:
            raise ValueError(f"expected vectors of {length} numbers, got {vectors.vectors.shape[1]}")
        rows, known = vectors.rows_for(tokens)
        spread = rows[known].std() * 3**0.5 if known.any() else torch.tensor(0.25)  # uniform of the same variance
        fresh = torch.where(known[:, None], rows, torch.empty_like(rows).uniform_(-1, 1) * spread)
        if self.padding is not None:
            fresh[self.padding] = 0.0
        with torch.no_grad():
            for table in tables:
                table.copy_(fresh)
        return int(known.sum())

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) int64 to (N, T, dim)."""
        fixed = [nn.functional.embedding(tokens, self.given)] if self.channels in ("static", "multichannel") else []
        tuned = [self.tuned(tokens)] if self.channels != "static" else []
        parts = fixed + tuned
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
