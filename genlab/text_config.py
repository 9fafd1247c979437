"""The `data` section of the algorithms on text and series: how files become tokens, sentences and streams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PrivateAttr, model_validator

from genlab.config import DataConfig

if TYPE_CHECKING:
    from genlab.data.text_vocabulary import TextCodec

Unit = Literal["word", "whitespace", "character", "wordpiece"]

# What is said of pictures and means nothing to text; a value other than the default is refused, not overlooked.
_OF_PICTURES = ("image_size", "channels", "resize", "interpolation", "flip", "jitter", "direction")


class TextDataConfig(DataConfig):
    """Which text is trained on, and what its tokens are."""

    name: str = Field("small_reviews", description="data set; `genlab list datasets` shows them")
    batch_size: int = Field(50, ge=1, description="sentences or rows of a step, over all processes")
    holdout: float = Field(0.1, ge=0, le=0.5, description="share kept for testing or validation where no file says it")
    unit: Unit = Field(
        "word", description="word: words and punctuation; whitespace: as split in the file; character; wordpiece"
    )
    lowercase: bool = Field(True, description="capital letters become small ones")
    min_count: int = Field(1, ge=1, description="rarer tokens of the training part are unknown")
    vocabulary_size: int | None = Field(None, ge=1, description="keep only so many of the commonest tokens")
    vocabulary: Path | None = Field(
        None, description="tokens of another model: its run or checkpoint, or vocab.txt; null: of the training part"
    )
    max_length: int | None = Field(None, ge=1, description="cut longer sentences to so many tokens; null: none is cut")
    sequence_length: int = Field(35, ge=1, description="tokens of a stream (or steps of a series) seen at a time")
    languages: tuple[str, str] = Field(("en", "de"), description="of pairs: from which language into which")
    bucket_batches: int = Field(50, ge=1, description="batches of sentences that are sorted by length together")

    _codec: TextCodec | None = PrivateAttr(None)

    def with_codec(self, codec: TextCodec) -> TextDataConfig:
        """These settings with a codec at hand: what `vocabulary` names is not read, and need not be there any more."""
        copy = self.model_copy()
        copy._codec = codec
        return copy

    @property
    def codec(self) -> TextCodec | None:
        """Of `with_codec`."""
        return self._codec

    @model_validator(mode="after")
    def _nothing_of_pictures(self) -> TextDataConfig:
        for name in _OF_PICTURES:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: is of pictures, and {self.name!r} is read as text; leave it out")
        if self.languages[0] == self.languages[1]:
            raise ValueError(f"languages: expected two different ones, got {self.languages[0]!r} twice")
        return self


def as_text_config(config: DataConfig) -> TextDataConfig:
    """`config` itself, or for one of pictures the text settings' defaults with what both have in common."""
    if isinstance(config, TextDataConfig):
        return config
    shared = {name: value for name, value in config.model_dump().items() if name not in _OF_PICTURES}
    return TextDataConfig.model_validate(shared)
