"""Handles as what the cells of a sweep copy; see Model.sweep's `source`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from fluoroscope.aio_handles import AsyncHandle, AsyncHandles
from fluoroscope.handles import Handle, Handles

# Of one pair: a handle for each hook point of the grid. Of several pairs: one such entry for each.
Source: TypeAlias = Handle | Handles | AsyncHandle | AsyncHandles | Sequence[Any]


def handle_ids(source: Any, pairs: int, single: bool) -> list[list[str]]:
    """The ids of each pair's handles. ValueError when they cannot be told apart by pair, TypeError for what is no handle.

    Args:
      source: for one pair (`single`) handles in any grouping. For several pairs: what model.keep gave for as many prompts, by their rows; or one entry for
        each pair; or a single handle, which then is every pair's.
    """
    if source is None:
        return [[] for _ in range(pairs)]
    if single:
        return [_ids(source)]
    handles = getattr(source, "_handles", source)
    if isinstance(handles, Handles):
        by_row: dict[int, list[str]] = {}
        for handle in handles.all():
            by_row.setdefault(handle.row, []).append(handle.id)
        if sorted(by_row) != list(range(pairs)):
            raise ValueError(f"source has handles of {len(by_row)} prompts for {pairs} pairs")
        return [by_row[row] for row in range(pairs)]
    if _one(source) is not None:
        return [_ids(source) for _ in range(pairs)]
    entries = list(source)
    if len(entries) != pairs:
        raise ValueError(f"source has {len(entries)} entries for {pairs} pairs; give one for each")
    return [_ids(entry) for entry in entries]


def _one(value: Any) -> Handle | None:
    """A Handle, also one of an AsyncClient; else None."""
    handle = getattr(value, "handle", value)
    return handle if isinstance(handle, Handle) else None


def _ids(value: Any) -> list[str]:
    if (handle := _one(value)) is not None:
        return [handle.id]
    handles = getattr(value, "_handles", value)
    if isinstance(handles, Handles):
        return [handle.id for handle in handles.all()]
    if isinstance(handles, str) or not isinstance(handles, Iterable):
        raise TypeError(f"source: {type(value).__name__} is no handle; model.keep and model.put make some")
    return [one for entry in handles for one in _ids(entry)]
