"""The gRPC calls that a piece of work has under way, so that another thread can end them."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any, Protocol


class Call(Protocol):
    def cancel(self) -> Any: ...


class Underway:
    """Knows the last call of a piece of work; its calls come one after the other. Thread-safe, and for one piece of work: once cancelled, always so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._call: Call | None = None
        self._cancelled = False

    def started(self, call: Call) -> None:
        """A call begins. It is cancelled at once when the work was."""
        with self._lock:
            self._call = call
            cancelled = self._cancelled
        if cancelled:
            call.cancel()

    def cancel(self) -> None:
        """Ends the call under way, if it has not ended, and every one that the work goes on to start."""
        with self._lock:
            self._cancelled = True
            call = self._call
        if call is not None:
            call.cancel()


# Of the work that the current context belongs to; none for a plain synchronous call, which its own thread waits for.
UNDERWAY: ContextVar[Underway | None] = ContextVar("fluoroscope_underway", default=None)
