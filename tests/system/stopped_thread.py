"""One thread of a child process, stopped from outside while the others go on: how a lost device or a deadlock looks to them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .server_process import eventually

# From sys/ptrace.h and bits/waitflags.h.
_DETACH, _SEIZE, _INTERRUPT = 17, 0x4206, 0x4207
_WALL = 0x40000000  # wait for threads too


def _ptrace(request: int, thread: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.argtypes, library.ptrace.restype = [ctypes.c_long] * 4, ctypes.c_long
    if library.ptrace(request, thread, 0, 0) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class StoppedThread:
    """A thread between `stopped`'s begin and end. Belongs to the test's own thread: only who stopped it may let it go on."""

    def __init__(self, thread: int):
        try:
            _ptrace(_SEIZE, thread)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOSYS):
                raise
            pytest.skip(f"ptrace is not permitted here ({error.strerror}), and nothing else stops one thread of a process")
        self._thread = thread
        self._traced = True
        _ptrace(_INTERRUPT, thread)
        _, status = os.waitpid(thread, _WALL)
        assert os.WIFSTOPPED(status), f"thread {thread} ended with {status} instead of being stopped"

    def ended(self) -> bool:
        """Whether it has died with its process. The process cannot be waited for until this has been seen."""
        if self._traced and os.waitpid(self._thread, _WALL | os.WNOHANG)[0]:
            self._traced = False
        return not self._traced

    def go_on(self) -> None:
        if not self._traced:
            return
        try:
            _ptrace(_DETACH, self._thread)
        except ProcessLookupError:  # it died just now
            os.waitpid(self._thread, _WALL)
        self._traced = False


@contextlib.contextmanager
def stopped(thread: int) -> Iterator[StoppedThread]:
    """The thread is stopped meanwhile. Skips the test where ptrace is not permitted."""
    one = StoppedThread(thread)
    try:
        yield one
    finally:
        one.go_on()


def ticks(process: int) -> dict[int, int]:
    """The CPU time of each thread so far, in clock ticks (10 ms)."""
    out = {}
    for folder in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            out[int(folder.name)] = int(fields[11]) + int(fields[12])
    return out


def busiest(process: int) -> int:
    """The thread that computes, by what each uses from now on: the executor's, or one of LibTorch's that it waits for."""
    before = ticks(process)

    def used() -> tuple[int, int]:
        return max((now - before.get(thread, 0), thread) for thread, now in ticks(process).items())

    assert eventually(lambda: used()[0] >= 20), "no thread of the server computes"
    return used()[1]
