"""conv1d: values and gradients of any order against its definition and torch's, layouts, refusals, and the module."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import Sample, check_compiles, check_cuda, check_op

from genlab import _extension, nn, ops

needs_kernels = pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")
NATIVE = pytest.param("native", marks=needs_kernels)
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def sample(name, input, c_out, k, *, layout="contiguous", bias=True, small=False, **arguments) -> Sample:
    groups = arguments.get("groups", 1)

    def make(dtype, device):
        generator = torch.Generator().manual_seed(1)

        def values(*sizes):
            return torch.randn(sizes, generator=generator, dtype=torch.float64).to(device, dtype)

        image = values(*input)
        if layout == "transposed":  # channels next to each other, as (N, L, C) data comes
            image = image.transpose(1, 2).contiguous().transpose(1, 2)
        if layout == "sliced":
            wide = torch.full((*input[:2], 2 * input[2] + 1), float("nan"), dtype=dtype, device=device)
            wide[..., 1::2] = image
            image = wide[..., 1::2]
        return image, values(c_out, input[1] // groups, k), values(c_out) if bias else None

    return Sample(name, make, arguments, input[1] // groups * k, small)


SAMPLES = [
    sample("one_value", (1, 1, 1), 1, 1, small=True),
    sample("empty_batch", (0, 3, 5), 4, 3, padding=1),
    sample("channels_1", (2, 1, 17), 5, 5, stride=2, padding=2, activation="leaky_relu", small=True),
    sample("channels_3_prime_length", (3, 3, 31), 7, 4, stride=2, padding=1, bias=False),
    sample("dilation", (2, 4, 13), 3, 3, dilation=2, padding=2, activation="tanh", small=True),
    sample("groups", (2, 6, 9), 4, 3, groups=2, padding=1, activation="sigmoid", small=True),
    sample("depthwise", (2, 5, 9), 5, 4, groups=5, activation="silu"),
    sample("reflect", (2, 3, 8), 4, 5, padding=2, padding_mode="reflect", activation="relu", small=True),
    sample("same_even_kernel", (2, 3, 9), 4, 4, padding="same", activation="gelu"),
    sample("same_reflect", (2, 3, 9), 4, 4, padding="same", padding_mode="reflect"),
    sample("valid", (2, 3, 9), 4, 3, padding="valid"),
    sample("beyond_a_tile", (2, 17, 129), 33, 3, padding=1),
    sample("transposed", (2, 8, 10), 3, 3, padding=1, layout="transposed"),
    sample("sliced", (2, 3, 10), 3, 3, layout="sliced", stride=3),
]


@pytest.mark.parametrize("impl", [NATIVE, "torch"])
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_agrees_with_the_definition_in_values_and_derivatives(sample, impl):
    check_op(ops.conv1d, sample, impl=impl, dtypes=DTYPES if impl == "native" else DTYPES[:2])


@pytest.mark.parametrize(
    "sample", [s for s in SAMPLES if not {"padding_mode", "activation"} & set(s.arguments)], ids=str
)
def test_the_definition_agrees_with_torch_functional(sample):
    tensors = sample.make(torch.float64, "cpu")
    expected = F.conv1d(*tensors, **sample.arguments)
    torch.testing.assert_close(ops.conv1d(*tensors, **sample.arguments, impl="reference"), expected)


@needs_kernels
def test_compiles_without_a_graph_break():
    check_compiles(ops.conv1d, SAMPLES[2], "native")


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_cuda_agrees_with_the_definition(sample, dtype):
    check_cuda(ops.conv1d, sample, dtype, "native")


@pytest.mark.parametrize("impl", [NATIVE, "torch", "reference"])
def test_accepts_an_input_without_batch_dimension(impl):
    input, weight = torch.randn(3, 9), torch.randn(4, 3, 3)
    found = ops.conv1d(input, weight, stride=[2], padding=(1,), impl=impl)
    torch.testing.assert_close(found, F.conv1d(input, weight, stride=2, padding=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("impl", [NATIVE, "torch", "reference"])
def test_passes_on_values_that_are_not_finite(impl, value):
    input = torch.randn(1, 2, 8)
    input[0, 1, 3] = value
    weight = torch.randn(3, 2, 3)
    found, expected = ops.conv1d(input, weight, impl=impl), F.conv1d(input, weight)
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-4, atol=1e-5)


INPUT, WEIGHT = torch.randn(2, 4, 9), torch.randn(6, 4, 3)
REFUSALS = {
    "rank": ((torch.randn(1, 2, 3, 4), WEIGHT), {}, ValueError, r"shape \(N, C, L\) or \(C, L\), got \(1, 2, 3, 4\)"),
    "weight_rank": ((INPUT, torch.randn(6, 4)), {}, ValueError, "3-dimensional weight, got"),
    "channels": ((INPUT, torch.randn(6, 3, 3)), {}, ValueError, "input with 3 channels for weight"),
    "groups": ((INPUT, WEIGHT), {"groups": 3}, ValueError, "divisible by groups"),
    "dtype_mix": ((INPUT, WEIGHT.double()), {}, TypeError, "weight of the input's dtype torch.float32"),
    "integers": ((INPUT.long(), WEIGHT.long()), {}, TypeError, "floating point input, got torch.int64"),
    "stride": ((INPUT, WEIGHT), {"stride": 0}, ValueError, "stride >= 1, got 0"),
    "stride_pair": ((INPUT, WEIGHT), {"stride": (1, 2)}, ValueError, "stride to be an int or a sequence of one int"),
    "stride_float": ((INPUT, WEIGHT), {"stride": 1.5}, TypeError, "stride to be an int"),
    "padding": ((INPUT, WEIGHT), {"padding": -1}, ValueError, "padding >= 0, got -1"),
    "padding_word": ((INPUT, WEIGHT), {"padding": "full"}, ValueError, '"same" or "valid", got'),
    "same_strided": ((INPUT, WEIGHT), {"padding": "same", "stride": 2}, ValueError, 'padding "same" expects stride 1'),
    "reflect": ((INPUT, WEIGHT), {"padding": 9, "padding_mode": "reflect"}, ValueError, "padding 9 and length 9"),
    "padding_mode": ((INPUT, WEIGHT), {"padding_mode": "wrap"}, ValueError, "one of zeros, reflect, got 'wrap'"),
    "kernel": ((INPUT, torch.randn(6, 4, 10)), {}, ValueError, "padded length 9 and kernel 10"),
    "empty_length": ((torch.randn(2, 4, 0), WEIGHT), {}, ValueError, "with length >= 1"),
    "bias": ((INPUT, WEIGHT, torch.randn(5)), {}, ValueError, r"bias of shape \(6,\), got \(5\)"),
    "activation": ((INPUT, WEIGHT), {"activation": "swish"}, ValueError, "activation None or one of relu"),
    "impl": ((INPUT, WEIGHT), {"impl": "cuda"}, ValueError, "impl to be one of auto"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_with_a_sentence(name):
    arguments, keywords, error, message = REFUSALS[name]
    with pytest.raises(error, match=message) as caught:
        ops.conv1d(*arguments, **keywords)
    assert str(caught.value).startswith("conv1d: ")


def test_module_loads_the_state_of_torchs_and_gives_its_output():
    theirs = torch.nn.Conv1d(4, 6, 5, stride=2, padding=2, padding_mode="reflect")
    ours = nn.Conv1d(4, 6, 5, stride=2, padding=2, padding_mode="reflect", activation="relu")
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(INPUT), torch.relu(theirs(INPUT)), rtol=1e-4, atol=1e-5)
    assert "activation=relu" in repr(ours)


def test_module_refuses_a_padding_mode_without_kernel():
    with pytest.raises(ValueError, match="Conv1d: expected padding_mode to be one of zeros, reflect, got 'circular'"):
        nn.Conv1d(4, 6, 3, padding_mode="circular")
