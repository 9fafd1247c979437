"""What CUDA kernels must do, whatever the op: the CPU's values, other streams, captured graphs, bits that repeat."""

from __future__ import annotations

import torch
from torch import Tensor


class CudaCall:
    """A differentiable call of an op. Each op says by `make` what it is given and by `run` what it computes."""

    def make(self, device: str, dtype: torch.dtype = torch.float32, seed: int = 3) -> list[Tensor]:
        """Leaves with the same values on every device."""
        raise NotImplementedError

    def run(self, leaves: list[Tensor], impl: str = "native") -> Tensor:
        """One output that depends on all leaves."""
        raise NotImplementedError

    def results(self, leaves: list[Tensor]) -> list[Tensor]:
        """[output, gradient of each leaf]."""
        output = self.run(leaves)
        return [output.detach(), *torch.autograd.grad(output, leaves, torch.cos(output.detach()))]


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Relative norms of the differences."""
    for index, (a, e) in enumerate(zip(found, expected, strict=True)):
        a, e = a.cpu().double(), e.cpu().double()
        error = torch.linalg.vector_norm(a - e) / torch.linalg.vector_norm(e).clamp_min(1e-30)
        assert error <= tolerance, f"result {index}: relative error {error:.2g} > {tolerance}"


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(a, e) for a, e in zip(found, expected, strict=True))


def check_agrees_with_the_cpu(call: CudaCall, dtype: torch.dtype, tolerance: float) -> None:
    on_gpu = call.make("cuda", dtype)
    exact = [leaf.detach().cpu().double().requires_grad_() for leaf in on_gpu]
    found = call.results(on_gpu)
    # The gradient starts from the output, so the low precision one is handed to both.
    output = call.run(exact, impl="reference")
    gradients = torch.autograd.grad(output, exact, torch.cos(found[0]).cpu().double())
    assert_near(found, [output.detach(), *gradients], tolerance)


def check_runs_on_the_current_stream(call: CudaCall) -> None:
    expected = call.results(call.make("cuda"))
    stream = torch.cuda.Stream()
    leaves = call.make("cuda")
    holders = [torch.empty_like(leaf) for leaf in leaves]
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # whoever launches elsewhere reads the holders before they are filled
        copies = [h.copy_(leaf.detach()).requires_grad_() for h, leaf in zip(holders, leaves, strict=True)]
        found = call.results(copies)
    stream.synchronize()
    assert_equal(found, expected)


def capture(
    call: CudaCall, leaves: list[Tensor], stream: torch.cuda.Stream
) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """The call's results as a graph that was captured in `stream`, and the tensors that a replay fills."""
    call.results(leaves)  # warm up: allocations and the first loads of kernels are no part of a graph
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = call.results(leaves)
    return graph, captured


def check_a_captured_graph_computes_with_fresh_inputs(call: CudaCall, dtype: torch.dtype = torch.float32) -> None:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        leaves = call.make("cuda", dtype)
        graph, captured = capture(call, leaves, stream)
        for seed in (11, 12):
            fresh = call.make("cuda", dtype, seed=seed)
            with torch.no_grad():
                for leaf, new in zip(leaves, fresh, strict=True):
                    leaf.copy_(new)
            graph.replay()
            expected = call.results(fresh)
            stream.synchronize()
            assert_equal(captured, expected)


def check_repeats_bit_for_bit(call: CudaCall, dtype: torch.dtype, repeats: int = 50) -> None:
    leaves = call.make("cuda", dtype)
    first = call.results(leaves)
    for _ in range(repeats - 1):
        assert_equal(call.results(leaves), first)
