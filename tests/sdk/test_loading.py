"""Models that come and go: client.load_model and client.unload_model, in Python, asyncio and on the command line. What the server does is in tests/system."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fluoroscope as fs
import grpc
import numpy as np
import pytest
from fluoroscope._proto.v1.models_pb2 import LoadModelReply, LoadModelRequest
from fluoroscope._proto.v1.server_pb2 import GetStatusRequest, ServerStatus

FRANCE = "The capital of France is"
CLEAN = "When John and Mary went to the shops, John gave the bag to"
CORRUPT = "When John and Mary went to the shops, Mary gave the bag to"
CLI = Path(os.environ.get("FLUOROSCOPE_CLI", Path(__file__).resolve().parents[2] / "build/release/bin/fluoroscope"))


@pytest.fixture
def own(smollm2_path):
    """A server of its own, which holds the model as "mine"; its store has it as "smollm2-135m"."""
    with fs.serve({"mine": smollm2_path}, jobs=False) as client:
        yield client


def resident_bytes(client) -> int:
    pages = int(Path(f"/proc/{client.server.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_model_of_the_store_answers_as_the_other_copy_does(own):
    info = own.load_model("smollm2-135m")
    assert info.name == "smollm2-135m" and info.weights_sha256 == own.model("mine").info.weights_sha256
    mine, other = (own.model(name).run_with_cache(FRANCE, [], isolated=True)[0] for name in ("mine", "smollm2-135m"))
    np.testing.assert_array_equal(mine, other)
    with pytest.raises(fs.FailedPreconditionError, match="f32|bf16"):
        own.load_model("smollm2-135m", dtype="f16")
    with pytest.raises(fs.NotFoundError):
        own.load_model("no-such-model")
    full = resident_bytes(own)
    assert own.unload_model("smollm2-135m") is False
    assert full - resident_bytes(own) > 0.8 * info.weight_bytes, "the memory goes back to the system"
    with pytest.raises(fs.NotFoundError, match="smollm2-135m"):
        own.model("smollm2-135m")


def test_what_is_under_way_ends_as_it_would_have(own):
    model = own.model("mine")
    expected = model.generate(FRANCE, max_new_tokens=24).text
    metric = fs.metrics.logit_diff(" Mary", " John")
    cells = model.sweep(CLEAN, CORRUPT, "resid_pre", ("layer", "position"), metric).values

    generation = model.generate(FRANCE, max_new_tokens=24)
    next(iter(generation))
    own.unload_model("mine")
    assert generation.text == expected
    with pytest.raises(fs.NotFoundError, match="mine"):
        model.run_with_cache(FRANCE, [])

    own.load_model("mine")
    model = own.model("mine")
    with ThreadPoolExecutor(1) as pool:
        sweep = pool.submit(model.sweep, CLEAN, CORRUPT, "resid_pre", ("layer", "position"), metric)
        while not own.unary("/fluoroscope.v1.Server/GetStatus", GetStatusRequest(), ServerStatus).works:
            assert not sweep.done(), "it must be under way when its model goes"
        own.unload_model("mine")
        np.testing.assert_array_equal(sweep.result().values, cells)


def test_asyncio(own):
    async def go():
        async with await fs.connect_async(own.target) as client:
            info = await client.load_model("smollm2-135m")
            assert await client.unload_model("smollm2-135m") is False
            return info.name

    assert asyncio.run(go()) == "smollm2-135m"


class Waiting(grpc.GenericRpcHandler):
    """A server that has one method, LoadModel, and notes how long its callers give it. It answers at once, but a model called "large" never comes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.began, self.cancelled = threading.Event(), threading.Event()

    def service(self, details):
        assert details.method == "/fluoroscope.v1.Models/LoadModel"
        return grpc.unary_unary_rpc_method_handler(self.load, LoadModelRequest.FromString, LoadModelReply.SerializeToString)

    def load(self, request, context):
        self.seconds[request.model] = context.time_remaining()
        if request.model == "large":
            over = threading.Event()
            if context.add_callback(over.set):
                self.began.set()
                assert over.wait(60)
            self.cancelled.set()
        return LoadModelReply(info={"name": request.model})


@pytest.fixture
def waiting():
    handler = Waiting()
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    handler.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield handler
    server.stop(0).wait()


def test_a_load_has_no_deadline_but_its_own(waiting):
    """A deadline would end the load, so that a large model could never be loaded."""

    def run(*arguments):
        return subprocess.run([CLI, "--target", waiting.target, "load", *arguments], capture_output=True, text=True, timeout=60)

    async def awaited():
        async with fs.AsyncClient(waiting.target, timeout=60) as client:
            await client.load_model("async")
            await client.load_model("async-1000", timeout=1000)

    with fs.Client(waiting.target, timeout=60) as client:
        assert client.load_model("sync").name == "sync"
        assert client.load_model("sync-1000", timeout=1000).name == "sync-1000"
        with pytest.raises(fs.DeadlineExceededError):
            client.load_model("large", timeout=0.2)
    asyncio.run(awaited())
    for name, options in {"cli": [], "cli-0": ["--timeout", "0"], "cli-1000": ["--timeout", "1000"]}.items():
        assert run(name, *options).returncode == 0
    late = run("large", "--timeout", "0.2")
    assert late.returncode == 1 and "DEADLINE_EXCEEDED" in late.stderr and "(now 0.2; 0: no limit)" in late.stderr
    for name in ("sync", "async", "cli", "cli-0"):
        assert waiting.seconds[name] > 1e6, "none"
    for name in ("sync-1000", "async-1000", "cli-1000"):
        assert 900 < waiting.seconds[name] < 1100, "gRPC rounds what it sends"


def test_a_task_that_is_cancelled_cancels_the_load(waiting):
    async def go():
        async with fs.AsyncClient(waiting.target) as client:
            task = asyncio.create_task(client.load_model("large"))
            await asyncio.to_thread(waiting.began.wait, 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await asyncio.to_thread(waiting.cancelled.wait, 60)

    assert asyncio.run(go())


def test_command_line(own):
    def run(*arguments):
        return subprocess.run([CLI, "--target", own.target, *arguments], capture_output=True, text=True, timeout=120)

    assert "smollm2-135m is loaded: " in run("load", "smollm2-135m").stdout
    assert "smollm2-135m was loaded: " in run("load", "smollm2-135m").stdout
    assert run("unload", "smollm2-135m").stdout == "smollm2-135m is unloaded\n"
    failed = run("load", "../smollm2-135m")
    assert failed.returncode != 0 and failed.stderr
