"""`genlab generate`: texts from a trained language model."""

from __future__ import annotations

from typing import Annotated

import typer

from genlab.cli.generate import CheckpointArgument, DeviceOption, Weights, WeightsOption, WhichOption, open_model

EXAMPLES = """\
A play: genlab generate runs/lstm_tinyshakespeare-1 --prompt "ROMEO:" --tokens 500 --temperature 0.8

The likeliest words only: genlab generate runs/lstm_wikitext2-1 --prompt "The city" --top-p 0.9 -n 3 --seed 7
"""


def register(app: typer.Typer) -> None:
    app.command("generate", epilog=EXAMPLES)(generate)


def generate(
    checkpoint: CheckpointArgument,
    prompt: Annotated[str, typer.Option(help="What the text goes on from; default: a new line.", metavar="TEXT")] = "",
    tokens: Annotated[int, typer.Option(help="Characters or words to add.", min=1, max=1_000_000)] = 200,
    count: Annotated[int, typer.Option("-n", "--count", help="How many texts.", min=1, max=1024)] = 1,
    temperature: Annotated[float, typer.Option(help="Below 1: likelier tokens; 0: always the likeliest.")] = 1.0,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Only the k likeliest tokens.", metavar="K")] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Only the likeliest tokens that reach this share.", metavar="P")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.", min=0)] = 0,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Write texts with a language model, from a beginning of yours."""
    from genlab.text_sampling import Sampling

    sampling = Sampling(temperature, top_k, top_p)
    model = open_model(checkpoint, which, weights, device)
    import torch

    from genlab.trainers.language_model import require_language_model

    trainer = require_language_model(model.trainer, model.path)
    texts = trainer.generate(prompt, tokens, sampling, torch.Generator().manual_seed(seed), count)
    space = " " if prompt and trainer.codec.unit != "character" and not prompt[-1:].isspace() else ""
    print(f"\n{'-' * 40}\n".join(f"{prompt}{space}{text}".rstrip("\n") for text in texts))
