"""An autoencoder's encoder out of its checkpoint: its sizes, and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genlab.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from genlab.errors import CheckpointError
from genlab.models.autoencoder import Encoder
from genlab.trainers.stack import StackConfig

KEY = "model.encoder"
_PREFIX = "networks/autoencoder/encoder."


def _open(path: Path) -> Checkpoint:
    try:
        checkpoint = load_checkpoint(find_checkpoint(path))
    except CheckpointError as error:
        raise CheckpointError(f"{KEY}: {error}") from None
    algorithm = checkpoint.state["algorithm"]
    if algorithm != "autoencoder":
        raise CheckpointError(f"{KEY}: {path}: expected a checkpoint of algorithm autoencoder, got {algorithm}")
    return checkpoint


def read_architecture(path: Path) -> dict[str, Any]:
    """The encoder's part of the `model` section in a run or checkpoint, and `trained_on`, the shape of its images.

    Raises:
        CheckpointError: no such checkpoint, damaged, or of another algorithm.
    """
    state = _open(path).state
    model = state["config"]["model"]
    return {**{name: model[name] for name in StackConfig.model_fields}, "trained_on": tuple(state["data"]["shape"])}


def load_encoder(encoder: Encoder, path: Path) -> None:
    """Puts the weights of a run's or checkpoint's encoder into `encoder`.

    Raises:
        CheckpointError: as `read_architecture`, or an encoder of other sizes.
    """
    tensors = {name[len(_PREFIX) :]: value for name, value in _open(path).tensors.items() if name.startswith(_PREFIX)}
    try:
        encoder.load_state_dict(tensors)
    except RuntimeError:
        raise CheckpointError(
            f"{KEY}: {path}: expected an encoder of the sizes in the model section, got others; leave out "
            "model.trained_on, so that the sizes are read from the checkpoint"
        ) from None
