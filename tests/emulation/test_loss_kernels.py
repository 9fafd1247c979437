"""The losses' own CUDA source, run on the host: values, bounds, schedules, seeded faults, and the sanitizers."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch
from emulation_harness import CSRC, SANITIZE, Guarded, KernelFault, Library, build
from test_seeded_faults import apart

from genlab import ops
from genlab.ops.cross_entropy import REDUCTIONS, definition

SOURCE = CSRC / "emulation/losses.cpp"
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
Pointer, Long, Int, Double = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_double


def fields(kind: type, *names: str) -> list[tuple]:
    return [(name, kind) for name in names]


class Side(ctypes.Structure):
    _fields_ = [("count", Long), *fields(Double, "target", "weight"), *fields(Pointer, "logits", "gradient")]


class GanLoss(ctypes.Structure):
    _fields_ = [*fields(Int, "dtype", "term"), ("sides", Side * 2), *fields(Pointer, "loss", "partial")]


class CrossEntropy(ctypes.Structure):
    _fields_ = [
        *fields(Long, "n", "classes", "m"), *fields(Int, "dtype", "reduction"),
        ("ignored", Long), ("smoothing", Double),
        *fields(Pointer, "input", "target", "weight", "row_loss", "moments", "divisor", "loss", "grad_input"),
    ]  # fmt: skip


class CrossEntropyBackward(ctypes.Structure):
    _fields_ = [
        *fields(Long, "n", "classes", "m"), *fields(Int, "dtype", "reduction"),
        ("ignored", Long), ("smoothing", Double),
        *fields(Pointer, "grad_loss", "input", "target", "weight", "moments", "divisor", "grad_input"),
    ]  # fmt: skip


class Latents(ctypes.Structure):
    _fields_ = [
        *fields(Long, "n", "k", "d"), ("dtype", Int), *fields(Long, "mean_stride", "log_variance_stride"),
        *fields(Pointer, "mean", "log_variance", "noise", "z", "kl"),
    ]  # fmt: skip


class LatentsBackward(ctypes.Structure):
    _fields_ = [
        *fields(Long, "n", "k", "d"), ("dtype", Int), *fields(Long, "mean_stride", "log_variance_stride"),
        *fields(Pointer, "grad_z", "grad_kl", "mean", "log_variance", "noise"),
        *fields(Pointer, "grad_mean", "grad_log_variance", "grad_noise"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(build(SOURCE))


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def draw(seed: int, dtype: torch.dtype, *sizes: int) -> torch.Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def blank(dtype: torch.dtype, *sizes: int) -> Guarded:
    return Guarded(torch.empty(sizes, dtype=dtype), fill=False)


def call(library: Library, name: str, params: ctypes.Structure, *buffers: Guarded) -> None:
    library.call(name, ctypes.byref(params))
    for buffer in buffers:
        buffer.check(name)


# The discriminator's side of each loss: term, targets of generated and real logits.
GAMES = {"non_saturating": (0, (0, 1)), "lsgan": (1, (0, 1)), "hinge": (2, (1, -1)), "wasserstein": (3, (1, -1))}


def run_gan(library: Library, loss: str, counts: tuple[int, int], dtype: torch.dtype, with_gradient: bool = True):
    """(found, expected) of loss and gradients."""
    term, targets = GAMES[loss]
    logits = [Guarded(draw(i, dtype, count) * 2) for i, count in enumerate(counts)]
    gradients = [blank(wide(dtype), count) for count in counts]
    value = blank(wide(dtype), 1)
    params = GanLoss(DTYPES.index(dtype), term, loss=value.pointer)
    for side, target, x, g in zip(params.sides, targets, logits, gradients, strict=True):
        side.count, side.target, side.weight, side.logits = x.tensor.numel(), target, 1.0, x.pointer
        side.gradient = g.pointer if with_gradient else None
    blocks = library.value("genlab_gan_loss_blocks", Long, ctypes.byref(params))
    partial = blank(torch.float64, blocks, 2)
    params.partial = partial.pointer
    call(library, "genlab_gan_loss", params, value, partial, *logits, *gradients)
    leaves = [x.tensor.double().requires_grad_() for x in logits]
    expected = ops.gan_loss(loss, *leaves, impl="reference")
    found = [value.tensor[0], *(g.tensor for g in gradients)]
    exact = [expected.detach(), *torch.autograd.grad(expected, leaves)]
    return (found, exact) if with_gradient else (found[:1], exact[:1])


def run_cross_entropy(
    library: Library,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    reduction: str = "mean",
    smoothing: float = 0.1,
    weighted: bool = True,
):
    """(found, expected) of loss and gradient; one row is ignored."""
    n, classes, m = shape
    x = Guarded(draw(1, dtype, n, classes, m) * 2)
    chosen = torch.randint(classes, (n, m), generator=torch.Generator().manual_seed(2))
    chosen[-1, -1] = -100
    target, weight = Guarded(chosen), Guarded(draw(3, wide(dtype), classes).abs() + 0.5)
    grad_loss = Guarded(draw(4, wide(dtype), n * m if reduction == "none" else 1))
    rows, moments = blank(wide(dtype), n, m), blank(wide(dtype), n, m, 2)
    divisor, value, grad = blank(wide(dtype), 1), blank(wide(dtype), 1), blank(dtype, n, classes, m)
    head = (n, classes, m, DTYPES.index(dtype), REDUCTIONS.index(reduction), -100, smoothing)
    weights = weight.pointer if weighted else None
    whole = reduction != "none"
    forward = CrossEntropy(
        *head, x.pointer, target.pointer, weights, rows.pointer, moments.pointer, divisor.pointer,
        value.pointer if whole else None, None,
    )  # fmt: skip
    call(library, "genlab_cross_entropy", forward, x, target, weight, rows, moments, divisor, value)
    backward = CrossEntropyBackward(
        *head, grad_loss.pointer, x.pointer, target.pointer, weights, moments.pointer, divisor.pointer, grad.pointer
    )
    call(library, "genlab_cross_entropy_backward", backward, grad_loss, x, target, weight, moments, divisor, grad)
    leaf = x.tensor.double().requires_grad_()
    scale = weight.tensor.double() if weighted else None
    expected = definition(leaf, chosen, scale, reduction, -100, smoothing)
    given = grad_loss.tensor.double().reshape(expected.shape)
    found = [value.tensor[0] if whole else rows.tensor, grad.tensor]
    return found, [expected.detach(), *torch.autograd.grad(expected, leaf, given)]


def run_latents(library: Library, n: int, k: int, d: int, dtype: torch.dtype, with_kl: bool = True):
    """(found, expected) of both results and the three gradients; mean and log variance are halves of one matrix."""
    halves = Guarded(draw(1, dtype, n, 2 * d))
    noise, grad_z, grad_kl = (Guarded(draw(i, dtype, *s)) for i, s in ((2, (n, k, d)), (3, (n, k, d)), (4, (n, d))))
    z, kl = blank(dtype, n, k, d), blank(dtype, n, d)
    grads = [blank(dtype, n, d), blank(dtype, n, d), blank(dtype, n, k, d)]
    second = halves.pointer + d * halves.tensor.element_size()
    head = (n, k, d, DTYPES.index(dtype), 2 * d, 2 * d)
    forward = Latents(*head, halves.pointer, second, noise.pointer, z.pointer, kl.pointer)
    call(library, "genlab_reparametrize_kl", forward, halves, noise, z, kl)
    backward = LatentsBackward(
        *head, grad_z.pointer, grad_kl.pointer if with_kl else None, halves.pointer, second, noise.pointer,
        *(g.pointer for g in grads),
    )  # fmt: skip
    call(library, "genlab_reparametrize_kl_backward", backward, halves, noise, grad_z, grad_kl, *grads)
    leaves = [t.double().requires_grad_() for t in (*halves.tensor.chunk(2, 1), noise.tensor)]
    outputs = ops.reparametrize_kl(*leaves, impl="reference")
    given = [grad_z.tensor.double(), grad_kl.tensor.double() * (1 if with_kl else 0)]
    found = [t.tensor for t in (z, kl, *grads)]
    return found, [*(o.detach() for o in outputs), *torch.autograd.grad(outputs, leaves, given)]


def wrong(found: list[torch.Tensor], expected: list[torch.Tensor]) -> str:
    """Empty where they agree, else the first difference."""
    for i, (a, e) in enumerate(zip(found, expected, strict=True)):
        step = torch.finfo(a.dtype).eps
        loose = 64 if a.dtype in (torch.float32, torch.float64) else 4
        size = loose * step * max(0.1, e.abs().max().item())
        error = (a.double() - e).abs().max().item()
        if not error <= size + 1e-12:
            return f"wrong result {i}: {error:.2g} > {size:.2g}"
    return ""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agree_with_the_definitions(library, dtype):
    for loss in GAMES:
        for counts in ((5, 3), (700, 1), (5000, 2300)):
            assert wrong(*run_gan(library, loss, counts, dtype)) == "", (loss, counts)
    for shape in ((3, 7, 1), (9, 40, 1), (2, 2100, 1), (2, 5, 70)):
        for reduction in REDUCTIONS:
            assert wrong(*run_cross_entropy(library, shape, dtype, reduction)) == "", shape
    assert wrong(*run_cross_entropy(library, (4, 9, 1), dtype, smoothing=0.0, weighted=False)) == ""
    for sizes in ((3, 2, 5), (40, 1, 20), (1, 3, 1)):
        for with_kl in (True, False):
            assert wrong(*run_latents(library, *sizes, dtype, with_kl)) == "", sizes


def test_a_loss_without_gradient_writes_none(library):
    assert wrong(*run_gan(library, "hinge", (300, 5), torch.float32, with_gradient=False)) == ""


def test_a_class_that_does_not_exist_gives_nan_and_reads_nothing_else(library):
    x, target = Guarded(draw(1, torch.float32, 2, 4, 1)), Guarded(torch.tensor([[1], [4]]))
    rows, moments = blank(torch.float32, 2, 1), blank(torch.float32, 2, 2)
    divisor, value = blank(torch.float32, 1), blank(torch.float32, 1)
    params = CrossEntropy(
        2, 4, 1, 0, 1, -100, 0.0, x.pointer, target.pointer, None, rows.pointer, moments.pointer, divisor.pointer,
        value.pointer, None,
    )  # fmt: skip
    call(library, "genlab_cross_entropy", params, rows, moments, divisor, value)
    assert rows.tensor[1].isnan() and value.tensor.isnan() and not rows.tensor[0].isnan()


def test_results_do_not_depend_on_the_schedule(library):
    runs = []
    for seed in (1, 2, 3):
        library.configure(seed)
        found = run_gan(library, "non_saturating", (5000, 300), torch.float32)[0]
        found += run_cross_entropy(library, (3, 2100, 1), torch.float32)[0]
        runs.append(found)
    library.configure()
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_the_parameter_structs_have_the_layout_that_these_tests_declare(library):
    sizes = (Long * 5)()
    library.value("genlab_loss_params_sizes", None, sizes)
    kinds = (GanLoss, CrossEntropy, CrossEntropyBackward, Latents, LatentsBackward)
    assert list(sizes) == [ctypes.sizeof(kind) for kind in kinds]


# file, old text, new text
FAULTS = {
    "no_barrier_before_the_warps_are_summed": (
        "common/block_reduce.h",
        "__syncthreads();  // every warp's value is there",
        "",
    ),
    "the_last_blocks_are_not_merged": ("gan_loss_two_stage.cu", "i < blocks;", "i < blocks - 1;"),
    "a_row_past_the_end_is_written": (
        "cross_entropy_row_per_group.cu",
        "if (!inside || place.member != 0) continue;",
        "if (place.member != 0) continue;",
    ),
    "the_largest_logit_of_a_lane_alone": (
        "cross_entropy_row_per_group.cu",
        "largest = group_reduce<Largest, kGroup>(largest, scratch);",
        "",
    ),
    "rows_of_a_half_are_taken_as_dense": (
        "reparametrize_kl_elementwise.cu",
        "p.log_variance_stride + latent",
        "p.d + latent",
    ),
}


def outcome(library: Library, seed: int) -> str:
    library.configure(seed, False)
    try:
        runs = [
            lambda: run_gan(library, "non_saturating", (5000, 2300), torch.float32),
            lambda: run_cross_entropy(library, (9, 40, 1), torch.float32),
            lambda: run_cross_entropy(library, (2, 2100, 1), torch.float32),
            lambda: run_latents(library, 7, 2, 5, torch.float32),
        ]
        return "; ".join(filter(None, (wrong(*run()) for run in runs)))
    except KernelFault as fault:
        return str(fault)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught_under_every_schedule(name: str) -> None:
    file, old, new = FAULTS[name]
    text = (CSRC / "kernels" / file).read_text()
    assert old in text, f"{file} no longer holds the text that this test changes: {old}"
    library = Library(
        build(SOURCE, flags=("-O0", "-Wno-error", "-w"), extra={f"kernels/{file}": text.replace(old, new)})
    )
    found = [apart(lambda s=seed: outcome(library, s)) for seed in range(2)]
    assert all(found), found


def test_the_right_kernels_raise_no_alarm(library) -> None:
    assert [outcome(library, seed) for seed in range(2)] == ["", ""]
    library.configure()


def test_the_kernels_are_clean_under_the_sanitizers_and_a_short_buffer_is_found() -> None:
    names = ("gan_loss_two_stage", "cross_entropy_row_per_group", "reparametrize_kl_elementwise")
    kernels = [CSRC / f"kernels/{name}.cu" for name in names]
    try:
        source = Path(__file__).parent / "sanitized_losses.cpp"
        program = build(source, flags=("-O0", *SANITIZE), beside=kernels, program=True)
    except RuntimeError as error:
        if "cannot find" in str(error):  # the linker's words for a compiler without the sanitizers' libraries
            pytest.skip("the compiler has no sanitizer libraries")
        raise
    run = lambda *given: subprocess.run(  # noqa: E731
        [program, *given], capture_output=True, text=True, env={"ASAN_OPTIONS": "detect_leaks=0"}, check=False
    )
    clean, short = run(), run("short")
    assert clean.returncode == 0, clean.stdout + clean.stderr[-3000:]
    assert short.returncode != 0 and "heap-buffer-overflow" in short.stderr
