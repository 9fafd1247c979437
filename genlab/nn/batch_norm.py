"""Batch normalisation with residual and activation, synchronised over processes where asked."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from genlab.nn.activated import Activated
from genlab.ops import InputNorm, batch_norm_act
from genlab.ops import activation as act

WORLD = "world"


class _SharedGroup:
    """Holds a process group so that a copied module (EMA copies) shares it: groups cannot be copied themselves."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def __deepcopy__(self, memo: dict[int, Any]) -> _SharedGroup:
        return self


class BatchNormAct2d(Activated, nn.BatchNorm2d):
    """activation(BatchNorm2d(input) + residual) as one op; loads the state_dict of torch.nn.BatchNorm2d.

    Args:
        *args, **kwargs: torch.nn.BatchNorm2d's (num_features, eps, momentum, affine, track_running_stats).
        activation: None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu" or "silu".
        negative_slope: slope of leaky_relu below zero.
        reflect_pad: rows and columns mirrored at each border of the output, in place of a ReflectionPad2d after it.
        process_group: take training statistics over all processes of this group, on any backend; "world" is every
            process of the run (and means nothing where torch.distributed is not initialised); None is this one alone.
        impl: "auto", "native", "torch" or "reference".

    Example:
        >>> layer = BatchNormAct2d(64, activation="relu")
        >>> layer(torch.randn(8, 64, 16, 16)).shape
        torch.Size([8, 64, 16, 16])
    """

    def __init__(
        self,
        *args: Any,
        reflect_pad: int = 0,
        process_group: dist.ProcessGroup | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.reflect_pad = reflect_pad
        self.process_group = process_group

    @property
    def process_group(self) -> dist.ProcessGroup | str | None:
        """The group whose processes share statistics, "world", or None."""
        return self._group.group if isinstance(self._group, _SharedGroup) else self._group

    @process_group.setter
    def process_group(self, group: dist.ProcessGroup | str | None) -> None:
        if isinstance(group, str) and group != WORLD:
            raise ValueError(f'BatchNormAct2d: expected process_group to be a group, "{WORLD}" or None, got {group!r}')
        self._group = group if group is None or group == WORLD else _SharedGroup(group)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """(N, C, H, W), and a residual of the same shape, to (N, C, H + 2 reflect_pad, W + 2 reflect_pad)."""
        return self._normalise(input, self.weight, self.bias, self.activation, residual)

    def _normalise(
        self, input: Tensor, weight: Tensor | None, bias: Tensor | None, activation: str | None, residual: Tensor | None
    ) -> Tensor:
        self._check_input_dim(input)
        momentum = self._count_batch()
        use_batch = self.training or self.running_mean is None
        keep = not self.training or self.track_running_stats
        return batch_norm_act(
            input, self.running_mean if keep else None, self.running_var if keep else None, weight, bias,
            use_batch, momentum, self.eps, activation=activation, negative_slope=self.negative_slope,
            residual=residual, reflect_pad=self.reflect_pad,
            process_group=self._resolved_group() if self.training else None, impl=self.impl,
        )  # fmt: skip

    def input_norm(self, output: Tensor, mean: Tensor | None, var: Tensor | None) -> InputNorm:
        """This layer as what the next convolution applies to its input; one call stands for one forward pass.

        Args:
            output: (N, C, H, W), of the convolution before.
            mean, var: (C,), of `output`, the variance biased; they move the running statistics. None to use the
                running ones, as when not training.
        """
        self._check_input_dim(output)
        momentum = self._count_batch()
        if mean is None:
            mean, var = self.running_mean, self.running_var
        elif output.numel() == output.shape[1]:
            raise ValueError(
                f"BatchNormAct2d: expected more than 1 value per channel when training, got {tuple(output.shape)}"
            )
        elif self.training and self.track_running_stats:
            count = output.numel() // output.shape[1]
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_((var * (count / (count - 1))).to(self.running_var.dtype), momentum)
        return InputNorm(mean, var, self.weight, self.bias, self.eps, self.activation, self.negative_slope)

    def shares_statistics(self) -> bool:
        """Whether the statistics of a training pass are those of several processes."""
        return self._resolved_group() is not None

    def _count_batch(self) -> float:
        """The weight of a new value in the running statistics, after counting one more batch where training."""
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # cumulative average, as in torch
                momentum = 1.0 / float(self.num_batches_tracked)
        return momentum

    def _resolved_group(self) -> dist.ProcessGroup | None:
        if isinstance(self._group, _SharedGroup):
            return self._group.group
        if self._group == WORLD and dist.is_available() and dist.is_initialized():
            return dist.group.WORLD
        return None

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if self.reflect_pad:
            text += f", reflect_pad={self.reflect_pad}"
        return text + (", synchronised" if self._group is not None else "")


class BatchNormAct1d(BatchNormAct2d):
    """activation(BatchNorm1d(input) + residual) as one op; loads the state_dict of torch.nn.BatchNorm1d.

    Takes the arguments of `BatchNormAct2d` and shares its statistics over processes as that one does.

    Example:
        >>> layer = BatchNormAct1d(1024, activation="relu")
        >>> layer(torch.randn(8, 1024)).shape
        torch.Size([8, 1024])
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 3):
            raise ValueError(f"BatchNormAct1d: expected input of shape (N, C) or (N, C, L), got {tuple(input.shape)}")


class ConditionalBatchNormAct2d(BatchNormAct2d):
    """Batch normalisation with a scale and a shift for each class, then an activation (Dumoulin et al. 2017).

    The statistics are those of the whole batch, whatever its classes; only the affine map goes by the label.

    Args:
        num_features: channels.
        num_classes: rows of scale and shift.
        **settings: of `BatchNormAct2d` except `affine`.

    Attributes:
        weight, bias: (num_classes, num_features), ones and zeros at first.

    Example:
        >>> layer = ConditionalBatchNormAct2d(64, num_classes=10, activation="relu")
        >>> layer(torch.randn(8, 64, 16, 16), torch.arange(8)).shape
        torch.Size([8, 64, 16, 16])
    """

    def __init__(self, num_features: int, num_classes: int, **settings: Any) -> None:
        super().__init__(num_features, affine=False, **settings)
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.ones(num_classes, num_features))
        self.bias = nn.Parameter(torch.zeros(num_classes, num_features))

    def forward(self, input: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) and int64 labels (N,) to (N, C, H, W)."""
        normalised = self._normalise(input, None, None, None, None)
        weight, bias = (F.embedding(labels, table).to(input.dtype) for table in (self.weight, self.bias))
        output = torch.addcmul(bias[:, :, None, None], normalised, weight[:, :, None, None])
        return act.apply_(output, self.activation, self.negative_slope)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_classes={self.num_classes}"


def synchronize_batch_norm(module: nn.Module, process_group: dist.ProcessGroup | str | None = WORLD) -> int:
    """Makes every BatchNormAct2d in `module` share its statistics over `process_group` (None: stop sharing).

    Returns:
        How many layers were changed.

    Raises:
        TypeError: the module holds a plain torch.nn.BatchNorm, whose statistics cannot be shared on every backend.
    """
    layers = [child for child in module.modules() if isinstance(child, BatchNormAct2d)]
    for name, child in module.named_modules():
        if isinstance(child, _BatchNorm) and not isinstance(child, (BatchNormAct2d, nn.SyncBatchNorm)):
            raise TypeError(
                f"synchronize_batch_norm: expected genlab.nn.BatchNormAct2d at {name or 'the module itself'}, got "
                f"{type(child).__name__}; build the network with genlab.nn"
            )
    for layer in layers:
        layer.process_group = process_group
    return len(layers)
