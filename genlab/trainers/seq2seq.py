"""Sequence to sequence: translations by maximum likelihood, given the source and what was said so far.

    repeat: draw pairs (x, y) of like length
            g = gradient of the mean over tokens of -log p(y_t | x, y_1 ... y_{t-1}), labels smoothed
            w <- optimiser(w, g)

Networks: LSTM with dot or additive attention (Luong et al. 2015; Bahdanau et al. 2015) or none (Sutskever et al. 2014),
and the Transformer (Vaswani et al. 2017). Translations are found by beam search.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.data.text_vocabulary import BEGIN, END, PAD, TextCodec
from genlab.errors import UserError
from genlab.models.beam_search import beam_search, greedy_search
from genlab.models.seq2seq import RecurrentSeq2Seq, TransformerSeq2Seq
from genlab.ops import cross_entropy
from genlab.optimizers import build_optimizer
from genlab.trainers.base import Batch, Metrics, Picture, Trainer, Writing
from genlab.trainers.given_vectors import load_given
from genlab.trainers.graphs import READS_LENGTHS, Uncaptured
from genlab.trainers.places import require_places
from genlab.trainers.seq2seq_config import Seq2SeqConfig, Seq2SeqModelConfig

if TYPE_CHECKING:
    from genlab.data import BatchStream, ImageDataset
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData

SHOWN = 8  # translations among the samples; each takes a beam search
AT_ONCE = 64


def build_seq2seq(model: Seq2SeqModelConfig, source: int, target: int) -> nn.Module:
    """The network that `model` describes, for vocabularies of those sizes."""
    channels = (model.source.channels, model.target.channels)
    if model.network == "lstm":
        return RecurrentSeq2Seq(
            source, target, model.embedding, **model.recurrent.model_dump(), dropout=model.dropout, channels=channels
        )
    return TransformerSeq2Seq(
        source, target, model.embedding, **model.transformer.model_dump(), dropout=model.dropout, tie=model.tie,
        channels=channels,
    )  # fmt: skip


class Seq2SeqTrainer(Trainer):
    """A translator of sentences. Network "translator", one optimiser."""

    config_class = Seq2SeqConfig
    config: Seq2SeqConfig
    data_kinds = ("sentence_pairs",)
    draws_samples = False
    own_score_names = ("val_bleu", "test_bleu")

    def build_networks(self) -> dict[str, nn.Module]:
        codecs = self.data.codecs or {}
        self.source, self.target = (TextCodec.from_dict(codecs[key]) for key in ("source", "target"))
        return {"translator": build_seq2seq(self.config.model, len(self.source), len(self.target))}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"translator": build_optimizer(self.config.optimizer, self.networks["translator"].parameters())}

    def begin(self) -> None:
        network, model, seed = self.networks["translator"], self.config.model, self.config.seed
        self.notes += load_given(model.source, network.source, self.source, seed, "model.source")
        self.notes += load_given(model.target, network.target, self.target, seed, "model.target")

    def open_stream(self, dataset: ImageDataset, **settings: Any) -> BatchStream:
        from genlab.data.text_streams import LengthStream

        data = self.config.data
        require_places(self, dataset, self.networks["translator"].positions, "model.transformer.positions")
        return LengthStream(dataset, data.batch_size, bucket_batches=data.bucket_batches, **settings)

    @property
    def graph_key(self) -> Hashable | Uncaptured:
        return READS_LENGTHS if self.config.model.network == "lstm" else ()

    def train_step(self, batch: Batch) -> Metrics:
        network, pad = self.networks["translator"], self.target.special(PAD)
        given = self._given(batch["target"])
        # Tokens of a batch as the mean over processes, so that each of them counts the same wherever it is.
        count = self.distributed.all_reduce_mean((batch["target"] != pad).sum().float()) / self.micro_batch_count
        with self.update("translator") as update:
            for source, lengths, before, target in update.micro_batches(
                batch["source"], batch["source_length"], given, batch["target"]
            ):
                with self.autocast():
                    logits = network(source, lengths, before)
                loss = cross_entropy(
                    logits.float().flatten(0, 1), target.flatten(), ignore_index=pad, reduction="sum",
                    label_smoothing=self.config.label_smoothing,
                ) / count  # fmt: skip
                update.backward(loss)
                right = ((logits.argmax(2) == target) & (target != pad)).sum() / count
                update.record(loss=loss, accuracy=right)
        return update.metrics

    def _given(self, target: Tensor) -> Tensor:
        """What the decoder is given: the begin token, then the target without its last token."""
        return F.pad(target[:, :-1], (1, 0), value=self.target.special(BEGIN))

    # What a trained one is asked for.

    def translate(self, texts: Sequence[str], beam: int | None = None, cut: int | None = None) -> list[str]:
        """Translations of sentences as a person types them.

        Args:
            texts: sentences.
            beam: hypotheses that are followed; None: as the configuration says; 1 is the greedy choice.
            cut: only so many tokens of a sentence are read, its end counted; None: all.

        Raises:
            UserError: an empty sentence, or one longer than the model's places; names its number.
        """
        rows = self._encode(texts, cut)
        made: list[str] = []
        for at in range(0, len(rows), AT_ONCE):
            numbers = self._search(*self._padded(rows[at : at + AT_ONCE]), beam)
            made += [self.target.decode(row) for row in numbers]
        return made

    def _encode(self, texts: Sequence[str], cut: int | None = None) -> list[list[int]]:
        rows, places = [], self.networks["translator"].positions
        for number, text in enumerate(texts, start=1):
            row = self.source.encode(text)[: None if cut is None else cut - 1]
            if not row:
                raise UserError(f"sentence {number}: expected words, got {text!r}; leave it out")
            if places is not None and len(row) + 1 > places:
                raise UserError(
                    f"sentence {number}: expected at most {places - 1} tokens, the places that the model has, got "
                    f"{len(row)}; split it"
                )
            rows.append([*row, self.source.special(END)])
        return rows

    def _padded(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        from genlab.data.text_base import Ragged

        order = torch.arange(len(rows)).numpy()
        tokens, lengths = Ragged(rows).padded(order, self.source.special(PAD))
        return tokens.to(self.device), lengths.to(self.device)

    def _search(self, source: Tensor, lengths: Tensor, beam: int | None = None) -> list[list[int]]:
        network, decoding = self.networks["translator"], self.config.decoding
        longest = decoding.longest if network.positions is None else min(decoding.longest, network.positions)
        beam = decoding.beam if beam is None else beam
        begin, end = self.target.special(BEGIN), self.target.special(END)
        with self.inference():
            if beam == 1:
                return greedy_search(network, source, lengths, begin, end, longest)
            return beam_search(network, source, lengths, begin, end, beam=beam, longest=longest, alpha=decoding.alpha)

    def attention(self, text: str, translation: str | None = None) -> tuple[list[str], list[str], Tensor | None]:
        """(tokens of a sentence, tokens of its translation, weights (target, source)); None without attention."""
        (row,) = self._encode([text])
        source, lengths = self._padded([row])
        numbers = self.target.encode(translation) if translation else self._search(source, lengths)[0]
        # A translation that has as many tokens as there are places was not ended.
        target = torch.tensor([[*numbers, self.target.special(END)]], device=self.device)
        target = target[:, : self.networks["translator"].positions]
        with self.inference():
            weights = self.networks["translator"].attention_map(source, lengths, self._given(target))
        names = [[codec.tokens[n] for n in ns] for codec, ns in ((self.source, row), (self.target, target[0].tolist()))]
        return names[0], names[1], None if weights is None else weights[0].cpu()

    def preview(
        self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]
    ) -> list[Picture | Writing]:
        """Training sentences, their translations and the model's; and where it looked for the first of them."""
        batch = examples(min(count, SHOWN))
        made = self._search(batch["source"], batch["source_length"])
        lines = []
        for source, target, row in zip(batch["source"].tolist(), batch["target"].tolist(), made, strict=True):
            lines += [self.source.decode(source), f"  data:  {self.target.decode(target)}"]
            lines.append(f"  model: {self.target.decode(row)}")
        shown: list[Picture | Writing] = [Writing("\n".join(lines))]
        source, target, weights = self.attention(self.source.decode(batch["source"][0].tolist()))
        if weights is not None:
            from genlab.attention_figures import attention_picture

            shown.append(Picture(attention_picture(source, target, weights), name="attention"))
        return shown

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.metrics.bleu import bleu_scores

        return bleu_scores(self, data, self.config.decoding.model_dump(mode="json"))
