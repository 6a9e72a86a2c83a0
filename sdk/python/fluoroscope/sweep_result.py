"""What a sweep found, with axes that know their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fluoroscope._proto.v1 import patching_pb2
from fluoroscope.metrics import Metric
from fluoroscope.results import Provenance, Timing, bytes_text, counted

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects
    import xarray


@dataclass(frozen=True)
class SweepEstimate:
    """What a sweep costs.

    Attributes:
      cells: of all pairs.
      filled_cells: cells that need no run: equal to their base run, because nothing they change differs from it, or paths that cannot exist.
      flops: floating-point operations of what is run; a multiply-add counts as two.
      forwards_flops: those of one whole forward per cell.
      peak_bytes: what the server's admission charges; more than `budget_bytes` is refused.
      budget_bytes: the server's limit for `peak_bytes`.
    """

    cells: int
    filled_cells: int
    flops: float
    forwards_flops: float
    peak_bytes: int
    budget_bytes: int

    @staticmethod
    def of(message: patching_pb2.SweepEstimate) -> SweepEstimate:
        """From the wire's message."""
        return SweepEstimate(
            message.cells, message.filled_cells, message.flops, message.forwards_flops, message.peak_bytes, message.budget_bytes
        )

    @property
    def saved(self) -> float:
        """How many times less is computed than one whole forward per cell would."""
        return self.forwards_flops / self.flops if self.flops else float("inf")

    def __repr__(self) -> str:
        saved = f", {_times(self.saved)} times less than a forward per cell" if self.saved >= 1.05 else ""
        return (
            f"SweepEstimate: {counted(self.cells, 'cell')}, of which {self.filled_cells:,} need no run; {self.flops / 1e9:,.1f} GFLOP{saved}; "
            f"peak {bytes_text(self.peak_bytes)} of {bytes_text(self.budget_bytes)}"
        )


@dataclass(frozen=True)
class Axis:
    """One axis of the result: "layer", "position", "head", "site", "unit", "source", "second_layer", "second_head", "receiver" or "sender", with what its places are called."""

    name: str
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class AttributionCheck:
    """Estimates beside what the cells (of edges: the direct paths) really do, both as changes from the base run, means over pairs.

    Attributes:
      cells: flat indices (as `ravel()` of a result's `values` counts) of the cells that were run, ascending.
      exact: float64, in the shape of `scores`: the exact changes; NaN where the cell was not run.
      spearman: the rank correlation over these cells; of sizes where estimates have no sign. NaN where it is not defined.
      precision: the share of the `top` cells by estimated size that are among the `top` of these cells by exact size.
      top: how many of the largest estimates were run.
    """

    cells: np.ndarray
    exact: np.ndarray
    spearman: float
    precision: float
    top: int

    def __repr__(self) -> str:
        return f"AttributionCheck: {counted(len(self.cells), 'cell')} run; Spearman {self.spearman:.3f}, precision at {self.top}: {self.precision:.2f}"


@dataclass(frozen=True)
class PrecisionCheck:
    """How far a sweep with precision="fast" was off in the cells that were run again in float32.

    Attributes:
      cells: flat indices (as `ravel()` of a result's `values` counts) of those cells, ascending.
      exact: float64, in the shape of `values`: the metric there in float32, the mean over pairs; NaN where the cell was not run again.
      largest_difference: between a cell's fast and its exact value, over these cells of all pairs.
      largest_change: between a cell's exact value and the exact base run's, to compare with.
      run_ms: what running them again took, of `timing.run_ms`.
    """

    cells: np.ndarray
    exact: np.ndarray
    largest_difference: float
    largest_change: float
    run_ms: float

    def __repr__(self) -> str:
        return f"PrecisionCheck: {counted(len(self.cells), 'cell')} run again in float32; off by at most {self.largest_difference:.3g}, where changes are up to {self.largest_change:.3g}"


class SweepResult:
    """The cells of a sweep. Indexed by a metric (or its name) it is that metric's part.

    Attributes:
      values: float64, one axis per entry of `axes`: the metric in each cell, the mean over pairs.
      per_pair: the same for each pair: [pairs, *axes].
      base, source: the metric of the unchanged runs, one number per pair: values are patched from the source run into the base run. Where handles give the
        values and there is no source prompt, there is no source run: `source` is NaN and nothing can be normalised.
      axes: what the axes of `values` are.
      metric: the name of the metric that `values` are of; the first one, until the result is indexed by another.
      estimate: what was run and what was not.
      convention: of attributions: how the scores are to be read; "" for sweeps.
      check: of attributions with `verify`: estimates beside exact values; else None.
      precision: of sweeps with precision="fast": how far they were off; else None.
      provenance, timing, warnings: as in other results.
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        metrics: dict[Metric | str, int],
        per_pair: np.ndarray,  # [pairs, metrics, *axes]
        base: np.ndarray,  # [pairs, metrics]
        source: np.ndarray,
        estimate: SweepEstimate,
        provenance: Provenance,
        timing: Timing,
        warnings: tuple[str, ...],
        title: str,
        convention: str = "",
        checks: Sequence[AttributionCheck] = (),
        precisions: Sequence[PrecisionCheck] = (),
        chosen: int | None = None,
    ) -> None:
        self._chosen, chosen = chosen, chosen or 0
        self.axes = tuple(axes)
        self.estimate, self.provenance, self.timing, self.warnings = estimate, provenance, timing, warnings
        self.metric = next(name for name, index in metrics.items() if isinstance(name, str) and index == chosen)
        self.per_pair, self.base, self.source = per_pair[:, chosen], base[:, chosen], source[:, chosen]
        self.values = self.per_pair.mean(0)
        self._all = (metrics, per_pair, base, source)
        self._title, self.convention = title, convention
        self._checks, self.check = checks, checks[chosen] if checks else None
        self._precisions, self.precision = precisions, precisions[chosen] if precisions else None

    def __getitem__(self, metric: Metric | str) -> SweepResult:
        metrics, per_pair, base, source = self._all
        if metric not in metrics and isinstance(metric, Metric):
            metric = metric.name  # a metric of another process, where this was unpickled
        if metric not in metrics:
            raise KeyError(f"{metric!r} is not one of the sweep's metrics: {', '.join(repr(m) for m in metrics if isinstance(m, str))}")
        return type(self)(
            self.axes, metrics, per_pair, base, source, self.estimate, self.provenance, self.timing, self.warnings, self._title, self.convention,
            self._checks, self._precisions, metrics[metric],
        )

    @property
    def has_paths(self) -> bool:
        """Whether places are senders and receivers. Of pairs that cannot exist, because the sender does not come before the receiver, values are NaN."""
        return self.convention.startswith(("path patching", "edge"))

    @property
    def told(self) -> tuple[np.ndarray, str]:
        """What tables, lists and pictures give, and what it is called: the values; of edge attributions the scores."""
        return (self.scores, f"{self.metric}_score") if self.convention.startswith("edge") else (self.values, self.metric)

    @property
    def scores(self) -> np.ndarray:
        """How far each cell's metric is from the base run's, the mean over pairs. Of attributions: the estimates themselves."""
        return self.values - self.base.mean()

    @property
    def normalized(self) -> np.ndarray:
        """(mean value - mean base) / (mean source - mean base), means over pairs: 0 is the base run, 1 the source run. Not clipped.

        Raises:
          ValueError: source and base differ by less than a thousandth of their size, so that the ratio would be noise; or there is no source run.
        """
        base, source = float(self.base.mean()), float(self.source.mean())
        if np.isnan(source):
            raise ValueError("there is no source run to normalise by: the values come from handles; give the source prompt too, to compare with")
        if abs(source - base) <= 1e-3 * max(abs(source), abs(base), 1e-3):
            raise ValueError(f"{self.metric} is {base:.4g} in the base run and {source:.4g} in the source run: there is nothing to normalise by")
        return (self.values - base) / (source - base)

    def top(self, k: int = 10) -> list[tuple[tuple[str, ...], float]]:
        """The k cells whose metric is farthest from the base run's, as (labels, value), farthest first; of edge attributions (labels, score). Of cells that
        are the same two places in either order the first one. NaN is left out."""
        told, _ = self.told
        away = np.abs(self.scores).ravel()
        found: list[tuple[tuple[str, ...], float]] = []
        changes: set[object] = set()
        for place in np.transpose(np.unravel_index(np.argsort(-away, kind="stable"), self.values.shape)):
            labels = tuple(axis.labels[i] for axis, i in zip(self.axes, place, strict=True))
            if len(found) == k or np.isnan(told[tuple(place)]):  # NaN is sorted to the end
                break
            if (change := self._change(labels)) not in changes:
                changes.add(change)
                found.append((labels, float(told[tuple(place)])))
        return found

    def _change(self, labels: tuple[str, ...]) -> object:
        """The same for cells that change the same places."""
        at = {axis.name: label for axis, label in zip(self.axes, labels, strict=True)}
        second = tuple(name for name in ("second_layer", "second_head") if name in at)
        if not second:
            return labels
        places = (tuple(at.pop(name) for name in names) for names in (second, [name.removeprefix("second_") for name in second]))
        return frozenset(places), tuple(at.values())

    def to_pandas(self) -> pandas.DataFrame:
        """One line per cell. Layers, heads, units and positions are integers; the tokens at positions have a column "token" of their own. Needs pandas.

        With one metric the columns behind those are its name and "normalized" (NaN where that is not defined). With several, each metric has its name and
        "<name>_normalized"; `sweep[metric].to_pandas()` has one. Of edge attributions "<name>_score" stands for the name. Paths that cannot exist are left out.
        """
        from fluoroscope.sweep_tables import to_pandas

        names = [name for name in self._all[0] if isinstance(name, str)]
        return to_pandas(self, [self] if self._chosen is not None or len(names) == 1 else [self[name] for name in names])

    def to_xarray(self) -> xarray.DataArray:
        """The values of one metric with named axes: `.sel(layer=5, position=9)`; the tokens at positions are the coordinate "token". Of edge attributions
        the scores. Needs xarray."""
        from fluoroscope.sweep_tables import to_xarray

        return to_xarray(self)

    def plot(self, **options: Any) -> plotly.graph_objects.Figure:
        """A heat map (one axis: a line). See fluoroscope.sweep_plot.figure for the options. Needs plotly."""
        from fluoroscope.sweep_plot import figure

        return figure(self, **{"title": self._title} | options)

    def __repr__(self) -> str:
        shape = " x ".join(counted(len(axis), axis.name) for axis in self.axes)
        pairs = f", mean of {len(self.base)} pairs" if len(self.base) > 1 else ""
        lines = [
            f"{type(self).__name__} of {self.provenance.model}: {self._title}, {shape}{pairs}",
            f"  {self.metric}: base {self.base.mean():+.3f}, "
            + ("no source run" if np.isnan(self.source).any() else f"source {self.source.mean():+.3f}"),
        ]
        lines += [f"  {value:+8.3f}  " + ", ".join(f"{axis.name} {label}" for axis, label in zip(self.axes, labels, strict=True))
                  for labels, value in self.top(3)]
        saved = "" if self.convention or self.estimate.saved < 1.05 else f", {_times(self.estimate.saved)} times less work than a forward per cell"
        cells = counted(self.estimate.cells, "cell")
        if self.has_paths:
            cells = f"{counted(int(np.isfinite(self.values).sum()), 'pair')} that can exist of {self.values.size:,}"
        lines.append(f"  {cells} in {self.timing.run_ms / 1000:.2f} s{saved}")
        if self.check is not None:
            lines.append(f"  {self.check!r}")
        return "\n".join(lines)


def unique(labels: Iterable[str]) -> list[str]:
    """The labels, equal ones told apart: plots and tables take them for keys."""
    seen: dict[str, int] = {}
    out = []
    for label in labels:
        seen[label] = seen.get(label, 0) + 1
        out.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return out


def position_text(label: str) -> str:
    """A position's label as pictures have it: "9 John" for "9: John"."""
    place, colon, token = label.partition(":")
    return f"{place} {token.removeprefix(' ')}" if colon else label


def _times(ratio: float) -> str:
    """1.3, 8 or 41."""
    return f"{ratio:.2g}" if ratio < 10 else f"{ratio:,.0f}"
