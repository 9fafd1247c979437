"""Recurrent networks over whole sequences: torch.nn's RNN, LSTM and GRU on the lab's ops."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from genlab.ops import gru, implementation, lstm, recurrence_checks, rnn

Sequences = Tensor | PackedSequence


class Recurrent(nn.RNNBase):
    """What RNN, LSTM and GRU share: torch's parameters, with dropouts whose masks stay the same over time.

    Not torch.nn.LSTM and so on by class: torch.compile breaks its graph at those.

    Args:
        *args, **kwargs: those of the torch.nn module of the same name.
        input_dropout: probability of zeroing inputs of each layer, one mask per sequence (Gal & Ghahramani 2016).
        recurrent_dropout: the same for the hidden state where weight_hh multiplies it.
        weight_dropout: probability of zeroing elements of weight_hh, one mask per call (Merity et al. 2017).
        zoneout: probability that a unit keeps its state (Krueger et al. 2017); an LSTM takes (hidden, cell) as well.
        impl: "auto", "native", "torch" or "reference", see `genlab.ops.describe`.

    Raises:
        ValueError, TypeError: as the torch.nn module, and for a probability outside [0, 1].
    """

    def __init__(
        self,
        mode: str,
        *args: Any,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        zoneout: float | tuple[float, float] = 0.0,
        impl: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(mode, *args, **kwargs)
        name = type(self).__name__
        self.input_dropout, self.recurrent_dropout = input_dropout, recurrent_dropout
        self.weight_dropout, self.zoneout = weight_dropout, zoneout
        for option in ("input_dropout", "recurrent_dropout", "weight_dropout"):
            recurrence_checks.check_probability(name, option, getattr(self, option))
        recurrence_checks.zoneout_pair(name, mode.split("_")[0].lower(), zoneout)
        implementation.check_impl(name, impl)
        self.impl = impl

    def _arguments(self, batch_first: bool, lengths: Any) -> tuple[tuple, dict[str, Any]]:
        """What follows (input, hx) in a call of the op."""
        params = [getattr(self, name) for name in self._flat_weights_names]
        plain = (params, self.bias, self.num_layers, self.dropout, self.training, self.bidirectional, batch_first)
        options = {name: getattr(self, name) for name in ("input_dropout", "recurrent_dropout", "weight_dropout")}
        return plain, {**options, "zoneout": self.zoneout, "lengths": lengths, "impl": self.impl}

    def _unbatched(self, input: Sequences, states: tuple[Tensor, ...]) -> bool:
        """Whether the input is one sequence (T, I); raises where the rank of input or states is another."""
        if isinstance(input, PackedSequence):
            return False
        name = type(self).__name__
        if input.dim() not in (2, 3):
            raise ValueError(
                f"{name}: expected input of shape (T, B, input_size), or (T, input_size) unbatched, got {input.dim()} "
                "dimensions"
            )
        for state in states:
            if state.dim() != input.dim():
                raise RuntimeError(
                    f"{name}: expected a {input.dim()}-dimensional hx beside a {input.dim()}-dimensional input, "
                    f"got {state.dim()} dimensions"
                )
        return input.dim() == 2

    def _run(self, op: Any, input: Sequences, hx: Any, lengths: Any, **extra: Any) -> tuple[Sequences, Any]:
        """(output, h_n) or (output, (h_n, c_n)); a sequence without batch dimension gets one for the op."""
        pair = self.mode == "LSTM"
        states = () if hx is None else tuple(hx) if pair and isinstance(hx, tuple | list) else (hx,)
        unbatched = self._unbatched(input, tuple(state for state in states if isinstance(state, Tensor)))
        plain, options = self._arguments(self.batch_first and not unbatched, lengths)
        if unbatched:
            input, states = input.unsqueeze(1), tuple(state.unsqueeze(1) for state in states)
        given = None if hx is None else states if pair and len(states) != 1 else states[0]
        output, *found = op(input, given, *plain, **options, **extra)
        if unbatched:
            output, found = output.squeeze(1), [state.squeeze(1) for state in found]
        return output, tuple(found) if pair else found[0]

    def extra_repr(self) -> str:
        options = ("input_dropout", "recurrent_dropout", "weight_dropout", "zoneout")
        text = "".join(f", {name}={getattr(self, name)}" for name in options if getattr(self, name) not in (0, (0, 0)))
        return super().extra_repr() + text + ("" if self.impl == "auto" else f", impl={self.impl!r}")


class RNN(Recurrent):
    """Elman's network, loads the state_dict of torch.nn.RNN and gives its outputs; see `genlab.ops.rnn`.

    Args:
        *args, **kwargs: torch.nn.RNN's (input_size, hidden_size, num_layers, nonlinearity, bias, batch_first, dropout,
            bidirectional).
        input_dropout, recurrent_dropout, weight_dropout, zoneout, impl: see `Recurrent`.

    Example:
        >>> output, h_n = RNN(8, 16, nonlinearity="relu")(torch.randn(5, 2, 8))
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if len(args) > 3:
            kwargs["nonlinearity"] = args[3]
            args = args[:3] + args[4:]
        _refuse_projection("RNN", kwargs)
        nonlinearity = kwargs.pop("nonlinearity", "tanh")
        recurrence_checks.check_nonlinearity("RNN", nonlinearity)
        super().__init__(f"RNN_{nonlinearity.upper()}", *args, **kwargs)
        self.nonlinearity = nonlinearity

    def forward(self, input: Sequences, hx: Tensor | None = None, lengths: Any = None) -> tuple[Sequences, Tensor]:
        """As torch.nn.RNN; `lengths` of padded sequences, see `genlab.ops.lstm`."""
        return self._run(rnn, input, hx, lengths, nonlinearity=self.nonlinearity)


class LSTM(Recurrent):
    """Long short-term memory, loads the state_dict of torch.nn.LSTM and gives its outputs; see `genlab.ops.lstm`.

    Args:
        *args, **kwargs: torch.nn.LSTM's (input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, proj_size).
        input_dropout, recurrent_dropout, weight_dropout, zoneout, impl: see `Recurrent`.

    Example:
        >>> output, (h_n, c_n) = LSTM(8, 16, recurrent_dropout=0.25)(torch.randn(5, 2, 8))
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)

    def forward(
        self, input: Sequences, hx: tuple[Tensor, Tensor] | None = None, lengths: Any = None
    ) -> tuple[Sequences, tuple[Tensor, Tensor]]:
        """As torch.nn.LSTM; `lengths` of padded sequences, see `genlab.ops.lstm`."""
        return self._run(lstm, input, hx, lengths)


class GRU(Recurrent):
    """Gated recurrent units, loads the state_dict of torch.nn.GRU and gives its outputs; see `genlab.ops.gru`.

    Args:
        *args, **kwargs: torch.nn.GRU's (input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional).
        input_dropout, recurrent_dropout, weight_dropout, zoneout, impl: see `Recurrent`.

    Example:
        >>> output, h_n = GRU(8, 16, bidirectional=True)(torch.randn(5, 2, 8))
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse_projection("GRU", kwargs)
        super().__init__("GRU", *args, **kwargs)

    def forward(self, input: Sequences, hx: Tensor | None = None, lengths: Any = None) -> tuple[Sequences, Tensor]:
        """As torch.nn.GRU; `lengths` of padded sequences, see `genlab.ops.lstm`."""
        return self._run(gru, input, hx, lengths)


def _refuse_projection(name: str, kwargs: dict[str, Any]) -> None:
    if "proj_size" in kwargs:
        raise ValueError(f"{name}: expected no proj_size, which only LSTM has")
