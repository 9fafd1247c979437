"""conv_transpose2d: every implementation against the float64 reference, and every documented refusal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conv_samples import TRANSPOSE, tensor
from helpers import check_compiles, check_cuda, check_op, check_values

from genlab import ops

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


@pytest.mark.parametrize("sample", TRANSPOSE, ids=str)
def test_native_agrees_with_the_reference_in_values_and_gradients(sample):
    check_op(ops.conv_transpose2d, sample, impl="native", dtypes=DTYPES)


@pytest.mark.parametrize("sample", TRANSPOSE, ids=str)
def test_torch_implementation_agrees_with_the_reference(sample):
    check_values(ops.conv_transpose2d, sample, torch.float64, "torch")
    check_values(ops.conv_transpose2d, sample, torch.float32, "torch")


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize("sample", TRANSPOSE, ids=str)
def test_cuda_agrees_with_the_reference(sample, dtype):
    check_cuda(ops.conv_transpose2d, sample, dtype, "native")


@pytest.mark.parametrize("impl", ["native", "torch"])
def test_compiles_without_a_graph_break(impl):
    check_compiles(ops.conv_transpose2d, next(s for s in TRANSPOSE if s.name == "dcgan_4x4_stride_2"), impl)


@pytest.mark.parametrize("impl", ["native", "torch", "reference"])
def test_accepts_an_input_without_batch_dimension(impl):
    input, weight = torch.randn(3, 4, 5), torch.randn(3, 2, 4, 4)
    found = ops.conv_transpose2d(input, weight, stride=2, padding=1, impl=impl)
    torch.testing.assert_close(found, F.conv_transpose2d(input, weight, stride=2, padding=1), rtol=1e-4, atol=1e-5)


def test_is_the_input_gradient_of_conv2d():
    input = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    weight = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    image = torch.randn(2, 3, 8, 12, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(F.conv2d(image, weight, stride=2, padding=1), image, input)
    torch.testing.assert_close(ops.conv_transpose2d(input, weight, stride=2, padding=1, impl="native"), expected)


def test_channels_last_in_gives_channels_last_out():
    input = tensor((2, 4, 6, 6), torch.float32, "cpu", "channels_last", 1)
    output = ops.conv_transpose2d(input, torch.randn(4, 5, 4, 4), stride=2, impl="native")
    assert output.is_contiguous(memory_format=torch.channels_last)


RNG = torch.Generator().manual_seed(0)
INPUT = torch.randn(2, 4, 6, 6, generator=RNG)
WEIGHT = torch.randn(4, 6, 3, 3, generator=RNG)

REFUSALS = {
    "input_rank": ((INPUT[0, 0], WEIGHT), {}, ValueError, r"expected input of shape \(N, C, H, W\) or \(C, H, W\)"),
    "weight_rank": ((INPUT, WEIGHT[0]), {}, ValueError, "expected a 4-dimensional weight"),
    "integer_input": ((INPUT.int(), WEIGHT.int()), {}, TypeError, "expected a floating point input"),
    "weight_dtype": ((INPUT, WEIGHT.double()), {}, TypeError, "weight of the input's dtype"),
    "weight_device": ((INPUT, WEIGHT.to("meta")), {}, RuntimeError, "weight on the input's device cpu, got meta"),
    "channels": ((INPUT[:, :3], WEIGHT), {}, ValueError, "expected input with 4 channels"),
    "groups": ((INPUT, WEIGHT), {"groups": 3}, ValueError, "input channels to be divisible by groups, got 4"),
    "bias_shape": ((INPUT, WEIGHT, torch.zeros(4)), {}, ValueError, r"expected bias of shape \(6,\), got \(4\)"),
    "bias_shape_groups": ((INPUT, WEIGHT, torch.zeros(6)), {"groups": 2}, ValueError, r"bias of shape \(12,\)"),
    "stride_zero": ((INPUT, WEIGHT), {"stride": (1, 0)}, ValueError, "expected stride >= 1"),
    "padding_word": ((INPUT, WEIGHT), {"padding": "same"}, TypeError, "padding to be an int or a pair of ints"),
    "output_padding_stride": ((INPUT, WEIGHT), {"stride": 2, "output_padding": 2}, ValueError,
                              "output_padding smaller than stride or dilation"),
    "output_padding_negative": ((INPUT, WEIGHT), {"output_padding": -1}, ValueError, "expected output_padding >= 0"),
    "no_output": ((INPUT[..., :1, :1], WEIGHT), {"padding": 2}, ValueError, "output height >= 1, got -1; reduce the"),
    "no_width": ((INPUT[..., :0], WEIGHT), {}, ValueError, "expected input and weight with width >= 1"),
    "no_channels": ((INPUT[:, :0], WEIGHT[:0]), {}, ValueError, "weight with at least one channel"),
    "activation": ((INPUT, WEIGHT), {"activation": "Tanh"}, ValueError, "got 'Tanh'"),
    "impl": ((INPUT, WEIGHT), {"impl": "fused"}, ValueError, "got 'fused'"),
    "native_dtype": ((INPUT.half(), WEIGHT.half()), {"impl": "native"}, NotImplementedError, "dtype float16 is not"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_with_a_sentence(name):
    arguments, keywords, error, message = REFUSALS[name]
    with pytest.raises(error, match=message) as caught:
        ops.conv_transpose2d(*arguments, **keywords)
    assert str(caught.value).startswith("conv_transpose2d: ")
