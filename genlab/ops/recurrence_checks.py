"""What lstm, gru and rnn accept, and what they say otherwise; error types are torch.nn.LSTM's."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genlab.ops import shapes
from genlab.ops.recurrence_reference import GATES, Weights

if TYPE_CHECKING:
    from genlab.ops.recurrence import Network


def check_probability(op: str, name: str, value: float) -> None:
    """Raises ValueError unless `value` is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Number) or not 0 <= value <= 1:
        raise ValueError(f"{op}: expected {name} to be a probability in [0, 1], got {value!r}")


def zoneout_pair(op: str, cell: str, value: float | Sequence[float]) -> tuple[float, float]:
    """(hidden, cell) of a zoneout argument: one probability, or for an lstm two."""
    pair = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    if len(pair) != 2 or (cell != "lstm" and isinstance(value, Sequence)):
        wanted = "a probability or a pair of them (hidden, cell)" if cell == "lstm" else "a probability"
        raise ValueError(f"{op}: expected zoneout to be {wanted}, got {value!r}")
    for one in pair:
        check_probability(op, "zoneout", one)
    return pair


def check_state_type(op: str, hx: object) -> None:
    """Raises TypeError unless `hx` is a tensor or None."""
    if hx is not None and not isinstance(hx, Tensor):
        raise TypeError(f"{op}: expected hx to be a tensor or None, got {type(hx).__name__}")


def check_nonlinearity(op: str, nonlinearity: str) -> None:
    """Raises ValueError unless `nonlinearity` is one of torch.nn.RNN's."""
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f'{op}: expected nonlinearity to be "tanh" or "relu", got {nonlinearity!r}')


def check_network(network: Network) -> None:
    """The numbers of a call."""
    if isinstance(network.num_layers, bool) or not isinstance(network.num_layers, int) or network.num_layers < 1:
        raise ValueError(f"{network.op}: expected num_layers >= 1, got {network.num_layers!r}")
    for name in ("dropout", "input_dropout", "recurrent_dropout", "weight_dropout"):
        check_probability(network.op, name, getattr(network, name))


def split_parameters(network: Network, params: Sequence[Tensor]) -> list[tuple[Weights, ...]]:
    """The flat parameters of torch.nn.LSTM (weight_ih_l0, weight_hh_l0, bias_ih_l0, ...) by layer and direction.

    Raises:
        RuntimeError: a wrong number or shape, or parameters that differ in dtype or device.
    """
    op, groups = network.op, network.num_layers * network.directions
    plain = 4 if network.has_biases else 2
    per = len(params) // groups
    if len(params) % groups or per not in (plain, plain + 1) or (per > plain and network.cell != "lstm"):
        more = f" (or {plain + 1} with a projection)" if network.cell == "lstm" else ""
        raise RuntimeError(
            f"{op}: expected {plain} parameters{more} for each of {groups} layers and directions, "
            f"got {len(params)} in all"
        )
    found = [_weights(params[i * per : (i + 1) * per], network.has_biases) for i in range(groups)]
    layers = [tuple(found[i : i + network.directions]) for i in range(0, groups, network.directions)]
    inputs = params[0].shape[-1] if params[0].dim() == 2 else -1
    for index, layer in enumerate(layers):
        for weights in layer:
            _check_weights(network, index, weights, layers[0][0], inputs)
        inputs = layers[0][0].hh.shape[1] * network.directions
    return layers


def _weights(params: Sequence[Tensor], has_biases: bool) -> Weights:
    ih, hh, *rest = params
    biases = (rest.pop(0), rest.pop(0)) if has_biases else (None, None)
    return Weights(ih, hh, *biases, *rest)


def _check_weights(network: Network, index: int, weights: Weights, first: Weights, inputs: int) -> None:
    op = network.op
    rows, states = first.hh.shape if first.hh.dim() == 2 else (0, 0)
    hidden = rows // GATES[network.cell]
    if states < 1 or hidden < 1 or rows % GATES[network.cell] or (first.hr is None and hidden != states):
        raise RuntimeError(
            f"{op}: expected weight_hh of shape ({GATES[network.cell]} * hidden_size, hidden_size), "
            f"got {shapes.shape_text(first.hh)}"
        )
    sizes = ((rows, inputs), (rows, states), (rows,), (rows,), (states, hidden))
    for name, tensor, size in zip(Weights._fields, weights, sizes, strict=True):
        if tensor is None:
            continue
        full = f"{'' if name.startswith('bias') else 'weight_'}{name} of layer {index}"
        if tuple(tensor.shape) != size:
            raise RuntimeError(f"{op}: expected {full} of shape {size}, got {shapes.shape_text(tensor)}")
        if tensor.dtype != first.ih.dtype and shapes.autocast_dtype(tensor) is None:
            raise RuntimeError(
                f"{op}: expected {full} of weight_ih's dtype {first.ih.dtype}, got {tensor.dtype}; convert one of them"
            )
        if tensor.device != first.ih.device:
            raise RuntimeError(f"{op}: expected {full} on weight_ih's device {first.ih.device}, got {tensor.device}")


def check_input(network: Network, input: Tensor, dims: int, layers: list[tuple[Weights, ...]]) -> None:
    """Rank, size, dtype and device of the input (of the data of a PackedSequence)."""
    op, weight = network.op, layers[0][0].ih
    if not isinstance(input, Tensor):
        raise TypeError(f"{op}: expected input to be a tensor or a PackedSequence, got {type(input).__name__}")
    if input.dim() != dims:
        wanted = "(T, B, input_size)" if dims == 3 else "(rows, input_size) in the PackedSequence"
        raise ValueError(f"{op}: expected input of shape {wanted}, got {shapes.shape_text(input)}")
    if input.shape[-1] != weight.shape[1]:
        raise RuntimeError(
            f"{op}: expected input of {weight.shape[1]} features as weight_ih has columns, got {input.shape[-1]}"
        )
    if not input.dtype.is_floating_point or (input.dtype != weight.dtype and shapes.autocast_dtype(input) is None):
        raise ValueError(
            f"{op}: expected input of the weights' dtype {weight.dtype}, got {input.dtype}; convert one of them "
            "or run under torch.autocast"
        )
    if input.device != weight.device:
        raise RuntimeError(f"{op}: expected weights on the input's device {input.device}, got {weight.device}")


def state_sizes(network: Network, batch: int, layers: list[tuple[Weights, ...]]) -> tuple[tuple[int, int, int], ...]:
    """Shapes of h and, for an lstm, c: (layers * directions, batch, size)."""
    weights = layers[0][0]
    count = network.num_layers * network.directions
    hidden = weights.hh.shape[0] // GATES[network.cell]
    sizes = ((count, batch, weights.hh.shape[1]), (count, batch, hidden))
    return sizes[: network.states]


def check_states(
    network: Network,
    hx: tuple[Tensor, ...] | None,
    input: Tensor,
    batch: int,
    layers: list[tuple[Weights, ...]],
) -> None:
    """Shapes, dtype and device of the initial states; None is fine."""
    if hx is None:
        return
    for name, tensor, size in zip(("h", "c"), hx, state_sizes(network, batch, layers), strict=False):
        if tuple(tensor.shape) != size:
            raise RuntimeError(
                f"{network.op}: expected initial {name} of shape {size} (layers * directions, batch, size), "
                f"got {shapes.shape_text(tensor)}"
            )
        if tensor.device != input.device:
            raise RuntimeError(
                f"{network.op}: expected initial {name} on the input's device {input.device}, got {tensor.device}"
            )
        if tensor.dtype != input.dtype and shapes.autocast_dtype(input) is None:
            raise RuntimeError(
                f"{network.op}: expected initial {name} of the input's dtype {input.dtype}, got {tensor.dtype}"
            )


def check_lengths(op: str, lengths: Tensor | Sequence[int], batch: int, steps: int) -> Tensor:
    """Lengths of padded sequences as a CPU tensor. Raises RuntimeError where one does not fit its sequence."""
    lengths = torch.as_tensor(lengths)
    if lengths.dim() != 1 or lengths.dtype != torch.int64 or lengths.device.type != "cpu":
        raise RuntimeError(
            f"{op}: expected lengths to be one row of int64 on the CPU, got {lengths.dtype} of shape "
            f"{shapes.shape_text(lengths)} on {lengths.device}"
        )
    if lengths.numel() != batch:
        raise RuntimeError(f"{op}: expected one length for each of {batch} sequences, got {lengths.numel()}")
    if batch == 0:
        raise RuntimeError(f"{op}: expected at least one sequence beside lengths, got none")
    if int(lengths.min()) < 1 or int(lengths.max()) > steps:
        wrong = int(lengths.min()) if int(lengths.min()) < 1 else int(lengths.max())
        raise RuntimeError(f"{op}: expected lengths in 1 to {steps}, the steps of the input, got {wrong}")
    return lengths
