"""Convolutions over the words of a sentence: Kim's network, and the time-delay network.

Both give the same logits however far a sentence is padded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.data.text_base import lengths_to_mask
from genlab.models.word_embedding import WordEmbedding
from genlab.nn import Conv1d


class TextCnn(nn.Module):
    """Filters of several widths over the words, each one's largest answer, a linear layer (Kim 2014, section 2).

    As in the author's program a sentence has (largest width - 1) zero words on either side, so that one of a single
    word has an answer of every filter. With two channels a filter has weights for each.

    Args:
        embedding: of the words.
        classes: number of classes.
        kernel_sizes: widths in words.
        filters: of each width.
        dropout: on the penultimate layer.

    Attributes:
        output: the linear layer, whose rows a trainer may keep short (`limit_rows`).
    """

    def __init__(
        self,
        embedding: WordEmbedding,
        classes: int,
        kernel_sizes: Sequence[int] = (3, 4, 5),
        filters: int = 100,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.convolutions = nn.ModuleList(
            Conv1d(embedding.dim, filters, width, activation="relu") for width in kernel_sizes
        )
        self.margin = max(kernel_sizes) - 1
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(filters * len(kernel_sizes), classes)
        for layer in self.convolutions:
            nn.init.uniform_(layer.weight, -0.1, 0.1)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(N, T) and (N,) int64 to logits (N, classes)."""
        inside = lengths_to_mask(lengths, tokens.shape[1])
        words = (self.embedding(tokens) * inside[:, :, None]).transpose(1, 2)
        words = F.pad(words, (self.margin, self.margin))
        largest = []
        for layer in self.convolutions:
            answers = layer(words)
            # Windows that begin behind the margin of a shorter sentence are not its own; relu makes 0 the least answer.
            own = lengths_to_mask(lengths + 2 * self.margin - layer.kernel_size[0] + 1, answers.shape[2])
            largest.append((answers * own[:, None]).amax(dim=2))
        return self.output(self.dropout(torch.cat(largest, dim=1)))

    @torch.no_grad()
    def limit_rows(self, norm: float) -> None:
        """Shortens the rows of the output layer that are longer than `norm` (Hinton et al. 2012; Kim: 3)."""
        self.output.weight.copy_(torch.renorm(self.output.weight, 2, 0, norm))


class TimeDelayNetwork(nn.Module):
    """Layers that look at a few moments each, the later ones farther apart (Waibel et al. 1989; Peddinti et al. 2015).

    Mean and deviation over time make one vector of a sentence of any length.

    Args:
        embedding: of the words.
        classes: number of classes.
        channels: units of each layer.
        kernel_sizes: moments that each layer looks at, odd.
        dilations: steps between those moments.
        dropout: before the output layer.
    """

    def __init__(
        self,
        embedding: WordEmbedding,
        classes: int,
        channels: Sequence[int] = (128, 128, 128),
        kernel_sizes: Sequence[int] = (5, 3, 3),
        dilations: Sequence[int] = (1, 2, 3),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        sizes = [embedding.dim, *channels]
        self.layers = nn.ModuleList(
            Conv1d(before, after, width, dilation=step, padding=step * (width // 2), activation="relu")
            for before, after, width, step in zip(sizes[:-1], sizes[1:], kernel_sizes, dilations, strict=True)
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * channels[-1], classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(N, T) and (N,) int64 to logits (N, classes)."""
        inside = lengths_to_mask(lengths, tokens.shape[1])[:, None]
        state = self.embedding(tokens).transpose(1, 2) * inside
        for layer in self.layers:
            state = layer(state) * inside  # what lies behind the end is silence to the next layer
        count = lengths[:, None].to(state.dtype)
        mean = state.sum(dim=2) / count
        variance = ((state - mean[:, :, None]) * inside).square().sum(dim=2) / count
        return self.output(self.dropout(torch.cat([mean, (variance + 1e-8).sqrt()], dim=1)))
