"""What lstm, gru and rnn share: stacked layers, directions, packed sequences, dropouts, choice of implementation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from genlab.ops import implementation, recurrence_checks, shapes
from genlab.ops.recurrence_reference import Layer, Weights, Zoneout, run_layer

TORCH = {"lstm": torch.lstm, "gru": torch.gru, "rnn_tanh": torch.rnn_tanh, "rnn_relu": torch.rnn_relu}
States = tuple[Tensor, ...]


@dataclass(frozen=True)
class Network:
    """The arguments of a call beside its tensors, named as in `genlab.ops.lstm`."""

    op: str
    cell: str
    has_biases: bool
    num_layers: int
    dropout: float
    train: bool
    bidirectional: bool
    input_dropout: float
    recurrent_dropout: float
    weight_dropout: float
    zoneout: tuple[float, float]

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def states(self) -> int:
        return 2 if self.cell == "lstm" else 1


def run(
    network: Network,
    input: Tensor | PackedSequence,
    hx: States | None,
    params: Sequence[Tensor],
    batch_first: bool,
    lengths: Tensor | Sequence[int] | None,
    impl: str,
) -> tuple[Tensor | PackedSequence, States]:
    """(output, (h_n,) or (h_n, c_n)) of a whole network; see `genlab.ops.lstm` for the arguments."""
    op = network.op
    recurrence_checks.check_network(network)
    implementation.check_impl(op, impl)
    layers = recurrence_checks.split_parameters(network, params)
    if isinstance(input, PackedSequence):
        if lengths is not None:
            raise ValueError(f"{op}: expected no lengths beside a PackedSequence, which holds them")
        return _run_packed(network, input, hx, layers, impl)
    recurrence_checks.check_input(network, input, 3, layers)
    if lengths is not None:
        return _run_padded(network, input, hx, layers, batch_first, lengths, impl)
    data = input.transpose(0, 1) if batch_first else input
    if data.shape[0] == 0:
        raise RuntimeError(f"{op}: expected sequences of at least one step, got input of shape {_text(input)}")
    recurrence_checks.check_states(network, hx, data, data.shape[1], layers)
    output, states = _run_stack(network, data, None, hx, layers, impl)
    return output.transpose(0, 1) if batch_first else output, states


def _text(tensor: Tensor) -> str:
    return shapes.shape_text(tensor)


def _run_packed(
    network: Network, input: PackedSequence, hx: States | None, layers: list[tuple[Weights, ...]], impl: str
) -> tuple[PackedSequence, States]:
    """States go in and come out in the caller's order, inside they lie as the packed sequences: longest first."""
    data, batch_sizes, order, inverse = input
    recurrence_checks.check_input(network, data, 2, layers)
    recurrence_checks.check_states(network, hx, data, int(batch_sizes[0]), layers)
    if hx is None:
        hx = _zero_states(network, data, int(batch_sizes[0]), layers)
    elif order is not None:
        hx = tuple(state.index_select(1, order) for state in hx)
    output, states = _run_stack(network, data, batch_sizes, hx, layers, impl)
    if inverse is not None:
        states = tuple(state.index_select(1, inverse) for state in states)
    return PackedSequence(output, batch_sizes, order, inverse), states


def _run_padded(
    network: Network,
    input: Tensor,
    hx: States | None,
    layers: list[tuple[Weights, ...]],
    batch_first: bool,
    lengths: Tensor | Sequence[int],
    impl: str,
) -> tuple[Tensor, States]:
    """Packs, runs and pads again: zeros behind the end of a sequence, states after its last step."""
    batch, steps = input.shape[0 if batch_first else 1], input.shape[1 if batch_first else 0]
    lengths = recurrence_checks.check_lengths(network.op, lengths, batch, steps)
    packed = pack_padded_sequence(input, lengths, batch_first, enforce_sorted=False)
    output, states = _run_packed(network, packed, hx, layers, impl)
    return pad_packed_sequence(output, batch_first, total_length=steps)[0], states


def _zero_states(network: Network, data: Tensor, batch: int, layers: list[tuple[Weights, ...]]) -> States:
    return tuple(data.new_zeros(size) for size in recurrence_checks.state_sizes(network, batch, layers))


def _run_stack(
    network: Network,
    data: Tensor,
    batch_sizes: Tensor | None,
    hx: States | None,
    layers: list[tuple[Weights, ...]],
    impl: str,
) -> tuple[Tensor, States]:
    """(T, B, I), or packed (rows, I), to (output, states) through every layer."""
    batch = data.shape[1] if batch_sizes is None else hx[0].shape[1]
    chosen = _choose(network, data, batch, layers, impl)
    if network.train and network.weight_dropout > 0:
        layers = [tuple(_drop_weights(weights, network.weight_dropout) for weights in layer) for layer in layers]
    if chosen == "torch" and not (network.train and network.input_dropout > 0):
        return _torch(network, data, batch_sizes, hx, layers, network.dropout)
    run_one = {"native": _native_layer, "torch": _torch_layer, "reference": _reference_layer}[chosen]
    found: list[States] = []
    for index, weights in enumerate(layers):
        if index > 0:
            data = F.dropout(data, network.dropout, network.train)
        data = _drop_input(network, data, batch_sizes, batch)
        of_layer = slice(index * network.directions, (index + 1) * network.directions)
        given = None if hx is None else tuple(state[of_layer] for state in hx)
        data, states = run_one(network, data, batch_sizes, given, weights, _state_mask(network, data, batch, weights))
        found.append(states)
    return data, found[0] if len(found) == 1 else tuple(torch.cat(of_one) for of_one in zip(*found, strict=True))


def _choose(network: Network, data: Tensor, batch: int, layers: list[tuple[Weights, ...]], impl: str) -> str:
    """The implementation: "torch" becomes the reference's steps for what torch's networks cannot do."""
    masked = network.train and network.recurrent_dropout > 0
    missing = []
    if any(network.zoneout):
        missing.append("the kernels have no zoneout")
    if layers[0][0].hr is not None:
        missing.append("the kernels have no projection of the hidden state (proj_size)")
    asked = implementation.get_default_impl() if impl == "auto" else impl
    if missing and asked == "native":
        raise NotImplementedError(f'{network.op}: impl="native" cannot run: {"; ".join(missing)}; use impl="torch"')
    if missing and asked == "auto":
        asked = "torch"
    if data.numel() == 0 or batch == 0:
        asked = "reference" if asked == "reference" else "torch"  # nothing to compute
    tensors = (data, *(tensor for layer in layers for weights in layer for tensor in weights))
    differentiated = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    hidden = layers[0][0].hh.shape[1]
    chosen = implementation.choose(network.op, asked, data, hidden, masked, differentiated)
    return "reference" if chosen == "torch" and (masked or any(network.zoneout)) else chosen


def _drop_weights(weights: Weights, p: float) -> Weights:
    """Merity et al. 2017, section 2: one mask on the recurrent weights for all steps of all sequences."""
    return weights._replace(hh=F.dropout(weights.hh, p, True))


def _drop_input(network: Network, data: Tensor, batch_sizes: Tensor | None, batch: int) -> Tensor:
    """Gal & Ghahramani 2016, section 4.1: one mask per sequence on a layer's inputs, the same at every step."""
    if not network.train or network.input_dropout == 0:
        return data
    mask = F.dropout(data.new_ones(batch, data.shape[-1]), network.input_dropout, True)
    if batch_sizes is not None:
        mask = torch.cat([mask[:running] for running in batch_sizes.tolist()])
    return data * mask


def _state_mask(network: Network, data: Tensor, batch: int, weights: tuple[Weights, ...]) -> Tensor | None:
    """The same for the hidden state, where weight_hh multiplies it."""
    if not network.train or network.recurrent_dropout == 0:
        return None
    ones = data.new_ones(network.directions, batch, weights[0].hh.shape[1])
    return F.dropout(ones, network.recurrent_dropout, True)


def _torch(
    network: Network,
    data: Tensor,
    batch_sizes: Tensor | None,
    hx: States | None,
    layers: list[tuple[Weights, ...]],
    dropout: float,
) -> tuple[Tensor, States]:
    """torch's own network over the layers given."""
    batch = data.shape[1] if batch_sizes is None else hx[0].shape[1]
    states = _zero_states(network, data, batch, layers) if hx is None else hx
    low = shapes.autocast_dtype(data)
    if low is not None and data.dtype != torch.float64:
        states = tuple(state.to(low) for state in states)  # a float32 state would make torch's GRU return float32
    hidden = states if network.states == 2 else states[0]
    flat = [tensor for layer in layers for weights in layer for tensor in weights if tensor is not None]
    rest = (flat, network.has_biases, len(layers), dropout, network.train, network.bidirectional)
    if batch_sizes is None:
        output, *found = TORCH[network.cell](data, hidden, *rest, False)
    else:
        output, *found = TORCH[network.cell](data, batch_sizes, hidden, *rest)
    return output, tuple(found)


def _torch_layer(
    network: Network,
    data: Tensor,
    batch_sizes: Tensor | None,
    hx: States | None,
    weights: tuple[Weights, ...],
    mask: Tensor | None,
) -> tuple[Tensor, States]:
    return _torch(network, data, batch_sizes, hx, [weights], 0.0)


def _layer(
    network: Network,
    data: Tensor,
    batch_sizes: Tensor | None,
    hx: States | None,
    weights: tuple[Weights, ...],
    mask: Tensor | None,
) -> Layer:
    h0, c0 = (*(hx or ()), None, None)[:2]
    return Layer(network.cell, data, batch_sizes, h0, c0, weights, mask, Zoneout(*network.zoneout, network.train))


def _reference_layer(network: Network, *rest) -> tuple[Tensor, States]:
    output, h_n, c_n = run_layer(_layer(network, *rest))
    return output, (h_n,) if c_n is None else (h_n, c_n)


def _native_layer(network: Network, *rest) -> tuple[Tensor, States]:
    layer = _layer(network, *rest)
    forward, *reverse = layer.directions
    backward = reverse[0][:4] if reverse else (None,) * 4
    tensors = (layer.input, layer.h0, layer.c0, *forward[:4], *backward)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    output, h_n, c_n, _, _ = torch.ops.genlab.recurrence(*tensors, layer.batch_sizes, layer.mask, layer.cell, keep)
    return output, (h_n, c_n) if network.states == 2 else (h_n,)
