"""The masked language model's inputs and targets (Devlin et al. 2019, section 3.1, task 1), drawn anew in every epoch.

15 % of the tokens are to be told; of these 80 % are replaced by [MASK], 10 % by a random token, and 10 % stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genlab.data.base import ImageDataset
from genlab.data.randomness import EpochKey, uniform_rows
from genlab.data.text_base import IGNORED
from genlab.data.text_documents import FIXED, DocumentDataset
from genlab.data.text_vocabulary import MASK, TextCodec

CHOICE, REPLACEMENT = 49, 50  # name the draws


@dataclass(frozen=True)
class Masking:
    """Which tokens are to be told, and what stands in their place.

    Attributes:
        share: of the tokens of a sequence, special ones counted.
        mask: share of those that become [MASK].
        random: share of those that become a random token; the rest stays.
        whole_word: all pieces of a word or none (Devlin's later release).
    """

    share: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    whole_word: bool = False


class TokenMasker:
    """Masks sequences in the tokens of one vocabulary. Special tokens are neither chosen nor put in.

    Args:
        codec: has a [MASK].
        masking: the shares.

    Attributes:
        ordinary: int64, the tokens that are not special ones.
    """

    def __init__(self, codec: TextCodec, masking: Masking) -> None:
        self.masking, self.mask = masking, codec.special(MASK)
        self._special = np.isin(np.arange(len(codec)), list(codec.specials.values()))
        self._inner = np.array([token.startswith("##") for token in codec.tokens])
        self.ordinary = np.flatnonzero(~self._special)

    def most(self, width: int) -> int:
        """Tokens that are told at most of a sequence of `width`."""
        return max(1, round(self.masking.share * width))

    def __call__(self, batch: dict[str, Tensor], indices: np.ndarray, key: EpochKey | None) -> dict[str, Tensor]:
        """The batch with "tokens" masked, "places" and "target" (N, P) int64 beside them.

        Args:
            batch: of `DocumentDataset`; padding is a special token.
            indices, key: that it was fetched with; they decide the draws.

        Returns:
            `target` is the token that stood at `places`; where fewer than P are told the rest is -100, at place 0.
        """
        tokens = batch["tokens"].numpy()
        choices = uniform_rows(*(key or FIXED), CHOICE, indices, count=tokens.shape[1])
        most = self.most(tokens.shape[1])
        counts = np.clip(np.round(self.masking.share * batch["length"].numpy()).astype(np.int64), 1, most)
        choose = self._whole_words if self.masking.whole_word else self._tokens
        places, chosen = choose(tokens, choices, counts, most)
        target = np.where(chosen, np.take_along_axis(tokens, places, 1), IGNORED)

        draws = uniform_rows(*(key or FIXED), REPLACEMENT, indices, count=2 * most).astype(np.float64)
        fate, which = draws[:, :most], draws[:, most:]
        random = self.ordinary[(which * len(self.ordinary)).astype(np.int64)]
        bounds = (self.masking.mask, self.masking.mask + self.masking.random)
        put = np.select([fate < bounds[0], fate < bounds[1]], [self.mask, random], target)
        masked = tokens.copy()
        rows = np.nonzero(chosen)[0]
        masked[rows, places[chosen]] = put[chosen]
        made = {"tokens": masked, "places": places, "target": target}
        return {**batch, **{name: torch.from_numpy(value) for name, value in made.items()}}

    def _tokens(
        self, tokens: np.ndarray, choices: np.ndarray, counts: np.ndarray, most: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(places, whether each counts), (N, most): the candidates with the smallest draws."""
        special = self._special[tokens]
        order = np.argsort(np.where(special, 2.0, choices), axis=1, kind="stable")[:, :most]
        chosen = np.arange(most)[None] < np.minimum(counts, (~special).sum(1))[:, None]
        return np.where(chosen, order, 0), chosen

    def _whole_words(
        self, tokens: np.ndarray, choices: np.ndarray, counts: np.ndarray, most: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `_tokens`, word by word; a word that would be one piece too many is passed over."""
        special = self._special[tokens]
        before = np.pad(special, ((0, 0), (1, 0)), constant_values=True)[:, :-1]
        heads = ~special & (~self._inner[tokens] | before)  # a word whose beginning was cut off begins where it does
        places, chosen = np.zeros((len(tokens), most), np.int64), np.zeros((len(tokens), most), bool)
        for row in range(len(tokens)):
            starts = np.flatnonzero(heads[row])
            stops = np.append(starts[1:], tokens.shape[1])
            taken = 0
            for word in np.argsort(choices[row, starts], kind="stable"):
                pieces = np.arange(starts[word], stops[word])
                pieces = pieces[~special[row, pieces]]
                if taken + len(pieces) > counts[row]:
                    continue
                places[row, taken : taken + len(pieces)] = pieces
                taken += len(pieces)
                if taken == counts[row]:
                    break
            chosen[row, :taken] = True
        return places, chosen


class MaskedPairs(ImageDataset):
    """Pairs of segments with their tokens masked: what BERT is trained and scored on.

    Args:
        dataset: of documents.
        masking: the shares.
    """

    in_memory = True

    def __init__(self, dataset: DocumentDataset, masking: Masking) -> None:
        super().__init__(
            name=dataset.name, split=dataset.split, image_shape=dataset.image_shape, fingerprint=dataset.fingerprint,
            contents=dataset.contents, notes=dataset.notes,
        )  # fmt: skip
        self.kind, self.codecs = dataset.kind, dataset.codecs
        self._dataset, self._masker = dataset, TokenMasker(dataset.codecs["tokens"], masking)

    def __len__(self) -> int:
        return len(self._dataset)

    def fetch(self, indices: np.ndarray, key: EpochKey | None = None) -> dict[str, Tensor]:
        return self._masker(self._dataset.fetch(indices, key), indices, key)
