"""The reply to a sweep becomes its result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import numpy as np

from fluoroscope._proto.v1 import patching_pb2
from fluoroscope.errors import DataLossError, warn
from fluoroscope.metrics import Metric
from fluoroscope.path_result import PathResult
from fluoroscope.path_order import can_exist
from fluoroscope.paths import PathPlan
from fluoroscope.results import Provenance, Timing, counted
from fluoroscope.sweep import AXES, KEY_SITES, SweepPlan
from fluoroscope.sweep_result import AttributionCheck, Axis, PrecisionCheck, SweepEstimate, SweepResult


def read_sweep(plan: SweepPlan, messages: Iterable[bytes], progress: bool | None) -> SweepResult:
    """Reads to the end, with a progress bar. Called by Model.sweep, so that warnings point to its caller."""
    reader = _collect(messages, progress, "sweep")
    header = cast(patching_pb2.SweepHeader, reader.header)
    axes = _axes(plan.request, header)
    per_pair = reader.per_pair([len(axis) for axis in axes])
    title = _title(plan.request)
    if header.convention:  # an attribution: scores are changes
        per_pair += reader.base.reshape(*reader.base.shape, *[1] * len(axes))
        title = f"{title}, estimated by {header.convention.partition(':')[0]}"
    shape = tuple(len(axis) for axis in axes)
    precisions = [check for metric in range(len(header.metrics)) if (check := reader.precision(metric, shape)) is not None]
    return SweepResult(
        axes, _index(header, plan.metrics), per_pair, reader.base, reader.source, *reader.about(), title, header.convention, reader.checks(shape), precisions
    )


def read_paths(plan: PathPlan, messages: Iterable[bytes], progress: bool | None) -> PathResult:
    """The same for path patching."""
    possible = can_exist(plan.request.receivers, plan.request.senders)
    reader = _collect(messages, progress, "path patching", possible.ravel())
    header = cast(patching_pb2.SweepHeader, reader.header)
    names = {patching_pb2.SWEEP_AXIS_RECEIVER: "receiver", patching_pb2.SWEEP_AXIS_SENDER: "sender"}
    axes = [Axis(names[axis.axis], tuple(axis.labels)) for axis in header.axes]
    per_pair = reader.per_pair([len(axis) for axis in axes])
    title = "paths"
    if header.convention.startswith("edge"):  # scores are changes
        per_pair += reader.base.reshape(*reader.base.shape, *[1] * len(axes))
        title = f"edges by {header.convention.partition(':')[0]}"
    into = "clean into corrupt" if plan.request.direction == patching_pb2.SWEEP_DIRECTION_DENOISE else "corrupt into clean"
    checks = reader.checks(per_pair.shape[2:])
    return PathResult(
        axes, _index(header, plan.metrics), per_pair, reader.base, reader.source, *reader.about(), f"{title}, {into}", header.convention, checks
    )


def _collect(messages: Iterable[bytes], progress: bool | None, what: str, possible: np.ndarray | None = None) -> _Reader:
    """`possible`: which cells have a value at all; None: all."""
    reader = _Reader()
    bar: Any = None
    try:
        for message in messages:
            cells = reader.feed(message)
            if bar is None and reader.header is not None:
                bar = _progress_bar(reader.header.estimate.cells, progress, what) or False
            if bar:
                bar.update(cells)
    finally:
        if bar:
            bar.close()
    reader.finish()
    values = reader.values if possible is None else reader.values[:, possible]
    if bad := int((~np.isfinite(values)).any(-1).sum()):
        cast(patching_pb2.SweepSummary, reader.summary).warnings.append(f"NaN or infinite: {bad:,} of {counted(values.shape[0] * values.shape[1], 'cell')}")
    for warning in cast(patching_pb2.SweepSummary, reader.summary).warnings:
        warn(warning)
    return reader


def _index(header: patching_pb2.SweepHeader, metrics: dict[Metric, str]) -> dict[Metric | str, int]:
    index: dict[Metric | str, int] = {name: i for i, name in enumerate(header.metrics)}
    index.update({metric: index[name] for metric, name in metrics.items()})
    return index


def _axes(request: patching_pb2.SweepRequest, header: patching_pb2.SweepHeader) -> list[Axis]:
    names = {number: name for name, number in AXES.items()}
    if set(request.sites) <= set(KEY_SITES):
        names[patching_pb2.SWEEP_AXIS_UNIT] = "source"
    return [Axis(names[axis.axis], tuple(axis.labels)) for axis in header.axes]


def _title(request: patching_pb2.SweepRequest) -> str:
    sites = ", ".join(site.rsplit(".", 1)[-1].removeprefix("hook_") for site in request.sites)
    into = "corrupt into clean" if request.direction == patching_pb2.SWEEP_DIRECTION_NOISE else "clean into corrupt"
    run = "clean" if request.direction == patching_pb2.SWEEP_DIRECTION_NOISE else "corrupt"
    ablation = {
        patching_pb2.SWEEP_KIND_ZERO: "zeros", patching_pb2.SWEEP_KIND_MEAN: "means", patching_pb2.SWEEP_KIND_RESAMPLE: "resampled",
    }
    if any(pair.source_handles for pair in request.pairs):
        return f"{sites}, values of handles into {run}"
    return f"{sites}, {ablation[request.kind]} into {run}" if request.kind in ablation else f"{sites}, {into}"


class _Reader:
    """Takes the messages of one Sweep reply and gives the whole. Trusts nothing: every cell must come exactly once."""

    def __init__(self) -> None:
        self.header: patching_pb2.SweepHeader | None = None
        self.summary: patching_pb2.SweepSummary | None = None
        self.done = 0
        self._check: patching_pb2.AttributionCheck | None = None
        self._precision: patching_pb2.PrecisionCheck | None = None

    def feed(self, message: bytes) -> int:
        """How many cells this message brought."""
        reply = patching_pb2.SweepReply.FromString(message)
        match reply.WhichOneof("part"):
            case "header" if self.header is None:
                self._begin(reply.header)
            case "summary":
                self.summary = reply.summary
            case "reference":
                self._referenced[reply.reference.pair] = True
                self.base[reply.reference.pair] = np.frombuffer(reply.reference.base, "<f8")
                if reply.reference.source:  # without a source prompt there is none
                    self.source[reply.reference.pair] = np.frombuffer(reply.reference.source, "<f8")
            case "cells":
                return self._take(reply.cells)
            case "exact":
                index, values = self._parse(reply.exact)
                self.exact[reply.exact.pair, index] = values
            case "check":
                self._check = reply.check
            case "precision":
                self._precision = reply.precision
            case _:
                pass  # a part that a newer server adds and this package does not know
        return 0

    def finish(self) -> None:
        if self.header is None or self.summary is None:
            raise DataLossError("the reply ended without its header or its summary")
        if not self._seen.all() or not self._referenced.all():
            raise DataLossError(f"the reply ended with {int(self._seen.sum())} of {self._seen.size} cells")

    def per_pair(self, sizes: list[int]) -> np.ndarray:
        """[pairs, metrics, *axes]."""
        return np.moveaxis(self.values, 2, 1).reshape(*self.base.shape, *sizes)

    def about(self) -> tuple[SweepEstimate, Provenance, Timing, tuple[str, ...]]:
        header, summary = cast(patching_pb2.SweepHeader, self.header), cast(patching_pb2.SweepSummary, self.summary)
        timing = Timing(summary.queue_ms, summary.run_ms, summary.tokens, summary.peak_bytes)
        return SweepEstimate.of(header.estimate), Provenance.of(header.provenance), timing, tuple(summary.warnings)

    def _begin(self, header: patching_pb2.SweepHeader) -> None:
        self.header = header
        pairs, metrics = len(header.clean), len(header.metrics)
        cells = int(np.prod([len(axis.labels) for axis in header.axes]))
        self.values = np.full((pairs, cells, metrics), np.nan)
        self.base, self.source = np.full((pairs, metrics), np.nan), np.full((pairs, metrics), np.nan)
        self._seen, self._referenced = np.zeros((pairs, cells), bool), np.zeros(pairs, bool)
        self.exact = np.full_like(self.values, np.nan)

    def _take(self, cells: patching_pb2.SweepCells) -> int:
        index, values = self._parse(cells)
        if self._seen[cells.pair, index].any():
            raise DataLossError("a cell came twice")
        self._seen[cells.pair, index] = True
        self.values[cells.pair, index] = values
        self.done += len(index)
        return len(index)

    def _parse(self, cells: patching_pb2.SweepCells) -> tuple[np.ndarray, np.ndarray]:
        if self.header is None:
            raise DataLossError("cells came before the header")
        index = np.frombuffer(cells.cells, "<u4")
        values = np.frombuffer(cells.values, "<f8")
        if cells.pair >= len(self.values) or (len(index) and index.max() >= self.values.shape[1]) or values.size != index.size * self.values.shape[2]:
            raise DataLossError("a message has cells that the header does not know")
        return index, values.reshape(len(index), -1)

    def precision(self, metric: int, shape: tuple[int, ...]) -> PrecisionCheck | None:
        """Of one metric; `shape` is the grid's. None but for fast sweeps."""
        if self._precision is None:
            return None
        cells = np.array(self._precision.cells, np.int64)
        exact = self.exact[:, :, metric].mean(0).reshape(shape)
        difference, change = self._precision.largest_difference[metric], self._precision.largest_change[metric]
        return PrecisionCheck(cells, exact, difference, change, self._precision.run_ms)

    def checks(self, shape: tuple[int, ...]) -> list[AttributionCheck]:
        """One per metric; `shape` is the grid's. Empty but for attributions that were asked to verify cells."""
        if self._check is None:
            return []
        cells = np.array(self._check.cells, np.int64)
        checks = []
        for metric, found in enumerate(self._check.metrics):
            exact = (self.exact[:, :, metric] - self.base[:, None, metric]).mean(0).reshape(shape)
            spearman = found.spearman if found.HasField("spearman") else float("nan")
            checks.append(AttributionCheck(cells, exact, spearman, found.precision, found.top))
        return checks


def _progress_bar(total: int, shown: bool | None, what: str) -> Any:
    """A tqdm bar (on a terminal or in a notebook), or None: without tqdm, or when not wanted. Quick sweeps are over before it shows."""
    if shown is False:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=total, desc=what, unit="cell", delay=0 if shown else 1, disable=None if shown is None else False, leave=False)
