"""A convolution with normalisations fused in, for the emulated kernels: parameters, inputs, float64 reference."""

from __future__ import annotations

import ctypes
import dataclasses

import torch
import torch.nn.functional as F
from conv2d_problem import (
    ACTIVATIONS,
    TILES,
    ForwardParams,
    Problem,
    Strides,
    WeightParams,
    activate,
    relative_error,
)
from emulation_harness import Guarded, Library

EPS = 1e-5
FLOATS = torch.float32


class ConvNorm(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("mean", "var", "weight", "bias")],
        ("eps", ctypes.c_double),
        ("negative_slope", ctypes.c_double),
        ("activation", ctypes.c_int32),
    ]


class StatisticsGradient(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("output", "mean", "grad_mean", "grad_var")]


class NormForward(ctypes.Structure):
    _fields_ = [("norm", ConvNorm), ("mean", ctypes.c_void_p), ("var", ctypes.c_void_p)]


class NormGradient(ctypes.Structure):
    _fields_ = [
        ("statistics", StatisticsGradient),
        ("norm", ConvNorm),
        *[(name, ctypes.c_void_p) for name in ("input", "grad_mean", "grad_var", "grad_weight", "grad_bias")],
    ]


class NormWeightGradient(ctypes.Structure):
    _fields_ = [
        *[("grad_output_norm", ConvNorm), ("input_norm", ConvNorm)],
        *[("grad_output_statistics", StatisticsGradient), ("input_statistics", StatisticsGradient)],
    ]


@dataclasses.dataclass(frozen=True)
class NormProblem(Problem):
    """`transposed` takes the convolution the other way round; `offset` moves the input's mean away from zero; the input
    and the output that a gradient reads start `shift` elements past 16 bytes.
    """

    transposed: bool = False
    norm: bool = True
    affine: bool = True
    statistics: bool = True
    norm_activation: str | None = "leaky_relu"
    offset: float = 0.0
    shift: int = 0

    def convolve(self, source: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if not self.transposed:
            return self.forward(source, weight, bias)
        sizes = self.sizes()
        # The output size is that of the forward convolution's input.
        extra = [
            size - ((out - 1) * s - 2 * p + d * (k - 1) + 1)
            for size, out, s, p, d, k in zip(
                (self.h, self.w), sizes, self.stride, self.padding, self.dilation, self.kernel, strict=True
            )
        ]
        return F.conv_transpose2d(source, weight, bias, self.stride, self.padding, extra, 1, self.dilation)

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of what goes in and what comes out."""
        image, grid = (self.n, self.c_in, self.h, self.w), (self.n, self.c_out, *self.sizes())
        return (grid, image) if self.transposed else (image, grid)

    def make(self) -> dict[str, torch.Tensor]:
        going_in, coming_out = self.shapes()
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        channels, results = going_in[1], coming_out[1]
        scale = torch.linspace(0.5, 1.5, channels)
        return {
            "x": (self.random(*going_in) * scale.to(self.dtype).view(1, -1, 1, 1) + self.offset).contiguous(
                memory_format=layout
            ),
            "weight": self.random(self.c_out, self.c_in, *self.kernel),
            "bias": self.random(results),
            "mean": self.offset + 0.3 * torch.randn(channels, generator=torch.Generator().manual_seed(1)),
            "var": scale**2 + 0.1,
            "norm_weight": torch.linspace(-1.0, 1.5, channels),
            "norm_bias": torch.linspace(0.4, -0.6, channels),
            "grad": self.random(*coming_out),
            "grad_mean": torch.randn(results, generator=torch.Generator().manual_seed(2)),
            "grad_var": torch.randn(results, generator=torch.Generator().manual_seed(3)),
        }

    def reference(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """(inputs, results and gradients) in float64 from the very values that the kernels see."""
        made = self.make()
        exact = {name: value.double().requires_grad_(not name.startswith("grad")) for name, value in made.items()}
        x = exact["x"]
        if self.norm:
            centred = x - exact["mean"].view(1, -1, 1, 1)
            x = centred / (exact["var"].view(1, -1, 1, 1) + EPS).sqrt()
            if self.affine:
                x = x * exact["norm_weight"].view(1, -1, 1, 1) + exact["norm_bias"].view(1, -1, 1, 1)
            x = activate(x, self.norm_activation, 0.2)
        y = self.convolve(x, exact["weight"], exact["bias"] if self.bias else None)
        mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
        outputs = [y, mean, var] if self.statistics else [y]
        grads = [exact["grad"], exact["grad_mean"], exact["grad_var"]][: len(outputs)]
        wanted = ("x", "weight", "bias", "mean", "var", "norm_weight", "norm_bias")
        found = torch.autograd.grad(outputs, [exact[name] for name in wanted], grads, allow_unused=True)
        results = {"y": y.detach(), "out_mean": mean.detach(), "out_var": var.detach()}
        results |= {f"d_{name}": value for name, value in zip(wanted, found, strict=True)}
        return made, results

    def norm_struct(self, buffers: dict[str, Guarded]) -> ConvNorm:
        if not self.norm:
            return ConvNorm()
        affine = [buffers["norm_weight"].pointer, buffers["norm_bias"].pointer] if self.affine else [None, None]
        return ConvNorm(
            buffers["mean"].pointer, buffers["var"].pointer, *affine, EPS, 0.2, ACTIVATIONS.index(self.norm_activation)
        )

    def gather_params(self, source: Guarded, weight: Guarded, bias: Guarded | None, result: Guarded) -> ForwardParams:
        params = ForwardParams(geometry=self.geometry())
        for name, buffer in (("source", source), ("weight", weight), ("bias", bias), ("result", result)):
            setattr(params, name, None if buffer is None else buffer.pointer)
            if name != "bias":
                setattr(params, f"{name}_stride", Strides(*buffer.tensor.stride()))
        return params

    def launch(self, library: Library, op: str, transposed: bool, params, fused, norm: ConvNorm, buffers) -> None:
        refusal = library.value(
            "refusal_of_conv_norm", ctypes.c_char_p, int(transposed), ctypes.byref(params), ctypes.byref(norm)
        )
        if refusal is not None:
            raise NotImplementedError(refusal.decode())
        size = library.value("workspace_of_conv_norm", ctypes.c_size_t, int(transposed), ctypes.byref(params))
        workspace = Guarded(torch.empty(size, dtype=torch.uint8), fill=False)
        library.call(
            f"run_conv_norm_{op}", int(transposed), ctypes.byref(params), ctypes.byref(fused),
            ctypes.c_void_p(workspace.pointer), TILES[self.tile],
        )  # fmt: skip
        for name, buffer in (*buffers.items(), ("workspace", workspace)):
            buffer.check(name)

    def buffers(self, made: dict[str, torch.Tensor]) -> dict[str, Guarded]:
        _, coming_out = self.shapes()
        results = coming_out[1]
        channels = made["mean"].numel()
        like = {
            "y": self._laid_out(torch.empty(coming_out, dtype=self.dtype)),
            "out_mean": torch.empty(results),
            "out_var": torch.empty(results),
            "d_x": made["x"],
            **{f"d_{name}": torch.empty(channels) for name in ("mean", "var", "norm_weight", "norm_bias")},
        }
        filled = {name: Guarded(value, offset=self.shift if name == "x" else 0) for name, value in made.items()}
        return filled | {name: Guarded(value, fill=False) for name, value in like.items()}

    def run_norm_forward(self, library: Library) -> dict[str, torch.Tensor]:
        """y and, where wanted, the statistics that the kernel found."""
        buffers = self.buffers(self.make())
        params = self.gather_params(
            buffers["x"], buffers["weight"], buffers["bias"] if self.bias else None, buffers["y"]
        )
        norm = self.norm_struct(buffers)
        fused = NormForward(norm)
        if self.statistics:
            fused.mean, fused.var = buffers["out_mean"].pointer, buffers["out_var"].pointer
        self.launch(library, "forward", self.transposed, params, fused, norm, buffers)
        names = ("y", "out_mean", "out_var") if self.statistics else ("y",)
        return {name: buffers[name].tensor for name in names}

    def run_norm_gradient(self, library: Library, y: torch.Tensor, mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gradients of the input and of the normalisation, from the output `y` and its mean as forward gave them."""
        made = self.make()
        buffers = self.buffers(made) | {"kept": Guarded(y, offset=self.shift), "kept_mean": Guarded(mean)}
        params = self.gather_params(buffers["grad"], buffers["weight"], None, buffers["d_x"])
        norm = self.norm_struct(buffers)
        fused = NormGradient(self.statistics_struct(buffers), norm)
        if self.norm:
            fused.input = buffers["x"].pointer
            for field in ("mean", "var", "norm_weight", "norm_bias"):
                setattr(fused, f"grad_{field.removeprefix('norm_')}", buffers[f"d_{field}"].pointer)
        self.launch(library, "gradient", not self.transposed, params, fused, norm, buffers)
        names = ("d_x", "d_mean", "d_var", "d_norm_weight", "d_norm_bias") if self.norm else ("d_x",)
        return {name: buffers[name].tensor for name in names}

    def statistics_struct(self, buffers: dict[str, Guarded]) -> StatisticsGradient:
        if not self.statistics:
            return StatisticsGradient()
        return StatisticsGradient(*(buffers[name].pointer for name in ("kept", "kept_mean", "grad_mean", "grad_var")))

    def run_norm_weight(self, library: Library, y: torch.Tensor, mean: torch.Tensor) -> dict[str, torch.Tensor]:
        """The weight's gradient, whose operands are normalised and corrected as they are loaded."""
        made = self.make()
        buffers = self.buffers(made) | {"kept": Guarded(y, offset=self.shift), "kept_mean": Guarded(mean)}
        buffers["d_weight"] = Guarded(made["weight"], fill=False)
        params, fused = WeightParams(geometry=self.geometry()), NormWeightGradient()
        x_side, grad_side = ("grad_output", "input") if self.transposed else ("input", "grad_output")
        for side, name in ((x_side, "x"), (grad_side, "grad"), ("grad_weight", "d_weight")):
            setattr(params, side, buffers[name].pointer)
            setattr(params, f"{side}_stride", Strides(*buffers[name].tensor.stride()))
        setattr(fused, f"{x_side}_norm", self.norm_struct(buffers))
        setattr(fused, f"{grad_side}_statistics", self.statistics_struct(buffers))
        size = library.value("workspace_of_conv_norm_weight", ctypes.c_size_t, ctypes.byref(params))
        workspace = Guarded(torch.empty(size, dtype=torch.uint8), fill=False)
        library.call(
            "run_conv_norm_weight", ctypes.byref(params), ctypes.byref(fused), ctypes.c_void_p(workspace.pointer),
            TILES[self.tile],
        )  # fmt: skip
        for name, buffer in (*buffers.items(), ("workspace", workspace)):
            buffer.check(name)
        return {"d_weight": buffers["d_weight"].tensor}


def errors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: relative_error(value, expected[name]) for name, value in found.items()}
