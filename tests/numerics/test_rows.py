"""The row law: a row gives the same numbers alone and in any batch, and what is done to one row is not seen in another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .compare import ALONE, TINY, assert_close
from .serving import ALL_LOGITS, capture, copy

A = [0, 17, 42, 250, 42, 7, 133, 299, 64, 5, 81]
B = [5, 6, 7, 8, 9]
C = [0, 17, 42, 250, 42, 7, 133, 1, 2, 3, 4]
D = [0, 9, 8, 7, 250, 251, 31, 32, 33, 6, 5]
E = [0, 17, 42, 250, 42]
# Their sums do not depend on the other rows, whether the 32 lines of A, B, E and D are in a batch or the 21 of the first three (the same
# kernel does both); a library's may.
PRODUCTS_OF_OUR_OWN = "avx512f" in Path("/proc/cpuinfo").read_text()
MODELS = ["gqa-tied-sharded", "two", "mqa-head20", "rope-bands-new"]


@pytest.mark.parametrize("name", MODELS)
def test_alone_equals_in_a_batch(server, name):
    rows = [A, B, [3], C, A]
    together = server.forward(name, rows, captures=[capture("*")], logits=ALL_LOGITS)
    for row, ids in enumerate(rows):
        alone = server.forward(name, [ids], captures=[capture("*")], logits=ALL_LOGITS)
        assert_close(together.get("logits", row), alone.get("logits"), ALONE, f"{name} row {row} logits")
        for site, value in alone.sites().items():
            assert_close(together.sites(row)[site], value, ALONE, f"{name} row {row} {site}")


@pytest.mark.parametrize("name", MODELS)
def test_reading_one_row_leaves_the_bits_of_the_others_alone(server, name):
    """Scores and patterns of row 0 force it to explicit attention; row 1 must not notice."""
    plain = server.forward(name, [A, B, C], logits=ALL_LOGITS)
    looked_at = server.forward(name, [A, B, C], captures=[capture("*", rows=[0])], logits=ALL_LOGITS)
    for row in (1, 2):
        np.testing.assert_array_equal(looked_at.get("logits", row), plain.get("logits", row))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", ["hook_resid_pre", "attn.hook_z", "attn.hook_pattern", "mlp.hook_post"])
def test_editing_one_row_leaves_the_bits_of_the_others_alone(server, name, site):
    """Two requests that differ only in what is put into row 0."""

    def run(position):
        edit = copy(f"blocks.1.{site}", row=2, to=0, at=position)
        return server.forward(name, [A, B, C], interventions=[edit], captures=[capture("*", rows=[1, 2])], logits=ALL_LOGITS)

    first, second = run(8), run(9)
    assert not np.array_equal(first.get("logits", 0), second.get("logits", 0))
    for row in (1, 2):
        np.testing.assert_array_equal(first.get("logits", row), second.get("logits", row))
        for hook, value in first.sites(row).items():
            np.testing.assert_array_equal(second.sites(row)[hook], value, err_msg=hook)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", ["hook_resid_pre", "attn.hook_z", "attn.hook_pattern", "mlp.hook_post"])
def test_a_copy_leaves_the_bits_of_uninvolved_rows_alone(server, name, site):
    """The source runs in an earlier batch, so the others' batch is that of a request without it. The row law covers the difference to a request with
    it; alone (`isolated`) there is none."""

    def run(rows, copies, **how):
        edits = [copy(f"blocks.1.{site}", row=3, to=0, at=[4, 8])] if copies else []
        return server.forward(name, rows, interventions=edits, captures=[capture("*", rows=[1, 2])], logits=ALL_LOGITS, **how)

    copied, plain, without = run([A, B, E, D], True), run([A, B, E, D], False), run([A, B, E], False)
    assert np.abs(copied.get("logits", 0) - plain.get("logits", 0)).max() > 1e-3
    isolated = run([A, B, E, D], True, isolated=True), run([A, B, E, D], False, isolated=True)
    for row in (1, 2):
        for hook in ["logits", *plain.sites(row)]:
            np.testing.assert_array_equal(copied.get(hook, row), without.get(hook, row), err_msg=hook)
            np.testing.assert_array_equal(isolated[0].get(hook, row), isolated[1].get(hook, row), err_msg=hook)
            if PRODUCTS_OF_OUR_OWN:
                np.testing.assert_array_equal(copied.get(hook, row), plain.get(hook, row), err_msg=hook)
            else:
                assert_close(copied.get(hook, row), plain.get(hook, row), ALONE, hook)


@pytest.mark.parametrize("name", MODELS)
def test_isolated_rows_repeat_bit_for_bit(server, name):
    alone = server.forward(name, [A], captures=[capture("*")], logits=ALL_LOGITS, isolated=True)
    among = server.forward(name, [B, A, C], captures=[capture("*")], logits=ALL_LOGITS, isolated=True)
    np.testing.assert_array_equal(among.get("logits", 1), alone.get("logits"))
    for site, value in alone.sites().items():
        np.testing.assert_array_equal(among.sites(1)[site], value, err_msg=site)
    assert among.reply.header.provenance.isolated


@pytest.mark.parametrize("name", MODELS)
def test_identities_hold_at_every_layer(server, weights, name):
    w = weights(name)
    result = server.forward(name, [A], captures=[capture("*")], logits=ALL_LOGITS)
    get = result.sites().__getitem__
    for layer in range(len(w.layers)):
        at = f"blocks.{layer}"
        assert_close(get(f"{at}.hook_resid_pre") + get(f"{at}.hook_attn_out"), get(f"{at}.hook_resid_mid"), TINY, f"{at} resid_mid")
        assert_close(get(f"{at}.hook_resid_mid") + get(f"{at}.hook_mlp_out"), get(f"{at}.hook_resid_post"), TINY, f"{at} resid_post")
        if layer:
            np.testing.assert_array_equal(get(f"{at}.hook_resid_pre"), get(f"blocks.{layer - 1}.hook_resid_post"))
        pattern, v = get(f"{at}.attn.hook_pattern"), get(f"{at}.attn.hook_v").repeat(w.heads // w.kv_heads, axis=1)
        assert_close(pattern.sum(-1), np.ones(pattern.shape[:2], np.float32), TINY, f"{at} pattern's sum")
        assert_close(np.einsum("hqk,khd->qhd", pattern, v), get(f"{at}.attn.hook_z"), TINY, f"{at} z")
    final = get("ln_final.hook_normalized") * w.ln_final.weight.numpy()
    final = final if w.ln_final.bias is None else final + w.ln_final.bias.numpy()
    assert_close(result.get("logits"), final @ w.unembed.numpy(), TINY, "logits")
