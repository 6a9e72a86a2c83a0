"""Several callers of one server: what each may have, who goes first, and what `GetStatus` shows of them."""

from __future__ import annotations

import hashlib

import grpc
import pytest

from .server_process import eventually
from .test_lifecycle import in_background, long_run, running, small
from .wire import v1

STATUS = "fluoroscope.v1.Server/GetStatus"


def named(name: str, priority: str = "interactive") -> list[tuple[str, str]]:
    return [("x-fluoroscope-principal", name), ("x-fluoroscope-priority", priority)]


def shown(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def test_limits_of_one_principal_leave_the_others_alone(start, busy):
    # The whole reply of a request may wait unsent, and so counts.
    limits = "limits { max_in_flight_per_principal: 2 max_running_per_principal: 1 memory_mib_per_principal: 200 sink_buffer_mib: 1024 }"
    server = start({"busy": busy}, options=limits)
    client = server.client()
    work = v1("WorkStatus")
    calls = [in_background(client, long_run(65_536), metadata=named("alice", "batch")) for _ in range(2)]
    assert eventually(lambda: len(client.call(STATUS).works) == 2)

    status = client.call(STATUS)
    assert [one.principal for one in status.works] == [shown("alice")] * 2
    assert [one.state for one in status.works] == [work.STATE_RUNNING, work.STATE_WAITING], "one at once, though there is room for both"
    assert [one.priority for one in status.works] == [work.PRIORITY_BATCH] * 2
    assert all(one.peak_bytes > 1 << 20 and one.flops > 1e12 and one.age_seconds >= 0 for one in status.works)
    assert status.admitted_bytes == status.works[0].peak_bytes <= status.budget_bytes
    assert 0 < status.busy_seconds <= status.uptime_seconds
    assert b"alice" not in status.SerializeToString()

    with pytest.raises(grpc.RpcError) as error:
        client.forward(small("busy"), metadata=named("alice"))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "has 2 requests waiting or running and may have at most 2" in error.value.details()
    with pytest.raises(grpc.RpcError) as error:
        client.forward(v1("ForwardRequest")(model="busy", prompts=[{"tokens": {"ids": [1] * 512}}] * 16, captures=[{"select": {"sites": ["blocks.*.hook_resid_pre"]}}]),
                       metadata=named("carol"))  # fmt: skip
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(200 << 20) in error.value.details()
    client.forward(small("busy"), metadata=named("bob"), timeout=20)  # beside a long run of somebody else

    for call, _ in calls:
        call.cancel()
    for _, result in calls:
        result()
    assert eventually(lambda: not running(server))
    assert not client.call(STATUS).works
    assert client.call(STATUS).finished_requests == 3
    assert server.metric('fluoroscope_rejections_total{reason="principal_limit"}') == 2


def test_an_unknown_field_of_get_status_is_refused(shared_server):
    with pytest.raises(grpc.RpcError) as error:
        shared_server.client().call(STATUS, b"\x08\x01")
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
