"""What the numbers were measured on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
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
