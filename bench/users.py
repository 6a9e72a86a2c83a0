"""Many users at once: rows of different requests share batches, and nobody waits long for a long job."""

from __future__ import annotations

import statistics
import subprocess
from pathlib import Path

from forward import serve
from report import Row

USERS = 32


def measure(directory: Path, build: Path, rounds: int) -> list[Row]:
    with serve(directory) as client:
        output = subprocess.run([build / "bin/bench_many_users", client.target, "smollm2-135m", str(rounds)], capture_output=True, text=True, check=True).stdout
    values = {}
    for line in output.splitlines():
        words = line.split()
        named = 2 if words[0] in ("together", "apart") else 1
        values[" ".join(words[:named])] = [float(word) for word in words[named:]]
    median = {name: statistics.median(times) for name, times in values.items()}
    return [_together(median), _curve(median), _overhead(median), _beside(values)]


def _together(median: dict[str, float]) -> Row:
    together, apart = median[f"together {USERS}"] / 1e3, median[f"apart {USERS}"] / 1e3
    return Row(f"{USERS} users at once, each with an intervention of its own on a 14-token prompt, until all have their answer", f"one after the other {apart:.3f} s",
               f"{together:.3f} s", apart / together, "× faster", "≤ 0.45 s, ≥ 3 ×", together <= 0.45 and apart >= 3 * together)


def _curve(median: dict[str, float]) -> Row:
    counts = (1, 4, 16, 64)
    ours = "; ".join(f"{count}: {median[f'together {count}']:.0f} ms" for count in counts)
    one, many = median["together 1"], median["together 64"] / 64
    return Row("the same with 1, 4, 16 and 64 users", "; ".join(f"{count}: {median[f'apart {count}']:.0f} ms" for count in counts), ours, one / many,
               "× less time for each of 64 than for one", "≥ 3", one >= 3 * many)


def _overhead(median: dict[str, float]) -> Row:
    return Row("a request of one token: latency at a C++ client less the time on the device", f"on the device {median['bare']:.2f} ms", f"{median['overhead']:.2f} ms",
               median["overhead"], "ms", "≤ 1 ms", median["overhead"] <= 1)


def _beside(values: dict[str, list[float]]) -> Row:
    idle, beside = statistics.median(values["idle"]), statistics.quantiles(values["beside"], n=100)[98]
    return Row("14-token forward while another user's sweep runs, 99th percentile", f"idle server, median {idle:.1f} ms", f"{beside:.1f} ms", beside / idle,
               "× slower", "≤ 5", beside <= 5 * idle)
