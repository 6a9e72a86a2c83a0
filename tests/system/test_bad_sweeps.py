"""Every kind of bad sweep, over the wire: its code, what its message teaches, and that the next correct sweep is answered with the right numbers."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from .wire import v1

INVALID, NOT_FOUND, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
SWEEP, ESTIMATE = "fluoroscope.v1.Patching/Sweep", "fluoroscope.v1.Patching/EstimateSweep"
CLEAN, CORRUPT = [1, 2, 3, 4, 5, 6], [1, 2, 9, 4, 8, 6]
LAYER, POSITION, HEAD, UNIT = (f"SWEEP_AXIS_{axis}" for axis in ("LAYER", "POSITION", "HEAD", "UNIT"))


def pair(clean=CLEAN, corrupt=CORRUPT, **fields):
    return {"clean": {"tokens": {"ids": clean}}, "corrupt": {"tokens": {"ids": corrupt}}} | fields


def metric(right=None, wrong=None, **fields):
    return {"name": "diff", "logit_difference": {"right": [right or {"id": 7}], "wrong": [wrong or {"id": 11}]}} | fields


def positions(*indices: int):
    return {"items": [{"index": index} for index in indices]}


def sweep(**fields):
    """A correct request, or one with the given fields in place of its own."""
    correct = {"model": "tiny", "pairs": [pair()], "sites": ["hook_resid_pre"], "over": [LAYER, POSITION], "metrics": [metric()]}
    return v1("SweepRequest")(**correct | fields)


def noise(site="hook_embed", **select):
    return {"select": {"sites": [site]} | select, "noise": {"stddev": 1, "seed": 1}}


def of_100_million_cells():
    """64 sites x 3 layers x 4 heads x 64 queries x 64 keys x 32 pairs = 100,663,296 cells."""
    return sweep(pairs=[pair([1] * 64, [1] * 63 + [2])] * 32, sites=["attn.hook_pattern"] * 64, over=["SWEEP_AXIS_SITE", LAYER, HEAD, POSITION, UNIT])


def unknown_field() -> bytes:
    return sweep().SerializeToString() + b"\xf8\x07\x01"  # field 127, a varint


TABLE = {
    "no pairs": (lambda: sweep(pairs=[]), INVALID, ["pairs is empty"]),
    "no corrupt prompt": (lambda: sweep(pairs=[{"clean": {"text": "a"}}]), INVALID, ["pairs[0].corrupt is missing"]),
    "unequal lengths without a map": (lambda: sweep(pairs=[pair(CLEAN + [7])]), INVALID, ["pairs[0]", "7 (source)", "6 (base)", "source_positions"]),
    "map of another length": (lambda: sweep(pairs=[pair(source_positions=[0, 1])]), INVALID, ["pairs[0].source_positions has 2", "6 tokens"]),
    "map outside the source": (lambda: sweep(pairs=[pair(source_positions=[0, 1, 2, 3, 4, 6])]), INVALID, ["source_positions: 6", "0 to 5", "-1"]),
    "no metric": (lambda: sweep(metrics=[]), INVALID, ["metrics is empty"]),
    "unknown metric token": (lambda: sweep(metrics=[metric({"id": 400})]), INVALID, ["metrics[0].logit_difference.right[0]", "token id 400", "vocabulary of 400"]),
    "metric token of several pieces": (lambda: sweep(metrics=[metric({"text": "Mary"})]), INVALID,
                                       ["metrics[0].logit_difference.right[0]: 'Mary' is 2 tokens ('Mar', 'y'); exactly one is needed"]),
    "metric at several positions": (lambda: sweep(metrics=[metric(positions=positions(1, 2))]), INVALID, ["metrics[0].positions are 2", "one position"]),
    "metric twice": (lambda: sweep(metrics=[metric(), metric()]), INVALID, ["'diff' is given 2 times", "each metric once"]),
    "metric that is no logit's": (lambda: sweep(metrics=[{"name": "d", "read_out": {"site": "ln_final.hook_normalized", "direction": {
        "dtype": "DTYPE_F32", "shape": [1], "data": b"\0\0\0\0"}}}]), INVALID, ["metrics[0]", "read_out is not among them", "logit_difference"]),
    "metric against another row": (lambda: sweep(metrics=[{"name": "d", "kl": {"row": 2}}]), INVALID, ["metrics[0].kl.row is 2", "base run", "source run"]),
    "metric against other positions": (lambda: sweep(metrics=[{"name": "d", "l2": {"positions": positions(1)}}]), INVALID, ["metrics[0]", "own position"]),
    "comparison at several positions": (lambda: sweep(metrics=[{"name": "d", "js": {}, "positions": positions(1, 2)}]), INVALID, ["metrics[0].positions are 2"]),
    "10^8 cells": (of_100_million_cells, EXHAUSTED, ["3145728 cells for each of 32 pairs, 100663296 together", "200000"]),
    "site that cannot be patched": (lambda: sweep(sites=["hook_q_input"]), PRECONDITION, ["hook_q_input", "read but not edited"]),
    "unknown site": (lambda: sweep(sites=["hook_residual"]), NOT_FOUND, ["sites[0]", "hook_residual", "hook_resid_pre"]),
    "site with its layer": (lambda: sweep(sites=["blocks.0.hook_resid_pre"]), NOT_FOUND, ["sites[0]"]),
    "sites by a glob": (lambda: sweep(sites=["hook_resid_*"]), INVALID, ["sites[0]", "not one site"]),
    "several sites without an axis": (lambda: sweep(sites=["hook_resid_pre", "hook_mlp_out"]), INVALID, ["SWEEP_AXIS_SITE"]),
    "no axis": (lambda: sweep(over=[]), INVALID, ["over is empty"]),
    "axis twice": (lambda: sweep(over=[LAYER, LAYER]), INVALID, ["over[1]", "second time"]),
    "heads where there are none": (lambda: sweep(over=[LAYER, HEAD]), INVALID, ["hook_resid_pre has no head axis"]),
    "unknown head": (lambda: sweep(sites=["attn.hook_k"], over=[HEAD], heads=[2]), INVALID, ["2", "0 to 1"]),
    "unknown layer": (lambda: sweep(layers=[3]), INVALID, ["layers: 3", "0 to 2"]),
    "position out of range": (lambda: sweep(positions=positions(6)), INVALID, ["positions (pair 0)", "6"]),
    "position before the start": (lambda: sweep(positions=positions(-7)), INVALID, ["positions (pair 0)", "-7"]),
    "group out of range": (lambda: sweep(groups=[{"name": "end", "positions": [positions(9)]}]), INVALID, ["groups[0] (pair 0)", "9"]),
    "group without a name": (lambda: sweep(groups=[{"positions": [positions(1)]}]), INVALID, ["groups[0].name"]),
    "groups and positions": (lambda: sweep(groups=[{"name": "a", "positions": [positions(1)]}], positions=positions(1)), INVALID, ["groups", "positions"]),
    "groups without their axis": (lambda: sweep(over=[LAYER], groups=[{"name": "a", "positions": [positions(1)]}]), INVALID, ["SWEEP_AXIS_POSITION"]),
    "window without layers": (lambda: sweep(over=[POSITION], window=2), INVALID, ["window is 2", "SWEEP_AXIS_LAYER"]),
    "window of more layers than there are": (lambda: sweep(window=4), INVALID, ["window is 4", "3 layers"]),
    "blocks without units": (lambda: sweep(unit_block=2), INVALID, ["unit_block", "SWEEP_AXIS_UNIT"]),
    "unknown unit": (lambda: sweep(over=[UNIT], units=[48]), INVALID, ["unit 48", "0 to 47"]),
    "references of a patch": (lambda: sweep(references=[{"text": "a"}]), INVALID, ["references", "SWEEP_KIND_MEAN"]),
    "nothing to draw from": (lambda: sweep(kind="SWEEP_KIND_RESAMPLE"), INVALID, ["references", "6 tokens"]),
    "map of an ablation": (lambda: sweep(pairs=[pair(source_positions=range(6))], kind="SWEEP_KIND_ZERO"), INVALID, ["only patches"]),
    "axis of path patching": (lambda: sweep(over=[LAYER, "SWEEP_AXIS_SENDER"]), INVALID, ["over[1]", "not an axis of sweeps"]),
    "window_before without a window": (lambda: sweep(window_before=1), INVALID, ["window_before is 1", "window of 1"]),
    "edits inside the blocks": (lambda: sweep(corrupt_interventions=[noise("blocks.0.hook_resid_pre")]), INVALID, ["blocks.0.hook_resid_pre", "hook_embed"]),
    "edits from another row": (lambda: sweep(corrupt_interventions=[{"select": {"sites": ["hook_embed"]}, "copy": {"row": 0}}]), INVALID,
                               ["corrupt_interventions[0]", "noise"]),
    "edits of a pair that is not there": (lambda: sweep(corrupt_interventions=[noise(rows=[1])]), INVALID, ["corrupt_interventions[0].select.rows"]),
    "edits of a position that is not there": (lambda: sweep(corrupt_interventions=[noise(positions=positions(6))]), INVALID, ["corrupt_interventions[0]", "6"]),
    "unknown model": (lambda: sweep(model="huge"), NOT_FOUND, ["huge", "tiny"]),
    "prompt over the context": (lambda: sweep(pairs=[pair([1] * 65, [2] * 65)]), INVALID, ["pairs[0].clean", "65", "64"]),
    "enum 0": (lambda: sweep(direction=0), INVALID, ["direction is 0", "DENOISE"]),
    "unknown field": (unknown_field, INVALID, ["unknown field number 127", "fluoroscope.v1.SweepRequest"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def client(shared_server):
    return shared_server.client()


def run(client, request) -> tuple[np.ndarray, np.ndarray, object]:
    """The values [layers, positions] of a sweep over one pair, its (base, source), and the summary."""
    parts = list(client.call(SWEEP, request, timeout=30))
    header, summary = parts[0].header, parts[-1].summary
    values = np.full([len(axis.labels) for axis in header.axes], np.nan)
    runs = np.zeros(2)
    for part in parts[1:-1]:
        if part.WhichOneof("part") == "reference":
            runs[:] = [np.frombuffer(part.reference.base, "<f8")[0], np.frombuffer(part.reference.source, "<f8")[0]]
        else:
            values.flat[np.frombuffer(part.cells.cells, "<u4")] = np.frombuffer(part.cells.values, "<f8")
    return values, runs, summary


@pytest.fixture(scope="module")
def truth(client) -> np.ndarray:
    """What the correct sweep must say: each cell as a patched row of a Forward."""
    cells = [(layer, position) for layer in range(3) for position in range(len(CORRUPT))]
    request = v1("ForwardRequest")(model="tiny", prompts=[{"tokens": {"ids": CLEAN}}] + [{"tokens": {"ids": CORRUPT}}] * len(cells), metrics=[metric()])
    for row, (layer, position) in enumerate(cells, 1):
        request.interventions.add(select={"sites": [f"blocks.{layer}.hook_resid_pre"], "rows": [row], "positions": positions(position)}, copy={"row": 0})
    summary, _ = client.forward(request)
    return np.array([value.value for value in sorted(summary.metrics, key=lambda value: value.row)[1:]]).reshape(3, len(CORRUPT))


def serves(client, truth):
    values, _, summary = run(client, sweep())
    np.testing.assert_allclose(values, truth, atol=1e-5)
    assert not summary.warnings


@pytest.mark.parametrize("case", TABLE)
def test_bad_sweep(client, truth, case):
    make, code, words = TABLE[case]
    for method in (SWEEP, ESTIMATE):
        with pytest.raises(grpc.RpcError) as error:
            reply = client.call(method, make(), timeout=30)
            list(reply) if method == SWEEP else reply
        assert error.value.code() == code, error.value.details()
        for word in words:
            assert word in error.value.details()
    serves(client, truth)


def test_the_correct_sweep_is_no_trivial_one(truth):
    assert np.abs(truth - truth[0, 0]).max() > 1e-3


@pytest.mark.parametrize("direction", ["SWEEP_DIRECTION_DENOISE", "SWEEP_DIRECTION_NOISE"])
def test_source_equal_to_base_is_answered_with_a_warning(client, truth, direction):
    values, (base, source), summary = run(client, sweep(pairs=[pair(CLEAN, CLEAN)], direction=direction))
    assert base == source and (values == base).all()
    assert len(summary.warnings) == 1 and "pairs[0]" in summary.warnings[0] and "same tokens" in summary.warnings[0]
    serves(client, truth)
