"""Many users at once: rows of different requests share batches, and nobody waits long for a long job."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from forward import IOI, serve
from report import Row
from scrape import batches_above

MODEL = "smollm2-135m"
USERS = 32
ROWS = 64  # see one_batch.cc


def measure(directory: Path, build: Path, rounds: int) -> list[Row]:
    with serve(directory) as client:
        users = _run([build / "bin/bench_many_users", client.target, MODEL, str(rounds)])
        rows = _run([build / "bin/bench_one_batch", client.target, MODEL, str(rounds)])
        # All rows of each of its large requests were in one batch.
        batches, (requests,) = batches_above(client, 32), rows.pop("batches")
        token = one_token(client, directory, build, rounds)
        flops = client.model(MODEL).estimate([IOI] * USERS, logits="last").flops
    if batches < requests:
        raise SystemExit(f"{requests:.0f} requests with {ROWS} rows, but {batches} batches with more than half as many")
    median = {name: statistics.median(times) for name, times in (users | rows | token).items()}
    return [_together(median, flops), _curve(median), _one_batch(median), _edits(median), *_overhead(median), _beside(users)]


def one_token(client: object, directory: Path, build: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of one-token forward passes at the server and in a process without one: see one_token.cc."""
    # The server sets the same for itself, unless it was told otherwise.
    environment = os.environ if "OMP_WAIT_POLICY" in os.environ else {"GOMP_SPINCOUNT": "6000", **os.environ}
    return _run([build / "bin/bench_one_token", client.target, MODEL, directory, str(rounds)], environment)  # type: ignore[attr-defined]


def _run(command: list[object], environment: Mapping[str, str] | None = None) -> dict[str, list[float]]:
    """What a bench binary prints: a name and values on each line."""
    output = subprocess.run([str(word) for word in command], env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    values = {}
    for line in output.splitlines():
        words = line.split()
        named = 2 if words[0] in ("together", "apart") else 1
        values[" ".join(words[:named])] = [float(word) for word in words[named:]]
    return values


def _peak() -> float:
    """Floating-point operations per second of a large product."""
    product, times = torch.randn(2048, 2048), []
    for _ in range(9):
        start = time.perf_counter()
        product @ product
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / statistics.median(times)


def _together(median: dict[str, float], flops: float) -> Row:
    together, apart = median[f"together {USERS}"] / 1e3, median[f"apart {USERS}"] / 1e3
    floor, reads = flops / _peak(), median["products"] / 1e3
    why = (f"{USERS} prompts together are {flops / 1e9:.0f} GFLOP, which take {floor:.3f} s at the speed of LibTorch's 2048³ product: {floor / together:.2f} of the time here. One request alone takes "
           f"{1e3 * apart / USERS:.1f} ms, of which the matrix products of a single token, bound by reading the weights, take {1e3 * reads:.1f} ms. So the better single requests use the "
           f"memory, the less there is to gain: with products at that peak and nothing else at all, the ratio could be {apart / floor:.1f}.")
    return Row(f"{USERS} users at once, each with an intervention of its own on a 14-token prompt, until all have their answer", f"one after the other {apart:.3f} s",
               f"{together:.3f} s", apart / together, "× faster", "≤ 0.45 s, ≥ 3 ×", together <= 0.45 and apart >= 3 * together, why)


def _curve(median: dict[str, float]) -> Row:
    counts = (1, 4, 16, 64)
    ours = "; ".join(f"{count}: {median[f'together {count}']:.0f} ms" for count in counts)
    one, many = median["together 1"], median["together 64"] / 64
    return Row("the same with 1, 4, 16 and 64 users (the rows of 64 are two batches or more: batches that users share hold 512 tokens)",
               "; ".join(f"{count}: {median[f'apart {count}']:.0f} ms" for count in counts), ours, one / many, "× less time for each of 64 than for one", "≥ 3", one >= 3 * many)


def _one_batch(median: dict[str, float]) -> Row:
    alone, batch = median["one_by_one"] / ROWS, median["one_batch"] / ROWS
    return Row(f"one request with {ROWS} rows of the 14-token prompt in one batch, each with an intervention of its own", f"{ROWS} requests, one after the other: {alone:.1f} ms a row",
               f"{ROWS * batch:.0f} ms, {batch:.1f} ms a row", alone / batch, "× less time for each row than alone", "≥ 3", alone >= 3 * batch)


def _edits(median: dict[str, float]) -> Row:
    none, edits = median["none"], median["edits"]
    return Row(f"{ROWS} rows of 14 tokens in one batch with four vectors of its own added to each at one site, 256 edits. Edits are made one by one, each with its own vector: to gather "
               f"the vectors by row index first would copy all of them once more, and could save no more than the difference",
               f"without edits {none:.1f} ms on the device", f"{edits:.1f} ms", edits / none, "× the time without", "≤ 1.05", edits <= 1.05 * none)


def _overhead(median: dict[str, float]) -> list[Row]:
    server, device, bare, nothing = (median[name] for name in ("server", "device", "bare", "nothing"))
    why = (f"of the {server - bare:.2f} ms, {nothing:.2f} ms are what a request costs that computes nothing, after a pause as long as the pass: both processes' threads sleep, and are woken one after the "
           f"other. {device - bare:.2f} ms are on the device: the best token, the sum of all exponentials for its log-probability, and products that are slower beside a second process. The rest "
           "is that a request is planned, queued and answered in three messages.")
    return [
        Row("a request of one token: latency at a C++ client less the time of the same forward pass in a process without a server", f"bare forward pass {bare:.2f} ms", f"{server:.2f} ms",
            server - bare, "ms more", "≤ 1 ms", server - bare <= 1, why),
        Row("the same latency less the time that the server says it ran on the device", f"on the device {device:.2f} ms", f"{server:.2f} ms", server - device, "ms more", "≤ 1 ms",
            server - device <= 1),
    ]  # fmt: skip


def _beside(values: dict[str, list[float]]) -> Row:
    idle, beside = statistics.median(values["idle"]), statistics.quantiles(values["beside"], n=100)[98]
    return Row("14-token forward while another user's sweep runs, 99th percentile", f"idle server, median {idle:.1f} ms", f"{beside:.1f} ms", beside / idle,
               "× slower", "≤ 5", beside <= 5 * idle)
