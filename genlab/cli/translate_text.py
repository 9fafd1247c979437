"""`genlab translate-text`: sentences into the language that a sequence-to-sequence model learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genlab.cli.generate import CheckpointArgument, DeviceOption, Weights, WeightsOption, WhichOption, open_model
from genlab.cli.predict_text import gather_texts
from genlab.errors import UserError

EXAMPLES = """\
A sentence: genlab translate-text runs/transformer_multi30k-1 "A man in an orange hat." --attention map.png

A file, one sentence a line: genlab translate-text runs/transformer_multi30k-1 --file test.en --beam 8
"""


def register(app: typer.Typer) -> None:
    app.command("translate-text", epilog=EXAMPLES)(translate_text)


def translate_text(
    checkpoint: CheckpointArgument,
    sentences: Annotated[list[str] | None, typer.Argument(help="Sentences, each in quotes.", metavar="TEXT")] = None,
    file: Annotated[
        Path | None, typer.Option(help="UTF-8 file of sentences, one a line; - reads from stdin.", metavar="PATH")
    ] = None,
    beam: Annotated[
        int | None, typer.Option(help="Hypotheses that are followed; 1: greedy; default: the run's.", min=1, max=64)
    ] = None,
    attention: Annotated[
        Path | None, typer.Option(help="Picture of where the model looked; one sentence only.", metavar="PNG")
    ] = None,
    which: WhichOption = "last",
    weights: WeightsOption = Weights.ema,
    device: DeviceOption = None,
) -> None:
    """Translate sentences: one line for each."""
    texts = gather_texts(sentences, file)
    if attention is not None:
        from genlab.outputs import check_place

        if len(texts) > 1:
            raise UserError(f"--attention: expected one sentence, got {len(texts)}")
        if attention.suffix != ".png":
            raise UserError(f"--attention: expected a name that ends in .png, got {str(attention)!r}")
        check_place(attention)
    model = open_model(checkpoint, which, weights, device)
    from genlab.trainers.seq2seq import Seq2SeqTrainer

    trainer = model.trainer
    if not isinstance(trainer, Seq2SeqTrainer):
        raise UserError(
            f"{model.path}: expected a model of seq2seq, which translates sentences, got one of "
            f"{model.config.algorithm}"
        )
    for line in trainer.translate(texts, beam):
        print(line)
    if attention is not None:
        _draw(trainer, texts[0], attention)


def _draw(trainer, text: str, path: Path) -> None:
    from genlab.attention_figures import attention_picture
    from genlab.images import save_image

    source, target, weights = trainer.attention(text)
    if weights is None:
        raise UserError("--attention: expected a model with attention, got one of model.recurrent.attention=none")
    save_image(attention_picture(source, target, weights)[0], path)
