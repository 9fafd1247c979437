"""Image captioning with visual attention (Xu et al. 2015): an encoder's map, read word by word.

    repeat: draw pictures x and their captions y
            a = f_CNN(x), L annotation vectors; h_0, c_0 from their mean
            for every word: alpha_t = softmax(f_att(a, h_{t-1}))
                soft: z_t = beta_t sum_i alpha_ti a_i
                hard: s_t ~ Multinoulli(alpha_t), z_t = beta_t a_{s_t}; in half of the pictures s_t = alpha_t
                h_t = LSTM(y_{t-1}, z_t, h_{t-1}),  p(y_t) from y_{t-1}, h_t and z_t
            soft: descend  -log p(y | x) + lambda sum_i (1 - sum_t alpha_ti)^2
            hard: ascend   log p(y | s, a) + lambda_r (log p(y | s, a) - b) log p(s | a) + lambda_e H[s]
                  b <- 0.9 b + 0.1 log p(y | s, a)

Likelihoods are sums over the words of a caption, all terms means over captions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.attention_losses import attention_entropy, doubly_stochastic, reinforced
from genlab.data.text_vocabulary import BEGIN, END, PAD, TextCodec
from genlab.ema import EmaConfig
from genlab.models.beam_search import beam_search, greedy_search
from genlab.models.captioning import Draws, Reading
from genlab.optimizers import build_optimizer
from genlab.trainers.base import Batch, Metrics, Picture, Trainer, Writing
from genlab.trainers.captioning_config import CaptioningConfig, build_captioner, load_encoder
from genlab.trainers.classifier_config import check_pictures
from genlab.trainers.given_vectors import load_given

if TYPE_CHECKING:
    from genlab.data import BatchStream, ImageDataset
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData

SHOWN = 8  # captions among the samples; each takes a beam search


class CaptioningTrainer(Trainer):
    """Says what pictures show. Network "captioner", one optimiser."""

    config_class = CaptioningConfig
    config: CaptioningConfig
    data_kinds = ("captioned",)
    draws_samples = False
    own_score_names: ClassVar[tuple[str, ...]] = tuple(
        f"{part}_{name}"
        for part in ("val", "test")
        for name in ("bleu4", "bleu3", "bleu2", "bleu1", "exact_match", "perplexity")
    )

    def build_networks(self) -> dict[str, nn.Module]:
        self.codec = TextCodec.from_dict((self.data.codecs or {})["caption"])
        self.longest = 0  # tokens of the training set's longest caption, once its stream is open
        # b of the paper, and whether it has a value yet
        self.baseline = torch.zeros(2, device=self.device)
        return {"captioner": build_captioner(self.data.shape, len(self.codec), self.config)}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        trained = [weight for weight in self.networks["captioner"].parameters() if weight.requires_grad]
        return {"captioner": build_optimizer(self.config.optimizer, trained)}

    def averaged_networks(self) -> dict[str, EmaConfig]:
        return {"captioner": self.config.ema} if self.config.ema is not None else {}

    def begin(self) -> None:
        model, network = self.config.model, self.networks["captioner"]
        if model.encoder.weights is not None:
            load_encoder(network.encoder, self.data.shape, model.encoder)
        self.notes += load_given(model, network.words, self.codec, self.config.seed)

    def open_stream(self, dataset: ImageDataset, **settings: Any) -> BatchStream:
        from genlab.data.augmentation import AugmentedSamples
        from genlab.data.text_streams import LengthStream

        data, self.longest = self.config.data, dataset.longest
        samples = AugmentedSamples(dataset, self.config.augment) if self.config.augment.does_anything else dataset
        return LengthStream(samples, data.batch_size, bucket_batches=data.bucket_batches, **settings)

    def train_step(self, batch: Batch) -> Metrics:
        network, captions = self.networks["captioner"], batch["caption"]
        inside = captions != self.codec.special(PAD)
        # Words of a batch as the mean over processes, so that each of them counts the same wherever it is.
        words = self.distributed.all_reduce_mean(inside.sum().float()) / self.micro_batch_count
        draws, b = self._draws(captions), self._baseline(words * self.micro_batch_count / len(captions))
        with self.update("captioner") as update:
            for images, before, target, counted, *drawn in update.micro_batches(
                batch["image"], self.before(captions), captions, inside, *draws
            ):
                with self.autocast():
                    reading = network(images, before, Draws(*drawn) if draws[0] is not None else None)
                logs = -F.cross_entropy(reading.logits.float().transpose(1, 2), target, reduction="none") * counted
                log_likelihood = logs.sum(1)
                attended = self._attention_terms(reading, counted, log_likelihood, b)
                update.backward(-log_likelihood.mean() + sum(attended.values()))
                right = ((reading.logits.argmax(2) == target) & counted).sum() / words
                update.record(loss=-log_likelihood.mean(), nats=-logs.sum() / words, accuracy=right, **attended)
        self._follow(b, -update.metrics["loss"])
        return update.metrics

    def before(self, captions: Tensor) -> Tensor:
        """What the decoder is given: the begin token, then the caption without its last token."""
        return F.pad(captions[:, :-1], (1, 0), value=self.codec.special(BEGIN))

    def _draws(self, captions: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The randomness of a step of hard attention: uniform (N, T), and bool (N,), in expectation or not."""
        if self.config.model.attention != "hard":
            return None, None
        # As wide as any batch of any process, so that all of them draw the same numbers.
        width = max(self.longest, captions.shape[1])
        uniform = self.noise.uniform(len(captions), width + 1)
        return uniform[:, : captions.shape[1]], uniform[:, -1] < self.config.hard.expectation

    def _attention_terms(self, reading: Reading, inside: Tensor, log_likelihood: Tensor, b: Tensor) -> Metrics:
        """What is minimised beside -log p(y)."""
        kind, hard = self.config.model.attention, self.config.hard
        if reading.weights is None:
            return {}
        if kind == "soft":
            return {
                "doubly_stochastic": self.config.doubly_stochastic * doubly_stochastic(reading.weights, inside).mean()
            }
        learnt = reinforced(reading.log_chosen, inside, log_likelihood, b).mean()
        entropy = attention_entropy(reading.weights, inside).mean()
        return {"reinforce": -hard.reinforce * learnt, "entropy": -hard.entropy * entropy}

    def _baseline(self, words: Tensor) -> Tensor:
        """b; of the first step what a model gives that knows nothing, for captions of so many words on average."""
        return torch.where(self.baseline[1] > 0, self.baseline[0], -words * math.log(len(self.codec)))

    def _follow(self, b: Tensor, log_likelihood: Tensor) -> None:
        """b <- decay b + (1 - decay) log p(y | s, a), the same on every process."""
        if self.config.model.attention != "hard":
            return
        mean, decay = self.distributed.all_reduce_mean(log_likelihood.detach()), self.config.hard.baseline_decay
        self.baseline.copy_(torch.stack([decay * b + (1 - decay) * mean, torch.ones_like(b)]))

    def extra_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"baseline": self.baseline}, {}

    def load_extra_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.baseline.copy_(tensors["baseline"])

    # What a trained one is asked for.

    def caption(self, images: Tensor, beam: int | None = None) -> list[str]:
        """What pictures (N, C, H, W) in [-1, 1] show.

        Args:
            images: any device.
            beam: hypotheses that are followed; None: as the configuration says; 1 is the greedy choice.

        Raises:
            DataError: another number of channels than the network's, or values that are not finite.
        """
        return [self.codec.decode(row) for row in self.search(images, beam)]

    def search(self, images: Tensor, beam: int | None = None) -> list[list[int]]:
        """Tokens of captions, without begin and end; arguments as of `caption`."""
        check_pictures(images, self.data.shape[0])
        network, decoding = self.inference_network("captioner"), self.config.decoding
        images = images.to(self.device)
        begin, end, beam = self.codec.special(BEGIN), self.codec.special(END), beam or decoding.beam
        lengths = torch.ones(len(images), dtype=torch.int64, device=self.device)
        with self.inference():
            if beam == 1:
                return greedy_search(network, images, lengths, begin, end, decoding.longest)
            return beam_search(
                network, images, lengths, begin, end, beam=beam, longest=decoding.longest, alpha=decoding.alpha
            )

    def preview(
        self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]
    ) -> Sequence[Picture | Writing]:
        """Training captions and the model's; and where it looked for the first of them."""
        from genlab.captioning import captions_shown

        return captions_shown(self, examples(min(count, SHOWN)))

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.metrics.captions import caption_scores

        return caption_scores(self, data)
