"""The normalisation kernels' own CUDA source, run on the host: values, bounds, schedules."""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch
import torch.nn.functional as F
from emulation_harness import CSRC, Guarded, Library, build

from genlab.ops import activation as act

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ACTIVATIONS = (None, "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu")
EPS, SLOPE = 1e-3, 0.2
Pointer = ctypes.c_void_p


class Geometry(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n", "c", "s")),
        *((name, ctypes.c_int32) for name in ("channels_last", "per_sample", "dtype", "reflect_pad")),
        ("w", ctypes.c_int64),
    ]


class Affine(ctypes.Structure):
    _fields_ = [
        *((name, Pointer) for name in ("mean", "var", "weight", "bias", "residual")),
        *((name, ctypes.c_double) for name in ("eps", "negative_slope")),
        ("activation", ctypes.c_int32),
    ]


class Statistics(ctypes.Structure):
    _fields_ = [
        ("geometry", Geometry),
        *((name, Pointer) for name in ("input", "mean", "var", "running_mean", "running_var")),
        ("momentum", ctypes.c_double),
        ("workspace", Pointer),
    ]


class Forward(ctypes.Structure):
    _fields_ = [("geometry", Geometry), ("affine", Affine), ("input", Pointer), ("output", Pointer)]


class Sums(ctypes.Structure):
    _fields_ = [
        ("geometry", Geometry),
        ("affine", Affine),
        *((name, Pointer) for name in ("grad_output", "input", "sum_grad", "sum_grad_normalised", "workspace")),
    ]


class BackwardInput(ctypes.Structure):
    _fields_ = [
        ("geometry", Geometry),
        ("affine", Affine),
        *((name, Pointer) for name in ("grad_output", "input", "sum_grad", "sum_grad_normalised")),
        ("inverse_count", ctypes.c_double),
        *((name, Pointer) for name in ("grad_input", "grad_residual")),
    ]


@pytest.fixture(scope="module")
def library():
    return Library(build(CSRC / "emulation/norm_act.cpp"))


class Problem:
    """Tensors of one normalisation in guarded memory, its exact result, and the kernels' calls."""

    def __init__(self, library, shape, dtype, *, channels_last=False, per_sample=False, offset=0, seed=0, pad=0):
        self.library, self.dtype, self.pad = library, dtype, pad
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *sizes: torch.randn(sizes, generator=generator, dtype=torch.float64)  # noqa: E731
        layout = torch.channels_last if channels_last else torch.contiguous_format
        padded = (*shape[:2], shape[2] + 2 * pad, shape[3] + 2 * pad)
        big = [(draw(*shape) * 2 + 3).to(dtype), draw(*shape).to(dtype), draw(*padded).to(dtype)]
        self.input, self.residual, self.grad_output = (Guarded(t.to(memory_format=layout), offset=offset) for t in big)
        self.wide = torch.float64 if dtype == torch.float64 else torch.float32
        channels = shape[1]
        self.weight, self.bias = (Guarded(draw(channels).to(self.wide)) for _ in range(2))
        self.geometry = Geometry(
            shape[0], channels, shape[2] * shape[3], channels_last, per_sample, DTYPES.index(dtype), pad, shape[3]
        )
        self.per_sample, self.groups = per_sample, (shape[:2] if per_sample else (channels,))
        bytes_ = library.value("genlab_norm_act_workspace_bytes", ctypes.c_int64, ctypes.byref(self.geometry))
        self.workspace = self.output_like(torch.empty(bytes_, dtype=torch.uint8))

    @staticmethod
    def output_like(tensor):
        return Guarded(tensor, fill=False)

    def small(self):
        return self.output_like(torch.empty(self.groups, dtype=self.wide))

    def big(self):
        return self.output_like(self.input.tensor)

    def call(self, name, params):
        self.library.call(name, ctypes.byref(params))
        self.workspace.check("workspace")

    def statistics(self, running=None):
        mean, var = self.small(), self.small()
        pointers = [None, None] if running is None else [t.pointer for t in running]
        self.call(
            "genlab_norm_statistics",
            Statistics(
                self.geometry, self.input.pointer, mean.pointer, var.pointer, *pointers, 0.1, self.workspace.pointer
            ),
        )
        mean.check("mean")
        var.check("var")
        return mean, var

    def affine(self, mean, var, activation, with_residual):
        residual = self.residual.pointer if with_residual else None
        code = ACTIVATIONS.index(activation)
        return Affine(mean.pointer, var.pointer, self.weight.pointer, self.bias.pointer, residual, EPS, SLOPE, code)

    def run(self, activation, with_residual):
        """output, grad_input, grad_residual, grad_weight and grad_bias sums of the kernels."""
        mean, var = self.statistics()
        affine = self.affine(mean, var, activation, with_residual)
        output, grad_input, grad_residual = self.output_like(self.grad_output.tensor), self.big(), self.big()
        sum_grad, sum_normalised = self.small(), self.small()
        self.call("genlab_norm_act", Forward(self.geometry, affine, self.input.pointer, output.pointer))
        gradient = (self.geometry, affine, self.grad_output.pointer, self.input.pointer)
        sums = (sum_grad.pointer, sum_normalised.pointer)
        self.call("genlab_norm_act_backward_sums", Sums(*gradient, *sums, self.workspace.pointer))
        count = self.input.tensor.numel() // sum_grad.tensor.numel()
        self.call(
            "genlab_norm_act_backward_input",
            BackwardInput(*gradient, *sums, 1.0 / count, grad_input.pointer, grad_residual.pointer),
        )
        found = (output, grad_input, grad_residual, sum_normalised, sum_grad)
        for guarded in found:
            guarded.check()
        return [guarded.tensor for guarded in found]

    def expected(self, activation, with_residual):
        leaves = [t.tensor.double().requires_grad_() for t in (self.input, self.residual)]
        affine = [t.tensor.double().expand(self.groups).clone().requires_grad_() for t in (self.weight, self.bias)]
        x = leaves[0]
        norm = F.instance_norm if self.per_sample else F.batch_norm
        normalised = norm(x, None, None, None, None, True, 0.0, EPS)
        sizes = (-1, x.shape[1], 1, 1)
        z = normalised * affine[0].reshape(sizes) + affine[1].reshape(sizes)
        # Without a residual its gradient is still that of z.
        z = z + (leaves[1] if with_residual else leaves[1] - leaves[1].detach())
        output = F.pad(act.apply(z, activation, SLOPE), (self.pad,) * 4, mode="reflect")
        gradients = torch.autograd.grad(output, [*leaves, *affine], self.grad_output.tensor.double())
        return [output.detach(), *gradients]


def assert_close(found, expected, dtype):
    for a, e in zip(found, expected, strict=True):
        step = torch.finfo(a.dtype).eps
        scale = e.abs().max().item()
        loose = 64 if dtype in (torch.float32, torch.float64) else 4
        torch.testing.assert_close(
            a.double(), e, rtol=loose * step, atol=loose * max(step, 1e-6 * (dtype != torch.float64)) * scale
        )


SHAPES = [(2, 3, 5, 7), (3, 32, 3, 3), (2, 136, 4, 4), (5, 1, 1, 1), (4, 17, 1, 1), (2, 2, 40, 64)]
LAYOUTS = list(itertools.product((False, True), (False, True)))


@pytest.mark.parametrize("channels_last, per_sample", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_the_definition(library, dtype, channels_last, per_sample):
    for shape in SHAPES:
        if per_sample and shape[2] * shape[3] == 1:
            continue
        problem = Problem(library, shape, dtype, channels_last=channels_last, per_sample=per_sample)
        assert_close(problem.run("leaky_relu", True), problem.expected("leaky_relu", True), dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(library, activation):
    problem = Problem(library, (2, 8, 3, 4), torch.float64, channels_last=True)
    assert_close(problem.run(activation, False), problem.expected(activation, False), torch.float64)


def test_tensors_that_start_off_a_pack_boundary_take_the_narrow_path(library):
    problem = Problem(library, (2, 16, 4, 4), torch.float32, channels_last=True, offset=1)
    assert_close(problem.run("relu", True), problem.expected("relu", True), torch.float32)


# Images of which every row is mirrored at both borders, of one mirrored twice, of several blocks.
PADDED = [((2, 3, 2, 3), 1), ((2, 16, 5, 4), 3), ((3, 36, 9, 7), 2), ((1, 8, 40, 37), 3), ((70, 1, 4, 6), 1)]


@pytest.mark.parametrize("channels_last, per_sample", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mirrored_borders_and_their_folded_gradient_agree_with_the_definition(
    library, dtype, channels_last, per_sample
):
    for shape, pad in PADDED:
        problem = Problem(library, shape, dtype, channels_last=channels_last, per_sample=per_sample, pad=pad)
        assert_close(problem.run("leaky_relu", True), problem.expected("leaky_relu", True), dtype)


def test_mirrored_borders_off_a_pack_boundary(library):
    problem = Problem(library, (2, 16, 5, 4), torch.float32, channels_last=True, pad=2, offset=1)
    assert_close(problem.run("relu", False), problem.expected("relu", False), torch.float32)


@pytest.mark.parametrize("channels_last, per_sample", LAYOUTS)
def test_results_do_not_depend_on_the_schedule(library, channels_last, per_sample):
    results = []
    for seed in (1, 2, 3):
        library.configure(seed)
        for pad in (0, 2):
            problem = Problem(
                library, (3, 8, 12, 20), torch.float32, channels_last=channels_last, per_sample=per_sample, pad=pad
            )
            results.append(problem.run("leaky_relu", False))
    for index, other in enumerate(results):
        assert all(torch.equal(a, b) for a, b in zip(results[index % 2], other, strict=True))


def test_running_statistics_move_by_the_momentum(library):
    problem = Problem(library, (4, 6, 5, 5), torch.float32)
    running = [Guarded(torch.full((6,), value)) for value in (0.5, 2.0)]
    expected = [t.tensor.double() for t in running]
    problem.statistics(running)
    F.batch_norm(problem.input.tensor.double(), *expected, training=True)
    for found, value in zip(running, expected, strict=True):
        found.check()
        torch.testing.assert_close(found.tensor.double(), value, rtol=1e-6, atol=1e-6)


def test_a_variance_small_beside_the_mean_keeps_its_digits(library):
    problem = Problem(library, (4, 4, 40, 64), torch.float32)
    problem.input.tensor.mul_(0.01).add_(1000.0)
    _, var = problem.statistics()
    expected = problem.input.tensor.double().var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(var.tensor.double(), expected, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_border_value_far_from_all_others_costs_the_variance_no_digits(library, channels_last):
    problem = Problem(library, (1, 4, 64, 128), torch.float32, channels_last=channels_last, per_sample=True)
    problem.input.tensor.mul_(0.001)
    problem.input.tensor[:, :, 0, 0] = -300.0
    _, var = problem.statistics()
    expected = problem.input.tensor.double().var((2, 3), unbiased=False)
    torch.testing.assert_close(var.tensor.double(), expected, rtol=2e-6, atol=0.0)


def test_the_parameter_structs_have_the_layout_that_these_tests_declare(library):
    sizes = (ctypes.c_int64 * 4)()
    library.value("genlab_norm_act_params_sizes", None, sizes)
    assert list(sizes) == [ctypes.sizeof(t) for t in (Statistics, Forward, Sums, BackwardInput)]
