"""What is read comes back in the order in which it is asked for: positions, heads, logits, handles, metrics; against the whole, indexed by numpy."""

from __future__ import annotations

import fluoroscope as fs
import numpy as np
import pytest

from .compare import ALONE, assert_close

LONG = [0, 17, 42, 250, 42, 7, 133, 299, 64, 5, 81]
SHORT = [5, 42, 7, 8, 9, 42]
MODEL = "rope-bands-old"  # grouped queries: 4 heads, 2 key-value heads, 3 layers
SITES = ["blocks.1.hook_resid_mid", "blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern", "blocks.1.attn.hook_result"]


@pytest.fixture(scope="module")
def model(server):
    with fs.connect(server.address) as client:
        yield client.model(MODEL)


@pytest.fixture(scope="module")
def whole(model):
    return [model.run_with_cache(ids, SITES, remove_batch_dim=True) for ids in (LONG, SHORT)]


def expected(site: str, value: np.ndarray, positions, heads=None) -> np.ndarray:
    """By numpy, from all positions and heads."""
    positions = list(range(value.shape[1 if site.endswith("pattern") else 0])) if positions is None else positions
    if site.endswith("pattern"):
        return value[:, positions] if heads is None else value[heads][:, positions]
    return value[positions] if heads is None else value[positions][:, heads]


@pytest.mark.parametrize("positions", [[5, 0], [5, 0, -3], [-1, 0, 2], [4, 2, 3], np.array([3, 1])])
def test_positions_of_captures(model, whole, positions):
    _, cache = model.run_with_cache([LONG, SHORT], SITES, positions=positions, logits=None)
    for site in SITES:
        for row, (_, everything) in enumerate(whole):
            # The row law: both rows are one batch here, and were one each there.
            assert_close(cache[site][row], expected(site, everything[site], positions), ALONE, f"{site} row {row}")
        lengths = (len(LONG), len(SHORT))
        assert cache.positions(site) == tuple(tuple(p % length for p in map(int, positions)) for length in lengths)


@pytest.mark.parametrize("heads", [[3, 1], [2, 0, 3], [0, 2]])
@pytest.mark.parametrize("positions", [None, [4, -1, 0]])
def test_heads_of_captures(model, whole, heads, positions):
    _, cache = model.run_with_cache(LONG, SITES[1:], positions=positions, heads=heads, logits=None, remove_batch_dim=True)
    for site in SITES[1:]:
        np.testing.assert_allclose(cache[site], expected(site, whole[0][1][site], positions, heads), atol=2e-6, err_msg=site)
        assert cache.heads(site) == tuple(heads)


def test_reductions_and_gradients(model, whole):
    metric = fs.metrics.logit_diff(7, 8)
    site = "blocks.1.attn.hook_z"
    _, all_grad = model.run_with_cache(LONG, site, grad_of=metric, remove_batch_dim=True, logits=None)
    _, grad = model.run_with_cache(LONG, site, positions=[9, 2], heads=[3, 0], grad_of=metric, remove_batch_dim=True, logits=None)
    np.testing.assert_allclose(grad[site + "_grad"], all_grad[site + "_grad"][[9, 2]][:, [3, 0]], atol=1e-6)
    _, top = model.run_with_cache(LONG, site, positions=[9, 2], heads=[3, 0], reduction=fs.TopK(2), remove_batch_dim=True, logits=None)
    value = whole[0][1][site][[9, 2]][:, [3, 0]]
    np.testing.assert_allclose(top[site].values, np.sort(value, -1)[..., ::-1][..., :2], atol=2e-6)
    np.testing.assert_allclose(np.take_along_axis(value, top[site].indices, -1), top[site].values, atol=2e-6)


def test_logits(model, whole):
    logits, _ = model.run_with_cache([LONG, SHORT], (), logits=fs.Logits([-1, 0], [42, 7]))
    for row in range(2):
        np.testing.assert_allclose(logits[row], whole[row][0][[-1, 0]][:, [42, 7]], atol=2e-5)
    logits, _ = model.run_with_cache(SHORT, (), logits=[4, 1])
    np.testing.assert_allclose(logits[0], whole[1][0][[4, 1]], atol=2e-5)


def test_metrics(model, whole):
    metric = fs.metrics.logits(42, positions=[-1, 0, 3])
    start = fs.metrics.readout(np.ones(whole[0][1][SITES[0]].shape[-1]), site=("resid_mid", 1), positions=[2, 1])
    per_prompt = fs.metrics.logits([42, 7], per_prompt=True, positions=[3, 1], name="own")
    got = model.run_with_hooks([LONG, SHORT], metrics=[metric, start, per_prompt], logits=None).metrics
    for row, token in enumerate((42, 7)):
        np.testing.assert_allclose(got[metric][row], whole[row][0][[-1, 0, 3], 42], atol=2e-5)
        np.testing.assert_allclose(got[start][row], whole[row][1][SITES[0]][[2, 1]].sum(-1), atol=2e-5)
        np.testing.assert_allclose(got[per_prompt][row], whole[row][0][[3, 1], token], atol=2e-5)


def test_handles(model, whole):
    site = "blocks.1.attn.hook_z"
    with model.keep(LONG, site) as handle:
        value = whole[0][1][site]
        np.testing.assert_allclose(handle.numpy(positions=[9, 2], heads=[3, 0], units=[5, 1, 2]), value[[9, 2]][:, [3, 0]][..., [5, 1, 2]], atol=2e-6)
        np.testing.assert_allclose(handle.numpy(positions=[-1, 0]), value[[-1, 0]], atol=2e-6)
        with pytest.raises(ValueError, match="units has 1 twice"):
            handle.numpy(units=[1, 1])
    for chosen in ({"positions": [5, 1]}, {"positions": [-1, 0]}, {"heads": [3, 0]}):
        with pytest.raises(ValueError, match="must be written in ascending order, each once, because a handle has them in that order"):
            model.keep(LONG, site, **chosen)


def test_generation(model):
    site = "blocks.1.attn.hook_z"
    plain = model.generate(LONG, 3, names_filter=site)
    turned = model.generate(LONG, 3, names_filter=site, positions=[7, 2], heads=[2, 1])
    np.testing.assert_allclose(turned.cache[site][0], plain.cache[site][0][[7, 2]][:, [2, 1]], atol=2e-6)
    both = model.generate(LONG, 3, names_filter=site, heads=[2, 1])
    np.testing.assert_allclose(both.generated(site), plain.generated(site)[:, [2, 1]], atol=2e-6)


def test_a_prompt_that_begins_with_activations(model, whole):
    site = "blocks.1.hook_resid_mid"
    start = whole[0][1][site]
    got = model.run(start_at=site, value=start, names_filter="blocks.2.hook_resid_post", positions=[-1, 0], metrics=[fs.metrics.logits(42, positions=[-1, 3])])
    _, cache = model.run_with_cache(LONG, "blocks.2.hook_resid_post", remove_batch_dim=True, logits=None)
    np.testing.assert_allclose(got.cache["resid_post", 2][0], cache["resid_post", 2][[-1, 0]], atol=1e-5)
    np.testing.assert_allclose(got.metrics["logits"][0], whole[0][0][[-1, 3], 42], atol=2e-5)


def test_a_lens_has_its_positions_in_that_order(model):
    plain, turned = model.logit_lens(LONG, top_k=2), model.logit_lens(LONG, top_k=2, positions=[7, 2])
    assert turned.positions == (7, 2) and np.array_equal(turned.tokens, plain.tokens[:, [7, 2]])
    np.testing.assert_allclose(turned.logprobs, plain.logprobs[:, [7, 2]], atol=2e-5)


def test_what_is_kept_is_in_ascending_order_in_the_prompt_at_hand(model, whole):
    with model.keep(LONG, SITES[0], positions=[-10, 9]) as handle:  # 1 and 9 of 11
        np.testing.assert_allclose(handle.numpy(), whole[0][1][SITES[0]][[1, 9]], atol=2e-6)
    before = len(model._client.handles())
    with pytest.raises(ValueError, match=r"\[9, -10\] are not in prompt 0, which has 11 tokens"):
        model.keep(LONG, SITES[0], positions=[9, -10])
    assert len(model._client.handles()) == before


def test_a_union_is_in_ascending_order(model, whole):
    _, cache = model.run_with_cache(LONG, SITES[0], positions=[9, slice(0, 2)], logits=None, remove_batch_dim=True)
    assert cache.positions(SITES[0]) == ((0, 1, 9),)
    np.testing.assert_allclose(cache[SITES[0]], whole[0][1][SITES[0]][[0, 1, 9]], atol=2e-6)


def test_indices_that_meet_in_a_short_prompt_are_one(model, whole):
    """SHORT has 6 tokens, so that 5 and -1 are the same there."""
    metric = fs.metrics.prob(7, positions=[-1, 5])
    result = model.run_with_hooks([LONG, SHORT], metrics=[metric], logits=[-1, 5])
    _, cache = model.run_with_cache([LONG, SHORT], SITES[0], positions=[-1, 5], logits=None)
    last = len(LONG) - 1
    assert cache.positions(SITES[0]) == ((last, 5), (5,))
    np.testing.assert_allclose(cache[SITES[0]][1], whole[1][1][SITES[0]][[5]], atol=2e-6)
    assert [len(row) for row in result.logits] == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names_filter": SITES[0], "positions": [3, 3]}, r"positions has 3 twice: \[3, 3\]; give each once"),
        ({"names_filter": SITES[1], "heads": [1, 0, 1]}, "heads has 1 twice"),
        ({"logits": fs.Logits([2, 2])}, "positions has 2 twice"),
        ({"metrics": [fs.metrics.prob(7, positions=[1, 1])]}, "positions has 1 twice"),
        ({"metrics": [fs.metrics.kl(SHORT, positions=[4, 1], reference_positions=[1, 4])]}, "positions must be written in ascending order"),
        ({"metrics": [fs.metrics.kl(SHORT, positions=[1, 4], reference_positions=[-1, 1])]}, r"\(reference\)\.positions must be written in ascending order"),
    ],
)
def test_what_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.run_with_hooks([LONG, SHORT], **arguments)
