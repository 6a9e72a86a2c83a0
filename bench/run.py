"""Measures Fluoroscope beside transformers, TransformerLens and bare gRPC on this machine, and writes bench/RESULTS.md."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Before torch is imported: both sides get the same number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import machine  # noqa: E402
import report  # noqa: E402
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

import forward  # noqa: E402
import generate  # noqa: E402
import process  # noqa: E402
import sweep  # noqa: E402
import transport  # noqa: E402
import users  # noqa: E402
from fluoroscope.store import model_path  # noqa: E402

BUILD = Path(__file__).resolve().parent.parent / "build" / "release"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each figure (default 7); more is calmer")
    parser.add_argument("--only", choices=("forward", "sweep", "generate", "users", "transport", "process"), help="a part only, printed and not written to RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(2)
    described = machine.describe()
    directory = model_path("smollm2-135m")
    parts = {
        "forward": lambda: forward.measure(directory, options.rounds),
        "sweep": lambda: sweep.measure(directory, options.rounds),
        "generate": lambda: generate.measure(directory, BUILD, options.rounds),
        "users": lambda: users.measure(directory, BUILD, options.rounds),
        "transport": lambda: transport.measure(directory, BUILD, options.rounds),
        "process": lambda: process.start_and_memory(directory, options.rounds) + process.busy_neighbour(directory, options.rounds),
    }
    chosen = {options.only: parts[options.only]} if options.only else parts
    rows: list[report.Row] = []
    for name in tqdm(chosen, desc="bench", disable=not sys.stderr.isatty()):
        rows += chosen[name]()
        print(*(row.line() for row in rows), *(row.reason() for row in rows if row.reason()), sep="\n", flush=True)
    if not options.only:
        report.write(machine.processor(), described, "bench/run", rows)
        print(f"written: {report.PATH}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
