"""Calls of scaled_dot_product_attention that its tests share."""

from __future__ import annotations

import torch
from helpers import Sample

from genlab import ops


def attention(query, key, value, numbers, *, boolean=None, impl, **arguments):
    """The op with its tensors by place; `boolean` makes the mask's shape, kept deterministic by its size."""
    mask = numbers if boolean is None else boolean_mask(boolean, query.device)
    return ops.scaled_dot_product_attention(query, key, value, mask, impl=impl, **arguments)


def boolean_mask(shape, device="cpu"):
    """True for about two thirds; the first row of all has no key, and the last key is nobody's (as padding)."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) < 0.66
    mask[..., -1] = False
    mask[..., 0, :] = False if mask.shape[-2] > 1 else mask[..., 0, :]
    return mask.to(device)


def sample(query, key, columns=None, *, numbers=None, memory="plain", small=False, **arguments):
    """query and key sizes; `columns` of the value; `numbers` the shape of an additive mask; `memory` the layout."""

    def make(dtype, device):
        generator = torch.Generator().manual_seed(sum(query) + sum(key))
        value = (*key[:-1], columns or key[-1])
        drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in (query, key, value)]
        if memory == "heads_in_rows":
            drawn = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in drawn]
        elif memory == "columns_apart":
            drawn = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in drawn]
        elif memory == "packed":
            both = torch.stack(drawn, 3)  # (N, H, L, 3, E): rows three times as long
            drawn = [both[:, :, :, i] for i in range(3)]
        mask = None if numbers is None else torch.randn(numbers, generator=generator, dtype=torch.float64)
        return (*(t.to(device, dtype) for t in drawn), None if mask is None else mask.to(device, dtype))

    parts = ["x".join(map(str, query)), "x".join(map(str, key)), str(columns), str(numbers), memory]
    name = "-".join([*parts, *(f"{k}={v}" for k, v in arguments.items())]).replace(" ", "")
    return Sample(name, make, arguments, terms=max(query[-1], key[-2], query[-2]), small=small)


SAMPLES = [
    sample((1, 2, 5, 8), (1, 2, 5, 8), small=True),
    sample((2, 2, 3, 4), (2, 2, 6, 4), 5, is_causal=True, small=True),
    sample((2, 4, 3, 4), (2, 2, 5, 4), 3, numbers=(3, 5), enable_gqa=True, small=True),
    sample((1, 2, 4, 3), (1, 2, 5, 3), boolean=(4, 5), scale=0.7, small=True),
    sample((2, 3, 6), (2, 4, 6), scale=-0.5, small=True),
    sample((1, 1, 1, 16), (1, 1, 1, 16)),
    sample((5, 7), (6, 7), 9),
    sample((2, 3, 97, 40), (2, 3, 129, 40), 24, memory="heads_in_rows"),
    sample((1, 2, 129, 64), (1, 2, 129, 64), is_causal=True, memory="packed"),
    sample((1, 1, 150, 32), (1, 1, 70, 32), is_causal=True),
    sample((1, 1, 33, 33), (1, 1, 200, 33), 65, is_causal=True, memory="columns_apart"),
    sample((2, 4, 65, 48), (2, 2, 66, 48), 80, enable_gqa=True, boolean=(2, 1, 1, 66)),
    sample((2, 2, 31, 17), (2, 2, 64, 17), numbers=(2, 1, 31, 64)),
    sample((1, 2, 20, 128), (1, 2, 600, 128), 16),
    sample((1, 2, 700, 16), (1, 2, 1100, 16), is_causal=True),
    sample((1, 4, 140, 20), (1, 1, 530, 20), 130, enable_gqa=True, numbers=(140, 530)),
    sample((2, 1, 40, 256), (2, 1, 50, 256), boolean=(40, 50)),
]
