"""Captured gradients equal PyTorch's autograd over the slow reference in float64, within 1e-4 of the largest entry of each tensor: every site that
offers one, every metric, with and without interventions; and finite differences of the metric itself."""

from __future__ import annotations

import asyncio
import re

import fluoroscope as fs
import grpc
import numpy as np
import pytest
import torch
from fluoroscope._proto.v1 import plan_pb2

from .reference import Weights, trace
from .serving import ALL_LOGITS, capture, copy, edit, logit_difference, tensor, token
from .slow_edits import span
from .test_metrics import metric, reference, tokens

RELATIVE = 1e-4
A = [0, 17, 42, 250, 42, 7, 133, 299, 64, 5, 81]
B = [5, 6, 7, 8, 9, 11]
C = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
ROWS = [A, B, C]
MODELS = ["gqa-tied-sharded", "two", "biases", "two-untied-head20", "one-layer-gelu"]
COPIES = ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")  # of the residual, that nothing is made from
RIGHT, WRONG = [5, 11], [17]


def difference(logits: torch.Tensor) -> torch.Tensor:
    return logits[-1][RIGHT].mean() - logits[-1][WRONG].mean()


def slow(w: Weights, ids: list[int], scalar, edits=None) -> dict[str, np.ndarray]:
    """The gradient of scalar(trace) at every hook point, in the value behind `edits` (by name: value -> value)."""
    edits = edits or {}

    def keep(name: str, value: torch.Tensor) -> torch.Tensor:
        if name.endswith(COPIES):
            return value
        if name in edits:
            value = edits[name](value)
        value = value * 1 if value.requires_grad else value.detach().clone().requires_grad_()  # a tensor of its own
        value.retain_grad()
        return value

    with torch.enable_grad():
        out = trace.__wrapped__(w, ids, keep)
        scalar(out).backward()
    return {name: (torch.zeros_like(v) if v.grad is None else v.grad).numpy() for name, v in out.sites.items() if not name.endswith(COPIES)}


def gradient(sites="*", of="diff", **options) -> plan_pb2.Capture:
    made = capture(sites, **options)
    made.gradient_of = of
    return made


def assert_near(got: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert got.dtype == np.float32 and got.shape == expected.shape, what
    largest = np.abs(expected).max()
    assert np.abs(got - expected).max() <= RELATIVE * largest, f"{what}: {np.abs(got - expected).max():.3g} off, the largest is {largest:.3g}"


def by_name(result, row: int, of="diff") -> dict[str, np.ndarray]:
    return {h.name: value for h, value in result.reply.tensors if h.row == row and h.gradient_of == of}


@pytest.mark.parametrize("name", MODELS)
def test_every_site_equals_autograd(server, exact, name):
    w = exact(name)
    result = server.forward(name, ROWS, captures=[gradient()], metrics=[logit_difference(RIGHT, WRONG)])
    for row, ids in enumerate(ROWS):
        expected = slow(w, ids, lambda out: difference(out.logits))
        got = by_name(result, row)
        assert got.keys() == expected.keys()
        for site, value in expected.items():
            assert_near(got[site], value, f"{name} row {row} {site}")
    offered = {site.name.replace("{l}", "0") for site in server.sites(name).values() if site.has_gradient}
    assert offered == {site for site in by_name(result, 0) if not site.startswith("blocks") or site.startswith("blocks.0.")}


def test_values_beside_gradients_stay_as_they_are(server):
    plain = server.forward("biases", ROWS, captures=[capture("*")], logits=ALL_LOGITS, metrics=[logit_difference(RIGHT, WRONG)], isolated=True)
    both = server.forward("biases", ROWS, captures=[capture("*"), gradient()], logits=ALL_LOGITS, metrics=[logit_difference(RIGHT, WRONG)], isolated=True)
    values = [(h, v) for h, v in both.reply.tensors if not h.gradient_of]
    assert len(values) == len(plain.reply.tensors) and len(values) < len(both.reply.tensors)
    expected = {(h.name, h.row): v for h, v in plain.reply.tensors}
    for header, value in values:
        np.testing.assert_array_equal(value, expected[header.name, header.row], err_msg=header.name)
    assert both.metric() == plain.metric()
    assert both.reply.header.provenance.plan_sha256 != plain.reply.header.provenance.plan_sha256


def log_p(out, at: int) -> torch.Tensor:
    return out.logits[at].log_softmax(-1)


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_every_metric(server, exact, name):
    w, rng = exact(name), np.random.default_rng(7)
    direction = rng.standard_normal(w.d_head).astype(np.float32)
    wide = rng.standard_normal(w.embed.shape[1]).astype(np.float32)
    other = trace(w, C).logits  # constant
    at = [2, 3, 10]

    def read(site: str, vector: np.ndarray, head=None):
        return metric(site, rows=[0], at=[4, 5], read_out=plan_pb2.ReadOut(site=site, direction=tensor(vector), head=head))

    def js(out) -> torch.Tensor:
        p, q = out.logits[at].softmax(-1), other[at].softmax(-1)
        middle = (p + q) / 2
        return ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2

    z, final = "blocks.1.attn.hook_z", "ln_final.hook_normalized"
    vectors = torch.from_numpy(direction).double(), torch.from_numpy(wide).double()
    cases = [
        (metric("mean", rows=[0], mean_logit=plan_pb2.MeanLogit(**tokens(42, 7, 42))), lambda out: out.logits[-1][[42, 7, 42]].mean()),
        (metric("p", rows=[0], at=at, probability=plan_pb2.Probability(**tokens(9, 42))), lambda out: sum(log_p(out, i)[[9, 42]].exp().sum() for i in at)),
        (metric("log", rows=[0], log_probability=plan_pb2.LogProbability(**tokens(9, 42))), lambda out: log_p(out, -1)[[9, 42]].logsumexp(0)),
        (metric("nll", rows=[0], cross_entropy=plan_pb2.CrossEntropy()), lambda out: -sum(log_p(out, i)[A[i + 1]] for i in range(len(A) - 1))),
        (metric("one nll", rows=[0], cross_entropy=plan_pb2.CrossEntropy(token=token(17))), lambda out: -log_p(out, -1)[17]),
        (metric("kl", rows=[0], at=at, kl=reference(2)), lambda out: sum((other[i].softmax(-1) * (other[i].log_softmax(-1) - log_p(out, i))).sum() for i in at)),
        (metric("js", rows=[0], at=at, js=reference(2)), js),
        (metric("l2", rows=[0], at=at, l2=reference(2)), lambda out: sum((out.logits[i] - other[i]).norm() for i in at)),
        (read(z, direction, head=2), lambda out: (out.sites[z][[4, 5], 2] @ vectors[0]).sum()),
        (read(final, wide), lambda out: (out.sites[final][[4, 5]] @ vectors[1]).sum()),
        (read("hook_embed", wide), lambda out: (out.sites["hook_embed"][[4, 5]] @ vectors[1]).sum()),
    ]  # fmt: skip
    result = server.forward(name, ROWS, captures=[gradient(of=m.name) for m, _ in cases], metrics=[m for m, _ in cases])
    for message, scalar in cases:
        expected, got = slow(w, A, scalar), by_name(result, 0, message.name)
        assert got.keys() == expected.keys()
        for site, value in expected.items():
            assert_near(got[site], value, f"{name} {message.name} {site}")
    assert {h.row for h, _ in result.reply.tensors} == {0}


def test_l2_at_distance_zero_has_no_gradient(server):
    same = metric("l2", rows=[0], l2=reference(1))
    result = server.forward("two", [A, A], captures=[gradient("hook_embed", of="l2")], metrics=[same], isolated=True)
    assert np.isfinite(result.get("hook_embed")).all()


def lines(rows: list[int], change):
    """An edit of some lines of a value."""

    def edited(value: torch.Tensor) -> torch.Tensor:
        out = value.clone()
        out[rows] = change(value[rows])
        return out

    return edited


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_gradients_of_edited_runs(server, exact, name):
    """Each edit by itself and all together, against hooks that do the same to the reference's tensors."""
    w, rng = exact(name), np.random.default_rng(3)
    d, d_mlp = w.embed.shape[1], w.layers[0].w_in.shape[1]
    source = trace(w, C).sites
    vector, raw = rng.standard_normal(d).astype(np.float32), rng.standard_normal((2, d)).astype(np.float32)
    basis, wide = torch.from_numpy(span(raw)).double(), torch.from_numpy(vector).double()
    pre, mid, post, z = "blocks.1.hook_resid_pre", "blocks.1.hook_resid_mid", "blocks.0.hook_resid_post", "blocks.1.attn.hook_z"
    scores, pattern, neurons = "blocks.0.attn.hook_attn_scores", "blocks.1.attn.hook_pattern", "blocks.0.mlp.hook_post"
    scale, out, embed = "blocks.1.ln2.hook_scale", "blocks.0.hook_attn_out", "hook_embed"

    def head(value: torch.Tensor) -> torch.Tensor:
        changed = value.clone()
        changed[[3, 4], 1] = source[z][[3, 4], 1]
        return changed

    def units(value: torch.Tensor) -> torch.Tensor:
        keep = torch.ones(d_mlp, dtype=torch.float64)
        keep[[1, 5]] = 0
        return value * keep

    def off(value: torch.Tensor) -> torch.Tensor:
        inside = value @ basis.T @ basis
        return value - inside

    at = [2, 5, 9]
    copied = plan_pb2.CopyFromRow(row=1)
    cases = {
        pre: (edit(pre, rows=[0], at=at, zero=plan_pb2.Zero()), lines(at, lambda x: x * 0)),
        mid: (edit(mid, rows=[0], at=at, set=plan_pb2.Set(value=tensor(vector))), lines(at, lambda x: x * 0 + wide)),
        post: (edit(post, rows=[0], add=plan_pb2.Add(value=tensor(vector), scale=0.5)), lambda x: x + 0.5 * wide),
        z: (copy(z, row=1, to=0, at=[3, 4], heads=[1]), head),
        scores: (edit(scores, rows=[0], scale=plan_pb2.Scale(factor=0.5)), lambda x: torch.where(x.isinf(), x, x.masked_fill(x.isinf(), 0) * 0.5)),
        pattern: (edit(pattern, rows=[0], scale=plan_pb2.Scale(factor=0.9)), lambda x: x * 0.9),
        neurons: (edit(neurons, rows=[0], units=[1, 5], zero=plan_pb2.Zero()), units),
        scale: (edit(scale, rows=[0], interpolate=plan_pb2.Interpolate(source=copied, weight=0.25)), lambda x: 0.75 * x + 0.25 * source[scale]),
        out: (edit(out, rows=[0], at=at, project_out=plan_pb2.ProjectOut(directions=tensor(raw))), lines(at, off)),
        embed: (edit(embed, rows=[0], swap_subspace=plan_pb2.SwapSubspace(source=copied, directions=tensor(raw))),
                lambda x: x + (source[embed] - x) @ basis.T @ basis),
    }  # fmt: skip
    groups = [[site] for site in cases] + [list(cases)]
    for group in groups:
        result = server.forward(
            name, [A, C], captures=[gradient(rows=[0])], metrics=[logit_difference(RIGHT, WRONG, rows=[0])], interventions=[cases[s][0] for s in group]
        )
        expected = slow(w, A, lambda run: difference(run.logits), {s: cases[s][1] for s in group})
        for site, value in expected.items():
            assert_near(by_name(result, 0)[site], value, f"{name} {group} {site}")


def test_edits_that_need_work_of_their_own(server):
    """Means, noise, and the part of a subspace that a matrix reads: the derivative of the metric along a random direction in front of them."""
    name, site, rng = "gqa-tied-sharded", "blocks.0.hook_resid_pre", np.random.default_rng(11)
    width = server.sites(name)["blocks.{l}.hook_resid_pre"].shape[-1]
    d_mlp = server.sites(name)["blocks.{l}.mlp.hook_post"].shape[-1]
    raw = tensor(rng.standard_normal((2, d_mlp)).astype(np.float32))
    swap = plan_pb2.SwapSubspace(source=plan_pb2.CopyFromRow(row=1), directions=raw, part=plan_pb2.SwapSubspace.PART_ROW_SPACE)
    edits = [
        edit("blocks.1.hook_attn_out", rows=[0], at=[4], mean=plan_pb2.Mean(of_rows=plan_pb2.Mean.OfRows(rows=[1]))),
        edit("blocks.1.hook_mlp_out", rows=[0], noise=plan_pb2.Noise(stddev=0.1, seed=5)),
        edit("blocks.1.mlp.hook_post", rows=[0], swap_subspace=swap),
        edit("blocks.2.attn.hook_v", rows=[0], at=[1], resample=plan_pb2.Resample(rows=[1], seed=2)),
    ]
    step = rng.standard_normal((len(A), width)).astype(np.float32)
    check_derivative(server, name, site, edits, step)


def check_derivative(server, name: str, site: str, edits: list, direction: np.ndarray) -> None:
    """Sum of gradient * direction is the central difference of the metric. Metrics near 1 in float32 err by about 1e-6 there, and the third
    derivative's part is the square of the step (2e-3): 1e-3 of the norms' product covers both."""
    step = 2e-3
    moved = [edit(site, rows=[0], add=plan_pb2.Add(value=tensor(direction), scale=sign * step)) for sign in (1, -1)]

    def run(first=(), captures=()):
        return server.forward(name, [A, C], captures=captures, metrics=[logit_difference(RIGHT, WRONG, rows=[0])], interventions=[*first, *edits])

    ahead, behind = (run([move]).metric()[0, len(A) - 1] for move in moved)
    got = run(captures=[gradient(site, rows=[0])]).get(site)
    limit = 1e-3 * np.linalg.norm(got) * np.linalg.norm(direction) / np.sqrt(direction.size) + 1e-3
    assert float((got * direction).sum()) == pytest.approx((ahead - behind) / (2 * step), abs=limit), site


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
@pytest.mark.parametrize("site", ["hook_embed", "blocks.1.hook_resid_mid", "blocks.0.mlp.hook_post", "ln_final.hook_scale"])
def test_finite_differences(server, name, site):
    width = server.sites(name)[site.replace("blocks.0", "blocks.{l}").replace("blocks.1", "blocks.{l}")].shape[-1]
    check_derivative(server, name, site, [], np.random.default_rng(5).standard_normal((len(A), width)).astype(np.float32))


def test_selections_and_reductions(server):
    name, site = "gqa-tied-sharded", "blocks.1.attn.hook_q"
    dot = np.random.default_rng(2).standard_normal((3, 12)).astype(np.float32)
    units = gradient(site, at=[7])
    units.select.units.extend([2, 3])
    asked = [gradient(site), gradient(site, at=[1, 4], heads=[2]), gradient(site, last=True), gradient(site, top_k=2), gradient(site, dot=dot), units]
    result = server.forward(name, ROWS[:1], captures=asked, metrics=[logit_difference(RIGHT, WRONG)])
    whole = result.get(site, capture=0)
    np.testing.assert_array_equal(result.get(site, capture=1), whole[[1, 4]][:, [2]])
    np.testing.assert_array_equal(result.get(site, capture=2), whole[[-1]])
    assert result.header(site, capture=2).gradient_of == "diff" and list(result.header(site, capture=2).positions) == [len(A) - 1]
    np.testing.assert_array_equal(result.get(site, capture=3, part="values"), -np.sort(-whole, axis=-1)[..., :2])
    np.testing.assert_allclose(result.get(site, capture=4), whole @ dot.T, atol=1e-6)
    np.testing.assert_array_equal(result.get(site, capture=5), whole[[7]][..., [2, 3]])


@pytest.mark.parametrize("start", ["blocks.1.hook_resid_pre", "blocks.1.hook_resid_mid"])
def test_rows_that_begin_in_the_middle(server, exact, start):
    name, w = "gqa-tied-sharded", exact("gqa-tied-sharded")
    whole = trace(w, A).sites[start].float().numpy()
    begun = plan_pb2.Activations(start_at=start, value=tensor(whole), token_ids=A)
    sites = [start, "blocks.1.hook_resid_post", "blocks.2.attn.hook_k", "ln_final.hook_normalized"]
    result = server.forward(name, [begun], captures=[gradient(sites)], metrics=[logit_difference(RIGHT, WRONG)])
    expected = slow(w, A, lambda out: difference(out.logits), {start: lambda _: torch.from_numpy(whole).double()})
    for site in sites:
        assert_near(by_name(result, 0)[site], expected[site], f"{start} {site}")


def test_rows_without_the_metric(server):
    measured = logit_difference(RIGHT, WRONG, rows=[1, 2])
    result = server.forward("two", ROWS, captures=[gradient("hook_embed")], metrics=[measured])
    assert [h.row for h, _ in result.reply.tensors] == [1, 2]


def bad(name: str):
    keep = gradient("hook_embed")
    keep.keep.ttl_seconds = 5
    lens = gradient("blocks.0.hook_resid_pre")
    lens.reduction.lens.top_k = 3
    return {
        "no such metric": (gradient(of="other"), "INVALID_ARGUMENT", "one of the request's metrics: diff, rank"),
        "a rank": (gradient(of="rank"), "INVALID_ARGUMENT", "no gradient"),
        "a row without it": (gradient(rows=[0, 1]), "INVALID_ARGUMENT", "row 1 does not have the metric"),
        "a site without it": (gradient("blocks.0.hook_q_input"), "FAILED_PRECONDITION", "hook_resid_pre"),
        "one of several": (gradient(["blocks.*.hook_resid_pre", "blocks.*.hook_attn_in"]), "FAILED_PRECONDITION", "gradients are offered at"),
        "no such site": (gradient("blocks.0.hook_nothing"), "NOT_FOUND", "hook_nothing"),
        "kept": (keep, "INVALID_ARGUMENT", "exclude each other"),
        "through the lens": (lens, "INVALID_ARGUMENT", "last, top_k and dot"),
        "a long name": (gradient(of="x" * 300), "INVALID_ARGUMENT", "256 bytes"),
    }[name]


@pytest.mark.parametrize(
    "name", ["no such metric", "a rank", "a row without it", "a site without it", "one of several", "no such site", "kept", "through the lens", "a long name"]
)
def test_bad_requests(server, name):
    asked, code, says = bad(name)
    metrics = [logit_difference(RIGHT, WRONG, rows=[0]), metric("rank", rank=plan_pb2.Rank(token=token(3)))]
    with pytest.raises(grpc.RpcError) as raised:
        server.forward("two", ROWS, captures=[asked], metrics=metrics)
    assert raised.value.code().name == code and says in raised.value.details(), raised.value.details()


def test_without_any_metric(server):
    with pytest.raises(grpc.RpcError, match="there are none"):
        server.forward("two", ROWS, captures=[gradient()])


# The SDK.


def test_run_with_cache(client, exact):
    model, w = client.model("gqa-tied-sharded"), exact("gqa-tied-sharded")
    logits, cache = model.run_with_cache([A, C], "blocks.*.hook_resid_pre", grad_of=fs.metrics.logit_diff(RIGHT, WRONG))
    assert logits.shape == (2, len(A), 300)
    for row, ids in enumerate([A, C]):
        expected = slow(w, ids, lambda out: difference(out.logits))
        assert_near(cache["blocks.2.hook_resid_pre_grad"][row], expected["blocks.2.hook_resid_pre"], "hook_resid_pre_grad")
    assert cache["resid_pre_grad", 2] is cache["blocks.2.hook_resid_pre_grad"]
    assert cache["resid_pre_grad", -1].shape == cache["resid_pre", -1].shape
    assert len(cache) == 6 and "blocks.0.hook_resid_pre_grad" in repr(cache).replace("{0..2}", "0")


def test_metrics_of_each_prompt(client, exact):
    model, w = client.model("two"), exact("two")
    own = fs.metrics.logit_diff([5, 11, 9], [17, 3, 4], per_prompt=True)
    result = model.run_with_hooks(ROWS, [fs.zero(fs.at("blocks.1.hook_mlp_out", positions=[1]))], names_filter="blocks.1.hook_resid_mid", grad_of=own)
    for row, (ids, right, wrong) in enumerate(zip(ROWS, [5, 11, 9], [17, 3, 4], strict=True)):
        zero = {"blocks.1.hook_mlp_out": lines([1], lambda x: x * 0)}
        expected = slow(w, ids, lambda out, r=right, n=wrong: out.logits[-1][r] - out.logits[-1][n], zero)
        assert_near(result.cache["blocks.1.hook_resid_mid_grad"][row], expected["blocks.1.hook_resid_mid"], f"row {row}")
    assert result.metrics[own].shape == (3,)
    single = model.run_with_cache(A, "hook_embed", grad_of=fs.metrics.kl(C), logits=None, remove_batch_dim=True)[1]
    assert single["hook_embed_grad"].shape == (len(A), 48) and single["hook_embed_grad"].any()


def test_async(client):
    async def run():
        model = await fs.AsyncClient(client).model("two")
        return await model.run_with_cache(A, "hook_embed", grad_of=fs.metrics.logit_diff(5, 17))

    expected = client.model("two").run_with_cache(A, "hook_embed", grad_of=fs.metrics.logit_diff(5, 17))[1]["hook_embed_grad"]
    np.testing.assert_allclose(asyncio.run(run())[1]["hook_embed_grad"], expected, atol=1e-6)


def test_what_the_sdk_refuses(client):
    model = client.model("two")
    with pytest.raises(ValueError, match="names_filter"):
        model.run_with_hooks(A, grad_of=fs.metrics.logit_diff(5, 17))
    with pytest.raises(ValueError, match="fs.metrics"):
        model.run_with_cache(A, "hook_embed", grad_of="logit_diff")
    with pytest.raises(fs.FailedPreconditionError, match="gradients are offered at"):
        model.run_with_cache(A, "blocks.0.hook_attn_in", grad_of=fs.metrics.logit_diff(5, 17))
    assert not model.hooks()["blocks.0.hook_attn_in"].has_gradient and model.hooks()["hook_embed"].has_gradient


@pytest.mark.parametrize("name", MODELS)
def test_what_the_table_says_of_gradients_is_what_is_answered(client, name):
    """Every hook point by its own name: those with has_gradient answer, in their shape, and all others are refused."""
    model, diff, answered = client.model(name), fs.metrics.logit_diff(5, 17), 0
    for hook in model.hooks():
        site = hook.name.replace("{l}", "0")
        if hook.has_gradient:
            _, cache = model.run_with_cache(A, site, grad_of=diff, logits=None)
            assert cache[site + "_grad"].shape == cache[site].shape and cache[site + "_grad"].dtype == np.float32
            answered += 1
        else:
            with pytest.raises(fs.FailedPreconditionError, match=re.escape(hook.unavailable_because) or f"no gradient can be taken at {site}"):
                model.run_with_cache(A, site, grad_of=diff, logits=None)
    assert 20 < answered < len(model.hooks())
    assert "edit  gradient" in repr(model.hooks()).splitlines()[0]


def test_cost(client):
    model, plain = client.model("two"), {"metrics": [fs.metrics.logit_diff(5, 17)]}
    without = model.estimate(A, "blocks.*.hook_resid_pre", **plain)
    with_it = model.estimate(A, "blocks.*.hook_resid_pre", grad_of=plain["metrics"][0])
    assert with_it.reply_bytes == 2 * without.reply_bytes and with_it.flops == pytest.approx(4 * without.flops)
