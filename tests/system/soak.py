"""Many clients of one server at once, for a while: `scripts/soak` for ten minutes, test_soak.py for less.

Each client is a thread that does what users do, in an order drawn from a seed: forwards with captures and interventions, sweeps, generations, calls that are
cancelled or run out of time, replies that are read slowly, activations kept and used, requests that are wrong. Every answer is compared with the one that the same request got alone before.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

from . import tiny_models
from .server_process import ServerProcess, eventually
from .wire import Client, v1

FORWARD, SWEEP, GENERATE = "fluoroscope.v1.Inference/Forward", "fluoroscope.v1.Patching/Sweep", "fluoroscope.v1.Inference/Generate"
LIMIT = 2e-5  # largest difference: the row law's 1e-5, and as much for values of some size
OPTIONS = "limits { max_queue: 64 sink_buffer_mib: 1 max_in_flight_per_principal: 8 } device { memory_mib: 64 } self_check_seconds: 5"
SLOW_PROMPTS = 24
REMEMBERED = 10000  # ended handles of which the server can say what became of them (handle_store.cc)
RESTS = 12  # times at which all clients stop, until nothing waits, and the memory is measured
LEAK = 8  # bytes of the heap for each call; the smallest thing that could be kept for a call is larger


def forwards() -> list:
    """Requests that want different things of different rows, in one to three waves."""
    everywhere = {"items": [{"all": True}]}
    diff = {"name": "diff", "logit_difference": {"right": [{"id": 3}], "wrong": [{"id": 4}]}}
    made = []
    for i in range(12):
        prompts = [{"tokens": {"ids": [(7 * i + 3 * row + p) % 390 + 1 for p in range(4 + i + row)]}} for row in range(1 + i % 3)]
        fields: dict = {"model": "tiny", "prompts": prompts, "metrics": [diff]}
        if i % 2:
            fields["captures"] = [{"select": {"sites": ["blocks.*.hook_resid_post", "blocks.1.attn.hook_pattern"]}}]
        if i % 4 == 2:
            fields["logits"] = {"positions": everywhere, "top_k": 3}
        elif i % 4 == 3:
            fields["logits"] = {}
        kinds = [{"zero": {}}, {"scale": {"factor": 0.5}}, {"noise": {"stddev": 0.2, "seed": i}}]
        sites = ["blocks.0.attn.hook_z", "blocks.1.hook_mlp_out", "blocks.2.hook_resid_pre", "blocks.*.mlp.hook_post"]
        if i % 5:
            fields["interventions"] = [{"select": {"sites": [sites[i % 4]]}, **kinds[i % 3]}]
        if len(prompts) == 3:
            copied = {"items": [{"index": 1}, {"index": 2}]}
            fields["interventions"] = [{"select": {"sites": ["blocks.1.hook_resid_pre"], "rows": [2], "positions": copied}, "copy": {"row": 0}}]
        made.append(v1("ForwardRequest")(**fields))
    return made


def sweeps() -> list:
    made = []
    for i, (site, axes) in enumerate([("hook_resid_pre", ["LAYER", "POSITION"]), ("attn.hook_z", ["LAYER", "HEAD"]), ("hook_mlp_out", ["LAYER", "POSITION"])]):
        clean = [(11 * i + p) % 390 + 1 for p in range(12)]
        pair = {"clean": {"tokens": {"ids": clean}}, "corrupt": {"tokens": {"ids": clean[:6] + [9, 8] + clean[8:]}}}
        metric = {"name": "diff", "logit_difference": {"right": [{"id": 3}], "wrong": [{"id": 4}]}}
        made.append(v1("SweepRequest")(model="tiny", pairs=[pair], sites=[site], over=[f"SWEEP_AXIS_{axis}" for axis in axes], metrics=[metric]))
    return made


def generations() -> list:
    def of(i: int):
        edits = [{"select": {"sites": ["blocks.1.hook_mlp_out"]}, "scale": {"factor": 0.5}}] if i % 2 else []
        return v1("GenerateRequest")(model="tiny", prompts=[{"tokens": {"ids": [5 + i, 6, 7 + i]}}], max_new_tokens=12, ignore_eos=True, interventions=edits)

    return [of(i) for i in range(4)]


KEPT = "blocks.1.hook_resid_pre"


def keeping(ttl: int):
    """Keeps a run's residual stream on the server."""
    return v1("ForwardRequest")(model="tiny", prompts=[{"tokens": {"ids": [9, 8, 7, 6, 5]}}], captures=[{"select": {"sites": [KEPT]}, "keep": {"ttl_seconds": ttl}}])


def using(handle: str):
    """Another prompt's run with all of that in place of its own: from there on it is the kept run."""
    copied = [{"select": {"sites": [KEPT]}, "copy": {"handle": handle}}]
    return v1("ForwardRequest")(model="tiny", prompts=[{"tokens": {"ids": [1, 2, 3, 4, 5]}}], logits={}, interventions=copied)


def slow_request():
    """A few MiB, more than the server keeps unsent."""
    prompts = [{"tokens": {"ids": [p % 390 + 1 for p in range(60)]}} for _ in range(SLOW_PROMPTS)]
    return v1("ForwardRequest")(model="tiny", prompts=prompts, captures=[{"select": {"sites": ["blocks.*.attn.hook_pattern"]}}])


BAD = [
    (FORWARD, {"model": "nobody", "prompts": [{"tokens": {"ids": [1]}}]}, grpc.StatusCode.NOT_FOUND),
    (FORWARD, {"model": "tiny"}, grpc.StatusCode.INVALID_ARGUMENT),
    (FORWARD, {"model": "tiny", "prompts": [{"tokens": {"ids": [4000]}}], "logits": {}}, grpc.StatusCode.INVALID_ARGUMENT),
    (FORWARD, {"model": "tiny", "prompts": [{"tokens": {"ids": [1]}}], "captures": [{"select": {"sites": ["blocks.9.hook_z"]}}]}, grpc.StatusCode.NOT_FOUND),
    (SWEEP, {"model": "tiny"}, grpc.StatusCode.INVALID_ARGUMENT),
    (GENERATE, {"model": "tiny", "prompts": [{"tokens": {"ids": [1]}}]}, grpc.StatusCode.INVALID_ARGUMENT),
]


def answer_of_forward(client: Client, request, **options) -> dict[str, np.ndarray]:
    summary, tensors = client.forward(request, **options)
    answer = {f"metric {m.name} {m.row} {m.position}": np.array(m.value) for m in summary.metrics}
    for (name, row), (header, data) in tensors.items():
        kind = np.int64 if header.dtype == v1("TensorHeader").DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_name["DTYPE_I64"].number else np.float32
        answer[f"{name} {row}"] = np.frombuffer(data, kind)
    return answer


def answer_of_sweep(client: Client, request, **options) -> dict[str, np.ndarray]:
    values: dict[int, float] = {}
    for part in client.call(SWEEP, request, **options):
        if part.WhichOneof("part") == "cells":
            values.update(zip(np.frombuffer(part.cells.cells, np.uint32).tolist(), np.frombuffer(part.cells.values, np.float64)))
    return {"cells": np.array([values[cell] for cell in sorted(values)])}


def answer_of_generation(client: Client, request, **options) -> dict[str, np.ndarray]:
    tokens = [part.token for part in client.call(GENERATE, request, **options) if part.WhichOneof("part") == "token"]
    return {"ids": np.array([token.id for token in tokens]), "logprobs": np.array([token.logprob for token in tokens])}


ANSWERS = {FORWARD: answer_of_forward, SWEEP: answer_of_sweep, GENERATE: answer_of_generation}


def difference(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> str:
    """What is wrong with an answer; empty when nothing is."""
    if got.keys() != expected.keys():
        return f"has {sorted(got)} instead of {sorted(expected)}"
    for name, value in expected.items():
        if got[name].shape != value.shape:
            return f"{name} has shape {got[name].shape} instead of {value.shape}"
        largest = np.abs(got[name].astype(np.float64) - value).max(initial=0)
        if not largest <= (0 if value.dtype.kind == "i" else LIMIT * max(1.0, np.abs(value).max(initial=0))):
            return f"{name} differs by {largest}"
    return ""


@dataclass
class Report:
    calls: Counter = field(default_factory=Counter)  # by what was done and how it ended
    wrong: list[str] = field(default_factory=list)
    # At each rest, when nothing is asked and nothing waits: seconds, resident MiB, MiB of the heap (allocated and not freed), calls so far.
    memory: list[tuple[float, float, float, int]] = field(default_factory=list)
    left: dict[str, float] = field(default_factory=dict)  # what should be 0 at the end
    merged: float = 0  # batches with rows of several requests

    def growth(self, column: int) -> tuple[float, float]:
        """MiB by which the line through a column of `memory` grows in the second half, and the width of the band in which values lie about it."""
        half = self.memory[len(self.memory) // 2 :]
        seconds, mib = np.array(half).T[[0, column]]
        slope, start = np.polyfit(seconds, mib, 1)
        return float(slope * np.ptp(seconds)), float(np.ptp(mib - slope * seconds - start))

    def leaked(self) -> float:
        """Bytes of the heap that each call of the second half has left behind."""
        half = self.memory[len(self.memory) // 2 :]
        return self.growth(2)[0] * 2**20 / max(1, half[-1][3] - half[0][3])

    def text(self) -> str:
        lines = [f"{count:8d}  {what}" for what, count in sorted(self.calls.items())]
        lines += [f"{self.merged:.0f} batches had rows of several requests"]
        for column, what in ((1, "resident"), (2, "heap")):
            grown, band = self.growth(column)
            lines += [f"{what} MiB at each rest: " + " ".join(f"{point[column]:.2f}" for point in self.memory)]
            lines += [f"  in the second half {grown:+.2f} MiB, in a band of {band:.2f} MiB"]
        lines += [f"{self.leaked():.1f} bytes of the heap kept for a call"]
        lines += [f"left at the end: {name} {value:g}" for name, value in self.left.items()]
        return "\n".join(lines + [f"WRONG: {text}" for text in self.wrong[:20]])


class Soak:
    def __init__(self, server: ServerProcess, clients: int, seconds: float, seed: int):
        self.server, self.clients, self.seconds, self.seed = server, clients, seconds, seed
        self.report = Report()
        self.lock = threading.Lock()
        client = server.client()
        self.known = []
        for method, requests in ((FORWARD, forwards()), (SWEEP, sweeps()), (GENERATE, generations())):
            self.known += [(method, request, ANSWERS[method](client, request)) for request in requests]
        self.slow = (slow_request(), answer_of_forward(client, slow_request()))
        self.kept = answer_of_forward(client, v1("ForwardRequest")(model="tiny", prompts=keeping(1).prompts, logits={}))

    def _end_handles(self) -> None:
        """As many as the server remembers, so that its memory of them does not grow any more and is not taken for a leak."""
        client = self.server.client()
        prompts = [{"tokens": {"ids": [9, 8, row + 1]}} for row in range(40)]
        request = v1("ForwardRequest")(model="tiny", prompts=prompts, captures=[{"select": {"sites": ["*"]}, "keep": {"ttl_seconds": 1}}])
        expired = "fluoroscope_handles_expired_total"
        while self.server.metric(expired) < REMEMBERED:
            for _ in client.call(FORWARD, request):
                pass
            eventually(lambda: self.server.metric("fluoroscope_handles") == 0, 30)

    def run(self) -> Report:
        self._end_handles()
        start = time.monotonic()
        for rest in range(RESTS):
            self.end = start + self.seconds * (rest + 1) / RESTS
            threads = [threading.Thread(target=self._client, args=(number, rest)) for number in range(self.clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            eventually(lambda: not any(self._left().values()), 30)
            resident, heap = (self.server.metric(f"process_{kind}_bytes") / 2**20 for kind in ("resident_memory", "heap"))
            self.report.memory.append((time.monotonic() - start, resident, heap, sum(self.report.calls.values())))
        self.report.left = self._left()
        batches, single = (self.server.metric(f'fluoroscope_batch_requests_{of}}}') for of in ('count{model="tiny"', 'bucket{model="tiny",le="1"'))
        self.report.merged = batches - single
        return self.report

    def _left(self) -> dict[str, float]:
        text = self.server.http("/metrics")[1].splitlines()
        in_flight = sum(float(line.rsplit(" ", 1)[1]) for line in text if line.startswith("fluoroscope_rpcs_in_flight{"))
        gauges = {"queued": "queue_depth", "admitted bytes": "admitted_bytes", "handles": "handles", "bytes of handles": "handle_bytes"}
        return {what: self.server.metric(f"fluoroscope_{gauge}") for what, gauge in gauges.items()} | {"calls": in_flight}

    def _client(self, number: int, rest: int) -> None:
        rng = random.Random(f"{self.seed} {number} {rest}")
        metadata = [("x-fluoroscope-principal", f"soak-{number % 6}"), ("x-fluoroscope-priority", "batch" if number % 4 == 3 else "interactive")]
        client = Client(self.server.grpc_address)
        actions = [self._ask] * 8 + [self._cancel, self._hurry, self._read_slowly, self._keep, self._mistake]
        try:
            while time.monotonic() < self.end:
                action = rng.choice(actions)
                try:
                    outcome = action(client, rng, metadata)
                except grpc.RpcError as error:
                    # The queue is short on purpose.
                    outcome = error.code().name.lower() if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED else self._wrong(f"{action.__name__}: {error}")
                with self.lock:
                    self.report.calls[f"{action.__name__.strip('_')}: {outcome}"] += 1
        except Exception:
            self._wrong(traceback.format_exc())
        finally:
            client.close()

    def _wrong(self, text: str) -> str:
        with self.lock:
            self.report.wrong.append(text)
        return "WRONG"

    def _check(self, got: dict[str, np.ndarray], expected: dict[str, np.ndarray], request) -> str:
        found = difference(got, expected)
        return self._wrong(f"{found}, of {request}") if found else "ok"

    def _ask(self, client: Client, rng: random.Random, metadata) -> str:
        method, request, expected = rng.choice(self.known)
        return self._check(ANSWERS[method](client, request, metadata=metadata), expected, request)

    def _cancel(self, client: Client, rng: random.Random, metadata) -> str:
        method, request, _ = rng.choice(self.known)
        call = client.call(method, request, metadata=metadata)
        try:
            for _ in range(rng.randrange(3)):
                next(call, None)
        finally:
            call.cancel()
        return "ok"

    def _hurry(self, client: Client, rng: random.Random, metadata) -> str:
        method, request, expected = rng.choice(self.known)
        try:
            return self._check(ANSWERS[method](client, request, metadata=metadata, timeout=rng.choice([0.001, 0.005, 0.02, 0.1])), expected, request)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return "deadline_exceeded"
            raise

    def _read_slowly(self, client: Client, rng: random.Random, metadata) -> str:
        request, expected = self.slow
        late = _Late(client, rng.uniform(0, 0.5))
        return self._check(answer_of_forward(late, request, metadata=metadata), expected, "the slow request")

    def _keep(self, client: Client, rng: random.Random, metadata) -> str:
        """Some handles are deleted, the others' time passes."""
        leave = rng.random() < 0.3
        parts = client.call(FORWARD, keeping(2 if leave else 600), metadata=metadata)
        (handle,) = [part.handle.id for part in parts if part.WhichOneof("part") == "handle"]
        try:
            return self._check(answer_of_forward(client, using(handle), metadata=metadata), self.kept, "a kept value")
        except grpc.RpcError as error:
            if leave and error.code() == grpc.StatusCode.NOT_FOUND:
                return "expired"
            raise
        finally:
            if not leave:
                client.call("fluoroscope.v1.Handles/Delete", handle=handle, metadata=metadata)

    def _mistake(self, client: Client, rng: random.Random, metadata) -> str:
        method, fields, code = rng.choice(BAD)
        try:
            for _ in client.call(method, metadata=metadata, **fields):
                pass
        except grpc.RpcError as error:
            return "ok" if error.code() == code else self._wrong(f"{fields} ended with {error}")
        return self._wrong(f"{fields} was accepted")


class _Late(Client):
    """Reads a reply's first message, and the others some time later."""

    def __init__(self, client: Client, seconds: float):
        self.channel, self.seconds = client.channel, seconds

    def call(self, *arguments, **options):
        call = super().call(*arguments, **options)
        yield next(call)
        time.sleep(self.seconds)
        yield from call


def soak(folder: Path, models: dict[str, Path], seconds: float, clients: int, seed: int, say: Callable[[str], None] = print) -> Report:
    server = ServerProcess(models, folder, options=OPTIONS)
    try:
        report = Soak(server, clients, seconds, seed).run()
        say(report.text())
        if server.process.poll() is not None:
            report.wrong.append(f"the server ended with {server.process.returncode}:\n{server.log()[-4000:]}")
        return report
    finally:
        server.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="scripts/soak")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="another order of what the clients do")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {"tiny": tiny_models.tiny(Path(folder) / "tiny")}
        report = soak(Path(folder) / "server", models, 60 * options.minutes, options.clients, options.seed)
    failed = bool(report.wrong or any(report.left.values()) or report.leaked() > LEAK)
    print("failed" if failed else "passed")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
