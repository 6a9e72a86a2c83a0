"""SweepResult, its tables and pictures, align(), and model.sweep on SmolLM2."""

from __future__ import annotations

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope import sweep
from fluoroscope._proto.v1 import handle_pb2
from fluoroscope.aio_handles import AsyncHandle, AsyncHandles
from fluoroscope.align import align
from fluoroscope.handles import Handle, Handles
from fluoroscope.results import Provenance, Timing
from fluoroscope.sweep_result import Axis, SweepEstimate, SweepResult, unique

CLEAN = "When John and Mary went to the shops, John gave the bag to"
CORRUPT = "When John and Mary went to the shops, Mary gave the bag to"
DIFF = fs.metrics.logit_diff(" Mary", " John")
HANDLE = Handle(None, handle_pb2.Handle(id="h"))
LAYERS = Axis("layer", ("0", "1"))
POSITIONS = Axis("position", ("0:The", "1: cat", "2: cat"))


def result(per_pair, base, source, axes=(LAYERS, POSITIONS), metrics=("diff",)) -> SweepResult:
    """As the server's reply would make it: per_pair [pairs, metrics, *axes]."""
    provenance = Provenance(**dict.fromkeys(Provenance.__dataclass_fields__, "m"))
    return SweepResult(
        axes, {name: i for i, name in enumerate(metrics)}, np.asarray(per_pair, float), np.asarray(base, float), np.asarray(source, float),
        SweepEstimate(6, 2, 1e9, 4e9, 1, 2), provenance, Timing(0, 12, 34, 56), (), "resid_pre, clean into corrupt",
    )


@pytest.fixture
def small() -> SweepResult:
    """Two pairs, means [[-2, 0, 2], [-1, 3, -6]]; base -2, source 2."""
    values = np.array([[-2, 0, 2], [-1, 3, -6]])
    return result([[values - 1], [values + 1]], [[-3], [-1]], [[3], [1]])


def test_values_are_means_over_pairs(small):
    assert small.values.tolist() == [[-2, 0, 2], [-1, 3, -6]] and small.per_pair.shape == (2, 2, 3)
    assert small.normalized.tolist() == [[0, 0.5, 1], [0.25, 1.25, -1]]  # not clipped


def test_top_is_what_is_farthest_from_the_base_run(small):
    assert small.top(3) == [(("1", "1: cat"), 3.0), (("0", "2: cat"), 2.0), (("1", "2: cat"), -6.0)]
    assert len(small.top(100)) == 6


def test_several_metrics():
    both = result([[np.zeros((2, 3)), np.ones((2, 3))]], [[0, 0]], [[1, 2]], metrics=("a", "b"))
    assert both.metric == "a" and both["b"].metric == "b" and both["b"]["a"].values.sum() == 0
    assert both["b"].normalized.tolist() == [[0.5] * 3] * 2
    with pytest.raises(KeyError, match="'c' is not one of the sweep's metrics: 'a', 'b'"):
        both["c"]


@pytest.mark.parametrize(("base", "source"), [(1.0, 1.0), (2.0, 2.0019), (0.0, 1e-7)])
def test_nothing_to_normalise_by(base, source):
    flat = result([[np.full((2, 3), base)]], [[base]], [[source]])
    with pytest.raises(ValueError, match="there is nothing to normalise by"):
        flat.normalized  # noqa: B018
    assert np.isnan(flat.to_pandas()["normalized"]).all()
    assert flat.plot().data[0].z.tolist() == flat.values.tolist()
    with pytest.raises(ValueError, match="nothing to normalise by"):
        flat.plot(normalize=True)


def test_as_a_table(small):
    frame = small.to_pandas()
    assert list(frame.columns) == ["layer", "position", "token", "diff", "normalized"] and len(frame) == 6
    assert frame[(frame.layer == 1) & (frame.position == 1)][["token", "diff", "normalized"]].to_numpy().tolist() == [[" cat", 3.0, 1.25]]
    assert frame.dtypes["layer"] == frame.dtypes["position"] == np.int64
    wide = result([[np.arange(11).reshape(1, 11)]], [[0]], [[1]], axes=(Axis("head", ("0",)), Axis("layer", tuple(map(str, range(11))))))
    assert list(wide.to_pandas().pivot(index="head", columns="layer", values="diff").columns) == list(range(11))


def test_a_table_of_several_metrics():
    both = result([[np.zeros((2, 3)), np.ones((2, 3))]], [[0, 0]], [[0, 2]], metrics=("a", "b"))
    frame = both.to_pandas()
    assert list(frame.columns) == ["layer", "position", "token", "a", "a_normalized", "b", "b_normalized"]
    assert frame["b"].tolist() == [1.0] * 6 and frame["b_normalized"].tolist() == [0.5] * 6 and frame["a_normalized"].isna().all()
    assert list(both["b"].to_pandas().columns[-2:]) == ["b", "normalized"]


def test_places_of_a_table_without_numbers():
    axes = (Axis("unit", ("0-1", "2-3")), Axis("position", ("name", "12", "12")))
    frame = result([[np.zeros((2, 3))]], [[0]], [[1]], axes=axes).to_pandas()
    assert frame.unit.tolist() == ["0-1"] * 3 + ["2-3"] * 3 and frame.position.tolist() == ["name", "12", "12 (2)"] * 2 and "token" not in frame
    axes = (Axis("position", ("4", "7")), Axis("source", ("0:a:b", "1:\n", "2:")))
    frame = result([[np.zeros((2, 3))]], [[0]], [[1]], axes=axes).to_pandas()
    assert list(frame.columns[:3]) == ["position", "source", "source_token"] and frame.position.tolist() == [4] * 3 + [7] * 3
    assert frame.source_token.tolist() == ["a:b", "\n", ""] * 2


def test_as_an_array_with_names(small):
    pytest.importorskip("xarray")
    array = small.to_xarray()
    assert array.dims == ("layer", "position") and array.name == "diff"
    assert float(array.sel(layer=1, position=2)) == -6 and array.token.values.tolist() == ["The", " cat", " cat"]


def test_labels_that_are_equal_are_told_apart():
    assert unique(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]
    assert len(result([[np.zeros((2, 3))]], [[0]], [[1]], axes=(LAYERS, Axis("position", ("x", "x", "y")))).to_pandas().position.unique()) == 3


def test_the_picture(small):
    figure = small.plot(width=500)
    (heat,) = figure.data
    assert small.plot(title="mine").layout.title.text == "mine" and figure.layout.title.text == "resid_pre, clean into corrupt"
    assert heat.type == "heatmap" and heat.z.tolist() == small.normalized.tolist()
    assert list(heat.x) == ["0 The", "1 cat", "2 cat"] and list(heat.y) == ["0", "1"]
    assert (heat.zmin, heat.zmax) == (-1.25, 1.25) and figure.layout.width == 500
    assert figure.layout.yaxis.autorange is None  # layer 0 at the bottom
    assert small.plot(normalize=False).data[0].z.tolist() == small.values.tolist()


def test_pictures_of_other_shapes():
    line = result([[np.arange(2)]], [[0]], [[1]], axes=(LAYERS,)).plot()
    assert line.data[0].type == "scatter" and list(line.data[0].y) == [0, 1]
    heads = Axis("head", ("0", "1", "2", "3"))
    cube = result([[np.arange(24).reshape(4, 2, 3)]], [[0]], [[1]], axes=(heads, LAYERS, POSITIONS)).plot()
    assert len(cube.layout.sliders[0].steps) == 4 and cube.layout.sliders[0].steps[1].args[0]["z"] == [[[6, 7, 8], [9, 10, 11]]]
    # It begins with the slice whose change is the largest, which the slider shows.
    values = np.zeros((4, 2, 3))
    values[2, 1, 1] = -5
    values[3] = np.nan
    cube = result([[values]], [[0]], [[1]], axes=(heads, LAYERS, POSITIONS)).plot()
    assert cube.layout.sliders[0].active == 2 and cube.data[0].z.tolist() == values[2].tolist() and cube.data[0].zmax == 5
    with pytest.raises(ValueError, match="at most three axes; this result has 4: head, site, layer, position"):
        result([[np.zeros((4, 1, 2, 3))]], [[0]], [[1]], axes=(heads, Axis("site", ("s",)), LAYERS, POSITIONS)).plot()


def test_it_prints_well(small):
    text = repr(small)
    assert "2 layers x 3 positions, mean of 2 pairs" in text and "diff: base -2.000, source +2.000" in text
    assert "6 cells in 0.01 s, 4 times less work than a forward per cell" in text


@pytest.mark.parametrize(
    ("source", "base", "wanted"),
    [
        ([1, 2, 3], [1, 2, 3], [0, 1, 2]),
        ([1, 2, 3], [1, 9, 3], [0, 1, 2]),  # one for one
        ([1, 2, 2, 3], [1, 9, 3], [0, -1, 3]),  # a name of two tokens and one of one
        ([1, 3], [1, 2, 3], [0, -1, 1]),
        ([1, 2, 3], [1, 3], [0, 2]),
        ([], [1], [-1]),
        ([5], [], []),
    ],
)
def test_align(source, base, wanted):
    assert align(source, base) == wanted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"clean": ["a", "b"], "corrupt": ["c"]}, "clean has 2 prompts and corrupt 1"),
        ({"over": "place"}, "over: 'place' is not one of 'site', 'layer', 'position', 'head', 'unit'"),
        ({"over": ("layer", "source")}, "'source' is an axis of pattern and attn_scores only"),
        ({"direction": "back"}, "direction: 'back' is not one of 'denoise', 'noise'"),
        ({"kind": "add"}, "kind: 'add' is not one of 'patch', 'zero', 'mean', 'resample'"),
        ({"metric": fs.metrics.kl("c")}, "compare with the pair's own runs"),
        ({"source_positions": []}, "source_positions of pair 0 is empty"),
        ({"clean": ["a", "b"], "corrupt": ["c", "d"], "source_positions": [[0]]}, "source_positions has 1 entries for 2 pairs"),
        ({"clean": None}, "clean: only the prompt that values come from"),
        ({"clean": None, "source": HANDLE, "direction": "noise"}, "clean: only the prompt that values come from"),
        ({"corrupt": None, "source": HANDLE}, "corrupt: only the prompt that values come from"),
        ({"clean": None, "corrupt": None, "source": HANDLE}, "clean and corrupt: only the prompt"),
        ({"clean": None, "corrupt": ["c", "d"], "source": [HANDLE]}, "source has 1 entries for 2 pairs"),
        ({"clean": None, "corrupt": ["c", "d"], "source": Handles([HANDLE], 3, True)}, "source has handles of 1 prompts for 2 pairs"),
    ],
)
def test_what_is_wrong_without_asking_the_server(arguments, words):
    with pytest.raises(ValueError, match=words):
        sweep.build("m", **({"clean": "a", "corrupt": "b", "metric": DIFF} | arguments))


def test_handles_of_pairs():
    def handle(number: int, row: int = 0) -> Handle:
        return Handle(None, handle_pb2.Handle(id=str(number), row=row))

    def ids(corrupt, source, **arguments):
        plan = sweep.build("m", **({"clean": None, "corrupt": corrupt, "metric": DIFF, "source": source} | arguments))
        assert not plan.request.pairs[0].HasField("clean")
        return [list(pair.source_handles) for pair in plan.request.pairs]

    both = Handles([handle(1, 0), handle(2, 1), handle(3, 0), handle(4, 1)], 3, False)
    one = Handles([handle(1), handle(2)], 3, True)
    assert ids("c", handle(1)) == [["1"]] and ids("c", [handle(1), handle(2)]) == [["1", "2"]]
    assert ids("c", one) == [["1", "2"]] and ids("c", [one, handle(3)]) == [["1", "2", "3"]]
    assert ids("c", AsyncHandle(handle(1), None)) == [["1"]] and ids("c", AsyncHandles(one, None)) == [["1", "2"]]
    assert ids(["c", "d"], both) == [["1", "3"], ["2", "4"]] == ids(["c", "d"], AsyncHandles(both, None))
    assert ids(["c", "d"], [handle(1), [handle(2), handle(3)]]) == [["1"], ["2", "3"]]
    assert ids(["c", "d"], handle(1)) == [["1"], ["1"]]
    for wrong in (3, "handle", [np.zeros(3)]):
        with pytest.raises(TypeError, match="is no handle; model.keep and model.put make some"):
            ids("c", wrong)


def test_without_a_source_run():
    got = result([[np.zeros((2, 3))]], [[1]], [[np.nan]])
    with pytest.raises(ValueError, match="no source run"):
        got.normalized  # noqa: B018
    assert np.isnan(got.to_pandas()["normalized"]).all() and "base +1.000, no source run" in repr(got)
    assert got.plot().data[0].z.tolist() == got.values.tolist()


def test_pairs_of_heads_are_named_once():
    axes = tuple(Axis(name, ("0", "1")) for name in ("layer", "head", "second_layer", "second_head"))
    values = np.arange(16.0).reshape(4, 4)
    values = np.maximum(values, values.T).reshape(2, 2, 2, 2)
    got = result([[values]], [[0]], [[1]], axes=axes)
    assert got.top(3) == [(("1", "1", "1", "1"), 15.0), (("1", "0", "1", "1"), 14.0), (("0", "1", "1", "1"), 13.0)]
    assert len(got.top(100)) == 10  # of 16 cells
    figure = got.plot(normalize=False)
    assert list(figure.data[0].x) == ["0.0", "0.1", "1.0", "1.1"] and np.array_equal(np.asarray(figure.data[0].z, float), values.reshape(4, 4))


def test_names_of_sites():
    names = ["resid_pre", "z", "attn", "mlp_out", "post", "blocks.*.hook_mlp_in", "attn.hook_q", "hook_resid_mid"]
    assert [sweep.short_site(name) for name in names] == [
        "hook_resid_pre", "attn.hook_z", "attn.hook_pattern", "hook_mlp_out", "mlp.hook_post", "hook_mlp_in", "attn.hook_q", "hook_resid_mid",
    ]  # fmt: skip


def test_the_whole_grid_on_smollm2(model):
    got = model.sweep(CLEAN, CORRUPT, metric=DIFF)
    assert got.values.shape == (30, 14) and got.axes[1].labels[9] == "9: Mary"
    assert (got.values[:, :9] == got.base).all() and got.normalized[0, 9] == pytest.approx(1, abs=1e-3)
    clean, corrupt = (model.run_with_hooks(prompt, metrics=[DIFF], logits=None).metrics[DIFF][0] for prompt in (CLEAN, CORRUPT))
    assert got.base == pytest.approx(corrupt, abs=5e-4) and got.source == pytest.approx(clean, abs=5e-4)
    cell = fs.patch(("resid_pre", 20), source=CLEAN, positions="last")
    assert got.values[20, 13] == pytest.approx(model.run_with_hooks(CORRUPT, [cell], metrics=[DIFF], logits=None).metrics[DIFF][0], abs=5e-4)
    # Equal to the base run: all that lies before the name, and in layer 0 also the four embeddings behind it.
    assert (got.estimate.cells, got.estimate.filled_cells) == (420, 30 * 9 + 4) and got.estimate.saved > 5


def test_pairs_of_unequal_length_and_named_positions(model):
    pairs = [(CLEAN, CORRUPT), ("Then, Tom and Anna went home and Tom gave the key to", "Then, Tom and Anna went home and Anna gave the key to")]
    clean, corrupt = map(list, zip(*pairs, strict=True))
    metric = fs.metrics.logit_diff([" Mary", " Anna"], [" John", " Tom"], per_prompt=True)
    where = [model.differing_positions(a, b) for a, b in pairs]
    got = model.sweep(clean, corrupt, metric=metric, groups={"name": where, "end": "last"})
    assert got.values.shape == (30, 2) and got.per_pair.shape == (2, 30, 2) and got.axes[1].labels == ("name", "end")
    alone = model.sweep(CLEAN, CORRUPT, metric=DIFF, positions=[9, 13])
    np.testing.assert_allclose(got.per_pair[0], alone.values, atol=5e-4)


def test_too_many_cells_are_refused_with_both_numbers(model):
    words = list(range(1000, 1000 + 2_200))
    with pytest.raises(fs.ResourceExhaustedError, match="101376000 cells.*limit for a request is 200000"):
        model.sweep([*words, 5], [*words, 6], "mlp.hook_post", ("layer", "position", "unit"), DIFF, positions=range(2_200))


def test_equal_prompts_warn(model):
    with pytest.warns(fs.FluoroscopeWarning, match="same tokens"):
        got = model.sweep(CLEAN, CLEAN, metric=DIFF, layers=[0, 1])
    assert (got.values == got.base).all()
