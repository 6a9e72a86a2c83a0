"""Loads that end before the model is there: by SIGTERM, and because nobody waits for them any more.

They are held at a known place: the model has been read, and its check waits for memory that a Forward holds whose reader does not read.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import grpc
import numpy as np
import pytest

from .server_process import ServerProcess, eventually
from .test_loading import IDS, expected, listed, load, logits, refusal, states, unload
from .wire import v1

MIB = 1 << 20
BUDGET = 64 * MIB
LOAD, FORWARD = "fluoroscope.v1.Models/LoadModel", "fluoroscope.v1.Inference/Forward"
CANCELLED = 'fluoroscope_rpcs_total{code="CANCELLED",method="Models.LoadModel"}'


@pytest.fixture(scope="module")
def store(busy, tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    shutil.copytree(busy, folder / "large")
    shutil.copytree(tiny, folder / "small")
    return folder


def options(store: Path) -> str:
    return f'allow_loading: true model_store: "{store}" device {{ memory_mib: {BUDGET // MIB} }} limits {{ sink_buffer_mib: 1024 }} drain_seconds: 600 self_check_seconds: 3600'


@pytest.fixture(scope="module")
def server(busy, store, tmp_path_factory):
    running = ServerProcess({"busy": busy}, tmp_path_factory.mktemp("server"), options=options(store))
    yield running
    running.close()


def request(rows: int):
    capture = {"select": {"sites": ["blocks.*.hook_resid_pre"]}}
    return v1("ForwardRequest")(model="busy", prompts=[{"tokens": {"ids": [5] * 32}}] * rows, captures=[capture])


def estimate(client, rows: int) -> int:
    return client.call("fluoroscope.v1.Inference/Estimate", request(rows)).peak_bytes


def occupy(server: ServerProcess, client):
    """A Forward that holds so much of the budget that no check fits beside it, until it is cancelled: nobody reads what it sends."""
    peaks = {rows: estimate(client, rows) for rows in range(20, 64)}
    rows = max(rows for rows, peak in peaks.items() if peak <= BUDGET)
    assert BUDGET - peaks[rows] < 3 * MIB
    call = client.call(FORWARD, request(rows), timeout=600)
    next(call)
    assert server.metric("fluoroscope_admitted_bytes") == peaks[rows]
    return call


def wait_for_check(server: ServerProcess, client, name: str):
    """Until the model has been read and its check, the only one in the queue, waits."""

    def waits() -> bool:
        return states(client).get(name) == 2 and server.metric("fluoroscope_queue_depth") == 1

    assert eventually(waits, 30), listed(client)


def test_a_load_whose_client_goes_away_ends(server, busy):
    client = server.client()
    held = listed(client).weights_bytes
    forward = occupy(server, client)
    loading = client.future(LOAD, model="large")
    wait_for_check(server, client, "large")
    assert listed(client).weights_bytes > held
    before = server.metric(CANCELLED)
    loading.cancel()
    assert eventually(lambda: states(client)["large"] == 1 and listed(client).weights_bytes == held)
    assert eventually(lambda: server.metric(CANCELLED) == before + 1)
    assert server.metric("fluoroscope_queue_depth") == 0
    assert refusal(logits, client, "large")[0] == grpc.StatusCode.NOT_FOUND
    text = server.http("/metrics")[1]
    assert [line for line in text.splitlines() if 'model="large"' in line and line.startswith(("fluoroscope_model_", "fluoroscope_identity_"))] == []
    # Whoever asks next gets a whole model.
    again = client.future(LOAD, model="large")
    wait_for_check(server, client, "large")
    forward.cancel()
    assert again.result().info.name == "large" and not again.result().was_loaded
    np.testing.assert_allclose(logits(client, "large"), expected(busy), atol=5e-5)
    assert not unload(client, "large")
    assert listed(client).weights_bytes == held


def test_a_load_goes_on_while_somebody_waits_for_it(server):
    client, other = server.client(), server.client()
    forward = occupy(server, client)
    first = client.future(LOAD, model="large")
    wait_for_check(server, client, "large")
    second = other.future(LOAD, model="large")
    assert eventually(lambda: server.metric('fluoroscope_rpcs_in_flight{method="Models.LoadModel"}') == 2)
    estimate(client, 1)  # behind it on the prepare thread
    queued = client.future(LOAD, model="small")
    assert eventually(lambda: states(client)["small"] == 2)
    before = server.metric(CANCELLED)
    first.cancel()
    assert eventually(lambda: server.metric(CANCELLED) == before + 1)
    assert states(client)["large"] == 2
    # One that waits for the loader is taken back before it has begun.
    queued.cancel()
    assert eventually(lambda: states(client)["small"] == 1)
    forward.cancel()
    assert second.result().info.name == "large"
    assert sorted(model.name for model in listed(client).models) == ["busy", "large"]
    assert load(client, "small").was_loaded is False
    for name in ("large", "small"):
        assert not unload(client, name)


def test_a_deadline_ends_a_load(server):
    client = server.client()
    held = listed(client).weights_bytes
    forward = occupy(server, client)
    loading = client.future(LOAD, model="large", timeout=1.5)
    assert loading.exception().code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert eventually(lambda: states(client)["large"] == 1 and listed(client).weights_bytes == held)
    forward.cancel()


def test_sigterm_ends_a_load_whose_check_waits(start, store, busy):
    server = start({"busy": busy}, options=options(store))
    client = server.client()
    forward = occupy(server, client)
    loading = client.future(LOAD, model="large")
    wait_for_check(server, client, "large")
    server.terminate()
    error = loading.exception()
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
    assert server.process.poll() is None, "it still waits for the Forward, as long as drain_seconds says"
    forward.cancel()
    assert server.wait() == 0
