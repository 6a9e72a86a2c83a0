"""Results leave the process: pickled, copied, as tables."""

from __future__ import annotations

import copy
import pickle

import fluoroscope as fs
import numpy as np
import pytest

CLEAN = "When John and Mary went to the shops, John gave the bag to"
CORRUPT = "When John and Mary went to the shops, Mary gave the bag to"
DIFF = fs.metrics.logit_diff(" Mary", " John")
READ = fs.metrics.readout(np.arange(576), site=("resid_mid", 3), positions=[-1, fs.occurrences(" Mary")])


def test_a_cache(model):
    _, cache = model.run_with_cache([CLEAN, "Mary"], ["blocks.*.hook_resid_pre"], positions=[-1], heads=(), logits=None)
    _, top = model.run_with_cache(CLEAN, ("z", 3), reduction=fs.TopK(2), heads=[3, 1], remove_batch_dim=True, logits=None)
    for made in (cache, top):
        back = pickle.loads(pickle.dumps(made))
        assert list(back) == list(made) and repr(back) == repr(made) and back.provenance == made.provenance and back.str_tokens == made.str_tokens
        assert [back.positions(name) for name in back] == [made.positions(name) for name in made]
    assert np.array_equal(back["z", 3].values, top["z", 3].values) and back.heads(("z", 3)) == (3, 1)
    twin = copy.deepcopy(cache)
    twin["resid_pre", 5][:] = 0
    assert cache["resid_pre", 5].any()


def test_a_copy_has_the_model_and_a_pickle_does_not(model):
    _, cache = model.run_with_cache(CLEAN, None, positions=-1)
    assert np.array_equal(copy.deepcopy(cache).stack_head_results(), cache.stack_head_results())
    back = pickle.loads(pickle.dumps(cache))
    assert np.array_equal(back.accumulated_resid(), cache.accumulated_resid())
    with pytest.raises(ValueError, match="no model to take weights from"):
        back.stack_head_results()


def test_a_run_and_a_sweep(model):
    run = model.run_with_hooks(CLEAN, metrics=[DIFF, READ], names_filter=("z", 2))
    back = pickle.loads(pickle.dumps(run))
    assert np.array_equal(back.logits, run.logits) and back.metrics["logit_diff"] == run.metrics[DIFF] and repr(back) == repr(run)
    sweep = model.sweep(CLEAN, CORRUPT, metric=[DIFF, fs.metrics.kl(CORRUPT)], layers=[3, 9])
    back, again = pickle.loads(pickle.dumps((sweep, DIFF)))
    assert np.array_equal(back[again].values, sweep[DIFF].values) and np.array_equal(back["kl"].values, sweep["kl"].values) and repr(back) == repr(sweep)
    assert np.array_equal(copy.deepcopy(sweep)[DIFF].values, sweep[DIFF].values)
    edges = model.attribute_edges(CLEAN, CORRUPT, "heads", "logits", DIFF)
    assert type(pickle.loads(pickle.dumps(edges))) is fs.PathResult and pickle.loads(pickle.dumps(edges)).top(3) == edges.top(3)


def test_a_metric_works_as_before(model):
    again = pickle.loads(pickle.dumps([DIFF, READ, fs.metrics.rank([" Mary"], per_prompt=True), fs.metrics.kl(CORRUPT)]))
    run = model.run_with_hooks(CLEAN, metrics=again, logits=None)
    same = model.run_with_hooks(CLEAN, metrics=[DIFF, READ, fs.metrics.rank([" Mary"], per_prompt=True), fs.metrics.kl(CORRUPT)], logits=None)
    assert run.provenance.plan_sha256 == same.provenance.plan_sha256
    assert {name: value.tolist() for name, value in run.metrics.items()} == {name: value.tolist() for name, value in same.metrics.items()}
    assert [repr(metric) for metric in again[:2]] == [repr(DIFF), repr(READ)] and copy.deepcopy(DIFF) is DIFF


def test_read_outs_and_traces(model):
    lens, parts = model.logit_lens(CLEAN, top_k=2), model.logit_attrs(CLEAN, " Mary", " John")
    assert repr(pickle.loads(pickle.dumps(lens))) == repr(lens) and repr(pickle.loads(pickle.dumps(parts))) == repr(parts)
    trace = model.causal_trace("The capital of France is", "France", seeds=2, layers=[3, 20])
    assert repr(pickle.loads(pickle.dumps(trace))) == repr(trace)
    frame = trace.to_pandas()
    assert list(frame.columns) == ["site", "layer", "position", "subject", "token", "probability of the clean answer", "normalized"]
    assert len(frame) == 3 * 2 * 5 and frame[frame.subject].token.unique().tolist() == [" France"]
    one = frame[(frame.site == "mlp_out") & (frame.layer == 20) & (frame.position == 3)]
    assert one["probability of the clean answer"].item() == trace.mlp_out.values[1, 3]
