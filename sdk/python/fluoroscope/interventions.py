"""Interventions: edits of a run, as data. The server does them, in the order in which they are listed; no code travels.

Each function takes first where it acts: a hook name, or `fs.at(name, positions=..., layers=..., heads=..., units=..., rows=...)` for a part of it. Numbers
are float32 on the wire. Sources are prompts of their own that run once, without interventions, however many edits use them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from fluoroscope._proto.v1 import plan_pb2
from fluoroscope.arrays import number, plain
from fluoroscope.handles import Handle
from fluoroscope.indices import whole
from fluoroscope.selections import At, Positions, Prompts, Where, as_at, as_ints, positions_message, tensor_message
from fluoroscope.suggest import unknown


@dataclass(frozen=True, eq=False)
class Intervention:
    """One edit; made by fs.patch, fs.zero and the others.

    Attributes:
      kind: the name of the function that made it.
      where: the places it edits.
      source: the prompt each target takes values from (one for all, or one per target), or all that it draws on when `pooled`.
      own: the source is the target's own prompt, without interventions.
      source_positions: where to read in the source; None: the target's positions.
    """

    kind: str
    where: At
    shown: str
    make: Callable[[Sequence[int]], plan_pb2.Intervention]  # the message without its selection, given the rows of the sources
    source: Prompts | None = None
    pooled: bool = False
    own: bool = False
    source_positions: Positions = None

    def __repr__(self) -> str:
        return f"{self.kind}({self.where!r}{', ' if self.shown else ''}{self.shown})"


def zero(where: Where) -> Intervention:
    """Zero ablation: every number there becomes 0."""
    return _plain("zero", where, "", zero=plan_pb2.Zero())


def set(where: Where, value: ArrayLike | Handle) -> Intervention:  # noqa: A001
    """Puts given numbers there.

    Args:
      value: broadcasts as in numpy to the chosen part of the site, whose axes are those of `model.hooks()`: a number, [last axis], [head, last axis] or
        [position, head, last axis], with as many of each as were selected, in ascending order. Or a Handle of the same hook point, with all its positions.

    Raises (when run):
      InvalidArgumentError: it does not fit, or is not finite.
    """
    return _plain("set", where, _array(value), set=plan_pb2.Set(**_given(value)))


def add(where: Where, value: ArrayLike | Handle, scale: float = 1.0) -> Intervention:
    """Steering: adds scale * value. Shapes and errors as in fs.set."""
    message = plan_pb2.Add(**_given(value), scale=number(scale, "scale"))
    return _plain("add", where, f"{_array(value)}, scale={scale}", add=message)


def scale(where: Where, factor: float) -> Intervention:
    """Multiplies by a factor."""
    return _plain("scale", where, f"{factor}", scale=plan_pb2.Scale(factor=number(factor, "factor")))


def mean(
    where: Where,
    reference: Prompts | None = None,
    *,
    positions: Positions = None,
    value: ArrayLike | None = None,
    source: Handle | None = None,
) -> Intervention:
    """Mean ablation: one number per head and unit, the mean over positions.

    Args:
      reference: the prompts whose mean is taken, over all of their positions together.
      positions: which positions of each reference prompt, or of the source's. Default: all (that the source has).
      value: a mean that you have, instead of a reference; shapes as in fs.set.
      source: a handle whose mean over positions is taken, instead of a reference.
    """
    if [reference is None, value is None, source is None].count(False) != 1:
        raise ValueError("fs.mean needs either reference prompts, a value or a handle as source")
    if source is not None:
        of_handle = plan_pb2.HandleValues(handle=handle_id(source), positions=positions_message(positions))
        return _plain("mean", where, f"source={source!r}", mean=plan_pb2.Mean(of_handle=of_handle))
    if value is not None:
        return _plain("mean", where, f"value={_array(value)}", mean=plan_pb2.Mean(value=tensor_message(value)))

    def make(rows: Sequence[int]) -> plan_pb2.Intervention:
        return plan_pb2.Intervention(mean=plan_pb2.Mean(of_rows=plan_pb2.Mean.OfRows(rows=rows, positions=positions_message(positions))))

    return Intervention("mean", as_at(where), f"reference={reference!r}", make, source=_prompts(reference, "reference"), pooled=True)


def patch(
    where: Where,
    *,
    source: Prompts | Handle,
    source_positions: Positions = None,
    positions: Positions | Sequence[Positions] = None,
    layers: int | Sequence[int] = (),
    heads: int | Sequence[int] = (),
    rows: int | Sequence[int] | None = None,
) -> Intervention:
    """Activation patching: puts the value that `source` has at a hook point in place of the run's own.

    Args:
      where: the hook point: "blocks.12.hook_resid_pre", ("resid_pre", 12), a glob such as "blocks.*.attn.hook_z" together with `layers`, or fs.at(...).
      source: the prompt to take values from. A list of prompts gives prompt i of the run its own source i. It runs once, however many patches use it.
        Or a Handle of the same hook point: its positions then are those of the prompt that its values came from.
      source_positions: where to read in the source. Default: the same absolute positions. Their number must agree, and both are taken in ascending order.
      positions: where to patch. Default: every position. `model.differing_positions(clean, corrupt)` is the usual choice; its list of lists for several
        prompts gives each prompt its own positions.
      layers, heads, rows: as in fs.at; these and `positions` cannot be given together with fs.at.
    """
    chosen = _narrowed(where, positions, layers, heads, rows)
    if (handle := handle_id(source)) is not None:
        copy = plan_pb2.CopyFromRow(handle=handle, positions=positions_message(source_positions))
        return _plain("patch", chosen, _from(source, source_positions), copy=copy)

    def make(sources: Sequence[int]) -> plan_pb2.Intervention:
        return plan_pb2.Intervention(copy=_copy(sources[0], source_positions))

    prompts = _prompts(source, "source")
    return Intervention("patch", chosen, _from(source, source_positions), make, source=prompts, source_positions=source_positions)


def freeze(where: Where) -> Intervention:
    """Holds a place at the value it has when the same prompt runs without interventions, whatever other interventions do before it.

    Freezing the norms' scales ("blocks.*.ln1.hook_scale", "blocks.*.ln2.hook_scale", "ln_final.hook_scale") makes the norms linear; freezing all attention
    outputs leaves the direct path.
    """
    def make(sources: Sequence[int]) -> plan_pb2.Intervention:
        return plan_pb2.Intervention(copy=_copy(sources[0], None))

    return Intervention("freeze", as_at(where), "", make, own=True)


def interpolate(where: Where, weight: float, *, source: Prompts, source_positions: Positions = None) -> Intervention:
    """(1 - weight) * own value + weight * the source's. Sources as in fs.patch; weights outside 0 to 1 extrapolate."""

    weight = number(weight, "weight")

    def make(sources: Sequence[int]) -> plan_pb2.Intervention:
        return plan_pb2.Intervention(interpolate=plan_pb2.Interpolate(source=_copy(sources[0], source_positions), weight=weight))

    shown = f"{weight}, {_from(source, source_positions)}"
    prompts = _prompts(source, "source")
    return Intervention("interpolate", as_at(where), shown, make, source=prompts, source_positions=source_positions)


def resample(where: Where, sources: Prompts, *, seed: int, source_positions: Positions = None) -> Intervention:
    """Resample ablation: each prompt takes the value of one of the sources, drawn by `seed` and the prompt's number. All places of one intervention take
    from the same source."""
    seed = whole(seed, "seed", 0, 2**64 - 1)

    def make(rows: Sequence[int]) -> plan_pb2.Intervention:
        return plan_pb2.Intervention(resample=plan_pb2.Resample(rows=rows, seed=seed, positions=positions_message(source_positions)))

    return Intervention("resample", as_at(where), f"{sources!r}, seed={seed}", make, source=_prompts(sources, "sources"), pooled=True)


def project_out(where: Where, directions: ArrayLike) -> Intervention:
    """Removes the component in the span of `directions`.

    Args:
      directions: [n, last axis] or a single [last axis], finite, not all zero, n at most 256 and at most the size of the axis. They need not be orthonormal.
    """
    return _plain("project_out", where, _array(directions), project_out=plan_pb2.ProjectOut(directions=_directions(directions)))


_PARTS = {
    "whole": None,
    "row_space": plan_pb2.SwapSubspace.PART_ROW_SPACE,
    "null_space": plan_pb2.SwapSubspace.PART_NULL_SPACE,
}


def swap_subspace(
    where: Where, directions: ArrayLike, *, source: Prompts, source_positions: Positions = None, part: str = "whole"
) -> Intervention:
    """Replaces the component in the span of `directions` by the source's: subspace patching. Directions as in fs.project_out, sources as in fs.patch.

    Args:
      part: "row_space" takes of each direction only the component that the matrix behind the place reads, "null_space" only the one that it does not. A
        direction that works through its null-space part is an interpretability illusion: it wakes a path that the model does not use. The matrix is W_out
        for "mlp.hook_post", and the head's W_O for "attn.hook_z" with exactly one head. `model.subspace_effects` compares all three.
    """
    if part not in _PARTS:
        raise ValueError(unknown("part", part, _PARTS))
    message = _directions(directions)

    def make(sources: Sequence[int]) -> plan_pb2.Intervention:
        swap = plan_pb2.SwapSubspace(source=_copy(sources[0], source_positions), directions=message, part=_PARTS[part])
        return plan_pb2.Intervention(swap_subspace=swap)

    shown = f"{_array(directions)}, {_from(source, source_positions)}" + (f", part={part!r}" if part != "whole" else "")
    prompts = _prompts(source, "source")
    return Intervention("swap_subspace", as_at(where), shown, make, source=prompts, source_positions=source_positions)


def noise(where: Where, stddev: float, *, seed: int) -> Intervention:
    """Adds Gaussian noise. A number depends only on the seed and its place (prompt's number, hook point, position, head, unit): the noise is the same in
    every batch and on every device."""
    seed = whole(seed, "seed", 0, 2**64 - 1)
    return _plain("noise", where, f"{stddev}, seed={seed}", noise=plan_pb2.Noise(stddev=number(stddev, "stddev"), seed=seed))


def handle_id(value: Any) -> str | None:
    """The id when this is a handle, of a Client or an AsyncClient; else None."""
    handle = getattr(value, "handle", value)
    return handle.id if isinstance(handle, Handle) else None


def _prompts(source: Any, what: str) -> Prompts:
    """The source, if it is something that can run; ValueError, with what to use instead, for values that a run has left."""
    if isinstance(source, Mapping) or hasattr(source, "_handles"):
        kept = " A single handle does: source=handles[site]." if "Handles" in type(source).__name__ else ""
        raise ValueError(
            f"{what} is {type(source).__name__}, values that a run has left; a source is a prompt, which runs again, or a handle (model.keep, model.put).{kept} "
            "To put values in that you have, use fs.set(where, cache[site][0])"
        )
    array = plain(source)
    if isinstance(array, np.ndarray) and array.dtype.kind not in "iuOU":
        raise ValueError(
            f"{what} is an array of {array.dtype} {list(array.shape)}; a source is a prompt, which runs again, or a handle (model.keep, model.put). To put values "
            "in that you have, use fs.set(where, value) without a batch axis; to begin a run with them, source=fs.Start(at, value)"
        )
    return cast(Prompts, source)


def _given(value: ArrayLike | Handle) -> dict[str, Any]:
    """The field of Set and Add that holds it."""
    handle = handle_id(value)
    return {"value": tensor_message(value)} if handle is None else {"from_handle": plan_pb2.HandleValues(handle=handle)}


def _plain(kind: str, where: Where, shown: str, **message: Any) -> Intervention:
    return Intervention(kind, as_at(where), shown, lambda _: plan_pb2.Intervention(**message))


def _copy(row: int, positions: Positions) -> plan_pb2.CopyFromRow:
    return plan_pb2.CopyFromRow(row=row, positions=positions_message(positions))


def _directions(directions: ArrayLike) -> Any:
    message = tensor_message(directions, "directions")
    if len(message.shape) == 1:
        message.shape.insert(0, 1)
    return message


def _narrowed(
    where: Where,
    positions: Positions | Sequence[Positions],
    layers: int | Sequence[int],
    heads: int | Sequence[int],
    rows: int | Sequence[int] | None,
) -> At:
    narrowing = At("", positions, as_ints(layers, "layers"), as_ints(heads, "heads"), (), None if rows is None else as_ints(rows, "rows"))
    if not isinstance(where, At):
        return replace(narrowing, site=where)
    if repr(narrowing) != repr(At("")):
        raise ValueError("give positions, layers, heads and rows either to fs.at or to fs.patch, not to both")
    return where


def _array(value: ArrayLike | Handle) -> str:
    if handle_id(value) is not None:
        return repr(value)
    array = np.asarray(plain(value))
    return f"<array {list(array.shape)}>" if array.shape else str(array)


def _from(source: Prompts | Handle, positions: Positions) -> str:
    return f"source={source!r}" + (f", source_positions={positions!r}" if positions is not None else "")


