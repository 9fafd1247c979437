"""The peers of `genlab bench step` among models of text: torch.nn's recurrent networks and Transformer layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genlab.models.transformer import sinusoids

RECURRENT = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class PlainRecurrentModel(nn.Module):
    """Embedding, torch.nn.RNN, LSTM or GRU, output layer; parameters have the lab's names.

    Args:
        vocabulary: number of tokens.
        embedding: numbers of a token's vector.
        kind: "rnn", "lstm" or "gru".
        hidden, layers: of the recurrence.
    """

    def __init__(self, vocabulary: int, embedding: int, kind: str, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.recurrent = RECURRENT[kind](embedding, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, vocabulary)
        self._state: Tensor | tuple[Tensor, ...] | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) to logits (N, T, vocabulary); goes on from the state that the last call left."""
        outputs, state = self.recurrent(self.embedding(tokens), self._state)
        self._state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
        return self.output(outputs)


class PlainCausalTransformer(nn.Module):
    """GPT-2's form: torch.nn.TransformerEncoderLayer with norm_first and a causal mask, learnt places, tied output.

    Args:
        vocabulary: number of tokens.
        width, layers, heads: of the layers.
        positions: longest text.
    """

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, positions: int) -> None:
        super().__init__()
        self.embedding, self.places = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) to logits (N, T, vocabulary)."""
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        state = self.embedding(tokens) + self.places(torch.arange(length, device=tokens.device))
        for block in self.blocks:
            state = block(state, src_mask=mask, is_causal=True)
        return self.output(self.norm(state))


class PlainSeq2Seq(nn.Module):
    """Vaswani et al. 2017 of torch.nn.TransformerEncoderLayer and TransformerDecoderLayer, norms after the sums.

    Args:
        source_vocabulary, target_vocabulary: numbers of tokens.
        width, layers, heads, feedforward: of the layers.
        positions: longest sentence.
    """

    def __init__(
        self, source_vocabulary: int, target_vocabulary: int, width: int, layers: int, heads: int, feedforward: int,
        positions: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scale = math.sqrt(width)
        self.source, self.target = nn.Embedding(source_vocabulary, width), nn.Embedding(target_vocabulary, width)
        self.register_buffer("places", sinusoids(positions, width), persistent=False)
        shape = (width, heads, feedforward, 0.0)
        self.encoder = nn.ModuleList(nn.TransformerEncoderLayer(*shape, batch_first=True) for _ in range(layers))
        self.decoder = nn.ModuleList(nn.TransformerDecoderLayer(*shape, batch_first=True) for _ in range(layers))
        self.output = nn.Linear(width, target_vocabulary)
        self.output.weight = self.target.weight

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Source (N, S), its lengths, and the target after the begin token (N, T), to logits (N, T, V)."""
        padding = torch.arange(source.shape[1], device=source.device) >= lengths[:, None]
        memory = self._placed(self.source, source)
        for layer in self.encoder:
            memory = layer(memory, src_key_padding_mask=padding)
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], device=target.device)
        state = self._placed(self.target, target)
        for layer in self.decoder:
            state = layer(state, memory, tgt_mask=mask, tgt_is_causal=True, memory_key_padding_mask=padding)
        return self.output(state)

    def _placed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        return table(tokens) * self.scale + self.places[: tokens.shape[1]]


def copy_blocks(ours: nn.ModuleList, theirs: nn.ModuleList) -> None:
    """Puts the weights of `genlab.models.transformer.Block`s into torch.nn's layers, in place."""
    for block, layer in zip(ours, theirs, strict=True):
        _copy_attention(block.attention, layer.self_attn)
        layer.linear1.load_state_dict(block.enter.state_dict())
        layer.linear2.load_state_dict(block.leave.state_dict())
        if block.memory is not None:
            _copy_attention(block.memory, layer.multihead_attn)
        for number, norm in enumerate(block.norms, start=1):
            getattr(layer, f"norm{number}").load_state_dict(norm.state_dict())


def _copy_attention(ours: nn.Module, theirs: nn.MultiheadAttention) -> None:
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())


def copy_around_blocks(ours: nn.Module, theirs: nn.Module) -> None:
    """Puts every parameter that has the same name in both into `theirs`: tables, last norm and output layer.

    Raises:
        ValueError: nothing has.
    """
    known = theirs.state_dict()
    shared = {name: value for name, value in ours.state_dict().items() if name in known}
    if not shared:
        raise ValueError("copy_around_blocks: expected networks that share names, got none")
    theirs.load_state_dict(shared, strict=False)
