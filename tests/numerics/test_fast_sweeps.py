"""Sweeps with precision="fast": against a reference whose matrix products are rounded one by one, and what the reply says of itself."""

from __future__ import annotations

import fluoroscope as fs
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from .compare import TINY
from .reference import Trace, Weights, trace

CLEAN, CORRUPT = [0, 17, 42, 9, 42, 8, 133, 299], [0, 17, 42, 250, 42, 7, 133, 299]
DIFF = fs.metrics.logit_diff(5, 17)
LOGIT = fs.metrics.logits(40)


def half(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().to(x.dtype)


class HalfProducts(TorchFunctionMode):
    """Products with a block's matrix: inputs and result rounded to bfloat16."""

    def __init__(self, w: Weights) -> None:
        super().__init__()
        self.matrices = {id(m) for layer in w.layers for m in (layer.w_q, layer.w_k, layer.w_v, layer.w_gate, layer.w_in, layer.w_out) if m is not None}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.matmul, torch.Tensor.__matmul__) and id(args[1]) in self.matrices:
            return half(func(half(args[0]), half(args[1])))
        return func(*args, **(kwargs or {}))


def half_trace(w: Weights, ids: list[int], put=lambda name, value: value) -> Trace:
    """Like `trace`, in float64 but for those products."""
    z: list[torch.Tensor] = []

    def edit(name: str, value: torch.Tensor) -> torch.Tensor:
        if name.endswith("hook_attn_out"):  # the reference adds up heads; a server has one product
            layer = w.layers[int(name.split(".")[1])]
            value = half(half(z.pop().flatten(1)) @ half(layer.w_o.reshape(-1, value.shape[-1])))
            if layer.b_o is not None:
                value = value + layer.b_o
        value = put(name, value)
        if name.endswith("hook_z"):
            z.append(value)
        return value

    with HalfProducts(w):
        return trace(w, ids, edit)


def slow(run, w: Weights, site: str, layers: int) -> np.ndarray:
    """[layer, position, metric], each a whole run with that one place patched."""
    source = run(w, CLEAN)
    values = np.zeros((layers, len(CLEAN), 2))
    for layer in range(layers):
        name = f"blocks.{layer}.{site}"
        for p in range(len(CLEAN)):

            def put(at, value, name=name, p=p):
                return torch.cat([value[:p], source.sites[name][p : p + 1], value[p + 1 :]]) if at == name else value

            last = run(w, CORRUPT, put).logits[-1]
            values[layer, p] = float(last[5] - last[17]), float(last[40])
    return values


@pytest.mark.parametrize("site", ["hook_resid_pre", "hook_attn_out", "hook_mlp_out", "mlp.hook_pre", "mlp.hook_post"])
@pytest.mark.parametrize("name", ["gqa-tied-sharded", "biases", "two", "two-inner-relu"])
def test_against_rounded_products(client, exact, name, site):
    w = exact(name)
    got = client.model(name).sweep(CLEAN, CORRUPT, site, ("layer", "position"), [DIFF, LOGIT], precision="fast", recheck=(3, 4), seed=5)
    values = np.stack([got[metric].values for metric in (DIFF, LOGIT)], -1)
    rounded, unrounded = slow(half_trace, w, site, 3), slow(trace, w, site, 3)
    # Rounding is a step: sums in another order put a few numbers on its other side, each off by 2^-8 of itself. So it cannot be equal
    # to rounding, but must be much nearer to the reference that rounds than that is to the one that does not.
    by_rounding = np.abs(rounded - unrounded)
    assert by_rounding.max() > 20 * TINY
    off = np.abs(values - rounded)
    assert off.max() < 0.5 * by_rounding.max() and off.mean() < 0.25 * by_rounding.mean(), (off.max(), by_rounding.max(), off.mean(), by_rounding.mean())
    # The cells that were run again are the slow ones, and the reply says how far off the others were.
    for m, metric in enumerate((DIFF, LOGIT)):
        check = got[metric].precision
        cells = check.cells
        assert 4 <= len(cells) <= 10 and (np.diff(cells) > 0).all()
        again = check.exact.ravel()
        assert np.isfinite(again[cells]).all() and np.isnan(again).sum() == again.size - len(cells)
        np.testing.assert_allclose(again[cells], unrounded[..., m].ravel()[cells], atol=TINY)
        assert check.largest_difference == pytest.approx(np.abs(again[cells] - values[..., m].ravel()[cells]).max(), abs=1e-12)
        base = float(trace(w, CORRUPT).logits[-1][40]) if metric is LOGIT else None
        if base is not None:
            assert check.largest_change == pytest.approx(np.abs(again[cells] - base).max(), abs=TINY)
        farthest = np.argsort(-np.abs(values[..., m].ravel() - got[metric].base.mean()))[:3]
        assert set(farthest) <= set(cells)
    assert got.provenance.dtype.endswith("matrix products in bfloat16")


def test_pairs_and_a_whole_recheck(client):
    """Where every cell is run again, the exact ones are the sweep itself; with several pairs the check is over all of them."""
    model = client.model("gqa-tied-sharded")
    clean, corrupt = [CLEAN, [5, 6, 7, 8]], [CORRUPT, [5, 9, 7, 8]]
    plain = model.sweep(clean, corrupt, "z", ("layer", "head"), DIFF)
    fast = model.sweep(clean, corrupt, "z", ("layer", "head"), DIFF, precision="fast", recheck=(4096, 0))
    assert len(fast.precision.cells) == plain.values.size
    np.testing.assert_array_equal(fast.precision.exact, plain.values)
    assert fast.precision.largest_difference >= np.abs(fast.values - plain.values).max() > 0
    assert plain.precision is None and plain.provenance.dtype == "f32"
    assert "off by at most" in repr(fast.precision)
    # The same every time: the copies of the weights are made once.
    again = model.sweep(clean, corrupt, "z", ("layer", "head"), DIFF, precision="fast", recheck=(4096, 0))
    np.testing.assert_array_equal(again.values, fast.values)


@pytest.mark.parametrize("site", ["mlp.hook_pre", "mlp.hook_post", "attn.hook_result"])
def test_looking_inside_changes_nothing(client, site):
    """At sites for which the fused products are not used."""
    model = client.model("gqa-tied-sharded")
    kind = {"over": ("layer", "head")} if site == "attn.hook_result" else {"over": ("layer", "position")}
    with pytest.warns(fs.FluoroscopeWarning, match="same tokens"):
        same = model.sweep(CLEAN, CLEAN, site, metric=DIFF, precision="fast", **kind)
    assert np.abs(same.values - same.base[0]).max() == 0


def test_bad_requests(client):
    model = client.model("gqa-tied-sharded")
    ask = dict(site="resid_pre", over=("layer",), metric=DIFF)
    with pytest.raises(fs.InvalidArgumentError, match="recheck.top is 5000; at most 4096"):
        model.sweep(CLEAN, CORRUPT, **ask, precision="fast", recheck=(5000, 0))
    with pytest.raises(fs.InvalidArgumentError, match="neither top nor random"):
        model.sweep(CLEAN, CORRUPT, **ask, precision="fast", recheck=0)
    with pytest.raises(ValueError, match="'quick' is not one of"):
        model.sweep(CLEAN, CORRUPT, **ask, precision="quick")
    with pytest.raises(fs.InvalidArgumentError, match="grid.precision"):
        model.attribute(CLEAN, CORRUPT, **ask, precision="fast")
