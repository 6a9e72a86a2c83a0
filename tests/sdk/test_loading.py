"""Models that come and go: client.load_model and client.unload_model, in Python, asyncio and on the command line. What the server does is in tests/system."""

from __future__ import annotations

import asyncio
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fluoroscope as fs
import numpy as np
import pytest
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


def test_command_line(own):
    def run(*arguments):
        return subprocess.run([CLI, "--target", own.target, *arguments], capture_output=True, text=True, timeout=120)

    assert "smollm2-135m is loaded: " in run("load", "smollm2-135m").stdout
    assert "smollm2-135m was loaded: " in run("load", "smollm2-135m").stdout
    assert run("unload", "smollm2-135m").stdout == "smollm2-135m is unloaded\n"
    failed = run("load", "../smollm2-135m")
    assert failed.returncode != 0 and failed.stderr
