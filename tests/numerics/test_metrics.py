"""Metrics equal numpy in float64 on the logits that come back, for rows of all lengths, alone and many at a time."""

from __future__ import annotations

import numpy as np
import pytest
from fluoroscope._proto.v1 import plan_pb2

from .compare import TINY
from .serving import ALL_LOGITS, capture, copy, edit, logit_difference, positions, tensor, token

A = [0, 17, 42, 250, 42, 7, 133, 299, 64, 5, 81]
B = [5, 6, 7, 8, 9, 11]
ROWS = [A, B, [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], A[::-1], B[::-1], [7]]
MODELS = ["gqa-tied-sharded", "two", "two-untied-head20"]


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(x))


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


def metric(name: str, *, at=None, rows=(), **kind) -> plan_pb2.Metric:
    out = plan_pb2.Metric(name=name, rows=rows, **kind)
    if at is not None:
        out.positions.CopyFrom(positions(at))
    return out


def tokens(*ids: int) -> dict:
    return {"tokens": [token(i) for i in ids]}


def reference(row: int, at=None) -> plan_pb2.ToReference:
    out = plan_pb2.ToReference(row=row)
    if at is not None:
        out.positions.CopyFrom(positions(at))
    return out


def run(server, name, metrics, **options):
    """(values by (name, row, position), logits by row in float64)."""
    result = server.forward(name, ROWS, metrics=metrics, logits=ALL_LOGITS, **options)
    values = {(m.name, m.row, m.position): m.value for m in result.reply.summary.metrics}
    return values, [result.get("logits", row).astype(np.float64) for row in range(len(ROWS))]


@pytest.mark.parametrize("name", MODELS)
def test_metrics_of_chosen_tokens(server, name):
    metrics = [
        logit_difference([1, 2, 3], [4, 5], at="all"),
        metric("one", at="all", mean_logit=plan_pb2.MeanLogit(**tokens(42))),
        metric("mean", mean_logit=plan_pb2.MeanLogit(**tokens(42, 7, 42))),
        metric("p", at="all", probability=plan_pb2.Probability(**tokens(9))),
        metric("any", at="all", probability=plan_pb2.Probability(**tokens(9, 42, 9))),
        metric("log", at="all", log_probability=plan_pb2.LogProbability(**tokens(9))),
        metric("log any", log_probability=plan_pb2.LogProbability(**tokens(9, 42))),
        metric("rank", at="all", rank=plan_pb2.Rank(token=token(250))),
        metric("nll", at="all", cross_entropy=plan_pb2.CrossEntropy(token=token(17))),
    ]
    values, logits = run(server, name, metrics)
    for row, ids in enumerate(ROWS):
        last = len(ids) - 1
        for p in range(len(ids)):
            x = logits[row][p]
            log_p = log_softmax(x)
            expected = {"diff": x[[1, 2, 3]].mean() - x[[4, 5]].mean(), "one": x[42], "p": np.exp(log_p[9]), "any": np.exp(log_p[[9, 42]]).sum(),
                        "log": log_p[9], "nll": -log_p[17]}  # fmt: skip
            if p == last:
                expected |= {"mean": x[[42, 7, 42]].mean(), "log any": np.log(np.exp(log_p[[9, 42]]).sum())}
            for what, value in expected.items():
                assert values.pop((what, row, p)) == pytest.approx(value, abs=TINY), (what, row, p)
            assert values.pop(("rank", row, p)) == 1 + (x > x[250]).sum()
    assert not values


@pytest.mark.parametrize("name", MODELS)
def test_cross_entropy_of_the_next_tokens(server, name):
    rows = [row for row, ids in enumerate(ROWS) if len(ids) > 1]
    values, logits = run(server, name, [metric("ce", rows=rows, cross_entropy=plan_pb2.CrossEntropy()),
                                        metric("some", rows=[0], at=[0, 4], cross_entropy=plan_pb2.CrossEntropy())])  # fmt: skip
    for row in rows:
        for p, target in enumerate(ROWS[row][1:]):
            expected = -log_softmax(logits[row][p])[target]
            assert values.pop(("ce", row, p)) == pytest.approx(expected, abs=TINY)
            if row == 0 and p in (0, 4):
                assert values.pop(("some", 0, p)) == pytest.approx(expected, abs=TINY)
    assert not values


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("isolated", [False, True])
def test_comparisons_with_a_reference_row(server, name, isolated):
    """In the same batch or not, at the same positions or mapped ones, for all other rows or some."""
    long_rows = [2, 3]
    metrics = [metric(f"{kind} all", at="all", rows=long_rows, **{kind: reference(0)}) for kind in ("kl", "js", "l2")]
    metrics += [metric(f"{kind} first", at=0, **{kind: reference(5)}) for kind in ("kl", "js", "l2")]
    metrics += [metric(f"{kind} mapped", at=[1, 3], rows=[1, 4], **{kind: reference(3, at=[7, 10])}) for kind in ("kl", "js", "l2")]
    values, logits = run(server, name, metrics, isolated=isolated)

    def expected(kind, own, other):
        if kind == "l2":
            return np.linalg.norm(own - other)
        p, q = softmax(other), softmax(own)
        return kl(p, q) if kind == "kl" else (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2

    for kind in ("kl", "js", "l2"):
        cases = [("all", row, p, 0, p) for row in long_rows for p in range(11)] + [("first", row, 0, 5, 0) for row in range(5)]
        cases += [("mapped", row, p, 3, q) for row in (1, 4) for p, q in ((1, 7), (3, 10))]
        for what, row, p, other, q in cases:
            value = values.pop((f"{kind} {what}", row, p))
            assert value == pytest.approx(expected(kind, logits[row][p], logits[other][q]), abs=2e-4 if kind == "l2" else TINY), (kind, what, row, p)
    assert not values


@pytest.mark.parametrize("name", MODELS)
def test_comparison_with_itself_is_zero_and_with_an_edit_is_not(server, name):
    add = edit("blocks.1.hook_mlp_out", rows=[1], units=[0, 1, 2], add=plan_pb2.Add(value=tensor(np.float32(0.5))))
    metrics = [metric(kind, at="all", rows=[1, 2], **{kind: reference(0)}) for kind in ("kl", "js", "l2")]
    result = server.forward(name, [A, A, A], interventions=[add], metrics=metrics, isolated=True)
    for kind in ("kl", "js", "l2"):
        values = result.metric(kind)
        assert all(abs(values[2, p]) < 1e-6 for p in range(11)), kind
        assert all(values[1, p] > 1e-6 for p in range(11)), kind
    assert not result.reply.tensors, "metrics only"


@pytest.mark.parametrize("name", MODELS)
def test_read_outs(server, name):
    sites = {"ln_final.hook_normalized": None, "blocks.1.hook_resid_post": None, "hook_embed": None, "blocks.2.mlp.hook_post": None,
             "blocks.1.attn.hook_z": 1, "blocks.0.attn.hook_q": 3, "blocks.1.hook_mlp_out": None}  # fmt: skip
    if name == "two-untied-head20":
        sites.pop("blocks.2.mlp.hook_post")
    plain = server.forward(name, ROWS, captures=[capture(list(sites))])
    rng = np.random.default_rng(8)
    metrics, directions = [], {}
    for site, head in sites.items():
        directions[site] = rng.standard_normal(plain.get(site).shape[-1]).astype(np.float32)
        message = plan_pb2.ReadOut(site=site, direction=tensor(directions[site]), head=head)
        metrics += [metric(site, at="all", read_out=message), metric(site + " last", read_out=message)]
    result = server.forward(name, ROWS, metrics=metrics)
    for site, head in sites.items():
        for row, ids in enumerate(ROWS):
            value = plain.get(site, row) if head is None else plain.get(site, row)[:, head]
            expected = value.astype(np.float64) @ directions[site]
            for p in range(len(ids)):
                assert result.metric(site)[row, p] == pytest.approx(expected[p], abs=TINY), (site, row, p)
            assert result.metric(site + " last")[row, len(ids) - 1] == pytest.approx(expected[-1], abs=TINY)


def test_many_rows_with_metrics_of_their_own(server):
    """Each row has its own answers, so that many products meet in one; and one metric is shared by all."""
    rng = np.random.default_rng(9)
    rows = [rng.integers(0, 300, rng.integers(1, 12)).tolist() for _ in range(200)]
    answers = rng.integers(0, 300, (200, 2))
    metrics = [logit_difference([int(right)], [int(wrong)], name=f"own {row}", rows=[row]) for row, (right, wrong) in enumerate(answers)]
    metrics += [logit_difference([1], [2], name="shared"), metric("p", probability=plan_pb2.Probability(**tokens(5)))]
    result = server.forward("two", rows, metrics=metrics, logits=ALL_LOGITS)
    assert len(result.reply.summary.metrics) == 3 * 200
    for row, ids in enumerate(rows):
        x, last = result.get("logits", row)[-1].astype(np.float64), len(ids) - 1
        right, wrong = answers[row]
        assert result.metric(f"own {row}") == {(row, last): pytest.approx(x[right] - x[wrong], abs=TINY)}
        assert result.metric("shared")[row, last] == pytest.approx(x[1] - x[2], abs=TINY)
        assert result.metric("p")[row, last] == pytest.approx(softmax(x)[5], abs=TINY)


def test_more_positions_than_one_step_takes(server):
    """Vocabulary metrics go in pieces of 128 positions."""
    rng = np.random.default_rng(10)
    rows = [rng.integers(0, 300, 60).tolist() for _ in range(8)]
    metrics = [metric("ce", cross_entropy=plan_pb2.CrossEntropy()), metric("kl", at="all", kl=reference(0))]
    result = server.forward("two", rows, metrics=metrics, logits=ALL_LOGITS)
    x = [result.get("logits", row).astype(np.float64) for row in range(8)]
    for row in range(8):
        for p in range(59):
            assert result.metric("ce")[row, p] == pytest.approx(-log_softmax(x[row][p])[rows[row][p + 1]], abs=TINY)
        for p in range(60 if row else 0):
            assert result.metric("kl")[row, p] == pytest.approx(kl(softmax(x[0][p]), softmax(x[row][p])), abs=TINY)


def test_a_reference_that_runs_after_a_copy(server):
    """The reference row is itself edited; it still runs before the row that is compared with it."""
    patch = copy("blocks.1.hook_resid_pre", row=2, to=0, at=5)
    result = server.forward("two", [A, A, ROWS[2]], interventions=[patch], metrics=[metric("kl", rows=[1], kl=reference(0))], logits=ALL_LOGITS)
    own, other = (softmax(result.get("logits", row)[-1].astype(np.float64)) for row in (1, 0))
    assert result.metric("kl") == {(1, 10): pytest.approx(kl(other, own), abs=TINY)}


def slow_rank(logits: np.ndarray, of: int) -> float:
    """How many are larger, plus 1; NaN where something cannot be compared."""
    return float("nan") if np.isnan(logits).any() else float(1 + (logits > logits[of]).sum())


def test_numbers_too_large_have_no_rank(server):
    """Row 0 overflows: infinity times 0 in the next norm. It must not look as if the token were the best."""
    overflow = [edit([f"blocks.{layer}.hook_resid_post"], rows=[0], scale=plan_pb2.Scale(factor=1e38)) for layer in (0, 1)]
    values, logits = run(server, "two", [metric("rank", at="all", rank=plan_pb2.Rank(token=token(250)))], interventions=overflow)
    for row, ids in enumerate(ROWS):
        np.testing.assert_array_equal([values["rank", row, p] for p in range(len(ids))], [slow_rank(line, 250) for line in logits[row]])
    assert all(np.isnan(values["rank", 0, p]) for p in range(len(A))) and values["rank", 1, 0] >= 1
