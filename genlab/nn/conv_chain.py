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

    Fused, a convolution takes the statistics of its output as it stores it, and the next one normalises and activates
    as it loads: the normalisation has no tensor of its own, and on a GPU no pass over memory either. (The CPU runs the
    passes and keeps half the memory for the backward pass: DCGAN's generator 0.52 of the layers one by one, its
    discriminator 0.70, in 0.96 and 1.02 of their speed; AMD Zen 4.) A normalisation that no convolution follows runs by
    itself, with the convolution's statistics. Layers with hooks, synchronised statistics or an `impl` that is neither
    auto nor native always run one by one.

    Args:
        *layers: modules, run in order.
        fuse: True fuses wherever the native kernels can run, False nowhere. None fuses where native kernels are asked
            for by `genlab.ops.set_default_impl` (`kernels.impl=native`): the fused CUDA kernels have not been timed,
            and on the CPU it is no gain in time.

    Example:
        >>> chain = ConvChain(Conv2d(3, 16, 3), BatchNormAct2d(16, activation="relu"), Conv2d(16, 8, 3))
        >>> chain(torch.randn(4, 3, 16, 16)).shape
        torch.Size([4, 8, 12, 12])
    """

    def __init__(self, *layers: nn.Module, fuse: bool | None = None) -> None:
        super().__init__(*layers)
        self.fuse = fuse

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C, H, W) to the last layer's output; a residual is added in the last layer, a BatchNormAct2d."""
        if residual is not None and not (len(self) and isinstance(self[-1], BatchNormAct2d)):
            raise ValueError("ConvChain: expected a BatchNormAct2d as the last layer, which adds the residual")
        if self._fuses(input):
            return self._fused(input, residual)
        for layer in self:
            input = layer(input, residual) if residual is not None and layer is self[-1] else layer(input)
        return input

    def _fuses(self, input: Tensor) -> bool:
        wanted = implementation.get_default_impl() == "native" if self.fuse is None else self.fuse
        if not wanted or input.dim() != 4 or input.shape[0] == 0:
            return False
        return implementation.choose("norm_conv2d", _op_impl(input), input) == "native"

    def _fused(self, input: Tensor, residual: Tensor | None) -> Tensor:
        pending: tuple[InputNorm, bool] | None = None  # what stands between `input` and the next layer's
        for layer, follower in _with_followers(self):
            last_residual = residual if follower is None else None
            if _is_fusable_convolution(layer):
                normalised = _is_fusable_norm(follower) and layer.activation is None
                # Without statistics of the batch a normalisation is a constant line: none are taken here.
                from_batch = normalised and (follower.training or follower.running_mean is None)
                if pending is None and not from_batch:
                    result = ConvResult(layer(input), None, None)
                else:
                    result = self._convolve(layer, input, pending[0] if pending else None, from_batch)
                input, pending = result.output, None
                if normalised:
                    pending = follower.input_norm(input, result.mean, result.var), from_batch
            elif pending is not None and isinstance(layer, BatchNormAct2d):
                if not _is_fusable_convolution(follower):
                    input, pending = _apply(input, *pending, last_residual), None
            else:
                input = layer(input, last_residual) if last_residual is not None else layer(input)
        return input

    @staticmethod
    def _convolve(
        layer: Conv2d | ConvTranspose2d, input: Tensor, norm: InputNorm | None, statistics: bool
    ) -> ConvResult:
        keywords: dict[str, Any] = {"statistics": statistics, "impl": _op_impl(input)}
        if isinstance(layer, ConvTranspose2d):
            found = norm_conv_transpose2d(
                input, norm, layer.weight, layer.bias, layer.stride, layer.padding, layer.output_padding, layer.groups,
                layer.dilation, **keywords,
            )  # fmt: skip
        else:
            found = norm_conv2d(
                input, norm, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups,
                padding_mode=layer.padding_mode, **keywords,
            )  # fmt: skip
        return found._replace(output=act.apply_(found.output, layer.activation, layer.negative_slope))

    def extra_repr(self) -> str:
        return "" if self.fuse is None else f"fuse={self.fuse}"


def _op_impl(input: Tensor) -> str:
    """On the CPU the op's own choice, of the convolution in it too; elsewhere the fused kernels."""
    return "auto" if input.device.type == "cpu" else "native"


def _with_followers(layers: nn.Sequential) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    listed = list(layers)
    return zip(listed, [*listed[1:], None], strict=True)


def _is_fusable_convolution(layer: nn.Module | None) -> bool:
    return (
        isinstance(layer, (Conv2d, ConvTranspose2d))
        and type(layer).forward in (Conv2d.forward, ConvTranspose2d.forward)  # a subclass may compute something else
        and layer.impl in FUSABLE_IMPLS
        and not isinstance(layer.padding, str)
        and not _has_hooks(layer)
    )


def _is_fusable_norm(layer: nn.Module | None) -> bool:
    return (
        isinstance(layer, BatchNormAct2d)
        and type(layer).forward is BatchNormAct2d.forward
        and not getattr(layer, "reflect_pad", 0)  # which it adds to its output
        and layer.impl in FUSABLE_IMPLS
        and not layer.shares_statistics()
        and not _has_hooks(layer)
    )


def _has_hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def _apply(input: Tensor, norm: InputNorm, from_batch: bool, residual: Tensor | None) -> Tensor:
    """The normalisation by itself. Its gradient counts the statistics in, so they must not carry one as well."""
    return torch.ops.genlab.norm_act(
        input, norm.mean.detach(), norm.var.detach(), norm.weight, norm.bias, residual, norm.eps, norm.activation,
        norm.negative_slope, from_batch,
    )  # fmt: skip
