"""Results of prompts of unequal length: one array per row, nothing padded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np


class Ragged(Sequence[np.ndarray]):
    """Arrays of the same rank and dtype whose sizes differ from row to row.

    `ragged[i]` is row i without a batch axis, exactly what that prompt alone would give. There is no silent padding: `padded()` makes one array when
    one is wanted, with a fill value that shows (NaN for floats).
    """

    def __init__(self, rows: Sequence[np.ndarray]) -> None:
        """Takes the rows as they are (no copy). ValueError when there are none, or ranks or dtypes differ."""
        if not rows:
            raise ValueError("a Ragged needs at least one row")
        if len({(row.ndim, row.dtype) for row in rows}) != 1:
            raise ValueError("the rows of a Ragged must have the same rank and dtype")
        self._rows = list(rows)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of every row."""
        return self._rows[0].dtype

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of each row."""
        return [row.shape for row in self._rows]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, without any padding."""
        return sum(row.nbytes for row in self._rows)

    def padded(self, fill: float | int | bool | None = None, side: str = "right") -> np.ndarray:
        """One array [rows, ...]: each axis as long as its longest row, the rest filled.

        Args:
          fill: the value behind (or before) a row's own entries. Default: NaN for floats, -1 for integers, False for booleans.
          side: "right" puts the filling after a row's own entries, "left" before, along every axis whose size differs.
        """
        if side not in ("left", "right"):
            raise ValueError(f"side is {side!r}; 'left' and 'right' are allowed")
        if fill is None:
            fill = np.nan if self.dtype.kind in "fV" else -1 if self.dtype.kind == "i" else 0
        sizes = np.array(self.shapes)
        out = np.full((len(self), *sizes.max(axis=0)), fill, dtype=self.dtype)
        for target, row in zip(out, self._rows, strict=True):
            target[tuple(slice(0, n) if side == "right" else slice(m - n, m) for n, m in zip(row.shape, target.shape, strict=True))] = row
        return out

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Ragged:
        """`function` of each row, as a Ragged."""
        return Ragged([np.asarray(function(row)) for row in self._rows])

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> Ragged: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | Ragged:
        if isinstance(index, tuple):
            raise TypeError("the rows have different sizes, so only the row can be indexed: use ragged[row][rest], or ragged.padded()")
        return Ragged(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError("the rows have different sizes; use .padded(fill) to make one array, or [i] for one row")

    def __repr__(self) -> str:
        return f"Ragged({len(self)} rows, {self.dtype}, [{shape_text(self._rows)}])"


def shape_text(rows: Sequence[np.ndarray]) -> str:
    """The rows' common shape, with a|b where sizes differ: "9|14, 576"."""
    axes = zip(*(row.shape for row in rows), strict=True)
    return ", ".join("|".join(map(str, sorted(set(sizes))[:4])) + ("|…" if len(set(sizes)) > 4 else "") for sizes in axes)


def stack(rows: Sequence[np.ndarray]) -> np.ndarray | Ragged:
    """[rows, ...] when all have the same shape, else a Ragged."""
    return np.stack(rows) if len({row.shape for row in rows}) == 1 else Ragged(rows)
