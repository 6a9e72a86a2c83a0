"""The server as a process: start, memory at rest, and a busy neighbour."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from forward import IOI, serve, void
from report import Row
from scrape import metric


def start_and_memory(directory: Path, rounds: int) -> list[Row]:
    seconds, extra = [], []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        with serve(directory) as client:
            seconds.append(time.perf_counter() - begin)
            model = client.model("smollm2-135m")
            model.run_with_cache(IOI, names_filter=[], logits="last")
            extra.append((metric(client, "process_resident_memory_bytes") - metric(client, "fluoroscope_model_weight_bytes")) / 2**20)
    start, memory = statistics.median(seconds[1:]), statistics.median(extra[1:])
    return [
        Row("start to SERVING, weights in page cache, self-check included", "", f"{start:.2f} s", start, "s", "≤ 2 s", start <= 2),
        Row("idle resident memory above the weights, after one forward", "CPU LibTorch alone 116 MB", f"{memory:.0f} MiB", memory, "MiB", "≤ 250 MiB",
            memory <= 250),
    ]


def busy_neighbour(directory: Path, rounds: int) -> Row:
    with serve(directory) as client:
        model = client.model("smollm2-135m")
        ids = model.tokenize(IOI)

        def median() -> float:
            times = []
            for _ in range(4 * rounds):
                begin = time.perf_counter()
                void(model.run_with_cache(ids, names_filter=[], logits="last"))
                times.append(time.perf_counter() - begin)
            return statistics.median(times[2:])

        quiet = median()
        # Ends by itself, should this process die first.
        neighbour = subprocess.Popen([sys.executable, "-c", "import time\nend = time.time() + 120\nwhile time.time() < end: pass"])
        try:
            busy = median()
        finally:
            neighbour.kill()
            neighbour.wait()
    return Row("14-token forwards while another process keeps one core busy", f"quiet {quiet:.4f} s", f"{busy:.4f} s", busy / quiet, "× slower", "≤ 3",
               busy <= 3 * quiet)
