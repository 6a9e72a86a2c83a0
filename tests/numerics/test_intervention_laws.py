"""What holds of interventions whatever the numbers are, at every site that can be edited."""

from __future__ import annotations

import numpy as np
import pytest
from fluoroscope._proto.v1 import plan_pb2

from .compare import rounding
from .serving import ALL_LOGITS, capture, edit, tensor
from .test_interventions import KEYS, LAYER, MODELS, SOURCES, A, B, editable, size_of


def sites_of(server, name: str) -> list[str]:
    return [site.replace("{l}", str(LAYER)) for _, site in editable(server, name)]


@pytest.mark.parametrize("name", MODELS)
def test_what_does_nothing_and_what_comes_last(server, name):
    for site in sites_of(server, name):
        check_laws(server, name, site)


def check_laws(server, name: str, site: str) -> None:
    units = size_of(server, name, site, A)
    rng = np.random.default_rng(3)
    value = tensor(rng.standard_normal(units).astype(np.float32) + 2)

    def run(*edits):
        return server.forward(name, [A, A], interventions=edits, logits=ALL_LOGITS).get("logits", 0)

    def kind(**message):
        return edit(site, rows=[0], **message)

    # What does nothing is compared with another way to do nothing, because looking at a pattern changes how a row attends.
    clean = run(kind(scale=plan_pb2.Scale(factor=1)))
    np.testing.assert_allclose(clean, server.forward(name, [A], logits=ALL_LOGITS).get("logits"), atol=rounding(clean), rtol=0, err_msg=site)
    zero = tensor(np.zeros(units, np.float32))
    same = plan_pb2.CopyFromRow(row=1)
    nothing = {
        "add 0": kind(add=plan_pb2.Add(value=zero)),
        "add with scale 0": kind(add=plan_pb2.Add(value=value, scale=0)),
        "noise of 0": kind(noise=plan_pb2.Noise(stddev=0, seed=1)),
    }
    for what, message in nothing.items():
        np.testing.assert_array_equal(run(message), clean, err_msg=f"{site} {what}")
    own = {
        "own value": kind(copy=same),
        "between own and own": kind(interpolate=plan_pb2.Interpolate(source=same, weight=0.4)),
        "own subspace": kind(swap_subspace=plan_pb2.SwapSubspace(source=same, directions=tensor(np.ones((1, units), np.float32)))),
    }
    for what, message in own.items():
        np.testing.assert_allclose(run(message), clean, atol=rounding(clean), rtol=0, err_msg=f"{site} {what}")
    set_it = kind(set=plan_pb2.Set(value=value))
    zero_it = kind(zero=plan_pb2.Zero())
    np.testing.assert_array_equal(run(zero_it, set_it), run(set_it), err_msg=f"{site} zero, then set")
    np.testing.assert_array_equal(run(set_it, zero_it), run(zero_it), err_msg=f"{site} set, then zero")
    if site.endswith(("scale", "scores")):
        return  # 0 is no value like others; nothing is left of a scale, which has one unit; masked scores are put back after each projection
    assert not np.allclose(run(zero_it), clean, atol=1e-3), site
    out = kind(project_out=plan_pb2.ProjectOut(directions=tensor(rng.standard_normal((min(2, units), units)).astype(np.float32))))
    np.testing.assert_allclose(run(out, out), run(out), atol=rounding(clean), rtol=0, err_msg=f"{site} project out twice")


def without_source(units: int) -> list[dict]:
    ones = tensor(np.ones(units, np.float32))
    return [
        {"zero": plan_pb2.Zero()}, {"set": plan_pb2.Set(value=ones)}, {"add": plan_pb2.Add(value=ones)}, {"scale": plan_pb2.Scale(factor=3)},
        {"mean": plan_pb2.Mean(value=ones)}, {"project_out": plan_pb2.ProjectOut(directions=tensor(np.ones((1, units), np.float32)))},
        {"noise": plan_pb2.Noise(stddev=1, seed=4)},
    ]  # fmt: skip


def with_source(units: int) -> list[dict]:
    other = plan_pb2.CopyFromRow(row=4)
    return [
        {"copy": other}, {"interpolate": plan_pb2.Interpolate(source=other, weight=0.4)}, {"resample": plan_pb2.Resample(rows=[4], seed=2)},
        {"mean": plan_pb2.Mean(of_rows=plan_pb2.Mean.OfRows(rows=[4]))},
        {"swap_subspace": plan_pb2.SwapSubspace(source=other, directions=tensor(np.ones((1, units), np.float32)))},
    ]  # fmt: skip


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_edits_of_one_row_leave_the_bits_of_the_others_alone(server, name, isolated):
    """With a source, the source's row is in an earlier batch than without, so only isolated rows keep their bits then."""
    rows, others = [B, A, SOURCES[0], A, SOURCES[1]], (0, 2, 3)
    seen = capture("blocks.*.hook_resid_post", rows=others)

    def run(*edits):
        return server.forward(name, rows, interventions=edits, captures=[seen], logits=ALL_LOGITS, isolated=isolated)

    plain = run()
    for site in sites_of(server, name):
        units = size_of(server, name, site, A)
        for message in without_source(units) + (with_source(units) if isolated else []):
            result = run(edit(site, rows=[1], **message))
            for row in others:
                what = f"{site} {list(message)} row {row}"
                np.testing.assert_array_equal(result.get("logits", row), plain.get("logits", row), err_msg=what)
                for hook, value in plain.sites(row).items():
                    np.testing.assert_array_equal(result.sites(row)[hook], value, err_msg=f"{what}: {hook}")
