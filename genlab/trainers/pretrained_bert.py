"""BERT out of another run's checkpoint, or out of published files: its sizes, its vocabulary and its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from genlab.checkpoint import FORMAT, find_checkpoint, load_checkpoint, read_state
from genlab.data.text_given import read_codec
from genlab.data.text_vocabulary import TextCodec
from genlab.errors import CheckpointError
from genlab.models.bert_weights import read_weights, shape_of
from genlab.trainers.bert_config import HEAD_WIDTH, BertConfig

KEY = "model.bert.pretrained"
_NETWORKS = {"bert_pretraining": "model", "sentence_classifier": "classifier"}  # algorithm -> network that holds a BERT


def published_file(path: Path) -> Path | None:
    """The file of weights of the transformers library that `path` means, itself or in its folder; None for a run."""
    if path.is_dir():
        names = (path / "model.safetensors", path / "pytorch_model.bin")
        return next((name for name in names if name.is_file()), None)
    if path.suffix == ".bin":
        return path
    if path.suffix == ".safetensors" and path.is_file():
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                return None if (file.metadata() or {}).get("format") == FORMAT else path
        except (SafetensorError, OSError):
            return None  # a damaged checkpoint, which says so when it is opened
    return None


def _state_of(path: Path) -> dict[str, Any]:
    try:
        state = read_state(find_checkpoint(path))
    except CheckpointError as error:
        raise CheckpointError(f"{KEY}: {error}") from None
    model = state["config"]["model"]
    if state["algorithm"] not in _NETWORKS or model.get("network", "bert") != "bert":
        raise CheckpointError(
            f"{KEY}: {path}: expected a run of bert_pretraining, got one of {state['algorithm']}; train one, "
            "or give weights of the transformers library"
        )
    return state


def read_shape(path: Path) -> dict[str, int]:
    """width, layers, heads, feedforward and positions of a pre-trained BERT.

    Raises:
        CheckpointError: no BERT there.
    """
    file = published_file(path)
    if file is None:
        return BertConfig.model_validate(_state_of(path)["config"]["model"]["bert"]).shape()
    try:
        shape = shape_of(read_weights(file))
    except CheckpointError as error:
        raise CheckpointError(f"{KEY}: {error}") from None
    del shape["vocabulary"]
    # Weights do not tell the number of heads: config.json beside them does, else they are 64 wide.
    usual = max(1, shape["width"] // HEAD_WIDTH)
    return {**shape, "heads": _published_fact(file.with_name("config.json"), "num_attention_heads", usual)}


def _published_fact(file: Path, name: str, default: Any) -> Any:
    """An entry of a file of JSON, or the default where there is no such file."""
    if not file.is_file():
        return default
    try:
        return json.loads(file.read_text(encoding="utf-8"))[name]
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{KEY}: {file}: expected JSON with {name}, got none") from None


def read_vocabulary(path: Path) -> dict[str, Any]:
    """Settings of the data section that are a pre-trained BERT's: vocabulary, unit and case.

    Of published files the vocabulary is `vocab.txt` beside them, and tokenizer_config.json may tell the case.
    """
    file = published_file(path)
    if file is not None:
        words = file.with_name("vocab.txt")
        lowercase = _published_fact(file.with_name("tokenizer_config.json"), "do_lower_case", None)
        return {
            **({"vocabulary": str(words)} if words.is_file() else {}),
            **({"lowercase": lowercase} if isinstance(lowercase, bool) else {}),
            "unit": "wordpiece",
        }
    _state_of(path)
    codec = read_codec(path)
    return {"vocabulary": str(path), "unit": codec.unit, "lowercase": codec.lowercase}


def load_pretrained(network: nn.Module, config: BertConfig, codec: TextCodec) -> None:
    """Puts the weights that `config.pretrained` names into `network`, which has a BERT called "bert".

    What else a network has keeps its values, but for the two heads of pre-training, which go over where both have them.

    Raises:
        CheckpointError: no BERT there, or one of other sizes or tokens.
    """
    path = config.pretrained
    assert path is not None
    file = published_file(path)
    theirs, mine = read_shape(path), config.shape()
    if theirs != mine:
        wrong = [name for name in mine if theirs[name] != mine[name]]
        expected, got = (", ".join(f"{name} {shape[name]}" for name in wrong) for shape in (mine, theirs))
        raise CheckpointError(
            f"{KEY}: {path}: expected a BERT of {expected}, as the model section says, got {got}; leave the sizes in "
            "model.bert out, so that they are read from there"
        )
    tensors = read_weights(file) if file is not None else _own_weights(path)
    _require_tokens(path, tensors, None if file is not None else read_codec(path), codec)
    state = network.state_dict()
    missing = [name for name in state if name.startswith("bert.") and name not in tensors]
    if missing:
        raise CheckpointError(f"{KEY}: {path}: expected the weights of a whole BERT, got none of {missing[0]}")
    network.load_state_dict({**state, **{name: value for name, value in tensors.items() if name in state}})


def _own_weights(path: Path) -> dict[str, Tensor]:
    algorithm = _state_of(path)["algorithm"]
    prefix = f"networks/{_NETWORKS[algorithm]}/"
    tensors = load_checkpoint(find_checkpoint(path)).tensors
    heads = algorithm == "bert_pretraining"  # a classifier's output layer is of its own classes
    return {
        name[len(prefix) :]: value
        for name, value in tensors.items()
        if name.startswith(prefix) and (heads or name.startswith(f"{prefix}bert."))
    }


def _require_tokens(path: Path, tensors: dict[str, Tensor], theirs: TextCodec | None, mine: TextCodec) -> None:
    rows = len(tensors["bert.tokens.weight"])
    if rows == len(mine) and (theirs is None or theirs.digest == mine.digest):
        return
    strange = [] if theirs is None else [token for token in mine.tokens if token not in theirs.numbers]
    new = f", {len(strange)} of them unknown to it" if strange else ""
    raise CheckpointError(
        f"{KEY}: {path}: expected the vocabulary that it was trained with, of {rows} tokens, got the data's of "
        f"{len(mine)}{new}; leave out data.vocabulary, or set it to that of the pre-trained model"
    )
