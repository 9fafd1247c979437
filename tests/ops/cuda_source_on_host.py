"""Calls the CUDA kernels' own source, compiled as C++ by csrc/emulation, on CPU tensors: the ctypes side."""

from __future__ import annotations

import ctypes

import emulation_harness
import torch
from torch import Tensor

ACTIVATIONS = (None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
Strides = ctypes.c_int64 * 4


class Geometry(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in (
            "n", "c_in", "h", "w", "c_out", "h_out", "w_out", "kh", "kw", "stride_h", "stride_w", "padding_h",
            "padding_w", "dilation_h", "dilation_w", "groups",
        )),
        ("reflect", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    ]  # fmt: skip


class OperandActivation(ctypes.Structure):
    _fields_ = [("output", ctypes.c_void_p), ("negative_slope", ctypes.c_double), ("activation", ctypes.c_int32)]


class ForwardParams(ctypes.Structure):
    _fields_ = [
        ("geometry", Geometry),
        ("input", ctypes.c_void_p), ("input_stride", Strides),
        ("weight", ctypes.c_void_p), ("weight_stride", Strides),
        ("bias", ctypes.c_void_p),
        ("output", ctypes.c_void_p), ("output_stride", Strides),
        ("negative_slope", ctypes.c_double),
        ("activation", ctypes.c_int32),
        ("of_source", OperandActivation),
    ]  # fmt: skip


class BackwardInputParams(ctypes.Structure):
    _fields_ = [
        ("geometry", Geometry),
        ("grad_output", ctypes.c_void_p), ("grad_output_stride", Strides),
        ("weight", ctypes.c_void_p), ("weight_stride", Strides),
        ("bias", ctypes.c_void_p),
        ("grad_input", ctypes.c_void_p), ("grad_input_stride", Strides),
        ("negative_slope", ctypes.c_double),
        ("activation", ctypes.c_int32),
        ("of_source", OperandActivation),
    ]  # fmt: skip


class BackwardWeightParams(ctypes.Structure):
    _fields_ = [
        ("geometry", Geometry),
        ("grad_output", ctypes.c_void_p), ("grad_output_stride", Strides),
        ("input", ctypes.c_void_p), ("input_stride", Strides),
        ("grad_weight", ctypes.c_void_p), ("grad_weight_stride", Strides),
        ("grad_bias", ctypes.c_void_p),
        ("of_grad_output", OperandActivation), ("of_input", OperandActivation),
        ("input_sum", ctypes.c_void_p),
    ]  # fmt: skip


def build() -> ctypes.CDLL:
    """csrc/emulation/conv2d.cpp as a loaded library; skips the test where there is no compiler."""
    loaded = ctypes.CDLL(str(emulation_harness.build(emulation_harness.CSRC / "emulation/conv2d.cpp", flags=("-O2",))))
    loaded.genlab_emulation_message.restype = ctypes.c_char_p
    return loaded


class Guarded:
    """An output in the middle of a larger buffer whose margins must come back untouched; poisoned with NaN."""

    MARGIN = 64

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, layout: str = "contiguous") -> None:
        size = 1
        for extent in shape:
            size *= extent
        self.buffer = torch.full((size + 2 * self.MARGIN,), float("nan"), dtype=dtype)
        self.buffer[: self.MARGIN] = self.buffer[-self.MARGIN :] = 123.0
        inner = self.buffer[self.MARGIN : self.MARGIN + size]
        if layout == "channels_last" and len(shape) == 4:
            n, c, h, w = shape
            self.tensor = inner.reshape(n, h, w, c).permute(0, 3, 1, 2)
        else:
            self.tensor = inner.reshape(shape)

    def check(self) -> Tensor:
        """The values, after making sure that the margins are whole."""
        margins = torch.cat((self.buffer[: self.MARGIN], self.buffer[-self.MARGIN :]))
        assert (margins == 123.0).all(), "a kernel wrote outside its output"
        return self.tensor


def geometry(
    input: tuple[int, ...], weight: tuple[int, ...], output: tuple[int, ...], dtype: torch.dtype, **attributes
) -> Geometry:
    stride, padding, dilation = (attributes[name] for name in ("stride", "padding", "dilation"))
    return Geometry(
        input[0], *input[1:], *output[1:], *weight[2:], *stride, *padding, *dilation, attributes["groups"],
        int(attributes["reflect"]), DTYPES.index(dtype),
    )  # fmt: skip


def call(library: ctypes.CDLL, name: str, params: ctypes.Structure) -> None:
    """Runs one launcher; its exception becomes RuntimeError."""
    if getattr(library, name)(ctypes.byref(params)) != 0:
        raise RuntimeError(library.genlab_emulation_message().decode())


def strides(tensor: Tensor) -> ctypes.Array:
    return Strides(*tensor.stride())
