"""Gated recurrent units over whole sequences."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from genlab.ops import recurrence, recurrence_checks

OP = "gru"


def gru(
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
    lengths: Tensor | Sequence[int] | None = None,
    input_dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    weight_dropout: float = 0.0,
    zoneout: float = 0.0,
    impl: str = "auto",
) -> tuple[Tensor | PackedSequence, Tensor]:
    """A stack of GRU layers over whole sequences, arguments and results of torch.gru (Cho et al. 2014).

        r, z = sigmoid(W x + b + V h + d), n = tanh(W_n x + b_n + r (V_n h + d_n)), h' = (1 - z) n + z h

    The bias of the recurrent product lies inside the reset gate's product, as in torch and cuDNN.

    Args:
        input: (T, B, I), (B, T, I) where `batch_first`, or a PackedSequence; T >= 1.
        hx: initial h of shape (L * D, B, H), or None for zeros.
        params: of each layer and direction weight_ih (3 H, I), weight_hh (3 H, H), bias_ih (3 H), bias_hh (3 H) as
            torch.nn.GRU orders them, gates r, z, n.
        has_biases, num_layers, dropout, train, bidirectional, batch_first, lengths, input_dropout, recurrent_dropout,
            weight_dropout, impl: as `genlab.ops.lstm`.
        zoneout: probability that a unit keeps its state, see `genlab.ops.lstm`.

    Returns:
        (output, h_n): output (T, B, D * H) laid out as the input, or a PackedSequence; h_n (L * D, B, H).

    Raises:
        ValueError, TypeError, RuntimeError, NotImplementedError: as `genlab.ops.lstm`.

    Example:
        >>> layer = torch.nn.GRU(8, 16)
        >>> output, h_n = gru(torch.randn(5, 2, 8), None, list(layer.parameters()))
        >>> output.shape
        torch.Size([5, 2, 16])
    """
    recurrence_checks.check_state_type(OP, hx)
    network = recurrence.Network(
        OP, "gru", has_biases, num_layers, dropout, train, bidirectional, input_dropout, recurrent_dropout,
        weight_dropout, recurrence_checks.zoneout_pair(OP, "gru", zoneout),
    )  # fmt: skip
    output, (h_n,) = recurrence.run(
        network, input, None if hx is None else (hx,), params, batch_first, lengths, impl
    )  # fmt: skip
    return output, h_n
