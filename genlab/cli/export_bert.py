"""`genlab export-bert`: a pre-trained BERT as the transformers library reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from genlab.cli.generate import CheckpointArgument, WhichOption, parse_which
from genlab.errors import RunError, UserError

EXAMPLES = """\
Then BertForPreTraining.from_pretrained("bert/") reads it: genlab export-bert runs/bert_wikitext2-1 bert/
"""


def register(app: typer.Typer) -> None:
    app.command("export-bert", epilog=EXAMPLES)(export_bert)


def export_bert(
    checkpoint: CheckpointArgument,
    folder: Annotated[Path, typer.Argument(help="New or empty folder.", metavar="FOLDER")],
    which: WhichOption = "last",
) -> None:
    """Write weights, sizes and vocabulary of a pre-trained BERT as the transformers library names them."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"FOLDER: expected a new or empty folder, got {str(folder)!r}; name another")
    from safetensors.torch import save

    from genlab.checkpoint import load_bundle, write_atomically
    from genlab.data.text_vocabulary import PAD
    from genlab.models.bert_weights import published_config, to_transformers
    from genlab.trainers.bert_pretraining import require_bert

    bundle = load_bundle(checkpoint, parse_which(which))
    trainer = require_bert(bundle.trainer, bundle.path)
    network, codec = trainer.networks["model"], trainer.codec
    state = {name: value.cpu().clone() for name, value in to_transformers(network.state_dict()).items()}
    facts = published_config(network.bert, trainer.config.model.dropout, codec.special(PAD))
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": codec.lowercase}
    files = {
        "model.safetensors": save(state, {"format": "pt"}),
        "config.json": _json(facts),
        "tokenizer_config.json": _json(tokenizer),
        "vocab.txt": "".join(f"{token}\n" for token in codec.tokens).encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomically(folder / name, content)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror or error})") from None
    for name in files:
        print(folder / name)


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
