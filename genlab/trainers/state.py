"""A trainer's whole state as flat tensors and JSON values, and back.

Names of tensors: `networks/<network>/<key>`, `ema/<network>/<key>`, `optimizers/<optimiser>/<parameter>/<key>`,
`rng/<rank>/<generator>`, `rng/noise`, `extra/<key>` for what an algorithm adds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genlab.errors import CheckpointError
from genlab.seeding import capture_rng, restore_rng, seed_everything
from genlab.trainers.base import Trainer


def capture_state(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, plain) that continue the training bit for bit.

    Every process must call it: it gathers their generators.
    """
    tensors: dict[str, Tensor] = {"rng/noise": trainer.noise.generator.get_state()}
    plain: dict[str, Any] = {"step": trainer.step, "optimizers": {}, "scalers": {}, "ema": {}, "rng": []}
    for name, network in trainer.networks.items():
        _put(tensors, f"networks/{name}", network.state_dict())
    for name, ema in trainer.ema.items():
        _put(tensors, f"ema/{name}", ema.module.state_dict())
        plain["ema"][name] = ema.state_dict()
    for name, optimizer in trainer.optimizers.items():
        optimizer_tensors, plain["optimizers"][name] = flatten_optimizer_state(optimizer)
        _put(tensors, f"optimizers/{name}", optimizer_tensors)
        plain["scalers"][name] = trainer.scalers[name].state_dict()
    for rank, (rng_tensors, rng_plain) in enumerate(trainer.distributed.gather(capture_rng(trainer.device))):
        _put(tensors, f"rng/{rank}", rng_tensors)
        plain["rng"].append(rng_plain)
    extra_tensors, plain["extra"] = trainer.extra_state()
    _put(tensors, "extra", extra_tensors)
    return tensors, plain


def restore_state(trainer: Trainer, tensors: dict[str, Tensor], plain: dict[str, Any], source: str) -> None:
    """Puts a trainer into the state that `capture_state` saw.

    With more processes than before, the generators of the added ones are seeded anew from (seed, rank, step); the noise
    and the data do not depend on the number of processes.

    Raises:
        CheckpointError: networks, optimisers or shapes that are not this trainer's.
    """
    restore_networks(trainer, tensors, plain, source)
    for name, optimizer in trainer.optimizers.items():
        if name not in plain["optimizers"]:
            raise CheckpointError(f"checkpoint {source}: has no state of optimiser {name!r}")
        restore_optimizer_state(optimizer, _take(tensors, f"optimizers/{name}"), plain["optimizers"][name])
        trainer.scalers[name].load_state_dict(plain["scalers"][name])
    trainer.graphs.forget()
    trainer.noise.generator.set_state(tensors["rng/noise"])
    rank = trainer.distributed.rank
    if rank < len(plain["rng"]):
        restore_rng(_take(tensors, f"rng/{rank}"), plain["rng"][rank], trainer.device)
    else:
        seed_everything(trainer.config.seed, "training", rank, trainer.step)


def restore_networks(trainer: Trainer, tensors: dict[str, Tensor], plain: dict[str, Any], source: str) -> None:
    """The part of `restore_state` that sampling needs: weights, averages, the step and what the algorithm adds."""
    for name, network in trainer.networks.items():
        _load(network, _take(tensors, f"networks/{name}"), f"checkpoint {source}: network {name!r}")
    for name, ema in trainer.ema.items():
        _load(ema.module, _take(tensors, f"ema/{name}"), f"checkpoint {source}: average of network {name!r}")
        ema.load_state_dict(plain["ema"][name])
    trainer.step = int(plain["step"])
    trainer.load_extra_state(_take(tensors, "extra"), plain.get("extra", {}))


def _put(tensors: dict[str, Tensor], prefix: str, values: dict[str, Tensor]) -> None:
    tensors.update({f"{prefix}/{key}": value for key, value in values.items()})


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{prefix}/")}


def _load(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise CheckpointError(f"{what} does not fit: {detail[:400]}") from None


def flatten_optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state_dict as flat tensors `<parameter>/<key>` and JSON values."""
    state = optimizer.state_dict()
    tensors, plain = {}, {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{key}"] = value
            else:
                plain[f"{index}/{key}"] = value
    groups = [
        {key: float(value) if isinstance(value, Tensor) else value for key, value in group.items()}
        for group in state["param_groups"]
    ]
    return tensors, {"values": plain, "param_groups": groups}


def restore_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any]
) -> None:
    """The inverse of `flatten_optimizer_state`; buffers get their parameter's memory order back."""
    state: dict[int, dict[str, Any]] = {}
    for path, value in [*tensors.items(), *plain["values"].items()]:
        index, key = path.split("/", 1)
        state.setdefault(int(index), {})[key] = value.clone() if isinstance(value, Tensor) else value
    tuples = {key for group in optimizer.param_groups for key, value in group.items() if isinstance(value, tuple)}
    groups = [
        {key: tuple(value) if key in tuples else value for key, value in group.items()}
        for group in plain["param_groups"]
    ]
    # Where counts and learning rates live is this run's affair: a checkpoint of a GPU goes on on the CPU.
    for group, own in zip(groups, optimizer.param_groups, strict=False):
        group.update({key: own[key] for key in ("capturable",) if key in own})
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"checkpoint: state of an optimiser does not fit: {error}") from None
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, Tensor):
            group["lr"] = rate.fill_(group["lr"])
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[key] = torch.empty_like(parameter, requires_grad=False).copy_(value)
