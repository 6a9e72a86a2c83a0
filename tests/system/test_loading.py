"""Models that come and go while the server runs: by name only, within the memory for weights, and never under the feet of requests in flight."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from . import tiny_models
from .server_process import ServerProcess, eventually
from .wire import v1

IDS = [1, 2, 3, 4, 5, 6, 7]
MIB = 1 << 20


@pytest.fixture(scope="module")
def store(tiny, busy, tmp_path_factory) -> Path:
    """Two good models, and what must not be loaded."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copytree(tiny, folder / "small")
    shutil.copytree(busy, folder / "large")
    shutil.copytree(tiny, folder / "broken")
    weights = folder / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    shutil.copytree(tiny, folder / "bad-config")
    config = json.loads((tiny / "config.json").read_text())
    (folder / "bad-config" / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    (folder / "escape").symlink_to(tiny)
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(tiny, store, tmp_path_factory):
    """"tiny" is of the configuration; 100 MiB for weights, of which "large" takes more than half."""
    large = (store / "large" / "model.safetensors").stat().st_size
    options = f'allow_loading: true model_store: "{store}" device {{ weights_mib: {large * 3 // 2 // MIB} }}'
    running = ServerProcess({"tiny": tiny}, tmp_path_factory.mktemp("server"), options=options)
    yield running
    running.close()


@pytest.fixture
def client(server):
    """Leaves the server with "tiny" alone."""
    made = server.client()
    yield made
    for name in ("small", "large"):
        made.call("fluoroscope.v1.Models/UnloadModel", model=name)
    made.call("fluoroscope.v1.Models/LoadModel", model="tiny")
    assert eventually(lambda: [m.name for m in listed(made).models] == ["tiny"] and not made.call("fluoroscope.v1.Models/UnloadModel", model="large").still_in_use)


def listed(client):
    return client.call("fluoroscope.v1.Models/ListModels")


def states(client) -> dict[str, int]:
    return {other.name: other.state for other in listed(client).others}


def load(client, name: str, **fields):
    return client.call("fluoroscope.v1.Models/LoadModel", model=name, **fields)


def unload(client, name: str) -> bool:
    return client.call("fluoroscope.v1.Models/UnloadModel", model=name).still_in_use


def refusal(call, *arguments, **fields) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, **fields)
    return error.value.code(), error.value.details()


def logits(client, model: str, ids=IDS) -> np.ndarray:
    request = v1("ForwardRequest")(model=model, prompts=[{"tokens": {"ids": ids}}], logits={"positions": {"items": [{"last": True}]}}, isolated=True)
    _, tensors = client.forward(request)
    return np.frombuffer(tensors["logits", 0][1], "<f4")


def expected(path: Path, ids=IDS) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()(torch.tensor([ids])).logits[0, -1].numpy()


def test_two_models_answer_and_one_goes(server, client, store, tiny):
    held = listed(client).weights_bytes
    assert held > 0 and states(client)["large"] == 1
    reply = load(client, "large")
    assert (reply.info.name, reply.info.dtype, reply.was_loaded) == ("large", "f32", False)
    assert load(client, "large").was_loaded
    np.testing.assert_allclose(logits(client, "large"), expected(store / "large"), atol=5e-5)
    np.testing.assert_allclose(logits(client, "tiny"), expected(tiny), atol=5e-5)
    assert client.health("large") == "SERVING" and server.http("/readyz")[0] == 200
    assert listed(client).weights_bytes >= held + reply.info.weight_bytes
    status = client.call("fluoroscope.v1.Server/GetStatus")
    assert status.weights_bytes == listed(client).weights_bytes
    large = server.metric('fluoroscope_model_weight_bytes{model="large"}')
    assert large == reply.info.weight_bytes
    assert not unload(client, "large")
    assert listed(client).weights_bytes == held and states(client)["large"] == 1
    assert client.health("large") == "NOT_SERVING"
    assert refusal(logits, client, "large") == (grpc.StatusCode.NOT_FOUND, "model 'large' was unloaded; load it again (LoadModel, in Python load_model); loaded: tiny")
    text = server.http("/metrics")[1]
    gone = [line for line in text.splitlines() if 'model="large"' in line and line.startswith(("fluoroscope_model_", "fluoroscope_identity_"))]
    assert gone == []
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing (Debian package prometheus)"
    check = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True)
    assert check.returncode == 0, check.stderr
    assert eventually(lambda: server.metric("fluoroscope_weights_bytes") == held)
    assert unload(client, "large") is False  # again


def test_a_model_in_use_is_unloaded_when_its_last_request_ends(client, server, store):
    load(client, "large")
    # A prompt of many tokens that is still running when the model goes; the same one before gives the values.
    ids = [i % 300 for i in range(1500)]
    before = logits(client, "large", ids)
    held = listed(client).weights_bytes
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(logits, server.client(), "large", ids)
        assert eventually(lambda: any(work.state == 2 for work in client.call("fluoroscope.v1.Server/GetStatus").works))
        in_use = unload(client, "large")
        assert refusal(logits, client, "large")[0] == grpc.StatusCode.NOT_FOUND
        if in_use:
            assert states(client)["large"] == 3 or running.done()
        np.testing.assert_array_equal(running.result(60), before)
    assert in_use
    assert eventually(lambda: listed(client).weights_bytes < held and states(client)["large"] == 1)


def test_a_load_that_does_not_fit_is_refused_with_both_numbers(client, server, store):
    load(client, "large")
    held, budget = listed(client).weights_bytes, listed(client).weights_budget_bytes
    unload(client, "tiny")
    (store / "second").symlink_to("large")  # stays inside the store
    try:
        code, message = refusal(load, client, "second")
        half = load(client, "second", dtype="bf16").info if held // 2 < budget - held else None
    finally:
        (store / "second").unlink()
        unload(client, "second")
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"of the {budget} bytes for weights (device.weights_mib) are taken. Could be unloaded: large (" in message
    assert message.startswith("model 'second' needs ")
    assert half is None or half.dtype == "bf16"
    assert 'model="second"' not in "".join(line for line in server.http("/metrics")[1].splitlines() if line.startswith("fluoroscope_model_"))


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("../tiny", grpc.StatusCode.INVALID_ARGUMENT, "never by a path"),
        ("/etc", grpc.StatusCode.INVALID_ARGUMENT, "never by a path"),
        ("..", grpc.StatusCode.INVALID_ARGUMENT, "never by a path"),
        ("", grpc.StatusCode.INVALID_ARGUMENT, "model is empty"),
        ("x" * 65, grpc.StatusCode.INVALID_ARGUMENT, "at most 64"),
        ("escape", grpc.StatusCode.FAILED_PRECONDITION, "leads out of the model store"),
        ("empty", grpc.StatusCode.NOT_FOUND, "can be loaded: "),
        ("unknown", grpc.StatusCode.NOT_FOUND, "no model 'unknown'; can be loaded: bad-config, broken, large, small"),
        ("broken", grpc.StatusCode.INVALID_ARGUMENT, "model 'broken': "),
        ("bad-config", grpc.StatusCode.INVALID_ARGUMENT, "has shape"),
    ],
)
def test_what_cannot_be_loaded(client, store, name, code, message):
    held = listed(client).weights_bytes
    found = refusal(load, client, name)
    assert found[0] == code and message in found[1]
    assert str(store) not in found[1]  # clients learn no paths
    assert listed(client).weights_bytes == held
    assert [model.name for model in listed(client).models] == ["tiny"]
    assert len(logits(client, "tiny")) == tiny_models.VOCABULARY


def test_many_who_ask_share_one_load(client, server):
    log = server.log().count("model small: loaded")
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: load(client, "small"), range(8)))
    assert {reply.info.weights_sha256 for reply in replies} == {replies[0].info.weights_sha256}
    assert server.log().count("model small: loaded") == log + 1
    assert refusal(load, client, "small", dtype="bf16") == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "model 'small' is loaded in f32; for bf16 unload it first (UnloadModel), then load it again",
    )
    assert not unload(client, "small")
    assert load(client, "small", dtype="bf16").info.dtype == "bf16"
    assert not unload(client, "small")
    assert load(client, "small").info.dtype == "f32"  # its own again


def test_a_model_of_the_configuration_comes_back_and_its_handles_with_it(client, server):
    keep = {"select": {"sites": ["blocks.1.hook_resid_pre"]}, "keep": {"ttl_seconds": 60}}
    request = v1("ForwardRequest")(model="tiny", prompts=[{"tokens": {"ids": IDS}}], captures=[keep])
    who = (("x-fluoroscope-principal", "keeper"),)
    parts = list(client.call("fluoroscope.v1.Inference/Forward", request, metadata=who))
    (handle,) = [part.handle for part in parts if part.WhichOneof("part") == "handle"]

    def get():
        return [part.WhichOneof("part") for part in client.call("fluoroscope.v1.Handles/Get", handle=handle.id, metadata=who)]

    before = get()
    assert not unload(client, "tiny")
    assert refusal(get)[0] == grpc.StatusCode.NOT_FOUND
    load(client, "tiny")
    assert get() == before


def test_without_the_switch_nothing_can_be_loaded(shared_server):
    client = shared_server.client()
    for method in ("LoadModel", "UnloadModel"):
        code, message = refusal(client.call, f"fluoroscope.v1.Models/{method}", model="tiny")
        assert code == grpc.StatusCode.FAILED_PRECONDITION and "allow_loading: true" in message
    assert not listed(client).others


def test_sigterm_ends_a_load(start, store, tmp_path):
    server = start({}, options=f'allow_loading: true model_store: "{store}"')
    assert server.http("/readyz")[0] == 200  # without any model
    with ThreadPoolExecutor(1) as pool:
        client = server.client()
        loading = pool.submit(load, client, "large")
        assert eventually(lambda: loading.done() or states(client)["large"] == 2)
        server.terminate()
        assert server.wait() == 0
        error = loading.exception(30)
    assert error is None or error.code() == grpc.StatusCode.UNAVAILABLE


def test_loading_leaves_no_threads_behind(client, server):
    def threads() -> int:
        return len(os.listdir(f"/proc/{server.process.pid}/task"))

    load(client, "large")
    logits(client, "large")
    before = threads()
    unload(client, "large")
    load(client, "large")
    assert threads() <= before + 2  # gRPC's own come and go
