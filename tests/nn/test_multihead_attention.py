"""genlab.nn.MultiheadAttention beside torch.nn.MultiheadAttention: one state_dict, the same outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genlab import _extension
from genlab.nn import MultiheadAttention

IMPLEMENTATIONS = ["auto", "torch", "reference", *(["native"] if _extension.available() else [])]
E, HEADS, N, L, S = 32, 2, 3, 5, 7

LAYERS = {
    "plain": {},
    "no_bias": {"bias": False},
    "bias_kv": {"add_bias_kv": True},
    "zero_attn": {"add_zero_attn": True, "add_bias_kv": True},
    "unlike_dims": {"kdim": 12, "vdim": 20},
}


def pair(impl="auto", seed=0, **arguments):
    torch.manual_seed(seed)
    theirs = nn.MultiheadAttention(E, HEADS, **arguments)
    for name, parameter in theirs.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)  # zeros would hide a bias in the wrong place
    ours = MultiheadAttention(E, HEADS, impl=impl, **arguments)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(layer, batched=True, kind="cross"):
    generator = torch.Generator().manual_seed(1)

    def draw(length, columns):
        x = torch.randn(N, length, columns, generator=generator)
        return x[0] if not batched else x if layer.batch_first else x.transpose(0, 1)

    query = draw(L, E)
    if kind == "self":
        return query, query, query
    key = draw(S, layer.kdim)
    return query, key, key if kind == "shared" else draw(S, layer.vdim)


def outcome(layer, tensors, **arguments):
    """[output, weights, gradients of inputs and parameters]."""
    leaves = {id(t): t.detach().clone().requires_grad_() for t in tensors}
    output, weights = layer(*(leaves[id(t)] for t in tensors), **arguments)
    total = (output * torch.linspace(0.5, 1.5, output.numel()).view_as(output)).sum()
    total = total if weights is None else total + weights.square().sum()
    names = sorted(name for name, _ in layer.named_parameters())
    parameters = dict(layer.named_parameters())
    gradients = torch.autograd.grad(total, [*leaves.values(), *(parameters[name] for name in names)])
    return [output.detach(), *([] if weights is None else [weights.detach()]), *gradients]


def assert_same(theirs, ours, tensors, **arguments):
    expected, found = outcome(theirs, tensors, **arguments), outcome(ours, tensors, **arguments)
    assert len(found) == len(expected)
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_has_torchs_parameters_and_first_values(name):
    theirs, ours = (kind(E, HEADS, **LAYERS[name]) for kind in (nn.MultiheadAttention, MultiheadAttention))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.manual_seed(3), (theirs := nn.MultiheadAttention(E, HEADS, **LAYERS[name]))
    torch.manual_seed(3), (ours := MultiheadAttention(E, HEADS, **LAYERS[name]))
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_agrees_with_torch_from_its_state_dict(impl, name, batch_first, need_weights):
    theirs, ours = pair(impl, batch_first=batch_first, **LAYERS[name])
    assert_same(theirs, ours, inputs(ours), need_weights=need_weights)
    if name == "plain":
        for kind in ("self", "shared"):
            assert_same(theirs, ours, inputs(ours, kind=kind), need_weights=need_weights)
            assert_same(theirs, ours, inputs(ours, batched=False, kind=kind), need_weights=need_weights)


def masks(kind):
    generator = torch.Generator().manual_seed(2)
    padding = torch.rand(N, S, generator=generator) < 0.4
    padding[:, 0] = False  # every query keeps a key
    order = torch.rand(L, S, generator=generator) < 0.4
    order[:, 0] = False
    each = torch.rand(N * HEADS, L, S, generator=generator) < 0.4
    each[..., 0] = False
    numbers = torch.randn(L, S, generator=generator)
    return {
        "padding": {"key_padding_mask": padding},
        "pairs": {"attn_mask": order},
        "heads": {"attn_mask": each},
        "both": {"key_padding_mask": padding, "attn_mask": each},
        "numbers": {"attn_mask": numbers},
        "numbers_both": {"key_padding_mask": torch.zeros(N, S).masked_fill(padding, -torch.inf), "attn_mask": numbers},
    }[kind]


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("kind", ["padding", "pairs", "heads", "both", "numbers", "numbers_both"])
def test_masks_mean_what_torchs_mean(kind, need_weights):
    theirs, ours = pair(batch_first=True)
    assert_same(theirs, ours, inputs(ours), need_weights=need_weights, **masks(kind))
    theirs, ours = pair(batch_first=True, add_bias_kv=True, add_zero_attn=True)
    assert_same(theirs, ours, inputs(ours), need_weights=need_weights, **masks(kind))


@pytest.mark.parametrize("need_weights", [False, True])
def test_causal_alone_with_its_mask_and_with_padding(need_weights):
    theirs, ours = pair(batch_first=True)
    tensors = inputs(ours)
    order = torch.ones(L, S, dtype=torch.bool).triu(1)
    padding = masks("padding")["key_padding_mask"]
    expected = theirs(*tensors, attn_mask=order)[0]
    for arguments in ({}, {"attn_mask": order}):
        found = ours(*tensors, is_causal=True, need_weights=need_weights, **arguments)[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    expected = theirs(*tensors, attn_mask=order, key_padding_mask=padding)[0]
    found = ours(*tensors, is_causal=True, key_padding_mask=padding, need_weights=need_weights)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_average_and_shapes_of_the_weights():
    theirs, ours = pair(batch_first=True)
    for batched in (True, False):
        tensors = inputs(ours, batched)
        for average in (True, False):
            expected = theirs(*tensors, average_attn_weights=average)[1]
            torch.testing.assert_close(ours(*tensors, average_attn_weights=average)[1], expected)
    assert ours(*inputs(ours), need_weights=False)[1] is None


def test_dropout_only_in_training_and_from_torchs_generator():
    theirs, ours = pair(batch_first=True, dropout=0.5)
    tensors = inputs(ours)
    for layer in (theirs, ours):
        torch.manual_seed(5)
        layer.train()
        layer.found = layer(*tensors)[0]
    torch.testing.assert_close(ours.found, theirs.found)
    ours.eval()
    assert torch.equal(ours(*tensors, need_weights=False)[0], ours(*tensors, need_weights=False)[0])
    ours.train()
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        runs.append(ours(*tensors, need_weights=False)[0])
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_query_without_keys_gives_the_projections_bias(impl, need_weights):
    _, ours = pair(impl, batch_first=True)
    tensors = inputs(ours)
    padding = torch.zeros(N, S, dtype=torch.bool)
    padding[1] = True
    found = outcome(ours, tensors, key_padding_mask=padding, need_weights=need_weights)
    assert all(tensor.isfinite().all() for tensor in found)
    torch.testing.assert_close(found[0][1], ours.out_proj.bias.detach().expand(L, E))


def test_serves_torchs_encoder_layer():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(E, HEADS, 16, dropout=0.0, batch_first=True)
    x = torch.randn(N, L, E)
    expected = layer(x)
    ours = MultiheadAttention(E, HEADS, batch_first=True)
    ours.load_state_dict(layer.self_attn.state_dict())
    layer.self_attn = ours
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


X = torch.zeros(N, L, E)
REFUSALS = {
    "columns": ((X[..., :4], X, X), {}, AssertionError, r"expected query with 32 columns, got \(3, 5, 4\)"),
    "lengths": ((X, X, X[:, :2]), {}, AssertionError, "expected key and value of one length"),
    "batches": ((X, X[:2], X[:2]), {}, RuntimeError, "of the query's batch"),
    "ranks": ((X, X[0], X[0]), {}, AssertionError, "of two or three dimensions each"),
    "padding_shape": (
        (X, X, X), {"key_padding_mask": torch.zeros(N, 2).bool()}, AssertionError, r"padding_mask of shape \(3, 5\)",
    ),
    "mask_shape": ((X, X, X), {"attn_mask": torch.zeros(2, 2).bool()}, RuntimeError, r"attn_mask of shape \(5, 5\) or"),
    "mask_rank": ((X, X, X), {"attn_mask": torch.zeros(2).bool()}, AssertionError, "attn_mask of two or three"),
    "mask_dtype": ((X, X, X), {"attn_mask": torch.zeros(L, L).long()}, AssertionError, "dtype torch.bool or floating"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refuses_what_torch_refuses_with_its_error(name):
    tensors, arguments, error, message = REFUSALS[name]
    theirs, ours = pair(batch_first=True)
    with pytest.raises(error):
        theirs(*tensors, **arguments)
    with pytest.raises(error, match=message) as caught:
        ours(*tensors, **arguments)
    assert str(caught.value).startswith("MultiheadAttention: ")


def test_shows_and_checks_its_implementation():
    assert "impl=reference" in repr(MultiheadAttention(E, HEADS, impl="reference"))
    with pytest.raises(ValueError, match="expected impl to be one of"):
        MultiheadAttention(E, HEADS, impl="mine")
    with pytest.raises(AssertionError):
        MultiheadAttention(E, 5)
