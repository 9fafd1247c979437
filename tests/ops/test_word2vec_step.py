"""word2vec_step: the kernel against the loop written out, gradients, draws, the tree, threads, and refusals."""

from __future__ import annotations

import heapq
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from genlab import _extension, ops
from genlab.data.randomness import hash64
from genlab.ops import HierarchicalSoftmax, NegativeSampling, keep_probabilities, word2vec_reference, word2vec_step

needs_kernels = pytest.mark.skipif(not _extension.available(), reason="the compiled extension is not here")
IMPLS = [pytest.param("native", marks=needs_kernels), "reference"]
OBJECTIVES = ["negative_sampling", "hierarchical_softmax"]
both = pytest.mark.parametrize("objective", OBJECTIVES)
architectures = pytest.mark.parametrize("architecture", ["skip_gram", "cbow"])


def goal(name: str, counts: torch.Tensor, negatives: int = 5):
    if name == "negative_sampling":
        return NegativeSampling.from_counts(counts, negatives)
    return HierarchicalSoftmax.from_counts(counts)


def problem(name: str, words: int = 60, d: int = 24, length: int = 700, negatives: int = 5):
    """(inputs, outputs, text, starts, objective) of a text in Zipf's distribution."""
    shares = 1 / torch.arange(1, words + 1).float()
    text = torch.multinomial(shares, length, replacement=True).to(torch.int32)
    starts = torch.tensor([0, length // 3, length // 3, length // 3 + 1, length])
    rows = words if name == "negative_sampling" else words - 1
    objective = goal(name, torch.bincount(text, minlength=words), negatives)
    return torch.randn(words, d) / 5, torch.randn(rows, d) / 5, text, starts, objective


# -- the kernel ----------------------------------------------------------------------------------------------------


@needs_kernels
@both
@architectures
@pytest.mark.parametrize("mean_gradient", [False, True])
def test_the_kernel_is_the_loop_written_out_over_thousands_of_predictions(objective, architecture, mean_gradient):
    x, y, text, starts, tables = problem(objective)
    keep = keep_probabilities(torch.bincount(text, minlength=60), 1e-2)
    settings = {"lr": 0.05, "architecture": architecture, "window": 4, "keep": keep, "mean_gradient": mean_gradient}
    found = [x.clone(), y.clone(), x.clone(), y.clone()]
    native = word2vec_step(*found[:2], text, starts, tables, impl="native", key=-7, position=11, **settings)
    written = word2vec_step(*found[2:], text, starts, tables, impl="reference", key=-7, position=11, **settings)
    assert native[1:] == written[1:] and 300 < native.words < 600
    assert native.loss == pytest.approx(written.loss, rel=1e-6)
    torch.testing.assert_close(found[0], found[2], rtol=1e-5, atol=3e-6)
    torch.testing.assert_close(found[1], found[3], rtol=1e-5, atol=3e-6)
    assert (found[0] - x).abs().max() > 0.01


@needs_kernels
@both
@pytest.mark.parametrize("d", [1, 3, 4, 7, 16, 21, 64, 100])
def test_every_length_of_a_vector(objective, d):
    x, y, text, starts, tables = problem(objective, d=d, length=60)
    pairs = [(x.clone(), y.clone()) for _ in range(2)]
    losses = [
        word2vec_step(*pair, text, starts, tables, lr=0.1, impl=impl).loss
        for pair, impl in zip(pairs, ("native", "reference"), strict=True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@needs_kernels
@architectures
def test_a_noise_word_that_is_drawn_again_counts_again(architecture):
    """Of three words, nine draws are never all different."""
    x, y, text, starts, tables = problem("negative_sampling", words=3, d=8, length=40, negatives=9)
    pairs = [(x.clone(), y.clone()) for _ in range(2)]
    for pair, impl in zip(pairs, ("native", "reference"), strict=True):
        word2vec_step(*pair, text, starts, tables, lr=0.1, architecture=architecture, impl=impl)
    torch.testing.assert_close(pairs[0], pairs[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
@both
def test_text_without_a_context_moves_nothing(objective, impl):
    x, y, _, _, tables = problem(objective)
    before = x.clone()
    for text, starts in (([], [0]), ([], [0, 0]), ([3], [0, 1]), ([3, 4], [0, 1, 2])):
        given = (torch.tensor(text, dtype=torch.int32), torch.tensor(starts))
        totals = word2vec_step(x, y, *given, tables, lr=1.0, impl=impl)
        assert totals == (0.0, 0, len(text))
    assert torch.equal(x, before)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_vocabulary_of_one_word_is_certain_under_hierarchical_softmax(impl):
    tables = HierarchicalSoftmax.from_counts(torch.tensor([5]))
    given = (torch.ones(1, 4), torch.zeros(0, 4), torch.zeros(5, dtype=torch.int32), torch.tensor([0, 5]))
    assert word2vec_step(*given, tables, lr=0.1, impl=impl).loss == 0


@needs_kernels
@both
def test_blocks_of_a_text_train_as_the_whole_does_bit_for_bit(objective):
    x, y, text, starts, tables = problem(objective)
    whole, parts = (x.clone(), y.clone()), (x.clone(), y.clone())
    settings = {"lr": 0.05, "key": 3, "impl": "native"}
    word2vec_step(*whole, text, starts, tables, **settings)
    for first, last in ((0, 3), (3, 4)):
        begin, end = int(starts[first]), int(starts[last])
        piece = (text[begin:end], starts[first : last + 1] - begin)
        word2vec_step(*parts, *piece, tables, position=begin, **settings)
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])


@needs_kernels
@both
def test_threads_count_the_same_and_learn_alike(objective):
    x, y, text, _, tables = problem(objective, length=4000)
    starts = torch.arange(0, 4001, 50)
    one = word2vec_step(x.clone(), y.clone(), text, starts, tables, lr=0.0)
    for threads in (0, 2, 3, 200):
        totals = word2vec_step(x.clone(), y.clone(), text, starts, tables, lr=0.0, threads=threads)
        assert totals[1:] == one[1:] and totals.loss == pytest.approx(one.loss, rel=1e-9)
    losses = [
        word2vec_step(*tensors, text, starts, tables, lr=0.05, threads=threads).loss / one.loss
        for threads, tensors in ((1, (x.clone(), y.clone())), (2, (x.clone(), y.clone())))
    ]
    assert losses[0] < 0.99 and losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.cuda
@both
@architectures
def test_one_warp_of_a_gpu_does_what_the_cpu_does_and_many_learn(objective, architecture):
    _extension.require(with_cuda=True)
    x, y, text, starts, tables = problem(objective, length=3000)
    settings = {"lr": 0.05, "architecture": architecture, "window": 4}
    cpu = [x.clone(), y.clone()]
    expected = word2vec_step(*cpu, text, starts, tables, **settings)
    device = [t.cuda() for t in (text, starts)]
    for threads in (1, 0):
        found = [x.cuda(), y.cuda()]
        totals = word2vec_step(*found, *device, tables.to("cuda"), threads=threads, **settings)
        assert totals[1:] == expected[1:]
        if threads == 1:
            torch.testing.assert_close([t.cpu() for t in found], cpu, rtol=1e-4, atol=1e-5)
        assert totals.loss == pytest.approx(expected.loss, rel=1e-5 if threads == 1 else 0.1)


# -- the objective -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("impl", IMPLS)
@both
@architectures
@pytest.mark.parametrize("mean_gradient", [False, True])
def test_a_step_is_autograds_gradient_of_the_loss(impl, objective, architecture, mean_gradient):
    """A text of three words with window 1: its predictions one after another, by torch's own derivatives."""
    x, y, _, _, tables = problem(objective, words=9, d=6)
    text, lr, key = [4, 1, 7], 0.3, 5
    wanted, losses = [x.double(), y.double()], 0.0
    for place, centre in enumerate(text):
        context = [text[other] for other in (place - 1, place + 1) if 0 <= other < len(text)]
        state = word2vec_reference.word_state(key, place)
        for n, group in enumerate([context] if architecture == "cbow" else [[word] for word in context]):
            rows, labels = word2vec_reference.targets(tables, centre, state, n)
            leaves = [tensor.clone().requires_grad_() for tensor in wanted]
            hidden = leaves[0][group].mean(0)
            if not mean_gradient:  # the derivative with respect to the mean goes to every row whole
                hidden = leaves[0][group].sum(0) - leaves[0][group].sum(0).detach() + hidden.detach()
            signs = torch.from_numpy(2.0 * labels - 1.0)
            loss = -F.logsigmoid(signs * (leaves[1][torch.from_numpy(rows).long()] @ hidden)).sum()
            wanted = [t - lr * g for t, g in zip(wanted, torch.autograd.grad(loss, leaves), strict=True)]
            losses += float(loss.detach())
    totals = word2vec_step(
        x, y, torch.tensor(text, dtype=torch.int32), torch.tensor([0, 3]), tables, lr=lr, window=1,
        architecture=architecture, mean_gradient=mean_gradient, key=key, impl=impl,
    )  # fmt: skip
    assert totals.loss == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close([x.double(), y.double()], wanted, rtol=1e-5, atol=1e-6)


def test_hierarchical_softmax_sums_to_one_over_the_vocabulary():
    for words in (1, 2, 3, 50, 777):
        tree = HierarchicalSoftmax.from_counts(torch.randint(1, 1000, (words,)))
        hidden, outputs = torch.randn(4, 10).double(), torch.randn(words - 1, 10).double()
        total = tree.log_probabilities(hidden, outputs).exp().sum(1)
        torch.testing.assert_close(total, torch.ones(4).double())


@needs_kernels
def test_the_kernels_loss_is_minus_the_log_of_those_probabilities():
    x, y, _, _, tree = problem("hierarchical_softmax")
    text = torch.tensor([11, 2], dtype=torch.int32)
    loss = word2vec_step(x, y, text, torch.tensor([0, 2]), tree, lr=0.0, window=1).loss
    logs = tree.log_probabilities(x.double(), y.double())
    assert loss == pytest.approx(-float(logs[2, 11] + logs[11, 2]), rel=1e-6)


def test_the_tree_is_huffmans():
    counts = torch.tensor([90, 9, 1, 40, 41, 3, 3, 3, 200, 17])
    tree = HierarchicalSoftmax.from_counts(counts)
    lengths = tree.path_starts.diff()
    codes = [tuple(tree.path(word)[1].tolist()) for word in range(len(counts))]
    for one, other in itertools.permutations(codes, 2):
        assert one != other[: len(one)]  # no word's code begins another's
    assert float((0.5**lengths).sum()) == 1.0  # nor is any branch left open
    heap = counts.tolist()
    heapq.heapify(heap)
    shortest = 0
    while len(heap) > 1:
        pair = heapq.heappop(heap) + heapq.heappop(heap)
        shortest += pair
        heapq.heappush(heap, pair)
    assert int((counts * lengths).sum()) == shortest
    order = counts.argsort(descending=True)
    assert (lengths[order].diff() >= 0).all()
    assert {int(tree.path(word)[0][0]) for word in range(len(counts))} == {len(counts) - 2}  # one root


# -- draws ---------------------------------------------------------------------------------------------------------


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """Distance of counts from what was expected, in deviations of the chi-square distribution."""
    degrees = len(observed) - 1
    return (float(((observed - expected) ** 2 / expected).sum()) - degrees) / math.sqrt(2 * degrees)


def test_noise_is_drawn_by_counts_to_the_three_quarters():
    counts = torch.tensor([90, 9, 1, 400, 55, 7, 7, 30])
    tables = NegativeSampling.from_counts(counts)
    wanted = counts.double() ** 0.75
    torch.testing.assert_close(tables.probabilities(), wanted / wanted.sum(), rtol=0, atol=1e-9)
    # The course's example: 90, 9 and 1 of 100 words.
    example = NegativeSampling.from_counts(torch.tensor([90, 9, 1])).probabilities()
    torch.testing.assert_close(example, torch.tensor([0.825, 0.146, 0.029]).double(), rtol=0, atol=2e-3)
    table = tables.noise.numpy()
    drawn = np.bincount(
        [
            word2vec_reference.noise_word(table, word2vec_reference.draw(word2vec_reference.word_state(1, place), 2))
            for place in range(20_000)
        ],
        minlength=8,
    )
    assert abs(chi_square(drawn, 20_000 * tables.probabilities().numpy())) < 4
    uniform = NegativeSampling.from_counts(counts, power=0.0).probabilities()
    torch.testing.assert_close(uniform, torch.full((8,), 1 / 8).double())


@needs_kernels
def test_the_window_is_uniform_from_one_to_its_size():
    length, window = 6000, 5
    reaches = [
        1 + word2vec_reference.below(word2vec_reference.draw(word2vec_reference.word_state(9, place), 1), window)
        for place in range(length)
    ]
    observed = np.bincount(reaches, minlength=window + 1)[1:]
    assert abs(chi_square(observed, np.full(window, length / window))) < 4
    x, y, _, _, tables = problem("negative_sampling")
    text = torch.zeros(length, dtype=torch.int32)
    totals = word2vec_step(x, y, text, torch.tensor([0, length]), tables, lr=0.0, window=window, key=9)
    pairs = sum(min(r, place) + min(r, length - 1 - place) for place, r in enumerate(reaches))
    assert totals.predictions == pairs


@needs_kernels
def test_subsampling_keeps_each_word_with_its_probability():
    counts = torch.tensor([7000, 2900, 99, 1])
    keep = keep_probabilities(counts, 1e-2)
    share = counts.double() / counts.sum()
    formula = ((share / 1e-2).sqrt() + 1) * 1e-2 / share
    torch.testing.assert_close(keep, formula.clamp(max=1).float())
    assert keep[0] < keep[1] < 1 and keep[2] == keep[3] == 1
    x, y, tables = torch.zeros(4, 2), torch.zeros(4, 2), NegativeSampling.from_counts(counts)
    for word, probability in enumerate(keep.tolist()):
        text = torch.full((20_000,), word, dtype=torch.int32)
        left = word2vec_step(x, y, text, torch.tensor([0, 20_000]), tables, lr=0.0, keep=keep).words
        deviation = math.sqrt(20_000 * probability * (1 - probability))
        assert abs(left - 20_000 * probability) <= 4 * deviation


@needs_kernels
def test_words_that_are_left_out_bring_those_beyond_them_nearer():
    """The window counts what is left: a b a b ... without b makes neighbours of the a."""
    text = torch.tensor([0, 1] * 50, dtype=torch.int32)
    keep = torch.tensor([1.0, 0.0])
    x, y, tables = torch.zeros(2, 2), torch.zeros(2, 2), NegativeSampling.from_counts(torch.tensor([50, 50]))
    totals = word2vec_step(x, y, text, torch.tensor([0, 100]), tables, lr=0.0, window=1, keep=keep)
    assert (totals.words, totals.predictions) == (50, 98)


def test_draws_are_those_of_the_data_pipelines_generator():
    key = int(hash64(4, 2)[0])
    assert word2vec_reference.word_state(key, 77) == int(hash64(4, 2, 77)[0])


# -- registration and refusals -------------------------------------------------------------------------------------


@needs_kernels
@both
def test_the_registered_op_passes_opcheck(objective):
    x, y, text, starts, tables = problem(objective, length=30)
    sampled = objective == "negative_sampling"
    paths = (None, None, None) if sampled else (tables.path_starts, tables.path_nodes, tables.path_codes)
    longest = 0 if sampled else tables.longest
    arguments = (
        x,
        y,
        text,
        starts,
        None,
        tables.noise if sampled else None,
        *paths,
        longest,
        "cbow",
        False,
        2,
        5,
        0.1,
        0,
        0,
        1,
    )
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.genlab.word2vec_step, arguments, test_utils=tests)


@needs_kernels
def test_the_kernel_itself_refuses_numbers_beyond_its_tables():
    x, y, text, starts, tables = problem("negative_sampling", length=30)
    call = torch.ops.genlab.word2vec_step
    rest = ("cbow", False, 2, 5, 0.1, 0, 0, 1)
    for words, begin, noise, message in (
        (text + 60, starts, tables.noise, "expected words to be numbers from 0 to 59"),
        (text, starts + 1, tables.noise, "expected starts to rise from 0 to 30"),
        (text, starts, tables.noise | 0xFFFF, "expected noise to be numbers"),
        (text, starts, tables.noise[:5], "expected noise contiguous and of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            call(x, y, words, begin, None, noise, None, None, None, 0, *rest)
    tree = HierarchicalSoftmax.from_counts(torch.ones(60, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected path_nodes to be numbers from 0 to 58"):
        call(
            x, y[:-1], text, starts, None, None, tree.path_starts, tree.path_nodes + 1, tree.path_codes, 6, *rest
        )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"window": 0}, ValueError, "expected window from 1 to 1048576, got 0"),
        ({"window": 2**61}, ValueError, "expected window from 1 to 1048576, got 2305843009213693952"),
        ({"architecture": "glove"}, ValueError, "expected architecture skip_gram or cbow, got 'glove'"),
        ({"threads": -1}, ValueError, "expected threads of at least 0"),
        ({"words": torch.zeros(700, dtype=torch.int64)}, TypeError, "expected words of dtype torch.int32"),
        ({"words": torch.full((700,), 60, dtype=torch.int32)}, ValueError, "expected words to be numbers from 0 to 59"),
        ({"starts": torch.tensor([0, 5, 3, 700])}, ValueError, "expected starts to rise from 0 to 700"),
        ({"starts": torch.tensor([0, 699])}, ValueError, "expected starts to rise from 0 to 700"),
        ({"inputs": torch.zeros(60, 24).double()}, TypeError, "expected inputs of dtype torch.float32"),
        ({"outputs": torch.zeros(60, 23)}, ValueError, r"outputs contiguous and of shape \(60, 24\), got \(60, 23\)"),
        ({"inputs": torch.zeros(24, 60).T}, ValueError, "expected inputs contiguous"),
        ({"inputs": torch.zeros(61, 24)}, ValueError, "expected an objective of the 61 words of inputs, got one of 60"),
        ({"keep": torch.ones(59)}, ValueError, r"expected keep contiguous and of shape \(60,\)"),
        (
            {"inputs": torch.zeros(60, 24, device="meta")},
            NotImplementedError,
            "expected tensors on the CPU or a GPU, got meta",
        ),
        ({"impl": "quick"}, ValueError, "expected impl to be one of"),
    ],
)
def test_refuses(changes, error, message):
    x, y, text, starts, tables = problem("negative_sampling")
    given = {"inputs": x, "outputs": y, "words": text, "starts": starts, "objective": tables, "lr": 0.1, **changes}
    with pytest.raises(error, match=message) as caught:
        word2vec_step(**given)
    assert str(caught.value).startswith("word2vec_step: ")


def test_tables_of_nothing_are_refused():
    with pytest.raises(ValueError, match="negatives: expected at least 1, got 0"):
        NegativeSampling.from_counts(torch.ones(3), 0)
    for bad in (torch.zeros(3), torch.ones(2, 2), torch.tensor([]), torch.tensor([2, -1])):
        for make in (NegativeSampling.from_counts, HierarchicalSoftmax.from_counts):
            with pytest.raises(ValueError, match="counts: expected how often each word occurs"):
                make(bad)
    with pytest.raises(ValueError, match="threshold: expected above 0, got 0"):
        keep_probabilities(torch.ones(3), 0)


def test_auto_takes_the_kernel():
    row = next(r for r in ops.describe() if (r.op, r.dtype) == ("word2vec_step", "float32"))
    assert row.auto == ("native" if _extension.available() else "torch")
