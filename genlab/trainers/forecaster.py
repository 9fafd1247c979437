"""Forecasting: the next values of a series from a window of past ones, by least squares.

    repeat: draw windows x_{t-T+1} ... x_t and what followed, x_{t+1}, from a standardised series
            g = gradient of mean (f_w(x_{t-T+1} ... x_t) - x_{t+1})^2
            w <- optimiser(w, g)

Further ahead a forecast goes on from its own forecasts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from genlab.config import RunConfig, Section
from genlab.models.recurrent import RecurrentForecaster, WindowForecaster
from genlab.optimizers import build_optimizer
from genlab.text_config import TextDataConfig
from genlab.trainers.base import Batch, Metrics, Picture, Trainer
from genlab.trainers.sentence_config import Probability, Size
from genlab.trainers.stack import AdamConfig

if TYPE_CHECKING:
    from genlab.metrics import Score
    from genlab.trainers.evaluation import EvaluationData

AHEAD = 100  # steps of the forecast among the samples


class ForecasterModelConfig(Section):
    """The network."""

    network: Literal["rnn", "lstm", "gru", "window"] = Field("lstm", description="window: a time-delay network")
    hidden: Size = 32
    layers: int = Field(1, ge=1, le=16)
    dropout: Probability = 0.0


class ForecasterConfig(RunConfig):
    """`algorithm: forecaster`."""

    data: TextDataConfig = Field(default_factory=lambda: TextDataConfig(name="mackey_glass"))
    model: ForecasterModelConfig = Field(default_factory=ForecasterModelConfig)
    optimizer: AdamConfig = Field(default_factory=lambda: AdamConfig(max_grad_norm=1.0))


class ForecasterTrainer(Trainer):
    """A forecaster of series. Network "forecaster", one optimiser."""

    config_class = ForecasterConfig
    config: ForecasterConfig
    data_kinds = ("series",)
    draws_samples = False
    own_score_names = ("val_nrmse", "test_nrmse", "test_nrmse_persistence")

    def build_networks(self) -> dict[str, nn.Module]:
        model, variables = self.config.model, self.data.shape[0]
        if model.network == "window":
            return {"forecaster": WindowForecaster(variables, self.config.data.sequence_length, model.hidden)}
        network = RecurrentForecaster(variables, model.network, model.hidden, model.layers, model.dropout)
        return {"forecaster": network}

    def build_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"forecaster": build_optimizer(self.config.optimizer, self.networks["forecaster"].parameters())}

    def train_step(self, batch: Batch) -> Metrics:
        with self.update("forecaster") as update:
            for past, following in update.micro_batches(batch["past"], batch["next"]):
                with self.autocast():
                    forecast = self.networks["forecaster"](past)
                loss = F.mse_loss(forecast.float(), following)
                update.backward(loss)
                update.record(loss=loss)
        return update.metrics

    def forecast(self, past: Tensor, steps: int) -> Tensor:
        """The next `steps` values (N, steps, D) of standardised series (N, T, D), each after those forecast before."""
        window = past.to(self.device)
        with self.inference():
            for _ in range(steps):
                following = self.networks["forecaster"](window[:, -past.shape[1] :]).float()
                window = torch.cat([window, following[:, None]], 1)
        return window[:, past.shape[1] :]

    def preview(self, count: int, generator: torch.Generator, examples: Callable[[int], Batch]) -> list[Picture]:
        from genlab.series_figures import forecast_picture

        past = examples(1)["past"]
        return [Picture(forecast_picture(past[0].cpu(), self.forecast(past, AHEAD)[0].cpu()))]

    def scores(self, data: EvaluationData) -> list[Score]:
        """Root of the mean squared error of the next step, in deviations of the training part; and of "as it was"."""
        from genlab.data import iterate
        from genlab.errors import DataError
        from genlab.metrics import Score
        from genlab.metrics.text_scores import source_facts

        found = []
        for part in ("val", "test"):
            try:
                dataset = data.dataset(part)
            except DataError:
                if part == "test":
                    raise
                continue  # too short a series for a window in its validation part
            errors, standing, seen = 0.0, 0.0, 0
            for batch in iterate(dataset, data.batch_size):
                batch = self.to_device(batch)
                guess = self.forecast(batch["past"], 1)[:, 0]
                errors += float((guess - batch["next"]).double().square().sum())
                standing += float((batch["past"][:, -1] - batch["next"]).double().square().sum())
                seen += batch["next"].numel()
            protocol = {"real": source_facts(dataset, seen), "steps_seen": dataset.sequence_length, "steps_ahead": 1}
            found.append(Score(f"{part}_nrmse", (errors / seen) ** 0.5, None, protocol, lower_is_better=True))
            if part == "test":
                value = (standing / seen) ** 0.5
                found.append(Score("test_nrmse_persistence", value, None, protocol, lower_is_better=True))
        return found
