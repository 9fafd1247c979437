"""Hard attention learns where to look from nothing but REINFORCE: a captioner that knows only the place it draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from genlab import data
from genlab.config import load_config
from genlab.models.captioning import Captioner
from genlab.trainers import ALGORITHMS, DataSpec, captioning

COLOURS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "yellow": (1, 1, -1)}
CELL, SIDE, HIDDEN = 4, 4, 16  # pixels of a place, places of a side


class Places(nn.Module):
    """An encoder that sees every place on its own: its pixels are its annotation vector."""

    channels, rows, columns = 3 * CELL**2, SIDE, SIDE

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.pixel_unshuffle(images, CELL).flatten(2).transpose(1, 2)


class Nothing(nn.Module):
    """A first state that says nothing of the picture, whose mean would give the colour away."""

    def forward(self, mean: Tensor) -> Tensor:
        return mean.new_zeros(len(mean), HIDDEN)


def blind_captioner(shape: tuple[int, ...], vocabulary: int, config: object) -> Captioner:
    network = Captioner(Places(), vocabulary, 8, HIDDEN, 8, "hard")
    network.first_hidden, network.first_cell = Nothing(), Nothing()
    return network


def scenes(count: int, words: dict[str, int], end: int, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """Grey pictures with one coloured place, captioned by its colour; and which place it is."""
    place, colour = (torch.randint(n, (count,), generator=generator) for n in (SIDE**2, len(COLOURS)))
    paint = torch.tensor(list(COLOURS.values()), dtype=torch.float32)[colour]
    maps = torch.zeros(count, 3, SIDE**2).scatter(2, place[:, None, None].expand(-1, 3, 1), paint[:, :, None])
    images = maps.view(count, 3, SIDE, SIDE).repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
    named = torch.tensor([words[name] for name in COLOURS])[colour]
    return {"image": images, "caption": torch.stack([named, torch.full_like(named, end)], 1)}, place


def test_reinforce_teaches_where_to_look(monkeypatch: pytest.MonkeyPatch):
    """One place of 16 shows the colour. Whoever looks anywhere has 1/16 of the weight there and 1.3 nats or more.

    With that term left out the weight stays at 0.06 and the loss at 1.3; with its sign turned 0.02 and 1.3.
    """
    monkeypatch.setattr(captioning, "build_captioner", blind_captioner)
    settings = ["hard={expectation: 0, entropy: 0}", "data.image_size=16", "optimizer.lr=0.01", "seed=2"]
    config = load_config("captioning_tiny", [*settings, "train.steps=200"])
    trainer = ALGORITHMS.get("captioning")(config, DataSpec.of(data.build(config.data)))
    codec, generator = trainer.codec, torch.Generator().manual_seed(5)
    losses = []
    for _ in range(200):
        batch, _ = scenes(32, codec.numbers, codec.special("end"), generator)
        losses.append(float(trainer.advance(batch)["loss"]))
    batch, place = scenes(200, codec.numbers, codec.special("end"), torch.Generator().manual_seed(9))
    with trainer.inference():
        reading = trainer.networks["captioner"](batch["image"], trainer.before(batch["caption"]))
    assert sum(losses[-20:]) / 20 < 0.5
    assert reading.weights[torch.arange(200), 0, place].mean() > 0.5
    said = torch.tensor(trainer.search(batch["image"], beam=1))
    assert (said[:, 0] == batch["caption"][:, 0]).float().mean() > 0.95
