"""Which heads, layers, positions and units: every way to write a number does, negative ones count from the last, and everything else is refused by name."""

import re

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope import indices, selections

torch = pytest.importorskip("torch")

Z = "blocks.5.attn.hook_z"
TEXT = "The capital of France is"
DIFF = fs.metrics.logit_diff(" Paris", " Rome")
MASK = "masks of booleans are not taken; give the numbers, np.flatnonzero(mask)"


@pytest.mark.parametrize("one", [3, np.int64(3), np.array(3), torch.tensor(3), np.uint8(3)])
def test_one_number(one):
    assert indices.is_int(one) and indices.as_ints(one) == (3,) and indices.whole(one, "x") == 3
    assert [item.index for item in selections.positions_message(one).items] == [3]
    assert [ref.id for ref in selections.token_refs(one)] == [3]
    there = fs.at(Z, heads=one, layers=one, units=one, rows=one)
    assert (there.heads, there.layers, there.units, there.rows) == ((3,), (3,), (3,), (3,))


@pytest.mark.parametrize("several", [[1, 3], (1, 3), np.array([1, 3]), torch.tensor([1, 3]), [torch.tensor(1), np.int8(3)], range(1, 4, 2)])
def test_several_numbers(several):
    assert indices.as_ints(several) == (1, 3)
    assert [item.index for item in selections.positions_message(several).items] == [1, 3]
    assert [ref.id for ref in selections.token_refs(several)] == [1, 3]


@pytest.mark.parametrize("what", ["heads", "layers", "units", "rows"])
@pytest.mark.parametrize(
    ("value", "why"),
    [(mask, MASK) for mask in (True, [True, False], np.array([True, False]), torch.tensor([True, False]), np.True_, torch.tensor(True))]
    + [("3", "is '3'; give a whole number or a list of them"), (1.5, "is 1.5; give"), ([1, 2.0], "2.0 is not a whole number"), (2**40, "1099511627776 is out of range"),
       (np.array([[1]]), "give a whole number or a list"), (torch.tensor(1.5), "give a whole number or a list")],
)  # fmt: skip
def test_what_is_no_number(what, value, why):
    with pytest.raises(ValueError, match=f"^{what}.*{re.escape(why)}"):
        fs.at(Z, **{what: value})


@pytest.mark.parametrize("mask", [[True, False], np.array([True, False]), torch.tensor([True, False])])
def test_positions_and_tokens_are_no_masks(mask):
    with pytest.raises(ValueError, match=f"positions: {re.escape(MASK)}"):
        selections.positions_message(mask)
    with pytest.raises(ValueError, match=f"tokens: {re.escape(MASK)}"):
        fs.metrics.prob(mask)


def test_negative_heads_and_units_count_from_the_last(model):
    _, cache = model.run_with_cache(TEXT, Z, logits=None)
    _, last = model.run_with_cache(TEXT, Z, heads=-1, logits=None)
    assert np.array_equal(last[Z], cache[Z][:, :, [8]])
    _, keys = model.run_with_cache(TEXT, ["blocks.0.attn.hook_k", "blocks.1.attn.hook_v"], heads=[-1], logits=None)  # three key-value heads
    assert keys.heads("blocks.0.attn.hook_k") == (2,)
    edited = {
        head: model.run_with_hooks(TEXT, [fs.zero(fs.at(Z, heads=head, units=unit))], logits="last").logits for head, unit in ((-1, -3), (8, 61))
    }
    assert np.array_equal(edited[-1], edited[8])
    with model.keep(TEXT, Z, heads=-2) as handle:
        assert handle.heads == (7,)
        with pytest.raises(ValueError, match="heads: -1 would count from the last one, but how many there are is not known here; give numbers from 0"):
            handle.numpy(heads=-1)
    with model.put(Z, np.ones((2, 1, 64)), heads=-1) as handle:
        assert handle.heads == (8,)
    direction = np.arange(64.0)
    values = [model.run_with_hooks(TEXT, metrics=[fs.metrics.readout(direction, site=Z, head=head)]).metrics["readout"] for head in (-1, 8)]
    assert values[0] == values[1]
    corrupt = "The capital of Italy is"
    grids = [model.sweep(TEXT, corrupt, "z", ("layer", "head"), DIFF, layers=5, heads=heads) for heads in ([7, 8], [-2, -1])]
    assert grids[0].axes == grids[1].axes and np.array_equal(grids[0].values, grids[1].values)
    paths = [model.path_patch(TEXT, corrupt, (np.int64(-2), head), ("k", -1, kv), DIFF, progress=False) for head, kv in ((-1, -1), (8, 2))]
    assert paths[0].axes == paths[1].axes and np.array_equal(paths[0].values, paths[1].values)


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda m: m.run_with_cache(TEXT, Z, heads=-10), "heads: -10 is out of range; there are 9 of blocks.5.attn.hook_z: 0 to 8, or -9 to -1"),
        (lambda m: m.run_with_cache(TEXT, ["blocks.0.attn.hook_z", "blocks.0.attn.hook_k"], heads=-1),
         "heads: -1 would count from the last one, but how many there are is not known here (blocks.{l}.attn.hook_k has 3, blocks.{l}.attn.hook_z has 9); give numbers from 0"),
        (lambda m: m.run_with_hooks(TEXT, [fs.zero(fs.at("blocks.5.attn.hook_pattern", units=-1))]),
         "units: -1 would count from the last one, but how many there are is not known here (blocks.{l}.attn.hook_pattern has as many as tokens)"),
        (lambda m: m.path_patch(TEXT, TEXT, [(5, -10)], "logits", DIFF), "senders: head: -10 is out of range; there are 9 of blocks.5.attn.hook_z"),
        (lambda m: m.path_patch(TEXT, TEXT, (5, 1), ("k", 6, -4), DIFF), "receivers: head: -4 is out of range; there are 3 of blocks.6.attn.hook_k"),
        (lambda m: m.attribute(TEXT, TEXT, metric=DIFF, method="ig", steps=-1), "steps is -1; it must be at least 1"),
        (lambda m: m.attribute(TEXT, TEXT, metric=DIFF, method="ig", steps=0), "steps is 0; it must be at least 1"),
        (lambda m: m.attribute(TEXT, TEXT, metric=DIFF, verify=-1), "verify is -1; it must be at least 0"),
        (lambda m: m.attribute(TEXT, TEXT, metric=DIFF, verify=(1, 2, 3)), "verify is (1, 2, 3); give a number, or a pair"),
        (lambda m: m.attribute_edges(TEXT, TEXT, metric=DIFF, steps=0), "steps is 0; it must be at least 1"),
        (lambda m: m.sweep(TEXT, TEXT, metric=DIFF, window=-1), "window is -1; it must be at least 1"),
        (lambda m: m.sweep(TEXT, TEXT, metric=DIFF, seed=-1), "seed is -1; it must be at least 0"),
        (lambda m: m.sweep(TEXT, TEXT, metric=DIFF, precision="fast", recheck=-1), "recheck is -1; it must be at least 0"),
        (lambda m: m.generate(TEXT, 1.5), "max_new_tokens is 1.5; it must be a whole number"),
        (lambda m: m.keep(TEXT, Z, ttl=-1), "ttl is -1; it must be at least 1"),
        (lambda m: fs.metrics.prob(-1), "token id -1 is out of range; ids count from 0"),
        (lambda m: fs.noise(Z, 1.0, seed=-1), "seed is -1; it must be at least 0"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_named(model, ask, why):
    with pytest.raises(ValueError) as caught:
        ask(model)
    assert why in str(caught.value)
