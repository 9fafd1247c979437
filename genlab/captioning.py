"""What a trained captioner says of pictures beyond the caption: how likely words are, and where each was looked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genlab.data.text_vocabulary import END, PAD
from genlab.trainers.base import Batch, Picture, Writing

if TYPE_CHECKING:
    from genlab.trainers.captioning import CaptioningTrainer


def read_captions(trainer: CaptioningTrainer, images: Tensor, captions: Tensor) -> tuple[Tensor, Tensor | None]:
    """Given captions: log p of each word (N, T), 0 in padding, and where it looks (N, T, rows, columns).

    Args:
        trainer: of algorithm captioning.
        images: (N, C, H, W) in [-1, 1].
        captions: int64 (N, T) with the end token, padded.

    Returns:
        Both on the trainer's device; None in place of maps without attention.
    """
    captions, network = captions.to(trainer.device), trainer.inference_network("captioner")
    with trainer.inference():
        reading = network(images.to(trainer.device), trainer.before(captions))
    logs = reading.logits.float().log_softmax(2).gather(2, captions[:, :, None])[:, :, 0]
    logs = logs * (captions != trainer.codec.special(PAD))
    encoder = network.encoder
    maps = None if reading.weights is None else reading.weights.unflatten(2, (encoder.rows, encoder.columns))
    return logs, maps


def places_of(trainer: CaptioningTrainer, image: Tensor, tokens: Sequence[int]) -> tuple[list[str], Tensor | None]:
    """(words of a caption of one picture, the end token last; where each looked, (T, rows, columns) or None).

    Args:
        trainer: of algorithm captioning.
        image: (C, H, W) in [-1, 1].
        tokens: of the caption, without begin and end.
    """
    whole = [*tokens, trainer.codec.special(END)]
    _, maps = read_captions(trainer, image[None], torch.tensor([whole]))
    return [trainer.codec.tokens[number] for number in whole], None if maps is None else maps[0].cpu()


def captions_shown(trainer: CaptioningTrainer, batch: Batch) -> list[Picture | Writing]:
    """The data's captions and the model's, the pictures, and where the first one's words looked."""
    from genlab.attention_figures import places_picture

    found = trainer.search(batch["image"])
    lines = []
    for number, (said, row) in enumerate(zip(batch["caption"].tolist(), found, strict=True), start=1):
        lines += [f"{number}. data:  {trainer.codec.decode(said)}", f"   model: {trainer.codec.decode(row)}"]
    shown: list[Picture | Writing] = [Writing("\n".join(lines)), Picture(batch["image"])]
    words, maps = places_of(trainer, batch["image"][0], found[0])
    if maps is not None:
        shown.append(Picture(places_picture(batch["image"][0].cpu(), words, maps), name="attention"))
    return shown
