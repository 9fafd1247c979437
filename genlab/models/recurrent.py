"""Recurrent networks over sentences and series: one class for a sentence, one for each word, the next value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genlab.data.text_base import lengths_to_mask
from genlab.models.recurrences import build_recurrent, run_recurrent
from genlab.models.word_embedding import WordEmbedding


class RecurrentReader(nn.Module):
    """What classifiers of sentences and of words share: a stacked recurrent network over the words, a linear layer.

    Args:
        embedding: of the words.
        classes: of a sentence, or tags of a word.
        kind: "rnn", "lstm" or "gru".
        hidden: units of one direction.
        layers: stacked.
        bidirectional: whether a second network reads from the end.
        dropout: on the words, between layers and before the output layer.
        **dropouts: inside of the recurrence (`build_recurrent`).
    """

    def __init__(
        self,
        embedding: WordEmbedding,
        classes: int,
        kind: str = "lstm",
        hidden: int = 128,
        layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.5,
        **dropouts: float,
    ) -> None:
        super().__init__()
        self.embedding, self.dropout = embedding, nn.Dropout(dropout)
        self.recurrent = build_recurrent(
            kind, embedding.dim, hidden, layers, bidirectional=bidirectional, dropout=dropout, **dropouts
        )
        self.output = nn.Linear(hidden * (2 if bidirectional else 1), classes)

    def read(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Any]:
        """(N, T) and (N,) int64 to (outputs (N, T, directions * hidden), the last state)."""
        return run_recurrent(self.recurrent, self.dropout(self.embedding(tokens)), None, lengths)


class RecurrentClassifier(RecurrentReader):
    """One class for a sentence: the outputs are pooled over time.

    Args:
        pooling: "last": the final hidden states; "max" or "mean" of all outputs over time.
        *args, **kwargs: of `RecurrentReader`.
    """

    def __init__(self, *args: Any, pooling: str = "max", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pooling = pooling

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(N, T) and (N,) int64 to logits (N, classes)."""
        return self.output(self.dropout(self._pooled(*self.read(tokens, lengths), lengths)))

    def _pooled(self, outputs: Tensor, state: Any, lengths: Tensor) -> Tensor:
        if self.pooling == "last":
            hidden = state[0] if isinstance(state, tuple) else state
            directions = 2 if self.recurrent.bidirectional else 1
            return torch.cat(list(hidden[-directions:]), dim=1)
        inside = lengths_to_mask(lengths, outputs.shape[1])[:, :, None]
        if self.pooling == "max":
            return outputs.masked_fill(~inside, -torch.inf).amax(dim=1)
        return (outputs * inside).sum(dim=1) / lengths[:, None]


class RecurrentTagger(RecurrentReader):
    """One tag for each word, from the output at its place (Huang et al. 2015)."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(N, T) and (N,) int64 to logits (N, T, classes)."""
        return self.output(self.dropout(self.read(tokens, lengths)[0]))


class RecurrentForecaster(nn.Module):
    """The next values of a series from its past ones: the last output of a recurrent network, and a linear layer.

    Args:
        variables: numbers at each step.
        kind, hidden, layers: of the recurrence.
        dropout: between layers.
    """

    def __init__(
        self, variables: int, kind: str = "lstm", hidden: int = 32, layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.recurrent = build_recurrent(kind, variables, hidden, layers, dropout=dropout)
        self.output = nn.Linear(hidden, variables)

    def forward(self, past: Tensor) -> Tensor:
        """(N, T, variables) to (N, variables)."""
        return self.output(run_recurrent(self.recurrent, past)[0][:, -1])


class WindowForecaster(nn.Module):
    """The same from a fixed window of steps, by layers that know nothing of their order (a time-delay network).

    Args:
        variables: numbers at each step.
        window: steps that are seen, the last ones.
        hidden: units of the hidden layer.
    """

    def __init__(self, variables: int, window: int, hidden: int = 32) -> None:
        super().__init__()
        self.window = window
        self.layers = nn.Sequential(nn.Linear(window * variables, hidden), nn.Tanh(), nn.Linear(hidden, variables))

    def forward(self, past: Tensor) -> Tensor:
        """(N, T, variables), T at least `window`, to (N, variables)."""
        return self.layers(past[:, -self.window :].flatten(1))
