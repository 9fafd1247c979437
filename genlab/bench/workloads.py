"""What `genlab bench step` trains beside the GANs: models and sizes of the lab's presets."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genlab.bench.plain_classifiers import PlainLeNet5, build_resnet18, build_vit
from genlab.bench.plain_dcgan import copy_in_order
from genlab.bench.plain_sequences import (
    PlainCausalTransformer,
    PlainRecurrentModel,
    PlainSeq2Seq,
    copy_around_blocks,
    copy_blocks,
)
from genlab.bench.supervised import Batch, Supervised
from genlab.models.vit import VIT_SIZES

CLASSES = 10
CHARACTERS = 65  # of tinyshakespeare
WORDS = {"source": 5893, "target": 7859}  # Multi30k's English and German words that occur at least twice
PAD, UNKNOWN, BEGIN, END = range(4)
PLACES = 256
SMOOTHING = 0.1
VIT_WEIGHT_DECAY = 0.05

# -- classifiers of pictures -------------------------------------------------------------------------------------------


def _pictures(settings: Any, generator: torch.Generator) -> Batch:
    shape = (settings.batch, settings.channels, settings.size, settings.size)
    labels = torch.randint(CLASSES, (settings.batch,), generator=generator)
    return {"image": torch.rand(shape, generator=generator) * 2 - 1, "label": labels}


def _picture_spec(settings: Any) -> dict[str, Any]:
    return {"kind": "images", "shape": (settings.channels, settings.size, settings.size), "num_classes": CLASSES}


def _classifier(network: str, settings: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {"data": {"name": "cifar10", "image_size": settings.size}, "model": {"network": network}}
    if network == "lenet5":
        tree["optimizer"] = {"name": "sgd", "lr": 0.03, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
    elif network == "resnet18":
        tree["optimizer"] = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    else:
        tree["model"]["dropout"] = 0.0
        tree["optimizer"] = {"name": "adamw", "lr": 1e-3, "weight_decay": VIT_WEIGHT_DECAY}
        tree["classifier"] = {"label_smoothing": SMOOTHING}
    return tree


def _plain_classifier(network: str, settings: Any, ours: nn.Module) -> nn.Module:
    if network == "lenet5":
        plain: nn.Module = PlainLeNet5((settings.channels, settings.size, settings.size), CLASSES)
        copy_in_order(ours, plain)
        return plain
    if network == "resnet18":
        plain = build_resnet18(settings.channels, CLASSES)
    else:
        patch, depth, *widths = VIT_SIZES["cifar"]
        plain = build_vit(settings.size, CLASSES, patch, depth, *widths)
    plain.load_state_dict(ours.state_dict())
    return plain


def _classifier_loss(smoothing: float, network: nn.Module, batch: Batch, autocast: torch.autocast) -> Tensor:
    with autocast:
        logits = network(batch["image"])
    return F.cross_entropy(logits.float(), batch["label"], label_smoothing=smoothing)


def _pictures_of(network: str, size: int, channels: int, smoothing: float = 0.0) -> Supervised:
    return Supervised(
        "classifier", partial(_classifier, network), _picture_spec, _pictures, partial(_plain_classifier, network),
        partial(_classifier_loss, smoothing), size=size, channels=channels,
    )  # fmt: skip


# -- language models ---------------------------------------------------------------------------------------------------


def _rows(settings: Any, generator: torch.Generator) -> Batch:
    tokens = torch.randint(CHARACTERS, (settings.batch, settings.length + 1), generator=generator)
    return {"tokens": tokens, "fresh": torch.zeros(settings.batch, dtype=torch.bool)}  # goes on from the step before


def _text_spec(kind: str, codecs: dict[str, int], settings: Any) -> dict[str, Any]:
    from genlab.data.text_vocabulary import TextCodec

    specials = {"pad": PAD, "unknown": UNKNOWN, "begin": BEGIN, "end": END}
    made = {
        key: TextCodec("whitespace", tuple(str(n) for n in range(size)), specials=specials).to_dict()
        for key, size in codecs.items()
    }
    return {"kind": kind, "shape": (), "codecs": made}


def _language_model(network: str, settings: Any) -> dict[str, Any]:
    width = settings.width
    model: dict[str, Any] = {"network": network, "embedding": width}
    if network == "transformer":
        model |= {"tie": True, "transformer": {"layers": 4, "heads": 4, "positions": settings.length}}
        optimizer = {"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.99], "weight_decay": 0.1, "max_grad_norm": 1.0}
    else:
        model["recurrent"] = {"hidden": width, "layers": 1}
        optimizer = {"lr": 2e-3, "max_grad_norm": 1.0}
    return {
        "data": {"name": "tinyshakespeare", "sequence_length": settings.length},
        "model": model,
        "optimizer": optimizer,
    }


def _plain_language_model(network: str, settings: Any, ours: nn.Module) -> nn.Module:
    if network != "transformer":
        plain: nn.Module = PlainRecurrentModel(CHARACTERS, settings.width, network, settings.width, 1)
        plain.load_state_dict(ours.state_dict())
        return plain
    plain = PlainCausalTransformer(CHARACTERS, settings.width, 4, 4, settings.length)
    copy_around_blocks(ours, plain)
    copy_blocks(ours.blocks, plain.blocks)
    return plain


def _next_token_loss(network: nn.Module, batch: Batch, autocast: torch.autocast) -> Tensor:
    tokens = batch["tokens"]
    with autocast:
        logits = network(tokens[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


def _text_of(network: str, length: int, batch_size: int, width: int) -> Supervised:
    return Supervised(
        "language_model", partial(_language_model, network), partial(_text_spec, "text", {"tokens": CHARACTERS}), _rows,
        partial(_plain_language_model, network), _next_token_loss, length=length, width=width, batch_size=batch_size,
    )  # fmt: skip


# -- translation -------------------------------------------------------------------------------------------------------


def _pairs(settings: Any, generator: torch.Generator) -> Batch:
    """Sentences of half the length to the whole, the longest among them."""
    made = {}
    for key, words in WORDS.items():
        lengths = torch.randint(settings.length // 2 + 1, settings.length + 1, (settings.batch,), generator=generator)
        lengths[0] = settings.length
        tokens = torch.randint(END + 1, words, (settings.batch, settings.length), generator=generator)
        made[key] = tokens.masked_fill(torch.arange(settings.length) >= lengths[:, None], PAD)
        made[f"{key}_length"] = lengths
    return made


def _translator(settings: Any) -> dict[str, Any]:
    width = settings.width
    shape = {"layers": 3, "heads": 4, "feedforward": 4 * width, "positions": PLACES}
    return {
        "data": {"name": "multi30k"},
        "model": {"network": "transformer", "embedding": width, "dropout": 0.0, "transformer": shape},
        "optimizer": {"lr": 1e-3, "betas": [0.9, 0.98], "eps": 1e-9, "max_grad_norm": None},
        "label_smoothing": SMOOTHING,
    }


def _plain_translator(settings: Any, ours: nn.Module) -> nn.Module:
    plain = PlainSeq2Seq(*WORDS.values(), settings.width, 3, 4, 4 * settings.width, PLACES)
    copy_around_blocks(ours, plain)
    copy_blocks(ours.encoder, plain.encoder)
    copy_blocks(ours.decoder, plain.decoder)
    return plain


def _translation_loss(network: nn.Module, batch: Batch, autocast: torch.autocast) -> Tensor:
    target = batch["target"]
    before = F.pad(target[:, :-1], (1, 0), value=BEGIN)
    with autocast:
        logits = network(batch["source"], batch["source_length"], before)
    return F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=SMOOTHING)


WORKLOADS = {
    "lenet5_mnist": _pictures_of("lenet5", 28, 1),
    "resnet18_cifar10": _pictures_of("resnet18", 32, 3),
    "vit_cifar10": _pictures_of("vit_cifar", 32, 3, SMOOTHING),
    "rnn_characters": _text_of("rnn", 128, 32, 256),
    "gru_characters": _text_of("gru", 128, 32, 256),
    "lstm_characters": _text_of("lstm", 128, 32, 256),
    "transformer_characters": _text_of("transformer", 256, 32, 256),
    "transformer_multi30k": Supervised(
        "seq2seq", _translator, partial(_text_spec, "sentence_pairs", WORDS), _pairs, _plain_translator,
        _translation_loss, length=16, width=256,
    ),
}  # fmt: skip
