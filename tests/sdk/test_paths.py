"""model.path_patch and model.causal_trace: what they ask for, their results and pictures, and SmolLM2's indirect objects."""

from __future__ import annotations

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope import paths
from fluoroscope.path_order import can_exist
from fluoroscope.results import ModelInfo

CLEAN = "When John and Mary went to the shops, John gave the bag to"
CORRUPT = "When John and Mary went to the shops, Mary gave the bag to"
DIFF = fs.metrics.logit_diff(" Mary", " John")
SMALL = ModelInfo(**{name: 0 for name in ModelInfo.__dataclass_fields__} | {"layers": 2, "heads": 2, "kv_heads": 1})


def build(senders="heads", receivers="logits", pairs=1, **options):
    return paths.build("m", SMALL, ["a"] * pairs, ["b"] * pairs, senders, receivers, DIFF, **options).request


def ends(given):
    return [[(node.site, list(node.heads)) for node in end.nodes] for end in given]


def test_words_and_tuples_name_the_parts():
    assert ends(build("heads").senders) == [[(f"blocks.{layer}.attn.hook_z", [head])] for layer in (0, 1) for head in (0, 1)]
    assert ends(build(["mlps", "embed", (1, 0), ("mlp", -1)]).senders) == [
        [("blocks.0.hook_mlp_out", [])], [("blocks.1.hook_mlp_out", [])], [("hook_embed", [])], [("blocks.1.attn.hook_z", [0])], [("blocks.1.hook_mlp_out", [])],
    ]  # fmt: skip
    got = build(receivers=["k", ("q", 1, 0), ("mlp", 1), "blocks.0.hook_mlp_in", "logits"]).receivers
    assert ends(got) == [
        [("blocks.0.attn.hook_k", [0])], [("blocks.1.attn.hook_k", [0])], [("blocks.1.attn.hook_q", [0])], [("blocks.1.hook_mlp_in", [])],
        [("blocks.0.hook_mlp_in", [])], [("logits", [])],
    ]  # fmt: skip
    assert ends(build((1, 1)).senders) == [[("blocks.1.attn.hook_z", [1])]]


def test_sets_act_together():
    request = build({"movers": [(0, 1), (1, 0)], "embed": "embed"}, {"all": ["q", ("mlp", 1)]}, sender_positions=[1, -1])
    assert [end.label for end in request.senders] == ["movers", "embed"] and len(request.senders[0].nodes) == 2
    assert [item.index for item in request.senders[0].positions[0].items] == [1, -1]
    assert len(request.receivers[0].nodes) == 5 and not request.receivers[0].positions
    assert [len(end.positions) for end in build(pairs=2, sender_positions=[[0], [1, 2]]).senders] == [2] * 4


def test_frozen_or_not_and_the_direction():
    assert build().direction == 2 and not build().freeze_mlps
    request = build(mlps="freeze", norms="freeze", direction="denoise")
    assert request.freeze_mlps and request.freeze_norms and request.direction == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"senders": "q"}, "'q' is not one of 'embed', 'heads', 'mlps'"),
        ({"receivers": "heads"}, r"'heads' is not one of 'k', 'logits', 'mlps', 'q', 'v'.*a head is \('q', layer, head\)"),
        ({"receivers": [(1, 2)]}, r"\(1, 2\) is not a part of a path"),
        ({"senders": []}, "senders is empty"),
        ({"senders": {"none": []}}, "'none' is empty"),
        ({"senders": [fs.at("blocks.0.attn.hook_z", units=[1])]}, "has layers, units or rows"),
        ({"senders": {"x": [fs.at(("z", 0), positions=1), fs.at(("z", 1), positions=2)]}}, "same positions"),
        ({"mlps": "hold"}, "mlps: 'hold' is not one of 'recompute', 'freeze'"),
        ({"direction": "forth"}, "direction: 'forth'"),
    ],
)
def test_what_is_wrong_without_asking_the_server(arguments, words):
    with pytest.raises(ValueError, match=words):
        build(**arguments)


@pytest.mark.parametrize(
    ("senders", "receivers", "words"),
    [
        ((1, 0), ("q", 0, 1), r"there is no path: \(1, 0\) is not before \('q', 0, 1\)"),
        ((1, 0), ("k", 1, 0), "there is no path"),
        (("mlp", 1), ("mlp", 1), "there is no path"),
        ([(1, 0), (1, 1)], [("mlp", 0), ("v", 1, 0)], r"every one of \[\(1, 0\), \(1, 1\)\] is not before every one of"),
    ],
)
def test_a_sender_behind_the_receiver_is_no_path(senders, receivers, words):
    with pytest.raises(ValueError, match=words):
        build(senders, receivers)


def test_which_paths_can_exist():
    request = build(["heads", "mlps", "embed"], ["q", "mlps", "logits"])
    assert can_exist(request.receivers, request.senders).astype(int).tolist() == [
        # 0.0 0.1 1.0 1.1 mlp 0, mlp 1, embed
        [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1],  # queries of layer 0
        [1, 1, 0, 0, 1, 0, 1], [1, 1, 0, 0, 1, 0, 1],  # of layer 1
        [1, 1, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 0, 1],  # MLPs
        [1] * 7,
    ]  # fmt: skip
    sets = build({"late": [(1, 0), (1, 1)], "both": [(1, 0), (0, 1)]}, {"early": ["q"], "first": [("q", 0, 0)], "end": "logits"})
    assert can_exist(sets.receivers, sets.senders).astype(int).tolist() == [[0, 1], [0, 0], [1, 1]]


def test_unknown_options_are_refused(model):
    with pytest.raises(TypeError, match=r"path_patch\(\) does not take mlp"):
        model.path_patch(CLEAN, CORRUPT, metric=DIFF, mlp="freeze")


def test_heads_of_smollm2_that_write_the_answer(model):
    got = model.path_patch(CLEAN, CORRUPT, "heads", "logits", DIFF)
    assert got.values.shape == (1, 270) and got.axes[0].labels == ("logits",) and got.axes[1].labels[10] == "1.1"
    heads = got.by_head()
    assert heads.values.shape == (30, 9) and heads.values[1, 1] == got.values[0, 10]
    (receiver, sender), value = got.top(1)[0]
    layer, head = map(int, sender.split("."))
    # The same by hand: all heads held, that one taken from the corrupt prompt.
    by_hand = [fs.freeze("blocks.*.attn.hook_z"), fs.patch(("z", layer), source=CORRUPT, heads=head)]
    assert value == pytest.approx(model.run_with_hooks(CLEAN, by_hand, metrics=[DIFF], logits=None).metrics[DIFF][0], abs=1e-3)
    assert abs(value - got.base[0]) > 0.1 and receiver == "logits"
    figure = got.plot()
    assert figure.data[0].z.shape == (30, 9) and "to logits" in figure.layout.title.text
    assert got.plot(by_head=False).data[0].z.shape == (1, 270)
    assert "PathResult of smollm2-135m" in repr(got) and list(got.to_pandas().columns[:2]) == ["receiver", "sender"]


def test_edges_of_smollm2_are_told_by_their_scores(model):
    got = model.attribute_edges(CLEAN, CORRUPT, metric=DIFF)
    assert got.values.size == 144_781 and np.isfinite(got.values).sum() == len(got.to_pandas()) == 70_651
    (receiver, sender), score = got.top(1)[0]
    place = got.axes[0].labels.index(receiver), got.axes[1].labels.index(sender)
    assert score == got.scores[place] and abs(score) == np.nanmax(np.abs(got.scores)) and got.values[place] == pytest.approx(got.base[0] + score)
    frame = got.to_pandas()
    assert list(frame.columns) == ["receiver", "sender", "logit_diff_score", "normalized"]
    assert frame.loc[frame.logit_diff_score.abs().idxmax()].tolist()[:3] == [receiver, sender, score]
    assert f"{score:+8.3f}  receiver {receiver}, sender {sender}" in repr(got) and "70,651 pairs" in repr(got)
    bars = got.plot(k=5)
    assert bars.data[0].type == "bar" and list(bars.data[0].x) == [value for _, value in got.top(5)][::-1]
    assert bars.data[0].y[-1] == f"{sender} → {receiver}"
    grid = got.plot(by_head=False).data[0]
    assert grid.z.shape == (481, 301) and grid.zmax == abs(score) == -grid.zmin
    heads = model.attribute_edges(CLEAN, CORRUPT, "heads", "logits", DIFF)
    assert np.array_equal(heads.plot().data[0].z, heads.scores.reshape(30, 9))


def test_a_path_of_three(model):
    """sender -> q of a receiver -> logits, by hand from run_with_cache and run_with_hooks."""
    got = model.path_patch(CLEAN, CORRUPT, [(14, 0), (14, 1)], [("q", 20, 3)], DIFF, receiver_positions="last")
    held = [fs.freeze("blocks.*.attn.hook_z"), fs.patch(("z", 14), source=CORRUPT, heads=1)]
    q = model.run_with_hooks(CLEAN, held, names_filter=("q", 20), positions="last", heads=3, logits=None).cache[("q", 20)]
    put = fs.set(fs.at(("q", 20), heads=3, positions="last"), q[0])
    assert got.values[0, 1] == pytest.approx(model.run_with_hooks(CLEAN, [put], metrics=[DIFF], logits=None).metrics[DIFF][0], abs=1e-3)


def test_causal_trace_of_smollm2(model):
    prompt = "The capital of France is"
    got = model.causal_trace(prompt, "France", seeds=4)
    assert got.subject == (3,) and got.clean > 0.5 and got.corrupted < got.clean - 0.2
    assert got.resid_post.metric == "probability of the clean answer"
    assert got.resid_post.values.shape == (30, 5) and got.mlp_out.per_pair.shape == (4, 30, 5)
    # Restored at the last position behind the last layer, all is as in the clean run; in front of the subject nothing was lost.
    assert got.resid_post.values[-1, -1] == pytest.approx(got.clean, abs=1e-3)
    assert (got.resid_post.values[:, :3] == got.corrupted).all()
    assert got.resid_post.values[0, 3] > got.corrupted + 0.2
    again = model.causal_trace(prompt, [3], seeds=4, noise=got.noise)
    assert np.array_equal(again.attn_out.values, got.attn_out.values)
    figure = got.plot()
    assert len(figure.data) == 3 and figure.data[0].z.shape == (5, 30) and figure.data[0].y[3].endswith("*")
    assert "clean" in repr(got) and "resid_post" in repr(got)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"subject": "Germany"}, "'Germany' is not in the prompt's tokens"),
        ({"subject": [9]}, "no positions of the prompt, which has 5 tokens"),
        ({"subject": "France", "seeds": 0}, "seeds is 0"),
        ({"prompt": ["a", "b"], "subject": "a"}, "of one prompt; there are 2"),
    ],
)
def test_bad_traces(model, arguments, words):
    with pytest.raises(ValueError, match=words):
        model.causal_trace(**{"prompt": "The capital of France is"} | arguments)
