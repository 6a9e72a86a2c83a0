"""A reader that stops, and SmolLM2-135M's run of a reply that is larger than the whole memory budget.

The run stops when the sink's buffer is full, so its estimate is of the buffer and what one piece of work adds, not of the reply: it is admitted, what the
server's counting allocator sees while nobody reads is never more than the estimate and at most a quarter less, and when the reader goes on it gets everything.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import numpy as np
import pytest
from fluoroscope import wire
from fluoroscope._proto.v1 import inference_pb2, plan_pb2

from .compare import vector_error
from .serving import SMOLLM2, Result, Server, capture

MIB = 1 << 20
BUFFER = 64 * MIB  # limits.sink_buffer_mib's default
BUDGET = 256 * MIB
MOST_OVER = 1.25


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from fluoroscope.fetch import fetch

    running = Server({SMOLLM2: fetch(SMOLLM2)}, tmp_path_factory.mktemp("stopped"), f"device {{ memory_mib: {BUDGET // MIB} }}")
    yield running
    running.stop()


@dataclass(frozen=True)
class Case:
    rows: int
    length: int
    sites: tuple[str, ...]
    seen: tuple[str, ...]  # of them, one or two to compare

    def prompts(self) -> list[list[int]]:
        return np.random.default_rng(self.rows).integers(100, 40_000, (self.rows, self.length)).tolist()

    def request(self) -> inference_pb2.ForwardRequest:
        prompts = [plan_pb2.Prompt(tokens=plan_pb2.TokenIds(ids=ids)) for ids in self.prompts()]
        return inference_pb2.ForwardRequest(model=SMOLLM2, prompts=prompts, captures=[capture(self.sites)])


# A layer's hook_resid_pre would be the memory of the hook_resid_post before it, were it not copied so that each is held for what it is charged.
RESIDUAL = ("blocks.*.hook_resid_pre", "blocks.*.hook_resid_mid", "blocks.*.hook_resid_post")
# The run looks at the buffer between two pieces of work. Where in a piece it is then full is chance: it depends on what the transport has taken. So
# pieces are small enough beside the buffer (both of a layer of "everything" have 11 MiB) that the luckiest fill is within the quarter too.
CASES = {
    "the residual stream, in two batches": Case(27, 50, RESIDUAL, ("blocks.29.hook_resid_post", "blocks.7.hook_resid_pre")),
    "everything": Case(8, 12, ("*",), ("blocks.3.attn.hook_pattern", "blocks.29.mlp.hook_post")),
    "the neurons of long prompts": Case(8, 200, ("blocks.*.mlp.hook_post",), ("blocks.29.mlp.hook_post",)),
}


def wait_until_it_waits(server: Server) -> None:
    """For a run that has filled the buffer, of which the transport may have taken a part since (below half of it the run would go on): the executor has done
    nothing for two seconds. A step counts when it has ended, and on a busy machine one may take a second."""
    until, before, still = time.monotonic() + 120, -1.0, 0
    while True:
        held = server.metric('fluoroscope_device_allocated_bytes{device="cpu"}')  # a gauge of every second
        busy = server.metric("fluoroscope_executor_busy_seconds_total")
        still = still + 1 if held >= BUFFER / 2 and busy == before else 0
        if still == 4:
            return
        assert time.monotonic() < until, f"it does not wait: {held} bytes are held"
        before = busy
        time.sleep(0.5)


@pytest.mark.parametrize("case", CASES)
def test_a_reply_larger_than_the_budget(server, case):
    one = CASES[case]
    request = one.request()
    estimate = server.estimate(request)
    assert estimate.budget_bytes == BUDGET and estimate.peak_bytes < BUDGET < estimate.reply_bytes

    call = server._forward(request, timeout=300)
    header = next(call)
    wait_until_it_waits(server)
    assert server.metric("fluoroscope_admitted_bytes") == estimate.peak_bytes
    reply = wire.read_reply(itertools.chain([header], call), lambda header, dtype, shape: np.empty(shape, dtype))

    assert reply.summary.byte_count == estimate.reply_bytes
    seen = reply.summary.peak_bytes
    print(f"{case}: {estimate.peak_bytes / MIB:.1f} MiB estimated, {seen / MIB:.1f} seen: {estimate.peak_bytes / seen:.2f}")
    assert seen <= estimate.peak_bytes <= MOST_OVER * seen
    for row in (0, one.rows - 1):
        alone = server.forward(SMOLLM2, [one.prompts()[row]], captures=[capture(one.seen)])
        for site in one.seen:
            assert vector_error(Result(reply).get(site, row), alone.get(site)) < 2e-5, f"{case}: {site} of row {row}"


def test_a_client_that_reads_at_once(server):
    """What it has been sent is not held: the run reports no more than its estimate, though the reply is much larger."""
    request = CASES["everything"].request()
    estimate = server.estimate(request)
    reply = wire.read_reply(server._forward(request, timeout=300), lambda header, dtype, shape: np.empty(shape, dtype))
    assert reply.summary.byte_count == estimate.reply_bytes > BUDGET
    assert reply.summary.peak_bytes <= estimate.peak_bytes
