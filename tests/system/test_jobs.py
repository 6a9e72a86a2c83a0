"""Jobs on the real binary: killed, stopped and started again in the middle, watched by several, cancelled, refused. Cells are counted one by one."""

from __future__ import annotations

import re
import signal
import threading

import grpc
import numpy as np
import pytest

from .server_process import ServerProcess, eventually
from .wire import v1

JOBS = "fluoroscope.v1.Jobs/"
ME, SOMEBODY = [("x-fluoroscope-principal", "me")], [("x-fluoroscope-principal", "somebody")]
LAYERS, TOKENS, PAIRS = 16, 32, 4
INVALID, NOT_FOUND, EXHAUSTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
NOBODYS = "0123456789abcdef0123456789abcdef"


def pair(number: int):
    """Prompts that differ from their second token on, so that nearly every cell is run."""
    clean = [(7 * place + number) % 399 + 1 for place in range(TOKENS)]
    corrupt = clean[:1] + [(token + 3) % 399 + 1 for token in clean[1:]]
    return {"clean": {"tokens": {"ids": clean}}, "corrupt": {"tokens": {"ids": corrupt}}}


def grid(**fields):
    """2,048 cells of the "busy" model: seconds of work."""
    metric = {"name": "diff", "logit_difference": {"right": [{"id": 7}], "wrong": [{"id": 11}]}}
    correct = {"model": "busy", "pairs": [pair(n) for n in range(PAIRS)], "sites": ["hook_resid_pre"],
               "over": ["SWEEP_AXIS_LAYER", "SWEEP_AXIS_POSITION"], "metrics": [metric]}  # fmt: skip
    return v1("SweepRequest")(**correct | fields)


def paths():
    """Path patching on "tiny": 12 heads to 6 queries and the logits."""
    senders = [{"nodes": [{"site": f"blocks.{layer}.attn.hook_z", "heads": [head]}]} for layer in range(3) for head in range(4)]
    receivers = [{"nodes": [{"site": f"blocks.{layer}.attn.hook_q"}]} for layer in range(3)] + [{"nodes": [{"site": "logits"}]}]
    short = [{"clean": {"tokens": {"ids": [1, 2, 3, 4]}}, "corrupt": {"tokens": {"ids": [1, 9, 3, 4]}}}]
    return v1("PathPatchRequest")(model="tiny", pairs=short, senders=senders, receivers=receivers, metrics=grid().metrics)


class Watcher:
    """Reads a stream of SweepReply in a thread of its own. Every cell must come once."""

    def __init__(self, call):
        self.cells: dict[tuple[int, int], float] = {}
        self.references: dict[int, tuple[float, float]] = {}
        self.parts: list[str] = []
        self.code = None
        self._changed = threading.Condition()
        self._call = call
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        code = grpc.StatusCode.OK
        try:
            for reply in self._call:
                self._take(reply)
        except grpc.RpcError as error:
            code, self.details = error.code(), error.details()
        with self._changed:
            self.code = code
            self._changed.notify_all()

    def _take(self, reply):
        with self._changed:
            part = reply.WhichOneof("part")
            self.parts.append(part)
            if part == "cells":
                for cell, value in zip(np.frombuffer(reply.cells.cells, "<u4"), np.frombuffer(reply.cells.values, "<f8"), strict=True):
                    assert (reply.cells.pair, int(cell)) not in self.cells, "a cell came twice"
                    assert reply.cells.pair in self.references, "a cell came before its pair's references"
                    self.cells[reply.cells.pair, int(cell)] = float(value)
            if part == "summary":
                self.summary = reply.summary
            if part == "reference":
                assert reply.reference.pair not in self.references
                self.references[reply.reference.pair] = (*np.frombuffer(reply.reference.base, "<f8"), *np.frombuffer(reply.reference.source, "<f8"))
            self._changed.notify_all()

    def wait_for(self, cells: int):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.cells) >= cells or self.code is not None, 300)
            assert self.code in (None, grpc.StatusCode.OK), self.details
        return self

    def end(self):
        self._thread.join(120)
        assert not self._thread.is_alive()
        return self


def watch(server: ServerProcess, id: str, metadata=ME) -> Watcher:
    return Watcher(server.client().call(JOBS + "Watch", id=id, metadata=metadata, timeout=120))


def submit(server: ServerProcess, request=None, metadata=ME, **options):
    field = "path_patch" if request is not None and request.DESCRIPTOR.name == "PathPatchRequest" else "sweep"
    return server.client().call(JOBS + "Submit", **{field: grid() if request is None else request}, metadata=metadata, **options)


def get(server: ServerProcess, id: str):
    return server.client().call(JOBS + "Get", id=id, metadata=ME).job


def keeps(folder, **limits) -> str:
    return f'jobs {{ directory: "{folder}" {" ".join(f"{name}: {value}" for name, value in limits.items())} }}'


@pytest.fixture(scope="module")
def server(tiny, busy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs-server")
    server = ServerProcess({"tiny": tiny, "busy": busy}, folder, options=keeps(folder / "jobs", max_per_principal=3))
    yield server
    server.close()


def test_killed_and_stopped_in_the_middle_no_cell_is_lost_or_double(start, busy, tmp_path):
    options = keeps(tmp_path / "jobs")
    first = start({"busy": busy}, options=options)
    total = LAYERS * TOKENS * PAIRS
    direct = Watcher(first.client().call("fluoroscope.v1.Patching/Sweep", grid(), timeout=120)).end()
    assert len(direct.cells) == total
    job = submit(first)
    assert (job.state, job.cells_total, job.kind, job.model) == (1, total, "sweep", "busy")
    watchers = [watch(first, job.id), watch(first, job.id)]
    for watcher in watchers:
        watcher.wait_for(total // 5)
    first.terminate(signal.SIGKILL)
    first.wait()
    seen = {cell: value for watcher in watchers for cell, value in watcher.end().cells.items()}
    assert total // 5 <= len(seen) < total  # it was the middle

    second = start({"busy": busy}, options=options)
    late = watch(second, job.id).wait_for(total // 2)
    assert get(second, job.id).state == 2
    second.terminate(signal.SIGTERM)
    assert second.wait() == 0
    assert late.end().code is grpc.StatusCode.UNAVAILABLE and len(late.cells) < total
    seen |= late.cells

    third = start({"busy": busy}, options=options)
    ends = [watch(third, job.id).end(), watch(third, job.id).end()]
    for watcher in ends:
        assert watcher.code is grpc.StatusCode.OK
        assert (watcher.parts[0], watcher.parts[-1]) == ("header", "summary") and watcher.parts.count("summary") == 1
        assert watcher.cells.keys() == direct.cells.keys()
        assert watcher.references.keys() == direct.references.keys()
        assert all(watcher.cells[cell] == value for cell, value in seen.items())  # what was told is not taken back
        assert max(abs(watcher.cells[cell] - value) for cell, value in direct.cells.items()) < 1e-6
        assert max(abs(np.subtract(watcher.references[n], direct.references[n])).max() for n in range(PAIRS)) < 1e-6
    done = get(third, job.id)
    assert (done.state, done.cells_done, done.cells_total, done.code) == (3, total, total, 0)
    # The last run computed only what was missing: half of the cells at most, and the base and source runs.
    assert 0 < ends[0].summary.tokens < 0.6 * direct.summary.tokens
    assert third.metric('fluoroscope_jobs{state="done"}') == 1
    states = re.findall(r"job id=\w+ .*?state=(\w+)", second.log())
    assert states == ["running", "queued"]


def test_path_patching_killed_in_the_middle(start, busy, tmp_path):
    options = keeps(tmp_path / "jobs")
    first = start({"busy": busy}, options=options)
    senders = [{"nodes": [{"site": f"blocks.{layer}.attn.hook_z", "heads": [head]}]} for layer in range(LAYERS) for head in range(4)]
    receivers = [{"nodes": [{"site": f"blocks.{layer}.hook_mlp_in"}]} for layer in (3, 8, 14)] + [{"nodes": [{"site": "logits"}]}]
    request = v1("PathPatchRequest")(model="busy", pairs=[pair(0), pair(1)], senders=senders, receivers=receivers, metrics=grid().metrics)
    total = 2 * len(senders) * len(receivers)
    direct = Watcher(first.client().call("fluoroscope.v1.Patching/PathPatch", request)).end()
    job = submit(first, request)
    # The senders run first, and bring the cells of the logits and those that they do not reach, 288: some of the others are done too.
    seen = watch(first, job.id).wait_for(300)
    first.terminate(signal.SIGKILL)
    first.wait()
    assert 300 <= len(seen.end().cells) < total
    second = start({"busy": busy}, options=options)
    resumed = watch(second, job.id).end()
    assert resumed.code is grpc.StatusCode.OK and resumed.cells.keys() == direct.cells.keys() and len(resumed.cells) == total
    resumed_values, direct_values = (np.array([of.cells[cell] for cell in direct.cells]) for of in (resumed, direct))
    np.testing.assert_allclose(resumed_values, direct_values, rtol=0, atol=1e-6)
    assert np.isnan(direct_values).sum() == 2 * sum(4 * (LAYERS - 1 - layer) for layer in (3, 8, 14)), "paths that do not exist stay NaN"
    assert 0 < resumed.summary.tokens < direct.summary.tokens


def test_a_job_of_other_weights_fails_and_names_both(start, busy, tiny, tmp_path):
    options = keeps(tmp_path / "jobs")
    first = start({"busy": busy}, options=options)
    then = first.client().call("fluoroscope.v1.Models/GetModel", model="busy").info.weights_sha256
    job = submit(first)
    watch(first, job.id).wait_for(1)
    first.terminate(signal.SIGKILL)
    first.wait()
    second = start({"busy": tiny}, options=options)
    now = second.client().call("fluoroscope.v1.Models/GetModel", model="busy").info.weights_sha256
    ended = watch(second, job.id).end()
    assert ended.code is PRECONDITION and then in ended.details and now in ended.details and then != now
    failed = get(second, job.id)
    assert (failed.state, failed.code) == (4, PRECONDITION.value[0])


def test_path_patching_is_a_job_too(server):
    direct = Watcher(server.client().call("fluoroscope.v1.Patching/PathPatch", paths())).end()
    job = submit(server, paths())
    assert job.kind == "path_patch"
    watched = watch(server, job.id).end()
    assert watched.code is grpc.StatusCode.OK and len(watched.cells) == 12 * 4
    assert watched.cells.keys() == direct.cells.keys() and watched.references == direct.references
    np.testing.assert_array_equal([watched.cells[cell] for cell in direct.cells], list(direct.cells.values()))
    reply = server.client().call(JOBS + "Get", id=job.id, metadata=ME)
    assert reply.request.path_patch == paths()
    server.client().call(JOBS + "Delete", id=job.id, metadata=ME)
    assert server.client().call(JOBS + "List", metadata=ME).jobs == []


def test_cancelled_it_keeps_what_it_has_and_the_device_is_free(server):
    job = submit(server)
    watcher = watch(server, job.id).wait_for(1)
    cancelled = server.client().call(JOBS + "Cancel", id=job.id, metadata=ME)
    assert (cancelled.state, cancelled.code) == (5, grpc.StatusCode.CANCELLED.value[0])
    assert watcher.end().code is grpc.StatusCode.CANCELLED and "the job was cancelled" in watcher.details
    assert eventually(lambda: server.metric("fluoroscope_admitted_bytes") == 0)
    again = watch(server, job.id).end()
    assert again.code is grpc.StatusCode.CANCELLED and 1 <= len(again.cells) == get(server, job.id).cells_done < LAYERS * TOKENS * PAIRS
    with pytest.raises(grpc.RpcError) as refused:
        server.client().call(JOBS + "Cancel", id=job.id, metadata=ME)
    assert refused.value.code() is PRECONDITION and "cancelled" in refused.value.details()
    server.client().call(JOBS + "Delete", id=job.id, metadata=ME)


def test_deleted_while_it_runs_it_is_gone(server):
    job = submit(server)
    watcher = watch(server, job.id).wait_for(1)
    server.client().call(JOBS + "Delete", id=job.id, metadata=ME)
    assert watcher.end().code is NOT_FOUND
    assert eventually(lambda: server.metric("fluoroscope_admitted_bytes") == 0)
    assert server.client().call(JOBS + "List", metadata=ME).jobs == []


@pytest.mark.parametrize("method", ["Get", "Watch", "Cancel", "Delete"])
@pytest.mark.parametrize(
    ("id", "code", "words"),
    [
        (NOBODYS, NOT_FOUND, ["no job " + NOBODYS, "another principal"]),
        ("", INVALID, ["id is no id of a job", "32 lower-case hexadecimal digits"]),
        (NOBODYS.upper(), INVALID, ["id is no id of a job"]),
        (NOBODYS + "0", INVALID, ["id is no id of a job"]),
        ("another's", NOT_FOUND, ["another principal"]),
        (b"\x0a\x01a\xf8\x07\x01", INVALID, ["unknown field number 127"]),
    ],
    ids=["unknown", "empty", "upper case", "too long", "another's", "unknown field"],
)
def test_bad_ids(server, method, id, code, words):
    made = None
    if id == "another's":
        made = id = submit(server, paths(), SOMEBODY).id
    request = {"request": id} if isinstance(id, bytes) else {"id": id}
    try:
        with pytest.raises(grpc.RpcError) as refused:
            reply = server.client().call(JOBS + method, **request, metadata=ME)
            if method == "Watch":
                list(reply)
        assert refused.value.code() is code
        assert all(word in refused.value.details() for word in words), refused.value.details()
    finally:
        if made is not None:
            server.client().call(JOBS + "Delete", id=made, metadata=SOMEBODY)


@pytest.mark.parametrize(
    ("request_of", "code", "words"),
    [
        (lambda: v1("SubmitJobRequest")(), INVALID, ["request is empty", "sweep, path_patch"]),
        (lambda: v1("SubmitJobRequest")(sweep=grid(pairs=[])), INVALID, ["pairs is empty"]),
        (lambda: v1("SubmitJobRequest")(sweep=grid(model="none")), NOT_FOUND, ["no model 'none'", "busy, tiny"]),
        (lambda: v1("SubmitJobRequest")(sweep=grid(sites=["hook_x"])), NOT_FOUND, ["hook_x"]),
        (lambda: v1("SubmitJobRequest")(sweep=grid()).SerializeToString() + b"\xf8\x07\x01", INVALID, ["unknown field number 127"]),
    ],
    ids=["nothing", "no pairs", "unknown model", "unknown site", "unknown field"],
)
def test_bad_requests_are_no_jobs(server, request_of, code, words):
    with pytest.raises(grpc.RpcError) as refused:
        server.client().call(JOBS + "Submit", request_of(), metadata=ME)
    assert refused.value.code() is code
    assert all(word in refused.value.details() for word in words), refused.value.details()
    assert server.client().call(JOBS + "List", metadata=ME).jobs == []


def test_too_many_jobs(server):
    ids = [submit(server, paths(), SOMEBODY).id for _ in range(3)]
    with pytest.raises(grpc.RpcError) as refused:
        submit(server, paths(), SOMEBODY)
    assert refused.value.code() is EXHAUSTED and "you have 3 jobs" in refused.value.details() and "the limit is 3" in refused.value.details()
    listed = server.client().call(JOBS + "List", metadata=SOMEBODY).jobs
    assert [job.id for job in listed] == ids[::-1]
    for id in ids:
        server.client().call(JOBS + "Delete", id=id, metadata=SOMEBODY)


def test_without_a_directory_jobs_are_refused(shared_server):
    with pytest.raises(grpc.RpcError) as refused:
        submit(shared_server, paths())
    assert refused.value.code() is PRECONDITION and "jobs { directory:" in refused.value.details()


def test_a_directory_in_use_or_damaged_ends_the_start_with_the_reason(server, start, tiny, tmp_path):
    used = re.search(r'directory: "([^"]+)"', (server.port_file.parent / "server.textproto").read_text())[1]
    second = start({"tiny": tiny}, options=keeps(used), wait=False)
    assert second.wait() == 1 and "another server keeps its jobs there" in second.log()
    # That is found out first: a model that would take long to load is not looked at.
    nothing = start({"none": tmp_path / "none"}, options=keeps(used), wait=False)
    assert nothing.wait() == 1 and "another server keeps its jobs there" in nothing.log() and "config.json" not in nothing.log()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "jobs.sqlite").write_bytes(b"not a database at all" * 100)
    third = start({"tiny": tiny}, options=keeps(tmp_path / "damaged"), wait=False)
    assert third.wait() == 1 and "jobs.sqlite: cannot be used as a job store" in third.log() and "move the file away" in third.log()
