"""Sweeps as tables: pandas frames and xarray arrays, whose places are numbers where they have numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fluoroscope.sweep_result import Axis, unique

if TYPE_CHECKING:
    import pandas
    import xarray

    from fluoroscope.sweep_result import SweepResult


def columns(axis: Axis) -> dict[str, list[Any]]:
    """What a table has for an axis: its places, as int where they have numbers, and for positions also the tokens there."""
    if axis.name in ("sender", "receiver", "site"):
        return {axis.name: unique(axis.labels)}
    places = [re.fullmatch(r"(\d+)(?::(.*))?", label, re.DOTALL) for label in axis.labels]
    numbers = [int(place[1]) for place in places if place]
    if len(numbers) < len(places) or len(set(numbers)) < len(numbers):
        return {axis.name: unique(axis.labels)}  # named groups, blocks of units
    tokens = [place[2] for place in places if place]
    if all(token is None for token in tokens):
        return {axis.name: numbers}
    return {axis.name: numbers, "token" if axis.name == "position" else f"{axis.name}_token": tokens}


def to_pandas(result: SweepResult, metrics: Sequence[SweepResult]) -> pandas.DataFrame:
    """One line per cell; see SweepResult.to_pandas. `metrics` are the same result by metric."""
    import pandas as pd

    index = np.indices([len(axis) for axis in result.axes]).reshape(len(result.axes), -1)
    data: dict[str, Any] = {}
    for axis, places in zip(result.axes, index, strict=True):
        for name, labels in columns(axis).items():
            data[name] = [labels[i] for i in places]
    numbers: dict[str, np.ndarray] = {}
    for one in metrics:
        told, name = one.told
        try:
            normalized = one.normalized
        except ValueError:
            normalized = np.full_like(told, np.nan)
        numbers[name] = told.ravel()
        numbers["normalized" if len(metrics) == 1 else f"{one.metric}_normalized"] = normalized.ravel()
    if len(data | numbers) < len(data) + 2 * len(metrics):
        raise ValueError(f"a metric has the name of another column ({', '.join(data)}, normalized); give it another `name`")
    frame = pd.DataFrame(data | numbers)
    if result.has_paths:  # pairs that cannot exist
        frame = frame[np.isfinite(result.values.ravel())].reset_index(drop=True)
    return frame


def to_xarray(result: SweepResult) -> xarray.DataArray:
    """See SweepResult.to_xarray."""
    import xarray as xr

    coordinates = {name: (axis.name, labels) for axis in result.axes for name, labels in columns(axis).items()}
    told, name = result.told
    return xr.DataArray(told, dims=[axis.name for axis in result.axes], coords=coordinates, name=name)
