"""The server as a process: start, memory at rest, and a busy neighbour."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import torch

from forward import IOI, serve, void
from report import Row


def metric(client: object, name: str) -> float:
    address = client.server.http_address  # type: ignore[attr-defined]
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
    return float(next(line.rsplit(" ", 1)[1] for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name))


def libtorch_alone() -> float:
    """MiB that are resident in a small C program, `cat`, into which the CPU library of LibTorch was loaded; nothing is computed."""
    library = (Path(torch.__file__).parent / "lib" / "libtorch_cpu.so").resolve()
    program = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
                               env=os.environ | {"LD_PRELOAD": str(library)})
    program.stdin.write("ready\n")  # it answers when all libraries are loaded and have set themselves up
    program.stdout.readline()
    status = Path(f"/proc/{program.pid}/status").read_text()
    loaded = str(library) in Path(f"/proc/{program.pid}/maps").read_text()
    program.communicate()
    if not loaded:  # ld.so goes on without a library that it cannot load
        raise SystemExit(f"{library} was not loaded into cat: its memory cannot be measured")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) / 1024


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
        Row("idle resident memory above the weights, after one forward", f"CPU LibTorch alone, loaded into `cat`, {libtorch_alone():.0f} MiB",
            f"{memory:.0f} MiB", memory, "MiB", "≤ 250 MiB", memory <= 250),
    ]


def busy_neighbour(directory: Path, rounds: int) -> list[Row]:
    with serve(directory) as client:
        model = client.model("smollm2-135m")
        many = torch.randint(0, model.info.vocabulary, (8, 128), generator=torch.Generator().manual_seed(0)).tolist()
        works = {"14-token forwards": (model.tokenize(IOI), 4 * rounds), "8×128 forwards (last logits)": (many, rounds)}

        def medians() -> dict[str, float]:
            return {name: median(prompts, count) for name, (prompts, count) in works.items()}

        def median(prompts: list, count: int) -> float:
            times = []
            for _ in range(2 + count):
                begin = time.perf_counter()
                void(model.run_with_cache(prompts, names_filter=[], logits="last"))
                times.append(time.perf_counter() - begin)
            return statistics.median(times[2:])

        quiet = medians()
        # Ends by itself, should this process die first.
        neighbour = subprocess.Popen([sys.executable, "-c", "import time\nend = time.time() + 300\nwhile time.time() < end: pass"])
        try:
            busy = medians()
            assert neighbour.poll() is None, "the neighbour ended too early"
        finally:
            neighbour.kill()
            neighbour.wait()
    return [Row(f"{name} while another process keeps one core busy", f"quiet {quiet[name]:.4f} s", f"{busy[name]:.4f} s",
                busy[name] / quiet[name], "× slower", "≤ 3", busy[name] <= 3 * quiet[name]) for name in works]
