"""Every kind of bad path patching request, over the wire: its code, what its message teaches, and that the next correct one is answered rightly."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from .test_bad_sweeps import CLEAN, CORRUPT, EXHAUSTED, INVALID, NOT_FOUND, metric, pair, positions
from .wire import v1

PATHS, ESTIMATE = "fluoroscope.v1.Patching/PathPatch", "fluoroscope.v1.Patching/EstimatePathPatch"


def end(*sites: str, heads=(), **fields):
    return {"nodes": [{"site": site, "heads": heads} for site in sites]} | fields


def z(layer: int, *heads: int, **fields):
    return end(f"blocks.{layer}.attn.hook_z", heads=heads, **fields)


def paths(**fields):
    """A correct request, or one with the given fields in place of its own."""
    correct = {"model": "tiny", "pairs": [pair()], "senders": [z(1, 0), z(2, 1)], "receivers": [end("logits")], "metrics": [metric()]}
    return v1("PathPatchRequest")(**correct | fields)


def unknown_field() -> bytes:
    return paths().SerializeToString() + b"\xf8\x07\x01"  # field 127, a varint


TABLE = {
    "no pairs": (lambda: paths(pairs=[]), INVALID, ["pairs is empty"]),
    "no senders": (lambda: paths(senders=[]), INVALID, ["senders is empty"]),
    "no receivers": (lambda: paths(receivers=[]), INVALID, ["receivers is empty"]),
    "a sender of nothing": (lambda: paths(senders=[{}]), INVALID, ["senders[0].nodes is empty"]),
    "a node without a site": (lambda: paths(senders=[end("")]), INVALID, ["senders[0].nodes[0].site"]),
    "a site that cannot send": (lambda: paths(senders=[end("blocks.0.attn.hook_q")]), INVALID, ["senders[0].nodes[0].site", "cannot be among the senders", "hook_z"]),
    "a site that cannot receive": (lambda: paths(receivers=[z(1)]), INVALID, ["cannot be among the receivers", "hook_mlp_in", "logits"]),
    "logits as a sender": (lambda: paths(senders=[end("logits")]), NOT_FOUND, ["senders[0].nodes[0].site", "logits"]),
    "logits in a set": (lambda: paths(receivers=[end("logits", "blocks.1.hook_mlp_in")]), INVALID, ["receivers[0]", "cannot share"]),
    "logits twice": (lambda: paths(receivers=[end("logits"), end("logits")]), INVALID, ["more than once"]),
    "logits with heads": (lambda: paths(receivers=[end("logits", heads=[0])]), INVALID, ["no heads"]),
    "logits with positions": (lambda: paths(receivers=[end("logits", positions=[positions(1)])]), INVALID, ["receivers[0].positions", "metric"]),
    "unknown site": (lambda: paths(senders=[end("blocks.0.attn.hook_zz")]), NOT_FOUND, ["hook_zz"]),
    "unknown layer": (lambda: paths(senders=[z(3)]), NOT_FOUND, ["blocks.3.attn.hook_z"]),
    "unknown head": (lambda: paths(senders=[z(0, 4)]), INVALID, ["senders[0].nodes[0].heads", "4", "0 to 3"]),
    "a key-value head too many": (lambda: paths(receivers=[end("blocks.1.attn.hook_k", heads=[2])]), INVALID, ["receivers[0].nodes[0].heads", "0 to 1"]),
    "heads of an MLP": (lambda: paths(senders=[end("blocks.0.hook_mlp_out", heads=[1])]), INVALID, ["no head axis"]),
    "a glob": (lambda: paths(senders=[end("blocks.*.attn.hook_z")]), INVALID, ["senders[0].nodes[0].site"]),
    "position out of range": (lambda: paths(senders=[z(0, positions=[positions(6)])]), INVALID, ["senders[0].positions (pair 0)", "6"]),
    "positions of other pairs": (lambda: paths(senders=[z(0, positions=[positions(1)] * 3)]), INVALID, ["senders[0].positions has 3", "1"]),
    "unequal lengths without a map": (lambda: paths(pairs=[pair(CLEAN + [7])]), INVALID, ["pairs[0]", "source_positions"]),
    "no metric": (lambda: paths(metrics=[]), INVALID, ["metrics is empty"]),
    "metric against another row": (lambda: paths(metrics=[{"name": "d", "kl": {"row": 2}}]), INVALID, ["kl.row is 2", "source run"]),
    "too many cells": (lambda: paths(senders=[z(0)] * 600, receivers=[end("blocks.1.hook_mlp_in")] * 600), EXHAUSTED, ["360000 cells", "200000"]),
    "no path": (lambda: paths(senders=[z(1, 0)], receivers=[end("blocks.1.attn.hook_q", heads=[1])]), INVALID, ["no path from sender '1.0' to receiver 'q 1.1'", "in front of"]),
    "no path at all": (lambda: paths(receivers=[end("blocks.1.attn.hook_q"), end("blocks.1.attn.hook_k")]), INVALID, ["none of the 2 senders", "2 receivers"]),
    "a long label": (lambda: paths(senders=[z(0, label="x" * 257)]), INVALID, ["senders[0].label", "256"]),
    "unknown model": (lambda: paths(model="huge"), NOT_FOUND, ["huge", "tiny"]),
    "enum 0": (lambda: paths(direction=0), INVALID, ["direction is 0", "DENOISE"]),
    "unknown field": (unknown_field, INVALID, ["unknown field number 127", "fluoroscope.v1.PathPatchRequest"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def client(shared_server):
    return shared_server.client()


def run(client, request) -> np.ndarray:
    parts = list(client.call(PATHS, request, timeout=30))
    values = np.full([len(axis.labels) for axis in parts[0].header.axes], np.nan)
    for part in parts[1:-1]:
        if part.WhichOneof("part") == "cells":
            values.flat[np.frombuffer(part.cells.cells, "<u4")] = np.frombuffer(part.cells.values, "<f8")
    return values


@pytest.fixture(scope="module")
def truth(client) -> np.ndarray:
    """To the logits: a Forward of the clean prompt with the corrupt one's head, and all other heads copied from an unedited run."""
    request = v1("ForwardRequest")(model="tiny", prompts=[{"tokens": {"ids": ids}} for ids in (CLEAN, CORRUPT, CLEAN, CLEAN)], metrics=[metric()])
    for row, (layer, head) in ((2, (1, 0)), (3, (2, 1))):
        request.interventions.add(select={"sites": ["blocks.*.attn.hook_z"], "rows": [row]}, copy={"row": 0})
        request.interventions.add(select={"sites": [f"blocks.{layer}.attn.hook_z"], "heads": [head], "rows": [row]}, copy={"row": 1})
    summary, _ = client.forward(request)
    return np.array([[value.value for value in sorted(summary.metrics, key=lambda value: value.row)[2:]]])


def test_the_truth_is_no_trivial_one(truth):
    assert abs(truth[0, 0] - truth[0, 1]) > 1e-4


@pytest.mark.parametrize("case", TABLE)
def test_bad_paths(client, truth, case):
    make, code, words = TABLE[case]
    for method in (PATHS, ESTIMATE):
        with pytest.raises(grpc.RpcError) as error:
            reply = client.call(method, make(), timeout=30)
            list(reply) if method == PATHS else reply
        assert error.value.code() == code, error.value.details()
        for word in words:
            assert word in error.value.details()
    np.testing.assert_allclose(run(client, paths()), truth, atol=1e-5)


def test_a_cell_without_a_path_has_no_value(client, truth):
    values = run(client, paths(receivers=[end("logits"), end("blocks.2.attn.hook_q")]))
    np.testing.assert_allclose(values[0], truth[0], atol=1e-5)
    assert np.isfinite(values[1, 0]) and np.isnan(values[1, 1]), "head 1 of layer 2 speaks behind that layer's queries"


def test_equal_prompts_are_answered_with_a_warning(client):
    parts = list(client.call(PATHS, paths(pairs=[pair(CLEAN, CLEAN)]), timeout=30))
    assert list(parts[-1].summary.warnings) == ["pairs[0]: both prompts have the same tokens, so no patch can change anything"]
