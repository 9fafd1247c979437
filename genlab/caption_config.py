"""The `data` section of image captioning: how pictures are brought to size and captions become tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from genlab.config import DataConfig


class CaptionDataConfig(DataConfig):
    """Which pictures and captions are trained on."""

    name: str = Field("captioned_shapes", description="data set; `genlab list datasets` shows them")
    batch_size: int = Field(64, ge=1, description="captions of a step, over all processes")
    holdout: float = Field(0.1, ge=0, le=0.5, description="share of the images kept for test, and again for validation")
    lowercase: bool = Field(True, description="capital letters become small ones")
    min_count: int = Field(1, ge=1, description="rarer words of the training part are unknown")
    vocabulary_size: int | None = Field(None, ge=1, description="keep only so many of the commonest words")
    max_length: int | None = Field(None, ge=2, description="cut longer captions to so many tokens; null: none is cut")
    captions_per_image: int | None = Field(None, ge=1, description="use only the first so many of each; null: all")
    bucket_batches: int = Field(50, ge=1, description="batches of captions that are sorted by length together")
    styles: list[str] | None = Field(None, description="of emoji_captions: hands trained on; null: all")
    tested_by: Literal["images", "styles"] = Field(
        "images",
        description="of emoji_captions: val and test hold emoji, or styles, that are not trained on",
    )

    @field_validator("styles")
    @classmethod
    def _some_styles(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and (not value or len(set(value)) != len(value)):
            raise ValueError("expected at least one style, each once")
        return value

    @model_validator(mode="after")
    def _nothing_of_other_kinds(self) -> CaptionDataConfig:
        for name in ("classes", "direction"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: means nothing to captions; leave it out")
        if self.tested_by == "styles" and self.styles is None:
            raise ValueError("tested_by=styles: expected data.styles, those that are trained on, beside it, got none")
        return self


def as_caption_config(config: DataConfig) -> CaptionDataConfig:
    """`config` itself, or for one of plain pictures the same with the captions' defaults."""
    if isinstance(config, CaptionDataConfig):
        return config
    return CaptionDataConfig.model_validate(config.model_dump())
