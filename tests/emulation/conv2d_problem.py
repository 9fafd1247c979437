"""One convolution for the emulated kernels: parameters as in csrc/kernels/conv2d.h, inputs, float64 reference."""

from __future__ import annotations

import ctypes
import dataclasses

import torch
import torch.nn.functional as F
from emulation_harness import Guarded, Library

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
ACTIVATIONS = [None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu"]
TILES = {"auto": 0, "128x128": 1, "64x64": 2, "128x32": 3}
# Relative error in the Frobenius norm: the rounding of the result (2^-9, 2^-12), or of tf32's operands (2^-11 each).
TOLERANCE = {torch.bfloat16: 3e-3, torch.float16: 5e-4, torch.float32: 5e-4}

Strides = ctypes.c_int64 * 4


class Geometry(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int64) for name in ("n", "c_in", "h", "w", "c_out", "h_out", "w_out", "kh", "kw")],
        *[(f"{name}_{axis}", ctypes.c_int64) for name in ("stride", "padding", "dilation") for axis in "hw"],
        ("groups", ctypes.c_int64),
        ("reflect", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    ]


class OperandActivation(ctypes.Structure):
    _fields_ = [
        ("output", ctypes.c_void_p),
        ("negative_slope", ctypes.c_double),
        ("activation", ctypes.c_int32),
    ]


class ForwardParams(ctypes.Structure):
    """Also Conv2dBackwardInputParams, whose fields have the same order: source, weight, bias, result."""

    _fields_ = [
        ("geometry", Geometry),
        ("source", ctypes.c_void_p),
        ("source_stride", Strides),
        ("weight", ctypes.c_void_p),
        ("weight_stride", Strides),
        ("bias", ctypes.c_void_p),
        ("result", ctypes.c_void_p),
        ("result_stride", Strides),
        ("negative_slope", ctypes.c_double),
        ("activation", ctypes.c_int32),
        ("of_source", OperandActivation),
    ]


class WeightParams(ctypes.Structure):
    _fields_ = [
        ("geometry", Geometry),
        ("grad_output", ctypes.c_void_p),
        ("grad_output_stride", Strides),
        ("input", ctypes.c_void_p),
        ("input_stride", Strides),
        ("grad_weight", ctypes.c_void_p),
        ("grad_weight_stride", Strides),
        ("grad_bias", ctypes.c_void_p),
        ("of_grad_output", OperandActivation),
        ("of_input", OperandActivation),
        ("input_sum", ctypes.c_void_p),
    ]


def activate(x: torch.Tensor, name: str | None, negative_slope: float) -> torch.Tensor:
    if name is None:
        return x
    if name == "leaky_relu":
        return F.leaky_relu(x, negative_slope)
    return {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "gelu": F.gelu, "silu": F.silu}[name](x)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A convolution by its forward sizes; `run_*` compares one emulated kernel with float64 and returns the error.

    through: the activation whose output the source (or `through_side` of a weight gradient) is the gradient of; that
        output starts `shift` elements past 16 bytes.
    """

    n: int = 2
    c_in: int = 8
    h: int = 7
    w: int = 9
    c_out: int = 16
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    reflect: bool = False
    bias: bool = True
    activation: str | None = None
    channels_last: bool = True
    dtype: torch.dtype = torch.bfloat16
    tile: str = "auto"
    groups: int = 1
    through: str | None = None
    through_side: str = "grad_output"
    shift: int = 0

    def sizes(self) -> tuple[int, int]:
        return tuple(
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, padding, dilation, kernel, stride in zip(
                (self.h, self.w), self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )

    def geometry(self) -> Geometry:
        h_out, w_out = self.sizes()
        return Geometry(
            *(self.n, self.c_in, self.h, self.w, self.c_out, h_out, w_out),
            *(*self.kernel, *self.stride, *self.padding, *self.dilation),
            *(self.groups, int(self.reflect), DTYPES[self.dtype]),
        )

    def random(self, *shape: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash((shape, self.kernel, self.stride)) % 2**31)
        layout = torch.channels_last if self.channels_last and len(shape) == 4 else torch.contiguous_format
        return torch.randn(shape, generator=generator).to(self.dtype).contiguous(memory_format=layout)

    def forward(self, source: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if self.reflect:
            ph, pw = self.padding
            source = F.pad(source, (pw, pw, ph, ph), mode="reflect")
        padding = (0, 0) if self.reflect else self.padding
        return F.conv2d(source, weight, bias, self.stride, padding, self.dilation, self.groups)

    def run_forward(self, library: Library) -> float:
        h_out, w_out = self.sizes()
        source = self.random(self.n, self.c_in, self.h, self.w)
        weight = self.random(self.c_out, self.c_in // self.groups, *self.kernel)
        bias = self.random(self.c_out)
        exact = self.derived(source)
        expected = self.forward(exact, weight.double(), bias.double() if self.bias else None)
        like = source.new_empty(self.n, self.c_out, h_out, w_out, dtype=self.dtype)
        return self._run("forward", library, source, weight, bias, like, expected)

    def run_backward_input(self, library: Library) -> float:
        h_out, w_out = self.sizes()
        grad_output = self.random(self.n, self.c_out, h_out, w_out)
        weight = self.random(self.c_out, self.c_in // self.groups, *self.kernel)
        bias = self.random(self.c_in)
        zero = torch.zeros(self.n, self.c_in, self.h, self.w, dtype=torch.float64, requires_grad=True)
        self.forward(zero, weight.double()).backward(self.derived(grad_output))
        expected = zero.grad + (bias.double().view(1, -1, 1, 1) if self.bias else 0)
        like = weight.new_empty(self.n, self.c_in, self.h, self.w)
        return self._run("backward_input", library, grad_output, weight, bias, like, expected)

    def run_backward_weight(self, library: Library) -> float:
        h_out, w_out = self.sizes()
        source = self.random(self.n, self.c_in, self.h, self.w)
        grad_output = self.random(self.n, self.c_out, h_out, w_out)
        zero = torch.zeros(self.c_out, self.c_in // self.groups, *self.kernel, dtype=torch.float64, requires_grad=True)
        exact = {"grad_output": grad_output.double(), "input": source.double()}
        if self.through:
            exact[self.through_side] = self.derived({"grad_output": grad_output, "input": source}[self.through_side])
        self.forward(exact["input"], zero).backward(exact["grad_output"])
        like = self._laid_out(source.new_empty(self.c_out, self.c_in // self.groups, *self.kernel, dtype=self.dtype))
        buffers = {
            "grad_output": Guarded(grad_output),
            "input": Guarded(source),
            "grad_weight": Guarded(like, fill=False),
            "grad_bias": Guarded(self.random(self.c_out), fill=False),
            "input_sum": Guarded(self.random(self.c_in), fill=False),
        }
        params = WeightParams(geometry=self.geometry())
        for name, buffer in buffers.items():
            setattr(params, name, buffer.pointer)
            if name not in ("grad_bias", "input_sum"):
                setattr(params, f"{name}_stride", Strides(*buffer.tensor.stride()))
        if not self.bias:
            params.grad_bias = params.input_sum = None
        if self.through:
            buffers["of"] = self._output_of(buffers[self.through_side].tensor)
            setattr(params, f"of_{self.through_side}", self._through(buffers["of"]))
        self._call("backward_weight", library, params, buffers)
        error = relative_error(buffers["grad_weight"].tensor, zero.grad)
        if self.bias:
            for name, side in (("grad_bias", "grad_output"), ("input_sum", "input")):
                error = max(error, relative_error(buffers[name].tensor, exact[side].sum((0, 2, 3))))
        return error

    def output_like(self, gradient: torch.Tensor) -> torch.Tensor:
        """What the activation `through` may have given at the places of `gradient`."""
        before = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(7))
        return activate(before, self.through, 0.2).to(self.dtype)

    def derived(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of the activation's input in float64, from its output as the kernel sees it."""
        gradient = gradient.double()
        if self.through is None:
            return gradient
        y = self.output_like(gradient).double()
        if self.through == "tanh":
            return gradient * (1 - y * y)
        if self.through == "sigmoid":
            return gradient * y * (1 - y)
        return torch.where(y > 0, gradient, gradient * (0.2 if self.through == "leaky_relu" else 0.0))

    def _output_of(self, gradient: torch.Tensor) -> Guarded:
        """The activation's output with the gradient's strides."""
        like = torch.empty_strided(gradient.shape, gradient.stride(), dtype=self.dtype)
        return Guarded(like.copy_(self.output_like(gradient)), offset=self.shift)

    def _through(self, output: Guarded) -> OperandActivation:
        return OperandActivation(output.pointer, 0.2, ACTIVATIONS.index(self.through))

    def _laid_out(self, tensor: torch.Tensor) -> torch.Tensor:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return tensor.contiguous(memory_format=layout)

    def _run(
        self,
        op: str,
        library: Library,
        source: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        like: torch.Tensor,
        expected: torch.Tensor,
    ) -> float:
        buffers = {
            "source": Guarded(source),
            "weight": Guarded(weight),
            "bias": Guarded(bias),
            "result": Guarded(self._laid_out(like), fill=False),
        }
        params = ForwardParams(geometry=self.geometry(), negative_slope=0.2)
        params.activation = ACTIVATIONS.index(self.activation)
        for name, buffer in buffers.items():
            setattr(params, name, buffer.pointer)
            if name != "bias":
                setattr(params, f"{name}_stride", Strides(*buffer.tensor.stride()))
        if not self.bias:
            params.bias = None
        if self.through:
            buffers["of"] = self._output_of(buffers["source"].tensor)
            params.of_source = self._through(buffers["of"])
        self._call(op, library, params, buffers)
        return relative_error(buffers["result"].tensor, activate(expected, self.activation, 0.2))

    def _call(self, op: str, library: Library, params: ctypes.Structure, buffers: dict[str, Guarded]) -> None:
        refusal = library.value(f"refusal_of_{op}", ctypes.c_char_p, ctypes.byref(params))
        if refusal is not None:
            raise NotImplementedError(refusal.decode())
        size = library.value(f"workspace_of_{op}", ctypes.c_size_t, ctypes.byref(params))
        workspace = Guarded(torch.empty(size, dtype=torch.uint8), fill=False)
        library.call(f"run_{op}", ctypes.byref(params), ctypes.c_void_p(workspace.pointer), TILES[self.tile])
        for name, buffer in (*buffers.items(), ("workspace", workspace)):
            buffer.check(name)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Frobenius norm of the difference over that of `expected`; infinite where the result holds a NaN."""
    if bool(actual.isnan().any()):
        return float("inf")
    scale = expected.norm().item()
    return (actual.double() - expected).norm().item() / (scale if scale > 0 else 1.0)
