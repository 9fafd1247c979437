"""`genlab predict-text`: the class of sentences by a trained classifier, of every word by a trained tagger."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from genlab.cli.generate import CheckpointArgument, DeviceOption, Weights, WeightsOption, WhichOption, open_model
from genlab.errors import UserError

BATCH = 256

EXAMPLES = """\
A sentence: genlab predict-text runs/text_cnn_sst2-1 "a film to fall in love with"

A file, one sentence a line: genlab predict-text runs/text_cnn_sst2-1 --file reviews.txt --json

Parts of speech, words between spaces: genlab predict-text runs/bilstm_small_tags-1 "the old man lights a lamp ."
"""


def register(app: typer.Typer) -> None:
    app.command("predict-text", epilog=EXAMPLES)(predict_text)


def predict_text(
    checkpoint: CheckpointArgument,
    sentences: Annotated[list[str] | None, typer.Argument(help="Sentences, each in quotes.", metavar="TEXT")] = None,
    file: Annotated[
        Path | None, typer.Option(help="UTF-8 file of sentences, one a line; - reads from stdin.", metavar="PATH")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line: probabilities, or tags.")] = False,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Say which class sentences belong to and how sure the model is, or the tag of each word by a tagger."""
    texts = gather_texts(sentences, file)
    model = open_model(checkpoint, which, weights, device)
    show = _shown(type(model.trainer))
    if show is None:
        from genlab.trainers import ALGORITHMS

        able = [name for name in ALGORITHMS.names() if _shown(ALGORITHMS.get(name))]
        raise UserError(
            f"{model.path}: expected a model that classifies sentences or words ({', '.join(able)}), "
            f"got one of {model.config.algorithm}"
        )
    show(model.trainer, texts, as_json)


def _print_tags(trainer: Any, texts: list[str], as_json: bool) -> None:
    """A word and its tag a line, a blank line between sentences: the columns that `data.name=tagged` reads."""
    for number, text in enumerate(texts):
        tags = trainer.tag(text)
        if as_json:
            print(json.dumps({"text": text, "tags": [list(pair) for pair in tags]}, ensure_ascii=False))
            continue
        if number:
            print()
        width = max(len(word) for word, _ in tags)
        for word, tag in tags:
            print(f"{word:<{width}}  {tag}")


def _print_classes(trainer: Any, texts: list[str], as_json: bool) -> None:
    names = trainer.data.class_names
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        for text, row in zip(part, trainer.classify(part).tolist(), strict=True):
            best = max(range(len(row)), key=row.__getitem__)
            if as_json:
                shares = {name: round(p, 6) for name, p in zip(names, row, strict=True)}
                print(json.dumps({"text": text, "class": names[best], "probabilities": shares}, ensure_ascii=False))
            else:
                print(f"{names[best]}\t{row[best]:.3f}\t{text}")


def _shown(trainer: type) -> Callable[[Any, list[str], bool], None] | None:
    """How what a trainer says of texts is printed; None where it says nothing of them."""
    for kind, method, show in (("sentences", "classify", _print_classes), ("tagged", "tag", _print_tags)):
        if kind in trainer.data_kinds and hasattr(trainer, method):
            return show
    return None


def gather_texts(given: list[str] | None, file: Path | None) -> list[str]:
    """Texts of the command line, or the lines of a file or of stdin ("-").

    Raises:
        UserError: neither or both, an empty one, or a file that is not UTF-8.
    """
    if bool(given) == (file is not None):
        raise UserError("TEXT: expected sentences, or --file with one a line; give one of the two")
    if given:
        texts = given
    elif str(file) == "-":
        texts = sys.stdin.read().splitlines()
    else:
        from genlab.data.text_files import read_lines

        texts = read_lines(file)
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            where = f"{file}: line {number}" if file is not None else f"TEXT {number}"
            raise UserError(f"{where}: expected a sentence, got an empty one; leave it out")
    return texts
