"""Copying from one row into another equals the reference with its value replaced by hand, at every hook point that can be edited."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .compare import TINY, assert_close
from .reference import Trace, Weights, trace
from .serving import ALL_LOGITS, capture, copy, logit_difference

CLEAN = [0, 17, 42, 250, 42, 7, 133, 299, 64, 5, 81]
CORRUPT = [0, 17, 42, 9, 42, 8, 133, 299, 64, 5, 81]
MODELS = ["gqa-tied-sharded", "biases", "two", "mha"]


def patched(w: Weights, site: str, source: Trace, positions: list[int], heads: list[int] | None = None, ids=CORRUPT, source_positions=None) -> Trace:
    """The reference's run of `ids` with the source's values at `site`, at these positions (queries, for scores and patterns) and heads."""

    def edit(name: str, value: torch.Tensor) -> torch.Tensor:
        if name != site:
            return value
        value, new = value.clone(), source.sites[name]
        by_query = site.endswith(("attn_scores", "pattern"))
        for to, taken in zip(positions, source_positions or positions, strict=True):
            if by_query:
                value[heads if heads is not None else slice(None), to] = new[heads if heads is not None else slice(None), taken]
            elif heads is not None:
                value[to, heads] = new[taken, heads]
            else:
                value[to] = new[taken]
        return value

    return trace(w, ids, edit)


def editable(server, name: str) -> list[str]:
    return [site.name for site in server.sites(name).values() if site.editable and not site.unavailable_because]


@pytest.mark.parametrize("name", MODELS)
def test_patching_every_site_equals_the_reference(server, weights, name):
    w = weights(name)
    clean, corrupt = trace(w, CLEAN), trace(w, CORRUPT)
    sites = editable(server, name)
    assert {"blocks.{l}.hook_resid_pre", "blocks.{l}.attn.hook_z", "blocks.{l}.attn.hook_pattern", "blocks.{l}.hook_mlp_out"} <= set(sites)
    moved = 0
    for pattern in sites:
        site = pattern.replace("{l}", "1")
        for at in ([5], [3, 5, 10]):
            expected = patched(w, site, clean, at)
            result = server.forward(name, [CLEAN, CORRUPT], interventions=[copy(site, row=0, to=1, at=at)], logits=ALL_LOGITS)
            assert_close(result.get("logits", 1), expected.logits, TINY, f"{name} {site} at {at}")
            assert_close(result.get("logits", 0), clean.logits, TINY, f"{name} {site}: the source itself")
            moved += not torch.allclose(expected.logits, corrupt.logits, atol=1e-3)
    # Most of these patches must change the answer, or the test would pass without any patch.
    assert moved > len(sites)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", ["blocks.0.attn.hook_z", "blocks.1.attn.hook_v", "blocks.1.attn.hook_pattern"])
def test_heads_of_a_patch(server, weights, name, site):
    w = weights(name)
    expected = patched(w, site, trace(w, CLEAN), list(range(len(CORRUPT))), heads=[1])
    result = server.forward(name, [CLEAN, CORRUPT], interventions=[copy(site, row=0, to=1, heads=[1])], logits=ALL_LOGITS)
    assert_close(result.get("logits", 1), expected.logits, TINY, f"{name} {site} head 1")


def test_other_positions_of_the_source(server, weights):
    w = weights("two")
    site = "blocks.1.hook_resid_pre"
    expected = patched(w, site, trace(w, CLEAN), [5, 6], source_positions=[0, 3])
    edit = copy(site, row=0, to=1, at=[5, 6], source_at=[0, 3])
    result = server.forward("two", [CLEAN, CORRUPT], interventions=[edit], logits=ALL_LOGITS)
    assert_close(result.get("logits", 1), expected.logits, TINY, "shifted source")


def test_captures_see_the_edit(server, weights):
    w = weights("mha")
    clean = trace(w, CLEAN)
    site = "blocks.1.hook_resid_pre"
    expected = patched(w, site, clean, [5])
    result = server.forward("mha", [CLEAN, CORRUPT], interventions=[copy(site, row=0, to=1, at=5)], captures=[capture("*", rows=[1])])
    for name, value in expected.sites.items():
        assert_close(result.get(name, 1), value, TINY, name)


def test_interventions_act_in_the_order_given(server, weights):
    """Two edits of the same place: the later one wins."""
    w = weights("mha")
    other = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    site = "blocks.1.hook_resid_pre"
    edits = [copy(site, row=0, to=1, at=5), copy(site, row=2, to=1, at=5)]
    for order, winner in ((edits, other), (edits[::-1], CLEAN)):
        expected = patched(w, site, trace(w, winner), [5])
        result = server.forward("mha", [CLEAN, CORRUPT, other], interventions=order, logits=ALL_LOGITS)
        assert_close(result.get("logits", 1), expected.logits, TINY, "the last edit")


def test_a_source_may_be_an_edited_row(server, weights):
    """Row 1 is edited from row 0, and row 2 takes from the edited row 1: a later layer has seen the first edit."""
    w = weights("gqa-tied-sharded")
    other = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    middle = patched(w, "blocks.0.hook_resid_pre", trace(w, CLEAN), [5])
    expected = patched(w, "blocks.2.hook_resid_pre", middle, [7, 10], ids=other)
    edits = [copy("blocks.0.hook_resid_pre", row=0, to=1, at=5), copy("blocks.2.hook_resid_pre", row=1, to=2, at=[7, 10])]
    result = server.forward("gqa-tied-sharded", [CLEAN, CORRUPT, other], interventions=edits, logits=ALL_LOGITS)
    assert_close(result.get("logits", 2), expected.logits, TINY, "row 2")


def test_logit_difference(server, weights):
    w = weights("two")
    site = "blocks.1.hook_resid_pre"
    expected = patched(w, site, trace(w, CLEAN), [5]).logits
    metrics = [
        logit_difference([42], [17], rows=[1]),
        logit_difference([1, 2, 3], [4, 5], name="lists", rows=[1], at=[0, -1]),
    ]
    result = server.forward("two", [CLEAN, CORRUPT], interventions=[copy(site, row=0, to=1, at=5)], metrics=metrics)
    assert result.metric() == {(1, 10): pytest.approx(float(expected[10, 42] - expected[10, 17]), abs=TINY)}
    lists = {(1, p): pytest.approx(float(expected[p, [1, 2, 3]].mean() - expected[p, [4, 5]].mean()), abs=TINY) for p in (0, 10)}
    assert result.metric("lists") == lists


def test_patching_with_itself_changes_nothing(server):
    plain = server.forward("two", [CLEAN, CLEAN], logits=ALL_LOGITS)
    same = server.forward("two", [CLEAN, CLEAN], interventions=[copy("blocks.1.hook_resid_pre", row=0, to=1)], logits=ALL_LOGITS)
    assert np.abs(plain.get("logits", 1) - same.get("logits", 1)).max() <= TINY
