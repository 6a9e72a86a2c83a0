"""What comes back is what was asked for: slices, reductions and logits on the server equal numpy on the whole."""

from __future__ import annotations

import numpy as np
import pytest

from .compare import TINY, assert_close
from .serving import ALL_LOGITS, capture, logits

ROWS = [[0, 17, 42, 250, 42, 7, 133, 299, 64, 5, 81], [5, 42, 7, 8, 9, 42]]
MODEL = "rope-bands-old"  # grouped queries: 4 heads, 2 key-value heads, 3 layers
WITH_HEADS = ["attn.hook_z", "attn.hook_q", "attn.hook_k", "attn.hook_pattern", "attn.hook_result"]


@pytest.fixture(scope="module")
def everything(server):
    return server.forward(MODEL, ROWS, captures=[capture("*")], logits=ALL_LOGITS)


def one(server, *args, **kwargs):
    return server.forward(MODEL, ROWS, captures=[capture(*args, **kwargs)])


@pytest.mark.parametrize(
    ("at", "indices"),
    [
        (3, [3]),
        (-1, [-1]),
        ("last", [-1]),
        ("all", slice(None)),
        (slice(1, 4), [1, 2, 3]),
        (slice(-2, None), [-2, -1]),
        ([5, 0, -6], None),
        ([0, 0, slice(0, 2)], [0, 1]),
    ],
)
def test_positions(server, everything, at, indices):
    site = "blocks.1.hook_resid_mid"
    result = one(server, site, at=at)
    for row, ids in enumerate(ROWS):
        chosen = sorted({0, 5, len(ids) - 6}) if indices is None else np.arange(len(ids))[indices].tolist()
        assert_close(result.get(site, row), everything.get(site, row)[chosen], TINY, f"row {row}")
        header = result.header(site, row)
        assert list(header.positions) == chosen
        assert list(header.token_ids) == [ids[p] for p in chosen]


def test_positions_of_a_token(server, everything):
    from fluoroscope._proto.v1 import plan_pb2

    site = "blocks.1.hook_resid_mid"
    asked = capture(site)
    asked.select.positions.items.add(occurrences_of=plan_pb2.TokenRef(id=42))
    result = server.forward(MODEL, ROWS, captures=[asked])
    for row, chosen in enumerate([[2, 4], [1, 5]]):
        assert list(result.header(site, row).positions) == chosen
        assert_close(result.get(site, row), everything.get(site, row)[chosen], TINY, f"row {row}")


@pytest.mark.parametrize("site", WITH_HEADS)
def test_heads(server, everything, site):
    name = f"blocks.2.{site}"
    axis = 0 if site.endswith("pattern") else 1
    for heads in ([1], [0, 1]):
        result = one(server, name, heads=heads)
        assert list(result.header(name).heads) == heads
        assert_close(result.get(name), everything.get(name).take(heads, axis), TINY, f"{site} heads {heads}")


@pytest.mark.parametrize("site", ["attn.hook_pattern", "attn.hook_attn_scores"])
def test_positions_of_patterns_are_queries(server, everything, site):
    name = f"blocks.0.{site}"
    assert_close(one(server, name, at=[2, -1]).get(name), everything.get(name)[:, [2, -1]], TINY, site)


def test_globs_layers_and_rows(server, everything):
    names = {h.name for h, _ in one(server, "blocks.*.hook_resid_p*").reply.tensors}
    assert names == {f"blocks.{layer}.hook_resid_{end}" for layer in range(3) for end in ("pre", "post")}
    names = {h.name for h, _ in one(server, ["blocks.?.ln1.hook_scale", "hook_embed"]).reply.tensors}
    assert names == {"hook_embed"} | {f"blocks.{layer}.ln1.hook_scale" for layer in range(3)}
    result = one(server, "blocks.*.hook_mlp_out", layers=[0, -1], rows=[1])
    assert [(h.name, h.row, h.layer) for h, _ in result.reply.tensors] == [("blocks.0.hook_mlp_out", 1, 0), ("blocks.2.hook_mlp_out", 1, 2)]
    for header, value in result.reply.tensors:
        assert_close(value, everything.get(header.name, 1), TINY, header.name)


def test_two_captures_of_one_site_keep_their_numbers(server, everything):
    site = "blocks.1.hook_mlp_out"
    result = server.forward(MODEL, ROWS, captures=[capture(site, at=0), capture(site, at=[1, 2])])
    assert_close(result.get(site, 0, capture=0), everything.get(site)[:1], TINY, "capture 0")
    assert_close(result.get(site, 0, capture=1), everything.get(site)[1:3], TINY, "capture 1")


@pytest.mark.parametrize("site", ["hook_resid_post", "mlp.hook_post", "attn.hook_z", "attn.hook_pattern"])
def test_reductions_equal_numpy(server, everything, site):
    name = f"blocks.1.{site}"
    rng = np.random.default_rng(1)
    for row in range(2):
        full = everything.get(name, row)
        by_query = site.endswith("pattern")
        assert_close(one(server, name, last=True).get(name, row), full[:, -1:] if by_query else full[-1:], TINY, f"{site} last")
        if by_query:
            continue  # its last axis depends on the row
        directions = rng.standard_normal((3, full.shape[-1])).astype(np.float32)
        assert_close(one(server, name, dot=directions).get(name, row), full @ directions.T, TINY, f"{site} dot")
        top = one(server, name, top_k=4)
        values, indices = top.get(name, row, part="values"), top.get(name, row, part="indices")
        assert indices.dtype == np.int64
        assert_close(values, np.sort(full, axis=-1)[..., ::-1][..., :4], TINY, f"{site} top values")
        assert_close(np.take_along_axis(full, indices, -1), values, TINY, f"{site} top indices")


def test_logits_by_position_column_and_row(server, everything):
    full = [everything.get("logits", row) for row in range(2)]
    last = server.forward(MODEL, ROWS, logits=logits())
    chosen = server.forward(MODEL, ROWS, logits=logits(at=[0, -2], tokens=[299, 0, 42], rows=[1]))
    for row in range(2):
        assert_close(last.get("logits", row), full[row][-1:], TINY, "last")
    assert [h.row for h, _ in chosen.reply.tensors] == [1]
    assert_close(chosen.get("logits", 1), full[1][[0, -2]][:, [299, 0, 42]], TINY, "chosen")


def test_top_k_with_log_probabilities(server, everything):
    result = server.forward(MODEL, ROWS, logits=logits(at="all", top_k=5))
    for row in range(2):
        full = everything.get("logits", row).astype(np.float64)
        log_probabilities = full - np.log(np.exp(full - full.max(-1, keepdims=True)).sum(-1, keepdims=True)) - full.max(-1, keepdims=True)
        tokens = result.get("top.tokens", row)
        assert tokens.shape == (len(ROWS[row]), 5)
        assert tokens.dtype == np.int64
        assert_close(result.get("top.logits", row), np.sort(full, -1)[:, ::-1][:, :5], TINY, "top logits")
        assert_close(np.take_along_axis(full, tokens, -1).astype(np.float32), result.get("top.logits", row), TINY, "tokens of the top")
        assert_close(result.get("top.logprobs", row), np.take_along_axis(log_probabilities, tokens, -1), TINY, "log-probabilities")
