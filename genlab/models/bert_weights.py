"""BERT's weights under the names of the transformers library (`BertForPreTraining`), read and written.

    there                                                    here
    bert.embeddings.{word,position,token_type}_embeddings    bert.{tokens,places,segments}
    bert.embeddings.LayerNorm                                bert.norm
    bert.encoder.layer.I.attention.self.{query,key,value}    bert.blocks.I.attention.in_proj_{weight,bias}, one above
                                                             the other
    bert.encoder.layer.I.attention.output.{dense,LayerNorm}  bert.blocks.I.{attention.out_proj,attention_norm}
    bert.encoder.layer.I.{intermediate,output}.dense         bert.blocks.I.{enter,leave}
    bert.encoder.layer.I.output.LayerNorm                    bert.blocks.I.output_norm
    bert.pooler.dense                                        bert.pooler
    cls.predictions.transform.{dense,LayerNorm}              transform, norm
    cls.predictions.bias, cls.predictions.decoder            bias, and bert.tokens.weight again (tied)
    cls.seq_relationship                                     next_sentence

Checkpoints of `BertModel` leave out "bert." and `cls`; the oldest call a normalisation's weight gamma, its bias beta.
"""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from genlab.errors import CheckpointError
from genlab.models.bert import EPS, Bert

_MODULES = {
    "bert.embeddings.word_embeddings": "bert.tokens",
    "bert.embeddings.position_embeddings": "bert.places",
    "bert.embeddings.token_type_embeddings": "bert.segments",
    "bert.embeddings.LayerNorm": "bert.norm",
    "bert.encoder.layer.#.attention.output.dense": "bert.blocks.#.attention.out_proj",
    "bert.encoder.layer.#.attention.output.LayerNorm": "bert.blocks.#.attention_norm",
    "bert.encoder.layer.#.intermediate.dense": "bert.blocks.#.enter",
    "bert.encoder.layer.#.output.dense": "bert.blocks.#.leave",
    "bert.encoder.layer.#.output.LayerNorm": "bert.blocks.#.output_norm",
    "bert.pooler.dense": "bert.pooler",
    "cls.predictions.transform.dense": "transform",
    "cls.predictions.transform.LayerNorm": "norm",
    "cls.seq_relationship": "next_sentence",
}
_SELF = "bert.encoder.layer.#.attention.self."
_PARTS = ("query", "key", "value")
_OLD = {"gamma": "weight", "beta": "bias"}
# Copies of other weights, and tables that are no weights.
_REPEATED = ("cls.predictions.decoder.", "bert.embeddings.position_ids")


def from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under this lab's names, with "bert." before those of the encoder; the heads where they are there.

    Raises:
        CheckpointError: a name that is none of BERT's.
    """
    made: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, value in state.items():
        name = name if name.startswith(("bert.", "cls.")) else f"bert.{name}"
        if name.startswith(_REPEATED):
            continue
        if name == "cls.predictions.bias":
            made["bias"] = value
            continue
        module, _, kind = name.rpartition(".")
        kind = _OLD.get(kind, kind)
        layer, general = _general(module)
        if general.startswith(_SELF) and general[len(_SELF) :] in _PARTS:
            parts.setdefault((layer, kind), {})[general[len(_SELF) :]] = value
        elif general in _MODULES:
            made[f"{_MODULES[general].replace('#', layer)}.{kind}"] = value
        else:
            raise CheckpointError(f"expected the weights of a BERT, got {name!r} among them")
    for (layer, kind), three in parts.items():
        if len(three) < len(_PARTS):
            raise CheckpointError(f"expected query, key and value of layer {layer}, got {', '.join(three)}")
        made[f"bert.blocks.{layer}.attention.in_proj_{kind}"] = torch.cat([three[part] for part in _PARTS])
    return made


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_transformers`, for the state_dict of a `BertPretraining`; the tied weights stand twice."""
    names = {mine: theirs for theirs, mine in _MODULES.items()}
    made = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        layer, general = _general(module)
        if name == "bias":
            made["cls.predictions.bias"] = value
        elif kind.startswith("in_proj_"):
            for part, rows in zip(_PARTS, value.chunk(3), strict=True):
                made[f"{_SELF.replace('#', layer)}{part}.{kind.removeprefix('in_proj_')}"] = rows.contiguous()
        else:
            made[f"{names[general].replace('#', layer)}.{kind}"] = value
    made["cls.predictions.decoder.weight"] = made["bert.embeddings.word_embeddings.weight"]
    made["cls.predictions.decoder.bias"] = made["cls.predictions.bias"]
    return made


def _general(module: str) -> tuple[str, str]:
    """("3", "bert.blocks.#.enter") of "bert.blocks.3.enter"; ("", module) where there is no number."""
    match = re.search(r"(?<=\.)\d+(?=\.|$)", module)
    return ("", module) if match is None else (match.group(), f"{module[: match.start()]}#{module[match.end() :]}")


def shape_of(state: dict[str, Tensor]) -> dict[str, int]:
    """width, layers, feedforward, positions, vocabulary of weights under this lab's names; heads they do not tell."""
    try:
        vocabulary, width = state["bert.tokens.weight"].shape
        layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("bert.blocks."))
        feedforward, positions = len(state["bert.blocks.0.enter.bias"]), len(state["bert.places.weight"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"expected the weights of a whole BERT, got none of {error}") from None
    return {
        "width": width,
        "layers": layers,
        "feedforward": feedforward,
        "positions": positions,
        "vocabulary": vocabulary,
    }


def published_config(bert: Bert, dropout: float, padding: int) -> dict[str, Any]:
    """What the transformers library keeps in config.json beside the weights.

    Args:
        bert: the encoder.
        dropout: that it was trained with.
        padding: number of the padding token.
    """
    block = bert.blocks[0]
    return {
        "architectures": ["BertForPreTraining"],
        "model_type": "bert",
        "vocab_size": bert.tokens.num_embeddings,
        "hidden_size": bert.width,
        "num_hidden_layers": len(bert.blocks),
        "num_attention_heads": block.attention.num_heads,
        "intermediate_size": block.enter.out_features,
        "max_position_embeddings": bert.positions,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": EPS,
        "initializer_range": bert.initial_std,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "pad_token_id": padding,
    }


def read_weights(path: Path) -> dict[str, Tensor]:
    """A file of the transformers library, `.safetensors` or `.bin`, under this lab's names. Nothing in it is executed.

    Raises:
        CheckpointError: missing, unreadable, or not BERT's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
        raise CheckpointError(f"{path}: expected a file of tensors, got {' '.join(str(error).split())[:200]}") from None
    try:
        return from_transformers({name: value for name, value in state.items() if isinstance(value, Tensor)})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
