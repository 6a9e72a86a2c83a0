"""Generation as a black box: cancelled, left alone, late, drained, and read slowly, while others go on."""

from __future__ import annotations

import threading

import grpc
import pytest

from .server_process import eventually
from .wire import Client, v1

GENERATE = "fluoroscope.v1.Inference/Generate"
COUNT = 'fluoroscope_rpcs_total{{code="{}",method="Inference.Generate"}}'


def endless(**fields):
    """A continuation as long as the "busy" model's context: many seconds."""
    fields = {"max_new_tokens": 4000, "ignore_eos": True} | fields
    return v1("GenerateRequest")(model="busy", prompts=[{"tokens": {"ids": [5, 6, 7]}}], **fields)


def short(client: Client, tokens: int = 5) -> list[int]:
    parts = list(client.call(GENERATE, endless(max_new_tokens=tokens), timeout=30))
    return [part.token.id for part in parts if part.HasField("token")]


def running(server) -> bool:
    return server.metric("fluoroscope_admitted_bytes") > 0


def tokens_of(call, count: int) -> None:
    """Reads until so many tokens have come."""
    while count > 0:
        count -= next(call).HasField("token")


def test_cancel_frees_the_executor_and_the_memory(start, busy):
    server = start({"busy": busy})
    client = server.client()
    calls = [client.call(GENERATE, endless()) for _ in range(3)]
    for call in calls:
        tokens_of(call, 3)
    held = server.metric("fluoroscope_admitted_bytes")
    calls[1].cancel()
    assert eventually(lambda: server.metric("fluoroscope_admitted_bytes") < held)
    tokens_of(calls[0], 20)  # the others go on
    calls[0].cancel()
    calls[2].cancel()
    assert eventually(lambda: not running(server))
    assert len(short(client)) == 5
    assert eventually(lambda: server.metric(COUNT.format("CANCELLED")) == 3)


def test_a_client_that_disappears_frees_its_run(start, busy):
    server = start({"busy": busy})
    client = Client(server.grpc_address)
    tokens_of(client.call(GENERATE, endless()), 3)
    assert running(server)
    client.close()
    assert eventually(lambda: not running(server))


def test_a_deadline(start, busy):
    server = start({"busy": busy})
    with pytest.raises(grpc.RpcError) as error:
        list(server.client().call(GENERATE, endless(), timeout=1))
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert eventually(lambda: not running(server))


def test_sigterm_cancels_after_the_grace_time(start, busy):
    server = start({"busy": busy}, options="drain_seconds: 1")
    call = server.client().call(GENERATE, endless())
    tokens_of(call, 3)
    server.terminate()
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert server.wait() == 0


def test_a_slow_reader_holds_nobody_up_and_gets_everything(start, busy):
    """It captures far more than its buffer holds; while nobody reads, it sits out, and others' steps go on."""
    server = start({"busy": busy}, options="limits { sink_buffer_mib: 1 }")
    expected = short(server.client(), 200)
    captures = [{"select": {"sites": ["blocks.*.mlp.hook_pre", "blocks.*.mlp.hook_post"], "positions": {"items": [{"generated": True}]}}}]
    call = server.client().call(GENERATE, endless(max_new_tokens=200, captures=captures))
    assert next(call).HasField("header")  # and no more
    other = server.client()
    for _ in range(3):
        assert short(other) == expected[:5]
    assert running(server), "it is still there"
    tokens, tensors = [], 0
    for part in call:  # it wakes up
        if part.HasField("token"):
            tokens.append(part.token.id)
        tensors += (part.WhichOneof("part") == "tensor") + len(part.pack.headers)
    assert tokens == expected
    assert tensors == 199 * 16 * 2
    assert eventually(lambda: not running(server))


def test_many_at_once_are_each_as_alone(start, busy):
    server = start({"busy": busy})
    expected = short(server.client(), 30)
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(short(server.client(), 30))) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 10
    assert server.metric(COUNT.format("OK")) == 11


def test_over_the_budget_is_refused_with_both_numbers(start, busy):
    server = start({"busy": busy}, options="device { memory_mib: 64 }")
    with pytest.raises(grpc.RpcError) as error:
        list(server.client().call(GENERATE, endless()))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "64.0 MiB" in error.value.details()
    assert len(short(server.client())) == 5
