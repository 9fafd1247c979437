"""Sequence tagging: the class of every word of a sentence, read in both directions (Huang et al. 2015, BI-LSTM).

repeat: draw a batch of tagged sentences of like length
        g = gradient of the mean over words of -log p(tag | sentence)
        w <- optimiser(w, g)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from genlab.config import RunConfig
from genlab.data.text_base import IGNORED
from genlab.data.text_vocabulary import PAD, TextCodec
from genlab.errors import UserError
from genlab.models.recurrent import RecurrentTagger
from genlab.models.word_embedding import WordEmbedding
from genlab.ops import cross_entropy
from genlab.optimizers import build_optimizer
from genlab.text_config import TextDataConfig
from genlab.trainers.base import Batch, Metrics, Trainer, Writing
from genlab.trainers.given_vectors import GivenVectors, load_given
from genlab.trainers.graphs import READS_LENGTHS, Uncaptured
from genlab.trainers.sentence_config import Probability, Size
from genlab.trainers.stack import AdamConfig

if TYPE_CHECKING:
    from genlab.data import BatchStream, ImageDataset
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData


class TaggerModelConfig(GivenVectors):
    """The network."""

    network: Literal["rnn", "lstm", "gru"] = "lstm"
    embedding: Size = Field(100, description="numbers of a word's vector")
    hidden: Size = Field(128, description="units of one direction")
    layers: int = Field(1, ge=1, le=16)
    bidirectional: bool = Field(True, description="false: a tag depends on the words before alone")
    dropout: Probability = 0.5
    recurrent_dropout: Probability = Field(0.0, description="one mask for a whole sentence, on the hidden state")


class TaggerConfig(RunConfig):
    """`algorithm: tagger`."""

    data: TextDataConfig = Field(default_factory=lambda: TextDataConfig(name="small_tags"))
    model: TaggerModelConfig = Field(default_factory=TaggerModelConfig)
    optimizer: AdamConfig = Field(default_factory=lambda: AdamConfig(max_grad_norm=5.0))


class TaggerTrainer(Trainer):
    """Tags of words. Network "tagger", one optimiser."""

    config_class = TaggerConfig
    config: TaggerConfig
    data_kinds = ("tagged",)
    draws_samples = False
    own_score_names = ("val_accuracy", "test_accuracy")

    def build_networks(self) -> dict[str, nn.Module]:
        self.codec = TextCodec.from_dict((self.data.codecs or {})["tokens"])
        model = self.config.model
        embedding = WordEmbedding(len(self.codec), model.embedding, model.channels, self.codec.special(PAD))
        return {
            "tagger": RecurrentTagger(
                embedding, self.data.num_classes, model.network, model.hidden, model.layers, model.bidirectional,
                model.dropout, recurrent_dropout=model.recurrent_dropout,
            )
        }  # fmt: skip

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"tagger": build_optimizer(self.config.optimizer, self.networks["tagger"].parameters())}

    def begin(self) -> None:
        self.notes += load_given(self.config.model, self.networks["tagger"].embedding, self.codec, self.config.seed)

    def open_stream(self, dataset: ImageDataset, **settings: Any) -> BatchStream:
        from genlab.data.text_streams import LengthStream

        data = self.config.data
        return LengthStream(dataset, data.batch_size, bucket_batches=data.bucket_batches, **settings)

    @property
    def graph_key(self) -> Uncaptured:
        return READS_LENGTHS

    def train_step(self, batch: Batch) -> Metrics:
        network = self.networks["tagger"]
        # Words of a batch as the mean over processes, so that each of them counts the same wherever it is.
        count = self.distributed.all_reduce_mean((batch["tags"] != IGNORED).sum().float()) / self.micro_batch_count
        with self.update("tagger") as update:
            for tokens, lengths, tags in update.micro_batches(batch["tokens"], batch["length"], batch["tags"]):
                with self.autocast():
                    logits = network(tokens, lengths)
                flat = logits.float().flatten(0, 1)
                loss = cross_entropy(flat, tags.flatten(), ignore_index=IGNORED, reduction="sum") / count
                update.backward(loss)
                update.record(loss=loss, accuracy=(logits.argmax(2) == tags).sum() / count)
        return update.metrics

    # What a trained one is asked for.

    def tag(self, text: str) -> list[tuple[str, str]]:
        """(word, tag) of each word of a sentence whose words are split by spaces.

        Raises:
            UserError: no words.
        """
        words = text.split()
        if not words:
            raise UserError(f"sentence: expected words, got {text!r}")
        tokens = torch.tensor([self.codec.encode(text)], device=self.device)
        guesses = self._guesses(tokens, torch.tensor([len(words)], device=self.device))[0].tolist()
        names = self.data.class_names or ()
        return [(word, names[guess]) for word, guess in zip(words, guesses, strict=True)]

    def _guesses(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        with self.inference():
            return self.networks["tagger"](tokens, lengths).argmax(2)

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Writing]:
        batch = examples(count)
        guesses, names = self._guesses(batch["tokens"], batch["length"]).tolist(), self.data.class_names or ()
        lines = []
        for row, tags, length, guess in zip(
            batch["tokens"].tolist(), batch["tags"].tolist(), batch["length"].tolist(), guesses, strict=True
        ):
            words = zip(row[:length], tags, guess, strict=False)
            lines.append(
                " ".join(
                    f"{self.codec.tokens[w]}/{names[g]}{'' if g == t else f'(not {names[t]})'}" for w, t, g in words
                )
            )
        return [Writing("\n".join(lines))]

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.metrics.text_scores import accuracy_scores

        def count_right(batch: Batch) -> tuple[int, int]:
            inside = batch["tags"] != IGNORED
            right = self._guesses(batch["tokens"], batch["length"]) == batch["tags"]
            return int(right.sum()), int(inside.sum())

        return accuracy_scores(count_right, self, data, {"network": self.config.model.network, "of": "words"})
