"""`genlab build`: compiles the kernels ahead of time."""

from __future__ import annotations

from typing import Annotated

import typer

from genlab.errors import UserError


def register(app: typer.Typer) -> None:
    app.command("build", epilog="Example: genlab build --force --verbose")(build)


def build(
    force: Annotated[bool, typer.Option("--force", help="Build again even when nothing changed.")] = False,
    cuda: Annotated[
        bool | None, typer.Option("--cuda/--no-cuda", help="Insist on CUDA, or leave it out; default: where nvcc is.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the compiler's own output.")] = False,
) -> None:
    """Build the compiled kernels for this machine: C++ always, CUDA where nvcc is."""
    import genlab.build as builder

    result = builder.build(verbose=verbose, force=force, with_cuda=cuda)
    if not result.ok:
        raise UserError(f"the kernels are not built: {result.reason}; the lab runs on plain PyTorch meanwhile")
    facts = result.metadata
    kind = f"CUDA {facts['cuda']} ({facts['architectures']})" if facts.get("with_cuda") else "CPU only"
    left_out = f"; CUDA left out: {facts['cuda_reason']}" if facts.get("cuda_reason") else ""
    took = f" in {result.seconds:.0f} s" if result.built else ""
    print(f"{result.reason}{took}: {result.library} for torch {facts.get('torch')}, {kind}{left_out}")
