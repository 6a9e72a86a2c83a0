"""What generations leave for later ones, from outside: how much it is, that it makes way, that it can be turned off."""

from __future__ import annotations

import grpc
import pytest

from .wire import v1

GENERATE, FORWARD, ESTIMATE = (f"fluoroscope.v1.Inference/{name}" for name in ("Generate", "Forward", "Estimate"))
BYTES, REUSED = "fluoroscope_prefix_cache_bytes", 'fluoroscope_reused_tokens_total{model="tiny"}'
ME = (("x-fluoroscope-principal", "me"),)
BLOCK_BYTES = 2 * 3 * 16 * 2 * 12 * 4  # keys and values; layers, tokens, heads, numbers, bytes of each


def generate(client, ids, *, metadata=ME, **fields):
    request = v1("GenerateRequest")(model="tiny", prompts=[{"tokens": {"ids": ids}}], max_new_tokens=2, ignore_eos=True, **fields)
    (summary,) = [part.summary for part in client.call(GENERATE, request, metadata=metadata) if part.HasField("summary")]
    return summary


def prompt(number: int) -> list[int]:
    return [number % 399 + 1, number // 399 + 1, *range(1, 59)]  # 60 tokens: 3 whole blocks


def forward_of(client, most: int, least: int):
    """A request whose run is charged for between `least` and `most` bytes."""
    for rows in range(1, 400):
        capture = {"select": {"sites": ["blocks.*.hook_resid_pre"]}}
        request = v1("ForwardRequest")(model="tiny", prompts=[{"tokens": {"ids": list(range(1, 64))}}] * rows, captures=[capture])
        peak = client.call(ESTIMATE, request).peak_bytes
        if peak > most:
            break
        if peak > least:
            return request, peak
    raise AssertionError(f"no request between {least} and {most} bytes")


def test_it_fills_up_and_makes_way(start, tiny):
    mib = 2**20
    server = start({"tiny": tiny}, options="device { memory_mib: 4 } generation { prefix_cache_mib: 2 }")
    client = server.client()
    assert server.metric(BYTES) == 0
    for number in range(100):
        assert generate(client, prompt(number)).reused_tokens == 0
    full = server.metric(BYTES)
    assert full == 2 * mib // BLOCK_BYTES * BLOCK_BYTES
    assert generate(client, prompt(99)).reused_tokens == 48
    assert generate(client, prompt(0)).reused_tokens == 0, "gone long ago"
    assert server.metric(REUSED) == 48
    request, peak = forward_of(client, 4 * mib, 3 * mib)
    client.forward(request)
    left = server.metric(BYTES)
    assert 4 * mib - peak - BLOCK_BYTES < left <= 4 * mib - peak < full
    assert generate(client, prompt(0)).reused_tokens == 48, "the newest is still there"


@pytest.mark.parametrize("options", ["generation { prefix_cache_mib: 0 }", ""])
def test_it_can_be_turned_off(start, tiny, options):
    server = start({"tiny": tiny}, options=options)
    client = server.client()
    generate(client, prompt(1))
    assert generate(client, prompt(1)).reused_tokens == (0 if options else 48)
    assert (server.metric(BYTES) > 0) == (not options)


def test_estimates_and_wrong_requests(start, tiny):
    client = start({"tiny": tiny}).client()
    method = "fluoroscope.v1.Inference/EstimateGenerate"
    request = v1("GenerateRequest")(model="tiny", prompts=[{"tokens": {"ids": prompt(1)}}], max_new_tokens=3)
    first = client.call(method, request)
    assert (first.tokens, first.waves) == (62, 1) and 0 < first.peak_bytes < first.budget_bytes
    generate(client, prompt(1), metadata=None)
    assert client.call(method, request) == first, "as if nothing were known"
    request.max_new_tokens = 0
    with pytest.raises(grpc.RpcError, match="max_new_tokens is 0") as refused:
        client.call(method, request)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
