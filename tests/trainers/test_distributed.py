"""Two processes on the CPU compute what one does at the same global batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from training_jobs import finish, run_ranks, run_training

from genlab.checkpoint import find_checkpoint, load_checkpoint
from genlab.distributed import Distributed, ShardedNoise, resolve_device
from genlab.errors import RunError

COMMON = [
    "train.steps=20",
    "train.log_every=1",
    "train.checkpoint_every=20",
    "train.sync_batch_norm=true",
    "data.batch_size=16",
]


def curves(run_dir: Path) -> dict[str, list[float]]:
    rows = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "event" not in row]
    names = rows[0].keys() - {"time", "images_per_second"}
    return {name: [row[name] for row in rows] for name in names}


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["gan.loss=wasserstein", "gan.regularizers.gradient_penalty.weight=10"],
        ["gan.regularizers.r1.weight=1", "gan.regularizers.spectral_norm=true", "gan.loss=hinge"],
        ["gan.regularizers={drift: {}, consistency: {}, manifold_entropy: {buffer: 40}}"],
    ],
    ids=["default", "gradient-penalty", "r1-spectral", "drift-consistency-entropy"],
)
def test_two_processes_give_the_loss_curve_of_one(tmp_path, overrides):
    assert finish(run_training, [*COMMON, *overrides], str(tmp_path / "one")) == 0
    assert run_ranks(2, run_training, [*COMMON, *overrides], str(tmp_path / "two")) == [0, 0]
    one, two = curves(tmp_path / "one"), curves(tmp_path / "two")
    assert one.keys() == two.keys()
    assert len(one["loss_d"]) == 20
    for name in ("loss_d", "loss_g", "gradient_penalty", "r1"):
        if name in one:
            torch.testing.assert_close(torch.tensor(two[name]), torch.tensor(one[name]), rtol=1e-4, atol=1e-5)


def test_without_synchronised_statistics_the_curves_part(tmp_path):
    """The test above can fail: statistics of half a batch are others."""
    overrides = [*COMMON, "train.sync_batch_norm=false"]
    assert finish(run_training, overrides, str(tmp_path / "one")) == 0
    assert run_ranks(2, run_training, overrides, str(tmp_path / "two")) == [0, 0]
    one, two = torch.tensor(curves(tmp_path / "one")["loss_d"]), torch.tensor(curves(tmp_path / "two")["loss_d"])
    assert ((one - two).abs() / one.abs()).max() > 1e-3


def test_two_processes_resume_bit_for_bit_and_one_process_resumes_them(tmp_path):
    whole = [*COMMON, "train.steps=6", "train.checkpoint_every=3", "train.keep_last=9"]
    assert run_ranks(2, run_training, whole, str(tmp_path / "whole")) == [0, 0]
    half = [*whole, "train.steps=3"]
    assert run_ranks(2, run_training, half, str(tmp_path / "parts")) == [0, 0]
    assert run_ranks(2, run_training, whole, str(tmp_path / "parts"), "auto") == [0, 0]
    a, b = (load_checkpoint(find_checkpoint(tmp_path / name)) for name in ("whole", "parts"))
    assert {name for name in a.tensors if name.startswith("rng/1/")}, "the state of the second process is kept"
    assert [name for name in a.tensors if not torch.equal(a.tensors[name], b.tensors[name])] == []
    assert finish(run_training, [*whole, "train.steps=8"], str(tmp_path / "parts"), "auto") == 0
    assert load_checkpoint(find_checkpoint(tmp_path / "parts")).step == 8


def _fail_together(run_dir: str) -> None:
    """Both ranks must meet the error of rank 0, or the other one would wait for ever."""
    try:
        run_training(["train.steps=2"], run_dir)
    except RunError:
        raise SystemExit(7) from None


def test_an_error_of_rank_0_ends_every_process(tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    assert run_ranks(2, _fail_together, str(tmp_path / "used")) == [7, 7]
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["notes.txt"]


def _check_collectives(out: str) -> None:
    distributed = Distributed.from_environment("cpu")
    rank = distributed.rank
    assert distributed.gather(rank) == [0, 1]
    assert distributed.maximum(rank * 5) == 5
    assert distributed.on_main(lambda: rank + 10) == 10
    assert distributed.all_reduce_mean(torch.tensor([float(rank)])).item() == 0.5
    first, second, unused = (torch.nn.Parameter(torch.zeros(3, 2)) for _ in range(3))
    first.grad = torch.full((3, 2), float(rank))
    second.grad = torch.full((3, 2), 2.0 * rank).t().contiguous().t()  # not contiguous
    distributed.average_gradients([first, unused, second])
    assert unused.grad is None
    assert first.grad.unique().tolist() == [0.5]
    assert second.grad.unique().tolist() == [1.0]
    value = torch.full((2, 3), float(rank)).t()
    distributed.broadcast([value])
    assert value.sum() == 0
    Path(out, f"{rank}").write_text("done")
    distributed.close()


def test_collectives_average_gather_and_broadcast(tmp_path):
    assert run_ranks(2, _check_collectives, str(tmp_path)) == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_noise_of_two_processes_is_the_noise_of_one_cut_in_two():
    def draw(rank: int, world_size: int, count: int) -> torch.Tensor:
        noise = ShardedNoise(torch.Generator().manual_seed(3), Distributed(rank, world_size), torch.device("cpu"))
        return torch.cat([noise.normal(count, 5), noise.uniform(count, 5)], dim=1)

    whole = draw(0, 1, 6)
    assert torch.equal(torch.cat([draw(0, 2, 3), draw(1, 2, 3)]), whole)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:", "cpu:0", "mps"])
def test_a_device_of_another_name_is_refused(name):
    with pytest.raises(RunError, match=f"expected cpu, cuda or cuda:N, got '{name}'"):
        resolve_device(name)


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match="finds no GPU; use cpu"):
        resolve_device("cuda")


def test_a_gpu_number_that_does_not_exist_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(RunError, match="expected cuda:0 to cuda:1, got cuda:7"):
        resolve_device("cuda:7")
    assert resolve_device("cuda", local_rank=1) == torch.device("cuda", 1)
