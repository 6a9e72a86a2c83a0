"""Leased handles over the wire: whose they are, how they end, what is refused and in which words."""

from __future__ import annotations

import queue
import struct

import grpc
import pytest

from .server_process import eventually
from .wire import v1

INVALID, NOT_FOUND, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED
FORWARD = "fluoroscope.v1.Inference/Forward"
HANDLES = "fluoroscope.v1.Handles/"
SITE = "blocks.1.hook_resid_pre"
WIDTH = 48
ME, OTHER = (("x-fluoroscope-principal", "me"),), (("x-fluoroscope-principal", "other"),)


def floats(count: int, value: float = 1.0) -> bytes:
    return struct.pack("<f", value) * count


def header(shape=(3, WIDTH), **fields):
    fields = {"model": "tiny", "site": SITE, "dtype": "DTYPE_F32", "shape": shape, "ttl_seconds": 600} | fields
    return v1("PutRequest")(header=fields)


def chunk(data: bytes, offset: int = 0):
    return v1("PutRequest")(chunk={"offset": offset, "data": data})


def put(client, *, data: bytes | None = None, metadata=ME, **fields):
    start = header(**fields)
    count = 1
    for size in start.header.shape:
        count *= size
    return client.upload([start, chunk(floats(count) if data is None else data)], metadata=metadata).result().handle


def keep(client, *, metadata=ME, ttl=600, sites=(SITE,), model="tiny", rows=1):
    """Handles of a run of six tokens."""
    request = v1("ForwardRequest")(model=model, prompts=[{"tokens": {"ids": [1, 2, 3, 4, 5, 6]}}] * rows,
                                   captures=[{"select": {"sites": sites}, "keep": {"ttl_seconds": ttl}}])  # fmt: skip
    parts = list(client.call(FORWARD, request, metadata=metadata))
    assert parts[-1].summary.tensor_count == 0 and parts[-1].summary.byte_count == 0
    return [part.handle for part in parts if part.WhichOneof("part") == "handle"]


def using(handle: str, site=SITE, model="tiny", ids=(1, 2, 3, 4, 5, 6), select=(), **kind):
    kind = kind or {"copy": {"handle": handle}}
    return v1("ForwardRequest")(model=model, prompts=[{"tokens": {"ids": ids}}], logits={}, interventions=[{"select": {"sites": [site]} | dict(select)} | kind])


def at(*positions: int):
    return {"items": [{"index": position} for position in positions]}


def delete(client, handle, metadata=ME):
    client.call(HANDLES + "Delete", handle=handle.id, metadata=metadata)


def refusal(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        result = call()
        if hasattr(result, "__next__"):
            list(result)
    return error.value.code(), error.value.details()


@pytest.fixture(scope="module")
def server(tiny, tmp_path_factory):
    """With limits of 1 MiB a client and 2 MiB in all, and the same shapes under another model's name and weights."""
    from .server_process import ServerProcess
    from .tiny_models import _save

    other = _save(tmp_path_factory.mktemp("models") / "other", hidden_size=WIDTH, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
    running = ServerProcess({"tiny": tiny, "other": other, "twin": tiny}, tmp_path_factory.mktemp("server"),
                            options="handles { total_mib: 2 principal_mib: 1 max_ttl_seconds: 1000 }")  # fmt: skip
    yield running
    running.close()


@pytest.fixture(scope="module")
def client(server):
    return server.client()


@pytest.fixture(autouse=True)
def nothing_is_left(server, client):
    yield
    assert eventually(lambda: server.metric("fluoroscope_handle_bytes") == 0)
    assert server.metric("fluoroscope_handles") == 0


def test_keep_use_renew_list_delete(server, client):
    (handle,) = keep(client)
    assert (handle.model, handle.site, handle.layer, list(handle.shape), list(handle.positions)) == ("tiny", SITE, 1, [6, WIDTH], list(range(6)))
    assert (handle.byte_size, handle.row_length, handle.uploaded, list(handle.token_ids)) == (6 * WIDTH * 4, 6, False, [1, 2, 3, 4, 5, 6])
    assert server.metric("fluoroscope_handles") == 1
    assert server.metric("fluoroscope_handle_bytes") == 6 * WIDTH * 4
    client.forward(using(handle.id), metadata=ME)
    renewed = client.call(HANDLES + "Renew", handle=handle.id, ttl_seconds=1000, metadata=ME).handle
    assert renewed.seconds_left == 1000 and renewed.id == handle.id
    listed = client.call(HANDLES + "List", metadata=ME).handles
    assert [(one.id, 990 < one.seconds_left <= 1000) for one in listed] == [(handle.id, True)]
    delete(client, handle)
    assert refusal(lambda: client.call(HANDLES + "Delete", handle=handle.id, metadata=ME)) == (NOT_FOUND, f"handle {handle.id} was deleted")


def test_the_same_weights_under_another_name(client):
    (handle,) = keep(client)
    client.forward(using(handle.id, model="twin"), metadata=ME)
    delete(client, handle)


def test_another_principals_handle_does_not_exist(client):
    (handle,) = keep(client)
    never = handle.id[:17] + "0" * 32
    for call in (
        lambda one: client.call(FORWARD, using(one), metadata=OTHER),
        lambda one: client.call(HANDLES + "Get", handle=one, metadata=OTHER),
        lambda one: client.call(HANDLES + "Renew", handle=one, ttl_seconds=5, metadata=OTHER),
        lambda one: client.call(HANDLES + "Delete", handle=one, metadata=OTHER),
    ):
        code, text = refusal(lambda: call(handle.id))  # noqa: B023
        assert code == NOT_FOUND
        assert (code, text.replace(handle.id, never)) == refusal(lambda: call(never)), "nothing tells that it is there"  # noqa: B023
    assert not client.call(HANDLES + "List", metadata=OTHER).handles
    delete(client, handle)


def test_expired(server, client):
    (handle,) = keep(client, ttl=1)
    before = server.metric("fluoroscope_handles_expired_total")
    assert eventually(lambda: server.metric("fluoroscope_handles_expired_total") == before + 1)
    code, text = refusal(lambda: client.call(FORWARD, using(handle.id), metadata=ME))
    assert code == NOT_FOUND and f"interventions[0].copy.handle: handle {handle.id} has expired" in text
    assert server.metric("fluoroscope_handle_bytes") == 0


def test_lost_in_restart(start, tiny):
    first = start({"tiny": tiny})
    handle = put(first.client())
    first.terminate()
    first.wait()
    client = start({"tiny": tiny}).client()
    for call in (lambda: client.call(FORWARD, using(handle.id), metadata=ME), lambda: client.call(HANDLES + "Get", handle=handle.id, metadata=ME)):
        code, text = refusal(call)
        assert code == NOT_FOUND and "lost in restart" in text


def test_limits_say_both_numbers(client):
    mebibyte = 1 << 20
    # 50 positions of width 48 in float32 are 9,600 bytes; 64 of the attention's results are 49,152.
    big = {"site": "blocks.0.attn.hook_result", "shape": (64, 4, WIDTH)}
    mine = [put(client, **big) for _ in range(mebibyte // 49152)]
    code, text = refusal(lambda: put(client, **big))
    assert code == EXHAUSTED and f"{49152} bytes" in text and f"{len(mine) * 49152} bytes" in text and f"{mebibyte} bytes" in text
    code, text = refusal(lambda: keep(client, sites=["*"], rows=8))
    assert code == EXHAUSTED and "handles.principal_mib" in text
    second, third = (("x-fluoroscope-principal", "second"),), (("x-fluoroscope-principal", "third"),)
    theirs = [put(client, metadata=second, **big) for _ in range(mebibyte // 49152)]
    code, text = refusal(lambda: [put(client, metadata=third, **big) for _ in range(3)])
    assert code == EXHAUSTED and f"{2 * mebibyte} bytes" in text and "handles.total_mib" in text
    for one in mine:
        delete(client, one)
    for one in theirs:
        delete(client, one, second)
    for one in client.call(HANDLES + "List", metadata=third).handles:
        delete(client, one, third)


def test_handles_are_part_of_the_budget(start, tiny):
    """What handles hold, runs do not get; the message says both."""
    server = start({"tiny": tiny}, options="device { memory_mib: 4 } handles { total_mib: 3 principal_mib: 3 }")
    client = server.client()
    big = {"site": "blocks.0.attn.hook_result", "shape": (64, 4, WIDTH)}
    handles = [put(client, **big) for _ in range(60)]
    large = v1("ForwardRequest")(model="tiny", prompts=[{"tokens": {"ids": [1] * 60}}] * 8, captures=[{"select": {"sites": ["blocks.*.hook_resid_pre"]}}])
    code, text = refusal(lambda: client.call(FORWARD, large, metadata=ME))
    assert code == EXHAUSTED and f"{60 * 49152} bytes" in text and f"{4 << 20} bytes" in text and "handles hold" in text
    for one in handles:
        delete(client, one)
    assert server.metric("fluoroscope_handle_bytes") == 0
    client.forward(large, metadata=ME)


NAN = floats(WIDTH) + struct.pack("<f", float("nan")) + floats(2 * WIDTH - 1)
MINUS_INF = floats(5) + struct.pack("<f", float("-inf")) + floats(3 * WIDTH - 6)


@pytest.mark.parametrize(
    "messages, words",
    [
        ([header(), chunk(floats(3 * WIDTH - 1))], ["ended after 572 of 576 bytes", "[3, 48] of f32"]),
        ([header(), chunk(floats(3 * WIDTH + 1))], ["580 bytes have come", "has 576"]),
        ([header(), chunk(floats(WIDTH)), chunk(floats(WIDTH), offset=0)], ["chunk.offset is 0", "192 bytes came before"]),
        ([chunk(floats(3))], ["must be its header"]),
        ([header(), header()], ["a second one came"]),
        ([], ["has no message"]),
        ([header(), chunk(NAN)], ["NaN or an infinity at element 48, [1, 0]"]),
        ([header(), chunk(MINUS_INF)], ["-inf at element 5, [0, 5]"]),
        ([header(site="blocks.*.hook_resid_pre")], ["must be the name of one hook point"]),
        ([header(shape=(3, 47))], ["header.shape is [3, 47]", "[pos, d_model 48]"]),
        ([header(shape=(3, 4, WIDTH))], ["header.shape is [3, 4, 48]"]),
        ([header(shape=(65, WIDTH))], ["0 to 63"]),
        ([header(positions=[0, 1, 64])], ["0 to 63"]),
        ([header(positions=[0, 1])], ["header.shape is [3, 48]", "[pos 2, d_model 48]"]),
        ([header(token_ids=[1])], ["token_ids has 1 entries for 3 positions"]),
        ([header(heads=[0])], ["has no head axis"]),
        ([header(site="blocks.0.attn.hook_z", shape=(3, 1, 12), heads=[4])], ["heads: 4 does not exist", "0 to 3"]),
        ([header(shape=(3, 1), units=[48])], ["units: 48 does not exist"]),
        ([header(ttl_seconds=1001)], ["ttl_seconds is 1001", "1 to 1000"]),
        ([header(shape=(2**40, 2**40))], ["64 bits"]),
    ],
)
def test_bad_uploads(client, messages, words):
    code, text = refusal(lambda: client.upload(messages, metadata=ME).result())
    assert code == INVALID
    for word in words:
        assert word in text


def test_unknown_names_of_an_upload(client):
    code, text = refusal(lambda: client.upload([header(model="none")], metadata=ME).result())
    assert code == NOT_FOUND and "loaded: other, tiny, twin" in text
    code, text = refusal(lambda: client.upload([header(site="blocks.9.hook_resid_pre")], metadata=ME).result())
    assert code == NOT_FOUND and "tiny has layers 0 to 2" in text


def test_scores_may_hold_minus_infinity(client):
    """As captured scores do; as a source of a copy, not of set and add."""
    site, inf = "blocks.1.attn.hook_attn_scores", struct.pack("<f", float("-inf"))
    data = b"".join(floats(query + 1) + inf * (5 - query) for _ in range(4) for query in range(6))
    handle = put(client, site=site, shape=(4, 6, 6), data=data)
    client.forward(using(handle.id, site), metadata=ME)
    code, text = refusal(lambda: client.call(FORWARD, using(handle.id, site, set={"from_handle": {"handle": handle.id}}), metadata=ME))
    assert code == INVALID and f"handle {handle.id} holds -inf at element 1" in text
    code, text = refusal(lambda: client.call(FORWARD, using(handle.id, site, ids=[1, 2, 3]), metadata=ME))
    assert code == INVALID and "one entry per key token" in text and "6 and 3 tokens" in text
    delete(client, handle)


def test_what_does_not_fit_is_refused_by_name(client):
    (handle,) = keep(client)
    wide = put(client, dtype="DTYPE_F64", data=struct.pack("<144d", *range(144)))
    part = put(client, positions=[1, 4, 5], token_ids=[7, 8, 9])
    z = put(client, site="blocks.1.attn.hook_z", shape=(6, 2, 12), heads=[1, 3])
    i = handle.id
    for request, words in (
        (using(i, model="other"), [f"handle {i} is of model tiny (weights {handle.weights_sha256})", "for other (weights "]),
        (using(i, "blocks.2.hook_resid_pre"), [f"handle {i} is of {SITE}", "acts at blocks.2.hook_resid_pre"]),
        (using(i, "blocks.*.hook_resid_pre"), [f"handle {i} is of {SITE}", "acts at blocks.0.hook_resid_pre"]),
        (using(i, "blocks.1.hook_mlp_out"), [f"handle {i} is of {SITE}", "acts at blocks.1.hook_mlp_out"]),
        (using(wide.id, ids=[1, 2, 3]), [f"handle {wide.id} is f64", f"{SITE} of tiny is f32"]),
        (using(i, ids=[1] * 8), [f"handle {i} has the positions 0, 1, 2, 3, 4, 5 of a sequence of 6 tokens", "position 6 is wanted"]),
        (using(part.id), [f"handle {part.id} has the positions 1, 4, 5 of a sequence of 6 tokens", "position 0 is wanted"]),
        (using(i, copy={"handle": i, "positions": at(0, 1)}), ["2 source positions for 6 target positions"]),
        (using(i, copy={"handle": i, "positions": at(6)}, select={"positions": at(0)}), ["position 6 is outside the row, which has 6 tokens"]),
        (using(i, copy={"handle": i, "positions": at(2, 1)}, select={"positions": at(0, 1)}), ["ascending order"]),
        (using(z.id, "blocks.1.attn.hook_z"), [f"handle {z.id} has the heads 1, 3", "heads 0 is wanted"]),
        (using(i, set={"from_handle": {"handle": i}}, select={"positions": at(0, 2)}), ["the tensor is [6, 48]", "is [2, 48]"]),
        (using(i, add={"from_handle": {"handle": i, "positions": at(7)}}), ["position 7 is outside"]),
        (using(i, mean={"of_handle": {"handle": part.id, "positions": at(0)}}), [f"handle {part.id} has the positions 1, 4, 5"]),
        (using("x"), ["interventions[0].copy.handle: not a handle"]),
    ):
        code, text = refusal(lambda: client.call(FORWARD, request, metadata=ME))  # noqa: B023
        assert code == INVALID, text
        for word in words:
            assert word in text
        code, estimated = refusal(lambda: client.call("fluoroscope.v1.Inference/Estimate", request, metadata=ME))  # noqa: B023
        assert (code, estimated) == (INVALID, text)
    # What fits is served: parts of a handle at the places it has them for.
    client.forward(using(part.id, select={"positions": at(4, 5)}), metadata=ME)
    client.forward(using(z.id, "blocks.1.attn.hook_z", select={"heads": [3]}), metadata=ME)
    for one in (handle, wide, part, z):
        delete(client, one)


def test_a_kept_nan_is_refused_when_used(client):
    """A run may make infinities; they are kept as they are, and refused as a source."""
    request = v1("ForwardRequest")(model="tiny", prompts=[{"tokens": {"ids": [1, 2, 3]}}],
                                   captures=[{"select": {"sites": [SITE]}, "keep": {"ttl_seconds": 600}}],
                                   interventions=[{"select": {"sites": ["blocks.0.hook_mlp_out"], "positions": at(1)}, "scale": {"factor": 1e300}}])  # fmt: skip
    (handle,) = [part.handle for part in client.call(FORWARD, request, metadata=ME) if part.WhichOneof("part") == "handle"]
    code, text = refusal(lambda: client.call(FORWARD, using(handle.id, ids=[1, 2, 3]), metadata=ME))
    assert code == INVALID and f"handle {handle.id} holds" in text and "its numbers must be finite" in text
    delete(client, handle)


def test_keep_where_it_cannot_be(client):
    bad = v1("ForwardRequest")(model="tiny", prompts=[{"text": "a"}], captures=[{"select": {"sites": [SITE]}, "keep": {"ttl_seconds": 1001}}])
    code, text = refusal(lambda: client.call(FORWARD, bad, metadata=ME))
    assert code == INVALID and "captures[0].keep.ttl_seconds is 1001" in text
    generate = v1("GenerateRequest")(model="tiny", prompts=[{"text": "a"}], max_new_tokens=1, captures=[{"select": {"sites": [SITE]}, "keep": {"ttl_seconds": 1}}])
    code, text = refusal(lambda: client.call("fluoroscope.v1.Inference/Generate", generate, metadata=ME))
    assert code == INVALID and "only Inference.Forward keeps" in text
    (handle,) = keep(client)
    sweep = v1("SweepRequest")(model="tiny", pairs=[{"clean": {"text": "a"}, "corrupt": {"text": "b"}}], sites=["hook_resid_pre"], over=["SWEEP_AXIS_LAYER"],
                               metrics=[{"name": "m", "mean_logit": {"tokens": [{"id": 1}]}}],
                               corrupt_interventions=[{"select": {"sites": ["hook_embed"]}, "set": {"from_handle": {"handle": handle.id}}}])  # fmt: skip
    code, text = refusal(lambda: client.call("fluoroscope.v1.Patching/Sweep", sweep, metadata=ME))
    assert code == INVALID and "here give the values" in text
    delete(client, handle)


def test_a_cancelled_upload_gives_its_bytes_back(server, client):
    waiting: queue.Queue = queue.Queue()
    call = client.upload(iter(waiting.get, None), metadata=ME)
    waiting.put(header())
    waiting.put(chunk(floats(WIDTH)))
    assert eventually(lambda: server.metric("fluoroscope_handle_bytes") == 3 * WIDTH * 4)
    call.cancel()
    waiting.put(None)
    assert eventually(lambda: server.metric("fluoroscope_handle_bytes") == 0)
    assert eventually(lambda: server.metric('fluoroscope_rpcs_total{code="CANCELLED",method="Handles.Put"}') == 1)
    assert not client.call(HANDLES + "List", metadata=ME).handles


def test_the_deadline_of_an_upload(server, client):
    waiting: queue.Queue = queue.Queue()
    call = client.upload(iter(waiting.get, None), metadata=ME, timeout=1)
    waiting.put(header())
    with pytest.raises(grpc.RpcError) as error:
        call.result()
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    waiting.put(None)
    assert eventually(lambda: server.metric("fluoroscope_handle_bytes") == 0)


def test_an_idle_upload_gives_its_bytes_back(start, tiny):
    """Its client stays, sends nothing more, and has no deadline worth speaking of."""
    server = start({"tiny": tiny}, options="limits { upload_idle_seconds: 1 }")
    client = server.client()
    waiting: queue.Queue = queue.Queue()
    call = client.upload(iter(waiting.get, None), metadata=ME, timeout=600)
    waiting.put(header())
    waiting.put(chunk(floats(WIDTH)))
    assert eventually(lambda: server.metric("fluoroscope_handle_bytes") == 3 * WIDTH * 4)
    error = call.exception()
    waiting.put(None)
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.details().startswith("no message of the upload came for 1 s, the most that limits.upload_idle_seconds allows")
    assert eventually(lambda: server.metric("fluoroscope_handle_bytes") == 0)
    assert not client.call(HANDLES + "List", metadata=ME).handles


def test_keep_with_a_slow_reader(start, busy):
    """Handles come when the run has succeeded: a reader that goes away before leaves none, one that reads on gets them."""
    server = start({"busy": busy}, options="limits { sink_buffer_mib: 1 } device { memory_mib: 2000 }")
    client = server.client()
    kept = {"select": {"sites": ["blocks.15.hook_resid_post"]}, "keep": {"ttl_seconds": 600}}
    request = v1("ForwardRequest")(model="busy", prompts=[{"tokens": {"ids": [5] * 32}}] * 100,
                                   captures=[{"select": {"sites": ["blocks.*.hook_resid_pre"]}}, kept])  # fmt: skip
    call = client.call(FORWARD, request, metadata=ME)
    next(call)  # the header; then nobody reads for a while
    assert eventually(lambda: server.metric("fluoroscope_handle_bytes") == 100 * 32 * 512 * 4)
    assert server.metric("fluoroscope_handles") == 0
    call.cancel()
    assert eventually(lambda: server.metric("fluoroscope_handle_bytes") == 0)
    assert server.metric("fluoroscope_handles") == 0 and server.metric("fluoroscope_admitted_bytes") == 0
    handles = [part.handle for part in client.call(FORWARD, request, metadata=ME) if part.WhichOneof("part") == "handle"]
    assert len(handles) == 100 and server.metric("fluoroscope_handles") == 100
    assert [handle.row for handle in handles] == list(range(100))


def test_a_run_goes_on_when_its_handle_ends(start, busy):
    server = start({"busy": busy})
    client = server.client()
    value = floats(64 * 512, 0.5)
    handle = client.upload([header(model="busy", site="blocks.15.hook_resid_pre", shape=(64, 512)), chunk(value)], metadata=ME).result().handle
    request = v1("ForwardRequest")(model="busy", prompts=[{"tokens": {"ids": [5] * 64}}] * 64, logits={"tokens": [{"id": 1}]},
                                   interventions=[{"select": {"sites": ["blocks.15.hook_resid_pre"]}, "copy": {"handle": handle.id}}])  # fmt: skip
    call = client.call(FORWARD, request, metadata=ME)
    next(call)
    delete(client, handle)
    data = b"".join(part.pack.data for part in call if part.WhichOneof("part") == "pack")
    # Every row has the handle's values from there on, so all say the same.
    assert len(data) == 64 * 4 and data == data[:4] * 64
    assert eventually(lambda: server.metric("fluoroscope_handle_bytes") == 0)


def test_get_slices(client):
    (handle,) = keep(client)
    whole = b"".join(part.pack.data for part in client.call(HANDLES + "Get", handle=handle.id, metadata=ME) if part.WhichOneof("part") == "pack")
    assert len(whole) == handle.byte_size
    parts = list(client.call(HANDLES + "Get", v1("GetHandleRequest")(handle=handle.id, positions=at(1, -1), units=[3, 5]), metadata=ME))
    assert [part.WhichOneof("part") for part in parts] == ["header", "pack", "summary"]
    (tensor,) = parts[1].pack.headers
    assert (list(tensor.shape), list(tensor.positions), list(tensor.token_ids), list(tensor.units)) == ([2, 2], [1, 5], [2, 6], [3, 5])
    number = lambda position, unit: whole[4 * (position * WIDTH + unit) :][:4]  # noqa: E731
    assert parts[1].pack.data == number(1, 3) + number(1, 5) + number(5, 3) + number(5, 5)
    for slice_, words in (
        ({"positions": at(6)}, "position 6 is outside"),
        ({"units": [48]}, "unit 48 does not exist"),
        ({"heads": [0]}, "has no head axis"),
    ):
        code, text = refusal(lambda: client.call(HANDLES + "Get", v1("GetHandleRequest")(handle=handle.id, **slice_), metadata=ME))  # noqa: B023
        assert code == INVALID and words in text
    delete(client, handle)
