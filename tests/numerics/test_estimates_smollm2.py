"""What the server estimates of gradient methods and path patching is what SmolLM2-135M's run then holds: never less, at most a quarter more.

Both numbers are the server's: the estimate in the reply's header, by which requests are admitted, and the most that its counting allocator saw.
tests/server/engine/grid_estimate_test.cc compares more methods, sites and architectures, on models with random weights.
"""

from __future__ import annotations

from collections.abc import Callable

import fluoroscope as fs
import numpy as np
import pytest

from .serving import Server

NAME = "smollm2-135m"
MOST_OVER = 1.25
SLACK = 1 << 20  # for whatever the run needs beside the ratio: index tensors and alike count as a fixed half MiB in every estimate
METRIC = fs.metrics.logit_diff([5], [17])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from fluoroscope.fetch import fetch

    running = Server({NAME: fetch(NAME)}, tmp_path_factory.mktemp("estimates"))
    with fs.connect(running.address) as client:
        yield client.model(NAME)
    running.stop()


def pair(length: int) -> tuple[list[int], list[int]]:
    """Two prompts that differ in two tokens behind the first quarter."""
    random = np.random.default_rng(length)
    clean = random.integers(100, 40_000, length).tolist()
    corrupt = list(clean)
    for position in (length // 4, length // 4 + 1):
        corrupt[position] = int(random.integers(100, 40_000))
    return clean, corrupt


def nodes(site: str, length: int, method: str, **options) -> Callable:
    return lambda model: model.attribute(*pair(length), site, ("layer", "position"), METRIC, method=method, **options)


def edges(length: int, method: str, **options) -> Callable:
    return lambda model: model.attribute_edges(*pair(length), metric=METRIC, method=method, **options)


def paths(receivers: object, length: int, senders: object = "heads", **options) -> Callable:
    return lambda model: model.path_patch(*pair(length), senders, receivers, METRIC, **options)


SITES = ["resid_pre", "z", "mlp_out", "pattern", "mlp_post"]
FEW = [(0, 1), (10, 2), (20, 5), ("mlp", 4)]
EARLY_AND_LATE = {"layers": [0, 29], "steps": 1}  # one place after the other is put on the way, so all layers take their time
HEARD: dict[str, object] = {
    "logits": "logits",
    **{letter: [(letter, layer, head) for layer in (12, 25) for head in range(3)] for letter in "qkv"},
    "mlps": [("mlp", layer) for layer in range(5, 30, 5)],
}
CASES = {
    **{f"atp, {site}, 16 tokens": nodes(site, 16, "atp") for site in SITES},
    **{f"atp, {site}, {n} tokens": nodes(site, n, "atp") for site, n in (("z", 64), ("pattern", 64), ("z", 256))},
    "gradient x input, mlp_post, 64 tokens": nodes("mlp_post", 64, "grad_x_input"),
    **{f"ig, {site}, {n} tokens": nodes(site, n, "ig", steps=1) for site, n in (("z", 16), ("mlp_post", 16), ("pattern", 64))},
    **{f"ig of activations, {site}, 16 tokens": nodes(site, 16, "ig_activations", **EARLY_AND_LATE) for site in ("z", "pattern")},
    **{f"qk fix, {site}, {n} tokens": nodes(site, n, "qk_fix") for site, n in (("q", 16), ("k", 64))},
    "atp*, z, 16 tokens": nodes("z", 16, "atp*"),
    **{f"atp, verified, {site}, {n} tokens": nodes(site, n, "atp", verify=5) for site, n in (("z", 16), ("pattern", 64))},
    "eap, verified": edges(16, "eap", verify=5),
    "eap, a few nodes, 64 tokens": edges(64, "eap", senders=FEW, receivers=["q", "mlps"]),
    "eap ig": edges(16, "eap_ig", steps=1, senders=["heads", "embed"], receivers=["v", "logits"]),
    "eap ig of activations": edges(16, "eap_ig_activations", steps=1, senders=[(0, 1), ("mlp", 20)], receivers=["v"]),
    "paths from all heads to the logits": paths("logits", 16),
    **{f"paths to {to}, {mlps}, {n} tokens": paths(HEARD[to], n, FEW, mlps=mlps)
       for to, mlps, n in (("logits", "freeze", 16), ("q", "recompute", 64), ("k", "freeze", 16), ("v", "recompute", 16), ("mlps", "recompute", 64),
                           ("mlps", "freeze", 16))},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_grids(model, case):
    got = CASES[case](model)
    estimate, seen = got.estimate.peak_bytes, got.timing.peak_bytes
    assert seen <= estimate <= MOST_OVER * seen + SLACK, f"{estimate / 2**20:.2f} MiB estimated, {seen / 2**20:.2f} seen: {estimate / seen:.2f}"


@pytest.mark.parametrize(("site", "length"), [("hook_resid_pre", 16), ("attn.hook_z", 16), ("attn.hook_pattern", 16), ("mlp.hook_post", 16),
                                               ("attn.hook_z", 256), ("attn.hook_pattern", 256)])  # fmt: skip
def test_captured_gradients(model, site, length):
    prompt, options = pair(length)[0], {"grad_of": METRIC, "logits": None, "layers": [0, 15, 29]}
    estimate = model.estimate(prompt, f"blocks.*.{site}", **options).peak_bytes
    seen = model.run_with_hooks(prompt, names_filter=f"blocks.*.{site}", **options).timing.peak_bytes
    assert seen <= estimate <= MOST_OVER * seen + SLACK, f"{estimate / 2**20:.2f} MiB estimated, {seen / 2**20:.2f} seen: {estimate / seen:.2f}"


def test_cells_that_are_verified_piece_by_piece_are_those_of_a_sweep(model):
    clean, corrupt = pair(16)
    sweep = model.sweep(clean, corrupt, "z", ("layer", "position"), METRIC)
    got = nodes("z", 16, "atp", verify=(120, 120))(model)
    estimate, seen, cells = got.estimate.peak_bytes, got.timing.peak_bytes, got.check.cells
    assert len(cells) == 240 and sweep.estimate.peak_bytes > estimate  # so they are not run in one piece
    assert seen <= estimate <= MOST_OVER * seen + SLACK
    np.testing.assert_allclose(got.check.exact.ravel()[cells], sweep.scores.ravel()[cells], rtol=0, atol=1e-4)
