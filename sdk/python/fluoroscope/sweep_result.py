"""What a sweep found, with axes that know their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fluoroscope._proto.v1 import patching_pb2
from fluoroscope.metrics import Metric
from fluoroscope.results import Provenance, Timing, bytes_text

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects
    import xarray


@dataclass(frozen=True)
class SweepEstimate:
    """What a sweep costs.

    Attributes:
      cells: of all pairs.
      filled_cells: cells equal to their base run, because nothing they change differs from it; they are not run.
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
        return (
            f"SweepEstimate: {self.cells:,} cells, of which {self.filled_cells:,} are the base run; {self.flops / 1e9:,.1f} GFLOP, "
            f"{self.saved:,.1f} times less than a forward per cell; peak {bytes_text(self.peak_bytes)} of {bytes_text(self.budget_bytes)}"
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
        return f"AttributionCheck: {len(self.cells)} cells run; Spearman {self.spearman:.3f}, precision at {self.top}: {self.precision:.2f}"


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
        return f"PrecisionCheck: {len(self.cells)} cells run again in float32; off by at most {self.largest_difference:.3g}, where changes are up to {self.largest_change:.3g}"


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
        chosen: int = 0,
    ) -> None:
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
        if metric not in metrics:
            raise KeyError(f"{metric!r} is not one of the sweep's metrics: {', '.join(repr(m) for m in metrics if isinstance(m, str))}")
        return type(self)(
            self.axes, metrics, per_pair, base, source, self.estimate, self.provenance, self.timing, self.warnings, self._title, self.convention,
            self._checks, self._precisions, metrics[metric],
        )

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
        """The k cells whose metric is farthest from the base run's, as (labels, value), farthest first. Of cells that are the same two places in either
        order the first one."""
        away = np.abs(self.values - self.base.mean()).ravel()
        found: list[tuple[tuple[str, ...], float]] = []
        changes: set[object] = set()
        for place in np.transpose(np.unravel_index(np.argsort(-away, kind="stable"), self.values.shape)):
            labels = tuple(axis.labels[i] for axis, i in zip(self.axes, place, strict=True))
            if len(found) == k:
                break
            if (change := self._change(labels)) not in changes:
                changes.add(change)
                found.append((labels, float(self.values[tuple(place)])))
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
        """One line per cell: its labels, its value, and its normalised value where that is defined. Needs pandas."""
        import pandas as pd

        index = pd.MultiIndex.from_product([unique(axis.labels) for axis in self.axes], names=[axis.name for axis in self.axes])
        frame = pd.DataFrame({self.metric: self.values.ravel()}, index=index)
        try:
            frame["normalized"] = self.normalized.ravel()
        except ValueError:
            frame["normalized"] = np.nan
        return frame.reset_index()

    def to_xarray(self) -> xarray.DataArray:
        """The values with named axes and labels. Needs xarray."""
        import xarray as xr

        return xr.DataArray(
            self.values, dims=[axis.name for axis in self.axes], coords={axis.name: unique(axis.labels) for axis in self.axes}, name=self.metric
        )

    def plot(self, **options: Any) -> plotly.graph_objects.Figure:
        """A heat map (one axis: a line). See fluoroscope.sweep_plot.figure for the options. Needs plotly."""
        from fluoroscope.sweep_plot import figure

        return figure(self, title=self._title, **options)

    def __repr__(self) -> str:
        shape = " x ".join(f"{len(axis)} {axis.name}{'s' if len(axis) != 1 else ''}" for axis in self.axes)
        pairs = f", mean of {len(self.base)} pairs" if len(self.base) > 1 else ""
        lines = [
            f"{type(self).__name__} of {self.provenance.model}: {self._title}, {shape}{pairs}",
            f"  {self.metric}: base {self.base.mean():+.3f}, "
            + ("no source run" if np.isnan(self.source).any() else f"source {self.source.mean():+.3f}"),
        ]
        lines += [f"  {value:+8.3f}  " + ", ".join(f"{axis.name} {label}" for axis, label in zip(self.axes, labels, strict=True))
                  for labels, value in self.top(3)]
        saved = "" if self.convention else f", {self.estimate.saved:,.0f} times less work than a forward per cell"
        lines.append(f"  {self.estimate.cells:,} cells in {self.timing.run_ms / 1000:.2f} s{saved}")
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
