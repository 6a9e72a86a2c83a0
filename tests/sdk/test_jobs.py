"""fs.Job on a real server: the same results as the direct calls, found again by who submitted them."""

from __future__ import annotations

import asyncio
import os
import subprocess

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope import local_server

CLEAN = "When John and Mary went to the shops, John gave the bag to"
CORRUPT = "When John and Mary went to the shops, Mary gave the bag to"
DIFF = fs.metrics.logit_diff(" Mary", " John")


@pytest.fixture(scope="module")
def job(model):
    job = model.sweep(CLEAN, CORRUPT, metric=DIFF, layers=[3, 9, 20], as_job=True)
    yield job
    job.delete()


def test_the_result_is_the_direct_calls(model, job):
    direct = model.sweep(CLEAN, CORRUPT, metric=DIFF, layers=[3, 9, 20])
    assert job.wait() is job and job.state == "done" and (job.done, job.total, job.progress) == (42, 42, 1.0)
    assert type(job.result()) is fs.SweepResult
    assert np.abs(job.result()[DIFF].values - direct.values).max() < 1e-6
    assert job.result().axes == direct.axes and repr(job.result()).splitlines()[:2] == repr(direct).splitlines()[:2]
    assert repr(job) == f"Job {job.id}: sweep of smollm2-135m, done, 42 of 42 cells"


def test_another_client_of_the_same_name_finds_it(client, job):
    with fs.connect(client.target, principal="tests") as other:
        assert job.id in [found.id for found in other.jobs()]
        found = other.job(job.id)
        assert np.array_equal(found.result().values, job.result().values)
        assert found.result().metric == job.result().metric
        listed = next(one for one in other.jobs() if one.id == job.id)
        assert np.array_equal(listed.result().values, job.result().values)


def test_a_stranger_does_not(client, job):
    with fs.connect(client.target, principal="stranger") as other:
        assert other.jobs() == []
        with pytest.raises(fs.NotFoundError, match="another principal"):
            other.job(job.id)
    with pytest.raises(fs.InvalidArgumentError, match="x-fluoroscope-principal must be"):
        fs.connect(client.target, principal="two words")


def test_a_random_name_is_warned_about(client, monkeypatch):
    monkeypatch.delenv("FLUOROSCOPE_PRINCIPAL", raising=False)
    with fs.connect(client.target) as other:
        assert not other.principal_given
        with pytest.warns(fs.FluoroscopeWarning, match="no other process will find it"):
            job = other.model("smollm2-135m").sweep(CLEAN, CORRUPT, metric=DIFF, layers=0, as_job=True)
        job.delete()
    monkeypatch.setenv("FLUOROSCOPE_PRINCIPAL", "from-outside")
    with fs.connect(client.target) as other:
        assert other.principal == "from-outside" and other.principal_given


def test_path_patching_is_a_job_too(model):
    direct = model.path_patch(CLEAN, CORRUPT, [(9, 1), (12, 3)], ["logits", ("q", 20, 0)], DIFF)
    job = model.path_patch(CLEAN, CORRUPT, [(9, 1), (12, 3)], ["logits", ("q", 20, 0)], DIFF, as_job=True)
    assert type(job.result()) is fs.PathResult and np.abs(job.result().values - direct.values).max() < 1e-6
    job.delete()


def test_cancelled_it_says_so(model):
    job = model.sweep([CLEAN] * 40, [CORRUPT] * 40, metric=DIFF, as_job=True)
    job.cancel()
    assert job.state == "cancelled" and isinstance(job.error, fs.CancelledError)
    with pytest.raises(fs.CancelledError, match="the job was cancelled"):
        job.result()
    job.cancel()  # once more changes nothing
    assert job.state == "cancelled"
    job.delete()
    assert repr(job).startswith(f"Job {job.id}: sweep of smollm2-135m, deleted, ")
    with pytest.raises(fs.NotFoundError):
        job.refresh()


def test_a_job_that_is_done_is_not_cancelled(model):
    job = model.sweep(CLEAN, CORRUPT, metric=DIFF, layers=[3], as_job=True)
    values = job.result().values
    job.cancel()
    assert job.refresh().state == "done" and np.array_equal(job.result().values, values)
    job.delete()
    with pytest.raises(fs.NotFoundError):
        job.cancel()


def test_a_wrong_request_is_no_job(model, client):
    before = len(client.jobs())
    with pytest.raises(fs.InvalidArgumentError, match="source_positions"):
        model.sweep(CLEAN, "Mary", metric=DIFF, as_job=True)
    assert len(client.jobs()) == before


def test_for_asyncio(client):
    async def run():
        server = fs.AsyncClient(fs.connect(client.target, principal="async"))
        async with server:
            model = await server.model("smollm2-135m")
            job = await model.sweep(CLEAN, CORRUPT, metric=DIFF, layers=[5], as_job=True)
            assert isinstance(job, fs.AsyncJob)
            result = await job.result()
            assert job.state == "done" and result.values.shape == (1, 14)
            found = await server.job(job.id)
            assert np.array_equal((await found.result()).values, result.values)
            assert [one.id for one in await server.jobs()] == [job.id]
            await job.delete()
            with pytest.raises(fs.NotFoundError):
                await found.refresh()

    asyncio.run(run())


def test_one_local_server_after_the_other_has_the_same_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("FLUOROSCOPE_HOME", str(tmp_path))
    first, lock = local_server._free_jobs_directory()
    second, other = local_server._free_jobs_directory()
    assert (first, second) == (tmp_path / "jobs" / "0", tmp_path / "jobs" / "1")
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock])  # as the server does, it keeps it
    os.close(lock)
    os.close(other)
    third, lock = local_server._free_jobs_directory()
    os.close(lock)
    assert third == second
    process.communicate()
    assert local_server._free_jobs_directory()[0] == first
