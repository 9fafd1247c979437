"""From one sequence to another: LSTM encoder-decoder with attention, and the Transformer.

Both have `forward` for training (all targets at once), and `begin` and `step` for decoding (`beam_search`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genlab.data.text_base import lengths_to_mask
from genlab.models.recurrences import build_recurrent, rows_state, run_recurrent, state_rows
from genlab.models.transformer import Block, check_length, sinusoids
from genlab.models.word_embedding import WordEmbedding

State = tuple[Tensor, ...]


class AttentionScore(nn.Module):
    """How well each place of the source fits a state of the decoder.

    dot: s . h (Luong et al. 2015, equation 8). additive: v . tanh(W s + U h) (Bahdanau et al. 2015, appendix A.1.2).

    Args:
        kind: "dot" or "additive".
        size: of states and of the source's vectors.
    """

    def __init__(self, kind: str, size: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "additive":
            self.query, self.key = nn.Linear(size, size), nn.Linear(size, size, bias=False)
            self.score = nn.Linear(size, 1, bias=False)

    def forward(self, states: Tensor, memory: Tensor, inside: Tensor) -> Tensor:
        """States (N, T, H) and memory (N, S, H) to weights (N, T, S) that sum to one over places `inside` (N, S)."""
        if self.kind == "dot":
            scores = states @ memory.transpose(1, 2)
        else:
            scores = self.score((self.query(states)[:, :, None] + self.key(memory)[:, None]).tanh())[..., 0]
        return scores.float().masked_fill(~inside[:, None], -torch.inf).softmax(-1)


class RecurrentSeq2Seq(nn.Module):
    """Bidirectional LSTM encoder, LSTM decoder, attention of its states to the encoder's outputs (Luong et al. 2015).

    Without attention the decoder knows of the source what its first state holds (Sutskever et al. 2014).

    Args:
        source_vocabulary, target_vocabulary: numbers of tokens.
        embedding: numbers of a token's vector.
        hidden: units of the decoder, twice those of an encoder's direction; even.
        layers: stacked, in both.
        attention: "dot", "additive" or "none".
        dropout: on vectors, between layers and before the output.
        channels: of source's and target's `WordEmbedding`.
    """

    positions = None

    def __init__(
        self, source_vocabulary: int, target_vocabulary: int, embedding: int = 256, hidden: int = 256, layers: int = 1,
        attention: str = "dot", dropout: float = 0.0, channels: tuple[str, str] = ("rand", "rand"),
    ) -> None:  # fmt: skip
        super().__init__()
        self.source = WordEmbedding(source_vocabulary, embedding, channels[0])
        self.target = WordEmbedding(target_vocabulary, embedding, channels[1])
        for table in (self.source, self.target):
            nn.init.normal_(table.weight, std=0.1)
        self.encoder = build_recurrent(
            "lstm", self.source.dim, hidden // 2, layers, bidirectional=True, dropout=dropout
        )
        self.decoder = build_recurrent("lstm", self.target.dim, hidden, layers, dropout=dropout)
        self.attention = None if attention == "none" else AttentionScore(attention, hidden)
        self.mix = nn.Linear(2 * hidden, hidden, bias=False) if self.attention is not None else None
        self.dropout, self.output = nn.Dropout(dropout), nn.Linear(hidden, target_vocabulary)

    def begin(self, source: Tensor, lengths: Tensor) -> State:
        """Source (N, S) to (hidden, cell (N, layers, H), memory (N, S, H), inside (N, S))."""
        vectors = self.dropout(self.source(source))
        memory, state = run_recurrent(self.encoder, vectors, None, lengths)
        # (N, 2 * layers, H / 2), the two directions of a layer side by side, to (N, layers, H)
        ends = tuple(part.unflatten(1, (-1, 2)).flatten(2) for part in state_rows(state))
        return (*ends, memory, lengths_to_mask(lengths, source.shape[1]))

    def _decode(self, tokens: Tensor, state: State) -> tuple[Tensor, Tensor | None, State]:
        hidden, cell, memory, inside = state
        vectors = self.dropout(self.target(tokens))
        outputs, after = run_recurrent(self.decoder, vectors, rows_state((hidden, cell)))
        weights = None
        if self.attention is not None:
            weights = self.attention(outputs, memory, inside)
            context = weights.to(memory.dtype) @ memory
            outputs = self.mix(torch.cat([context, outputs.to(memory.dtype)], 2)).tanh()
        return self.output(self.dropout(outputs)), weights, (*state_rows(after), memory, inside)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Source (N, S), its lengths, and the target after the begin token (N, T), to logits (N, T, V)."""
        return self._decode(target, self.begin(source, lengths))[0]

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        logits, _, state = self._decode(tokens[:, None], state)
        return logits[:, 0], state

    def attention_map(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor | None:
        """Weights (N, T, S) of the source's places at each place of the target; None without attention."""
        return self._decode(target, self.begin(source, lengths))[1]


class TransformerSeq2Seq(nn.Module):
    """The encoder-decoder of Vaswani et al. (2017): sines for places, norms after the sums, vectors times sqrt(width).

    Args:
        source_vocabulary, target_vocabulary: numbers of tokens.
        width, layers, heads, feedforward, dropout: of the blocks; as many of encoder and decoder.
        positions: longest sentence in tokens.
        tie: the output layer's rows are the target's vectors (section 3.4).
        channels: of source's and target's `WordEmbedding`, those of one channel.
    """

    def __init__(
        self, source_vocabulary: int, target_vocabulary: int, width: int = 256, layers: int = 3, heads: int = 4,
        feedforward: int | None = None, positions: int = 256, dropout: float = 0.1, tie: bool = True,
        channels: tuple[str, str] = ("rand", "rand"),
    ) -> None:  # fmt: skip
        super().__init__()
        self.positions, self.scale = positions, math.sqrt(width)
        self.source = WordEmbedding(source_vocabulary, width, channels[0])
        self.target = WordEmbedding(target_vocabulary, width, channels[1])
        self.register_buffer("places", sinusoids(positions, width), persistent=False)
        inner = feedforward or 4 * width
        self.encoder = nn.ModuleList(Block(width, heads, inner, dropout) for _ in range(layers))
        self.decoder = nn.ModuleList(Block(width, heads, inner, dropout, cross=True) for _ in range(layers))
        self.dropout, self.output = nn.Dropout(dropout), nn.Linear(width, target_vocabulary)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        for table in (self.source, self.target):
            nn.init.normal_(table.weight, std=width**-0.5)
        if tie:
            self.output.weight = self.target.weight

    def _placed(self, table: nn.Embedding, tokens: Tensor, before: int = 0) -> Tensor:
        check_length(before + tokens.shape[1], self.positions, "sentence")
        return self.dropout(table(tokens) * self.scale + self.places[before : before + tokens.shape[1]])

    def _encode(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        inside = lengths_to_mask(lengths, source.shape[1])
        state = self._placed(self.source, source)
        for block in self.encoder:
            state, _ = block(state, mask=inside[:, None, None])
        return state, inside

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Source (N, S), its lengths, and the target after the begin token (N, T), to logits (N, T, V)."""
        memory, inside = self._encode(source, lengths)
        state = self._placed(self.target, target)
        for block in self.decoder:
            pair = block.memory.project(memory)
            state, _ = block(state, causal=True, memory=pair, memory_mask=inside[:, None, None])
        return self.output(state)

    def begin(self, source: Tensor, lengths: Tensor) -> State:
        """(keys, values of the target so far, keys, values of the source: (N, layers, heads, places, D); inside)."""
        memory, inside = self._encode(source, lengths)
        pairs = [block.memory.project(memory) for block in self.decoder]
        keys, values = (torch.stack([pair[side] for pair in pairs], 1) for side in (0, 1))
        return keys[:, :, :, :0], values[:, :, :, :0], keys, values, inside

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        keys, values, memory_keys, memory_values, inside = state
        hidden = self._placed(self.target, tokens[:, None], keys.shape[3])
        pairs = []
        for number, block in enumerate(self.decoder):
            hidden, pair = block(
                hidden, causal=True, past=(keys[:, number], values[:, number]),
                memory=(memory_keys[:, number], memory_values[:, number]), memory_mask=inside[:, None, None],
            )  # fmt: skip
            pairs.append(pair)
        cache = tuple(torch.stack([pair[side] for pair in pairs], 1) for side in (0, 1))
        return self.output(hidden)[:, 0], (*cache, memory_keys, memory_values, inside)

    def attention_map(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor | None:
        """Weights (N, T, S) of the last block's attention to the source, the mean over its heads."""
        block = self.decoder[-1]
        block.keep_weights = True
        try:
            self(source, lengths, target)
            return block.weights.float().mean(1)
        finally:
            block.keep_weights, block.weights = False, None
