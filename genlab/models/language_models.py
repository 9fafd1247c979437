"""Language models: what comes next, given what came before. One interface for all.

`logits, state = model(tokens, state)` reads tokens (N, T) after what `state` remembers and gives logits (N, T, V) of
the token after each. `start(N, device)` remembers nothing. A state is a tuple of tensors with the row first, so that
rows can be cut apart, picked and kept in checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genlab.models.recurrences import build_recurrent, rows_state, run_recurrent, state_rows, zero_state
from genlab.models.transformer import Block, check_length
from genlab.models.word_embedding import WordEmbedding
from genlab.nn import LayerNormAct

State = tuple[Tensor, ...]


class RecurrentLanguageModel(nn.Module):
    """Embedding, stacked recurrent layers, output layer (Mikolov et al. 2010; Zaremba et al. 2014).

    Args:
        vocabulary: number of tokens.
        embedding: numbers of a token's vector.
        kind: "rnn", "lstm" or "gru".
        hidden, layers: of the recurrence.
        dropout: on the vectors, between layers and before the output.
        tie: the output layer's rows are the tokens' vectors (Inan et al. 2017); needs hidden = embedding.
        channels: of `WordEmbedding`.
        **dropouts: inside of the recurrence.
    """

    positions = None  # reads texts of any length

    def __init__(
        self,
        vocabulary: int,
        embedding: int,
        kind: str = "lstm",
        hidden: int = 512,
        layers: int = 2,
        dropout: float = 0.0,
        tie: bool = False,
        channels: str = "rand",
        **dropouts: float,
    ) -> None:
        super().__init__()
        self.embedding = WordEmbedding(vocabulary, embedding, channels, scale=0.1)
        self.recurrent = build_recurrent(kind, self.embedding.dim, hidden, layers, dropout=dropout, **dropouts)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, vocabulary)
        if tie:
            if hidden != embedding:
                raise ValueError(f"tie: expected hidden = embedding, got {hidden} and {embedding}")
            self.output.weight = self.embedding.weight

    def start(self, count: int, device: torch.device) -> State:
        return zero_state(self.recurrent, count, device)

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        inputs = self.dropout(self.embedding(tokens))
        kept = tuple(part.to(inputs.dtype) for part in state)
        outputs, after = run_recurrent(self.recurrent, inputs, rows_state(kept))
        return self.output(self.dropout(outputs)), tuple(part.float() for part in state_rows(after))


class FeedForwardLanguageModel(nn.Module):
    """y = b + W x + U tanh(d + H x), x the vectors of the last `context` tokens (Bengio et al. 2003, equation 1).

    Args:
        vocabulary: number of tokens.
        embedding: numbers of a token's vector.
        context: tokens that are seen.
        hidden: units of the tanh layer.
        direct: whether there is W, from the vectors to the output.
        dropout: on the hidden layer.
        channels: of `WordEmbedding`.
    """

    positions = None

    def __init__(
        self, vocabulary: int, embedding: int, context: int = 5, hidden: int = 100, direct: bool = True,
        dropout: float = 0.0, channels: str = "rand",
    ) -> None:  # fmt: skip
        super().__init__()
        self.context, self.before = context, vocabulary  # one vector more: of places before the beginning
        self.embedding = WordEmbedding(vocabulary + 1, embedding, channels, scale=0.1)
        inputs = context * self.embedding.dim
        self.hidden = nn.Linear(inputs, hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, vocabulary)
        self.direct = nn.Linear(inputs, vocabulary, bias=False) if direct else None

    def start(self, count: int, device: torch.device) -> State:
        return (torch.full((count, self.context - 1), self.before, dtype=torch.int64, device=device),)

    def forward(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        known = torch.cat([state[0], tokens], 1)
        windows = self.embedding(known).unfold(1, self.context, 1).transpose(2, 3).flatten(2)
        logits = self.output(self.dropout(self.hidden(windows).tanh()))
        if self.direct is not None:
            logits = logits + self.direct(windows)
        return logits, (known[:, known.shape[1] - self.context + 1 :],)


class CausalTransformer(nn.Module):
    """Blocks that normalise first, learnt places, tied output (Radford et al. 2019, GPT-2).

    The state is a cache of keys and values, (N, layers, heads, places so far, D) each: tokens read with it have the
    logits that they have when the whole text is read at once.

    Args:
        vocabulary: number of tokens.
        width, layers, heads, feedforward: of the blocks.
        positions: longest text, in tokens.
        dropout: of vectors, branches and weights of attention.
        tie: the output layer's rows are the tokens' vectors.
        channels: of `WordEmbedding`, those of one channel.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        feedforward: int | None = None,
        positions: int = 256,
        dropout: float = 0.0,
        tie: bool = True,
        channels: str = "rand",
    ) -> None:
        super().__init__()
        self.positions = positions
        self.embedding, self.places = WordEmbedding(vocabulary, width, channels), nn.Embedding(positions, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(width, heads, feedforward or 4 * width, dropout, "gelu", pre_norm=True) for _ in range(layers)
        )
        self.norm = LayerNormAct(width)
        self.output = nn.Linear(width, vocabulary, bias=False)
        self._initialise(layers)
        if tie:
            self.output.weight = self.embedding.weight

    def _initialise(self, layers: int) -> None:
        """Normal with 0.02; what ends a residual branch by 1 / sqrt(2 layers) less (GPT-2, section 2.3)."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            for layer in (block.attention.out, block.leave):
                nn.init.normal_(layer.weight, std=0.02 / (2 * layers) ** 0.5)

    def start(self, count: int, device: torch.device) -> State:
        attention = self.blocks[0].attention
        shape = (count, len(self.blocks), attention.heads, 0, attention.out.in_features // attention.heads)
        return torch.zeros(shape, device=device), torch.zeros(shape, device=device)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As of all language models; without a state nothing comes before, and no cache is made.

        Raises:
            ValueError: longer than the table of places.
        """
        seen = 0 if state is None else state[0].shape[3]
        check_length(seen + tokens.shape[1], self.positions)
        places = torch.arange(seen, seen + tokens.shape[1], device=tokens.device)
        hidden = self.dropout(self.embedding(tokens) + self.places(places))
        pairs = []
        for number, block in enumerate(self.blocks):
            past = None if state is None else (state[0][:, number].to(hidden), state[1][:, number].to(hidden))
            hidden, pair = block(hidden, causal=True, past=past)
            pairs.append(pair)
        logits = self.output(self.norm(hidden))
        if state is None:
            return logits, ()
        return logits, tuple(torch.stack([pair[side].float() for pair in pairs], 1) for side in (0, 1))
