"""Configuration of word2vec."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from genlab.config import RunConfig, ScheduleConfig, Section, TrainConfig
from genlab.text_config import TextDataConfig

DEFAULT_STEPS = TrainConfig.model_fields["steps"].default


class Word2vecDataConfig(TextDataConfig):
    """Which text is trained on."""

    name: str = Field("small_stories", description="data set of a text or of sentences")
    batch_size: int = Field(10_000, ge=1, description="words of a step, between which the learning rate falls")
    min_count: int = Field(5, ge=1, description="rarer words are deleted from the text")
    unit: Literal["word", "whitespace"] = Field("word", description="word: words and punctuation; whitespace: as split")


class Word2vecModelConfig(Section):
    """What is predicted from what. Defaults are the original program's."""

    architecture: Literal["cbow", "skip_gram"] = Field(
        "skip_gram", description="skip_gram: each context word predicts the word; cbow: their mean does"
    )
    objective: Literal["negative_sampling", "hierarchical_softmax"] = "negative_sampling"
    embedding_dim: int = Field(100, ge=1, le=65_536, description="numbers of a word's vector")
    window: int = Field(5, ge=1, le=1000, description="most words to either side; drawn from 1 to it for each word")
    negatives: int = Field(5, ge=1, le=1024, description="noise words of a prediction (negative_sampling)")
    noise_power: float = Field(0.75, ge=0, le=1, description="noise is drawn by counts to this power")
    subsample: float | None = Field(
        1e-3, gt=0, description="words of a larger share of the text are left out at random; null: none are"
    )
    cbow_gradient: Literal["whole", "mean"] = Field(
        "whole",
        description="by what each context word moves: whole, as the original program, by the derivative of the mean; "
        "mean: by its share of it (Irsoy et al. 2021)",
    )


class Word2vecRateConfig(Section):
    """Stochastic gradient descent."""

    lr: float = Field(0.025, gt=0, description="learning rate; the original program's is 0.05 for cbow")


class Word2vecConfig(RunConfig):
    """`algorithm: word2vec`."""

    data: Word2vecDataConfig = Field(default_factory=Word2vecDataConfig)
    model: Word2vecModelConfig = Field(default_factory=Word2vecModelConfig)
    optimizer: Word2vecRateConfig = Field(default_factory=Word2vecRateConfig)
    epochs: int | None = Field(None, ge=1, description="passes over the text; decides train.steps")
    analogies: Path | None = Field(
        None, description="file of analogies in questions-words format that evaluations answer"
    )
    train: TrainConfig = Field(
        default_factory=lambda: TrainConfig(
            schedule=ScheduleConfig(name="linear", final_factor=1e-4), sample_count=12, tensorboard=False
        )
    )

    @model_validator(mode="after")
    def _one_step_after_another(self) -> Word2vecConfig:
        if self.train.grad_accumulation != 1:
            raise ValueError(
                "train.grad_accumulation: expected 1, as every prediction is a step of its own, got "
                f"{self.train.grad_accumulation}"
            )
        return self

    def with_steps(self, blocks: int) -> Word2vecConfig:
        """The configuration whose `train.steps` are `epochs` passes over that many blocks; `epochs` is then null.

        Raises:
            ValueError: other steps were asked for beside `epochs`.
        """
        if self.epochs is None:
            return self
        steps = self.epochs * blocks
        if self.train.steps not in (DEFAULT_STEPS, steps):
            raise ValueError(
                f"train.steps: expected nothing beside epochs={self.epochs}, which are {steps} steps here, got "
                f"{self.train.steps}; set epochs=null"
            )
        return self.model_copy(update={"epochs": None, "train": self.train.model_copy(update={"steps": steps})})
