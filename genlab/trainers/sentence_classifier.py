"""Sentence classification: a network reads the words of a sentence and descends the cross-entropy of its class.

    repeat: draw a batch of sentences of like length with their classes y
            g = gradient of mean cross-entropy(f_w(words), y)
            w <- optimiser(w, g); rows of the last layer longer than `model.max_norm` are shortened to it

Networks: convolutions (Kim 2014), time-delay (Waibel et al. 1989), recurrent ones, a Transformer's encoder (Vaswani
et al. 2017), and BERT, from random weights or pre-trained ones (`model.bert.pretrained`; Devlin et al. 2019). The best
checkpoint is that of the highest accuracy on the validation part.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genlab.data.text_vocabulary import BEGIN, END, PAD, UNKNOWN, TextCodec
from genlab.errors import UserError
from genlab.models.bert import BertClassifier, without_decay
from genlab.models.recurrences import RECURRENT
from genlab.models.recurrent import RecurrentClassifier
from genlab.models.sentence_cnn import TextCnn, TimeDelayNetwork
from genlab.models.transformer import TransformerClassifier
from genlab.models.word_embedding import WordEmbedding
from genlab.ops import cross_entropy
from genlab.optimizers import build_optimizer
from genlab.trainers.base import Batch, Metrics, Trainer, Writing
from genlab.trainers.given_vectors import load_given
from genlab.trainers.graphs import READS_LENGTHS, Uncaptured
from genlab.trainers.places import require_places
from genlab.trainers.pretrained_bert import load_pretrained
from genlab.trainers.sentence_config import SentenceConfig, SentenceModelConfig

if TYPE_CHECKING:
    from genlab.data import BatchStream, ImageDataset
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData


def build_sentence_network(model: SentenceModelConfig, codec: TextCodec, classes: int) -> nn.Module:
    """The network that `model` describes, for sentences in the tokens of `codec`."""
    if model.network == "bert":
        bert = model.bert.build(len(codec), model.dropout)
        return BertClassifier(bert, classes, codec.special(BEGIN), codec.special(END), model.dropout)
    embedding = WordEmbedding(len(codec), model.embedding, model.channels, codec.special(PAD))
    if model.network == "text_cnn":
        return TextCnn(embedding, classes, model.cnn.kernel_sizes, model.cnn.filters, model.dropout)
    if model.network == "tdnn":
        return TimeDelayNetwork(embedding, classes, **model.tdnn.model_dump(), dropout=model.dropout)
    if model.network == "transformer":
        return TransformerClassifier(embedding, classes, **model.transformer.model_dump(), dropout=model.dropout)
    settings = model.recurrent
    shape = settings.model_dump(include={"hidden", "layers", "bidirectional", "pooling"})
    return RecurrentClassifier(embedding, classes, model.network, **shape, dropout=model.dropout, **settings.dropouts())


class SentenceClassifierTrainer(Trainer):
    """A classifier of sentences. Network "classifier", one optimiser."""

    config_class = SentenceConfig
    config: SentenceConfig
    data_kinds = ("sentences",)
    draws_samples = False
    own_score_names = ("val_accuracy", "test_accuracy")

    @property
    def codec(self) -> TextCodec:
        """What the words are to the model."""
        return TextCodec.from_dict(self.data.codecs["tokens"])

    def build_networks(self) -> dict[str, nn.Module]:
        self._codec = self.codec
        return {"classifier": build_sentence_network(self.config.model, self._codec, self.data.num_classes)}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        network = self.networks["classifier"]
        spared = without_decay(network) if self.config.model.network == "bert" else set()
        kept = [parameter for name, parameter in network.named_parameters() if name in spared]
        return {"classifier": build_optimizer(self.config.optimizer, network.parameters(), without_decay=kept)}

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sentence that the network has places for; None where any length will do."""
        model = self.config.model
        if model.network == "bert":
            return model.bert.positions - 2  # [CLS] and [SEP]
        return model.transformer.positions if model.network == "transformer" else None

    def begin(self) -> None:
        model, network = self.config.model, self.networks["classifier"]
        if model.network != "bert":
            self.notes += load_given(model, network.embedding, self._codec, self.config.seed)
        elif model.bert.pretrained is not None:
            load_pretrained(network, model.bert, self._codec)

    def open_stream(self, dataset: ImageDataset, **settings: Any) -> BatchStream:
        from genlab.data.text_streams import LengthStream

        data, network = self.config.data, self.config.model.network
        special = 2 if network == "bert" else 0
        require_places(self, dataset, self.longest, f"model.{network}.positions", special)
        return LengthStream(dataset, data.batch_size, bucket_batches=data.bucket_batches, **settings)

    @property
    def graph_key(self) -> Hashable | Uncaptured:
        return READS_LENGTHS if self.config.model.network in RECURRENT else ()

    def train_step(self, batch: Batch) -> Metrics:
        network, model = self.networks["classifier"], self.config.model
        with self.update("classifier") as update:
            for tokens, lengths, labels in update.micro_batches(
                self._with_unknown(batch["tokens"]), batch["length"], batch["label"]
            ):
                with self.autocast():
                    logits = network(tokens, lengths)
                loss = cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)
                update.backward(loss)
                update.record(loss=loss, accuracy=(logits.argmax(1) == labels).float().mean())
        if model.max_norm is not None and isinstance(network, TextCnn):
            network.limit_rows(model.max_norm)
        return update.metrics

    def _with_unknown(self, tokens: Tensor) -> Tensor:
        """Some words taken for unknown ones, so that the unknown word's vector is learnt too (Iyyer et al. 2015)."""
        share = self.config.model.word_dropout
        if share == 0:
            return tokens
        dropped = (torch.rand(tokens.shape, device=tokens.device) < share) & (tokens != self._codec.special(PAD))
        return tokens.masked_fill(dropped, self._codec.special(UNKNOWN))

    # What a trained one is asked for.

    def classify(self, texts: Sequence[str]) -> Tensor:
        """Probabilities of the classes, float32 (N, K), of sentences as a person types them.

        Raises:
            UserError: an empty sentence; names its number.
        """
        from genlab.data.text_base import Ragged

        rows = [self._codec.encode(text) for text in texts]
        for number, row in enumerate(rows, start=1):
            if not row:
                raise UserError(f"sentence {number}: expected words, got {texts[number - 1]!r}; leave it out")
            if self.longest is not None and len(row) > self.longest:
                raise UserError(
                    f"sentence {number}: expected at most {self.longest} tokens, the places that the model has, got "
                    f"{len(row)}; shorten it"
                )
        order = torch.arange(len(rows))
        tokens, lengths = Ragged(rows).padded(order.numpy(), self._codec.special(PAD))
        return self._probabilities(tokens.to(self.device), lengths.to(self.device))

    def _probabilities(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        with self.inference():
            return self.networks["classifier"](tokens, lengths).float().softmax(1)

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Writing]:
        """Training sentences, what they are taken for, and a mark at mistakes."""
        batch = examples(count)
        likely, taken = self._probabilities(batch["tokens"], batch["length"]).max(1)
        names = self.data.class_names or [str(number) for number in range(self.data.num_classes or 0)]
        lines = []
        for row, length, label, guess, p in zip(
            batch["tokens"].tolist(), batch["length"].tolist(), batch["label"].tolist(), taken.tolist(),
            likely.tolist(), strict=True,
        ):  # fmt: skip
            mark = " " if label == guess else "x"
            lines.append(f"{mark} {names[guess]:<12} {p:5.0%}  {self._codec.decode(row[:length])}")
        return [Writing("\n".join(lines))]

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.metrics.text_scores import accuracy_scores

        def count_right(batch: Batch) -> tuple[int, int]:
            guesses = self._probabilities(batch["tokens"], batch["length"]).argmax(1)
            return int((guesses == batch["label"]).sum()), len(guesses)

        model = self.config.model
        facts = {"network": model.network, "channels": model.channels, "vectors": str(model.vectors or "")}
        if model.network == "bert":
            facts = {"network": "bert", **model.bert.shape(), "pretrained": str(model.bert.pretrained or "")}
        return accuracy_scores(count_right, self, data, facts)
