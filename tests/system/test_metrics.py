"""/metrics: what is there, that each number is the one of its help text, and that labels take values from fixed sets whatever callers send."""

from __future__ import annotations

import re
import shutil
import subprocess

import grpc
import pytest

from .server_process import ServerProcess, eventually
from .wire import services, v1

IDS = [1, 2, 3, 4, 5, 6, 7]
IDENTITIES = {"residual", "attention", "pattern_sum", "logits"}
# fluoroscope_rejections_total: all there from the start (server/obs/metrics.cc).
REASONS = {"queue_full", "over_budget", "draining", "invalid", "deadline", "cancelled", "out_of_memory", "principal_limit"}
METHODS = {f"{service.name}.{method.name}" for service in services().values() for method in service.methods}


@pytest.fixture(scope="module")
def server(tiny, tmp_path_factory):
    """One whose counters move by requests alone: it checks no identities after the start."""
    running = ServerProcess({"tiny": tiny}, tmp_path_factory.mktemp("server"), options="self_check_seconds: 3600")
    yield running
    running.close()


def request(**fields):
    return v1("ForwardRequest")(model="tiny", prompts=[{"tokens": {"ids": IDS}}], **fields)


def labels(text: str, name: str) -> set[str]:
    """All values of a label in the exposition."""
    found = set()
    for line in text.splitlines():
        if not line.startswith("#") and "{" in line:
            found |= {value for label, value in re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', line[line.index("{") :]) if label == name}
    return found


def test_the_exposition_is_complete_and_well_formed(server):
    server.client().forward(request(captures=[{"select": {"sites": ["blocks.*.hook_resid_pre"]}}]))
    status, text = server.http("/metrics")
    assert status == 200
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {
        "fluoroscope_build_info", "fluoroscope_rpcs_total", "fluoroscope_rpc_duration_seconds", "fluoroscope_queue_depth",
        "fluoroscope_queue_wait_seconds", "fluoroscope_executor_busy_seconds_total", "fluoroscope_batch_rows", "fluoroscope_batch_tokens",
        "fluoroscope_forward_tokens_total", "fluoroscope_captured_bytes_total", "fluoroscope_admitted_bytes", "fluoroscope_budget_bytes",
        "fluoroscope_rejections_total", "fluoroscope_model_info", "fluoroscope_model_load_seconds", "fluoroscope_identity_relative_error",
        "fluoroscope_device_allocated_bytes", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds",
    } <= families  # fmt: skip
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing (Debian package prometheus)"
    check = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True)
    assert check.returncode == 0 and not check.stderr, check.stderr


def test_one_request_is_counted_exactly(server):
    own = '{model="tiny"}'
    names = ["fluoroscope_captured_bytes_total", 'fluoroscope_rpcs_total{code="OK",method="Inference.Forward"}', "fluoroscope_queue_wait_seconds_count"]
    names += [f"fluoroscope_{name}{own}" for name in ("forward_tokens_total", "batch_requests_sum", "batch_rows_sum", "batch_rows_count", "batch_tokens_sum")]

    def counters() -> list[float]:
        return [server.metric(name) for name in names]

    before = counters()
    captures = [{"select": {"sites": ["blocks.*.hook_resid_pre", "blocks.1.attn.hook_pattern"]}}, {"select": {"sites": ["hook_embed"], "positions": {"items": [{"last": True}]}}}]
    _, tensors = server.client().forward(request(captures=captures))
    n = len(IDS)
    captured = 3 * n * 48 * 4 + 4 * n * n * 4 + 48 * 4  # three layers' residuals, four heads' patterns, one line of the embedding; float32
    assert captured == sum(len(data) for _, data in tensors.values())
    expected = [captured, 1, 1, n, 1, 1, 1, n]
    assert eventually(lambda: [now - then for now, then in zip(counters(), before)] == expected), dict(zip(names, zip(before, counters())))


def test_labels_take_their_values_from_fixed_sets(server):
    client = server.client()
    codes = set()
    who = (("x-fluoroscope-principal", "made-up-caller"),)
    for service in services().values():
        for method in service.methods:
            name = f"{service.full_name}/{method.name}"
            fields = {"model": "made-up-model"} if "model" in method.input_type.fields_by_name else {}
            try:
                if method.client_streaming:
                    client.upload([], metadata=who).result()
                else:
                    reply = client.call(name, metadata=who, **fields)
                    list(reply) if method.server_streaming else None
                codes.add("OK")
            except grpc.RpcError as error:
                codes.add(error.code().name)
    for made_up in ("/fluoroscope.v1.Inference/MadeUp", "/made.up.Service/MadeUp"):
        with pytest.raises(grpc.RpcError) as error:
            client.channel.unary_unary(made_up)(b"", timeout=20)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
    # A call is counted when the server is done with it, which may be after the client has its answer.
    assert eventually(lambda: labels(finished(server), "method") == METHODS)
    _, text = server.http("/metrics")
    assert labels(text, "method") == METHODS
    assert codes <= labels(text, "code") <= {code.name for code in grpc.StatusCode}
    assert labels(text, "reason") == REASONS
    assert labels(text, "model") == {"tiny"}
    assert labels(text, "identity") == IDENTITIES
    assert "made" not in text.lower()


def finished(server) -> str:
    return "\n".join(line for line in server.http("/metrics")[1].splitlines() if line.startswith("fluoroscope_rpcs_total{"))


def test_identities_are_checked_while_the_server_is_idle(start, tiny):
    server = start({"tiny": tiny}, options="self_check_seconds: 1")

    def checks() -> float:
        return server.metric("fluoroscope_queue_wait_seconds_count")

    after_start = checks()
    assert eventually(lambda: checks() >= after_start + 2)
    errors = {}
    for line in server.http("/metrics")[1].splitlines():
        if line.startswith("fluoroscope_identity_relative_error{"):
            assert labels(line, "model") == {"tiny"}
            errors[labels(line, "identity").pop()] = float(line.rsplit(" ", 1)[1])
        assert not line.startswith("fluoroscope_rpcs_started_total"), "nobody has called"
    assert errors.keys() == IDENTITIES
    assert all(0 <= error < 1e-5 for error in errors.values()), errors
    assert errors["attention"] > 0 and errors["logits"] > 0  # two ways to the same value in float32
