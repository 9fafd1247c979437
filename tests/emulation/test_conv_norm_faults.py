"""The emulation catches what can go wrong in a fused normalisation: each test breaks the kernels' source in one way."""

from __future__ import annotations

import pytest
import torch
from conv2d_problem import TOLERANCE
from conv_norm_problem import NormProblem, errors
from emulation_harness import CSRC, KernelFault, Library, build
from test_seeded_faults import FOLDER, apart

SMALL = NormProblem(n=2, c_in=40, c_out=40, h=6, w=7, tile="64x64")
# file, old text, new text, what is found
FAULTS = {
    "padding_is_normalised": (
        "gather_gemm_kernel.h",
        "inside >> (kPasses * (Tile::kStages - 2)) & ((1u << kPasses) - 1)",
        "(1u << kPasses) - 1",
    ),
    "factors_of_other_channels": (
        "gather_gemm_kernel.h",
        "transform_cursor.advance(kSlab, p.source_channels, w.taps);",
        "",
    ),
    "a_thread_left_out_of_the_merge": ("fused_epilogue.h", "other < kGroups; ++other", "other < kGroups - 1; ++other"),
    "tail_tile_counted_as_whole": ("norm_factors.h", "rows < p.tile_rows ? rows : p.tile_rows", "p.tile_rows"),
}  # fmt: skip


def outcome(library: Library, seed: int) -> str:
    """Empty when forward and gradient are right, else what was found."""
    library.configure(seed, False)
    _, expected = SMALL.reference()
    y = SMALL._laid_out(expected["y"].to(SMALL.dtype))
    try:
        found = SMALL.run_norm_forward(library) | SMALL.run_norm_gradient(library, y, expected["out_mean"].float())
    except KernelFault as fault:
        return str(fault)
    wrong = {k: e for k, e in errors(found, expected).items() if not e < 2 * TOLERANCE[torch.bfloat16]}
    y = found["y"].double()
    for name, value in (("out_mean", y.mean((0, 2, 3))), ("out_var", y.var((0, 2, 3), unbiased=False))):
        if not torch.allclose(found[name].double(), value, rtol=1e-4, atol=1e-5):
            wrong[name] = float("nan")
    return f"wrong result: {wrong}" if wrong else ""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught_under_every_schedule(name: str) -> None:
    file, old, new = FAULTS[name]
    text = (CSRC / FOLDER / file).read_text()
    assert text.count(old) == 1, f"{file} no longer holds the text that this test changes: {old}"
    extra = {FOLDER + file: text.replace(old, new)}
    library = Library(build(CSRC / "emulation" / "conv2d_norm.cpp", flags=("-O0", "-Wno-error", "-w"), extra=extra))
    found = [apart(lambda s=seed: outcome(library, s)) for seed in range(2)]
    assert all(found), found


def test_the_right_kernel_raises_no_alarm() -> None:
    library = Library(build(CSRC / "emulation" / "conv2d_norm.cpp"))
    assert [outcome(library, seed) for seed in range(4)] == [""] * 4
    library.configure()
