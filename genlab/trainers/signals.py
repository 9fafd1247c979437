"""Ctrl-C and SIGTERM as a wish to stop after the present step."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from genlab.distributed import Distributed


class SignalWatch:
    """Remembers SIGINT and SIGTERM while it is entered; a second signal acts as it would without the watch.

    Python takes signals in its main thread only; entered in another one it watches nothing.
    """

    WATCHED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            for signum in self.WATCHED:
                self._previous[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self._received = signum
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)
        self._previous.clear()

    @property
    def received(self) -> int | None:
        """The signal that this process received."""
        return self._received

    def agreed(self, distributed: Distributed) -> int | None:
        """The signal that any process received, the same answer on every one; None without.

        Processes of one run may be signalled at different moments, and must stop after the same step.
        """
        return distributed.maximum(self._received or 0) or None
