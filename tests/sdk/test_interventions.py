"""fs.zero, fs.at and the others: what they say to the server, and what they do on SmolLM2."""

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope.requests import build
from google.protobuf import text_format

CLEAN = "When John and Mary went to the shops, John gave the bag to"
CORRUPT = "When John and Mary went to the shops, Mary gave the bag to"
DIFF = fs.metrics.logit_diff(" Mary", " John")


def text(message) -> str:
    return " ".join(text_format.MessageToString(message, as_one_line=True).split())


def only(intervention, prompts="x"):
    return build("m", prompts, interventions=[intervention], layers=30).request.interventions[0]


@pytest.mark.parametrize(
    ("made", "kind", "shown"),
    [
        (fs.zero("s.x"), "zero { }", "zero('s.x')"),
        (fs.scale("s.x", 2), "scale { factor: 2.0 }", "scale('s.x', 2)"),
        (fs.noise("s.x", 0.5, seed=3), "noise { stddev: 0.5 seed: 3 }", "noise('s.x', 0.5, seed=3)"),
        (fs.interpolate("s.x", 0.25, source="y"), "interpolate { source { row: 1 } weight: 0.25 }", "interpolate('s.x', 0.25, source='y')"),
        (fs.mean("s.x", ["y", "z"], positions=[1]), "mean { of_rows { rows: 1 rows: 2 positions { items { index: 1 } } } }", "mean('s.x', reference=['y', 'z'])"),
        (fs.resample("s.x", ["y", "z"], seed=4), "resample { rows: 1 rows: 2 seed: 4 }", "resample('s.x', ['y', 'z'], seed=4)"),
        (fs.freeze("s.x"), "copy { row: 1 }", "freeze('s.x')"),
        (fs.patch(fs.at("s.x", positions=0), source="y"), "copy { row: 1 }", "patch(at('s.x', positions=0), source='y')"),
    ],
)
def test_kinds(made, kind, shown):
    message = only(made)
    assert text(message).endswith("} " + kind) and repr(made) == shown
    assert list(message.select.sites) == ["s.x"] and list(message.select.rows) == [0]


def test_tensors_go_as_float32():
    value = np.arange(6, dtype=np.float64).reshape(2, 3)
    for message in (only(fs.set("s.x", value)).set.value, only(fs.mean("s.x", value=value)).mean.value, only(fs.add("s.x", value, 2)).add.value):
        assert list(message.shape) == [2, 3]
        np.testing.assert_array_equal(np.frombuffer(message.data, "<f4").reshape(2, 3), value)
    assert only(fs.add("s.x", value, 2)).add.scale == 2
    assert list(only(fs.set("s.x", 0)).set.value.shape) == []
    assert list(only(fs.project_out("s.x", [1, 2, 3])).project_out.directions.shape) == [1, 3]
    swap = only(fs.swap_subspace("s.x", value, source="y", source_positions=[2])).swap_subspace
    assert list(swap.directions.shape) == [2, 3] and swap.source.row == 1 and swap.source.positions.items[0].index == 2


def test_a_part_of_a_hook_point():
    chosen = fs.at(("z", -1), positions=[-1], heads=3, units=[1, 2], rows=[1])
    assert repr(chosen) == "at(('z', -1), positions=[-1], heads=[3], units=[1, 2], rows=[1])"
    message = only(fs.zero(chosen), ["x", "y"])
    assert text(message.select) == "sites: 'blocks.29.attn.hook_z' positions { items { index: -1 } } heads: 3 rows: 1 units: 1 units: 2".replace("'", '"')
    plan = build("m", ["x", "y"], interventions=[fs.zero(fs.at("s.x", positions=[[0], []])), fs.freeze("s.x")])
    assert [list(edit.select.rows) for edit in plan.request.interventions] == [[0], [0], [1]]
    assert [prompt.text for prompt in plan.request.prompts] == ["x", "y", "x", "y"], "what freezing reads runs without interventions"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: fs.mean("s"), "either reference prompts, a value or a handle"),
        (lambda: fs.mean("s", "x", value=1), "either reference prompts, a value or a handle"),
        (lambda: fs.patch(fs.at("s"), source="x", positions=1), "not to both"),
        (lambda: only(fs.zero(fs.at("s.x", rows=2))), "there are 1 prompts"),
        (lambda: only(fs.interpolate("s.x", 1, source=["a", "b"])), "2 sources for 1 prompts"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_sent(make, why):
    with pytest.raises(ValueError, match=why):
        make()


def test_metrics_that_compare_bring_their_reference():
    plan = build("m", ["x", "y"], metrics=[fs.metrics.kl(), fs.metrics.l2("z", name="far"), fs.metrics.js(["x", "w"], positions=[0], reference_positions=[1])])
    assert [prompt.text for prompt in plan.request.prompts] == ["x", "y", "x", "y", "z", "w"]
    assert [(m.name, list(m.rows)) for m in plan.request.metrics][:3] == [("kl/0", [0]), ("kl/1", [1]), ("far/0", [0])]
    assert [getattr(m, m.WhichOneof("kind")).row for m in plan.request.metrics] == [2, 3, 4, 4, 2, 5]
    assert plan.request.metrics[4].js.positions.items[0].index == 1


def test_every_kind_on_a_real_model(model):
    """Each changes the answer, and what must not change it does not."""
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(576).astype(np.float32)
    site, head = "blocks.12.hook_resid_pre", fs.at("blocks.15.attn.hook_z", heads=[3])

    def run(*edits) -> float:
        return float(model.run_with_hooks(CLEAN, edits, metrics=[DIFF], logits=None).metrics[DIFF][0])

    plain = run()
    changing = [
        fs.zero("blocks.12.hook_mlp_out"), fs.set(fs.at(site, positions=[-1]), vector), fs.add(site, vector, 3), fs.scale("blocks.12.hook_attn_out", 3),
        fs.mean("blocks.20.hook_attn_out", [CORRUPT, "Once upon a time"]), fs.mean("blocks.3.hook_mlp_out", value=0.1), fs.interpolate(site, 0.5, source=CORRUPT),
        fs.resample(site, [CORRUPT, CORRUPT], seed=1), fs.project_out(fs.at("blocks.*.hook_resid_post", layers=range(5, 20)), rng.standard_normal((20, 576))),
        fs.swap_subspace(site, rng.standard_normal((200, 576)), source=CORRUPT), fs.noise(site, 2, seed=5), fs.zero(fs.at("blocks.*.attn.hook_z", heads=[0])),
    ]  # fmt: skip
    for edit in changing:
        assert abs(run(edit) - plain) > 5e-3, edit
    for edit in [fs.scale(site, 1), fs.add(head, 0), fs.noise(head, 0, seed=1), fs.freeze(site), fs.interpolate(site, 0, source=CORRUPT)]:
        assert run(edit) == pytest.approx(plain, abs=2e-4), edit
    assert run(fs.noise(site, 2, seed=5)) == pytest.approx(run(fs.noise(site, 2, seed=5)), abs=2e-4)
    assert run(fs.add(site, vector, 3), fs.freeze("blocks.12.hook_resid_post")) == pytest.approx(plain, abs=2e-4), "frozen behind the edit"


def test_metrics_on_a_real_model(model):
    every = [fs.metrics.logits(" Mary"), fs.metrics.prob(" Mary"), fs.metrics.logprob([" Mary", " John"]), fs.metrics.cross_entropy(),
             fs.metrics.cross_entropy(" Mary", name="nll"), fs.metrics.kl(), fs.metrics.js(), fs.metrics.l2(), fs.metrics.rank(" Mary"),
             fs.metrics.readout(np.ones(576))]  # fmt: skip
    got = model.run_with_hooks([CLEAN, CORRUPT], [fs.zero("blocks.20.hook_mlp_out")], metrics=every, logits="all")
    assert list(got.metrics) == ["logits", "prob", "logprob", "cross_entropy", "nll", "kl", "js", "l2", "rank", "readout"]
    plain, _ = model.run_with_cache([CLEAN, CORRUPT], (), logits="last")
    ids = np.array(got.cache.tokens)
    mary, john = model.tokenize(" Mary")[0], model.tokenize(" John")[0]
    for row in range(2):
        x = got.logits[row].astype(np.float64)
        log_p = x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)
        y = plain[row, -1].astype(np.float64)
        log_q = y - np.log(np.exp(y - y.max()).sum()) - y.max()
        expected = {
            "logits": x[-1, mary], "prob": np.exp(log_p[-1, mary]), "logprob": np.log(np.exp(log_p[-1, [mary, john]]).sum()), "nll": -log_p[-1, mary],
            "kl": (np.exp(log_q) * (log_q - log_p[-1])).sum(), "l2": np.linalg.norm(x[-1] - y), "rank": 1 + (x[-1] > x[-1, mary]).sum(),
        }  # fmt: skip
        for name, value in expected.items():
            assert got.metrics[name][row] == pytest.approx(value, abs=0.05 if name == "l2" else 5e-4), name
        np.testing.assert_allclose(got.metrics["cross_entropy"][row], -log_p[np.arange(13), ids[row, 1:]], atol=5e-4)
        assert 0 < got.metrics["js"][row] < got.metrics["kl"][row]
    assert got.metrics["cross_entropy"].shape == (2, 13)


def test_subspace_effects_on_a_real_model(model):
    """SmolLM2's W_out reads 576 of the 1,536 dimensions of hook_post: a random direction lies mostly in what it does not read."""
    rng = np.random.default_rng(3)
    place = fs.at("blocks.14.mlp.hook_post", positions=-1)
    prob = fs.metrics.prob([[" Mary"], [" John"]], name="own")
    effects = model.subspace_effects([CLEAN, CORRUPT], place, rng.standard_normal((100, 1536)), source=[CORRUPT, CLEAN], metrics=[DIFF, prob])
    plain, whole, row_space, null_space = (run[DIFF] for run in (effects.plain, effects.whole, effects.row_space, effects.null_space))
    assert plain.shape == (2,) and effects.plain[prob].shape == (2,)
    assert plain[0] == pytest.approx(3.12, abs=0.01)
    np.testing.assert_allclose(null_space, plain, atol=2e-4)
    assert (np.abs(row_space - plain) > 1e-3).all() and (np.abs(whole - plain) > 1e-4).all()
    single = model.run_with_hooks(CLEAN, [fs.swap_subspace(place, rng.standard_normal((3, 1536)), source=CORRUPT, part="null_space")], metrics=[DIFF])
    assert single.metrics[DIFF][0] == pytest.approx(plain[0], abs=2e-4)
    with pytest.raises(fs.InvalidArgumentError, match="no single matrix reads"):
        model.subspace_effects(CLEAN, "blocks.14.hook_resid_pre", np.ones(576), source=CORRUPT, metrics=[DIFF])
    with pytest.raises(ValueError, match="'whole', 'row_space', 'null_space'"):
        fs.swap_subspace(place, np.ones(1536), source=CORRUPT, part="rows")


def test_runs_that_begin_in_the_middle(model):
    whole = model.run_with_hooks(CLEAN, metrics=[DIFF], names_filter=["blocks.7.hook_resid_pre", "blocks.*.hook_resid_post"])
    value = whole.cache["blocks.7.hook_resid_pre"]
    out = model.run(start_at="blocks.7.hook_resid_pre", value=value, metrics=[DIFF], names_filter=lambda name: name.endswith("resid_post"))
    assert out.metrics[DIFF] == pytest.approx(whole.metrics[DIFF], abs=2e-4)
    assert list(out.cache) == [f"blocks.{layer}.hook_resid_post" for layer in range(7, 30)]
    np.testing.assert_allclose(out.cache["resid_post", 29], whole.cache["resid_post", 29], atol=0.02)
    # One prompt without a batch axis, several of unequal length, with tokens; and as a source that another run is patched from.
    one = model.run(start_at=("resid_pre", 7), value=value[0], metrics=[DIFF], logits=None)
    assert one.metrics[DIFF] == pytest.approx(whole.metrics[DIFF], abs=2e-4)
    ids = model.tokenize(CLEAN)
    two = model.run(start_at=("resid_pre", 7), value=[value[0], value[0, :9]], tokens=[ids, ids[:9]], metrics=[fs.metrics.cross_entropy()], logits=None)
    assert two.metrics["cross_entropy"].shape == (2, 13) and np.isnan(two.metrics["cross_entropy"][1, 8:]).all()
    np.testing.assert_allclose(two.metrics["cross_entropy"][1, :8], two.metrics["cross_entropy"][0, :8], atol=5e-4)
    patched = model.run_with_hooks(CORRUPT, [fs.patch("blocks.7.hook_resid_pre", source=fs.Start("blocks.7.hook_resid_pre", value[0]))], metrics=[DIFF])
    assert patched.metrics[DIFF] == pytest.approx(whole.metrics[DIFF], abs=2e-4)
    with pytest.raises(fs.InvalidArgumentError, match="which lies in front of it"):
        model.run(start_at="blocks.7.hook_resid_pre", value=value, names_filter="hook_embed")
    with pytest.raises(ValueError, match="positions, d_model"):
        model.run(start_at="blocks.7.hook_resid_pre", value=value[0, 0])
