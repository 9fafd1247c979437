"""Assembles the verbs and turns every way a command can end into an exit code.

0 success · 2 a user's error, one line on stderr · 130 Ctrl-C · 143 SIGTERM · 141 the reader of our output went away ·
1 a defect of the lab, with its traceback. `--debug` anywhere on the line keeps the traceback of a user's error too.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from genlab import __version__
from genlab.cli import (
    anomalies,
    arithmetic,
    bench,
    build,
    caption,
    classify,
    cross_validate,
    evaluate,
    explain,
    export_bert,
    fill_mask,
    generate,
    inspect,
    likelihood,
    predict_text,
    reconstruct,
    score,
    train,
    translate,
    translate_text,
    traverse,
    word_vectors,
    write_text,
)
from genlab.cli.failures import Terminated, describe_failure, signals_held, terminating_on_sigterm

USAGE_ERROR = 2
INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141


def build_app() -> typer.Typer:
    """The Typer application with every verb."""
    app = typer.Typer(
        name="genlab",
        help="A lab for deep generative models on its own fused kernels: train, watch, sample, score.",
        epilog="Start here: genlab train dcgan_digits",
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        add_completion=True,
    )

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
        ] = False,
        debug: Annotated[
            bool, typer.Option("--debug", help="Keep the traceback of an error; works anywhere on the line.")
        ] = False,
    ) -> None:
        del version, debug  # acted on by the callback and by `main`

    verbs = (
        train,
        cross_validate,
        generate,
        translate,
        traverse,
        arithmetic,
        reconstruct,
        classify,
        explain,
        caption,
        anomalies,
        evaluate,
        score,
        likelihood,
        predict_text,
        fill_mask,
        export_bert,
        write_text,
        translate_text,
        word_vectors,
        inspect,
        build,
        bench,
    )
    for module in verbs:
        module.register(app)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"genlab {__version__}")
        raise typer.Exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
        argv: the words after `genlab`; default: those of the process.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = _take_debug(words)
    _open_missing_streams()
    try:
        with terminating_on_sigterm():
            code = _invoke(words)
        sys.stdout.flush()  # here, where a full disk or a reader that went away can still be told
        return code
    except KeyboardInterrupt:
        _print_error("interrupted")
        return INTERRUPTED
    except Terminated:
        _print_error("terminated")
        return TERMINATED
    except BrokenPipeError:
        _abandon_unwritable_stdout()
        return BROKEN_PIPE
    except Exception as error:
        _abandon_unwritable_stdout()
        line = describe_failure(error, words)
        if line is None or debug:
            traceback.print_exc()
        if line is None:
            return 1
        _print_error(line)
        return USAGE_ERROR


def _invoke(words: list[str]) -> int:
    command = typer.main.get_command(build_app())
    if "_GENLAB_COMPLETE" in os.environ:  # the shell asks for completions
        command.main(args=words, prog_name="genlab")
    if words and words[0] in command.commands and "--help" not in words:
        with signals_held(), contextlib.suppress(ImportError):  # the verb tells what is missing
            import torch  # noqa: F401 - loaded here, where no signal can fall into it
    try:
        # Not command.main: that one swallows Ctrl-C and prints usage errors over several lines.
        with command.make_context("genlab", words or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    return 0


def _open_missing_streams() -> None:
    """A process started with a closed stdout or stderr (`>&-`) has None in its place."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - lives as long as the process


def _take_debug(words: list[str]) -> bool:
    """Removes `--debug` from the line (not from behind a bare `--`) and says whether it was there."""
    end = words.index("--") if "--" in words else len(words)
    found = "--debug" in words[:end]
    words[:end] = [word for word in words[:end] if word != "--debug"]
    return found


def _abandon_unwritable_stdout() -> None:
    """Points a stdout that takes no more at nothing, so that the flush at exit does not complain again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(line: str) -> None:
    rank = os.environ.get("RANK", "0")
    prefix = "" if rank == "0" else f"rank {rank}: "
    print(f"{prefix}error: {line}", file=sys.stderr, flush=True)
