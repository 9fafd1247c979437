"""Configuration of language models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from genlab.config import RunConfig, Section
from genlab.text_config import TextDataConfig
from genlab.trainers.given_vectors import GivenVectors
from genlab.trainers.sentence_config import Probability, SequenceDropouts, Size
from genlab.trainers.stack import AdamConfig


class LanguageRecurrentConfig(SequenceDropouts):
    """Of rnn, lstm and gru."""

    hidden: Size = 512
    layers: int = Field(2, ge=1, le=16)


class FeedForwardConfig(Section):
    """Of feedforward (Bengio et al. 2003)."""

    context: Size = Field(5, description="tokens that are seen")
    hidden: Size = 100
    direct: bool = Field(True, description="connections from the vectors to the output")


class TransformerConfig(Section):
    """Of transformer; `model.embedding` is its width."""

    layers: int = Field(4, ge=1, le=64)
    heads: Size = 4
    feedforward: Size | None = Field(None, description="hidden units of a block; null: 4 widths")
    positions: Size = Field(256, description="longest text in tokens")


class LanguageModelConfig(GivenVectors):
    """The network."""

    network: Literal["rnn", "lstm", "gru", "feedforward", "transformer"] = "lstm"
    embedding: Size = Field(128, description="numbers of a token's vector")
    dropout: Probability = 0.0
    tie: bool = Field(False, description="output rows are the tokens' vectors (rnn, lstm, gru, transformer)")
    recurrent: LanguageRecurrentConfig = Field(default_factory=LanguageRecurrentConfig)
    feedforward: FeedForwardConfig = Field(default_factory=FeedForwardConfig)
    transformer: TransformerConfig = Field(default_factory=TransformerConfig)

    @model_validator(mode="after")
    def _fits_together(self) -> LanguageModelConfig:
        if self.network == "transformer" and self.embedding % self.transformer.heads:
            raise ValueError(
                f"transformer.heads: expected a divisor of model.embedding={self.embedding}, got "
                f"{self.transformer.heads}"
            )
        if self.tie or self.network == "transformer":
            self.require_one_channel("with tie" if self.tie else "with network=transformer")
        if self.tie and self.network == "feedforward":
            raise ValueError("tie: expected false, as feedforward's output layer has other sizes than its vectors")
        if self.tie and self.network in ("rnn", "lstm", "gru") and self.recurrent.hidden != self.embedding:
            raise ValueError(
                f"tie: expected model.recurrent.hidden = model.embedding, got {self.recurrent.hidden} and "
                f"{self.embedding}"
            )
        return self


class LanguageConfig(RunConfig):
    """`algorithm: language_model`."""

    data: TextDataConfig = Field(default_factory=lambda: TextDataConfig(name="small_stories"))
    model: LanguageModelConfig = Field(default_factory=LanguageModelConfig)
    optimizer: AdamConfig = Field(default_factory=lambda: AdamConfig(max_grad_norm=1.0))
    sample_tokens: int = Field(200, ge=1, le=100_000, description="tokens of each text among the samples")
    score_stride: int | None = Field(
        None,
        ge=1,
        description="transformer: tokens by which the scored window moves on, so that each sees at least "
        "data.sequence_length less that many before it; a divisor of data.sequence_length; null: windows side by side",
    )

    @model_validator(mode="after")
    def _strides_fill_the_windows(self) -> LanguageConfig:
        if self.score_stride is None:
            return self
        if self.model.network != "transformer":
            raise ValueError(
                f"score_stride: expected model.network=transformer, got {self.model.network}, which carries its "
                "state on"
            )
        if self.data.sequence_length % self.score_stride:
            raise ValueError(
                f"score_stride: expected a divisor of data.sequence_length={self.data.sequence_length}, got "
                f"{self.score_stride}"
            )
        return self

    @model_validator(mode="after")
    def _windows_fit_the_places(self) -> LanguageConfig:
        places, length = self.model.transformer.positions, self.data.sequence_length
        if self.model.network == "transformer" and length > places:
            raise ValueError(
                f"data.sequence_length: expected at most model.transformer.positions={places}, got {length}"
            )
        return self
