"""What `genlab bench op` times: the layers of the lab's networks, each forward and per gradient, ours beside torch's.

A case makes its tensors from a seed and says how many FLOPs (of the direct algorithm) and values it must move at least.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab import ops
from genlab.bench import optimizers, recurrent_cases
from genlab.errors import UserError

Tensors = tuple[Tensor, ...]
OPS = (
    *("batch_norm_act", "instance_norm_act", "layer_norm_act", "optimizer_step", "conv2d", "conv_transpose2d"),
    *("cross_entropy", "gan_loss", "reparametrize_kl"),
    "scaled_dot_product_attention",
    *recurrent_cases.OPS,
    "word2vec_step",
)
SHAPES = ("quick", "full", "tiny")


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        op, direction: "conv2d", "weight gradient", ...
        label: the layer; `shape` spells its sizes.
        make: the tensors in float32 on the CPU, standard normal, from a generator.
        ours: the lab's op on these tensors, with impl.
        peer: what a user of torch writes.
        wanted: which tensors get a gradient; () times the forward pass without one.
        wide: which tensors stay float32 in low precision (parameters and statistics of normalisations).
        flops: of the direct algorithm.
        values: read and written once each, the least that has to move.
        layer: of a convolution.
        step: of an optimiser, whose contenders `genlab.bench.optimizers` makes; float32 in every row.
        whole: a gradient is timed with its forward pass, from a gradient of 1, as a loss is used.
        peers: what else a user of torch may write, by name.
        images: whether 4-dimensional tensors are images, which may lie in channels_last memory.
        slack: the error that is let pass, over the dtype's own.
    """

    op: str
    direction: str
    label: str
    shape: str
    make: Callable[[torch.Generator], Tensors]
    ours: Callable[..., Tensor | Tensors]
    peer: Callable[..., Tensor | Tensors]
    wanted: tuple[int, ...]
    wide: tuple[int, ...]
    flops: float
    values: float
    layer: Conv | None = None
    step: optimizers.StepKind | None = None
    whole: bool = False
    peers: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    images: bool = True
    slack: float = 1.0


@dataclass(frozen=True)
class Conv:
    """A convolution layer: c_in channels of n images of h x w to c_out, with a kernel k, stride s and padding p."""

    label: str
    n: int
    c_in: int
    h: int
    w: int
    c_out: int
    k: int
    s: int = 1
    p: int = 0
    transposed: bool = False
    activation: str | None = None
    padding_mode: str = "zeros"

    @property
    def output(self) -> tuple[int, int]:
        if self.transposed:
            return tuple((size - 1) * self.s - 2 * self.p + self.k for size in (self.h, self.w))
        return tuple((size + 2 * self.p - self.k) // self.s + 1 for size in (self.h, self.w))

    @property
    def shape(self) -> str:
        h, w = self.output
        text = f"{self.n}x{self.c_in}x{self.h}x{self.w} > {self.c_out}x{h}x{w} k{self.k} s{self.s} p{self.p}"
        return text + (" reflect" if self.padding_mode == "reflect" else "")


def _conv(layer: Conv) -> list[Case]:
    h, w = layer.output
    pixels = layer.h * layer.w if layer.transposed else h * w  # each multiplies the whole kernel
    sizes = (layer.c_in, layer.c_out) if layer.transposed else (layer.c_out, layer.c_in)
    values = layer.n * (layer.c_in * layer.h * layer.w + layer.c_out * h * w) + layer.c_in * layer.c_out * layer.k**2

    def make(generator: torch.Generator) -> Tensors:
        input = torch.randn((layer.n, layer.c_in, layer.h, layer.w), generator=generator)
        return input, torch.randn((*sizes, layer.k, layer.k), generator=generator) * 0.05

    op = "conv_transpose2d" if layer.transposed else "conv2d"
    flops = 2.0 * layer.n * pixels * layer.c_in * layer.c_out * layer.k**2
    parts = [("forward", (), layer.activation), ("input gradient", (0,), None), ("weight gradient", (1,), None)]
    if layer.activation is not None:
        parts.append(("gradients through activation", (0, 1), layer.activation))
    return [
        Case(
            op, direction, layer.label, layer.shape, make, functools.partial(_our_conv, layer, activation),
            functools.partial(_torch_conv, layer, activation), wanted, (), flops * max(1, len(wanted)), values, layer,
        )
        for direction, wanted, activation in parts
    ]  # fmt: skip


def _our_conv(layer: Conv, activation: str | None, input: Tensor, weight: Tensor, *, impl: str) -> Tensor:
    # Through the package: a test that puts another op there is measuring that op.
    if layer.transposed:
        return ops.conv_transpose2d(input, weight, None, layer.s, layer.p, activation=activation, impl=impl)
    return ops.conv2d(
        input, weight, None, layer.s, layer.p, padding_mode=layer.padding_mode, activation=activation, impl=impl
    )


def _torch_conv(layer: Conv, activation: str | None, input: Tensor, weight: Tensor) -> Tensor:
    padding = layer.p
    if layer.padding_mode == "reflect":
        input, padding = F.pad(input, (padding,) * 4, mode="reflect"), 0
    run = F.conv_transpose2d if layer.transposed else F.conv2d
    return ops.activation.apply_(run(input, weight, None, layer.s, padding), activation, 0.2)


def _norm(op: str, label: str, sizes: tuple[int, ...], activation: str | None) -> list[Case]:
    channels = sizes[-1] if op == "layer_norm_act" else sizes[1]
    count = float(torch.Size(sizes).numel())

    def make(generator: torch.Generator) -> Tensors:
        input = torch.randn(sizes, generator=generator)
        weight, bias = torch.randn(channels, generator=generator), torch.randn(channels, generator=generator)
        if op != "batch_norm_act":
            return input, weight, bias
        return input, weight, bias, torch.zeros(channels), torch.ones(channels)

    wide = (1, 2, 3, 4) if op == "batch_norm_act" else (1, 2)
    shape = "x".join(map(str, sizes)) + (f" {activation}" if activation else "")
    ours, peer = functools.partial(_our_norm, op, activation), functools.partial(_torch_norm, op, activation)
    # Forward reads the input and writes the output; backward reads the gradient and the input and writes a gradient.
    parts = [("forward", (), 2 * count), ("backward", (0, 1, 2), 3 * count)]
    return [
        Case(op, direction, label, shape, make, ours, peer, wanted, wide, 0.0, values)
        for direction, wanted, values in parts
    ]


def _our_norm(op: str, activation: str | None, input: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor, impl: str):
    if op == "batch_norm_act":
        return ops.batch_norm_act(input, *rest, weight, bias, True, 0.1, 1e-5, activation=activation, impl=impl)
    if op == "instance_norm_act":
        return ops.instance_norm_act(input, None, None, weight, bias, activation=activation, impl=impl)
    return ops.layer_norm_act(input, weight.shape, weight, bias, 1e-5, activation=activation, impl=impl)


def _torch_norm(op: str, activation: str | None, input: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor) -> Tensor:
    if op == "batch_norm_act":
        output = F.batch_norm(input, *rest, weight, bias, True, 0.1, 1e-5)
    elif op == "instance_norm_act":
        output = F.instance_norm(input, None, None, weight, bias, True, 0.1, 1e-5)
    else:
        output = F.layer_norm(input, weight.shape, weight, bias, 1e-5)
    return ops.activation.apply_(output, activation, 0.2)


def _step(label: str, direction: str) -> Case:
    kind = optimizers.KINDS[direction]
    count = sum(torch.Size(size).numel() for size in optimizers.sizes_of(label))
    return Case(
        optimizers.OP, direction, label, f"{count} parameters", functools.partial(optimizers.make, label),
        functools.partial(optimizers.ours, kind), functools.partial(optimizers.peer, kind), (), (), 0.0,
        float(kind.moved * count), step=kind,
    )  # fmt: skip


def _recurrence(layer: recurrent_cases.Recurrence) -> list[Case]:
    make = functools.partial(recurrent_cases.make, layer)
    return [
        Case(
            layer.op,
            part.direction,
            layer.label,
            layer.shape,
            make,
            part.ours,
            part.peer,
            (),
            (),
            part.flops,
            part.values,
            slack=recurrent_cases.SLACK,
        )
        for part in recurrent_cases.parts(layer)
    ]


LEAKY = "leaky_relu"
DCGAN_64 = (
    Conv("DCGAN-64 D1", 64, 3, 64, 64, 64, 4, 2, 1, activation=LEAKY),
    Conv("DCGAN-64 D2", 64, 64, 32, 32, 128, 4, 2, 1),
    Conv("DCGAN-64 D3", 64, 128, 16, 16, 256, 4, 2, 1),
    Conv("DCGAN-64 D4", 64, 256, 8, 8, 512, 4, 2, 1),
    Conv("DCGAN-64 D5", 64, 512, 4, 4, 1, 4),
    Conv("DCGAN-64 G1", 64, 100, 1, 1, 512, 4, transposed=True),
    Conv("DCGAN-64 G2", 64, 512, 4, 4, 256, 4, 2, 1, transposed=True),
    Conv("DCGAN-64 G3", 64, 256, 8, 8, 128, 4, 2, 1, transposed=True),
    Conv("DCGAN-64 G4", 64, 128, 16, 16, 64, 4, 2, 1, transposed=True),
    Conv("DCGAN-64 G5", 64, 64, 32, 32, 3, 4, 2, 1, transposed=True, activation="tanh"),
    Conv("DCGAN-28 D1, 1 channel", 64, 1, 28, 28, 64, 4, 2, 1, activation=LEAKY),
)
RESNET_9 = (  # CycleGAN's generator on one image of 128 x 128
    Conv("ResNet-9 first", 1, 3, 128, 128, 64, 7, 1, 3, padding_mode="reflect"),
    Conv("ResNet-9 down", 1, 64, 128, 128, 128, 3, 2, 1),
    Conv("ResNet-9 block", 1, 256, 32, 32, 256, 3, 1, 1, padding_mode="reflect"),
    Conv("ResNet-9 last", 1, 64, 128, 128, 3, 7, 1, 3, padding_mode="reflect", activation="tanh"),
)
OTHER = (
    Conv("3x3", 16, 128, 32, 32, 128, 3, 1, 1),
    Conv("1x1", 16, 256, 16, 16, 256, 1),
    # Without a normalisation between convolution and activation.
    Conv("VGG conv", 16, 128, 32, 32, 256, 3, 1, 1, activation="relu"),
    Conv("WGAN-GP D2", 64, 64, 32, 32, 128, 4, 2, 1, activation=LEAKY),
)
QUICK_LABELS = ("DCGAN-64 D1", "DCGAN-64 D2", "DCGAN-64 G3", "DCGAN-64 G5", "ResNet-9 block", "1x1")
NORMS = (
    ("batch_norm_act", "DCGAN-64 D2", (64, 128, 16, 16), LEAKY),
    ("batch_norm_act", "DCGAN-64 G4", (64, 64, 32, 32), "relu"),
    ("batch_norm_act", "DCGAN-64 D3", (64, 256, 8, 8), LEAKY),
    ("instance_norm_act", "ResNet-9 block", (1, 256, 32, 32), "relu"),
    ("instance_norm_act", "ResNet-9 first", (1, 64, 128, 128), "relu"),
    ("layer_norm_act", "Transformer", (32, 128, 512), None),
    ("layer_norm_act", "Transformer, gelu", (32, 128, 512), "gelu"),
)
QUICK_NORMS = ("DCGAN-64 D2", "ResNet-9 block", "Transformer")
STEPS = tuple((label, direction) for label in optimizers.LISTS for direction in optimizers.KINDS)
QUICK_STEPS = (
    ("DCGAN-64 G", "adam+ema"),
    ("DCGAN-64 G", "rmsprop+clamp"),
    ("DCGAN-64 G", "sgd"),
    ("Pix2Pix G", "adam+ema"),
)
TINY_STEPS = tuple(("tiny", direction) for direction in optimizers.KINDS)
TINY = (
    Conv("tiny", 2, 4, 8, 8, 8, 4, 2, 1, activation=LEAKY),
    Conv("tiny", 2, 8, 4, 4, 4, 4, 2, 1, transposed=True, activation="relu"),
)
TINY_NORMS = (
    ("batch_norm_act", "tiny", (4, 8, 4, 4), LEAKY),
    ("instance_norm_act", "tiny", (2, 8, 4, 4), "relu"),
    ("layer_norm_act", "tiny", (4, 4, 16), None),
)


def layers(shapes: str) -> tuple[Conv, ...]:
    """The convolutions of "quick", "full" or "tiny" (a check of the bench itself)."""
    everything = (*DCGAN_64, *RESNET_9, *OTHER)
    if shapes == "tiny":
        return TINY
    return everything if shapes == "full" else tuple(x for x in everything if x.label in QUICK_LABELS)


def make_cases(names: list[str], shapes: str) -> list[Case]:
    """The cases of the named ops, all where none is named.

    Raises:
        UserError: an unknown op or an unknown choice of shapes.
    """
    from genlab.bench.attention_cases import attention_cases  # which takes Case from here
    from genlab.bench.loss_cases import loss_cases
    from genlab.bench.word2vec_cases import word2vec_cases
    from genlab.registry import nearest

    for what, value, known in [("op", name, OPS) for name in names] + [("--shapes", shapes, SHAPES)]:
        if value not in known:
            guess = nearest(value, known)
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise UserError(f"{what}: expected one of {', '.join(known)}, got {value!r}{hint}")
    cases: list[Case] = []
    for op, label, sizes, activation in TINY_NORMS if shapes == "tiny" else NORMS:
        if shapes != "quick" or label in QUICK_NORMS:
            cases += _norm(op, label, sizes, activation)
    cases += [_step(*row) for row in {"tiny": TINY_STEPS, "quick": QUICK_STEPS, "full": STEPS}[shapes]]
    cases += [case for layer in layers(shapes) for case in _conv(layer)]
    cases += loss_cases(shapes)
    cases += attention_cases(shapes)
    cases += [case for layer in recurrent_cases.layers(shapes) for case in _recurrence(layer)]
    cases += word2vec_cases(shapes)
    return [case for case in cases if not names or case.op in names]
