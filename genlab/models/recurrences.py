"""Building and running recurrent networks: one place for their arguments, and for padded batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genlab.nn import GRU, LSTM, RNN

RECURRENT = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
State = Any  # (layers, N, H), or two of them for an LSTM


def build_recurrent(
    kind: str,
    input_size: int,
    hidden: int,
    layers: int = 1,
    *,
    bidirectional: bool = False,
    dropout: float = 0.0,
    **dropouts: float,
) -> nn.Module:
    """A recurrent network on sequences (N, T, input_size).

    Args:
        kind: "rnn", "lstm" or "gru".
        input_size, hidden, layers, bidirectional: as of torch.nn.LSTM.
        dropout: between layers.
        **dropouts: input_dropout, recurrent_dropout, weight_dropout, zoneout: same mask over the whole sequence.
    """
    return RECURRENT[kind](
        input_size, hidden, layers, batch_first=True, bidirectional=bidirectional,
        dropout=dropout if layers > 1 else 0.0, **dropouts,
    )  # fmt: skip


def run_recurrent(network: nn.Module, inputs: Tensor, state: State = None, lengths: Tensor | None = None) -> Any:
    """(outputs (N, T, H), final state) of sequences (N, T, I); with `lengths` the state is that at each one's end.

    `lengths` may lie on the device, for which this waits: sequences are packed by lengths that the host knows.
    """
    if lengths is not None:
        lengths = lengths.cpu()
    if inputs.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        low = torch.get_autocast_dtype("cpu")
        if low == torch.float16:  # oneDNN has no recurrent network in it
            with torch.autocast("cpu", enabled=False):
                return network(inputs.float(), state, lengths)
    return network(inputs, state, lengths)


def state_rows(state: State) -> tuple[Tensor, ...]:
    """A recurrent state with the batch first: tensors (N, layers, H), which can be cut and picked by row."""
    return tuple(part.transpose(0, 1) for part in (state if isinstance(state, tuple) else (state,)))


def rows_state(rows: tuple[Tensor, ...]) -> State:
    """The inverse of `state_rows`."""
    parts = tuple(row.transpose(0, 1).contiguous() for row in rows)
    return parts if len(parts) > 1 else parts[0]


def zero_state(network: nn.Module, count: int, device: torch.device) -> tuple[Tensor, ...]:
    """`state_rows` of `count` sequences that begin."""
    layers = network.num_layers * (2 if network.bidirectional else 1)
    parts = 2 if network.mode == "LSTM" else 1
    return tuple(torch.zeros(count, layers, network.hidden_size, device=device) for _ in range(parts))
