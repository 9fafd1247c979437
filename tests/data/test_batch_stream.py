"""Batches: order, shards, workers, resuming, and a worker's error arriving as itself."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle

import numpy as np
import pytest
import torch

from genlab.config import DataConfig
from genlab.data import BatchStream, build, iterate
from genlab.errors import DataError, UserError


def take(stream, count: int) -> list[dict[str, torch.Tensor]]:
    return list(itertools.islice(stream, count))


def assert_same(first: list[dict[str, torch.Tensor]], second: list[dict[str, torch.Tensor]]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key])


@pytest.fixture
def points():
    return build(DataConfig(name="ring", limit=100))


@pytest.fixture
def pictures(write, config):
    write.many("a/{}.png", 7, height=12, width=12)
    write.many("b/{}.png", 6, height=12, width=12)
    return build(config("folder", flip=True, jitter=10), "all")


def test_an_epoch_meets_every_sample_once_and_the_next_in_another_order(points):
    batches = take(BatchStream(points, 20, seed=0), 10)
    epochs = [torch.cat([batch["point"] for batch in batches[at : at + 5]]) for at in (0, 5)]
    for epoch in epochs:
        assert torch.equal(epoch[epoch[:, 0].argsort()], points.points[points.points[:, 0].argsort()])
    assert not torch.equal(*epochs)


def test_order_depends_on_the_seed_alone(points):
    assert_same(take(BatchStream(points, 30, seed=4), 7), take(BatchStream(points, 30, seed=4), 7))
    one, other = (next(BatchStream(points, 30, seed=seed))["point"] for seed in (4, 5))
    assert not torch.equal(one, other)


def test_order_does_not_touch_the_global_generators(points, pictures):
    torch.manual_seed(0)
    np.random.seed(0)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy())
    take(BatchStream(points, 30, seed=4), 5)
    stream = BatchStream(pictures, 4, seed=0, workers=1)
    take(stream, 2)
    stream.close()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_drop_last_leaves_the_smaller_batch_out(points):
    stream = BatchStream(points, 30, seed=0)
    assert stream.batches_per_epoch == 3
    assert [len(batch["point"]) for batch in take(stream, 7)] == [30] * 7
    assert stream.epoch == 2


def test_without_drop_last_the_epoch_ends_with_the_smaller_batch(points):
    stream = BatchStream(points, 30, seed=0, drop_last=False)
    assert [len(batch["point"]) for batch in take(stream, 5)] == [30, 30, 30, 10, 30]


@pytest.mark.parametrize("world_size", [2, 5])
@pytest.mark.parametrize("drop_last", [True, False])
def test_shards_together_are_the_batch_of_one_process(pictures, world_size, drop_last):
    dataset = pictures if world_size == 2 and drop_last else build(DataConfig(name="digits", limit=105))
    batch_size = 4 if dataset is pictures else 20
    if not drop_last and world_size == 2:
        dataset = build(DataConfig(name="digits", limit=106, flip=True))
    arguments = {"seed": 1, "drop_last": drop_last}
    whole = take(BatchStream(dataset, batch_size, **arguments), 9)
    shards = [
        take(BatchStream(dataset, batch_size, rank=rank, world_size=world_size, **arguments), 9)
        for rank in range(world_size)
    ]
    joined = [
        {key: torch.cat([part[key] for part in parts]) for key in parts[0]} for parts in zip(*shards, strict=True)
    ]
    assert_same(joined, whole)
    assert all(len(shard[0]["image"]) == batch_size // world_size for shard in shards)


def test_workers_change_nothing(pictures):
    alone = take(BatchStream(pictures, 4, seed=2), 8)
    for workers in (1, 2):
        stream = BatchStream(pictures, 4, seed=2, workers=workers)
        assert_same(take(stream, 8), alone)
        stream.close()


def test_sets_in_memory_start_no_worker(points):
    take(BatchStream(points, 10, seed=0, workers=2), 2)
    assert multiprocessing.active_children() == []


def test_close_ends_the_workers_and_the_stream_goes_on_where_it_stood(pictures):
    expected = take(BatchStream(pictures, 4, seed=2), 6)
    stream = BatchStream(pictures, 4, seed=2, workers=1)
    first = take(stream, 3)
    assert multiprocessing.active_children()
    stream.close()
    assert multiprocessing.active_children() == []
    assert_same(first + take(stream, 3), expected)
    stream.close()


@pytest.mark.parametrize(("workers", "resumed_workers"), [(0, 0), (2, 0), (0, 2)])
@pytest.mark.parametrize("done", [1, 3, 5])
def test_resuming_is_exact_in_the_middle_and_at_the_end_of_an_epoch(pictures, workers, resumed_workers, done):
    expected = take(BatchStream(pictures, 4, seed=3), 9)
    stream = BatchStream(pictures, 4, seed=3, workers=workers)
    take(stream, done)
    state = pickle.loads(pickle.dumps(stream.state_dict()))
    stream.close()
    assert state["batches_consumed"] == done  # what workers prepared ahead does not count
    resumed = BatchStream(pictures, 4, seed=3, workers=resumed_workers)
    take(resumed, 2)
    resumed.load_state_dict(state)
    assert_same(take(resumed, 9 - done), expected[done:])
    resumed.close()


def test_resuming_reads_no_earlier_data(points, monkeypatch):
    state = {**BatchStream(points, 10, seed=0).state_dict(), "batches_consumed": 123_456}
    fetched = []
    monkeypatch.setattr(type(points), "fetch", lambda self, indices, key=None: fetched.append(key) or {})
    stream = BatchStream(points, 10, seed=0)
    stream.load_state_dict(state)
    next(stream)
    assert [key.epoch for key in fetched] == [12_345]
    assert stream.batches_consumed == 123_457


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed 1 -> 0"),
        ({"batch_size": 5}, "batch_size 5 -> 10"),
        ({"dataset_length": 99}, "dataset_length 99 -> 100"),
        ({"batches_consumed": -1}, "expected the state of this stream"),
        ({"batches_consumed": None}, "expected the state of this stream"),
    ],
)
def test_a_state_of_another_stream_is_refused(points, changed, message):
    stream = BatchStream(points, 10, seed=0)
    with pytest.raises(UserError, match=f"data position: .*{message}"):
        stream.load_state_dict({**stream.state_dict(), **changed})


def test_a_state_serves_any_number_of_processes(points):
    state = {**BatchStream(points, 10, seed=0).state_dict(), "batches_consumed": 4}
    shard = BatchStream(points, 10, seed=0, rank=1, world_size=2)
    shard.load_state_dict(state)
    expected = take(BatchStream(points, 10, seed=0), 5)[4]["point"][5:]
    assert torch.equal(next(shard)["point"], expected)


def test_set_smaller_than_the_batch_is_refused(points):
    with pytest.raises(
        UserError, match=r"data\.batch_size: expected 1 to 100, the samples of 'ring' \(train\), got 101"
    ):
        BatchStream(points, 101, seed=0)


def test_batch_must_divide_by_the_processes(points):
    with pytest.raises(UserError, match=r"data\.batch_size: expected batches divisible by 3 processes, got 10"):
        BatchStream(points, 10, seed=0, world_size=3)
    # 100 samples leave a last batch of 20, which eight processes cannot share.
    with pytest.raises(UserError, match="expected batches divisible by 8 processes, got 20 of 100 samples"):
        BatchStream(points, 40, seed=0, world_size=8, drop_last=False)
    assert BatchStream(points, 40, seed=0, world_size=8).batches_per_epoch == 2


def test_rank_outside_the_world_is_a_programming_error(points):
    with pytest.raises(ValueError, match="expected rank from 0 to 1, got 2"):
        BatchStream(points, 10, seed=0, rank=2, world_size=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_file_surfaces_as_the_data_error_that_names_it(write, config, workers):
    write.many("{}.png", 5)
    write.bytes("bad.png", b"no image")
    stream = BatchStream(build(config("folder"), "all"), 2, seed=0, workers=workers)
    with pytest.raises(DataError, match=r"bad\.png: expected an image, got bytes of no known image format") as caught:
        take(stream, 3)
    assert "\n" not in str(caught.value)
    consumed = stream.batches_consumed
    with pytest.raises(DataError, match=r"bad\.png"):  # not a StopIteration: the stream has no end
        next(stream)
    assert stream.batches_consumed == consumed
    stream.close()


def test_datasets_travel_to_spawned_processes(write, config):
    write.many("{}.png", 4)
    dataset = build(config("zip", root=write.zipped()), "all")
    expected = dataset.fetch(np.arange(4))["image"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert torch.equal(pool.apply(dataset.fetch, (np.arange(4),))["image"], expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_iterate_passes_once_in_order_unvaried(pictures, workers):
    batches = list(iterate(pictures, 5, workers=workers))
    assert [len(batch["image"]) for batch in batches] == [5, 5, 3]
    whole = pictures.fetch(np.arange(13))
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), whole["image"])
    assert torch.equal(torch.cat([batch["label"] for batch in batches]), whole["label"])


def test_iterate_stops_at_the_limit(points):
    assert [len(batch["point"]) for batch in iterate(points, 40, limit=90)] == [40, 40, 10]
    assert [len(batch["point"]) for batch in iterate(points, 40, limit=1000)] == [40, 40, 20]
    with pytest.raises(DataError, match="batch size: expected at least 1, got 0"):
        iterate(points, 0)
