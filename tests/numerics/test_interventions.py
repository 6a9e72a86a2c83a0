"""Every kind of intervention at every site that can be edited equals the slow reference; test_intervention_laws.py has what holds whatever the numbers are.

The reference runs in float64 here, so that only the server's rounding is seen, within 1e-5 (compare.rounding). In float32 the reference itself is up
to 2.8e-5 from that: logits of these models reach 15, and 30 where a norm's scale is overwritten.
"""

from __future__ import annotations

import fluoroscope as fs
import grpc
import numpy as np
import pytest
import torch
from fluoroscope._proto.v1 import plan_pb2

from .compare import assert_close, rounding
from .reference import Weights, trace
from .serving import ALL_LOGITS, Server, capture, copy, edit, logits, positions, tensor
from .slow_edits import KINDS, Asked, Place, at_place, edited, make, span
from .test_dtypes import widened

# Rows to edit, of several lengths; the last two only lend their values and are as long as the longest.
A = [0, 17, 42, 9, 42, 8, 133, 299, 64, 5, 81]
B = [5, 6, 7, 8, 9, 11]
SOURCES = [[0, 17, 42, 250, 42, 7, 133, 299, 64, 5, 81], [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]]
MODELS = ["gqa-tied-sharded", "two", "biases"]
LAYER = 1
KEYS = ("attn_scores", "pattern")


def editable(server, name: str) -> list[tuple[int, str]]:
    """(number in the table, name with {l}) of every site that can be edited."""
    return [(n, s.name) for n, s in enumerate(server.sites(name).values()) if s.editable and not s.unavailable_because]


def places(server, name: str, site: str, ids: list[int], whole: bool, layer: int = LAYER) -> tuple[Place, bool]:
    """A whole site, or some of its positions, heads and units; and whether it has heads."""
    full = site.replace("{l}", str(layer))
    spec = server.sites(name)[site]
    sizes = dict(zip(spec.axes, spec.shape, strict=True))
    heads = sizes.get("head", sizes.get("kv_head", 0))
    units = len(ids) if full.endswith(KEYS) else list(sizes.values())[-1]
    if whole:
        return Place(full, list(range(len(ids))), list(range(max(heads, 1))), list(range(units))), heads > 0
    chosen = sorted({0, 1, units // 2, units - 1} & set(range(units)))
    return Place(full, sorted({2, len(ids) - 3, len(ids) - 1}), [1] if heads > 1 else [0], chosen), heads > 0


def slow_logits(w: Weights, ids: list[int], place: Place, asked: Asked) -> torch.Tensor:
    return trace(w, ids, lambda site, value: edited(place, value, asked.change) if site == place.site else value).logits


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_at_every_site_equals_the_reference(server, exact, name, kind):
    w = exact(name)
    moved = checked = 0
    sources = [trace(w, ids) for ids in SOURCES]
    plain = {len(ids): trace(w, ids).logits for ids in (A, B)}
    for number, site in editable(server, name):
        for whole in (True, False):
            # One to three rows; sites with a key axis take sources of the same length only.
            targets = [A] if site.endswith(KEYS) else [A, B] if whole else [B, A, B]
            rows, asked, interventions = [*targets, *SOURCES], [], []
            for row, ids in enumerate(targets):
                place, has_heads = places(server, name, site, ids, whole)
                values = {len(targets) + i: source.sites[place.site] for i, source in enumerate(sources)}
                where = number | (LAYER << 8 if "{l}" in site else 0)
                asked.append((place, make(kind, place, row, values, where, np.random.default_rng(number + row))))
                interventions.append(at_place(asked[-1][1].message, place, row, heads=has_heads and not whole, units=not whole))
            result = server.forward(name, rows, interventions=interventions, logits=ALL_LOGITS)
            for row, (ids, (place, change)) in enumerate(zip(targets, asked, strict=True)):
                expected = slow_logits(w, ids, place, change)
                # A norm whose scale becomes 0 divides by it. Positions in front of the first such one give those values the weight 0, and 0 times
                # infinity is nothing to compare: kernels that skip hidden keys differ there from the reference, which does not.
                start = 0 if expected.isfinite().all() else place.positions[0]
                what = f"{name} {kind} {place.site} whole={whole} row {row}"
                assert_close(result.get("logits", row)[start:], expected[start:], rounding(expected[start:]), what)
                moved += not torch.allclose(expected, plain[len(ids)], atol=1e-3)
                checked += 1
            for i, source in enumerate(sources):
                assert_close(result.get("logits", len(targets) + i), source.logits, rounding(source.logits), f"{kind} {site}: a source")
    assert moved > checked / 2, f"{kind} changed {moved} of {checked} runs"


def size_of(server, name: str, site: str, ids: list[int]) -> int:
    return len(ids) if site.endswith(KEYS) else server.sites(name)[site.replace("blocks.1.", "blocks.{l}.", 1)].shape[-1]


# Shapes beside those above: (length, rows, layer, which rows are compared).
SHAPES = [(1, 1, 0, [0]), (40, 1, 0, [0]), (11, 12, -1, [0, 11])]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_at_every_site_in_other_layers_lengths_and_batches(server, weights, exact, kind):
    """Three times compare.rounding, or three times as far from float64 as PyTorch's float32 where an edit makes that more: over 24,332 such comparisons of
    three models PyTorch was up to 1.9 times compare.rounding away (rows of 40 tokens, edits in the first layer, logits of 15), and the server 2.6 times."""
    name = "gqa-tied-sharded"
    w, single = exact(name), weights(name)
    for length, count, layer, compared in SHAPES:
        rng = np.random.default_rng(length)
        layer %= len(w.layers)
        rows, lent = (rng.integers(1, 299, (n, length)).tolist() for n in (count, 2))
        sources = [trace(w, ids) for ids in lent]
        for number, site in editable(server, name):
            asked, interventions = [], []
            for row, ids in enumerate(rows):
                place, _ = places(server, name, site, ids, True, layer)
                values = {count + i: source.sites[place.site] for i, source in enumerate(sources)}
                asked.append((place, make(kind, place, row, values, number | (layer << 8 if "{l}" in site else 0), np.random.default_rng(row))))
                interventions.append(at_place(asked[-1][1].message, place, row, heads=False, units=False))
            result = server.forward(name, [*rows, *lent], interventions=interventions, logits=ALL_LOGITS)
            for row in compared:
                expected = slow_logits(w, rows[row], *asked[row])
                if expected.isfinite().all():  # not where a norm's scale became 0
                    what = f"{kind} {asked[row][0].site} length {length} row {row} of {count}"
                    got, limit = result.get("logits", row), rounding(expected)
                    if np.abs(got - expected.numpy()).max() > 3 * limit:
                        limit = float((slow_logits(single, rows[row], *asked[row]) - expected).abs().max())
                    assert_close(got, expected, 3 * limit, what)


@pytest.mark.parametrize("name", MODELS)
def test_noise_is_the_same_in_every_batch_and_for_every_selection(server, name):
    site = "blocks.1.attn.hook_q"
    noise = plan_pb2.Noise(stddev=0.5, seed=99)

    def run(rows, isolated=False, **select):
        asked = edit(site, rows=[0], noise=noise, **select)
        return server.forward(name, rows, interventions=[asked], captures=[capture(site, rows=[0])], isolated=isolated).get(site)

    plain = server.forward(name, [A], captures=[capture(site)]).get(site)
    drawn = run([A]) - plain
    assert 0.4 < drawn.std() < 0.6
    for rows in ([A, B], [A, A, B, SOURCES[0]]):
        np.testing.assert_allclose(run(rows) - plain, drawn, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(run([A, B], isolated=True), run([A], isolated=True))
    some = run([A], at=[2, 5], heads=[1], units=[3, 7]) - plain
    np.testing.assert_allclose(some[[2, 5]][:, 1][:, [3, 7]], drawn[[2, 5]][:, 1][:, [3, 7]], atol=1e-6, rtol=0)
    other = server.forward(name, [B, A], interventions=[edit(site, rows=[1], noise=noise)], captures=[capture(site, rows=[1])]).get(site, 1) - plain
    assert not np.allclose(other, drawn, atol=1e-2), "another row's noise is other noise"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", ["hook_resid_mid", "attn.hook_z", "mlp.hook_post", "attn.hook_pattern", "hook_mlp_out"])
def test_tensors_follow_the_positions_that_are_left(server, exact, name, site):
    """In the last layer only read positions go past keys and values: of an edit of all positions, each that is left gets its own entry."""
    w = exact(name)
    layer = len(w.layers) - 1
    full = f"blocks.{layer}.{site}"
    clean = trace(w, A).sites[full]
    value = np.random.default_rng(5).standard_normal(clean.shape).astype(np.float32)
    result = server.forward(name, [A], interventions=[edit(full, set=plan_pb2.Set(value=tensor(value)))], logits=logits(at=[3, 7]))
    expected = trace(w, A, lambda hook, x: torch.from_numpy(value).to(x.dtype) if hook == full else x).logits
    assert_close(result.get("logits"), expected[[3, 7]], rounding(expected), full)
    # And the same of another row's values.
    other = trace(w, SOURCES[1]).sites[full]
    message = plan_pb2.Interpolate(source=plan_pb2.CopyFromRow(row=1), weight=0.25)
    result = server.forward(name, [A, SOURCES[1]], interventions=[edit(full, rows=[0], interpolate=message)], logits=logits(at=[3, 7], rows=[0]))
    expected = trace(w, A, lambda hook, x: torch.lerp(x, other, 0.25) if hook == full else x).logits
    assert_close(result.get("logits"), expected[[3, 7]], rounding(expected), f"{full} interpolated")


def test_order_and_several_sites(server, exact):
    """Three edits in the order given, the second at several sites of several layers."""
    w = exact("gqa-tied-sharded")
    value = np.random.default_rng(6).standard_normal(w.embed.shape[1]).astype(np.float32)
    edits = [
        edit("blocks.0.hook_resid_pre", at=[4], add=plan_pb2.Add(value=tensor(value), scale=2)),
        edit("blocks.*.hook_mlp_out", layers=[0, -1], at=slice(3, 6), scale=plan_pb2.Scale(factor=0.5)),
        edit("blocks.0.hook_resid_pre", at=[4], scale=plan_pb2.Scale(factor=-1)),
    ]

    def slow(hook, x):
        changed = x.clone()
        if hook == "blocks.0.hook_resid_pre":
            changed[4] = -(x[4] + 2 * torch.from_numpy(value))
        elif hook in ("blocks.0.hook_mlp_out", f"blocks.{len(w.layers) - 1}.hook_mlp_out"):
            changed[3:6] *= 0.5
        else:
            return x
        return changed

    result = server.forward("gqa-tied-sharded", [A], interventions=edits, logits=ALL_LOGITS)
    expected = trace(w, A, slow).logits
    assert_close(result.get("logits"), expected, rounding(expected), "three edits")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("site", ["mlp.hook_post", "attn.hook_z"])
def test_parts_of_a_subspace(server, exact, name, site):
    """Row space and null space of the matrix behind the place, with the pseudo-inverse as the slow way. Some units only, so that both are there: a matrix
    with fewer columns than rows reads everything, one with more (mlp.hook_post) does not."""
    w = exact(name)
    full, head = f"blocks.{LAYER}.{site}", 1
    of_heads = site.endswith("hook_z")
    w_out = w.layers[LAYER].w_o.reshape(w.heads, w.d_head, -1)[head] if of_heads else w.layers[LAYER].w_out  # [units, d_model]
    units = w_out.shape[0]
    rng = np.random.default_rng(12)
    clean, other = trace(w, A), trace(w, SOURCES[0]).sites[full]
    directions = rng.standard_normal((2, units)).astype(np.float32)
    reader = w_out.double().numpy().T  # [d_model, units]
    on_rows = span(reader)
    for part, projector in (("PART_ROW_SPACE", on_rows), ("PART_NULL_SPACE", np.eye(units) - on_rows)):
        projected = directions.astype(np.float64) @ projector
        inside = torch.from_numpy(np.linalg.pinv(projected, rcond=1e-5) @ projected if np.abs(projected).max() > 1e-5 else np.zeros((units, units)))

        def slow(hook, x, inside=inside):
            if hook != full:
                return x
            own = x[:, head] if of_heads else x
            changed = own + ((other[:, head] if of_heads else other) - own).double() @ inside
            out = x.clone()
            out[:, head if of_heads else slice(None)] = changed.to(x.dtype)
            return out

        swap = plan_pb2.SwapSubspace(source=plan_pb2.CopyFromRow(row=1), directions=tensor(directions), part=part)
        result = server.forward(name, [A, SOURCES[0]], interventions=[edit(full, rows=[0], heads=[head] if of_heads else (), swap_subspace=swap)],
                                captures=[capture(full, rows=[0])], logits=ALL_LOGITS)  # fmt: skip
        expected = trace(w, A, slow)
        assert_close(result.get(full), expected.sites[full], rounding(expected.sites[full]), f"{full} {part}")
        assert_close(result.get("logits"), expected.logits, rounding(expected.logits), f"{full} {part}: logits")
        moved = np.abs(result.get(full) - clean.sites[full].numpy()).max()
        effect = np.abs(result.get("logits") - clean.logits.numpy()).max()
        if part == "PART_NULL_SPACE":
            assert effect < 1e-5, "nothing reads the null space"
            assert (moved > 1e-2) == (units > reader.shape[0]), "where the matrix has more columns than rows there is one"
        else:
            assert effect > 1e-3


def test_where_no_matrix_reads_alone(server):
    swap = plan_pb2.SwapSubspace(source=plan_pb2.CopyFromRow(row=1), part="PART_ROW_SPACE")
    for site, heads in (("blocks.1.hook_resid_pre", ()), ("blocks.1.attn.hook_z", ()), ("blocks.1.attn.hook_z", (0, 1))):
        swap.directions.CopyFrom(tensor(np.ones((1, size_of(server, "two", site, A)), np.float32)))
        with pytest.raises(grpc.RpcError) as error:
            server.forward("two", [A, SOURCES[0]], interventions=[edit(site, rows=[0], heads=heads, swap_subspace=swap)], logits=ALL_LOGITS)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert f"no single matrix reads {site}" in error.value.details() and "mlp.hook_post" in error.value.details()


def test_selections_of_an_intervention(server, exact):
    """By token, last, negative index, negative layer, range, head, unit and row: each chooses what its numbers say."""
    w = exact("gqa-tied-sharded")
    last = len(w.layers) - 1
    token = plan_pb2.Positions.Item(occurrences_of=plan_pb2.TokenRef(id=42))
    cases = [  # (how it is said, layer, positions it means in A, units)
        (dict(at=None, positions=[token], layers=[-1]), last, [2, 4], None),
        (dict(at="last", layers=[-2]), last - 1, [len(A) - 1], None),
        (dict(at=[-1, -3], layers=[1]), 1, [len(A) - 3, len(A) - 1], None),
        (dict(at=slice(2, -4), layers=[0], units=[0, 7]), 0, list(range(2, len(A) - 4)), [0, 7]),
        (dict(at=None, positions=[token, plan_pb2.Positions.Item(index=0)], layers=[0], units=[3]), 0, [0, 2, 4], [3]),
    ]
    for said, layer, positions, units in cases:
        said = dict(said)
        items = said.pop("positions", None)
        message = edit("blocks.*.hook_resid_pre", rows=[1], scale=plan_pb2.Scale(factor=-0.5), **said)
        if items:
            message.select.positions.items.extend(items)

        def slow(hook, x, layer=layer, positions=positions, units=units):
            if hook != f"blocks.{layer}.hook_resid_pre":
                return x
            out = x.clone()
            for p in positions:
                out[p, units if units else slice(None)] *= -0.5
            return out

        result = server.forward("gqa-tied-sharded", [A, A], interventions=[message], logits=ALL_LOGITS)
        for row, expected in ((1, trace(w, A, slow).logits), (0, trace(w, A).logits)):
            assert_close(result.get("logits", row), expected, rounding(expected), f"row {row} of {said}")


def test_a_position_map_between_prompts_of_unequal_length(server, exact):
    """Positions of a longer source onto those of a shorter target, for every kind that reads a row."""
    w = exact("two")
    site, at, source_at = "blocks.1.hook_resid_mid", [1, 2, 5], [3, 7, 10]
    other = trace(w, SOURCES[0]).sites[site][source_at]
    source = plan_pb2.CopyFromRow(row=1, positions=positions(source_at))
    directions = np.random.default_rng(13).standard_normal((3, other.shape[1])).astype(np.float32)
    inside = torch.from_numpy(span(directions.astype(np.float64)))
    kinds = {
        "copy": (source, lambda own: other),
        "resample": (plan_pb2.Resample(rows=[1], positions=source.positions), lambda own: other),
        "interpolate": (plan_pb2.Interpolate(source=source, weight=1.5), lambda own: own + 1.5 * (other - own)),
        "swap_subspace": (plan_pb2.SwapSubspace(source=source, directions=tensor(directions)), lambda own: own + ((other - own).double() @ inside).float()),
    }
    for kind, (message, change) in kinds.items():

        def slow(hook, x, change=change):
            out = x.clone()
            if hook == site:
                out[at] = change(x[at])
            return out

        result = server.forward("two", [B, SOURCES[0]], interventions=[edit(site, at=at, rows=[0], **{kind: message})], logits=ALL_LOGITS)
        expected = trace(w, B, slow).logits
        assert_close(result.get("logits"), expected, rounding(expected), kind)


def test_freezing_the_norms_makes_them_linear(client, exact):
    """With all scales frozen the model's output is an affine function of what is added at the last position's last MLP: twice the vector, twice the effect.
    Each is also what the reference gives with the scales of its run without interventions."""
    w, model = exact("mha"), client.model("mha")
    place = f"blocks.{len(w.layers) - 1}.hook_mlp_out"
    value = np.random.default_rng(7).standard_normal(w.embed.shape[1]).astype(np.float32)
    frozen = [fs.freeze(site) for site in ("blocks.*.ln1.hook_scale", "blocks.*.ln2.hook_scale", "ln_final.hook_scale")]
    clean = trace(w, A).sites

    def run(scale, freeze):
        got = model.run_with_hooks(A, [fs.add(place, value, scale), *(frozen if freeze else [])], logits="last").logits[0, -1].astype(np.float64)

        def slow(hook, x):
            if hook == place:
                return x + scale * torch.from_numpy(value)
            return clean[hook] if freeze and hook.endswith("hook_scale") else x

        expected = trace(w, A, slow).logits[-1]
        assert_close(got, expected, rounding(expected), f"scale {scale}, frozen {freeze}")
        return got

    for freeze in (True, False):
        nothing, once, twice = (run(scale, freeze) for scale in (0, 1, 2))
        linear = np.abs((twice - nothing) - 2 * (once - nothing)).max()
        assert (linear < 1e-5) == freeze


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_half_precision_keeps_exact_edits_exact(checkpoints, tmp_path, dtype):
    """Edits are calculated in float32 and put back into the model's dtype."""
    half = Server({"m": (checkpoints["two"].path, dtype)}, tmp_path)
    site = "blocks.1.hook_resid_pre"

    def run(**kind):
        result = half.forward("m", [A], interventions=[edit(site, **kind)] if kind else [], captures=[capture(site)])
        return widened(result.header(site).dtype, result.get(site))

    try:
        plain = run()
        np.testing.assert_array_equal(run(scale=plan_pb2.Scale(factor=1)), plain)
        np.testing.assert_array_equal(run(scale=plan_pb2.Scale(factor=2)), plain * 2)
        assert not run(zero=plan_pb2.Zero()).any()
    finally:
        half.stop()
