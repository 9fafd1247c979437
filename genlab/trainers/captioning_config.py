"""Configuration of image captioning, and an encoder's weights out of a trained classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from genlab.caption_config import CaptionDataConfig
from genlab.config import RunConfig, Section
from genlab.data.augmentation import AugmentConfig
from genlab.ema import EmaConfig
from genlab.errors import ConfigError
from genlab.models.captioning import Captioner
from genlab.models.captioning_encoder import ImageEncoder
from genlab.models.classifiers import ClassifierModelConfig, build_classifier
from genlab.trainers.classifier_config import as_imagenet, load_weights
from genlab.trainers.given_vectors import GivenVectors
from genlab.trainers.sentence_config import Probability, Size
from genlab.trainers.seq2seq_config import DecodingConfig
from genlab.trainers.stack import AdamConfig

WEIGHTS = "model.encoder.weights"


class EncoderConfig(ClassifierModelConfig):
    """Which classifier sees the picture, and up to which of its maps."""

    grid: int = Field(8, ge=1, le=512, description="the deepest map of at least so many places a side is attended to")
    weights: Path | None = Field(None, description="classifier's run, checkpoint, .safetensors or torchvision's .pth")
    normalize: Literal["none", "imagenet"] = Field("none", description="inputs as torchvision's weights expect them")
    frozen: bool = Field(False, description="keep these weights; else they are trained with the decoder")

    @model_validator(mode="after")
    def _something_to_freeze(self) -> EncoderConfig:
        if self.frozen and self.weights is None:
            raise ValueError("frozen: expected model.encoder.weights beside it, as random ones show nothing, got none")
        return self


class CaptioningModelConfig(GivenVectors):
    """The networks."""

    encoder: EncoderConfig = Field(default_factory=EncoderConfig)
    attention: Literal["soft", "hard", "none"] = Field("soft", description="none: the mean of all places at every word")
    embedding: Size = Field(256, description="numbers of a word's vector")
    hidden: Size = Field(256, description="units of the LSTM")
    attention_size: Size = Field(128, description="units inside the attention")
    gate: bool = Field(True, description="beta, by which the decoder says how much of the picture it needs")
    dropout: Probability = Field(0.3, description="on words' vectors and before the output")


class HardAttentionConfig(Section):
    """How hard attention is trained (Xu et al. 2015, section 4.1) and read."""

    reinforce: float = Field(1.0, ge=0, description="lambda_r, weight of the gradient by REINFORCE")
    entropy: float = Field(0.01, ge=0, description="lambda_e, weight of the attention's entropy")
    expectation: float = Field(0.5, ge=0, le=1, description="probability that a picture is looked at in expectation")
    baseline_decay: float = Field(0.9, ge=0, lt=1, description="of the moving average of log p(y | s, a)")
    glimpse: Literal["argmax", "expected"] = Field(
        "argmax", description="where a trained one looks: the likeliest place or the mean"
    )


class CaptioningConfig(RunConfig):
    """`algorithm: captioning`."""

    data: CaptionDataConfig = Field(default_factory=CaptionDataConfig)
    model: CaptioningModelConfig = Field(default_factory=CaptioningModelConfig)
    doubly_stochastic: float = Field(1.0, ge=0, description="lambda of sum_i (1 - sum_t alpha_ti)^2 of soft attention")
    hard: HardAttentionConfig = Field(default_factory=HardAttentionConfig)
    optimizer: AdamConfig = Field(default_factory=lambda: AdamConfig(max_grad_norm=5.0))
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    ema: EmaConfig | None = Field(None, description="average of the weights, which then captions; null: none")
    decoding: DecodingConfig = Field(default_factory=lambda: DecodingConfig(beam=3, longest=30))


def build_captioner(shape: tuple[int, ...], vocabulary: int, config: CaptioningConfig) -> Captioner:
    """The networks for pictures of that shape and a vocabulary of that size.

    Raises:
        ConfigError: pictures too small for the encoder, or a map that it does not have.
    """
    model, encoder = config.model, config.model.encoder
    if encoder.normalize == "imagenet" and shape[0] != 3:
        raise ConfigError(f"model.encoder.normalize=imagenet: expected 3 channels, got {shape[0]}; set data.channels=3")
    prepare = as_imagenet if encoder.normalize == "imagenet" else None
    try:
        sees = ImageEncoder(tuple(shape), encoder, encoder.grid, frozen=encoder.frozen, prepare=prepare)
    except ValueError as error:
        raise ConfigError(f"model.encoder.network={encoder.network}: {error}") from None
    return Captioner(
        sees, vocabulary, model.embedding, model.hidden, model.attention_size, model.attention, gate=model.gate,
        dropout=model.dropout, glimpse=config.hard.glimpse, channels=model.channels,
    )  # fmt: skip


def load_encoder(encoder: ImageEncoder, shape: tuple[int, ...], config: EncoderConfig) -> None:
    """Puts the weights of a trained classifier into an encoder; its head is left out.

    Raises:
        CheckpointError: nothing there, unreadable, or weights of another architecture.
    """
    assert config.weights is not None
    classifier = build_classifier(tuple(shape), 1, config)
    load_weights(classifier, config.weights, new_head=True, key=WEIGHTS)
    encoder.load_classifier(classifier)
