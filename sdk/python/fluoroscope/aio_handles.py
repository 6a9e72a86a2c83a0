"""Handles for asyncio: fluoroscope.handles with every call awaited."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from types import TracebackType
from typing import Any

import numpy as np

from fluoroscope.handles import Handle, Handles
from fluoroscope.names import HookKey

# Runs a function in a thread of the client's: AsyncClient's and AsyncModel's own.
Call = Callable[..., Coroutine[Any, Any, Any]]


class AsyncHandle:
    """fluoroscope.Handle, awaited; a source of interventions as that is. `async with` deletes it. As there, nothing renews it in the background.

    Attributes:
      handle: the Handle itself, with its attributes.
    """

    def __init__(self, handle: Handle, call: Call) -> None:
        self.handle = handle
        self._call = call

    async def numpy(self, **options: Any) -> np.ndarray:
        """Arguments as Handle.numpy's."""
        array: np.ndarray = await self._call(lambda: self.handle.numpy(**options))
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError("a handle is on the server: await handle.numpy() fetches its values, or a part of them")

    async def renew(self, ttl: int = 600) -> None:
        """From now on it lives for `ttl` seconds more."""
        await self._call(self.handle.renew, ttl)

    async def delete(self) -> None:
        """Ends it now."""
        await self._call(self.handle.delete)

    async def __aenter__(self) -> AsyncHandle:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        await self._call(self.handle.__exit__, kind, value, traceback)

    def __repr__(self) -> str:
        return f"Async{self.handle!r}"


class AsyncHandles(Mapping[str, "AsyncHandle | tuple[AsyncHandle, ...]"]):
    """fluoroscope.Handles, awaited. `async with` deletes all."""

    def __init__(self, handles: Handles, call: Call) -> None:
        self._handles = handles
        self._call = call

    def __getitem__(self, key: HookKey) -> AsyncHandle | tuple[AsyncHandle, ...]:
        found = self._handles[key]
        return AsyncHandle(found, self._call) if isinstance(found, Handle) else tuple(AsyncHandle(handle, self._call) for handle in found)

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError("these are several handles, on the server: await handles[site].numpy() fetches the values of one")

    def all(self) -> list[AsyncHandle]:
        """Every handle, in the order in which the run made them."""
        return [AsyncHandle(handle, self._call) for handle in self._handles.all()]

    async def renew(self, ttl: int = 600) -> None:
        """Renews every one."""
        await self._call(self._handles.renew, ttl)

    async def delete(self) -> None:
        """Deletes every one that is still there."""
        await self._call(self._handles.delete)

    async def __aenter__(self) -> AsyncHandles:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        await self._call(self._handles.__exit__, kind, value, traceback)

    def __repr__(self) -> str:
        return f"Async{self._handles!r}"
