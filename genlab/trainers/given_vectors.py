"""Word vectors that a model of text begins with: the keys `channels` and `vectors`, and what they do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from genlab.config import Section
from genlab.data.text_vocabulary import TextCodec
from genlab.errors import ConfigError
from genlab.models.word_embedding import WordEmbedding
from genlab.seeding import generator


class GivenVectors(Section):
    """Where the vectors of words come from. The other file is read once: they lie in the run's own checkpoints."""

    channels: Literal["rand", "static", "non_static", "multichannel"] = Field(
        "rand", description="word vectors: learnt; given and fixed; given and tuned; both"
    )
    vectors: Path | None = Field(
        None, description="run of word2vec, or text file of vectors as word2vec, GloVe, fastText write, or .gz of one"
    )

    @model_validator(mode="after")
    def _vectors_where_given(self) -> GivenVectors:
        if self.channels != "rand" and self.vectors is None:
            raise ValueError(f"channels={self.channels}: expected vectors, the word vectors to begin with, got none")
        if self.channels == "rand" and self.vectors is not None:
            raise ValueError("vectors: expected channels of static, non_static or multichannel, got rand")
        return self

    def require_one_channel(self, why: str) -> None:
        """Refuses multichannel.

        Raises:
            ValueError: `why` says what needs vectors of the configured length.
        """
        if self.channels == "multichannel":
            raise ValueError(f"channels: expected rand, static or non_static {why}, got multichannel")


def load_given(
    section: GivenVectors, embedding: WordEmbedding, codec: TextCodec, seed: int, key: str = "model"
) -> list[str]:
    """Puts the vectors that `section` names into `embedding`; says in a note how many words have one.

    Args:
        section: of the configuration, at `key`; without vectors nothing is done and nothing said.
        embedding: of the tokens of `codec`.
        codec: of the model.
        seed: of the run: every process draws the same vectors for the other words.
        key: names `section` in errors.

    Raises:
        ConfigError: vectors of another length, or of none of the model's words.
        CheckpointError, DataError: as of `load_vectors`.
    """
    if section.vectors is None:
        return []
    from genlab.word_vectors import load_vectors

    vectors, special = load_vectors(section.vectors), set(codec.specials.values())
    words = [token for number, token in enumerate(codec.tokens) if number not in special]
    common = sum(word in vectors.numbers for word in words)
    what = f"{key}.vectors={section.vectors}"
    length, wanted = vectors.vectors.shape[1], embedding.embedding_dim
    if length != wanted:
        raise ConfigError(f"{what}: expected vectors of {wanted} numbers, got {length}; set model.embedding={length}")
    if not common:
        raise ConfigError(
            f"{what}: expected vectors of the data's words, such as {words[0]!r}, got those of {len(vectors.words)} "
            f"others, such as {vectors.words[0]!r}; give vectors of such words, or see to data.lowercase and data.unit"
        )
    embedding.load(vectors, codec.tokens, generator(seed, f"{key}.vectors"))
    return [f"{what}: {common} of the {len(words)} words have a vector there, the others are drawn like them"]
