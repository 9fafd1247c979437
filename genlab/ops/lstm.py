"""Long short-term memory over whole sequences."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from genlab.ops import recurrence, recurrence_checks

OP = "lstm"


def lstm(
    input: Tensor | PackedSequence,
    hx: tuple[Tensor, Tensor] | None,
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
    zoneout: float | tuple[float, float] = 0.0,
    impl: str = "auto",
) -> tuple[Tensor | PackedSequence, Tensor, Tensor]:
    """A stack of LSTM layers over whole sequences, arguments and results of torch.lstm (Hochreiter & Schmidhuber 1997).

        i, f, o = sigmoid(W x + b + V h + d), g = tanh(likewise), c' = f c + i g, h' = o tanh(c')

    Args:
        input: (T, B, I), (B, T, I) where `batch_first`, or a PackedSequence; T >= 1.
        hx: initial (h, c) of shapes (L * D, B, P or H) and (L * D, B, H), or None for zeros; L = num_layers, D = 2
            where `bidirectional`, else 1. Beside a PackedSequence in the order of the sequences before packing.
        params: of each layer and direction weight_ih (4 H, I), weight_hh (4 H, H), bias_ih (4 H), bias_hh (4 H) as
            torch.nn.LSTM orders them, gates i, f, g, o; with a projection weight_hh (4 H, P), and last weight_hr
            (P, H).
        has_biases: whether params hold biases.
        num_layers: >= 1.
        dropout: probability of zeroing outputs of every layer but the last, each step anew; only where `train`.
        train: whether the dropouts draw.
        bidirectional: a second direction, from the last step to the first.
        batch_first: of input and output only.
        lengths: of padded sequences, (B,) int64 on the CPU, in any order; outputs behind an end are zero and the states
            are those after the last step of each sequence.
        input_dropout: probability of zeroing inputs of each layer, one mask per sequence for all steps (Gal &
            Ghahramani 2016).
        recurrent_dropout: the same for the hidden state where weight_hh multiplies it.
        weight_dropout: probability of zeroing elements of weight_hh, one mask per call (Merity et al. 2017,
            "Regularizing and Optimizing LSTM Language Models", section 2).
        zoneout: probability that a unit keeps its state, one number or (hidden, cell) (Krueger et al. 2017, equations 4
            and 5); its expectation where not `train`. Runs step by step in torch: there is no kernel for it.
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Returns:
        (output, h_n, c_n): output (T, B, D * H) laid out as the input, or a PackedSequence; states of hx's shapes.

    Raises:
        ValueError: input of another rank or dtype than the weights', a probability outside [0, 1].
        TypeError: an input or states of the wrong type.
        RuntimeError: sizes that do not fit (features, states, parameters, lengths), no steps, tensors on different
            devices or of different dtypes; impl="native" where the extension is not built.
        NotImplementedError: impl="native" for a device, dtype or option without kernel.

    Example:
        >>> layer = torch.nn.LSTM(8, 16)
        >>> output, h_n, c_n = lstm(torch.randn(5, 2, 8), None, list(layer.parameters()))
        >>> output.shape
        torch.Size([5, 2, 16])
    """
    pair = isinstance(hx, tuple | list) and len(hx) == 2 and all(isinstance(state, Tensor) for state in hx)
    if hx is not None and not pair:
        raise TypeError(f"{OP}: expected hx to be a pair of tensors (h, c) or None, got {type(hx).__name__}")
    network = recurrence.Network(
        OP, "lstm", has_biases, num_layers, dropout, train, bidirectional, input_dropout, recurrent_dropout,
        weight_dropout, recurrence_checks.zoneout_pair(OP, "lstm", zoneout),
    )  # fmt: skip
    states = None if hx is None else tuple(hx)
    output, (h_n, c_n) = recurrence.run(network, input, states, params, batch_first, lengths, impl)
    return output, h_n, c_n
