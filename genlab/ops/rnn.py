"""Elman's recurrent network over whole sequences."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from genlab.ops import recurrence, recurrence_checks

OP = "rnn"


def rnn(
    input: Tensor | PackedSequence,
    hx: Tensor | None,
    params: Sequence[Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    *,
    nonlinearity: str = "tanh",
    lengths: Tensor | Sequence[int] | None = None,
    input_dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    weight_dropout: float = 0.0,
    zoneout: float = 0.0,
    impl: str = "auto",
) -> tuple[Tensor | PackedSequence, Tensor]:
    """A stack of Elman layers over whole sequences, arguments and results of torch.rnn_tanh and torch.rnn_relu.

        h' = tanh(W x + b + V h + d), or relu of the same (Elman 1990)

    Args:
        input: (T, B, I), (B, T, I) where `batch_first`, or a PackedSequence; T >= 1.
        hx: initial h of shape (L * D, B, H), or None for zeros.
        params: of each layer and direction weight_ih (H, I), weight_hh (H, H), bias_ih (H), bias_hh (H).
        nonlinearity: "tanh" or "relu".
        has_biases, num_layers, dropout, train, bidirectional, batch_first, lengths, input_dropout, recurrent_dropout,
            weight_dropout, impl: as `genlab.ops.lstm`.
        zoneout: probability that a unit keeps its state, see `genlab.ops.lstm`.

    Returns:
        (output, h_n): output (T, B, D * H) laid out as the input, or a PackedSequence; h_n (L * D, B, H).

    Raises:
        ValueError: an unknown nonlinearity; else as `genlab.ops.lstm`.
        TypeError, RuntimeError, NotImplementedError: as `genlab.ops.lstm`.

    Example:
        >>> layer = torch.nn.RNN(8, 16)
        >>> output, h_n = rnn(torch.randn(5, 2, 8), None, list(layer.parameters()))
        >>> output.shape
        torch.Size([5, 2, 16])
    """
    recurrence_checks.check_nonlinearity(OP, nonlinearity)
    recurrence_checks.check_state_type(OP, hx)
    network = recurrence.Network(
        OP, f"rnn_{nonlinearity}", has_biases, num_layers, dropout, train, bidirectional, input_dropout,
        recurrent_dropout, weight_dropout, recurrence_checks.zoneout_pair(OP, "rnn", zoneout),
    )  # fmt: skip
    output, (h_n,) = recurrence.run(
        network, input, None if hx is None else (hx,), params, batch_first, lengths, impl
    )  # fmt: skip
    return output, h_n
