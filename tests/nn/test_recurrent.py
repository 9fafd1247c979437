"""RNN, LSTM and GRU: torch.nn's twins in state_dict, outputs, gradients and refusals; the dropouts over time."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from genlab import _extension
from genlab import nn as lab

TWINS = {"rnn": (nn.RNN, lab.RNN), "lstm": (nn.LSTM, lab.LSTM), "gru": (nn.GRU, lab.GRU)}
GRID = [
    {},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "dropout": 0.5, "batch_first": True},
]


def pair(kind, impl="auto", **arguments):
    """torch's module and the lab's with its state_dict."""
    torch.manual_seed(3)
    theirs, ours = TWINS[kind]
    peer = theirs(4, 6, **arguments)
    module = ours(4, 6, impl=impl, **arguments)
    module.load_state_dict(peer.state_dict())
    return peer, module


def flat(result):
    """Every tensor of (output, states)."""
    output, states = result
    states = states if isinstance(states, tuple) else (states,)
    return (*(output if not isinstance(output, torch.Tensor) else (output,)), *states)


def results(module, *arguments, seed=5, **keywords):
    """Every tensor of a call, and the parameters' gradients."""
    torch.manual_seed(seed)
    found = [t for t in flat(module(*arguments, **keywords)) if isinstance(t, torch.Tensor)]
    loss = sum((t * t.detach().cos()).sum() for t in found if t.is_floating_point())
    return [*found, *torch.autograd.grad(loss, list(module.parameters()))]


def close(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", ["auto", "reference"])
@pytest.mark.parametrize("arguments", GRID, ids=str)
@pytest.mark.parametrize("kind", TWINS)
def test_loads_torchs_state_dict_and_gives_its_outputs_and_gradients(kind, arguments, impl):
    peer, module = pair(kind, impl, **arguments)
    assert list(module.state_dict()) == list(peer.state_dict())
    input = torch.randn(5, 3, 4)
    close(results(module, input), results(peer, input))
    for each in (peer, module):
        each.eval()
    close(results(module, input), results(peer, input))


def test_a_relu_network_and_a_projection_too():
    for kind, arguments in (("rnn", {"nonlinearity": "relu"}), ("lstm", {"proj_size": 2, "num_layers": 2})):
        for impl in ("auto", "torch", "reference"):
            peer, module = pair(kind, impl, **arguments)
            input = torch.randn(5, 3, 4)
            close(results(module, input), results(peer, input))


@pytest.mark.parametrize("kind", TWINS)
def test_packed_sequences_with_states_come_back_in_their_order(kind):
    peer, module = pair(kind, "reference", num_layers=2, bidirectional=True)
    input, lengths = torch.randn(7, 4, 4), torch.tensor([2, 7, 1, 5])
    packed = pack_padded_sequence(input, lengths, enforce_sorted=False)
    states = torch.randn(4, 4, 6)
    states = (states, states.flip(0)) if kind == "lstm" else states
    close(results(module, packed, states), results(peer, packed, states))


@pytest.mark.parametrize("kind", TWINS)
def test_lengths_are_packing_and_padding_around_the_call(kind):
    peer, module = pair(kind, batch_first=True, bidirectional=True)
    input, lengths = torch.randn(4, 7, 4), [2, 6, 1, 5]
    packed = pack_padded_sequence(input, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    expected, states = peer(packed)
    found = flat(module(input, lengths=lengths))
    close(found, flat((pad_packed_sequence(expected, True, total_length=7)[0], states)))
    assert found[0].shape == (4, 7, 12) and (found[0][0, 2:] == 0).all()


@pytest.mark.parametrize("kind", TWINS)
def test_a_sequence_alone_needs_no_batch_dimension(kind):
    peer, module = pair(kind, batch_first=True)
    states = torch.randn(1, 6)
    states = (states, states) if kind == "lstm" else states
    input = torch.randn(5, 4)
    close(results(module, input, states), results(peer, input, states))


@pytest.mark.parametrize("kind", TWINS)
def test_copies_and_pickles_as_torchs(kind):
    _, module = pair(kind, bidirectional=True)
    module.recurrent_dropout = 0.25
    input = torch.randn(5, 3, 4)
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert again.recurrent_dropout == 0.25
        close(results(again, input), results(module, input))


def test_arguments_by_position_are_torchs():
    peer, module = nn.RNN(4, 6, 2, "relu", False, True), lab.RNN(4, 6, 2, "relu", False, True)
    assert (module.nonlinearity, module.bias, module.batch_first) == ("relu", False, True)
    assert list(module.state_dict()) == list(peer.state_dict())
    assert "recurrent_dropout=0.5" in repr(lab.GRU(4, 6, recurrent_dropout=0.5))


X, H = torch.randn(5, 3, 4), torch.randn(1, 3, 6)
CALLS = {
    "rank": (torch.randn(5, 3, 4, 1), None),
    "features": (torch.randn(5, 3, 5), None),
    "input_dtype": (X.double(), None),
    "input_integer": (X.long(), None),
    "input_device": (X.to("meta"), None),
    "no_steps": (X[:0], None),
    "states_batch": (X, H[:, :2]),
    "states_size": (X, H[..., :5]),
    "states_layers": (X, torch.cat([H, H])),
    "states_rank": (X, H[0]),
    "states_dtype": (X, H.double()),
    "states_device": (X, H.to("meta")),
    "unbatched_states": (X[:, 0], H),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", TWINS)
def test_refuses_calls_that_torch_refuses_by_the_same_type(kind, name):
    input, states = CALLS[name]
    states = (states, states) if kind == "lstm" and states is not None else states
    peer, module = pair(kind)
    with pytest.raises(Exception) as expected:
        peer(input, states)
    with pytest.raises(type(expected.value), match=": expected ") as caught:
        module(input, states)
    assert type(caught.value) is type(expected.value)


CONSTRUCTIONS = {
    "hidden": {"hidden_size": 0},
    "layers": {"num_layers": 0},
    "dropout": {"dropout": 1.5, "num_layers": 2},
    "bias": {"bias": 1},
}


@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_refuses_arguments_that_torch_refuses(name):
    arguments = {"input_size": 4, "hidden_size": 6, **CONSTRUCTIONS[name]}
    for theirs, ours in TWINS.values():
        with pytest.raises((ValueError, TypeError)) as expected:
            theirs(**arguments)
        with pytest.raises(type(expected.value)):
            ours(**arguments)


def test_refuses_its_own_options_with_a_sentence():
    for option in ("input_dropout", "recurrent_dropout", "weight_dropout", "zoneout"):
        with pytest.raises(ValueError, match=f"LSTM: expected {option} to be a probability in"):
            lab.LSTM(4, 6, **{option: 1.5})
    with pytest.raises(ValueError, match="GRU: expected zoneout to be a probability, got"):
        lab.GRU(4, 6, zoneout=(0.1, 0.2))
    with pytest.raises(ValueError, match='RNN: expected nonlinearity to be "tanh" or "relu", got \'sigmoid\''):
        lab.RNN(4, 6, nonlinearity="sigmoid")
    with pytest.raises(ValueError, match="GRU: expected no proj_size"):
        lab.GRU(4, 6, proj_size=2)
    with pytest.raises(ValueError, match="expected impl to be one of"):
        lab.GRU(4, 6, impl="mine")


@pytest.mark.skipif(not _extension.available(), reason="genlab._C is not built")
@pytest.mark.parametrize("kind", TWINS)
def test_compiles_as_a_whole(kind):
    _, module = pair(kind)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=False)
    input = torch.randn(3, 2, 4)
    close(results(compiled, input), results(module, input))


def test_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _, ours in TWINS.values():
            ours(4, 6, 2)(torch.randn(5, 3, 4))
