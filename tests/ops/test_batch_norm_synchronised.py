"""batch_norm_act over two gloo processes with uneven shares equals one process with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from genlab import _extension, nn, ops
from genlab.ops import norm_native

ROOT = Path(__file__).resolve().parents[2]
SHARES = [5, 2]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(the whole batch, what each of two processes found)."""
    folder = tmp_path_factory.mktemp("synchronised")
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    image = (sum(SHARES), 3, 4, 4)
    full = {"input": draw(*image) * 2 + 3, "residual": draw(*image), "grad_output": draw(*image), "weight": draw(3),
            "bias": draw(3), "mean": draw(3), "var": draw(3).abs(), "shares": SHARES}  # fmt: skip
    full |= {"wide": torch.randn(4, 16, 8, 8, generator=generator), "wide_grad": torch.randn(4, 16, 12, 12)}
    torch.save(full, folder / "full.pt")
    script = Path(__file__).parent / "synchronised_batch_norm.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, str(script), str(rank), "2", str(folder)], env=environment)
        for rank in range(2)
    ]
    try:
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0]
    return full, [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def whole_batch(full):
    leaves = [full[name].clone().requires_grad_() for name in ("input", "weight", "bias", "residual")]
    mean, var = full["mean"].clone(), full["var"].clone()
    output = ops.batch_norm_act(
        leaves[0], mean, var, *leaves[1:3], True, 0.3, activation="tanh", residual=leaves[3], impl="torch"
    )
    grads = torch.autograd.grad(output, leaves, full["grad_output"], create_graph=True)
    second = torch.autograd.grad(grads[0].pow(2).sum(), leaves, allow_unused=True)
    return output.detach(), mean, var, grads, second


def gathered(ranks, name):
    return torch.cat([rank[name] for rank in ranks])


def test_output_and_running_statistics_are_those_of_the_whole_batch(found):
    full, ranks = found
    output, mean, var, _, _ = whole_batch(full)
    torch.testing.assert_close(gathered(ranks, "output"), output)
    for rank in ranks:
        torch.testing.assert_close(rank["mean"], mean)
        torch.testing.assert_close(rank["var"], var)


@pytest.mark.parametrize("order", ["grad", "second"])
def test_gradients_of_both_orders_are_those_of_the_whole_batch(found, order):
    full, ranks = found
    _, _, _, grads, second = whole_batch(full)
    expected = dict(zip(("input", "weight", "bias", "residual"), grads if order == "grad" else second, strict=True))
    for name in ("input", "residual"):
        torch.testing.assert_close(gathered(ranks, f"{order}_{name}"), expected[name])
    # Parameters: each process holds its share of the sum, which DistributedDataParallel adds up.
    for name in ("weight", "bias"):
        torch.testing.assert_close(ranks[0][f"{order}_{name}"] + ranks[1][f"{order}_{name}"], expected[name])


def test_module_copies_and_evaluation(found):
    full, ranks = found
    module = nn.BatchNormAct2d(3, activation="relu").double()
    expected = module(full["input"])
    torch.testing.assert_close(gathered(ranks, "module"), expected)
    torch.testing.assert_close(gathered(ranks, "copy"), expected)
    torch.testing.assert_close(
        gathered(ranks, "one_each"), module(full["input"][:2, :, :1, :1]), msg="one value per process is a batch of two"
    )
    module.eval()
    torch.testing.assert_close(gathered(ranks, "evaluation"), module(full["input"]))


def test_a_process_without_samples_takes_part(found):
    full, ranks = found
    input = full["wide"].clone().requires_grad_()
    mean, var = torch.zeros(16), torch.ones(16)
    output = ops.batch_norm_act(input, mean, var, training=True, activation="relu", reflect_pad=2, impl="torch")
    (grad,) = torch.autograd.grad(output, input, full["wide_grad"])
    torch.testing.assert_close(gathered(ranks, "wide"), output.detach())
    torch.testing.assert_close(gathered(ranks, "wide_input_grad"), grad)
    for rank in ranks:
        torch.testing.assert_close(rank["wide_mean"], mean)
        torch.testing.assert_close(rank["wide_var"], var)


@pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")
def test_the_merged_statistics_read_nothing_back_to_the_host(monkeypatch):
    """A fake tensor has no values: reading one back, which would stall a GPU and break a graph, raises."""

    class Group:
        def size(self) -> int:
            return 3

    def all_gather(everyone, mine, group):
        for other in everyone:
            other.copy_(mine)

    monkeypatch.setattr(norm_native.dist, "all_gather", all_gather)
    with FakeTensorMode():
        mean, var, count = norm_native.merged_statistics(torch.randn(2, 5, 4, 4), Group())
    assert (mean.shape, var.shape, count.shape, count.dtype) == ((5,), (5,), (), torch.float64)
