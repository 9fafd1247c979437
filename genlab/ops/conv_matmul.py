"""Convolutions that are one matrix product: a kernel as large as the image, and the transposed one of a single pixel.

The last layer of a GAN's discriminator (4x4 -> 1x1) and the first of its generator (1x1 -> 4x4) are of this kind.
Written as what they are, forward and both gradients go through torch's matrix product, and so do all higher orders.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops.shapes import ConvCall


def is_product(input: Tensor, call: ConvCall) -> bool:
    """Whether a conv2d, or a conv_transpose2d without output_padding, is a product of matrices that need no copy.

    Args:
        input: (N, C, H, W).
        call: the rest of it.
    """
    weight = call.weight
    if tuple(call.grid) != (1, 1) or call.padding != (0, 0) or call.dilation != (1, 1) or call.groups != 1:
        return False
    if input.shape[2:] == weight.shape[2:]:
        return (is_flat(input) and is_flat(weight)) or (lies_by_pixels(input) and lies_by_pixels(weight))
    return tuple(input.shape[2:]) == (1, 1) and (is_flat(weight) or lies_by_pixels(weight))


def is_flat(tensor: Tensor) -> bool:
    """Contiguous: rows of channels, then pixels."""
    return tensor.is_contiguous()


def lies_by_pixels(tensor: Tensor) -> bool:
    """channels_last: rows of pixels, then channels."""
    return tensor.is_contiguous(memory_format=torch.channels_last)


def covering_conv2d(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv2d with a kernel of the image's size: (N, C_in, H, W), (C_out, C_in, H, W) -> (N, C_out, 1, 1)."""
    if not (is_flat(input) and is_flat(weight)):
        input, weight = input.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
    return F.linear(input.flatten(1), weight.flatten(1), bias)[:, :, None, None]


def spreading_conv2d(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv_transpose2d (N, C_in, 1, 1), (C_in, C_out, H, W) -> (N, C_out, H, W) in the weight's layout."""
    n, (_, c_out, height, width) = input.shape[0], weight.shape
    if is_flat(weight):
        output = torch.mm(input.flatten(1), weight.flatten(1)).view(n, c_out, height, width)
    else:
        by_pixels = torch.mm(input.flatten(1), weight.permute(0, 2, 3, 1).flatten(1))
        output = by_pixels.view(n, height, width, c_out).permute(0, 3, 1, 2)
    return output if bias is None else output + bias.to(output.dtype).reshape(1, -1, 1, 1)
