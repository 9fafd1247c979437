"""conv2d: every implementation against the float64 reference, and every documented refusal."""

from __future__ import annotations

import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F
from conv_samples import CONV2D, tensor
from helpers import check_compiles, check_cuda, check_op, check_values

from genlab import ops

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


@pytest.mark.parametrize("sample", CONV2D, ids=str)
def test_native_agrees_with_the_reference_in_values_and_gradients(sample):
    check_op(ops.conv2d, sample, impl="native", dtypes=DTYPES)


@pytest.mark.parametrize("sample", CONV2D, ids=str)
def test_torch_implementation_agrees_with_the_reference(sample):
    check_values(ops.conv2d, sample, torch.float64, "torch")
    check_values(ops.conv2d, sample, torch.float32, "torch")


@pytest.mark.parametrize(
    "sample", [s for s in CONV2D if not {"padding_mode", "activation"} & set(s.arguments)], ids=str
)
def test_reference_agrees_with_torch_functional(sample):
    input, weight, bias = sample.make(torch.float64, "cpu")
    expected = F.conv2d(input, weight, bias, **sample.arguments)
    torch.testing.assert_close(ops.conv2d(input, weight, bias, **sample.arguments, impl="reference"), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize("sample", CONV2D, ids=str)
def test_cuda_agrees_with_the_reference(sample, dtype):
    check_cuda(ops.conv2d, sample, dtype, "native")


@pytest.mark.parametrize("impl", ["native", "torch"])
@pytest.mark.parametrize("name", ["dcgan_4x4_stride_2", "reflect"])
def test_compiles_without_a_graph_break(name, impl):
    sample = next(s for s in CONV2D if s.name == name)
    check_compiles(ops.conv2d, sample, impl)


@pytest.mark.slow
def test_compiles_with_inductor():
    with torch._inductor.config.patch(compile_threads=1):
        sample = next(s for s in CONV2D if s.name == "dcgan_4x4_stride_2")
        check_compiles(ops.conv2d, sample, "native", backend="inductor")


@pytest.mark.parametrize("impl", ["native", "torch", "reference"])
def test_accepts_an_input_without_batch_dimension(impl):
    input, weight = torch.randn(3, 6, 5), torch.randn(4, 3, 3, 3)
    found = ops.conv2d(input, weight, padding=1, activation="relu", impl=impl)
    torch.testing.assert_close(found, F.relu(F.conv2d(input, weight, padding=1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", ["native", "torch"])
def test_channels_last_in_gives_channels_last_out(impl):
    input = tensor((2, 4, 6, 6), torch.float32, "cpu", "channels_last", 1)
    output = ops.conv2d(input, torch.randn(5, 4, 3, 3), impl=impl)
    assert output.is_contiguous(memory_format=torch.channels_last)


def test_native_does_not_depend_on_the_number_of_threads():
    input, weight = torch.randn(4, 9, 17, 17), torch.randn(70, 9, 3, 3)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            leaves = [input.clone().requires_grad_(), weight.clone().requires_grad_()]
            output = ops.conv2d(*leaves, padding=1, impl="native")
            results.append([output.detach(), *torch.autograd.grad(output.sin().sum(), leaves)])
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


@pytest.mark.parametrize("impl", ["native", "torch", "reference"])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "tanh", "silu"])
def test_nan_and_infinity_reach_exactly_the_outputs_that_read_them(impl, activation):
    input = torch.ones(1, 1, 5, 5)
    input[0, 0, 0, 0], input[0, 0, 4, 4] = float("nan"), float("inf")
    output = ops.conv2d(input, torch.ones(1, 1, 2, 2), activation=activation, impl=impl)[0, 0]
    assert output[0, 0].isnan()
    assert output[3, 3] == (1 if activation == "tanh" else float("inf"))
    assert output.flatten()[1:-1].isfinite().all()


RNG = torch.Generator().manual_seed(0)
INPUT = torch.randn(2, 4, 6, 6, generator=RNG)
WEIGHT = torch.randn(6, 4, 3, 3, generator=RNG)

REFUSALS = {
    "input_rank": ((INPUT[0, 0], WEIGHT), {}, ValueError, r"expected input of shape \(N, C, H, W\) or \(C, H, W\)"),
    "weight_rank": ((INPUT, WEIGHT[0]), {}, ValueError, "expected a 4-dimensional weight"),
    "integer_input": ((INPUT.long(), WEIGHT.long()), {}, TypeError, "floating point input, got torch.int64"),
    "weight_dtype": ((INPUT, WEIGHT.double()), {}, TypeError, "weight of the input's dtype torch.float32, got .*64"),
    "bias_dtype": ((INPUT, WEIGHT, torch.zeros(6).double()), {}, TypeError, "expected bias of the input's dtype"),
    "weight_device": ((INPUT, WEIGHT.to("meta")), {}, RuntimeError, "weight on the input's device cpu, got meta"),
    "channels": ((INPUT[:, :3], WEIGHT), {}, ValueError, "expected input with 4 channels"),
    "groups_input": ((INPUT, WEIGHT), {"groups": 3}, ValueError, "input channels to be divisible by groups, got 4"),
    "groups_output": ((INPUT, WEIGHT[:5, :2]), {"groups": 2}, ValueError, "output channels to be divisible by groups"),
    "groups_zero": ((INPUT, WEIGHT), {"groups": 0}, ValueError, "expected groups >= 1, got 0"),
    "groups_type": ((INPUT, WEIGHT), {"groups": 1.0}, TypeError, "expected groups to be an int, got 1.0"),
    "bias_shape": ((INPUT, WEIGHT, torch.zeros(5)), {}, ValueError, r"expected bias of shape \(6,\), got \(5\)"),
    "stride_zero": ((INPUT, WEIGHT), {"stride": 0}, ValueError, "expected stride >= 1, got 0"),
    "stride_triple": ((INPUT, WEIGHT), {"stride": (1, 1, 1)}, ValueError, "stride to be an int or a pair"),
    "stride_type": ((INPUT, WEIGHT), {"stride": 1.5}, TypeError, "stride to be an int or a pair of ints, got 1.5"),
    "dilation_zero": ((INPUT, WEIGHT), {"dilation": 0}, ValueError, "expected dilation >= 1"),
    "padding_negative": ((INPUT, WEIGHT), {"padding": -1}, ValueError, "expected padding >= 0, got -1"),
    "padding_word": ((INPUT, WEIGHT), {"padding": "full"}, ValueError, '"same" or "valid", got \'full\''),
    "same_strided": ((INPUT, WEIGHT), {"padding": "same", "stride": 2}, ValueError, 'padding "same" expects stride 1'),
    "padding_mode": ((INPUT, WEIGHT), {"padding_mode": "circular"}, ValueError, "zeros, reflect, got 'circular'"),
    "reflect_too_large": ((INPUT, WEIGHT), {"padding": (6, 0), "padding_mode": "reflect"}, ValueError,
                          "reflect padding must be smaller than the input's height, got padding 6 and height 6"),
    "kernel_too_large": ((INPUT[..., :2], WEIGHT), {}, ValueError, "padded width 2 and kernel 3"),
    "no_height": ((INPUT[:, :, :0], WEIGHT), {"padding": 2}, ValueError, "expected input and weight with height >= 1"),
    "no_kernel": ((INPUT, WEIGHT[..., :0]), {}, ValueError, "expected input and weight with width >= 1"),
    "no_channels": ((INPUT[:, :0], WEIGHT[:, :0]), {}, ValueError, "weight with at least one channel"),
    "activation": ((INPUT, WEIGHT), {"activation": "swish"}, ValueError, "sigmoid, gelu, silu, got 'swish'"),
    "negative_slope": ((INPUT, WEIGHT), {"activation": "leaky_relu", "negative_slope": -1.0}, ValueError,
                       "expected negative_slope >= 0"),
    "impl": ((INPUT, WEIGHT), {"impl": "cuda"}, ValueError, "auto, native, torch, reference, got 'cuda'"),
    "native_dtype": ((INPUT.half(), WEIGHT.half()), {"impl": "native"}, NotImplementedError,
                     "dtype float16 is not one of float32, float64, bfloat16 on cpu; use impl=\"torch\""),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_with_a_sentence(name):
    arguments, keywords, error, message = REFUSALS[name]
    with pytest.raises(error, match=message) as caught:
        ops.conv2d(*arguments, **keywords)
    assert str(caught.value).startswith("conv2d: ")


@pytest.mark.cuda
def test_refuses_tensors_on_two_devices():
    with pytest.raises(RuntimeError, match="expected weight on the input's device cuda:0, got cpu"):
        ops.conv2d(INPUT.cuda(), WEIGHT)
