"""BERT's pre-training: tokens from both sides of them, and whether a segment follows another (Devlin et al. 2019).

    repeat: draw pairs of segments (A, B); with probability 1/2 B is of another document
            draw 15 % of the tokens x_i; of these 80 % become [MASK], 10 % a random token, 10 % stay
            g = gradient of mean over those tokens of -log p(x_i | the rest) + mean of -log p(B follows A or not)
            w <- AdamW(w, g): the rate rises and falls linearly; biases and normalisations do not decay

Both are scored on the held-out parts, whose pairs and masks are the same every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.data.text_base import IGNORED
from genlab.data.text_vocabulary import BEGIN, END, MASK, TextCodec
from genlab.errors import ConfigError, UserError
from genlab.models.bert import BertPretraining, without_decay
from genlab.ops import cross_entropy
from genlab.optimizers import build_optimizer
from genlab.trainers.base import Batch, Metrics, Trainer, Writing
from genlab.trainers.bert_config import BertPretrainingConfig
from genlab.trainers.pretrained_bert import load_pretrained

if TYPE_CHECKING:
    from genlab.data import BatchStream, ImageDataset
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData

MARK = "[MASK]"  # what stands for a masked token in a text that a person types
_KINDS = ("mlm_loss", "mlm_accuracy", "mlm_perplexity", "nsp_accuracy")


class BertPretrainingTrainer(Trainer):
    """BERT with its two pre-training tasks. Network "model", one optimiser."""

    config_class = BertPretrainingConfig
    config: BertPretrainingConfig
    data_kinds = ("documents",)
    draws_samples = False
    own_score_names = tuple(f"{part}_{kind}" for part in ("val", "test") for kind in _KINDS)

    def build_networks(self) -> dict[str, nn.Module]:
        self.codec, model = TextCodec.from_dict((self.data.codecs or {})["tokens"]), self.config.model
        return {"model": BertPretraining(model.bert.build(len(self.codec), model.dropout))}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        named, spared = dict(self.networks["model"].named_parameters()), without_decay(self.networks["model"])
        if not self.config.next_sentence:  # no gradient reaches them
            named = {name: p for name, p in named.items() if not name.startswith(("next_sentence.", "bert.pooler."))}
        kept = [p for name, p in named.items() if name in spared]
        return {"model": build_optimizer(self.config.optimizer, named.values(), without_decay=kept)}

    def begin(self) -> None:
        if self.config.model.bert.pretrained is not None:
            load_pretrained(self.networks["model"], self.config.model.bert, self.codec)

    def open_stream(self, dataset: ImageDataset, **settings: Any) -> BatchStream:
        return super().open_stream(self._masked(dataset), **settings)

    def _masked(self, dataset: ImageDataset) -> ImageDataset:
        from genlab.data.text_masking import MaskedPairs, Masking

        return MaskedPairs(dataset, Masking(**self.config.masking.model_dump()))

    def train_step(self, batch: Batch) -> Metrics:
        network, both = self.networks["model"], self.config.next_sentence
        # Masked tokens of a batch as the mean over processes, so that each of them counts the same wherever it is.
        told = (batch["target"] != IGNORED).sum().float()
        count = self.distributed.all_reduce_mean(told).clamp(min=1.0) / self.micro_batch_count
        with self.update("model") as update:
            for tokens, lengths, segments, places, target, random_next in update.micro_batches(
                *(batch[name] for name in ("tokens", "length", "segment", "places", "target", "random_next"))
            ):
                with self.autocast():
                    words, follows = network(tokens, lengths, segments, places)
                mlm = cross_entropy(
                    words.float().flatten(0, 1), target.flatten(), ignore_index=IGNORED, reduction="sum"
                ) / count  # fmt: skip
                nsp = F.cross_entropy(follows.float(), random_next)
                loss = mlm + nsp if both else mlm
                update.backward(loss)
                update.record(loss=loss, mlm_loss=mlm, mlm_accuracy=(words.argmax(2) == target).sum() / count)
                if both:
                    update.record(nsp_loss=nsp, nsp_accuracy=(follows.argmax(1) == random_next).float().mean())
        return update.metrics

    # What a trained one is asked for.

    def fill_mask(self, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
        """The likeliest tokens in place of every [MASK] of a text, each mask by itself.

        Args:
            text: as a person types it, with at least one [MASK].
            top: how many.

        Returns:
            For each mask (token, probability), the likeliest first; special tokens are not among them.

        Raises:
            UserError: no [MASK], or a text longer than the model's places.
        """
        from genlab.data.text_document_sets import encode_sentence

        if MARK not in text:
            raise UserError(f"text: expected {MARK} where a word is to be told, got none in {text[:80]!r}")
        codec, positions = self.codec, self.networks["model"].bert.positions
        row = [codec.special(BEGIN), *encode_sentence(text, codec, {MARK: MASK}), codec.special(END)]
        if len(row) > positions:
            raise UserError(
                f"text: expected at most {positions - 2} tokens, the places that the model has, got {len(row) - 2}; "
                "shorten it"
            )
        places = [place for place, token in enumerate(row) if token == codec.special(MASK)]
        chances = self._told(torch.tensor([row]), torch.tensor([len(row)]), None, torch.tensor([places]))[0]
        chances[:, list(codec.specials.values())] = 0.0
        best = chances.topk(min(top, chances.shape[1] - len(codec.specials)), dim=1)
        return [
            [(codec.tokens[token], chance) for chance, token in zip(*pair, strict=True)]
            for pair in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def _told(self, tokens: Tensor, lengths: Tensor, segments: Tensor | None, places: Tensor) -> Tensor:
        """Probabilities of the tokens at some places, float32 (N, P, vocabulary)."""
        given = [None if value is None else value.to(self.device) for value in (tokens, lengths, segments, places)]
        with self.inference():
            return self.networks["model"](*given)[0].float().softmax(2)

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Writing]:
        """Pairs of the training set: [the token that stood there, and behind it what the model tells where wrong]."""
        from genlab.data.text_masking import Masking, TokenMasker

        pairs = {name: value.cpu() for name, value in examples(min(count, 16)).items()}
        masker = TokenMasker(self.codec, Masking(**self.config.masking.model_dump()))
        batch = masker(pairs, np.arange(len(pairs["tokens"])), None)
        guesses = self._told(*(batch[name] for name in ("tokens", "length", "segment", "places"))).argmax(2).cpu()
        lines = []
        for row, tokens in enumerate(pairs["tokens"]):
            words = [self.codec.tokens[token] for token in tokens[: pairs["length"][row]].tolist()]
            for place, target, guess in zip(batch["places"][row], batch["target"][row], guesses[row], strict=True):
                if target != IGNORED:
                    wrong = "" if target == guess else f", not {self.codec.tokens[guess]}"
                    words[place] = f"[{self.codec.tokens[target]}{wrong}]"
            lines.append(" ".join(words).replace(" ##", ""))
        return [Writing("\n\n".join(lines))]

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.metrics import Score
        from genlab.metrics.text_scores import scored_parts, source_facts

        found = []
        for dataset in scored_parts(self, data):
            totals = self._totals(dataset, data)
            nats, accuracy = totals["nats"] / totals["told"], totals["right"] / totals["told"]
            facts = {**self.config.masking.model_dump(), "told": totals["told"], "draws": "fixed"}
            protocol = {"real": source_facts(dataset, totals["pairs"]), **facts}
            values = (nats, accuracy, math.exp(min(nats, 700.0)), totals["next"] / totals["pairs"])
            for kind, value in zip(_KINDS, values, strict=True):
                if kind == "nsp_accuracy" and not self.config.next_sentence:
                    continue
                lower = kind in ("mlm_loss", "mlm_perplexity")
                found.append(Score(f"{dataset.split}_{kind}", value, None, protocol, lower_is_better=lower))
        return found

    def _totals(self, dataset: ImageDataset, data: EvaluationData) -> dict[str, float]:
        """Nats and hits over all masked tokens, hits over all pairs, and how many of either there are."""
        from genlab.data import iterate

        totals = {"nats": 0.0, "right": 0, "told": 0, "next": 0, "pairs": 0}
        for batch in iterate(self._masked(dataset), data.batch_size):
            batch = self.to_device(batch)
            target, random_next = batch["target"], batch["random_next"]
            with self.inference():
                words, follows = self.networks["model"](
                    *(batch[name] for name in ("tokens", "length", "segment", "places"))
                )
            flat = words.float().flatten(0, 1)
            nats = F.cross_entropy(flat, target.flatten(), ignore_index=IGNORED, reduction="none")
            totals["nats"] += float(nats.double().sum())
            totals["right"] += int((words.argmax(2) == target).sum())
            totals["told"] += int((target != IGNORED).sum())
            totals["next"] += int((follows.argmax(1) == random_next).sum())
            totals["pairs"] += len(target)
            data.progress("masked tokens", totals["pairs"], len(dataset))
        return totals


def require_bert(trainer: Any, path: Any) -> BertPretrainingTrainer:
    """The trainer, if it is of BERT's pre-training."""
    if isinstance(trainer, BertPretrainingTrainer):
        return trainer
    got = trainer.config.algorithm
    raise ConfigError(f"{path}: expected a model of bert_pretraining, which fills masks, got one of {got}")
