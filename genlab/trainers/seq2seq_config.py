"""Configuration of sequence-to-sequence models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from genlab.config import RunConfig, Section
from genlab.text_config import TextDataConfig
from genlab.trainers.given_vectors import GivenVectors
from genlab.trainers.language_config import TransformerConfig
from genlab.trainers.sentence_config import Probability, Size
from genlab.trainers.stack import AdamConfig


class Seq2SeqRecurrentConfig(Section):
    """Of lstm."""

    hidden: Size = Field(256, description="units of the decoder; half of them in each direction of the encoder")
    layers: int = Field(1, ge=1, le=16)
    attention: Literal["dot", "additive", "none"] = "dot"


class Seq2SeqModelConfig(Section):
    """The network."""

    network: Literal["lstm", "transformer"] = "lstm"
    embedding: Size = Field(256, description="numbers of a token's vector; the Transformer's width")
    dropout: Probability = 0.1
    tie: bool = Field(True, description="the Transformer's output rows are the target's vectors")
    source: GivenVectors = Field(default_factory=GivenVectors, description="vectors of the source's words")
    target: GivenVectors = Field(default_factory=GivenVectors, description="vectors of the target's words")
    recurrent: Seq2SeqRecurrentConfig = Field(default_factory=Seq2SeqRecurrentConfig)
    transformer: TransformerConfig = Field(default_factory=lambda: TransformerConfig(layers=3))

    @model_validator(mode="after")
    def _fits_together(self) -> Seq2SeqModelConfig:
        if self.network == "lstm" and self.recurrent.hidden % 2:
            raise ValueError(f"recurrent.hidden: expected an even number, got {self.recurrent.hidden}")
        if self.network == "transformer" and self.embedding % self.transformer.heads:
            heads = self.transformer.heads
            raise ValueError(f"transformer.heads: expected a divisor of model.embedding={self.embedding}, got {heads}")
        if self.network == "transformer":
            for side in (self.source, self.target):
                side.require_one_channel("with network=transformer")
        return self


class DecodingConfig(Section):
    """How translations are searched for when they are scored."""

    beam: int = Field(4, ge=1, le=64)
    alpha: float = Field(0.6, ge=0, le=5, description="of the length penalty")
    longest: int = Field(100, ge=1, le=4096, description="tokens of a translation")


class Seq2SeqConfig(RunConfig):
    """`algorithm: seq2seq`."""

    data: TextDataConfig = Field(default_factory=lambda: TextDataConfig(name="small_pairs"))
    model: Seq2SeqModelConfig = Field(default_factory=Seq2SeqModelConfig)
    optimizer: AdamConfig = Field(default_factory=lambda: AdamConfig(max_grad_norm=1.0))
    decoding: DecodingConfig = Field(default_factory=DecodingConfig)
    label_smoothing: Probability = Field(0.0, description="Vaswani et al.: 0.1")
