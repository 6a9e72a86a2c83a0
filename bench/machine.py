"""What the numbers were measured on."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def features() -> list[str]:
    flags = Path("/proc/cpuinfo").read_text()
    return [name for name in ("avx2", "avx512f", "amx_bf16") if f" {name}" in flags]


def processor() -> str:
    cpu = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    return f"{os.cpu_count()} cores, {cpu}, {', '.join(features())}"


def describe() -> list[str]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip() or "?"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "transformer-lens", "grpcio", "numpy"))
    load = os.getloadavg()[0]
    return [
        f"- {datetime.date.today().isoformat()}, commit {commit}",
        f"- Linux {platform.release()}; load average at the start {load:.2f}",
        f"- Python {platform.python_version()}, {packages}",
    ]


# Prints how long the first touch of this many MiB of fresh huge pages took, then ends and so frees them.
_TOUCH = """
import mmap, sys, time
size = int(sys.argv[1]) << 20
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has no huge pages
memory.madvise(mmap.MADV_HUGEPAGE)
start = time.perf_counter()
for at in range(0, size, 2 << 20):
    memory[at] = 1
print(time.perf_counter() - start)
"""


def touch_memory(mib: int = 512) -> float:
    """Touches fresh memory once, in a process that then ends, so that the next process finds memory that the host backs. Returns the seconds.

    A virtual machine with free page reporting gives free blocks back to its host after some two seconds, and whoever touches them next waits for the host: see fresh_memory.
    """
    return float(subprocess.run([sys.executable, "-c", _TOUCH, str(mib)], capture_output=True, text=True, check=True).stdout)


def fresh_memory() -> str:
    """What the first touch of 256 MiB costs when the memory was in use a moment ago, and when it has been free for 5 s."""
    warm, cold = [], []
    for _ in range(3):
        touch_memory(256)
        warm.append(touch_memory(256))
        time.sleep(5)
        cold.append(touch_memory(256))
    return (f"the first touch of 256 MiB of fresh huge pages takes {1e3 * statistics.median(warm):.0f} ms here when another process has just freed them, and "
            f"{1e3 * statistics.median(cold):.0f} ms when they have been free for 5 s")
