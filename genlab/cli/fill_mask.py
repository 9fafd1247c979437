"""`genlab fill-mask`: the words that a BERT puts in place of [MASK]."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from genlab.cli.console import make_console, make_table
from genlab.cli.generate import CheckpointArgument, DeviceOption, Weights, WeightsOption, WhichOption, open_model

EXAMPLES = """\
One word: genlab fill-mask runs/bert_wikitext2-1 "the [MASK] of the king"

Two, ten words each: genlab fill-mask runs/bert_wikitext2-1 "he was [MASK] in [MASK] ." --top-k 10
"""


def register(app: typer.Typer) -> None:
    app.command("fill-mask", epilog=EXAMPLES)(fill_mask)


def fill_mask(
    checkpoint: CheckpointArgument,
    text: Annotated[str, typer.Argument(help="A text with at least one [MASK], in quotes.", metavar="TEXT")],
    top_k: Annotated[int, typer.Option("--top-k", help="Words for each mask.", min=1, max=1000)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, with the words of each mask.")] = False,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Tell the likeliest words in place of every [MASK], each mask by itself."""
    model = open_model(checkpoint, which, weights, device)
    from genlab.trainers.bert_pretraining import require_bert

    found = require_bert(model.trainer, model.path).fill_mask(text, top_k)
    if as_json:
        masks = [[{"token": token, "probability": round(chance, 6)} for token, chance in row] for row in found]
        print(json.dumps({"text": text, "masks": masks}, ensure_ascii=False))
        return
    rows = [
        (number, rank, token, f"{chance:.1%}")
        for number, row in enumerate(found, start=1)
        for rank, (token, chance) in enumerate(row, start=1)
    ]
    make_console().print(make_table(None, ["mask", "rank", "token", "probability"], rows, right=("probability",)))
