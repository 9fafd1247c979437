"""Language models: the next token from those before it, by maximum likelihood.

    repeat: draw rows of tokens x_1 ... x_{T+1}; recurrent networks go on from the state that the row's last ones left,
            through which no gradient flows (truncated backpropagation through time)
            g = gradient of the mean of -log p(x_{t+1} | x_1 ... x_t), shortened to `optimizer.max_grad_norm`
            w <- optimiser(w, g)

Networks: recurrent (Mikolov et al. 2010), feed-forward (Bengio et al. 2003), Transformer (Radford et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genlab.data.text_vocabulary import END, PAD, UNKNOWN, TextCodec
from genlab.errors import ConfigError, UserError
from genlab.models.language_models import (
    CausalTransformer,
    FeedForwardLanguageModel,
    RecurrentLanguageModel,
    State,
)
from genlab.ops import cross_entropy
from genlab.optimizers import build_optimizer
from genlab.text_sampling import Sampling, generate_tokens
from genlab.trainers.base import Batch, Metrics, Trainer, Writing
from genlab.trainers.given_vectors import load_given
from genlab.trainers.language_config import LanguageConfig, LanguageModelConfig

if TYPE_CHECKING:
    from genlab.data import BatchStream, ImageDataset
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData


def build_language_network(model: LanguageModelConfig, vocabulary: int) -> nn.Module:
    """The network that `model` describes."""
    if model.network == "feedforward":
        return FeedForwardLanguageModel(
            vocabulary, model.embedding, **model.feedforward.model_dump(), dropout=model.dropout,
            channels=model.channels,
        )  # fmt: skip
    if model.network == "transformer":
        return CausalTransformer(
            vocabulary, model.embedding, **model.transformer.model_dump(), dropout=model.dropout, tie=model.tie,
            channels=model.channels,
        )  # fmt: skip
    settings = model.recurrent
    return RecurrentLanguageModel(
        vocabulary, model.embedding, model.network, settings.hidden, settings.layers, model.dropout, model.tie,
        model.channels, **settings.dropouts(),
    )  # fmt: skip


class LanguageModelTrainer(Trainer):
    """A language model. Network "model", one optimiser."""

    config_class = LanguageConfig
    config: LanguageConfig
    data_kinds = ("text",)
    draws_samples = False
    own_score_names = ("val_nats_per_token", "test_nats_per_token", "val_perplexity", "test_perplexity")

    @property
    def stateful(self) -> bool:
        """Whether a row goes on where the last batch left it; a Transformer's windows stand alone."""
        return self.config.model.network != "transformer"

    @property
    def counted(self) -> tuple[str, int]:
        return ("characters" if self.codec.unit == "character" else "tokens"), self.config.data.sequence_length

    def build_networks(self) -> dict[str, nn.Module]:
        self.codec = TextCodec.from_dict((self.data.codecs or {})["tokens"])
        self._state: State | None = None
        return {"model": build_language_network(self.config.model, len(self.codec))}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"model": build_optimizer(self.config.optimizer, self.networks["model"].parameters())}

    def begin(self) -> None:
        self.notes += load_given(self.config.model, self.networks["model"].embedding, self.codec, self.config.seed)

    def open_stream(self, dataset: ImageDataset, **settings: Any) -> BatchStream:
        from genlab.data.text_streams import ContiguousStream

        if self.stateful:
            return ContiguousStream(dataset, self.config.data.batch_size, **settings)
        return super().open_stream(dataset, **settings)

    def train_step(self, batch: Batch) -> Metrics:
        network, tokens = self.networks["model"], batch["tokens"]
        state, after = self._remembered(batch), []
        with self.update("model") as update:
            for rows, *parts in update.micro_batches(tokens, *state):
                with self.autocast():
                    logits, left = network(rows[:, :-1], tuple(parts) or None)
                loss = cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
                update.backward(loss)
                update.record(loss=loss)
                after.append([part.detach() for part in left])
        if self.stateful:
            self._remember([torch.cat(parts) for parts in zip(*after, strict=True)])
        return update.metrics

    def _remember(self, state: list[Tensor]) -> None:
        """Keeps where the rows stand, in the same memory every time: there a captured step finds and leaves it."""
        if self._state is None or [old.shape for old in self._state] != [new.shape for new in state]:
            self._state = tuple(new.clone() for new in state)
        for old, new in zip(self._state, state, strict=True):
            old.copy_(new)

    def _remembered(self, batch: Batch) -> State:
        """The state that each row begins with: where it is fresh, that of a beginning."""
        if not self.stateful:
            return ()
        count = len(batch["tokens"])
        start = self.networks["model"].start(count, self.device)
        if self._state is None or len(self._state[0]) != count:
            return start
        fresh = batch["fresh"]
        return tuple(
            torch.where(fresh.view(-1, *[1] * (old.dim() - 1)), new, old)
            for new, old in zip(start, self._state, strict=True)
        )

    def extra_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state = self._state or ()
        return {f"state/{n}": self.distributed.all_gather(part) for n, part in enumerate(state)}, {}

    def load_extra_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        whole = [tensors[f"state/{number}"].to(self.device) for number in range(len(tensors))]
        rank, processes = self.distributed.rank, self.distributed.world_size
        self._state = tuple(part.chunk(processes)[rank].clone() for part in whole) if whole else None

    # What a trained one is asked for.

    def generate(
        self, prompt: str, tokens: int, sampling: Sampling, generator: torch.Generator, count: int = 1
    ) -> list[str]:
        """`count` continuations of a text.

        Args:
            prompt: what they go on from; "": the beginning of a line.
            tokens: length of each.
            sampling: how tokens are drawn.
            generator: CPU generator that all randomness comes from.
            count: how many.

        Raises:
            UserError: a character that the model does not know, or a prompt longer than its places.
        """
        network = self.networks["model"]
        start = [self.codec.special(END)] if END in self.codec.specials else []
        numbers = [*start, *self.codec.encode(prompt)] or self.codec.encode("\n" if "\n" in self.codec.numbers else " ")
        if network.positions is not None and len(numbers) > network.positions:
            raise UserError(
                f"prompt: expected at most {network.positions} tokens, the places that the model has, got "
                f"{len(numbers)}; shorten it"
            )
        rows = torch.tensor([numbers], device=self.device).expand(count, -1)
        silent = [self.codec.special(role) for role in (PAD, UNKNOWN) if role in self.codec.specials]
        with self.inference():
            made = generate_tokens(network, rows, tokens, sampling, generator, silent)
        return [self._as_text(row) for row in made.tolist()]

    def _as_text(self, row: list[int]) -> str:
        if END not in self.codec.specials:
            return self.codec.decode(row)
        lines: list[list[int]] = [[]]
        for token in row:
            lines[-1].append(token)
            if token == self.codec.special(END):
                lines.append([])
        return "\n".join(self.codec.decode(line) for line in lines)

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Writing]:
        texts = self.generate("", self.config.sample_tokens, Sampling(), generator, count)
        return [Writing(f"\n{'-' * 40}\n".join(texts))]

    def scores(self, data: EvaluationData) -> list[Score]:
        from genlab.trainers.language_scores import likelihood_scores

        return likelihood_scores(self, data)


def require_language_model(trainer: Any, path: Any) -> LanguageModelTrainer:
    """The trainer, if it is a language model."""
    if isinstance(trainer, LanguageModelTrainer):
        return trainer
    raise ConfigError(f"{path}: expected a model of language_model, which writes texts, got {trainer.config.algorithm}")
