"""The CUDA kernels' own source, executed on the CPU, against the float64 reference in all four dtypes.

A machine without a GPU proves the kernels' arithmetic, index maths and bounds this way; a GPU proves the launch.
"""

from __future__ import annotations

import ctypes

import pytest
import torch
from conv_samples import CONV2D, TRANSPOSE
from cuda_source_on_host import (
    ACTIVATIONS,
    DTYPES,
    BackwardInputParams,
    BackwardWeightParams,
    ForwardParams,
    Guarded,
    build,
    call,
    geometry,
    strides,
)
from helpers import TOLERANCES, tolerance

from genlab import ops
from genlab.ops import activation as act
from genlab.ops import shapes

# padding="same" with an even reach is padded in Python before any kernel.
FORWARD = [s for s in CONV2D if s.name not in ("same_even", "same_even_reflect")]


@pytest.fixture(scope="module")
def library():
    return build()


def attributes_of(sample, weight):
    arguments = sample.arguments
    kernel = tuple(weight.shape[2:])
    stride = shapes.pair("test", "stride", arguments.get("stride", 1), 1)
    dilation = shapes.pair("test", "dilation", arguments.get("dilation", 1), 1)
    padding, _ = shapes.resolve_padding("test", arguments.get("padding", 0), kernel, stride, dilation)
    reflect = arguments.get("padding_mode") == "reflect"
    groups = arguments.get("groups", 1)
    return {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "reflect": reflect}


def assert_close(found, expected, dtype, terms):
    """float32 and float64 as everywhere; half types within two roundings of the exact value (one is unavoidable)."""
    if dtype in TOLERANCES:
        torch.testing.assert_close(found.double(), expected, **tolerance(dtype, terms))
        return
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, rtol=step, atol=1e-5 * max(1, terms) ** 0.5)


def test_the_parameter_structs_have_the_layout_that_these_tests_declare(library):
    sizes = (ctypes.c_int64 * 3)()
    library.genlab_conv2d_params_sizes(sizes)
    assert list(sizes) == [ctypes.sizeof(s) for s in (ForwardParams, BackwardInputParams, BackwardWeightParams)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sample", FORWARD, ids=str)
def test_forward(library, sample, dtype):
    input, weight, bias = sample.make(dtype, "cpu")
    exact = [None if t is None else t.double() for t in (input, weight, bias)]
    expected = ops.conv2d(*exact, **sample.arguments, impl="reference")
    layout = "channels_last" if sample.name.startswith("channels_last") else "contiguous"
    output = Guarded(tuple(expected.shape), dtype, layout)
    shape = geometry(
        tuple(input.shape), tuple(weight.shape), tuple(expected.shape), dtype, **attributes_of(sample, weight)
    )
    params = ForwardParams(
        shape, input.data_ptr(), strides(input), weight.data_ptr(), strides(weight),
        None if bias is None else bias.data_ptr(), output.tensor.data_ptr(), strides(output.tensor), 0.2,
        ACTIVATIONS.index(sample.arguments.get("activation")),
    )  # fmt: skip
    call(library, "genlab_conv2d_forward", params)
    assert_close(output.check(), expected, dtype, sample.terms)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sample", FORWARD, ids=str)
def test_gradients(library, sample, dtype):
    input, weight, _ = sample.make(dtype, "cpu")
    plain = {k: v for k, v in sample.arguments.items() if k != "activation"}
    leaves = [input.double().requires_grad_(), weight.double().requires_grad_(), torch.zeros(weight.shape[0]).double()]
    leaves[2].requires_grad_()
    expected = ops.conv2d(*leaves, **plain, impl="reference")
    grad_output = torch.randn(expected.shape, dtype=torch.float64).to(dtype)
    exact = torch.autograd.grad(expected, leaves, grad_output.double())
    shape = geometry(
        tuple(input.shape), tuple(weight.shape), tuple(expected.shape), dtype, **attributes_of(sample, weight)
    )
    grad_input = Guarded(tuple(input.shape), dtype)
    params = BackwardInputParams(
        shape, grad_output.data_ptr(), strides(grad_output), weight.data_ptr(), strides(weight), None,
        grad_input.tensor.data_ptr(), strides(grad_input.tensor), 0.0, 0,
    )  # fmt: skip
    call(library, "genlab_conv2d_backward_input", params)
    grad_weight, grad_bias = Guarded(tuple(weight.shape), dtype), Guarded((weight.shape[0],), dtype)
    params = BackwardWeightParams(
        shape, grad_output.data_ptr(), strides(grad_output), input.data_ptr(), strides(input),
        grad_weight.tensor.data_ptr(), strides(grad_weight.tensor), grad_bias.tensor.data_ptr(),
    )  # fmt: skip
    call(library, "genlab_conv2d_backward_weight", params)
    outputs = max(1, expected.numel() // weight.shape[0])
    for found, e in zip((grad_input, grad_weight, grad_bias), exact, strict=True):
        assert_close(found.check(), e, dtype, max(outputs, weight.shape[0] * weight[0, 0].numel()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sample", TRANSPOSE, ids=str)
def test_transposed_forward_with_bias_and_activation(library, sample, dtype):
    input, weight, bias = sample.make(dtype, "cpu")
    exact = [None if t is None else t.double() for t in (input, weight, bias)]
    expected = ops.conv_transpose2d(*exact, **sample.arguments, impl="reference")
    output = Guarded(tuple(expected.shape), dtype)
    shape = geometry(
        tuple(expected.shape), tuple(weight.shape), tuple(input.shape), dtype, **attributes_of(sample, weight)
    )
    params = BackwardInputParams(
        shape, input.data_ptr(), strides(input), weight.data_ptr(), strides(weight),
        None if bias is None else bias.data_ptr(), output.tensor.data_ptr(), strides(output.tensor), 0.2,
        ACTIVATIONS.index(sample.arguments.get("activation")),
    )  # fmt: skip
    call(library, "genlab_conv2d_backward_input", params)
    assert_close(output.check(), expected, dtype, sample.terms)


@pytest.mark.parametrize("name", ACTIVATIONS[1:])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_activations_over_their_range(library, name, dtype):
    """A 1x1 convolution by one is the activation itself; far values, zeros, infinities and NaN included."""
    far = [0.0, -0.0, 30.0, -30.0, 88.0, -88.0, float("inf"), float("nan")]
    x = torch.cat((torch.linspace(-6, 6, 56, dtype=dtype), torch.tensor(far, dtype=dtype))).reshape(1, 1, 8, 8)
    weight, output = torch.ones(1, 1, 1, 1, dtype=dtype), Guarded((1, 1, 8, 8), dtype)
    attributes = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, "reflect": False}
    params = ForwardParams(
        geometry((1, 1, 8, 8), (1, 1, 1, 1), (1, 1, 8, 8), dtype, **attributes), x.data_ptr(), strides(x),
        weight.data_ptr(), strides(weight), None, output.tensor.data_ptr(), strides(output.tensor), 0.2,
        ACTIVATIONS.index(name),
    )  # fmt: skip
    call(library, "genlab_conv2d_forward", params)
    # In float64: torch's vectorised float32 gelu makes NaN of infinity.
    expected = act.apply(x.double(), name, 0.2).to(dtype)
    torch.testing.assert_close(output.check(), expected, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_half_value_survives_and_every_rounding_is_to_nearest_even(library, dtype):
    """All 65536 bit patterns go through widen and narrow; sums halfway between two values round to even."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).reshape(1, 1, 256, 256)
    weight = torch.ones(1, 1, 1, 1, dtype=dtype)
    attributes = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, "reflect": False}
    shape = geometry((1, 1, 256, 256), (1, 1, 1, 1), (1, 1, 256, 256), dtype, **attributes)
    for bias in (0.0, 0.0078125, 1.00390625):
        output, bias = Guarded((1, 1, 256, 256), dtype), torch.tensor([bias], dtype=dtype)
        params = ForwardParams(
            shape, patterns.data_ptr(), strides(patterns), weight.data_ptr(), strides(weight), bias.data_ptr(),
            output.tensor.data_ptr(), strides(output.tensor), 0.0, 0,
        )  # fmt: skip
        call(library, "genlab_conv2d_forward", params)
        expected = (patterns.float() + bias.float()).to(dtype)
        torch.testing.assert_close(output.check(), expected, rtol=0, atol=0, equal_nan=True)


def test_blocks_may_run_in_any_order(library, monkeypatch):
    input, weight = torch.randn(2, 3, 20, 20), torch.randn(5, 3, 3, 3)
    attributes = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "reflect": False}
    shape = geometry((2, 3, 20, 20), (5, 3, 3, 3), (2, 5, 20, 20), torch.float32, **attributes)
    results = []
    for seed in range(5):
        monkeypatch.setenv("GENLAB_EMULATION_SEED", str(seed))
        output = Guarded((2, 5, 20, 20), torch.float32)
        params = ForwardParams(
            shape, input.data_ptr(), strides(input), weight.data_ptr(), strides(weight), None,
            output.tensor.data_ptr(), strides(output.tensor), 0.0, 0,
        )  # fmt: skip
        call(library, "genlab_conv2d_forward", params)
        results.append(output.check().clone())
    assert all(torch.equal(results[0], other) for other in results[1:])
