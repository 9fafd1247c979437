"""Show, attend and tell (Xu et al. 2015): an LSTM that says what a picture shows and looks at a place for every word.

The words of the lectures and of the paper: annotation vectors a_i, one for each of L places of a feature map; weights
alpha_ti of the places at word t; the context z_t that the decoder sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genlab.models.captioning_encoder import ImageEncoder
from genlab.models.recurrences import build_recurrent, rows_state, run_recurrent, state_rows
from genlab.models.word_embedding import WordEmbedding

State = tuple[Tensor, ...]


class VisualAttention(nn.Module):
    """f_att: how well each place fits the decoder's state, v . tanh(W a_i + U h) (equations 4 and 5).

    Args:
        features: numbers of an annotation vector.
        hidden: units of the decoder.
        size: of the layer between.
    """

    def __init__(self, features: int, hidden: int, size: int) -> None:
        super().__init__()
        self.key, self.query = nn.Linear(features, size), nn.Linear(hidden, size, bias=False)
        self.score = nn.Linear(size, 1, bias=False)

    def forward(self, hidden: Tensor, keys: Tensor) -> Tensor:
        """Hidden (N, H) and keys (N, L, size), which are `self.key(maps)`, to weights (N, L) float32 of sum one."""
        return self.score((self.query(hidden)[:, None] + keys).tanh())[..., 0].float().softmax(-1)


@dataclass(frozen=True)
class Draws:
    """The randomness of hard attention in training.

    Attributes:
        places: uniform (N, T), each decides which place is looked at.
        expected: bool (N,), pictures that are looked at in expectation instead.
    """

    places: Tensor
    expected: Tensor


@dataclass(frozen=True)
class Reading:
    """What the decoder made of captions.

    Attributes:
        logits: (N, T, V).
        weights: (N, T, L), alpha; None without attention.
        log_chosen: (N, T), log alpha of the places that were drawn, 0 where none was; None where nothing was drawn.
    """

    logits: Tensor
    weights: Tensor | None
    log_chosen: Tensor | None


def draw_places(weights: Tensor, uniform: Tensor) -> Tensor:
    """One place for each row from Multinoulli(weights), int64 (N,), by inversion.

    Args:
        weights: (N, L), rows of sum one.
        uniform: (N,) in [0, 1).
    """
    length = weights.shape[1]
    # Running sums as a product with a triangle: a GPU's own running sum is not the same in every run.
    triangle = torch.ones(length, length, device=weights.device, dtype=weights.dtype).triu()
    sums = weights @ triangle
    return (uniform[:, None] * sums[:, -1:] >= sums).sum(1).clamp_max(length - 1)


def _one_hot(place: Tensor, weights: Tensor) -> Tensor:
    """(N, L) like `weights`, 1 at each row's place."""
    return (torch.arange(weights.shape[1], device=place.device) == place[:, None]).to(weights.dtype)


class Captioner(nn.Module):
    """Encoder, attention and decoder.

    Args:
        encoder: gives the annotation vectors.
        vocabulary: number of tokens.
        embedding: numbers of a word's vector.
        hidden: units of the LSTM.
        attention_size: of the layer inside the attention.
        attention: "soft": the weighted mean of the places; "hard": one place, drawn in training; "none": the plain mean
            at every word.
        gate: beta_t = sigmoid(f_beta(h_{t-1})), which scales the context (section 4.2.1).
        dropout: on words' vectors and before the output.
        glimpse: of hard attention where nothing is drawn: "argmax", the likeliest place, or "expected".
        channels: of the words' `WordEmbedding`.
    """

    def __init__(
        self, encoder: ImageEncoder, vocabulary: int, embedding: int = 256, hidden: int = 256,
        attention_size: int = 128, attention: str = "soft", *, gate: bool = True, dropout: float = 0.0,
        glimpse: str = "argmax", channels: str = "rand",
    ) -> None:  # fmt: skip
        super().__init__()
        features = encoder.channels
        self.kind, self.glimpse, self.encoder = attention, glimpse, encoder
        self.words = WordEmbedding(vocabulary, embedding, channels)
        embedding = self.words.dim
        nn.init.normal_(self.words.weight, std=0.1)
        # f_init,h and f_init,c of the mean annotation vector
        self.first_hidden, self.first_cell = (nn.Sequential(nn.Linear(features, hidden), nn.Tanh()) for _ in range(2))
        self.attention = VisualAttention(features, hidden, attention_size) if attention != "none" else None
        self.gate = nn.Linear(hidden, 1) if gate else None
        self.decoder = build_recurrent("lstm", embedding + features, hidden)
        # The deep output layer (equation 7): L_o (E y_{t-1} + L_h h_t + L_z z_t).
        self.of_hidden, self.of_context = nn.Linear(hidden, embedding), nn.Linear(features, embedding, bias=False)
        self.output, self.dropout = nn.Linear(embedding, vocabulary), nn.Dropout(dropout)

    def begin(self, images: Tensor, lengths: Tensor | None = None) -> State:
        """Pictures to (hidden, cell: (N, 1, H); annotation vectors (N, L, D), what the attention makes of them).

        `lengths` is of sentences, and means nothing here: `beam_search` gives it.
        """
        maps = self.encoder(images)
        mean = maps.mean(1)
        keys = self.attention.key(maps) if self.attention is not None else mean[:, None]
        wide = torch.promote_types(mean.dtype, torch.float32)  # as an LSTM's states are, whatever autocast gives
        hidden, cell = self.first_hidden(mean).to(wide), self.first_cell(mean).to(wide)
        return hidden[:, None], cell[:, None], maps, keys

    def _look(self, hidden: Tensor, maps: Tensor, keys: Tensor, draws: Draws | None, step: int) -> tuple[Tensor, ...]:
        """z_t (N, D); with attention also alpha_t (N, L); with draws also log alpha of the places drawn (N,)."""
        if self.attention is None:
            return (keys[:, 0] * self._scale(hidden),)
        weights = self.attention(hidden, keys)
        found: tuple[Tensor, ...] = (weights,)
        looked = weights  # s_t, as weights of the places; soft attention has its expectation everywhere
        if self.kind == "hard" and draws is not None:
            one = _one_hot(draw_places(weights.detach(), draws.places[:, step]), weights)
            looked = torch.where(draws.expected[:, None], weights, one)
            log_chosen = (weights * one).sum(1).clamp_min(1e-30).log()
            found = (weights, torch.where(draws.expected, 0.0, log_chosen))
        elif self.kind == "hard" and self.glimpse == "argmax":
            looked = _one_hot(weights.argmax(1), weights)
        context = (looked.to(maps.dtype)[:, None] @ maps)[:, 0]
        return context * self._scale(hidden), *found

    def _scale(self, hidden: Tensor) -> Tensor | float:
        return 1.0 if self.gate is None else self.gate(hidden).sigmoid()

    def _decode(self, tokens: Tensor, state: State, draws: Draws | None = None) -> tuple[Reading, State]:
        """Tokens (N, T), each before the word that is said next."""
        hidden, cell, maps, keys = state
        vectors = self.dropout(self.words(tokens))
        outputs, contexts, weights, log_chosen = [], [], [], []
        for step in range(tokens.shape[1]):
            context, *rest = self._look(hidden[:, 0], maps, keys, draws, step)
            entering = torch.cat([vectors[:, step], context.to(vectors.dtype)], 1)[:, None]
            _, after = run_recurrent(self.decoder, entering, rows_state((hidden, cell)))
            hidden, cell = state_rows(after)
            outputs.append(hidden[:, 0])
            contexts.append(context)
            weights += rest[:1]
            log_chosen += rest[1:]
        deep = vectors + self.of_hidden(torch.stack(outputs, 1)) + self.of_context(torch.stack(contexts, 1))
        stacked = (torch.stack(parts, 1) if parts else None for parts in (weights, log_chosen))
        return Reading(self.output(self.dropout(deep)), *stacked), (hidden, cell, maps, keys)

    def forward(self, images: Tensor, before: Tensor, draws: Draws | None = None) -> Reading:
        """What is said of pictures (N, C, H, W), given the words before each: begin token first, (N, T).

        With `draws` hard attention looks at places that are drawn, else as `glimpse` says.
        """
        return self._decode(before, self.begin(images), draws)[0]

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One word for each row, for `beam_search`: tokens (N,) to (logits (N, V), state)."""
        reading, state = self._decode(tokens[:, None], state)
        return reading.logits[:, 0], state
