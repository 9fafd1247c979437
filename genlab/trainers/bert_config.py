"""Configuration of BERT: its sizes, where its weights come from, and pre-training (Devlin et al. 2019)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from genlab.config import RunConfig, Section, TrainConfig
from genlab.models.bert import SIZES, Bert
from genlab.text_config import TextDataConfig
from genlab.trainers.sizes import Probability, Size
from genlab.trainers.stack import AdamConfig

HEAD_WIDTH = 64  # of every published size


class BertConfig(Section):
    """Sizes of the encoder, by name or one by one, and what it begins with."""

    size: Literal["tiny", "mini", "small", "medium", "base", "large"] = Field(
        "mini", description="layers/width: 2/128, 4/256, 4/512, 8/512, 12/768, 24/1024"
    )
    width: Size | None = Field(None, description="null: as size says; so for the following")
    layers: int | None = Field(None, ge=1, le=64)
    heads: Size | None = Field(None, description="null: one for every 64 of the width")
    feedforward: Size | None = Field(None, description="hidden units of a block; null: 4 widths")
    positions: Size = Field(512, description="longest sequence in tokens, special ones counted")
    initial_std: float = Field(0.02, gt=0, le=1, description="deviation of the first weights; narrow: more")
    pretrained: Path | None = Field(
        None, description="run or checkpoint of bert_pretraining, or weights of the transformers library"
    )

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_the_pretrained(cls, values: Any) -> Any:
        # Once read they stand in config.yaml and in checkpoints, which then need the other run's files no more.
        if isinstance(values, dict) and values.get("pretrained") is not None and values.get("width") is None:
            from genlab.trainers.pretrained_bert import read_shape

            if "size" not in values:
                shape = read_shape(Path(values["pretrained"]))
                named = [name for name, sizes in SIZES.items() if sizes == (shape["layers"], shape["width"])]
                return {**({"size": named[0]} if named else {}), **shape, **values}
        return values

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> BertConfig:
        shape = self.shape()
        if shape["width"] % shape["heads"]:
            raise ValueError(f"heads: expected a divisor of the width {shape['width']}, got {shape['heads']}")
        return self

    def build(self, vocabulary: int, dropout: float) -> Bert:
        """The encoder of these sizes, with random weights."""
        return Bert(vocabulary, **self.shape(), dropout=dropout, initial_std=self.initial_std)

    def shape(self) -> dict[str, int]:
        """width, layers, heads, feedforward and positions: arguments of `genlab.models.bert.Bert`."""
        layers, width = SIZES[self.size]
        width = self.width or width
        return {
            "width": width,
            "layers": self.layers or layers,
            "heads": self.heads or max(1, width // HEAD_WIDTH),
            "feedforward": self.feedforward or 4 * width,
            "positions": self.positions,
        }


def with_vocabulary(values: Any) -> Any:
    """A configuration tree whose data section names the vocabulary of `model.bert.pretrained`, where it names none."""
    model, data = (values.get(key) for key in ("model", "data")) if isinstance(values, dict) else (None, None)
    bert = model.get("bert") if isinstance(model, dict) else None
    pretrained = bert.get("pretrained") if isinstance(bert, dict) else None
    if pretrained is None or not isinstance(data, dict | None):
        return values
    data = dict(data or {})
    if data.get("vocabulary") is None:
        from genlab.trainers.pretrained_bert import read_vocabulary

        given = {name: value for name, value in data.items() if value is not None}
        data = {**data, **read_vocabulary(Path(pretrained)), **given}
    return {**values, "data": data}


class MaskingConfig(Section):
    """Which tokens are to be told, and what stands in their place (Devlin et al. 2019, section 3.1)."""

    share: float = Field(0.15, gt=0, lt=1, description="of a sequence's tokens")
    mask: float = Field(0.8, ge=0, le=1, description="share of those that become [MASK]")
    random: float = Field(0.1, ge=0, le=1, description="share of those that become a random token; the rest stays")
    whole_word: bool = Field(False, description="all pieces of a word or none")

    @model_validator(mode="after")
    def _no_more_than_all(self) -> MaskingConfig:
        if self.mask + self.random > 1 + 1e-9:
            raise ValueError(f"random: expected at most 1 - mask = {1 - self.mask:g}, got {self.random:g}")
        return self


class BertModelConfig(Section):
    """The network."""

    bert: BertConfig = Field(default_factory=BertConfig)
    dropout: Probability = 0.1


class BertPretrainingConfig(RunConfig):
    """`algorithm: bert_pretraining`."""

    data: TextDataConfig = Field(
        default_factory=lambda: TextDataConfig(
            name="small_documents", unit="wordpiece", sequence_length=128, batch_size=32, min_count=2
        )
    )
    model: BertModelConfig = Field(default_factory=BertModelConfig)
    masking: MaskingConfig = Field(default_factory=MaskingConfig)
    next_sentence: bool = Field(True, description="false: masked tokens alone are learnt")
    optimizer: AdamConfig = Field(
        default_factory=lambda: AdamConfig(name="adamw", lr=1e-4, eps=1e-6, weight_decay=0.01, max_grad_norm=1.0)
    )
    train: TrainConfig = Field(default_factory=TrainConfig)

    @model_validator(mode="before")
    @classmethod
    def _tokens_of_the_pretrained(cls, values: Any) -> Any:
        return with_vocabulary(values)

    @model_validator(mode="after")
    def _pairs_fit_the_places(self) -> BertPretrainingConfig:
        places, length = self.model.bert.positions, self.data.sequence_length
        if length > places:
            raise ValueError(f"data.sequence_length: expected at most model.bert.positions={places}, got {length}")
        return self
