"""PatchGAN (Isola et al. 2017, appendix 6.1.2): a map of logits, each of which judges one patch of the picture.

n halvings by 4x4 kernels, one more 4x4 layer without stride and the map of logits give the receptive fields of
`HALVINGS`: a layer with kernel k and stride s turns a field f behind it into (f - 1) s + k.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from torch import Tensor, nn

from genlab.nn import BatchNormAct2d, Conv2d, InstanceNormAct2d
from genlab.nn.init import normal_init

# receptive field in px -> stride-2 layers; a field of 1 px is made of 1x1 kernels.
HALVINGS = {1: 0, 16: 1, 34: 2, 70: 3, 142: 4, 286: 5, 574: 6}
Normalization = Literal["batch", "instance", "none"]


def full_field(height: int, width: int) -> int:
    """The smallest receptive field that covers a whole picture: 286 at the paper's 256 px."""
    fitting = [field for field in HALVINGS if field >= max(height, width)]
    if not fitting:
        raise ValueError(f"PatchGAN: expected sides of at most {max(HALVINGS)} px, got {height}x{width}")
    return fitting[0]


def check_field(receptive_field: int, height: int, width: int) -> None:
    """Raises ValueError where no logit would be left: each halving and the two last layers take their part."""
    if receptive_field not in HALVINGS:
        fields = ", ".join(map(str, HALVINGS))
        raise ValueError(f"PatchGAN: expected a receptive field of {fields} px, got {receptive_field}")
    smallest = 3 * 2 ** HALVINGS[receptive_field] if receptive_field > 1 else 1
    if min(height, width) < smallest:
        raise ValueError(
            f"PatchGAN: expected sides of at least {smallest} px for a receptive field of {receptive_field}, "
            f"got {height}x{width}"
        )


class PatchDiscriminator(nn.Module):
    """Pictures, or pairs of pictures, to a map of logits.

    Args:
        in_channels: channels of a picture; of both together where `forward` gets a condition.
        receptive_field: 1, 16, 34, 70, 142, 286 or 574 px. 70 in both papers; 1 is the paper's PixelGAN, 286 at 256 px
            its ImageGAN.
        base_channels: width of the first map; doubles up to eight times that.
        normalization: "batch" in pix2pix, "instance" in CycleGAN; "none" for penalties that are taken per sample. The
            first layer and the logits have none.

    Example:
        >>> PatchDiscriminator(3, receptive_field=70)(torch.randn(1, 3, 256, 256)).shape
        torch.Size([1, 1, 30, 30])
    """

    def __init__(
        self,
        in_channels: int,
        receptive_field: int = 70,
        base_channels: int = 64,
        normalization: Normalization = "batch",
    ) -> None:
        super().__init__()
        if receptive_field not in HALVINGS:
            check_field(receptive_field, 1, 1)
        halvings = HALVINGS[receptive_field]
        widths = [base_channels * min(2**depth, 8) for depth in range(max(halvings, 1) + 1)]
        kernel = {"kernel_size": 4, "padding": 1} if halvings else {"kernel_size": 1}
        strides = [2] * halvings + [1] * (len(widths) - halvings)
        layers: list[nn.Module] = [
            Conv2d(in_channels, widths[0], stride=strides[0], activation="leaky_relu", negative_slope=0.2, **kernel)
        ]
        for (c_in, c_out), stride in zip(itertools.pairwise(widths), strides[1:], strict=True):
            layers += _normalized(c_in, c_out, stride, kernel, normalization)
        layers.append(Conv2d(widths[-1], 1, **kernel))
        self.layers = nn.Sequential(*layers)
        normal_init(self, std=0.02)

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, C, H, W), and a condition of the same size where pairs are judged, to logits (N, 1, h, w)."""
        return self.layers(images if condition is None else torch.cat([condition, images], dim=1))


def _normalized(c_in: int, c_out: int, stride: int, kernel: dict[str, int], normalization: str) -> list[nn.Module]:
    """Convolution, normalisation and leaky ReLU; without normalisation the activation rides on the convolution."""
    activation = {"activation": "leaky_relu", "negative_slope": 0.2}
    if normalization == "none":
        return [Conv2d(c_in, c_out, stride=stride, **kernel, **activation)]
    norms = {"batch": BatchNormAct2d, "instance": InstanceNormAct2d}
    if normalization not in norms:
        raise ValueError(f"PatchGAN: expected normalization batch, instance or none, got {normalization!r}")
    return [Conv2d(c_in, c_out, stride=stride, bias=False, **kernel), norms[normalization](c_out, **activation)]
