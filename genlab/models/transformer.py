"""The parts of a Transformer: attention with a cache, blocks that normalise before or after, and places.

Vaswani et al. 2017, "Attention is all you need". Blocks that normalise first are those of GPT-2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.data.text_base import lengths_to_mask
from genlab.models.word_embedding import WordEmbedding
from genlab.nn import LayerNormAct
from genlab.ops import scaled_dot_product_attention

Pair = tuple[Tensor, Tensor]  # keys and values, each (N, heads, T, D)


class Attention(nn.Module):
    """Multi-head attention of queries to keys that may come from elsewhere or from before.

    Args:
        width: of queries, keys, values and output.
        heads: must divide `width`.
        dropout: on the weights.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: expected a divisor of the width {width}, got {heads}")
        self.heads, self.drop = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def project(self, source: Tensor) -> Pair:
        """Keys and values of (N, S, width)."""
        return self._split(self.key(source)), self._split(self.value(source))

    def project_itself(self, source: Tensor) -> tuple[Tensor, Pair]:
        """Queries, and keys and values, of (N, T, width) that is attended to by itself: one product for the three."""
        if source.shape[1] == 1:  # a step of decoding, where joining the weights would take longer than the products
            return self._split(self.query(source)), self.project(source)
        layers = (self.query, self.key, self.value)
        weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        query, key, value = map(self._split, F.linear(source, weight, bias).chunk(3, -1))
        return query, (key, value)

    def _split(self, flat: Tensor) -> Tensor:
        return flat.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, source: Tensor, pair: Pair, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Queries of (N, T, width) to keys and values; `mask` is True where a key takes part."""
        return self.mix(self._split(self.query(source)), pair, mask, causal)

    def mix(self, query: Tensor, pair: Pair, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """`forward` of queries (N, heads, T, D) that are projected already."""
        drop = self.drop if self.training else 0.0
        mixed = scaled_dot_product_attention(query, *pair, mask, drop, causal)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def weights(self, source: Tensor, pair: Pair, mask: Tensor | None = None) -> Tensor:
        """What `forward` mixes the values with, (N, heads, T, S): for pictures of attention."""
        query = self._split(self.query(source))
        scores = query @ pair[0].transpose(-1, -2) / math.sqrt(query.shape[-1])
        return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)


class Block(nn.Module):
    """Self-attention, where asked attention to a memory, and two linear layers, each with a residual.

    Args:
        width, heads: of the attention.
        feedforward: hidden units of the two linear layers.
        dropout: of each branch and of the weights of attention.
        activation: "relu" (Vaswani et al.) or "gelu" (GPT, BERT).
        pre_norm: normalise each branch's input (GPT-2) instead of the sum (Vaswani et al., BERT).
        cross: whether there is a memory.

    Attributes:
        keep_weights: whether `weights` notes what the memory was looked at with, (N, heads, T, S).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        feedforward: int,
        dropout: float = 0.0,
        activation: str = "relu",
        pre_norm: bool = False,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = Attention(width, heads, dropout)
        self.memory = Attention(width, heads, dropout) if cross else None
        self.enter, self.leave = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.activation = nn.ReLU() if activation == "relu" else nn.GELU()
        self.norms = nn.ModuleList(LayerNormAct(width) for _ in range(3 if cross else 2))
        self.dropout = nn.Dropout(dropout)
        self.keep_weights, self.weights = False, None

    def forward(
        self,
        state: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        past: Pair | None = None,
        memory: Pair | None = None,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor, Pair]:
        """(N, T, width) to the same, and the keys and values of self-attention, those of `past` before them.

        Args:
            state: (N, T, width).
            mask: (N or 1, 1, T or 1, S) bool, True where a key takes part.
            causal: each place sees itself and those before; with `past` they come after it.
            past: keys and values of earlier places.
            memory: keys and values that the second attention looks at (`memory.project`).
            memory_mask: as `mask`, of the memory.
        """
        first, last = self.norms[0], self.norms[-1]
        source = first(state) if self.pre_norm else state
        query, pair = self.attention.project_itself(source)
        if past is not None:
            pair = (torch.cat([past[0], pair[0]], 2), torch.cat([past[1], pair[1]], 2))
        if causal and past is not None:
            mask, causal = _causal_mask(state.shape[1], pair[0].shape[2], state.device), False
        state = self._add(state, self.attention.mix(query, pair, mask, causal), first)
        if self.memory is not None and memory is not None:
            source = self.norms[1](state) if self.pre_norm else state
            if self.keep_weights:
                self.weights = self.memory.weights(source, memory, memory_mask).detach()
            state = self._add(state, self.memory(source, memory, memory_mask), self.norms[1])
        source = last(state) if self.pre_norm else state
        return self._add(state, self.leave(self.activation(self.enter(source))), last), pair

    def _add(self, state: Tensor, branch: Tensor, norm: nn.Module) -> Tensor:
        total = state + self.dropout(branch)
        return total if self.pre_norm else norm(total)


def _causal_mask(queries: int, keys: int, device: torch.device) -> Tensor | None:
    """True where key j is not after query i, the queries being the last places; None for a single one: it sees all."""
    if queries == 1:
        return None
    places = torch.arange(keys, device=device)
    return places[None] <= places[keys - queries :, None]


def sinusoids(length: int, width: int) -> Tensor:
    """Places as sines and cosines (Vaswani et al. 2017, section 3.5), float32 (length, width)."""
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :width].float()


def check_length(length: int, positions: int, what: str = "sequence") -> None:
    """Refuses what is longer than the table of places.

    Raises:
        ValueError: says both lengths.
    """
    if length > positions:
        raise ValueError(
            f"{what}: expected at most {positions} tokens, the places that the model has, got {length}; shorten it, or "
            "train with a larger model.transformer.positions"
        )


class TransformerClassifier(nn.Module):
    """A Transformer's encoder over the words, the mean over time, and a linear layer.

    Args:
        embedding: of the words; its dim is the width.
        classes: number of classes.
        layers, heads, feedforward, dropout: of the blocks.
        positions: longest sentence, in tokens.
    """

    def __init__(
        self,
        embedding: WordEmbedding,
        classes: int,
        layers: int = 2,
        heads: int = 4,
        feedforward: int = 512,
        dropout: float = 0.1,
        positions: int = 256,
    ) -> None:
        super().__init__()
        self.embedding, self.dropout = embedding, nn.Dropout(dropout)
        self.register_buffer("places", sinusoids(positions, embedding.dim), persistent=False)
        self.blocks = nn.ModuleList(
            Block(embedding.dim, heads, feedforward, dropout, "gelu", pre_norm=True) for _ in range(layers)
        )
        self.norm = LayerNormAct(embedding.dim)
        self.output = nn.Linear(embedding.dim, classes)

    def features(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(N, T) and (N,) int64 to what each word means in its sentence, (N, T, width)."""
        check_length(tokens.shape[1], len(self.places), "sentence")
        inside = lengths_to_mask(lengths, tokens.shape[1])
        # Times sqrt(width) as in section 3.4: small vectors would drown in the places.
        vectors = self.embedding(tokens) * math.sqrt(self.embedding.dim)
        state = self.dropout(vectors + self.places[: tokens.shape[1]])
        for block in self.blocks:
            state, _ = block(state, mask=inside[:, None, None])
        return self.norm(state)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(N, T) and (N,) int64 to logits (N, classes)."""
        inside = lengths_to_mask(lengths, tokens.shape[1])[:, :, None]
        state = self.features(tokens, lengths)
        return self.output(self.dropout((state * inside).sum(1) / lengths[:, None]))
