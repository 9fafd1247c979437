"""A Sequential whose convolutions and batch normalisations run fused where that is chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from genlab.nn.batch_norm import BatchNormAct2d
from genlab.nn.conv import Conv2d, ConvTranspose2d
from genlab.ops import ConvResult, InputNorm, implementation, norm_conv2d, norm_conv_transpose2d
from genlab.ops import activation as act

FUSABLE_IMPLS = ("auto", "native")


class ConvChain(nn.Sequential):
    """torch.nn.Sequential for conv -> BatchNormAct2d -> conv -> ...: the same state_dict keys, values and gradients.

    Where the native ops are chosen (`impl`, else `genlab.ops.set_default_impl`), a convolution takes the statistics of its
    output as it stores it, and the next one normalises and activates as it loads: no pass over memory, and no tensor kept
    for the backward pass, is the normalisation's own. A normalisation that no convolution follows runs by itself, with
    the convolution's statistics. Elsewhere, and for layers with hooks, synchronised statistics or an `impl` of their own
    that is not native, the layers run one by one.

    Args:
        *layers: modules, run in order.
        impl: "auto", "native", "torch" or "reference": how conv -> norm -> conv runs; anything but native is layer by
            layer, each by its own `impl`.

    Example:
        >>> chain = ConvChain(Conv2d(3, 16, 3), BatchNormAct2d(16, activation="relu"), Conv2d(16, 8, 3))
        >>> chain(torch.randn(4, 3, 16, 16)).shape
        torch.Size([4, 8, 12, 12])
    """

    def __init__(self, *layers: nn.Module, impl: str = "auto") -> None:
        super().__init__(*layers)
        implementation.check_impl("ConvChain", impl)
        self.impl = impl

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C, H, W) to the last layer's output; a residual is added in the last layer, a BatchNormAct2d."""
        if residual is not None and not (len(self) and isinstance(self[-1], BatchNormAct2d)):
            raise ValueError("ConvChain: expected a BatchNormAct2d as the last layer, which adds the residual")
        if input.dim() == 4 and input.shape[0] > 0 and implementation.choose("norm_conv2d", self.impl, input) == "native":
            return self._fused(input, residual)
        for layer in self:
            input = layer(input, residual) if residual is not None and layer is self[-1] else layer(input)
        return input

    def _fused(self, input: Tensor, residual: Tensor | None) -> Tensor:
        pending: tuple[InputNorm, bool] | None = None  # what stands between `input` and the next layer's
        for layer, follower in _with_followers(self):
            last_residual = residual if follower is None else None
            if _is_fusable_convolution(layer):
                takes_statistics = _is_fusable_norm(follower) and layer.activation is None
                if pending is None and not takes_statistics:
                    input = layer(input)
                    continue
                # Without statistics of the batch a normalisation is a constant line, and needs none from here.
                from_batch = takes_statistics and _uses_batch(follower)
                result = _convolve(layer, input, pending[0] if pending else None, from_batch)
                input, pending = act.apply_(result.output, layer.activation, layer.negative_slope), None
                if takes_statistics:
                    pending = follower.input_norm(result.output, result.mean, result.var), from_batch
            elif pending is not None and isinstance(layer, BatchNormAct2d):
                if not _is_fusable_convolution(follower):
                    input, pending = _apply(input, *pending, last_residual), None
            else:
                input = layer(input, last_residual) if last_residual is not None else layer(input)
        return input

    def extra_repr(self) -> str:
        return "" if self.impl == "auto" else f"impl={self.impl}"


def _with_followers(layers: nn.Sequential) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    listed = list(layers)
    return zip(listed, [*listed[1:], None], strict=True)


def _is_fusable_convolution(layer: nn.Module | None) -> bool:
    return (
        isinstance(layer, (Conv2d, ConvTranspose2d))
        and layer.impl in FUSABLE_IMPLS
        and not isinstance(layer.padding, str)
        and not _has_hooks(layer)
    )


def _is_fusable_norm(layer: nn.Module | None) -> bool:
    return (
        isinstance(layer, BatchNormAct2d)
        and layer.impl in FUSABLE_IMPLS
        and not layer.shares_statistics()
        and not _has_hooks(layer)
    )


def _uses_batch(layer: BatchNormAct2d) -> bool:
    return layer.training or layer.running_mean is None


def _has_hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def _convolve(layer: Conv2d | ConvTranspose2d, input: Tensor, norm: InputNorm | None, statistics: bool) -> ConvResult:
    keywords: dict[str, Any] = {"statistics": statistics, "impl": "native"}
    if isinstance(layer, ConvTranspose2d):
        return norm_conv_transpose2d(
            input, norm, layer.weight, layer.bias, layer.stride, layer.padding, layer.output_padding, layer.groups,
            layer.dilation, **keywords,
        )  # fmt: skip
    return norm_conv2d(
        input, norm, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups,
        padding_mode=layer.padding_mode, **keywords,
    )  # fmt: skip


def _apply(input: Tensor, norm: InputNorm, from_batch: bool, residual: Tensor | None) -> Tensor:
    """The normalisation by itself. Its gradient counts the statistics in, so they must not carry one as well."""
    return torch.ops.genlab.norm_act(
        input, norm.mean.detach(), norm.var.detach(), norm.weight, norm.bias, residual, norm.eps, norm.activation,
        norm.negative_slope, from_batch,
    )  # fmt: skip
