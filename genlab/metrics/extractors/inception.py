"""The Inception network of FID: pytorch-fid's port of the TensorFlow 2015-12-05 graph."""

from __future__ import annotations

import hashlib
import os
import pickle
import urllib.error
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.errors import MetricError
from genlab.metrics.extractors.base import FeatureExtractor

WEIGHTS_VARIABLE = "GENLAB_INCEPTION_WEIGHTS"
# torch hub's names carry the first digits of the file's sha256; this is the hash that pytorch-fid itself checks.
OFFICIAL_HASH_PREFIX = "6726825d"
DIMS = (64, 192, 768, 2048)
NUM_CLASSES = 1008


class InceptionExtractor(FeatureExtractor):
    """Features and logits of the FID Inception network, as `python -m pytorch_fid` computes them.

    Input: RGB in [0, 1], bilinear resize to 299x299 (align_corners=False, no antialiasing), then 2 x - 1. Features with
    dims 2048 are the pool3 layer; 64, 192 and 768 are spatial means of earlier blocks, as in pytorch-fid. Logits are
    pool3 times the 1008-class weight without its bias, which is what Salimans et al.'s own Inception Score code feeds
    its softmax.

    Args:
        weights: file of pytorch-fid's state dict (.pth or .safetensors). Without it: $GENLAB_INCEPTION_WEIGHTS, then
            pytorch-fid's file in the torch hub cache, then its download.
        dims: 64, 192, 768 or 2048.
        device: where the network runs.

    Raises:
        MetricError: no such file, not these weights, a failed download, or dims that the network does not have.
    """

    channels = 3
    resize = "bilinear to 299x299, align_corners=False, no antialiasing (pytorch-fid)"

    def __init__(
        self, weights: str | os.PathLike[str] | None = None, *, dims: int = 2048, device: str | torch.device = "cpu"
    ) -> None:
        if dims not in DIMS:
            raise MetricError(f"inception: expected dims to be one of {', '.join(map(str, DIMS))}, got {dims}")
        self.path = find_weights(weights)
        self.hash = _hash_file(self.path)
        self.official = self.hash.startswith(OFFICIAL_HASH_PREFIX)
        self.dim = dims
        self.name = "inception" if dims == 2048 else f"inception{dims}"
        self.num_classes = NUM_CLASSES
        self.device = torch.device(device)
        network = build_network()
        _load(network, self.path)
        self.network = network.eval().requires_grad_(False).to(self.device)

    def prepare(self, images: Tensor) -> Tensor:
        scaled = images.to(torch.float32).div(255)
        return 2 * F.interpolate(scaled, size=(299, 299), mode="bilinear", align_corners=False) - 1

    def forward(self, images: Tensor, logits: bool) -> tuple[Tensor, Tensor | None]:
        features, x = None, images
        for dims, block in zip(DIMS, _blocks(self.network), strict=True):
            for layer in block:
                x = layer(x)
            if dims == self.dim:
                features = F.adaptive_avg_pool2d(x, 1).flatten(1)
                if not logits:
                    return features, None
        pool3 = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return features, F.linear(pool3, self.network.fc.weight)

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "weights": self.path.name,
            "official_weights": self.official,
            "logits": f"{NUM_CLASSES} classes, no bias",
        }


def _blocks(network: nn.Module) -> list[list[nn.Module]]:
    """Layers up to each of the feature depths in DIMS, cut where pytorch_fid.inception.InceptionV3 cuts them."""
    pool = nn.MaxPool2d(kernel_size=3, stride=2)
    return [
        [network.Conv2d_1a_3x3, network.Conv2d_2a_3x3, network.Conv2d_2b_3x3, pool],
        [network.Conv2d_3b_1x1, network.Conv2d_4a_3x3, pool],
        [getattr(network, f"Mixed_{name}") for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e")],
        [getattr(network, f"Mixed_{name}") for name in ("7a", "7b", "7c")],
    ]


def build_network() -> nn.Module:
    """The FID Inception network with untrained weights.

    pytorch_fid.inception.fid_inception_v3 builds the same modules but always loads its download, so the blocks are put
    together here from its public classes.
    """
    from pytorch_fid import inception as fid
    from torchvision.models import inception_v3

    network = inception_v3(weights=None, num_classes=NUM_CLASSES, aux_logits=False, init_weights=False)
    network.Mixed_5b = fid.FIDInceptionA(192, pool_features=32)
    network.Mixed_5c = fid.FIDInceptionA(256, pool_features=64)
    network.Mixed_5d = fid.FIDInceptionA(288, pool_features=64)
    for name, width in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        setattr(network, f"Mixed_{name}", fid.FIDInceptionC(768, channels_7x7=width))
    network.Mixed_7b = fid.FIDInceptionE_1(1280)
    network.Mixed_7c = fid.FIDInceptionE_2(2048)
    return network


def find_weights(path: str | os.PathLike[str] | None = None) -> Path:
    """The weights file: `path`, else $GENLAB_INCEPTION_WEIGHTS, else torch hub's cache, else downloaded into it.

    Raises:
        MetricError: a named file does not exist, or the download fails.
    """
    from pytorch_fid.inception import FID_WEIGHTS_URL

    for origin, given in (("--inception-weights", path), (WEIGHTS_VARIABLE, os.environ.get(WEIGHTS_VARIABLE))):
        if given:
            if not Path(given).is_file():
                raise MetricError(f"inception weights: expected a file, got {given} ({origin}), which does not exist")
            return Path(given)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / FID_WEIGHTS_URL.rsplit("/", 1)[-1]
    if not cached.is_file():
        _download(FID_WEIGHTS_URL, cached)
    return cached


def _download(url: str, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target), hash_prefix=OFFICIAL_HASH_PREFIX, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", None) or error
        raise MetricError(
            f"inception weights: expected to download {url}, got {reason}; fetch that file by other means and pass "
            f"--inception-weights PATH (or set {WEIGHTS_VARIABLE}), or use the offline extractor 'auto'"
        ) from error


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _load(network: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError

    expected = network.state_dict()
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, EOFError, RuntimeError, ValueError, OSError, KeyError) as error:
        raise MetricError(
            f"inception weights {path}: expected a state dict of tensors alone, got a file that is truncated, of "
            f"another kind, or holds Python objects ({type(error).__name__})"
        ) from error
    if not isinstance(state, dict):
        raise MetricError(f"inception weights {path}: expected a state dict, got {type(state).__name__}")
    # Old files lack batch norm's counter, which evaluation does not read.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in expected]
    odd = [key for key in expected if key in state and getattr(state[key], "shape", None) != expected[key].shape]
    if missing or surplus or odd:
        first = (missing + surplus + odd)[0]
        raise MetricError(
            f"inception weights {path}: expected pytorch-fid's pt_inception-2015-12-05 ({len(expected)} tensors), got "
            f"{len(missing)} missing, {len(surplus)} unknown and {len(odd)} misshapen, the first being '{first}'"
        )
    network.load_state_dict(state, strict=False)
