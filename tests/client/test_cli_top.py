"""`fluoroscope top` beside a server that works: whose request runs, and rates between two looks."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from .conftest import CLI
from .test_cli import FRANCE, ok

P = hashlib.sha256(b"p").hexdigest()[:8]
LONG = "When John and Mary went to the shops, {} gave the bag to them. " * 20
# Every layer and position of prompts of 300 tokens: minutes of work.
SWEEP = ["sweep", "smollm2-135m", "--clean", LONG.replace("{}", "John"), "--corrupt", LONG.replace("{}", "Mary"), "--answer", " Mary", "--timeout", "0"]


def works(cli) -> list[dict]:
    return json.loads(ok(cli("top", "--json")))["works"]


def until(cli, condition) -> list[dict]:
    deadline = time.monotonic() + 60
    while not condition(found := works(cli)):
        assert time.monotonic() < deadline, found
    return found


@pytest.fixture
def sweep(cli, target) -> Iterator[dict]:
    """A long sweep under way, and the server's word on it. The server is idle again behind it."""
    process = subprocess.Popen([CLI, "--target", target, "--principal", "p", "--batch", *SWEEP], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield until(cli, lambda found: process.poll() is not None or any(work["state"] == "running" for work in found))[0]
        assert process.poll() is None, process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        until(cli, lambda found: not found)


def test_whose_request_runs(cli, sweep):
    assert (sweep["principal"], sweep["state"], sweep["priority"]) == (P, "running", "batch")
    assert sweep["flops"] > 1e12 and sweep["peak_bytes"] > 1 << 20 and sweep["age_seconds"] > 0
    output = ok(cli("top", "--once"))
    assert '"p"' not in output and "1 running, 0 waiting, of 1 callers; " in output
    lines = output.splitlines()
    assert not lines[0].split("; ")[1].startswith("0 B of "), "what it may need is admitted"
    caller, state, priority, age, unit, *memory, gflop = lines[3].split()
    assert (caller, state, priority, unit) == (P, "running", "batch", "s")
    assert float(age) >= round(sweep["age_seconds"], 1)
    assert gflop == f"{sweep['flops'] / 1e9:.1f}"
    assert memory[1] == "MiB" and float(memory[0]) == pytest.approx(sweep["peak_bytes"] / 2**20, abs=0.051)
    assert len(lines) == 4


def frames(process: subprocess.Popen) -> Iterator[tuple[float, float, float, float]]:
    """(requests a second, device busy in %, over how many seconds, the sweep's age) of one look after the other."""
    for line in process.stdout:
        if found := re.match(r"(\d+\.\d) requests a second, device (\d+) % busy, over (\d+\.\d) s\n", line):
            rates = [float(number) for number in found.groups()]
        elif found := re.match(rf"{P} +running +batch +(\d+\.\d) s ", line):
            yield (*rates, float(found[1]))


def test_rates_are_those_between_two_looks(cli, target, sweep):
    process = subprocess.Popen([CLI, "--target", target, "top", "--interval", "0.2"], stdout=subprocess.PIPE, text=True)
    try:
        looks = frames(process)
        first, second, third = next(looks), next(looks), next(looks)
        for earlier, later in ((first, second), (second, third)):
            assert later[2] >= 0.2 and later[3] - earlier[3] == pytest.approx(later[2], abs=0.16), "a look's rates are those since the look before"
            assert later[1] > 0, "the sweep keeps the device busy"
        ok(cli("run", "smollm2-135m", FRANCE, "--top", "1"))
        requests, _, seconds, _ = next(look for look in looks if look[0] > 0)
        assert round(requests * seconds) == 1
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
