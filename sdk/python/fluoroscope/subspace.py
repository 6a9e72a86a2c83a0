"""Subspace patching with its parts: what a swap does, and what of it goes through directions that the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from fluoroscope.interventions import Intervention, swap_subspace
from fluoroscope.metrics import Metric
from fluoroscope.results import Metrics
from fluoroscope.selections import Prompts, Row, Where, as_at, as_prompts, per_prompt_positions


@dataclass(frozen=True)
class SubspaceEffects:
    """Metrics of four runs of the same prompts: made by Model.subspace_effects.

    Attributes:
      plain: without the swap.
      whole: with it.
      row_space, null_space: with each direction's component that the matrix behind the place reads, or does not read, alone. If `whole` moves a metric and
        `row_space` does not, the effect goes through a path that the model does not use: an interpretability illusion.
    """

    plain: Metrics
    whole: Metrics
    row_space: Metrics
    null_space: Metrics

    def __repr__(self) -> str:
        return "SubspaceEffects\n" + "\n".join(f"  {item.name:<10} {getattr(self, item.name)!r}" for item in fields(self))

    @classmethod
    def of(cls, metrics: Sequence[Metric], values: Metrics) -> SubspaceEffects:
        """From the values of `copies`' rows."""
        runs = [item.name for item in fields(cls)]
        parts = {metric: np.split(values[metric], len(runs)) for metric in metrics}
        return cls(**{run: Metrics({metric: part[i] for metric, part in parts.items()}) for i, run in enumerate(runs)})


def copies(
    prompts: Prompts, where: Where, directions: Any, source: Prompts, source_positions: Any, metrics: Sequence[Metric]
) -> tuple[list[Row], list[Intervention], list[Metric]]:
    """The prompts four times over, the swaps of all but the first time, and the metrics for all of them."""
    rows, _ = as_prompts(prompts)
    count, at = len(rows), as_at(where)
    runs = len(fields(SubspaceEffects))
    targets = range(count) if at.rows is None else at.rows
    if any(not 0 <= target < count for target in targets):
        raise ValueError(f"rows={list(targets)}: there are {count} prompts, 0 to {count - 1}")
    nested = per_prompt_positions(at.positions, count)
    sources, single = as_prompts(source)
    edits = []
    for run, part in enumerate([item.name for item in fields(SubspaceEffects)][1:], start=1):
        there = replace(at, rows=tuple(run * count + target for target in targets), positions=at.positions if nested is None else nested * runs)
        edits.append(
            swap_subspace(there, directions, source=sources[0] if single else sources * runs, source_positions=source_positions, part=part)
        )
    return rows * runs, edits, [_repeated(metric, runs) for metric in metrics]


def _repeated(metric: Metric, runs: int) -> Metric:
    reference = metric.reference
    if reference is not None:
        references, single = as_prompts(reference)
        reference = references[0] if single else references * runs
    return replace(metric, parts=metric.parts * runs if metric.per_prompt else metric.parts, reference=reference)
