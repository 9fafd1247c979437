"""Images on disk and networks with made-up weights for the tests of the metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from genlab.config import DataConfig


@pytest.fixture(scope="session")
def digits():
    """The real digits at 16x16: (train, test)."""
    from genlab.data import build

    config = DataConfig(name="digits", image_size=16)
    return build(config, "train"), build(config, "test")


@pytest.fixture(scope="session")
def classifier(digits, cache):
    """The digits' classifier, trained once for the session."""
    from genlab.metrics import resolve

    return resolve("classifier", train=digits[0], held_out=digits[1])


@pytest.fixture
def picture_folder(tmp_path):
    """Makes a folder of smooth random RGB pictures: make(name, count, sizes=((h, w), ...), seed=0, brightness=0)."""

    def make(name, count, sizes=((24, 24),), seed=0, brightness=0.0, suffix="png"):
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(seed)
        for index in range(count):
            h, w = sizes[index % len(sizes)]
            coarse = rng.uniform(0, 255, (4, 4, 3)) + brightness
            picture = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize((w, h), Image.Resampling.BICUBIC)
            noisy = np.asarray(picture, dtype=np.float64) + rng.normal(0, 8, (h, w, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{index:05d}.{suffix}")
        return folder

    return make


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """A state dict of FID's Inception with seeded weights of He's size, so that features vary at every depth."""
    from genlab.metrics.extractors.inception import build_network

    generator = torch.Generator().manual_seed(0)
    network = build_network()
    state = network.state_dict()
    for key, value in state.items():
        if value.ndim >= 2:
            fan_in = value[0].numel()
            value.copy_(torch.randn(value.shape, generator=generator) * (2.0 / fan_in) ** 0.5)
        elif key.endswith(("running_var", "bn.weight")):
            value.copy_(0.8 + 0.4 * torch.rand(value.shape, generator=generator))
        elif value.is_floating_point():
            value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    home = tmp_path_factory.mktemp("torch-home")
    path = home / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return path
