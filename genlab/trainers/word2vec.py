"""word2vec: vectors of words from the words around them, by stochastic gradient descent.

    repeat: take the next lines of the text; leave frequent words out at random
            for each word w: draw r from 1 ... window; the context C are the words at most r places away
                skip_gram: for each c of C descend -log p(w | v_c);  cbow: descend -log p(w | mean of v_c over C)
            where p is that of w against drawn noise words, or of w's path in a Huffman tree
            the learning rate falls linearly over the whole training

Mikolov et al. 2013a, "Efficient estimation of word representations in vector space"; 2013b, "Distributed
representations of words and phrases and their compositionality". A step takes `data.batch_size` words, each prediction
in it is an update of its own. With `train.deterministic=false` all of torch's threads train at once without locks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genlab.data.text_vocabulary import TextCodec
from genlab.errors import ConfigError
from genlab.models.word2vec import WordVectorTables
from genlab.ops import keep_probabilities, word2vec_step
from genlab.trainers.base import Batch, Metrics, Trainer, Writing
from genlab.trainers.diagnosis import Finding
from genlab.trainers.word2vec_config import Word2vecConfig

if TYPE_CHECKING:
    from genlab.config import RunConfig
    from genlab.data import BatchStream, ImageDataset
    from genlab.data.word_blocks import WordBlocks
    from genlab.metrics import Score
    from genlab.ops import Word2vecTotals
    from genlab.trainers.evaluation import EvaluationData
    from genlab.word_vectors import WordVectors

ALIKE = 0.9  # mean cosine of two words above which vectors say next to nothing
COMMONEST = 600  # words that those of a preview are taken from
NEIGHBOURS = 6  # of each word of a preview


class Word2vecTrainer(Trainer):
    """Word vectors. Network "vectors", whose tables the op trains itself; the optimiser only holds the rate."""

    config_class = Word2vecConfig
    config: Word2vecConfig
    data_kinds = ("text", "sentences")
    draws_samples = False
    own_score_names = (
        *(f"{part}_nats_per_prediction" for part in ("train", "val", "test")),
        *("analogy_accuracy", "analogy_coverage"),
    )

    @classmethod
    def settle(cls, config: RunConfig, dataset: ImageDataset) -> RunConfig:
        assert isinstance(config, Word2vecConfig)
        if config.epochs is None:
            return config
        try:
            return config.with_steps(len(_blocks(dataset, config)))
        except ValueError as error:
            raise ConfigError(str(error)) from None

    @property
    def counted(self) -> tuple[str, int]:
        return "words", 1

    def build_networks(self) -> dict[str, nn.Module]:
        from genlab.data.word_blocks import first_word

        self.codec, model = TextCodec.from_dict((self.data.codecs or {})["tokens"]), self.config.model
        self._first = first_word(self.codec)
        words = len(self.codec) - self._first
        return {
            "vectors": WordVectorTables(
                words, model.embedding_dim, model.objective, model.negatives, model.noise_power
            )
        }  # fmt: skip

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"vectors": torch.optim.SGD(self.networks["vectors"].parameters(), lr=self.config.optimizer.lr)}

    def open_stream(self, dataset: ImageDataset, **settings: Any) -> BatchStream:
        from genlab.data.word_blocks import BlockStream

        if self.device.type != "cpu" and self.config.train.deterministic:
            raise ConfigError(
                f"train.deterministic: expected false on {self.device}, where results that repeat mean one warp; "
                "set it, or add --device cpu"
            )
        blocks = _blocks(dataset, self.config)
        self.networks["vectors"].counts.copy_(blocks.counts)
        return BlockStream(blocks, **settings)

    def train_step(self, batch: Batch) -> Metrics:
        totals = self._take(batch, self.learning_rate, int(batch["key"]))
        return {
            "loss": torch.tensor(totals.loss / max(totals.predictions, 1)),
            "kept": torch.tensor(totals.words / len(batch["words"])),
        }

    def _take(self, batch: Batch, rate: float, key: int) -> Word2vecTotals:
        tables, model, batch = self.networks["vectors"], self.config.model, self.to_device(batch)
        keep = None if model.subsample is None else keep_probabilities(tables.counts, model.subsample).to(self.device)
        return word2vec_step(
            tables.inputs, tables.outputs, batch["words"], batch["starts"], tables.objective, lr=rate,
            architecture=model.architecture, window=model.window, keep=keep,
            mean_gradient=model.cbow_gradient == "mean", key=key, position=int(batch["position"]),
            threads=1 if self.config.train.deterministic else 0,
        )  # fmt: skip

    # What a trained one is asked for.

    def vectors(self) -> WordVectors:
        """The words, commonest first, with their vectors."""
        from genlab.word_vectors import WordVectors

        return WordVectors(self.codec.tokens[self._first :], self.networks["vectors"].inputs.detach().float().cpu())

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Writing]:
        """Words of four letters and more, evenly spaced over the commonest, each with its nearest."""
        vectors = self.vectors()
        words = [word for word in vectors.words if len(word) > 3 and word.isalpha()] or vectors.words
        words = words[: COMMONEST : max(1, min(COMMONEST, len(words)) // count)][:count]
        lines = [
            f"{word}: {', '.join(f'{near} {cosine:.2f}' for near, cosine in vectors.nearest(word, NEIGHBOURS))}"
            for word in words
        ]
        return [Writing("\n".join(lines))]

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.trainers.word2vec_scores import analogy_scores, prediction_scores

        scores = prediction_scores(self, data)
        if self.config.analogies is not None:
            scores += analogy_scores(self.vectors(), self.config.analogies)
        return scores

    def measure(self, blocks: WordBlocks, seed: int) -> Word2vecTotals:
        """What the first pass over a text would cost, nothing moved."""
        from genlab.data.randomness import EpochKey
        from genlab.data.word_blocks import join_blocks

        batch = join_blocks(blocks, EpochKey(seed, 0))
        return self._take(batch, 0.0, int(batch["key"]))

    def vital_signs(self, examples: Callable[[int], Batch]) -> Metrics:
        """ "mean_cosine": of any two words, whose vectors begin at random directions."""
        directions: Tensor = self.vectors().directions
        count = len(directions)
        return {"mean_cosine": (directions.sum(0).square().sum() - count) / max(count * (count - 1), 1)}

    def findings(self, values: dict[str, float]) -> list[Finding]:
        if values.get("mean_cosine", 0.0) < ALIKE:
            return []
        text = (
            f"all words are alike: the mean cosine of two of them is {values['mean_cosine']:.2f}. What helps: more "
            "epochs or text, a smaller model.subsample, a larger data.min_count"
        )
        return [Finding("collapse", text, serious=False)]


def _blocks(dataset: ImageDataset, config: Word2vecConfig) -> WordBlocks:
    from genlab.data.word_blocks import WordBlocks

    return WordBlocks(dataset, config.data.batch_size)
