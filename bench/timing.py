"""Side-by-side timing: the contenders take turns, so that a slow minute of the machine hits all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

# libgomp's threads spin for some milliseconds after a product before they sleep. Without a pause those of the contender before would take
# the cores from the next one.
_SETTLE = 0.05


def alternate(contenders: dict[str, Callable[[], float | None]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each call, by contender. A contender that measures itself returns its seconds; otherwise the call is timed."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(warm_up + rounds):
        for name, call in contenders.items():
            time.sleep(_SETTLE)
            start = time.perf_counter()
            own = call()
            seconds = time.perf_counter() - start if own is None else own
            if round_number >= warm_up:
                times[name].append(seconds)
    return times


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in times.items()}
