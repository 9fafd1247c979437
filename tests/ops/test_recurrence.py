"""lstm, gru and rnn: values, derivatives, registration, masks over time, packed lengths and refusals."""

from __future__ import annotations

import pytest
import torch
from helpers import LOW_PRECISION_FACTOR, Sample, check_compiles, check_op
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from genlab import _extension, ops
from genlab.ops import implementation, recurrence_reference, recurrence_tuning

IMPLEMENTATIONS = ["torch", "reference", *(["native"] if _extension.available() else [])]
native = pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")
CELLS = {"lstm": (ops.lstm, 4), "gru": (ops.gru, 3), "rnn": (ops.rnn, 1)}


def network(input, h, c, *params, cell, impl, batch_sizes=None, **arguments):
    """The op's results as one tensor, so that every state's gradient counts."""
    if batch_sizes is not None:
        input = PackedSequence(input, torch.tensor(batch_sizes))
    states = (h, c) if cell == "lstm" and h is not None else h
    found = CELLS[cell][0](input, states, params, impl=impl, **arguments)
    output = found[0].data if batch_sizes is not None else found[0]
    return torch.cat([output.flatten(), *(state.flatten() * 2 for state in found[1:])])[None]


def sample(
    cell, steps=5, batch=3, inputs=4, hidden=6, *, layers=1, directions=1, states=True, biases=True, batch_sizes=None,
    small=False, **arguments,
):  # fmt: skip
    def make(dtype, device):
        generator = torch.Generator().manual_seed(steps + hidden)
        draw = lambda *sizes: torch.randn(sizes, generator=generator, dtype=torch.float64).to(device, dtype)  # noqa: E731
        input = draw(steps, batch, inputs) if batch_sizes is None else draw(sum(batch_sizes), inputs)
        running = batch if batch_sizes is None else batch_sizes[0]
        h, c = (draw(layers * directions, running, hidden) if states else None for _ in range(2))
        params = []
        for layer in range(layers):
            for _ in range(directions):
                width, height = hidden * directions if layer else inputs, CELLS[cell][1] * hidden
                params += [draw(height, width) * width**-0.5, draw(height, hidden) * hidden**-0.5]
                params += [draw(height), draw(height)] if biases else []
        return input, h, c if cell == "lstm" else None, *params

    arguments |= {"cell": cell, "has_biases": biases, "num_layers": layers, "bidirectional": directions == 2}
    arguments |= {} if batch_sizes is None else {"batch_sizes": batch_sizes}
    name = f"{cell}-{steps}x{batch}x{inputs}-{hidden}-{layers}-{directions}-{states}-{biases}-{batch_sizes}"
    return Sample(name, make, arguments, terms=max(64, (inputs + hidden) * steps), small=small)


SAMPLES = [
    *(sample(cell, small=True) for cell in CELLS),
    *(sample(cell, 3, 2, 3, 5, directions=2, small=True, batch_sizes=(3, 2, 2, 1)) for cell in CELLS),
    *(sample(cell, 4, 13, 7, 33, layers=2, directions=2, states=False) for cell in CELLS),
    *(sample(cell, 9, 1, 1, 1, biases=False) for cell in CELLS),
    *(sample(cell, 1, 7, 20, 64) for cell in CELLS),
    *(sample(cell, 6, 0, 17, 65, states=False, batch_sizes=(8, 8, 5, 3, 1, 1)) for cell in CELLS),
    sample("rnn", 7, 5, 4, 19, nonlinearity="relu", small=True),
]


@pytest.mark.parametrize("given", SAMPLES, ids=str)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_agrees_with_the_float64_reference_and_differentiates_twice(impl, given):
    check_op(network, given, impl=impl, dtypes=(torch.float32, torch.float64))


@native
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("arguments", [{}, {"directions": 2, "states": False, "batch_sizes": (9, 9, 7, 7, 2, 1)}])
def test_bfloat16_is_as_close_to_float64_as_torchs(cell, arguments):
    given = sample(cell, 20, 9, 33, 49, **arguments)
    check = lambda impl, dtype: run(given, impl, dtype)  # noqa: E731
    exact = check("reference", torch.float64)
    for found, peer, expected in zip(
        check("native", torch.bfloat16), check("torch", torch.bfloat16), exact, strict=True
    ):
        assert found.dtype == torch.bfloat16
        error, allowed = ((each.double() - expected).norm() / expected.norm() for each in (found, peer))
        assert error <= LOW_PRECISION_FACTOR * allowed + 1e-4


def run(given, impl, dtype):
    """Output and gradients from the values that bfloat16 can hold."""
    tensors = [None if t is None else t.to(dtype).requires_grad_() for t in given.make(torch.bfloat16, "cpu")]
    output = network(*tensors, **given.arguments, impl=impl)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(7)).bfloat16().to(dtype)
    leaves = [t for t in tensors if t is not None]
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


@native
@pytest.mark.parametrize("cell", CELLS)
def test_compiles_without_a_break(cell):
    check_compiles(network, sample(cell, layers=2, directions=2), "native")


@native
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch_sizes", [None, (2, 1)])
def test_the_registered_ops_pass_opcheck(cell, batch_sizes):
    given = sample(cell, 2, 2, 3, 4, directions=2, batch_sizes=batch_sizes)
    tensors = [None if t is None else t.requires_grad_() for t in given.make(torch.float32, "cpu")]
    name = "rnn_tanh" if cell == "rnn" else cell
    sizes = None if batch_sizes is None else torch.tensor(batch_sizes)
    mask = torch.rand(2, 2, 4)
    namespace = torch.ops.genlab
    torch.library.opcheck(namespace.recurrence, (*tensors, sizes, mask, name, True))
    plain = [None if t is None else t.detach() for t in tensors]
    output, h_n, c_n, gates, kept = namespace.recurrence(*plain, sizes, mask, name, True)
    grads = torch.randn_like(output), torch.randn_like(h_n), torch.randn_like(c_n) if cell == "lstm" else None
    wanted = [t is not None for t in tensors]
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if batch_sizes is None and cell == "rnn":  # tracing one second derivative is enough; lengths cannot be
        checks.append("test_aot_dispatch_dynamic")
    arguments = (*grads, *tensors, sizes, mask, output, gates, kept, name, wanted)
    torch.library.opcheck(namespace.recurrence_backward, arguments, test_utils=checks)


@native
@pytest.mark.parametrize("cell", CELLS)
def test_results_do_not_depend_on_the_number_of_threads(cell):
    given = sample(cell, 6, 0, 17, 33, directions=2, batch_sizes=(11, 9, 8, 3))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            tensors = given.make(torch.float32, "cpu")
            found.append(network(*tensors, **given.arguments, impl="native"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@native
def test_without_a_gradient_nothing_is_kept_and_asking_later_says_so():
    input, _, _, *params = sample("gru", states=False).make(torch.float32, "cpu")
    *_, gates, kept = torch.ops.genlab.recurrence(
        input, None, None, *params, None, None, None, None, None, None, "gru", False
    )
    assert gates.numel() == kept.numel() == 0
    output, *_ = torch.ops.genlab.recurrence(
        input.requires_grad_(), None, None, *params, None, None, None, None, None, None, "gru", False
    )
    with pytest.raises(RuntimeError, match="expected keep=True"):
        output.sum().backward()


MASKS = [
    {"recurrent_dropout": 0.4},
    {"input_dropout": 0.3, "recurrent_dropout": 0.5, "weight_dropout": 0.2, "dropout": 0.25},
]


@native
@pytest.mark.parametrize("batch_sizes", [None, (4, 4, 2, 1)], ids=str)
@pytest.mark.parametrize("masks", MASKS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_every_implementation_draws_the_same_masks(cell, masks, batch_sizes):
    given = sample(cell, layers=2, directions=2, batch_sizes=batch_sizes, train=True, **masks)
    results = []
    for impl in ("native", "reference"):
        torch.manual_seed(11)
        tensors = [None if t is None else t.requires_grad_() for t in given.make(torch.float64, "cpu")]
        output = network(*tensors, **given.arguments, impl=impl)
        leaves = [t for t in tensors if t is not None]
        results.append([output, *torch.autograd.grad(output.cos().sum(), leaves)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@native
@pytest.mark.parametrize("cell", CELLS)
def test_a_masked_network_differentiates_twice(cell):
    given = sample(cell, 3, 2, 2, 3, recurrent_dropout=0.5, train=True)
    tensors = [None if t is None else t.requires_grad_() for t in given.make(torch.float64, "cpu")]

    def call(*of):
        torch.manual_seed(2)
        return network(*of, **given.arguments, impl="native")

    assert torch.autograd.gradcheck(call, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)


def test_the_mask_on_the_state_is_one_per_sequence_and_stays_over_time():
    """A network that only passes its state on multiplies it by the same 0 or 2 at each step."""
    torch.manual_seed(0)
    steps, batch, hidden = 4, 5, 16
    params = torch.zeros(hidden, 1), torch.eye(hidden)
    output, _ = ops.rnn(
        torch.zeros(steps, batch, 1), torch.ones(1, batch, hidden), params, False, train=True, nonlinearity="relu",
        recurrent_dropout=0.5,
    )  # fmt: skip
    assert set(output[0].unique().tolist()) == {0.0, 2.0}
    for t in range(steps):
        torch.testing.assert_close(output[t], output[0] ** (t + 1))
    assert not torch.equal(output[0, 0], output[0, 1])


def test_the_mask_on_the_inputs_is_one_per_sequence_and_stays_over_time():
    torch.manual_seed(0)
    params = torch.eye(16), torch.zeros(16, 16)
    output, _ = ops.rnn(
        torch.ones(4, 5, 16), None, params, False, train=True, nonlinearity="relu", input_dropout=0.5
    )  # fmt: skip
    assert set(output.unique().tolist()) == {0.0, 2.0}
    assert (output == output[0]).all() and not torch.equal(output[0, 0], output[0, 1])


def test_the_mask_on_the_weights_is_one_for_all_sequences():
    torch.manual_seed(0)
    params = torch.zeros(8, 1), torch.ones(8, 8)
    output, _ = ops.rnn(
        torch.zeros(1, 5, 1), torch.eye(8)[None, :5], params, False, train=True, nonlinearity="relu", weight_dropout=0.5
    )
    assert set(output.unique().tolist()) == {0.0, 2.0}  # the first five columns of the weights that are left
    still, _ = ops.rnn(
        torch.zeros(1, 5, 1), torch.eye(8)[None, :5], params, False, nonlinearity="relu", weight_dropout=0.5
    )
    assert (still == 1).all()


def test_zoneout_keeps_the_state_where_it_strikes_and_takes_its_expectation_otherwise():
    input, h, c, *params = sample("lstm", 1, 40, 4, 50).make(torch.float64, "cpu")
    plain = ops.lstm(input, (h, c), params)
    torch.manual_seed(0)
    drawn = ops.lstm(input, (h, c), params, train=True, zoneout=(0.3, 0.6))
    for before, new, found, p in zip((h, c), plain[1:], drawn[1:], (0.3, 0.6), strict=True):
        kept = found == before
        assert (kept | (found == new)).all() and abs(kept.double().mean() - p) < 0.05
    expected = ops.lstm(input, (h, c), params, zoneout=(0.3, 0.6))
    for before, new, found, p in zip((h, c), plain[1:], expected[1:], (0.3, 0.6), strict=True):
        torch.testing.assert_close(found, p * before + (1 - p) * new)


@native
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_autocast_runs_in_its_dtype_and_gives_float32_gradients(cell, impl):
    given = sample(cell, 5, 3, 8, 16)
    tensors = [None if t is None else t.requires_grad_() for t in given.make(torch.float32, "cpu")]
    with torch.autocast("cpu", torch.bfloat16):
        output = network(*tensors, **given.arguments, impl=impl)
    assert output.dtype == torch.bfloat16
    leaves = [t for t in tensors if t is not None]
    grads = torch.autograd.grad(output.float().sum(), leaves)
    expected = torch.autograd.grad(network(*tensors, **given.arguments, impl="reference").sum(), leaves)
    for found, exact in zip(grads, expected, strict=True):
        assert found.dtype == torch.float32
        assert (found - exact).norm() <= 0.03 * exact.norm()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_no_sequences_pass(impl):
    input, _, _, *params = sample("gru", 4, 0, states=False).make(torch.float32, "cpu")
    output, h_n = ops.gru(input, None, params, impl=impl)
    assert output.shape == (4, 0, 6) and h_n.shape == (1, 0, 6)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_batch_first_swaps_input_and_output_only(impl):
    input, h, c, *params = sample("lstm").make(torch.float32, "cpu")
    expected = ops.lstm(input, (h, c), params, impl=impl)
    found = ops.lstm(input.transpose(0, 1), (h, c), params, batch_first=True, impl=impl)
    torch.testing.assert_close((found[0].transpose(0, 1), *found[1:]), expected)


GIVEN = sample("lstm").make(torch.float32, "cpu")
X, H, C, PARAMS = GIVEN[0], GIVEN[1], GIVEN[2], list(GIVEN[3:])
PACKED = pack_padded_sequence(X, torch.tensor([5, 2, 1]))
REFUSALS = {
    "rank": ((X[0], None, PARAMS), {}, ValueError, r"expected input of shape \(T, B, input_size\), got \(3, 4\)"),
    "type": (([1.0], None, PARAMS), {}, TypeError, "expected input to be a tensor or a PackedSequence, got list"),
    "features": ((X[..., :3], None, PARAMS), {}, RuntimeError, "expected input of 4 features .*, got 3"),
    "integer": ((X.long(), None, PARAMS), {}, ValueError, "expected input of the weights' dtype torch.float32"),
    "steps": ((X[:0], None, PARAMS), {}, RuntimeError, "expected sequences of at least one step"),
    "states": ((X, H, PARAMS), {}, TypeError, r"expected hx to be a pair of tensors \(h, c\) or None, got Tensor"),
    "state_size": ((X, (H, C[..., :5]), PARAMS), {}, RuntimeError, r"expected initial c of shape \(1, 3, 6\)"),
    "packed_state": ((PACKED, (H[:, :2], C), PARAMS), {}, RuntimeError, r"expected initial h of shape \(1, 3, 6\)"),
    "state_dtype": ((X, (H.double(), C), PARAMS), {}, RuntimeError, "expected initial h of the input's dtype"),
    "state_device": ((X, (H, C.to("meta")), PARAMS), {}, RuntimeError, "expected initial c on the input's device"),
    "weight_device": ((X.to("meta"), None, PARAMS), {}, RuntimeError, "expected weights on the input's device meta"),
    "count": ((X, None, PARAMS[:3]), {}, RuntimeError, "expected 4 parameters .* for each of 1 layers .*, got 3"),
    "layers": ((X, None, PARAMS), {"num_layers": 0}, ValueError, "expected num_layers >= 1, got 0"),
    "weight_shape": ((X, None, [*PARAMS[:3], PARAMS[3][:5]]), {}, RuntimeError, "expected bias_hh of layer 0"),
    "hidden": ((X, None, [PARAMS[0], PARAMS[0], *PARAMS[2:]]), {}, RuntimeError, "expected weight_hh of shape"),
    "weight_dtype": ((X, None, [PARAMS[0], PARAMS[1].double(), *PARAMS[2:]]), {}, RuntimeError, "of weight_ih's dtype"),
    "dropout": ((X, None, PARAMS), {"dropout": 2}, ValueError, r"expected dropout to be a probability in \[0, 1\]"),
    "zoneout": ((X, None, PARAMS), {"zoneout": (0.1,)}, ValueError, "expected zoneout to be a probability or a pair"),
    "lengths_packed": ((PACKED, None, PARAMS), {"lengths": [1]}, ValueError, "expected no lengths beside a Packed"),
    "lengths_count": ((X, None, PARAMS), {"lengths": [5, 1]}, RuntimeError, "expected one length for each of 3 seq"),
    "lengths_zero": ((X, None, PARAMS), {"lengths": [5, 0, 1]}, RuntimeError, "expected lengths in 1 to 5, .*, got 0"),
    "lengths_long": ((X, None, PARAMS), {"lengths": [5, 6, 1]}, RuntimeError, "expected lengths in 1 to 5, .*, got 6"),
    "lengths_float": ((X, None, PARAMS), {"lengths": [5.0, 2.0, 1.0]}, RuntimeError, "expected lengths to be one row"),
    "impl": ((X, None, PARAMS), {"impl": "mine"}, ValueError, "expected impl to be one of"),
    "native_zoneout": (
        (X, None, PARAMS), {"impl": "native", "zoneout": 0.1}, NotImplementedError, 'no zoneout; use impl="torch"'
    ),
    "native_half": (
        (X.half(), None, [p.half() for p in PARAMS]), {"impl": "native"}, NotImplementedError, "dtype float16 is not"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_with_a_sentence(name):
    arguments, keywords, error, message = REFUSALS[name]
    with pytest.raises(error, match=message) as caught:
        ops.lstm(*arguments, **keywords)
    assert str(caught.value).startswith("lstm: ") and type(caught.value) is error


def test_gru_and_rnn_refuse_what_is_theirs():
    with pytest.raises(TypeError, match="gru: expected hx to be a tensor or None, got tuple"):
        ops.gru(X, (H, C), PARAMS)
    with pytest.raises(ValueError, match='rnn: expected nonlinearity to be "tanh" or "relu", got \'gelu\''):
        ops.rnn(X, H, PARAMS, nonlinearity="gelu")
    with pytest.raises(RuntimeError, match="gru: expected weight_hh of shape"):
        ops.gru(X, H, [p[:7] for p in PARAMS])


@native
def test_a_projection_runs_in_torch_and_says_so_where_native_is_asked_for():
    params = [PARAMS[0], PARAMS[1][:, :2].contiguous(), *PARAMS[2:], torch.randn(2, 6)]
    found = ops.lstm(X, None, params)
    torch.testing.assert_close(found, ops.lstm(X, None, params, impl="reference"))
    assert found[0].shape == (5, 3, 2) and found[2].shape == (1, 3, 6)
    with pytest.raises(NotImplementedError, match=r"no projection of the hidden state \(proj_size\)"):
        ops.lstm(X, None, params, impl="native")


def test_auto_runs_natively_where_it_was_measured_to_win(monkeypatch):
    monkeypatch.setattr(recurrence_tuning, "_HAS_AVX512", True)
    monkeypatch.setattr(recurrence_tuning, "_HAS_BF16_PRODUCTS", True)
    quicker = "native" if _extension.available() else "torch"
    choose = lambda op, x, *of: implementation.choose(op, "auto", x, *of)  # noqa: E731
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(4, 2, 8, dtype=dtype)
        assert choose("gru", x, 64, False, False) == choose("rnn", x, 64, False, True) == quicker
        assert choose("lstm", x, 64, True, False) == quicker
        assert choose("lstm", x, 256, False, True) == (quicker if dtype == torch.bfloat16 else "torch")
        assert choose("lstm", x, 256, False, False) == choose("lstm", x, 128, False, True) == "torch"
    x = X.double()
    assert choose("gru", x, 64, True, False) == quicker and choose("gru", x, 64, False, True) == "torch"
    monkeypatch.setattr(recurrence_tuning, "_HAS_AVX512", False)
    assert choose("gru", X, 64, False, True) == "torch" and choose("gru", X, 64, True, True) == quicker


def test_the_registry_names_every_row():
    rows = [(row.op, row.device) for row in implementation.describe() if row.op in CELLS]
    assert {(op, device) for op in CELLS for device in ("cpu", "cuda")} == set(rows)
    assert set(recurrence_reference.GATES) == {"lstm", "gru", "rnn_tanh", "rnn_relu"}
