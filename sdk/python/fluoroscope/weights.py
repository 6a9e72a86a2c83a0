"""A model's weights, read from the server by name."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, SupportsIndex, cast

import numpy as np

from fluoroscope._proto.v1 import models_pb2
from fluoroscope.arrays import plain
from fluoroscope.indices import is_int
from fluoroscope.names import counted_layer
from fluoroscope.suggest import listed, missing

# As numpy indexes an axis: a number (which drops the axis), a slice without a step, or a list of numbers.
AxisIndex = SupportsIndex | slice | Sequence[int] | np.ndarray
Key = str | tuple[str | AxisIndex | EllipsisType, ...]


@dataclass(frozen=True)
class WeightInfo:
    """One weight: its name, the names of its axes, and its shape."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]


class Weights:
    """The weights of a model, under TransformerLens's names and in its shapes; made by Model.weights.

    `weights["blocks.3.attn.W_Q"]` fetches a whole one, [head, d_model, d_head], used as x @ W. `weights["blocks.3.attn.W_Q", 2, :, :10]` fetches only that
    part: a number drops its axis, slices and lists keep it; each list chooses along its own axis (numpy's `ix_`). Each access is a request: keep what you
    use twice. In short, as of hook points: `weights["W_Q", 3]`, `weights["W_Q", 3, 2, :, :10]`, `weights["w", 3, "ln1"]`; negative layers count from the
    last. Iterating gives names, `weights.info(name)` a shape without fetching anything.

    With grouped-query attention W_K and W_V have their own, smaller number of heads. Nothing is folded into anything: norms keep their own `w`.
    """

    def __init__(self, model: str, infos: Sequence[models_pb2.Weight], read: Callable[[models_pb2.ReadWeightsRequest], np.ndarray]) -> None:
        self._model = model
        self._infos = {info.name: WeightInfo(info.name, tuple(info.axes), tuple(info.shape)) for info in infos}
        self._layers = len({name.split(".")[1] for name in self._infos if name.startswith("blocks.")})
        self._read = read

    def info(self, name: str) -> WeightInfo:
        """Axes and shape. KeyError, with the name that is most like it, when there is no such weight."""
        return self._find(name, [])[0]

    def _find(self, name: str, indices: list[Any]) -> tuple[WeightInfo, list[Any]]:
        """The weight, and the indices behind its name; a short name takes the first of them for the layer, and a text behind that for the part of the block."""
        if not isinstance(name, str):
            raise KeyError(f"{name!r} is not a weight's name; print(model.weights) shows them")
        name = self._in_range(name)
        if name in self._infos:
            return self._infos[name], indices
        inside = [other.removeprefix("blocks.0.") for other in self._infos if other.startswith("blocks.0.") and f".{other}".endswith(f".{name}")]
        outside = [other for other in self._infos if not other.startswith("blocks.") and other.endswith(f".{name}")]
        if inside and indices and is_int(indices[0]):
            layer, rest = operator.index(indices[0]), indices[1:]
            if rest and isinstance(rest[0], str):
                inside, rest = [one for one in inside if one.startswith(f"{rest[0]}.")], rest[1:]
            if len(inside) == 1:
                return self._infos[self._in_range(f"blocks.{layer}.{inside[0]}")], rest
            if inside:
                parts = [one.partition(".")[0] for one in inside]
                raise KeyError(f"{name!r} is in {' and '.join(parts)}: say which, ({name!r}, {layer}, {parts[0]!r})")
        if len(outside) == 1 and not inside:
            return self._infos[outside[0]], indices
        if inside:
            raise KeyError(f"{name!r} is in every layer: say which, weights[{name!r}, 5], or by its full name, 'blocks.5.{inside[0]}'")
        raise KeyError(missing(f"no weight {name!r}", name, self._infos, f"there are {listed(self._infos)}; print(model.weights) shows all"))

    def _in_range(self, name: str) -> str:
        """A full name with its layer counted from the first. KeyError when there is no such layer."""
        found = re.match(r"blocks\.(-?\d+)\.", name)
        if found is None:
            return name
        layer = counted_layer(int(found[1]), self._layers, name)
        if layer >= self._layers:
            raise KeyError(f"layer {layer} of {name!r} lies behind the last; this model has {self._layers}, 0 to {self._layers - 1}")
        return f"blocks.{layer}.{name[found.end():]}"

    def __getitem__(self, key: Key) -> np.ndarray:
        """The numbers: see the class.

        Raises:
          KeyError: there is no weight of that name.
          IndexError: more indices than axes, or a number outside its axis.
        """
        name, *given = key if isinstance(key, tuple) else (key,)
        info, indices = self._find(cast(str, name), given)
        request = models_pb2.ReadWeightsRequest(model=self._model, name=info.name)
        drop = []
        for axis, index in enumerate(_spelled_out(cast(Any, indices), info)):
            request.slices.append(_slice(index, info, axis))
            if _is_number(index):
                drop.append(axis)
        array = self._read(request)
        return array.reshape([size for axis, size in enumerate(array.shape) if axis not in drop])

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __repr__(self) -> str:
        rows = []
        for info in self._infos.values():
            layer, _, rest = info.name.removeprefix("blocks.").partition(".")
            if not info.name.startswith("blocks."):
                rows.append((info.name, info))
            elif layer == "0":
                rows.append((f"blocks.{{l}}.{rest}", info))
        width = max(len(name) for name, _ in rows)
        lines = [f"  {name:<{width}}  [{', '.join(f'{axis} {size}' for axis, size in zip(info.axes, info.shape, strict=True))}]" for name, info in rows]
        return f"Weights of {self._model}, {len(self)} in all; {{l}} is the layer\n" + "\n".join(lines)


def _spelled_out(indices: Sequence[AxisIndex | EllipsisType], info: WeightInfo) -> list[AxisIndex]:
    """One index per axis, as far as any were given."""
    dots = [i for i, index in enumerate(indices) if index is Ellipsis]
    given = len(indices) - len(dots)
    if len(dots) > 1 or given > len(info.shape):
        raise IndexError(f"{given} indices for {info.name}, which has the axes {', '.join(info.axes)}")
    if not dots:
        return cast("list[AxisIndex]", list(indices))
    between: list[AxisIndex] = [slice(None)] * (len(info.shape) - given)
    return cast("list[AxisIndex]", [*indices[: dots[0]], *between, *indices[dots[0] + 1 :]])


def _slice(index: AxisIndex, info: WeightInfo, axis: int) -> models_pb2.AxisSlice:
    size, where = info.shape[axis], f"axis {info.axes[axis]!r} of {info.name}"
    if isinstance(index, slice):
        if index.step not in (None, 1):
            raise IndexError(f"{where}: slices have no step here; give a list of numbers")
        start, end, _ = index.indices(size)  # as Python does it: what lies outside is cut off
        if start >= end:
            raise IndexError(f"{where}: the slice {index.start}:{index.stop} is empty; it has {size} entries")
        return models_pb2.AxisSlice(range=models_pb2.AxisSlice.Range(start=start, end=end))
    if _is_number(index):
        number = _inside(operator.index(cast(SupportsIndex, index)), size, where)
        return models_pb2.AxisSlice(range=models_pb2.AxisSlice.Range(start=number, end=number + 1))
    array = np.asarray(plain(index))
    if array.dtype.kind == "b":
        raise IndexError(f"{where}: masks of booleans are not taken; give the numbers, np.flatnonzero(mask)")
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise IndexError(f"{where}: {index!r} is not an index; give a number, a slice or a list of numbers")
    return models_pb2.AxisSlice(at=models_pb2.AxisSlice.Indices(indices=[_inside(int(i), size, where) for i in array]))


def _is_number(index: AxisIndex) -> bool:
    return is_int(index)


def _inside(index: int, size: int, where: str) -> int:
    if not -size <= index < size:
        raise IndexError(f"{where} has {size} entries; {index} is outside")
    return index % size
