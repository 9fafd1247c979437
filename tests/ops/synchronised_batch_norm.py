"""One process of the synchronised batch-norm test: runs its uneven share of a batch and writes what it found.

Called as: python synchronised_batch_norm.py RANK WORLD_SIZE FOLDER, with full.pt (the whole batch) in FOLDER.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from genlab import nn, ops


def main(rank: int, world_size: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=world_size)
    full = torch.load(folder / "full.pt", weights_only=True)
    share = full["shares"][rank]
    first = sum(full["shares"][:rank])
    rows = slice(first, first + share)
    found = {}

    # The op: output, gradients, gradients of a gradient penalty, running statistics.
    input, residual = (full[name][rows].clone().requires_grad_() for name in ("input", "residual"))
    weight, bias = (full[name].clone().requires_grad_() for name in ("weight", "bias"))
    mean, var = full["mean"].clone(), full["var"].clone()
    output = ops.batch_norm_act(
        input, mean, var, weight, bias, True, 0.3, activation="tanh", residual=residual, process_group=dist.group.WORLD
    )
    leaves = (input, weight, bias, residual)
    grads = torch.autograd.grad(output, leaves, full["grad_output"][rows], create_graph=True)
    second = torch.autograd.grad(grads[0].pow(2).sum(), leaves, allow_unused=True)
    found |= {"output": output.detach(), "mean": mean, "var": var}
    for name, tensors in (("grad", grads), ("second", second)):
        for leaf, tensor in zip(("input", "weight", "bias", "residual"), tensors, strict=True):
            found[f"{name}_{leaf}"] = torch.zeros(()) if tensor is None else tensor.detach()

    # The module, told by synchronize_batch_norm; a copy (EMA makes one) shares the group.
    module = nn.BatchNormAct2d(3, activation="relu").double()
    assert nn.synchronize_batch_norm(module) == 1
    explicit = copy.deepcopy(module)
    explicit.process_group = dist.group.WORLD
    found["module"] = module(full["input"][rows]).detach()
    found["copy"] = copy.deepcopy(explicit)(full["input"][rows]).detach()
    found["one_each"] = module(full["input"][rank : rank + 1, :, :1, :1]).detach()
    module.eval()
    found["evaluation"] = module(full["input"][rows]).detach()

    # All samples on rank 0: the others take part with none. 16 channels of float32 are a shape of the native kernels.
    rows = slice(0, None) if rank == 0 else slice(0, 0)
    input = full["wide"][rows].clone().requires_grad_()
    mean, var = torch.zeros(16), torch.ones(16)
    output = ops.batch_norm_act(
        input, mean, var, training=True, activation="relu", reflect_pad=2, process_group=dist.group.WORLD
    )
    (grad,) = torch.autograd.grad(output, input, full["wide_grad"][rows])
    found |= {"wide": output.detach(), "wide_input_grad": grad, "wide_mean": mean, "wide_var": var}
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
