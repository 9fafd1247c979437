"""Verbs on word vectors: nearest words, analogies, and the text file that other programs read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from genlab.errors import UserError
from genlab.outputs import check_place, writing

VectorsArgument = Annotated[
    Path,
    typer.Argument(
        help="A run of word2vec, one of its checkpoints, or a text file of vectors as word2vec, GloVe and fastText "
        "write (.gz too).",
        metavar="RUN_OR_FILE",
    ),
]
CountOption = Annotated[int, typer.Option("-n", "--count", help="How many words to show.", min=1)]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]

NEIGHBOURS_EXAMPLES = """\
A run's: genlab neighbours runs/word2vec_wikitext2-1 river army album

Of vectors from elsewhere: genlab neighbours glove.6B.100d.txt.gz river -n 5
"""
ANALOGIES_EXAMPLES = """\
What is to woman as king is to man: genlab analogies runs/word2vec_wikitext2-1 man king woman

Several at once: genlab analogies runs/word2vec_wikitext2-1 man king woman france paris germany
"""
EXPORT_EXAMPLES = "Example: genlab export-vectors runs/word2vec_wikitext2-1 vectors.txt"


def register(app: typer.Typer) -> None:
    app.command("neighbours", epilog=NEIGHBOURS_EXAMPLES)(neighbours)
    app.command("analogies", epilog=ANALOGIES_EXAMPLES)(analogies)
    app.command("export-vectors", epilog=EXPORT_EXAMPLES)(export_vectors)


def neighbours(
    vectors: VectorsArgument,
    words: Annotated[list[str], typer.Argument(help="Words to look up.", metavar="WORD")],
    count: CountOption = 8,
    as_json: JsonOption = False,
) -> None:
    """Show the words whose vectors are nearest to those of given words, by cosine."""
    from genlab.word_vectors import load_vectors

    known = load_vectors(vectors)
    for word in words:  # all are known before anything is printed
        known.number(word)
    for word in words:
        _print({"word": word}, known.nearest(word, count), as_json)


def analogies(
    vectors: VectorsArgument,
    words: Annotated[list[str], typer.Argument(help="A B C: what is to C as B is to A?", metavar="A B C")],
    count: CountOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Find what is to C as B is to A: the words nearest to B - A + C, by cosine."""
    if len(words) % 3:
        raise UserError(f"A B C: expected words in threes, such as man king woman, got {len(words)}")
    from genlab.word_vectors import load_vectors

    known = load_vectors(vectors)
    for word in words:
        known.number(word)
    for at in range(0, len(words), 3):
        a, b, c = words[at : at + 3]
        _print({"a": a, "b": b, "c": c}, known.analogy(a, b, c, count), as_json)


def _print(query: dict[str, str], found: list[tuple[str, float]], as_json: bool) -> None:
    if as_json:
        nearest = [{"word": word, "cosine": round(cosine, 6)} for word, cosine in found]
        print(json.dumps({**query, "nearest": nearest}, ensure_ascii=False))
        return
    asked = list(query.values())
    left = asked[0] if len(asked) == 1 else f"{asked[0]} : {asked[1]} = {asked[2]} : ?"
    print(f"{left}\t{', '.join(f'{word} {cosine:.2f}' for word, cosine in found)}")


def export_vectors(
    vectors: VectorsArgument,
    output: Annotated[Path, typer.Argument(help="The text file to write.", metavar="OUT.txt")],
) -> None:
    """Write word vectors as a text file: a line "words numbers", then a word and its numbers on each line."""
    from genlab.word_vectors import load_vectors

    if output.is_dir():
        raise UserError(f"{output}: expected a file to write, got a folder; name a file in it")
    check_place(output)
    known = load_vectors(vectors)
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        known.save_text(output)
    print(f"{output}: {len(known.words)} words of {known.vectors.shape[1]} numbers")
