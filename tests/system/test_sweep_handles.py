"""Handles as sources of sweeps over the wire: what is refused, in which words, and that the next correct sweep is answered."""

from __future__ import annotations

import struct

import grpc
import numpy as np
import pytest

from .test_bad_sweeps import CLEAN, CORRUPT, ESTIMATE, LAYER, POSITION, SWEEP, metric, noise, pair, positions, sweep
from .test_handles import FORWARD, ME, OTHER, WIDTH, at, delete, floats, keep, put, refusal
from .wire import v1

INVALID, NOT_FOUND, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION
SITES = ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre")


@pytest.fixture(scope="module")
def server(tiny, tmp_path_factory):
    """With a second model of other weights, and a directory for jobs."""
    from .server_process import ServerProcess
    from .tiny_models import _save

    folder = tmp_path_factory.mktemp("server")
    other = _save(tmp_path_factory.mktemp("models") / "other", hidden_size=WIDTH, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
    running = ServerProcess({"tiny": tiny, "other": other}, folder, options=f'jobs {{ directory: "{folder}/jobs" }}')
    yield running
    running.close()


@pytest.fixture(scope="module")
def client(server):
    return server.client()


@pytest.fixture(scope="module")
def handles(client):
    """Of CLEAN's residual in front of all layers."""
    return [handle.id for handle in keep(client, sites=SITES)]


def by(ids, **fields):
    """A pair that takes its values from handles, without a clean prompt."""
    return {"corrupt": {"tokens": {"ids": CORRUPT}}, "source_handles": ids} | fields


def values(client, request) -> np.ndarray:
    parts = list(client.call(SWEEP, request, metadata=ME))
    out = np.full([len(axis.labels) for axis in parts[0].header.axes], np.nan)
    for part in parts:
        if part.WhichOneof("part") == "cells":
            out.flat[np.frombuffer(part.cells.cells, "<u4")] = np.frombuffer(part.cells.values, "<f8")
    return out


def refused(client, request, metadata=ME) -> tuple[grpc.StatusCode, str]:
    """The same for a sweep and its estimate."""
    answers = [refusal(lambda method=method: client.call(method, request, metadata=metadata)) for method in (SWEEP, ESTIMATE)]
    assert answers[0] == answers[1]
    return answers[0]


def test_values_of_handles_and_the_reply(client, handles):
    parts = list(client.call(SWEEP, sweep(pairs=[by(handles)]), metadata=ME))
    (reference,) = [part.reference for part in parts if part.WhichOneof("part") == "reference"]
    assert reference.source == b"" and len(reference.base) == 8
    assert not parts[0].header.clean[0].token_ids and list(parts[0].header.corrupt[0].token_ids) == CORRUPT
    expected = values(client, sweep())
    np.testing.assert_allclose(values(client, sweep(pairs=[by(handles)])), expected, atol=1e-5)
    both = list(client.call(SWEEP, sweep(pairs=[pair(source_handles=handles)]), metadata=ME))
    (reference,) = [part.reference for part in both if part.WhichOneof("part") == "reference"]
    assert len(reference.source) == 8
    assert client.call(ESTIMATE, sweep(pairs=[by(handles)]), metadata=ME).filled_cells == 0


def test_what_does_not_fit_is_refused_by_name(client, handles):
    first, second, third = handles
    wide = put(client, site=SITES[0], shape=(6, WIDTH), dtype="DTYPE_F64", data=struct.pack(f"<{6 * WIDTH}d", *range(6 * WIDTH))).id
    part = put(client, site=SITES[0], positions=[1, 4, 5]).id
    short = keep_short(client)
    alien = keep(client, model="other", sites=SITES[:1])[0].id
    mlp = put(client, site="blocks.0.hook_mlp_out").id
    z = put(client, site="blocks.0.attn.hook_z", shape=(6, 2, 12), heads=[1, 3]).id
    units = put(client, site="blocks.0.mlp.hook_post", shape=(6, 2), units=[3, 9]).id
    pattern = put(client, site="blocks.0.attn.hook_pattern", shape=(4, 5, 5), data=floats(100)).id
    keys = put(client, site="blocks.0.attn.hook_pattern", shape=(4, 6, 8), units=list(range(8)), data=floats(192)).id
    alone = {"layers": [0]}
    head = {"sites": ["attn.hook_z"], "over": [LAYER, "SWEEP_AXIS_HEAD"], **alone}
    cases = (
        (sweep(pairs=[by([])]), ["pairs[0].clean is missing"]),
        (sweep(pairs=[by([first, ""])]), ["pairs[0].source_handles[1] is empty"]),
        (sweep(pairs=[by(["x"])]), ["pairs[0].source_handles[0]: not a handle"]),
        (sweep(pairs=[by(handles)], direction="SWEEP_DIRECTION_NOISE"), ["pairs[0].clean is missing", "the prompt that is run"]),
        (sweep(pairs=[{"clean": {"tokens": {"ids": CLEAN}}, "source_handles": handles}]), ["pairs[0].corrupt is missing", "the prompt that is run"]),
        (sweep(pairs=[by([alien])], **alone), [f"handle {alien} is of model other (weights ", "this request is for tiny (weights "]),
        (sweep(pairs=[by([wide])], **alone), [f"pairs[0].source_handles[0]: handle {wide} is f64", f"{SITES[0]} of tiny is f32"]),
        (sweep(pairs=[by([mlp])], **alone), [f"handle {mlp} is of blocks.0.hook_mlp_out", "no cell of the grid changes", f"change {SITES[0]}"]),
        (sweep(pairs=[by([first, second])], **alone), [f"source_handles[1]: handle {second} is of {SITES[1]}", "no cell of the grid changes"]),
        (sweep(pairs=[by([first, third])]), [f"there is no handle of {SITES[1]}", "2 of 3 hook points", "`layers`"]),
        (sweep(pairs=[by([first])], **alone, window=2), [f"there is no handle of {SITES[1]}", "1 of 2 hook points"]),
        (sweep(pairs=[by([first, first])], **alone), [f"source_handles[1]: handle {first} is the second one of {SITES[0]}"]),
        (sweep(pairs=[by([part])], **alone), [f"handle {part} has the positions 1, 4, 5 of a sequence of 6 tokens", "position 0 is wanted"]),
        (sweep(pairs=[by([short])], **alone), [f"handle {short} comes from a sequence of 3 tokens, and the base prompt has 6", "source_positions"]),
        (sweep(pairs=[by([short], source_positions=[0, 1, 2, 3, -1, -1])], **alone), [f"handle {short} has the positions 0, 1, 2", "position 3 is wanted"]),
        (sweep(pairs=[by([short], source_positions=[0, 1, 2, -2, -1, -1])], **alone), ["pairs[0].source_positions: -2 is no position", "-1 is none"]),
        (sweep(pairs=[by([short], source_positions=[0, 1])], **alone), ["pairs[0].source_positions has 2 entries", "6 tokens"]),
        (sweep(pairs=[by([z])], **head), [f"handle {z} has the heads 1, 3", "heads 0 is wanted"]),
        (sweep(pairs=[by([units])], sites=["mlp.hook_post"], **alone), [f"handle {units} has the units 3, 9", "units 0 is wanted"]),
        (sweep(pairs=[by([pattern])], sites=["attn.hook_pattern"], **alone), [f"handle {pattern} comes from a sequence of 5 tokens", "one entry per key token"]),
        (sweep(pairs=[by([keys])], sites=["attn.hook_pattern"], **alone), [f"handle {keys} has 8 key tokens", "the base prompt has 6"]),
        (sweep(pairs=[by(handles)], kind="SWEEP_KIND_ZERO"), ["pairs[0].source_handles: only the kind patch copies"]),
        (sweep(pairs=[by(handles)], metrics=[{"name": "d", "kl": {"row": 1}}]), ["metrics[0] compares with the source run of pair 0", "no source prompt"]),
        (sweep(pairs=[{"clean": {"tokens": {"ids": CORRUPT}}, "source_handles": handles}], direction="SWEEP_DIRECTION_NOISE", corrupt_interventions=[noise()]),
         ["corrupt_interventions: pairs[0] has no corrupt prompt"]),
    )  # fmt: skip
    for request, words in cases:
        code, text = refused(client, request)
        assert code == INVALID, text
        for word in words:
            assert word in text
    # What fits is served: parts of a hook point, where cells change no more.
    for request in (
        sweep(pairs=[by([part])], **alone, positions=positions(1, 5)),
        sweep(pairs=[by([short], source_positions=[0, 2, 1, -1, -1, 2])], **alone),
        sweep(pairs=[by([z])], **head, heads=[3]),
        sweep(pairs=[by([units])], sites=["mlp.hook_post"], **alone, units=[9]),
    ):
        assert not np.isnan(values(client, request)).any()
    for one in (wide, part, short, alien, mlp, z, units, pattern, keys):
        client.call("fluoroscope.v1.Handles/Delete", handle=one, metadata=ME)
    np.testing.assert_allclose(values(client, sweep(pairs=[by(handles)])), values(client, sweep()), atol=1e-5)


def keep_short(client) -> str:
    request = v1("ForwardRequest")(model="tiny", prompts=[{"tokens": {"ids": [1, 2, 3]}}], captures=[{"select": {"sites": SITES[:1]}, "keep": {"ttl_seconds": 600}}])
    return next(part.handle.id for part in client.call(FORWARD, request, metadata=ME) if part.WhichOneof("part") == "handle")


@pytest.mark.parametrize("layer", [1, 2])
def test_nan_in_a_handle(client, layer):
    """A run may make infinities (here in front of layer 1, at position 1) and then NaN (of a norm of them); they are kept as they are, and refused as a source
    with the place of the first."""
    request = v1("ForwardRequest")(model="tiny", prompts=[{"tokens": {"ids": CLEAN}}], captures=[{"select": {"sites": [SITES[layer]]}, "keep": {"ttl_seconds": 600}}],
                                   interventions=[{"select": {"sites": ["blocks.0.hook_mlp_out"], "positions": at(1)}, "scale": {"factor": 1e300}}])  # fmt: skip
    (handle,) = [part.handle for part in client.call(FORWARD, request, metadata=ME) if part.WhichOneof("part") == "handle"]
    parts = client.call("fluoroscope.v1.Handles/Get", handle=handle.id, metadata=ME)
    held = np.frombuffer(b"".join(part.pack.data for part in parts if part.WhichOneof("part") == "pack"), "<f4")
    bad = np.flatnonzero(np.isnan(held) | np.isposinf(held))
    assert WIDTH <= bad[0] < 2 * WIDTH and np.isnan(held).any() == (layer == 2)
    code, text = refused(client, sweep(pairs=[by([handle.id])], layers=[layer]))
    assert code == INVALID
    assert f"pairs[0].source_handles[0]: handle {handle.id} holds NaN or an infinity at element {bad[0]}; its numbers must be finite" in text
    assert not np.isnan(values(client, sweep())).any()
    delete(client, handle)


def test_whose_handles_they_are_and_when_they_end(client, handles):
    code, text = refused(client, sweep(pairs=[by(handles)]), metadata=OTHER)
    assert code == NOT_FOUND and f"pairs[0].source_handles[0]: there is no handle {handles[0]} of this client" in text
    (handle,) = keep(client, sites=SITES[:1])
    delete(client, handle)
    code, text = refused(client, sweep(pairs=[by([handle.id])], layers=[0]))
    assert code == NOT_FOUND and f"pairs[0].source_handles[0]: handle {handle.id} was deleted" in text


def test_who_cannot_read_them(client, handles):
    """Jobs outlive them; path patching and attributions run both prompts."""
    code, text = refusal(lambda: client.call("fluoroscope.v1.Jobs/Submit", v1("SubmitJobRequest")(sweep=sweep(pairs=[by(handles)])), metadata=ME))
    assert code == INVALID and "pairs[0].source_handles: a job outlives restarts of the server and handles do not" in text
    ends = {"senders": [{"nodes": [{"site": "blocks.0.hook_mlp_out"}]}], "receivers": [{"nodes": [{"site": "logits"}]}], "metrics": [metric()]}
    request = v1("PathPatchRequest")(model="tiny", pairs=[pair(source_handles=handles)], **ends)
    code, text = refusal(lambda: client.call("fluoroscope.v1.Patching/PathPatch", request, metadata=ME))
    assert code == INVALID and "pairs[0].source_handles is given, and path patching runs both prompts" in text
    request = v1("AttributeRequest")(grid=sweep(pairs=[by(handles)]))
    code, text = refusal(lambda: client.call("fluoroscope.v1.Attribution/Attribute", request, metadata=ME))
    assert code == INVALID and "grid.pairs[0].source_handles is given, and an attribution runs both prompts" in text


def test_a_job_of_pairs_of_heads(client):
    """Its cells come once each, those of the same two heads together, and are the sweep's."""
    request = sweep(sites=["attn.hook_z"], over=[LAYER, "SWEEP_AXIS_HEAD", "SWEEP_AXIS_SECOND_LAYER", "SWEEP_AXIS_SECOND_HEAD"])
    expected = values(client, request)
    job = client.call("fluoroscope.v1.Jobs/Submit", v1("SubmitJobRequest")(sweep=request), metadata=ME)
    assert job.cells_total == 144 == expected.size
    seen: dict[int, float] = {}
    for part in client.call("fluoroscope.v1.Jobs/Watch", id=job.id, metadata=ME):
        if part.WhichOneof("part") == "cells":
            cells = np.frombuffer(part.cells.cells, "<u4").tolist()
            assert not seen.keys() & set(cells)
            assert {(cell % 12) * 12 + cell // 12 for cell in cells} == set(cells)
            seen.update(zip(cells, np.frombuffer(part.cells.values, "<f8"), strict=True))
    np.testing.assert_allclose([seen[cell] for cell in range(144)], expected.ravel(), atol=1e-5)


def test_pairs_of_heads_that_cannot_be(client):
    head, second_layer, second_head = "SWEEP_AXIS_HEAD", "SWEEP_AXIS_SECOND_LAYER", "SWEEP_AXIS_SECOND_HEAD"
    z = {"sites": ["attn.hook_z"], "over": [LAYER, head, second_layer, second_head]}
    for request, code, words in (
        (sweep(over=[POSITION, second_layer]), INVALID, ["over: 'second_layer' is there without 'layer'"]),
        (sweep(**z | {"over": [LAYER, second_layer, second_head]}), INVALID, ["over: 'second_head' is there without 'head'"]),
        (sweep(**z | {"over": [LAYER, head, second_layer]}), INVALID, ["'head' is an axis of the first only; add 'second_head'"]),
        (sweep(**z | {"over": [LAYER, head, second_head]}), INVALID, ["'layer' is an axis of the first only; add 'second_layer'"]),
        (sweep(**z, second_layers=[3]), INVALID, ["second_layers: 3 is outside", "0 to 2"]),
        (sweep(**z, second_heads=[4]), INVALID, ["second_heads", "4", "0 to 3"]),
        (sweep(second_layers=[1]), INVALID, ["second_layers is given, but 'second_layer' is not in `over`"]),
        (sweep(second_heads=[1]), INVALID, ["second_heads is given, but 'second_head' is not in `over`"]),
        (sweep(over=[LAYER, head, second_layer, second_head]), INVALID, ["hook_resid_pre has no head axis"]),
        # 3 layers x 4 heads, squared, x 6 positions x 12 units x 20 pairs
        (sweep(**z | {"over": [*z["over"], POSITION, "SWEEP_AXIS_UNIT"], "pairs": [pair()] * 20}), grpc.StatusCode.RESOURCE_EXHAUSTED,
         ["10368 cells for each of 20 pairs, 207360 together", "200000"]),
    ):  # fmt: skip
        got, text = refused(client, request)
        assert got == code, text
        for word in words:
            assert word in text
    request = v1("AttributeRequest")(grid=sweep(**z))
    code, text = refusal(lambda: client.call("fluoroscope.v1.Attribution/Attribute", request, metadata=ME))
    assert code == INVALID and "grid.over: an attribution is linear" in text
