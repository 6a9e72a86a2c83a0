"""Ctrl-C while a call is running: it ends the call, at the first press."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import TypeVar

from fluoroscope.underway import UNDERWAY, Call

C = TypeVar("C", bound=Call)


class CtrlC:
    """Wraps the places where a call waits (`with ctrl_c: ...`): a press there cancels the call at once, and KeyboardInterrupt is raised where the block ends.

    Python raises KeyboardInterrupt wherever the main thread happens to be. Inside gRPC that may be a finalizer, where Python drops it ("Exception ignored
    in"), or between taking and giving back the lock that gRPC's own thread needs, after which the connection hangs. Nothing is raised there with this:
    the cancelled call returns by itself. If it should not, a second press raises at the spot.

    Does nothing outside the main thread, and nothing where somebody gave Ctrl-C another meaning than Python's own (asyncio, a user's handler). One per call;
    the block may be entered again and again.
    """

    def __init__(self) -> None:
        self._call: Call | None = None
        self._armed = False
        self._pressed = False

    def watch(self, call: C) -> C:
        """Says which call a press ends; to be used inside the block that starts it. A task that awaits the call from another thread may end it too."""
        self._call = call
        if (underway := UNDERWAY.get()) is not None:
            underway.started(call)
        if self._pressed:  # while it was being started
            call.cancel()
        return call

    def cancel(self) -> None:
        """Cancels the watched call, if there is one and it has not ended."""
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> None:
        on_main = threading.current_thread() is threading.main_thread()
        if on_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._press)
            self._armed = True

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        if not self._armed:
            return
        self._armed = False
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._pressed and kind is not KeyboardInterrupt:
            raise KeyboardInterrupt from None

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self._pressed:
            signal.default_int_handler(number, frame)
        self._pressed = True
        self.cancel()
