"""What the numbers were measured on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def describe() -> list[str]:
    cpu = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    flags = Path("/proc/cpuinfo").read_text()
    features = [name for name in ("avx2", "avx512f", "amx_bf16") if f" {name}" in flags]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip() or "?"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "transformer-lens", "grpcio", "numpy"))
    load = os.getloadavg()[0]
    return [
        f"- {datetime.date.today().isoformat()}, commit {commit}",
        f"- {os.cpu_count()} cores, {cpu}, {', '.join(features)}; Linux {platform.release()}; load average at the start {load:.2f}",
        f"- Python {platform.python_version()}, {packages}",
    ]


def touch_memory(gib: int = 4) -> None:
    """Touches this much memory once, in a process that then ends.

    A virtual machine's host backs a page when the machine first touches it, which is slow: here 256 MiB took 0.5 to 1 s the first time and 0.05 to 0.12 s afterwards. Without
    this, whoever uses memory that nobody had since the machine started pays for the host. How long it helps is not known: free pages may go back to the host.
    """
    code = """
import mmap, sys
piece = 256 << 20
kept = [mmap.mmap(-1, piece) for _ in range(4 * int(sys.argv[1]))]
for memory in kept:
    memory.madvise(mmap.MADV_HUGEPAGE)
    for at in range(0, piece, 4096):
        memory[at] = 1
"""
    subprocess.run([sys.executable, "-c", code, str(gib)], check=True)
