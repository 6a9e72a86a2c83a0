"""A step that never ends, as the outside sees it: metric and /healthz say so, it may come back by itself, and else the process ends."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator

import grpc

from .server_process import ServerProcess, eventually
from .stopped_thread import StoppedThread, busiest, stopped
from .test_lifecycle import in_background, long_run, small

STUCK = "fluoroscope_executor_stuck"
SERVICES = ("fluoroscope.v1.Models", "fluoroscope.v1.Inference", "fluoroscope.v1.Patching", "fluoroscope.v1.Handles", "fluoroscope.v1.Jobs")


@contextlib.contextmanager
def stuck(server: ServerProcess) -> Iterator[StoppedThread]:
    """The step under way does not end meanwhile."""
    for _ in range(5):
        with stopped(busiest(server.process.pid)) as thread:
            # Between two steps the executor is not stuck, and then it takes a second try; but there it is for microseconds only.
            if eventually(lambda: server.http("/healthz")[0] == 503, 6):
                yield thread
                return
    raise AssertionError(f"/healthz never failed:\n{server.log()}")


def test_a_stuck_step_is_seen_and_may_come_back(start, busy):
    server = start({"busy": busy}, options="stuck_seconds: 1 end_stuck_seconds: 600")
    client = server.client()
    assert server.metric(STUCK) == 0
    _, result = in_background(client, long_run(4096))
    with stuck(server):
        assert server.http("/readyz")[0] == 503
        assert eventually(lambda: server.metric(STUCK) == 1)
        for service in ("", *SERVICES):
            assert eventually(lambda service=service: client.health(service) == "NOT_SERVING"), service
        assert "one step has taken more than 1 s; ending in 600 s unless it goes on" in server.log()
    assert eventually(lambda: server.http("/healthz") == (200, "ok\n"))
    assert server.http("/readyz")[0] == 200
    assert eventually(lambda: server.metric(STUCK) == 0)
    for service in ("", *SERVICES):
        assert eventually(lambda service=service: client.health(service) == "SERVING"), service
    assert result()["code"] == grpc.StatusCode.OK, "what was stuck is answered"
    client.forward(small("busy"))
    assert "the device's executor goes on" in server.log()


def test_a_step_that_never_ends_ends_the_process(start, busy):
    server = start({"busy": busy}, options="stuck_seconds: 1 end_stuck_seconds: 2")
    resource.prlimit(server.process.pid, resource.RLIMIT_CORE, (0, 0))  # it aborts, and would leave a core file
    _, result = in_background(server.client(), long_run(262_144))
    with stuck(server) as thread:
        assert eventually(thread.ended, 30)
    assert server.wait() == -signal.SIGABRT
    assert result()["code"] == grpc.StatusCode.UNAVAILABLE
    stuck_at, ending = (server.log().index(words) for words in ("ending in 2 s unless it goes on", "still stuck; ending the process"))
    assert stuck_at < ending
