"""From start to end: the real binary under signals, cancels, deadlines, slow readers and a full queue."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import grpc
import pytest

from .server_process import BINARY, eventually
from .wire import Client, v1

FORWARD = "fluoroscope.v1.Inference/Forward"


def small(model: str = "tiny", **fields):
    return v1("ForwardRequest")(model=model, prompts=[{"text": "John gave the bag"}], **fields)


def long_run(tokens: int = 32_768, length: int = 512):
    """Many seconds of work for the "busy" model on two cores, with one number as its result."""
    return v1("ForwardRequest")(model="busy", prompts=[{"tokens": {"ids": [5] * length}}] * (tokens // length), logits={"tokens": [{"id": 1}]})


def big_reply(rows: int):
    """About 1 MiB a row of the "busy" model: 16 layers of 32 tokens of 512 floats."""
    return v1("ForwardRequest")(model="busy", prompts=[{"tokens": {"ids": [5] * 32}}] * rows, captures=[{"select": {"sites": ["blocks.*.hook_resid_pre"]}}])


def running(server) -> bool:
    return server.metric("fluoroscope_admitted_bytes") > 0


def in_background(client: Client, request, **options):
    """Starts a Forward; the call can be cancelled, `result()` waits for its end."""
    call = client.call(FORWARD, request, **options)
    outcome: dict = {}

    def read():
        try:
            outcome["parts"] = sum(1 for _ in call)
            outcome["code"] = grpc.StatusCode.OK
        except grpc.RpcError as error:
            outcome["code"], outcome["details"] = error.code(), error.details()
        outcome["at"] = time.monotonic()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()

    def result(seconds: float = 60) -> dict:
        thread.join(seconds)
        assert not thread.is_alive(), "the call did not end"
        return outcome

    return call, result


def test_start_and_sigterm(start, tiny):
    server = start({"tiny": tiny})
    client = server.client()
    assert client.health() == "SERVING"
    assert server.http("/healthz") == (200, "ok\n")
    assert server.http("/readyz") == (200, "ready\n")
    client.forward(small())
    server.terminate()
    assert server.wait() == 0
    log = server.log()
    assert log.rstrip().endswith("stopped")
    assert " method=Inference.Forward code=OK queue_ms=" in log
    assert "John" not in log, "prompts are never logged"


def test_sigterm_lets_running_work_finish(start, busy):
    server = start({"busy": busy}, options="drain_seconds: 60")
    client = server.client()
    _, result = in_background(client, long_run(8192))
    assert eventually(lambda: running(server))
    server.terminate()
    assert eventually(lambda: server.http("/readyz")[0] == 503)
    with pytest.raises(grpc.RpcError) as error:
        server.client().forward(small("busy"), timeout=5)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert result()["code"] == grpc.StatusCode.OK
    assert server.wait() == 0


def test_sigterm_cancels_after_the_grace_time(start, busy):
    server = start({"busy": busy}, options="drain_seconds: 1")
    _, result = in_background(server.client(), long_run(262_144))
    assert eventually(lambda: running(server))
    asked = time.monotonic()
    server.terminate()
    assert result()["code"] == grpc.StatusCode.UNAVAILABLE
    assert server.wait() == 0
    assert time.monotonic() - asked < 10


def tensors_in(part) -> int:
    return (part.WhichOneof("part") == "tensor") + len(part.pack.headers)


def test_sigterm_mid_stream_with_a_reader_that_reads(start, busy):
    """The reply is larger than all buffers, so most of it is computed and sent after the signal."""
    server = start({"busy": busy}, options="drain_seconds: 60 limits { sink_buffer_mib: 4 }")
    call = server.client().call(FORWARD, big_reply(128))
    tensors = tensors_in(next(call))
    assert eventually(lambda: running(server))
    server.terminate()
    assert eventually(lambda: server.http("/readyz")[0] == 503)
    assert running(server)
    tensors += sum(tensors_in(part) for part in call)
    assert tensors == 128 * 16
    assert call.code() == grpc.StatusCode.OK
    assert server.wait() == 0


def test_sigterm_mid_stream_with_a_reader_that_stopped(start, busy):
    server = start({"busy": busy}, options="drain_seconds: 1 limits { sink_buffer_mib: 4 }")
    call = server.client().call(FORWARD, big_reply(128))
    tensors = tensors_in(next(call))  # and no more
    assert eventually(lambda: running(server))
    asked = time.monotonic()
    server.terminate()
    assert server.wait() == 0
    assert time.monotonic() - asked >= 1, "the reader has the drain time to go on"
    with pytest.raises(grpc.RpcError) as error:
        for part in call:
            tensors += tensors_in(part)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert tensors < 128 * 16


def test_a_second_signal_ends_at_once(start, busy):
    server = start({"busy": busy}, options="drain_seconds: 60")
    in_background(server.client(), long_run(262_144))
    assert eventually(lambda: running(server))
    server.terminate(signal.SIGINT)
    assert eventually(lambda: server.http("/readyz")[0] == 503)
    asked = time.monotonic()
    server.terminate(signal.SIGINT)
    assert server.wait() == 128 + signal.SIGINT
    assert time.monotonic() - asked < 2


def busy_seconds(server) -> float:
    return server.metric("fluoroscope_executor_busy_seconds_total")


def test_cancel_mid_run_frees_the_executor(start, busy):
    """Of some minutes of work the executor does no more than the steps under way."""
    server = start({"busy": busy})
    client = server.client()
    call, result = in_background(client, long_run(262_144))
    assert eventually(lambda: running(server))
    before = busy_seconds(server)
    call.cancel()
    assert eventually(lambda: not running(server), 5)
    assert busy_seconds(server) - before < 0.3
    assert result()["code"] == grpc.StatusCode.CANCELLED
    client.forward(small("busy"), timeout=10)
    assert busy_seconds(server) - before < 0.3
    assert eventually(lambda: server.metric('fluoroscope_rpcs_total{code="CANCELLED",method="Inference.Forward"}') == 1)


@pytest.mark.parametrize("method", ["Patching.Sweep", "Patching.PathPatch", "Attribution.Attribute", "Attribution.AttributeEdges"])
def test_cancel_frees_the_executor_of_a_grid(start, busy, method):
    """Work of minutes, cancelled when it has begun: the next request does not wait for it."""
    server = start({"busy": busy})
    client = server.client()
    pairs = [{"clean": {"tokens": {"ids": [1 + p] * 300 + [2]}}, "corrupt": {"tokens": {"ids": [1 + p] * 200 + [2] * 101}}} for p in range(24)]
    metrics = [{"name": "diff", "logit_difference": {"right": [{"id": 3}], "wrong": [{"id": 4}]}}]
    sweep = v1("SweepRequest")(model="busy", pairs=pairs, metrics=metrics, sites=["hook_resid_pre"], over=["SWEEP_AXIS_LAYER", "SWEEP_AXIS_POSITION"])
    ends = {"senders": [{"nodes": [{"site": "blocks.0.attn.hook_z"}]}], "receivers": [{"nodes": [{"site": "logits"}]}]}
    paths = v1("PathPatchRequest")(model="busy", pairs=pairs * 8, metrics=metrics, **ends)
    requests = {
        "Patching.Sweep": sweep,
        "Patching.PathPatch": paths,
        "Attribution.Attribute": v1("AttributeRequest")(grid=sweep, method="ATTRIBUTION_METHOD_INTEGRATED_GRADIENTS", steps=256),
        "Attribution.AttributeEdges": v1("AttributeEdgesRequest")(paths=paths, method="EDGE_METHOD_EAP_IG", steps=256),
    }
    call = client.call(f"fluoroscope.v1.{method.replace('.', '/')}", requests[method], timeout=300)
    assert next(call).WhichOneof("part") == "header"  # sent with the first step
    before = busy_seconds(server)
    call.cancel()
    assert eventually(lambda: not running(server), 5)
    client.forward(small("busy"), timeout=10)
    assert busy_seconds(server) - before < 0.3
    assert eventually(lambda: server.metric(f'fluoroscope_rpcs_total{{code="CANCELLED",method="{method}"}}') == 1)


def test_deadline_mid_run(start, busy):
    server = start({"busy": busy})
    client = server.client()
    started = time.monotonic()
    with pytest.raises(grpc.RpcError) as error:
        client.forward(long_run(262_144), timeout=1)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 3
    assert eventually(lambda: not running(server), 5)
    assert eventually(lambda: server.metric('fluoroscope_rpcs_total{code="DEADLINE_EXCEEDED",method="Inference.Forward"}') == 1)


def test_a_client_that_stops_reading_holds_nobody_up(start, busy):
    server = start({"busy": busy}, options="limits { sink_buffer_mib: 4 }")
    call = server.client().call(FORWARD, big_reply(128))
    next(call)  # and no more
    other = server.client()
    time.sleep(1)
    for _ in range(5):
        other.forward(small("busy"), timeout=20)
    assert running(server), "the slow reader's bytes stay charged"
    assert sum(tensors_in(part) for part in call) == 128 * 16  # it wakes up, and gets everything
    assert call.code() == grpc.StatusCode.OK
    assert eventually(lambda: not running(server))


def test_a_client_that_disappears_frees_its_run(start, busy):
    server = start({"busy": busy}, options="limits { sink_buffer_mib: 4 }")
    client = Client(server.grpc_address)
    call = client.call(FORWARD, big_reply(128))
    next(call)
    assert eventually(lambda: running(server))
    client.close()
    assert eventually(lambda: not running(server))


def test_queue_full(start, busy):
    server = start({"busy": busy}, options="limits { max_queue: 2 } device { memory_mib: 128 }")
    client = server.client()
    calls = [in_background(client, long_run(65_536)) for _ in range(16)]
    assert eventually(lambda: server.metric('fluoroscope_rejections_total{reason="queue_full"}') > 0)
    assert eventually(lambda: any(call.done() for call, _ in calls))  # the refusal is counted before the client hears of it
    for call, _ in calls:
        call.cancel()
    outcomes = [result() for _, result in calls]
    full = [outcome for outcome in outcomes if outcome["code"] == grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert full and all("the queue is full: 2 requests are waiting and at most 2 may" in outcome["details"] for outcome in full), full
    assert eventually(lambda: not running(server))
    client.forward(small("busy"), timeout=20)


def test_over_the_budget_is_refused_with_both_numbers(start, busy):
    server = start({"busy": busy}, options="device { memory_mib: 16 }")
    client = server.client()
    estimate = client.call("fluoroscope.v1.Inference/Estimate", long_run(65_536))
    assert estimate.budget_bytes == 16 << 20 and estimate.peak_bytes > estimate.budget_bytes
    with pytest.raises(grpc.RpcError) as error:
        client.forward(long_run(65_536))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(estimate.peak_bytes) in error.value.details() and str(16 << 20) in error.value.details()
    client.forward(small("busy"))


def test_the_receive_limit_comes_from_the_configuration(start, tiny):
    server = start({"tiny": tiny}, options="limits { max_receive_mib: 8 }")
    client = server.client()
    too_long = v1("ForwardRequest")(model="tiny", prompts=[{"text": "x" * (6 << 20)}])
    with pytest.raises(grpc.RpcError) as error:
        client.forward(too_long)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT, "it arrived, and is over the context"


def environment_of(server) -> list[str]:
    return Path(f"/proc/{server.process.pid}/environ").read_text().split("\0")


def test_openmp_spins_shortly_unless_told_otherwise(start, tiny):
    bare = {"PATH": "/usr/bin:/bin"}  # neither OMP_WAIT_POLICY nor GOMP_SPINCOUNT, whatever the tests themselves run with
    server = start({"tiny": tiny}, environment=bare)
    assert "GOMP_SPINCOUNT=6000" in environment_of(server)
    assert Path(f"/proc/{server.process.pid}/comm").read_text().startswith("fluoroscope")
    told = start({"tiny": tiny}, environment=bare | {"OMP_WAIT_POLICY": "passive"})
    assert "OMP_WAIT_POLICY=passive" in environment_of(told)
    assert not any(line.startswith("GOMP_SPINCOUNT=") for line in environment_of(told))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["models is empty"]),
        (["--model", "tiny"], ["--model is \"tiny\"", "NAME=DIRECTORY"]),
        (["--model", "a=/p,a=/q"], ["models[1].name is \"a\""]),
        (["--model", "a=/p", "--grpc_address", "nowhere"], ["grpc_address", "no port"]),
        (["--config", "/nonexistent.textproto"], ["/nonexistent.textproto"]),
        (["surplus"], ["\"surplus\" is not a flag"]),
        (["--nonsense"], ["nonsense"]),
    ],
)  # fmt: skip
def test_a_bad_command_line_ends_with_an_explanation(arguments, words):
    run = subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=30)
    assert run.returncode != 0
    for word in words:
        assert word in run.stderr


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    run = subprocess.run([BINARY, "--model", f"m={tmp_path}", "--grpc_address", "127.0.0.1:0", "--http_address", "127.0.0.1:0"],
                         capture_output=True, text=True, timeout=60)  # fmt: skip
    assert run.returncode == 1
    assert str(tmp_path) in run.stderr


def test_version_and_help():
    version = subprocess.run([BINARY, "--version"], capture_output=True, text=True, timeout=30)
    assert version.returncode == 0 and version.stdout.startswith("fluoroscope-server 0.")
    text = subprocess.run([BINARY, "--help"], capture_output=True, text=True, timeout=30).stdout
    for flag in ("--config", "--model", "--grpc_address", "--http_address", "--port_file"):
        assert flag in text


def test_a_taken_port_is_an_error(tiny):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flag, other in (("--grpc_address", "--http_address"), ("--http_address", "--grpc_address")):
            run = subprocess.run([BINARY, "--model", f"tiny={tiny}", flag, address, other, "127.0.0.1:0"], capture_output=True, text=True, timeout=60)
            assert run.returncode == 1
            assert str(taken.getsockname()[1]) in run.stderr
