"""One layer of a recurrent network written out step by step in plain torch: the definition of lstm, gru and rnn."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genlab.ops import shapes

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


class Weights(NamedTuple):
    """The parameters of one direction of one layer, shapes as torch.nn.LSTM's; G gates of H, inputs of I."""

    ih: Tensor  # (G * H, I)
    hh: Tensor  # (G * H, H), or (G * H, P) with a projection
    bias_ih: Tensor | None = None  # (G * H,)
    bias_hh: Tensor | None = None  # (G * H,)
    hr: Tensor | None = None  # (P, H), lstm only: the projection of the hidden state


class Zoneout(NamedTuple):
    """Probabilities that a unit keeps its state of the step before (Krueger et al. 2017, equations 4 and 5)."""

    hidden: float = 0.0
    cell: float = 0.0
    train: bool = False  # False takes the expectation instead of a draw


class Layer(NamedTuple):
    """One layer's call.

    input: (T, B, I), or (rows, I) beside batch_sizes.
    batch_sizes: (T,) int64 on the CPU, not increasing, as a PackedSequence has them; None for equal lengths.
    h0, c0: (D, B, P or H) and (D, B, H); None for zeros (not beside batch_sizes); c0 of an lstm only.
    mask: (D, B, P or H), factors of the hidden state where weight_hh multiplies it; None for ones.
    """

    cell: str  # a key of GATES
    input: Tensor
    batch_sizes: Tensor | None
    h0: Tensor | None
    c0: Tensor | None
    directions: tuple[Weights, ...]
    mask: Tensor | None = None
    zoneout: Zoneout = Zoneout()

    @property
    def sizes(self) -> list[int]:
        """How many sequences run at each step."""
        if self.batch_sizes is not None:
            return self.batch_sizes.tolist()
        return [self.input.shape[1]] * self.input.shape[0]


def run_layer(layer: Layer) -> tuple[Tensor, Tensor, Tensor | None]:
    """(output, h_n, c_n) in float32 or wider inside, rounded to the call's dtype at the end.

    output: (T, B, D * H), or (rows, D * H) beside batch_sizes; with a projection P in the place of H.
    """
    dtype = layer.input.dtype
    low = None if dtype == torch.float64 else shapes.autocast_dtype(layer.input)
    with torch.autocast(layer.input.device.type, enabled=False) if low is not None else nullcontext():
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        found = [_run_direction(layer, d, wide) for d in range(len(layer.directions))]
    target = dtype if low is None else low
    output = torch.cat([output for output, _, _ in found], -1).to(target)
    h_n = torch.stack([h for _, h, _ in found]).to(target)
    c_n = torch.stack([c for _, _, c in found]).to(target) if layer.cell == "lstm" else None
    return output, h_n, c_n


def _run_direction(layer: Layer, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None]:
    sizes = layer.sizes
    weights = Weights(*(None if t is None else t.to(dtype) for t in layer.directions[d]))
    u = F.linear(layer.input.to(dtype), weights.ih, weights.bias_ih)
    steps = u.unbind(0) if layer.batch_sizes is None else u.split(sizes)
    batch, hidden = sizes[0], weights.hh.shape[0] // GATES[layer.cell]
    h = u.new_zeros(batch, weights.hh.shape[1]) if layer.h0 is None else layer.h0[d].to(dtype)
    c = u.new_zeros(batch, hidden) if layer.c0 is None else layer.c0[d].to(dtype)
    mask = None if layer.mask is None else layer.mask[d].to(dtype)
    outputs: list[Tensor] = [u] * len(sizes)
    for t in range(len(sizes)) if d == 0 else reversed(range(len(sizes))):
        n = sizes[t]
        h_before, c_before = h[:n], c[:n]
        dropped = h_before if mask is None else h_before * mask[:n]
        h_new, c_new = _step(layer.cell, steps[t], F.linear(dropped, weights.hh, weights.bias_hh), h_before, c_before)
        if weights.hr is not None:
            h_new = F.linear(h_new, weights.hr)
        h_new = _zoneout(h_new, h_before, layer.zoneout.hidden, layer.zoneout.train)
        c_new = _zoneout(c_new, c_before, layer.zoneout.cell, layer.zoneout.train)
        outputs[t] = h_new
        h = h_new if n == batch else torch.cat([h_new, h[n:]])
        c = c_new if n == batch else torch.cat([c_new, c[n:]])
    output = torch.stack(outputs) if layer.batch_sizes is None else torch.cat(outputs)
    return output, h, c if layer.cell == "lstm" else None


def _step(cell: str, u: Tensor, p: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """(h, c) after one step: u from the input, p from the hidden state, biases included; gates in torch's order."""
    if cell == "rnn_tanh":
        return torch.tanh(u + p), c
    if cell == "rnn_relu":
        return torch.relu(u + p), c
    if cell == "lstm":
        i, f, g, o = (u + p).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c
    (u_r, u_z, u_n), (p_r, p_z, p_n) = u.chunk(3, -1), p.chunk(3, -1)
    z = torch.sigmoid(u_z + p_z)
    n = torch.tanh(u_n + torch.sigmoid(u_r + p_r) * p_n)
    return (1 - z) * n + z * h, c


def _zoneout(new: Tensor, before: Tensor, p: float, train: bool) -> Tensor:
    if p == 0:
        return new
    if not train:
        return p * before + (1 - p) * new
    return torch.where(torch.rand_like(new) < p, before, new)
