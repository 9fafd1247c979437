"""BERT: a Transformer's encoder that reads both ways (Devlin et al. 2019), its two pre-training tasks, a classifier.

Names of weights and their places in published checkpoints are in `genlab.models.bert_weights`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.data.text_base import lengths_to_mask
from genlab.nn import LayerNormAct, MultiheadAttention

EPS = 1e-12  # of every layer normalisation, as in the authors' program
# Layers and width. Base and large are the paper's, the small ones those of Turc et al. 2019 (table 1); a head has 64
# units and the hidden layer of a block four widths.
SIZES = {
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}


class BertBlock(nn.Module):
    """Self-attention and two linear layers, each added to its input and then normalised.

    Args:
        width, heads, feedforward: of attention and of the hidden layer.
        dropout: of both branches and of the weights of attention.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = MultiheadAttention(width, heads, dropout, batch_first=True)
        self.attention_norm = LayerNormAct(width, eps=EPS)
        self.enter, self.leave = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.output_norm = LayerNormAct(width, eps=EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor, padding: Tensor) -> Tensor:
        """(N, T, width) to the same; `padding` (N, T) bool is True where nothing stands."""
        mixed, _ = self.attention(state, state, state, key_padding_mask=padding, need_weights=False)
        state = self.attention_norm(state + self.dropout(mixed))
        return self.output_norm(state + self.dropout(self.leave(F.gelu(self.enter(state)))))


class Bert(nn.Module):
    """The encoder: vectors of tokens, places and segments, blocks, and a pooler over the first token.

    Args:
        vocabulary: number of tokens.
        width, layers, heads, feedforward: of the blocks.
        positions: longest sequence, special tokens counted.
        dropout: of the vectors, branches and weights of attention.
        initial_std: deviation of the first weights. The paper's 0.02 is right for its widths; a narrow BERT, whose sums
            have fewer terms, begins to learn sooner with more (0.05 at 128).
    """

    def __init__(
        self,
        vocabulary: int,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        feedforward: int = 1024,
        positions: int = 512,
        dropout: float = 0.1,
        initial_std: float = 0.02,
    ) -> None:
        super().__init__()
        self.initial_std = initial_std
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.segments = nn.Embedding(2, width)
        self.norm, self.dropout = LayerNormAct(width, eps=EPS), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(BertBlock(width, heads, feedforward, dropout) for _ in range(layers))
        self.pooler = nn.Linear(width, width)
        initialise(self, initial_std)

    @property
    def width(self) -> int:
        return self.tokens.embedding_dim

    @property
    def positions(self) -> int:
        return self.places.num_embeddings

    def forward(self, tokens: Tensor, lengths: Tensor, segments: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What each token means where it stands, and the whole sequence's summary.

        Args:
            tokens: (N, T) int64, [CLS] first.
            lengths: (N,) int64; what lies behind is padding.
            segments: (N, T) int64, 0 or 1; None: all 0.

        Returns:
            (N, T, width) and, of the first token, (N, width).

        Raises:
            ValueError: longer than the table of places.
        """
        width = tokens.shape[1]
        if width > self.positions:
            raise ValueError(
                f"bert: expected at most {self.positions} tokens, the places that the model has, got {width}; shorten "
                "the text, or train with a larger model.bert.positions"
            )
        places = self.places(torch.arange(width, device=tokens.device))
        kinds = self.segments(torch.zeros_like(tokens) if segments is None else segments)
        state = self.dropout(self.norm(self.tokens(tokens) + places + kinds))
        padding = ~lengths_to_mask(lengths, width)
        for block in self.blocks:
            state = block(state, padding)
        return state, torch.tanh(self.pooler(state[:, 0]))


class BertPretraining(nn.Module):
    """BERT with its two tasks: masked tokens, whose output layer shares the tokens' vectors, and the next sentence.

    Args:
        bert: the encoder.
    """

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        self.bert = bert
        self.transform = nn.Linear(bert.width, bert.width)
        self.norm = LayerNormAct(bert.width, eps=EPS)
        self.bias = nn.Parameter(torch.zeros(bert.tokens.num_embeddings))
        self.next_sentence = nn.Linear(bert.width, 2)
        for layer in (self.transform, self.next_sentence):
            initialise(layer, bert.initial_std)

    def forward(
        self, tokens: Tensor, lengths: Tensor, segments: Tensor | None, places: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of the tokens at some places, and of whether the second segment follows the first.

        Args:
            tokens, lengths, segments: as of `Bert.forward`.
            places: (N, P) int64 into T: where tokens are to be told. Only these go through the output layer.

        Returns:
            (N, P, vocabulary) and (N, 2); class 1 of the latter is a random second segment.
        """
        state, summary = self.bert(tokens, lengths, segments)
        chosen = state.gather(1, places[:, :, None].expand(-1, -1, state.shape[2]))
        hidden = self.norm(F.gelu(self.transform(chosen)))
        return F.linear(hidden, self.bert.tokens.weight, self.bias), self.next_sentence(summary)


class BertClassifier(nn.Module):
    """BERT over one sentence, dropout, and a linear layer on its summary (Devlin et al. 2019, section 4.1).

    Args:
        bert: the encoder.
        classes: number of classes.
        begin, end: numbers of [CLS] and [SEP], which are put around each sentence here.
        dropout: before the linear layer.
    """

    def __init__(self, bert: Bert, classes: int, begin: int, end: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.bert, self.begin, self.end = bert, begin, end
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(bert.width, classes)
        initialise(self.output, bert.initial_std)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(N, T) and (N,) int64, without special tokens, to logits (N, classes)."""
        _, summary = self.bert(*enclosed(tokens, lengths, self.begin, self.end))
        return self.output(self.dropout(summary))


def enclosed(tokens: Tensor, lengths: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Sentences (N, T) with `begin` before and `end` behind each of them: (N, T + 2), and their lengths."""
    whole = F.pad(F.pad(tokens, (1, 0), value=begin), (0, 1), value=end)
    return whole.scatter(1, lengths[:, None] + 1, end), lengths + 2


def initialise(network: nn.Module, std: float) -> None:
    """Normal weights, cut at two deviations, and biases of 0 (the authors' program)."""
    for module in network.modules():
        if isinstance(module, nn.MultiheadAttention):
            weight, bias = module.in_proj_weight, module.in_proj_bias
        elif isinstance(module, nn.Linear):
            weight, bias = module.weight, module.bias
        elif isinstance(module, nn.Embedding):
            weight, bias = module.weight, None
        else:
            continue
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
        if bias is not None:
            nn.init.zeros_(bias)


def without_decay(network: nn.Module) -> set[str]:
    """Names of the parameters that weight decay leaves alone: biases and the scales of normalisations."""
    return {name for name, parameter in network.named_parameters() if parameter.dim() == 1}
