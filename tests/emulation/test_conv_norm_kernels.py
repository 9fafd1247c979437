"""Convolutions with normalisations fused into load and store: their own CUDA source on the host against float64."""

from __future__ import annotations

import ctypes
import dataclasses

import pytest
import torch
from conv2d_problem import TOLERANCE
from conv_norm_problem import ConvNorm, NormForward, NormGradient, NormProblem, NormWeightGradient, errors
from emulation_harness import CSRC, KernelFault, Library, build

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
IDS = ["bf16", "fp16", "tf32"]
# A normalised operand is rounded once more on its way in.
FACTOR = 2.0

PROBLEMS = [
    NormProblem(c_in=16, c_out=24, h=9, w=7),
    NormProblem(c_in=5, c_out=3, h=6, w=5),
    NormProblem(c_in=3, c_out=64, h=8, w=9, kernel=(4, 4), stride=(2, 2), norm_activation="relu"),
    NormProblem(c_in=72, c_out=8, h=5, w=11, kernel=(5, 3), padding=(2, 0), stride=(1, 2), bias=False),
    NormProblem(c_in=8, c_out=40, h=11, w=9, dilation=(2, 1), padding=(2, 1), norm_activation=None),
    NormProblem(c_in=32, c_out=16, h=1, w=1, kernel=(4, 4), padding=(3, 3)),
    NormProblem(c_in=24, c_out=16, h=6, w=6, channels_last=False),
    NormProblem(c_in=16, c_out=16, norm=False),
    NormProblem(c_in=16, c_out=16, statistics=False),
    NormProblem(c_in=16, c_out=16, affine=False),
]
TRANSPOSED = [
    NormProblem(c_in=24, c_out=16, h=10, w=8, kernel=(4, 4), stride=(2, 2), transposed=True),
    NormProblem(c_in=3, c_out=40, h=9, w=7, kernel=(4, 4), stride=(2, 2), transposed=True, norm_activation="relu"),
    NormProblem(c_in=16, c_out=8, h=7, w=11, kernel=(3, 3), stride=(2, 3), transposed=True),
    NormProblem(c_in=16, c_out=5, h=4, w=4, kernel=(4, 4), padding=(0, 0), transposed=True, norm=False),
    NormProblem(c_in=8, c_out=16, h=6, w=6, transposed=True, statistics=False, channels_last=False),
]
TILES = [
    NormProblem(n=1, h=1, w=w, c_in=c_in, c_out=c_out, kernel=(1, 1), padding=(0, 0), tile=tile)
    for w, c_in, c_out, tile in [
        *[(63, 40, 63, "64x64"), (65, 32, 72, "64x64"), (127, 24, 120, "128x128"), (129, 40, 136, "128x128")],
        *[(127, 88, 31, "128x32"), (130, 8, 40, "128x32")],
    ]
]


# The gradient's source has the output's channels.
GRADIENT_TILES = [
    dataclasses.replace(problem, c_in=problem.c_out, c_out=problem.c_in) for problem in TILES if problem.c_in % 8 == 0
]


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(build(CSRC / "emulation" / "conv2d_norm.cpp"))


@pytest.fixture(scope="module")
def weight_library() -> Library:
    return Library(build(CSRC / "emulation" / "conv2d_norm_weight.cpp"))


def assert_small(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    for name, error in errors(found, expected).items():
        assert error < FACTOR * TOLERANCE[dtype], f"{name}: {error}"


def kept(problem: NormProblem, expected: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The output and its mean as a forward pass would have left them."""
    return problem._laid_out(expected["y"].to(problem.dtype)), expected["out_mean"].float()


def test_the_parameter_structs_match_the_header(library: Library, weight_library: Library) -> None:
    sizes = [library.value(f"size_of_conv_norm_{op}", ctypes.c_int64) for op in ("forward", "gradient")]
    sizes.append(weight_library.value("size_of_conv_norm_weight", ctypes.c_int64))
    assert sizes == [ctypes.sizeof(struct) for struct in (NormForward, NormGradient, NormWeightGradient)]


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("problem", [*PROBLEMS, *TRANSPOSED, *TILES], ids=str)
def test_forward_normalises_on_the_way_in_and_takes_statistics_on_the_way_out(
    library: Library, problem: NormProblem, dtype: torch.dtype
) -> None:
    problem = dataclasses.replace(problem, dtype=dtype)
    _, expected = problem.reference()
    found = problem.run_norm_forward(library)
    assert_small({"y": found["y"]}, expected, dtype)
    if problem.statistics:  # of the values as stored, to float32's digits
        y = found["y"].double()
        torch.testing.assert_close(found["out_mean"].double(), y.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found["out_var"].double(), y.var((0, 2, 3), unbiased=False), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("problem", [*PROBLEMS, *TRANSPOSED, *GRADIENT_TILES], ids=str)
def test_input_gradient_goes_through_statistics_and_normalisation(
    library: Library, problem: NormProblem, dtype: torch.dtype
) -> None:
    problem = dataclasses.replace(problem, dtype=dtype)
    _, expected = problem.reference()
    found = problem.run_norm_gradient(library, *kept(problem, expected))
    if not problem.affine:
        found = {name: value for name, value in found.items() if name not in ("d_norm_weight", "d_norm_bias")}
    assert_small(found, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("problem", [*PROBLEMS, *TRANSPOSED], ids=str)
def test_weight_gradient_computes_its_operands_again(
    weight_library: Library, problem: NormProblem, dtype: torch.dtype
) -> None:
    problem = dataclasses.replace(problem, dtype=dtype)
    _, expected = problem.reference()
    assert_small(problem.run_norm_weight(weight_library, *kept(problem, expected)), expected, dtype)


def test_weight_gradient_in_wide_tiles_and_splits(weight_library: Library) -> None:
    problem = NormProblem(n=5, c_in=72, c_out=136, h=8, w=8, tile="128x128")
    _, expected = problem.reference()
    assert_small(problem.run_norm_weight(weight_library, *kept(problem, expected)), expected, problem.dtype)


@pytest.mark.parametrize("channels", [16, 5], ids=["vectors", "elements"])
def test_zero_padding_stays_zero_after_the_affine(library: Library, weight_library: Library, channels: int) -> None:
    """The shift alone would make 0.4 of a padded zero; a corner's window is padding but for one element."""
    problem = NormProblem(n=1, c_in=channels, c_out=8, h=3, w=3, padding=(2, 2), norm_activation=None, bias=False)
    _, expected = problem.reference()
    found = problem.run_norm_forward(library)
    corner = found["y"][0, :, 0, 0].double()
    torch.testing.assert_close(corner, expected["y"][0, :, 0, 0], rtol=2e-2, atol=2e-2)
    found |= problem.run_norm_weight(weight_library, *kept(problem, expected))
    assert_small({name: found[name] for name in ("y", "d_weight")}, expected, problem.dtype)


@pytest.mark.parametrize("offset", [100.0, 1000.0])
def test_statistics_keep_their_digits_where_the_mean_is_far_from_zero(library: Library, offset: float) -> None:
    """1x1 kernel, weight one: the output is the input, mean 1000 and deviation 1; E[x^2] - E[x]^2 would be noise."""
    problem = NormProblem(
        n=3, c_in=8, c_out=8, h=16, w=16, kernel=(1, 1), padding=(0, 0), norm=False, bias=False, offset=offset,
        dtype=torch.float32, tile="64x64",
    )  # fmt: skip
    made = problem.make()
    eye = torch.eye(8).reshape(8, 8, 1, 1)
    values = made["x"].bfloat16().float().contiguous(memory_format=torch.channels_last)  # exact in tf32
    buffers = problem.buffers(made | {"x": values, "weight": eye})
    params = problem.gather_params(buffers["x"], buffers["weight"], None, buffers["y"])
    fused = NormForward(ConvNorm(), buffers["out_mean"].pointer, buffers["out_var"].pointer)
    problem.launch(library, "forward", False, params, fused, ConvNorm(), buffers)
    exact = values.double()
    assert torch.equal(buffers["y"].tensor, values)
    torch.testing.assert_close(buffers["out_mean"].tensor.double(), exact.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        buffers["out_var"].tensor.double(), exact.var((0, 2, 3), unbiased=False), rtol=2e-5, atol=0
    )


def test_normalising_keeps_its_digits_where_the_mean_is_far_above_the_deviation(library: Library) -> None:
    problem = NormProblem(c_in=8, c_out=8, offset=64.0, dtype=torch.float32)
    _, expected = problem.reference()
    assert_small(problem.run_norm_forward(library), expected | {"y": expected["y"]}, torch.float32)
    found = problem.run_norm_gradient(library, *kept(problem, expected))
    assert_small(found, expected, torch.float32)


@pytest.mark.parametrize("early_copies", [False, True], ids=["late", "early"])
@pytest.mark.parametrize("tile", ["64x64", "128x128", "128x32"])
def test_every_legal_schedule_gives_the_same_bits(
    library: Library, weight_library: Library, tile: str, early_copies: bool
) -> None:
    problem = NormProblem(n=2, c_in=40, c_out=40, h=9, w=8, stride=(2, 1), tile=tile)
    _, expected = problem.reference()
    y, mean = kept(problem, expected)
    first: list[torch.Tensor] | None = None
    for seed in range(4):
        library.configure(seed, early_copies)
        weight_library.configure(seed, early_copies)
        found = problem.run_norm_forward(library) | problem.run_norm_gradient(library, y, mean)
        if tile != "128x32":
            found |= problem.run_norm_weight(weight_library, y, mean)
        results = [value.clone() for value in found.values()]
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(first, results, strict=True))
    library.configure()
    weight_library.configure()


@pytest.mark.parametrize("dtype", DTYPES, ids=IDS)
@pytest.mark.parametrize("statistics", [True, False])
def test_tensors_that_do_not_start_on_16_bytes_are_read_by_element(
    library: Library, weight_library: Library, dtype: torch.dtype, statistics: bool
) -> None:
    problem = NormProblem(c_in=16, c_out=24, h=6, w=5, dtype=dtype, statistics=statistics, shift=1)
    _, expected = problem.reference()
    found = problem.run_norm_gradient(library, *kept(problem, expected))
    found |= problem.run_norm_weight(weight_library, *kept(problem, expected))
    assert_small(found, expected, dtype)


def test_nan_of_one_pixel_reaches_the_statistics_of_every_channel(library: Library) -> None:
    problem = NormProblem(c_in=8, c_out=8, norm=False)
    made = problem.make()
    made["x"][0, 0, 3, 3] = float("nan")
    buffers = problem.buffers(made)
    params = problem.gather_params(buffers["x"], buffers["weight"], None, buffers["y"])
    fused = NormForward(ConvNorm(), buffers["out_mean"].pointer, buffers["out_var"].pointer)
    problem.launch(library, "forward", False, params, fused, ConvNorm(), buffers)
    assert buffers["out_mean"].tensor.isnan().all() and buffers["out_var"].tensor.isnan().all()


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (NormProblem(norm_activation="tanh"), "only relu and leaky_relu"),
        (NormProblem(dtype=torch.float64), "float64"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused_with_a_reason(
    library: Library, problem: NormProblem, reason: str
) -> None:
    with pytest.raises(NotImplementedError, match=reason):
        problem.run_norm_forward(library)


def test_a_tile_that_needs_vector_loads_refuses_other_sources(library: Library) -> None:
    with pytest.raises(KernelFault, match="16-byte loads"):
        NormProblem(c_in=5, c_out=72, tile="128x128").run_norm_forward(library)
