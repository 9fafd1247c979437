"""Configuration of sentence classifiers: one section for each family of networks."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from genlab.config import RunConfig, Section
from genlab.text_config import TextDataConfig
from genlab.trainers.bert_config import BertConfig, with_vocabulary
from genlab.trainers.given_vectors import GivenVectors
from genlab.trainers.sizes import Probability, Size
from genlab.trainers.stack import AdamConfig


class SequenceDropouts(Section):
    """What is left out inside of a recurrence."""

    input_dropout: Probability = Field(0.0, description="one mask for a whole sequence, on inputs of each layer")
    recurrent_dropout: Probability = Field(0.0, description="one mask for a whole sequence, on the hidden state")
    weight_dropout: Probability = Field(0.0, description="on the hidden-to-hidden weights (Merity et al. 2017: 0.5)")
    zoneout: Probability = Field(0.0, description="probability that a unit keeps its state")

    def dropouts(self) -> dict[str, float]:
        """The dropouts inside of the recurrence."""
        return self.model_dump(include={"input_dropout", "recurrent_dropout", "weight_dropout", "zoneout"})


class RecurrentConfig(SequenceDropouts):
    """Of rnn, lstm and gru."""

    hidden: Size = Field(150, description="units of one direction")
    layers: int = Field(1, ge=1, le=16)
    bidirectional: bool = Field(True, description="a second network reads from the end")
    pooling: Literal["last", "max", "mean"] = Field("max", description="of the outputs over time")


class CnnConfig(Section):
    """Of text_cnn. Defaults are Kim's (2014, section 3.1)."""

    kernel_sizes: list[Size] = Field(default_factory=lambda: [3, 4, 5], min_length=1, description="words")
    filters: Size = Field(100, description="of each width")


class TdnnConfig(Section):
    """Of tdnn: three lists of equal length."""

    channels: list[Size] = Field(default_factory=lambda: [128, 128, 128], min_length=1)
    kernel_sizes: list[Size] = Field(default_factory=lambda: [5, 3, 3], description="moments of a layer, odd")
    dilations: list[Size] = Field(default_factory=lambda: [1, 2, 3], description="steps between those moments")

    @model_validator(mode="after")
    def _of_one_length(self) -> TdnnConfig:
        if not len(self.channels) == len(self.kernel_sizes) == len(self.dilations):
            raise ValueError("channels, kernel_sizes, dilations: expected lists of equal length")
        if any(width % 2 == 0 for width in self.kernel_sizes):
            raise ValueError(f"kernel_sizes: expected odd numbers, got {self.kernel_sizes}")
        return self


class EncoderConfig(Section):
    """Of transformer; `model.embedding` is its width."""

    layers: int = Field(2, ge=1, le=64)
    heads: Size = 4
    feedforward: Size = Field(512, description="hidden units of a block")
    positions: Size = Field(256, description="longest sentence in tokens")


class SentenceModelConfig(GivenVectors):
    """The network and what goes into it."""

    network: Literal["text_cnn", "tdnn", "rnn", "lstm", "gru", "transformer", "bert"] = "text_cnn"
    embedding: Size = Field(300, description="numbers of a word's vector")
    dropout: Probability = 0.5
    word_dropout: Probability = Field(0.0, description="share of the words taken for unknown while training")
    max_norm: float | None = Field(None, gt=0, description="longest row of the last layer; Kim: 3")
    cnn: CnnConfig = Field(default_factory=CnnConfig)
    tdnn: TdnnConfig = Field(default_factory=TdnnConfig)
    recurrent: RecurrentConfig = Field(default_factory=RecurrentConfig)
    transformer: EncoderConfig = Field(default_factory=EncoderConfig)
    bert: BertConfig = Field(default_factory=BertConfig)

    @model_validator(mode="after")
    def _bert_has_vectors_of_its_own(self) -> SentenceModelConfig:
        if self.network != "bert":
            if self.bert.pretrained is not None:
                raise ValueError(f"bert.pretrained: expected model.network=bert, got {self.network}")
            return self
        for name in ("embedding", "channels", "vectors", "max_norm"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: expected none with network bert (its width is model.bert.width)")
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> SentenceModelConfig:
        width = self.embedding * (2 if self.channels == "multichannel" else 1)
        if self.network == "transformer" and width % self.transformer.heads:
            raise ValueError(
                f"transformer.heads: expected a divisor of the width {width}, got {self.transformer.heads}"
            )
        return self


class SentenceConfig(RunConfig):
    """`algorithm: sentence_classifier`."""

    data: TextDataConfig = Field(default_factory=TextDataConfig)
    model: SentenceModelConfig = Field(default_factory=SentenceModelConfig)
    optimizer: AdamConfig = Field(default_factory=AdamConfig)
    label_smoothing: Probability = 0.0

    @model_validator(mode="before")
    @classmethod
    def _tokens_of_the_pretrained(cls, values: Any) -> Any:
        return with_vocabulary(values)

    @model_validator(mode="after")
    def _bert_reads_word_pieces(self) -> SentenceConfig:
        if self.model.network == "bert" and self.data.unit != "wordpiece":
            raise ValueError(f"data.unit: expected wordpiece with model.network=bert, got {self.data.unit}")
        return self
