"""Which exceptions are a user's to mend, and the one line that says how."""

from __future__ import annotations

import contextlib
import errno
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

import typer

from genlab.errors import UserError
from genlab.registry import nearest

_REMEDIES = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some of your quota, or write to another disk",
    errno.EACCES: "choose a place you may write to, or change its permissions",
    errno.EPERM: "choose a place you may write to, or change its permissions",
    errno.EROFS: "choose a folder on a disk that is mounted for writing",
    errno.EMFILE: "raise the limit with `ulimit -n`",
}


class Terminated(BaseException):
    """SIGTERM arrived while no trainer was there to act on it."""


@contextlib.contextmanager
def terminating_on_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated`, so that `finally` clauses run; a trainer may set its own handler."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """SIGINT and SIGTERM that arrive inside are delivered at the end.

    In the midst of loading an extension module, an exception of a signal handler is lost or aborts the process.
    """
    numbers = {signal.SIGINT, signal.SIGTERM}
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_usage_error(error: Exception) -> bool:
    """Whether Typer refused the command line.

    The class is found by name, because newer Typers carry a copy of click of their own.
    """
    return any(base.__name__ in {"ClickException", "TyperException"} for base in type(error).__mro__)


def describe_failure(error: Exception, words: Sequence[str] = ()) -> str | None:
    """The line for stderr, or None when the error is a defect of the lab.

    Args:
        words: the command line, from which the value of a refused option is taken.
    """
    if isinstance(error, UserError):
        return one_line(str(error))
    if is_usage_error(error):
        return _describe_usage(error, words)
    if isinstance(error, typer.Abort):
        return "stopped by an empty answer"
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        where = f"{error.filename}: " if error.filename else ""
        return one_line(f"{where}{error.strerror or error}; {_REMEDIES[error.errno]}")
    if type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("torch"):
        return f"{one_line(str(error).split('. ')[0])}; make data.batch_size smaller or train.grad_accumulation larger"
    return None


def _describe_usage(error: Exception, words: Sequence[str]) -> str:
    message = one_line(error.format_message()).rstrip(".").replace("Value error, ", "")
    message = message.replace("Input should be", "expected")
    value = _value_of(getattr(error, "param", None), words)
    stands = value is not None and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", message)
    given = f", got {value!r}" if value is not None and not stands else ""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "genlab"
    unknown = re.match(r"No such command '([^']*)'", message)
    if unknown and context is not None:  # older Typers have no suggestion, newer ones with click have two
        guess = nearest(unknown[1], getattr(context.command, "commands", {}))
        message = unknown[0] + (f"; did you mean {guess!r}?" if guess else "")
    return f"{message[:1].lower()}{message[1:]}{given}; see `{path} --help`"


def _value_of(parameter: object, words: Sequence[str]) -> str | None:
    """The word that stands for an option on the command line; None for arguments and absent options."""
    for name in getattr(parameter, "opts", ()):
        for index, word in enumerate(words):
            if word == name and name.startswith("-") and index + 1 < len(words):
                return words[index + 1]
            if name.startswith("--") and word.startswith(f"{name}="):
                return word.partition("=")[2]
    return None


def one_line(text: str) -> str:
    return " ".join(text.split())
