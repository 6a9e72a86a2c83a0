"""Every kind of bad request, over the wire: its code, what its message teaches, and that the next correct request is served."""

from __future__ import annotations

import math
import socket
import struct

import grpc
import pytest

from .wire import v1

INVALID, NOT_FOUND, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED
FORWARD = "fluoroscope.v1.Inference/Forward"


def request(prompt: dict | None = None, *, capture: dict | None = None, **fields):
    """A correct request, or one with the given parts in place of its own."""
    out = v1("ForwardRequest")(model="tiny", prompts=[prompt if prompt is not None else {"text": "John gave the bag to Mary"}], **fields)
    if capture is not None:
        out.captures.add(**capture)
    return out


def selecting(**select):
    return request(capture={"select": {"sites": ["blocks.0.hook_resid_pre"]} | select})


def positions(**item):
    return {"items": [item]}


def directions(*values: float, shape=None):
    tensor = {"dtype": "DTYPE_F32", "shape": shape or [1, len(values)], "data": struct.pack(f"<{len(values)}f", *values)}
    return request(capture={"select": {"sites": ["blocks.0.hook_resid_pre"]}, "reduction": {"dot": {"directions": tensor}}})


def difference(right, wrong):
    return request(metrics=[{"name": "d", "logit_difference": {"right": [right], "wrong": [wrong]}}])


def f32(*values: float, shape=None):
    return {"dtype": "DTYPE_F32", "shape": [len(values)] if shape is None else shape, "data": struct.pack(f"<{len(values)}f", *values)}


def editing(site="blocks.0.hook_resid_pre", **fields):
    """One intervention on the first of two prompts of 6 and 3 tokens."""
    select = {"sites": [site], "rows": [0]} | fields.pop("select", {})
    out = request({"tokens": {"ids": [1, 2, 3, 4, 5, 6]}}, interventions=[{"select": select} | fields])
    out.prompts.add(tokens={"ids": [7, 8, 9]})
    return out


def measuring(**kind):
    fields = {name: kind.pop(name) for name in ("positions", "rows") if name in kind}
    out = request({"tokens": {"ids": [1, 2, 3, 4, 5, 6]}}, metrics=[{"name": "d"} | fields | kind])
    out.prompts.add(tokens={"ids": [7, 8, 9]})
    return out


def with_model(name: str):
    out = request()
    out.model = name
    return out


def many(count: int):
    return v1("ForwardRequest")(model="tiny", prompts=[{"text": "a"}] * count)


def unknown_field() -> bytes:
    return request().SerializeToString() + b"\xf8\x07\x01"  # field 127, a varint


def unknown_enum() -> bytes:
    prompt = b"\x0a\x01a\x18\x09"  # text "a", bos 9
    return b"\x0a\x04tiny\x12" + bytes([len(prompt)]) + prompt


def zero_enum() -> bytes:
    prompt = b"\x0a\x01a\x18\x00"  # text "a", bos 0
    return b"\x0a\x04tiny\x12" + bytes([len(prompt)]) + prompt


TABLE = {
    "empty prompt": (lambda: request({"text": ""}), INVALID, ["prompts[0]", "empty"]),
    "no ids": (lambda: request({"tokens": {}}), INVALID, ["prompts[0].tokens.ids is empty"]),
    "no prompts": (lambda: v1("ForwardRequest")(model="tiny"), INVALID, ["prompts is empty"]),
    "prompt without input": (lambda: request({}), INVALID, ["prompts[0].input is empty", "text, tokens"]),
    "token id out of range": (lambda: request({"tokens": {"ids": [1, 100000]}}), INVALID, ["prompts[0]", "100000", "0 to 399"]),
    "negative token id": (lambda: request({"tokens": {"ids": [-1]}}), INVALID, ["prompts[0].tokens.ids[0] is -1"]),
    "prompt over the context": (lambda: request({"tokens": {"ids": [1] * 65}}), INVALID, ["prompts[0]", "65", "64"]),
    "bos with activations": (
        lambda: request({"activations": {"start_at": "blocks.0.hook_resid_pre"}, "bos": "BOS_NEVER"}), INVALID, ["prompts[0].bos must be absent"]),
    "activations without a value": (
        lambda: request({"activations": {"start_at": "blocks.0.hook_resid_pre"}}), INVALID, ["prompts[0].activations.value.dtype must be DTYPE_F32"]),
    "activations at no hook": (lambda: request({"activations": {"start_at": "nowhere", "value": f32(1.0, shape=[1, 1])}}), NOT_FOUND, ["nowhere"]),
    "activations with a negative id": (
        lambda: request({"activations": {"start_at": "blocks.0.hook_resid_pre", "value": f32(1.0), "token_ids": [-2]}}), INVALID, ["token_ids[0] is -2"]),
    "bos with ids": (lambda: request({"tokens": {"ids": [1]}, "bos": "BOS_NEVER"}), INVALID, ["prompts[0].bos must be absent"]),
    "no model": (lambda: with_model(""), INVALID, ["model is empty"]),
    "unknown model": (lambda: with_model("huge"), NOT_FOUND, ["huge", "tiny"]),
    "unknown hook": (lambda: request(capture={"select": {"sites": ["blocks.0.hook_residual"]}}), NOT_FOUND, ["blocks.0.hook_residual", "hook_resid_pre"]),
    "hook of another layer": (lambda: request(capture={"select": {"sites": ["blocks.99.hook_resid_pre"]}}), NOT_FOUND, ["blocks.99.hook_resid_pre"]),
    "glob with no match": (lambda: request(capture={"select": {"sites": ["blocks.*.nothing*"]}}), NOT_FOUND, ["blocks.*.nothing*"]),
    "no sites": (lambda: request(capture={"select": {}}), INVALID, ["captures[0].select.sites is empty"]),
    "unknown layer": (lambda: request(capture={"select": {"sites": ["blocks.*.hook_resid_pre"], "layers": [7]}}), INVALID, ["7", "0 to 2"]),
    "unknown head": (lambda: request(capture={"select": {"sites": ["blocks.0.attn.hook_z"], "heads": [4]}}), INVALID, ["4", "0 to 3"]),
    "heads where there are none": (lambda: selecting(heads=[0]), INVALID, ["heads", "hook_resid_pre"]),
    "unknown row": (lambda: selecting(rows=[3]), INVALID, ["captures[0].select.rows[0] is 3", "1 prompt"]),
    "position out of range": (lambda: selecting(positions=positions(index=50)), INVALID, ["50"]),
    "negative position out of range": (lambda: selecting(positions=positions(index=-50)), INVALID, ["-50"]),
    "positions without items": (lambda: selecting(positions={}), INVALID, ["captures[0].select.positions.items is empty"]),
    "all must be true": (lambda: selecting(positions=positions(all=False)), INVALID, ["positions.items[0].all must be true"]),
    "token that does not occur": (lambda: selecting(positions=positions(occurrences_of={"id": 399})), INVALID, ["399"]),
    "top_k of 0": (lambda: request(capture={"select": {"sites": ["hook_embed"]}, "reduction": {"top_k": {"k": 0}}}), INVALID, ["top_k.k is 0"]),
    "top_k over the axis": (lambda: request(capture={"select": {"sites": ["hook_embed"]}, "reduction": {"top_k": {"k": 49}}}), INVALID, ["49", "48"]),
    "empty reduction": (lambda: request(capture={"select": {"sites": ["hook_embed"]}, "reduction": {}}), INVALID, ["reduction.kind is empty"]),
    "NaN directions": (lambda: directions(*[1.0] * 47, math.nan), INVALID, ["NaN", "row 0, column 47"]),
    "infinite directions": (lambda: directions(math.inf, *[1.0] * 47), INVALID, ["infinity"]),
    "directions of another size": (lambda: directions(1.0, 2.0), INVALID, ["48"]),
    "directions that lie about their size": (lambda: directions(1.0, shape=[1, 48]), INVALID, ["4 bytes", "192"]),
    "directions with a huge shape": (lambda: directions(1.0, shape=[2**62, 2**62]), INVALID, ["64 bits"]),
    "answer of two tokens": (lambda: difference({"text": "Mary"}, {"id": 1}), INVALID,
                             ["metrics[0].logit_difference.right[0]: 'Mary' is 2 tokens ('Mar', 'y'); exactly one is needed"]),
    "empty answer": (lambda: difference({"text": ""}, {"id": 1}), INVALID, ["right[0].text is empty"]),
    "answer out of range": (lambda: difference({"id": 400}, {"id": 1}), INVALID, ["400"]),
    "metric without kind": (lambda: request(metrics=[{"name": "d"}]), INVALID, ["metrics[0].kind is empty"]),
    "tokens and top_k": (lambda: request(logits={"tokens": [{"id": 1}], "top_k": 2}), INVALID, ["top_k"]),
    "top_k over the vocabulary": (lambda: request(logits={"top_k": 401}), INVALID, ["401", "400"]),
    "copy from a row that is not there": (
        lambda: request(interventions=[{"select": {"sites": ["hook_embed"]}, "copy": {"row": 1}}]), INVALID, ["interventions[0].copy.row is 1"]),
    "copy from itself": (
        lambda: request(interventions=[{"select": {"sites": ["hook_embed"], "rows": [0]}, "copy": {"row": 0}}]), INVALID, ["interventions[0]"]),
    "edit of what cannot be edited": (lambda: editing("blocks.0.hook_q_input", zero={}), grpc.StatusCode.FAILED_PRECONDITION, ["read but not edited"]),
    "edit without kind": (lambda: editing(), INVALID, ["interventions[0].kind is empty", "copy, zero, mean"]),
    "set of another shape": (lambda: editing(set={"value": f32(1, 2)}), INVALID, ["interventions[0]", "[2]", "[6, 48]"]),
    "set of NaN": (lambda: editing(set={"value": f32(math.nan)}), INVALID, ["interventions[0].set.value.data holds NaN at element 0"]),
    "set of nothing": (lambda: editing(set={"value": f32(shape=[0])}), INVALID, ["set.value.shape is [0]"]),
    "set without value": (lambda: editing(set={}), INVALID, ["set.value.dtype must be DTYPE_F32"]),
    "set of another dtype": (lambda: editing(set={"value": {"dtype": "DTYPE_F64", "data": bytes(8)}}), INVALID, ["must be DTYPE_F32"]),
    "set with a huge shape": (lambda: editing(set={"value": f32(1.0, shape=[2**40, 2**40])}), INVALID, ["64 bits"]),
    "infinite scale of add": (lambda: editing(add={"value": f32(1.0, shape=[1]), "scale": math.inf}), INVALID, ["add.scale is inf"]),
    "NaN factor": (lambda: editing(scale={"factor": math.nan}), INVALID, ["scale.factor is nan"]),
    "negative noise": (lambda: editing(noise={"stddev": -1}), INVALID, ["noise.stddev is -1"]),
    "unit out of range": (lambda: editing(select={"units": [48]}, zero={}), INVALID, ["unit 48", "0 to 47"]),
    "key out of range": (lambda: editing("blocks.0.attn.hook_pattern", select={"units": [6]}, zero={}), INVALID, ["key 6", "6 tokens"]),
    "heads out of order": (
        lambda: editing("blocks.0.attn.hook_z", select={"heads": [1, 0]}, set={"value": f32(1, 2, shape=[2, 1])}), INVALID, ["heads", "ascending order"]),
    "mean without reference": (lambda: editing(mean={}), INVALID, ["mean.reference is empty"]),
    "mean of no rows": (lambda: editing(mean={"of_rows": {}}), INVALID, ["mean.of_rows.rows is empty"]),
    "mean of itself": (lambda: editing(mean={"of_rows": {"rows": [0]}}), INVALID, ["row 0", "part of"]),
    "mean of a row that is not there": (lambda: editing(mean={"of_rows": {"rows": [2]}}), INVALID, ["of_rows.rows[0] is 2"]),
    "interpolate without source": (lambda: editing(interpolate={"weight": 0.5}), INVALID, ["a row cannot be its own source"]),
    "infinite weight": (lambda: editing(interpolate={"source": {"row": 1}, "weight": -math.inf}), INVALID, ["interpolate.weight is -inf"]),
    "source that is too short": (lambda: editing(interpolate={"source": {"row": 1}}), INVALID, ["only 3 tokens", "interpolate.source.positions"]),
    "resample from nothing": (lambda: editing(resample={}), INVALID, ["resample.rows is empty"]),
    "too many directions": (
        lambda: editing("blocks.0.ln1.hook_scale", project_out={"directions": f32(1, 2, shape=[2, 1])}), INVALID, ["[2, 1]", "dimensions"]),
    "more directions than allowed": (
        lambda: editing(project_out={"directions": f32(*[1.0] * 257 * 300, shape=[257, 300])}), INVALID, ["[257, 300]", "at most 256"]),
    "directions of zero": (lambda: editing(project_out={"directions": f32(*[0.0] * 48, shape=[1, 48])}), INVALID, ["all zero"]),
    "directions that do not fit": (
        lambda: editing(swap_subspace={"source": {"row": 1}, "directions": f32(1, 2, shape=[1, 2])},
                        select={"positions": positions(index=0)}), INVALID, ["[1, 2]", "[n, 48]"]),
    "probability of no tokens": (lambda: measuring(probability={}), INVALID, ["metrics[0].probability.tokens is empty"]),
    "rank of nothing": (lambda: measuring(rank={}), INVALID, ["metrics[0].rank.token is missing"]),
    "cross-entropy behind the end": (lambda: measuring(cross_entropy={}, positions=positions(last=True)), INVALID, ["position 5", "next token"]),
    "comparison with a row that is not there": (lambda: measuring(kl={"row": 2}), INVALID, ["metrics[0].kl.row is 2"]),
    "comparison with a shorter row": (lambda: measuring(js={"row": 1}), INVALID, ["position 5", "only 3 tokens"]),
    "comparison with itself": (lambda: measuring(l2={"row": 1}, rows=[1]), INVALID, ["its own reference"]),
    "comparison of other numbers of positions": (
        lambda: measuring(kl={"row": 1, "positions": positions(all=True)}), INVALID, ["3 reference positions for 1 positions"]),
    "read-out of an unknown site": (lambda: measuring(read_out={"site": "hook_nothing", "direction": f32(1)}), NOT_FOUND, ["hook_nothing"]),
    "read-out along another size": (lambda: measuring(read_out={"site": "hook_embed", "direction": f32(1)}), INVALID, ["1 numbers", "48"]),
    "read-out without head": (
        lambda: measuring(read_out={"site": "blocks.0.attn.hook_z", "direction": f32(*[1.0] * 12)}), INVALID, ["head is missing"]),
    "units and a reduction": (
        lambda: request(capture={"select": {"sites": ["hook_embed"], "units": [1]}, "reduction": {"top_k": {"k": 1}}}), INVALID, ["exclude each other"]),
    "10,000 prompts": (lambda: many(10_000), EXHAUSTED, ["10000", "1024"]),
    "unknown field": (unknown_field, INVALID, ["unknown field number 127", "fluoroscope.v1.ForwardRequest"]),
    "unknown enum": (unknown_enum, INVALID, ["prompts[0].bos is 9", "BOS_DEFAULT"]),
    "enum 0": (zero_enum, INVALID, ["prompts[0].bos is 0"]),
    "malformed bytes": (lambda: b"\xff\xff\xff\xff", INVALID, ["not a valid fluoroscope.v1.ForwardRequest"]),
    "text that is not UTF-8": (lambda: b"\x0a\x04tiny\x12\x04\x0a\x02\xc3\x28", INVALID, ["UTF-8"]),
    "oversized message": (lambda: request({"text": "x" * (5 << 20)}), EXHAUSTED, ["4194304"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def client(shared_server):
    return shared_server.client()


def answer(client):
    """What a correct request is answered with: tensors by name and row, as (dtype, shape, positions, bytes)."""
    summary, tensors = client.forward(request(capture={"select": {"sites": ["blocks.*.hook_resid_pre"]}}, logits={"top_k": 3}), timeout=30)
    header, _ = tensors["blocks.2.hook_resid_pre", 0]
    assert summary.tokens == header.shape[0] and header.layer == 2
    return {key: (header.dtype, list(header.shape), list(header.positions), data) for key, (header, data) in tensors.items()}


@pytest.fixture(scope="module")
def truth(client):
    """The answer before anything bad came."""
    return answer(client)


def test_the_answer_is_no_trivial_one(truth):
    layers = {data for (name, _), (*_, data) in truth.items() if name.endswith("hook_resid_pre")}
    assert len(truth) == 3 + 3 and len(layers) == 3
    for name in ("blocks.0.hook_resid_pre", "blocks.2.hook_resid_pre"):
        _, shape, positions, data = truth[name, 0]
        values = struct.unpack(f"<{shape[0] * 48}f", data)
        assert shape == [len(positions), 48] and len(set(values)) > 100 and all(map(math.isfinite, values))


def serves(client, truth):
    """The same request has the same answer, bit for bit: it is alone on the server."""
    assert answer(client) == truth


@pytest.mark.parametrize("case", TABLE)
def test_bad_request(client, truth, case):
    make, code, words = TABLE[case]
    with pytest.raises(grpc.RpcError) as error:
        client.forward(make(), timeout=30)
    assert error.value.code() == code, error.value.details()
    for word in words:
        assert word in error.value.details()
    serves(client, truth)


@pytest.mark.parametrize("case", [name for name in TABLE if name != "oversized message"])
def test_estimate_refuses_the_same(client, case):
    make, code, _ = TABLE[case]
    with pytest.raises(grpc.RpcError) as error:
        client.call("fluoroscope.v1.Inference/Estimate", make(), timeout=30)
    assert error.value.code() == code, error.value.details()


@pytest.mark.parametrize("method", ["Models/GetModel", "Models/Tokenize", "Models/Detokenize"])
def test_models_name_what_exists(client, method):
    fields = {"Models/GetModel": {}, "Models/Tokenize": {"prompts": [{"text": "a"}]}, "Models/Detokenize": {"rows": [{"ids": [1]}]}}[method]
    with pytest.raises(grpc.RpcError) as error:
        client.call("fluoroscope.v1." + method, model="nobody", **fields)
    assert error.value.code() == NOT_FOUND
    assert "nobody" in error.value.details() and "tiny" in error.value.details()


def test_detokenize_refuses_ids_out_of_range(client):
    with pytest.raises(grpc.RpcError) as error:
        client.call("fluoroscope.v1.Models/Detokenize", model="tiny", rows=[{"ids": [1, 4000]}])
    assert error.value.code() == INVALID and "4000" in error.value.details()


def test_malformed_principal(client, truth):
    with pytest.raises(grpc.RpcError) as error:
        client.forward(request(), metadata=[("x-fluoroscope-principal", "a b")])
    assert error.value.code() == INVALID and "x-fluoroscope-principal" in error.value.details()
    serves(client, truth)


def test_malformed_priority(client):
    with pytest.raises(grpc.RpcError) as error:
        client.forward(request(), metadata=[("x-fluoroscope-priority", "urgent")])
    assert error.value.code() == INVALID and "must be interactive or batch" in error.value.details()
    client.forward(request(), metadata=[("x-fluoroscope-priority", "batch")])


@pytest.mark.parametrize("port", ["grpc_address", "http_address"])
@pytest.mark.parametrize("garbage", [b"\x00" * 100, b"\xff" * 100_000, b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x80" * 5000, b"{"])
def test_garbage_on_the_ports(shared_server, client, truth, port, garbage):
    host, number = getattr(shared_server, port).split(":")
    with socket.create_connection((host, int(number)), timeout=10) as connection:
        try:
            connection.sendall(garbage)
            connection.settimeout(0.2)
            connection.recv(4096)
        except OSError:
            pass  # refused or ignored, as it likes
    serves(client, truth)
    assert shared_server.http("/healthz")[0] == 200
