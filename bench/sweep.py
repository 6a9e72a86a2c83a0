"""Patching sweeps: one request to the server over loopback against TransformerLens's one forward per cell, in process."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import fluoroscope as fs
from contenders import TransformerLens, Transformers
from forward import serve, void
from machine import features
from report import Row
from timing import alternate, medians

CLEAN = "When John and Mary went to the shops, John gave the bag to"
CORRUPT = "When John and Mary went to the shops, Mary gave the bag to"
LENS_CELLS = 30  # TransformerLens is timed on so many and scaled
PLOT = Path(__file__).resolve().parent / "sweep_scaling.svg"

Cell = tuple[int, ...]


@dataclass
class Work:
    name: str
    site: str
    over: tuple[str, ...]
    all_differ: bool
    seconds: float  # goals
    times: float


WORKS = [
    Work("sweep resid_pre, 30 layers × 14 positions, prompts differ in one token", "resid_pre", ("layer", "position"), False, 0.35, 350),
    Work("the same, all positions differ", "resid_pre", ("layer", "position"), True, 1.5, 85),
    Work("sweep z, all positions, 30 layers × 9 heads", "z", ("layer", "head"), False, 0.75, 110),
    Work("sweep z, 30 layers × 9 heads × 14 positions (3,780 cells)", "z", ("layer", "head", "position"), False, 1.9, 600),
    Work("sweep pattern, 30 layers × 9 heads", "pattern", ("layer", "head"), False, 0.8, 100),
]


def measure(directory: Path, rounds: int) -> list[Row]:
    hf = Transformers(directory)
    lens = TransformerLens(directory, hf.model)
    with serve(directory) as client:
        model = client.model("smollm2-135m")
        metric = fs.metrics.logit_diff(" Mary", " John")
        ids, corrupt = model.tokenize(CLEAN), model.tokenize(CORRUPT)
        shuffled = random.Random(0).sample([i for i in range(1000, 40000) if i not in ids], len(ids))
        tokens = [model.tokenize(name)[0] for name in (" Mary", " John")]
        rows: list[Row] = []
        for work in WORKS:
            base = shuffled if work.all_differ else corrupt
            rows += _one(work, lens, model, ids, base, metric, tokens, rounds)
        rows.append(_fast(model, ids, shuffled, metric, rounds))
        rows.append(_attribution(model, metric, 4 * rounds))
        _plot_scaling(model, metric)
        return rows


def _fast(model: fs.Model, ids: list[int], base: list[int], metric: fs.metrics.Metric, rounds: int) -> Row:
    """Products in bfloat16 against float32, in turns, where all positions differ. What running cells again takes is taken off: the server says how long it was."""
    checks: list[float] = []

    def fast() -> float:
        start = time.perf_counter()
        check = model.sweep(ids, base, metric=metric, progress=False, precision="fast").precision
        assert check is not None
        checks.append(check.run_ms / 1e3)
        return time.perf_counter() - start - checks[-1]

    times = medians(alternate({"exact": lambda: void(model.sweep(ids, base, metric=metric, progress=False)), "fast": fast}, rounds))
    check = model.sweep(ids, base, metric=metric, progress=False, precision="fast").precision
    ratio = times["exact"] / times["fast"]
    why = ("this processor has a matrix unit (amx_bf16), and float32 products run on it too, each as six products of bfloat16 parts: what both sweeps do beside their products is a "
           "larger share of the shorter time. The goal was set against LibTorch's float32 products." if "amx_bf16" in features() else "")
    return Row("sweep resid_pre, all positions differ, precision \"fast\" (bfloat16 products), before its check", f"float32 {times['exact']:.3f} s",
               f"{times['fast']:.3f} s, the check of {len(check.cells)} cells {statistics.median(checks):.3f} s (they were off by at most {check.largest_difference:.2g}, where "
               f"changes are up to {check.largest_change:.2g})", ratio, "× faster than float32", "≥ 2.5", ratio >= 2.5, why)  # fmt: skip


def _attribution(model: fs.Model, metric: fs.metrics.Metric, rounds: int) -> Row:
    times = medians(alternate({
        "forward": lambda: void(model.run_with_cache(CORRUPT, names_filter=[], logits="last")),
        "ours": lambda: void(model.attribute(CLEAN, CORRUPT, "resid_pre", ("layer", "position"), metric)),
    }, rounds, warm_up=3))  # fmt: skip
    ratio = times["ours"] / times["forward"]
    return Row("attribution patching over all 420 resid_pre nodes", f"our 14-token forward {times['forward']:.4f} s", f"{times['ours']:.3f} s", ratio,
               "× a forward", "≤ 3.5", ratio <= 3.5)  # fmt: skip


def _one(work: Work, lens: TransformerLens, model: fs.Model, source: list[int], base: list[int], metric: fs.metrics.Metric, tokens: list[int], rounds: int) -> list[Row]:
    result = model.sweep(source, base, work.site, work.over, metric)
    cells = list(itertools.product(*(range(len(axis)) for axis in result.axes)))
    chosen = random.Random(1).sample(cells, LENS_CELLS)
    run_cell = _lens_cell(lens, work, source, base, tokens)
    lens_seconds: list[float] = []
    waiting = list(chosen)

    def some_cells() -> float:
        """A few cells a round, so that both sides meet the same machine."""
        for _ in range(min(len(waiting), -(-LENS_CELLS // rounds))):
            cell = waiting.pop()
            start = time.perf_counter()
            value = run_cell(cell)
            lens_seconds.append(time.perf_counter() - start)
            if abs(value - result.values[cell]) > 1e-3:  # a fast wrong answer does not count
                raise SystemExit(f"{work.name}: cell {cell} is {result.values[cell]} here and {value} in TransformerLens")
        return 0.0

    run_cell(chosen[0])
    product = torch.randn(2048, 2048)
    times = alternate({
        "ours": lambda: void(model.sweep(source, base, work.site, work.over, metric)),
        "peak": lambda: void(product @ product),
        "lens": some_cells,
    }, rounds)  # fmt: skip
    while waiting:
        some_cells()
    ours, lens_all = statistics.median(times["ours"]), statistics.median(lens_seconds) * len(cells)
    peak = 2 * 2048**3 / statistics.median(times["peak"])
    rows = [
        Row(work.name, f"TransformerLens {lens_all:,.1f} s ({LENS_CELLS} cells timed and scaled)", f"{ours:.3f} s", lens_all / ours, "× faster",
            f"≤ {work.seconds} s, ≥ {work.times} ×", ours <= work.seconds and lens_all >= work.times * ours)
    ]  # fmt: skip
    if work.all_differ:
        share = result.estimate.flops / ours / peak
        rows.append(Row("GEMM peak reached by that sweep, over the floating-point operations that remain", f"LibTorch's 2048³ product {peak / 1e9:.0f} GFLOP/s",
                        f"{result.estimate.flops / ours / 1e9:.0f} GFLOP/s", share, "of the peak", "≥ 0.65", share >= 0.65))  # fmt: skip
    return rows


def _lens_cell(lens: TransformerLens, work: Work, source: list[int], base: list[int], tokens: list[int]) -> Callable[[Cell], float]:
    """One cell as TransformerLens's patching module computes it: a whole forward with one hook."""
    site = {"resid_pre": "hook_resid_pre", "z": "attn.hook_z", "pattern": "attn.hook_pattern"}[work.site]
    cache = lens.cache(torch.tensor([source]), {f"blocks.{layer}.{site}" for layer in range(lens.model.cfg.n_layers)})
    batch = torch.tensor([base])

    @torch.no_grad()
    def run(cell: Cell) -> float:
        at = dict(zip(work.over, cell, strict=True))
        name = f"blocks.{at['layer']}.{site}"
        if work.site == "pattern":
            index = (slice(None), at["head"])
        elif work.site == "z":
            index = (slice(None), at.get("position", slice(None)), at["head"])
        else:
            index = (slice(None), at["position"])

        def put(value, hook):
            value[index] = cache[name][index]
            return value

        last = lens.model.run_with_hooks(batch, fwd_hooks=[(name, put)])[0, -1]
        return float(last[tokens[0]] - last[tokens[1]])

    return run


def _plot_scaling(model: fs.Model, metric: fs.metrics.Metric) -> None:
    """How the time of a resid_pre sweep in which all tokens differ grows with layers, positions and pairs."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    rng = np.random.default_rng(0)

    def prompt(length: int) -> list[int]:
        return [int(i) for i in rng.integers(1000, 40000, length)]

    def seconds(pairs: int, length: int, layers: int) -> float:
        clean, corrupt = [prompt(length) for _ in range(pairs)], [prompt(length) for _ in range(pairs)]
        times = alternate({"ours": lambda: void(model.sweep(clean, corrupt, "resid_pre", ("layer", "position"), metric, layers=range(layers)))}, 3)
        return medians(times)["ours"]

    curves = {
        "layers (14 positions, 1 pair)": ([1, 5, 10, 15, 20, 25, 30], lambda n: seconds(1, 14, n)),
        "positions (30 layers, 1 pair)": ([2, 4, 8, 14, 20, 28, 40], lambda n: seconds(1, n, 30)),
        "pairs (30 layers, 14 positions)": ([1, 2, 4, 8], lambda n: seconds(n, 14, 30)),
    }
    figure, plots = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for axes, (title, (sizes, time_of)) in zip(plots, curves.items(), strict=True):
        axes.plot(sizes, [time_of(n) for n in sizes], marker="o")
        axes.set(xlabel=title, ylim=(0, None), xlim=(0, None))
        axes.grid(alpha=0.3)
    plots[0].set_ylabel("seconds")
    figure.suptitle("resid_pre sweep on SmolLM2-135M where all tokens differ, over loopback", fontsize=11)
    figure.savefig(PLOT, metadata={"Date": None})
