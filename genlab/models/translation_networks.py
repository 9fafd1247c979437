"""Generators of pictures from pictures by the name that `model.network` says: Pix2Pix and CycleGAN take either.

The authors' PyTorch code offers both to both. "unet" is Pix2Pix's (Isola et al. 2017, appendix 6.1.1), "resnet" is
CycleGAN's (Zhu et al. 2017, appendix 7.2).
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from genlab.models import cyclegan, unet

TranslationNetwork = Literal["resnet", "unet"]


def check_size(network: TranslationNetwork, height: int, width: int) -> None:
    """Raises ValueError, with the other network as the way out, for a size that a network cannot give back."""
    if network == "resnet":
        cyclegan.check_size(height, width)
        return
    try:
        unet.check_size(height, width)
    except ValueError as error:
        raise ValueError(f"{error}; or choose model.network=resnet") from None


def translation_generator(
    network: TranslationNetwork,
    image_channels: int,
    size: tuple[int, int],
    *,
    base_channels: int,
    blocks: int | None,
    normalization: Literal["batch", "instance"],
    affine: bool,
    running_statistics: bool = False,
    dropout: float = 0.0,
) -> nn.Module:
    """A `UnetGenerator` or `ResnetGenerator`, from (N, C, H, W), and noise where there is dropout, to the same shape.

    Args:
        network: "resnet" or "unet".
        image_channels: channels of input and output.
        size: (height, width) of the pictures.
        base_channels: width of the first map.
        blocks: residual blocks of "resnet", which "unet" has none of; None: as many as the paper has at this size.
        normalization, affine, running_statistics, dropout: as of both classes.

    Raises:
        ValueError: a size that the network cannot give back.
    """
    common = {
        "normalization": normalization, "affine": affine, "running_statistics": running_statistics, "dropout": dropout
    }  # fmt: skip
    check_size(network, *size)
    if network == "unet":
        return unet.UnetGenerator(size[0], image_channels, base_channels, **common)
    blocks = cyclegan.blocks_for(max(size)) if blocks is None else blocks
    return cyclegan.ResnetGenerator(image_channels, base_channels, blocks, image_size=size, **common)
