"""Whether numbers are numbers: NaN and infinities in what a run gives are told, not left to be found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fluoroscope.ragged import Ragged

if TYPE_CHECKING:
    from fluoroscope.requests import Plan
    from fluoroscope.wire import Reply


def not_finite(plan: Plan, reply: Reply, logits: np.ndarray | Ragged | None) -> list[str]:
    """A warning when logits or metrics of the user's prompts are NaN or infinite, else nothing. `logits` without a batch axis are of one prompt."""
    names = {name: metric.name for metric, parts in plan.metrics.items() for name in parts}
    bad: dict[int, list[str]] = {}
    if logits is not None:
        rows = [logits] if plan.single and isinstance(logits, np.ndarray) else list(logits)
        for row, values in enumerate(rows):
            if not _all_finite(values):
                bad.setdefault(row, []).append("logits")
    for value in reply.summary.metrics:
        if value.name in names and not np.isfinite(value.value) and names[value.name] not in bad.setdefault(value.row, []):
            bad[value.row].append(names[value.name])
    found = {row: what for row, what in bad.items() if what}
    if not found:
        return []
    row, what = min(found.items())
    others = f" (and of {len(found) - 1} other prompts)" if len(found) > 1 else ""
    why = "; an intervention makes the numbers too large" if plan.request.interventions else ""
    return [f"NaN or infinite: {', '.join(what)} of prompt {row}{others}{why}"]


def _all_finite(values: np.ndarray) -> bool:
    """One read of the numbers, without an array of flags beside them, in the usual case."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values.sum(dtype=np.float32))) or bool(np.isfinite(values.astype(np.float32, copy=False)).all())
