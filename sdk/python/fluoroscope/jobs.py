"""Sweeps and path patching that outlive their call: jobs, which the server keeps on disk. See Model.sweep(as_job=True), Client.job and Client.jobs."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from fluoroscope._proto.v1 import jobs_pb2
from fluoroscope.errors import FailedPreconditionError, FluoroscopeError, of_code, warn
from fluoroscope.path_result import PathResult
from fluoroscope.paths import PathPlan
from fluoroscope.results import counted
from fluoroscope.sweep import SweepPlan
from fluoroscope.sweep_reader import read_paths, read_sweep
from fluoroscope.sweep_result import SweepResult

if TYPE_CHECKING:
    from fluoroscope.client import Client

Result = TypeVar("Result", bound=SweepResult)
_SERVICE = "/fluoroscope.v1.Jobs/"
_STATES = {
    jobs_pb2.JOB_STATE_QUEUED: "queued",
    jobs_pb2.JOB_STATE_RUNNING: "running",
    jobs_pb2.JOB_STATE_DONE: "done",
    jobs_pb2.JOB_STATE_FAILED: "failed",
    jobs_pb2.JOB_STATE_CANCELLED: "cancelled",
}


class Job(Generic[Result]):
    """A sweep or path patching that the server keeps, whoever is connected; it goes on after a restart. Made by `model.sweep(..., as_job=True)` and
    `client.job(id)`. Thread-safe.

    What the attributes say is as of the last answer of the server; `refresh()` asks again.

    Attributes:
      id: by which `client.job(id)` finds it again, from a client with the same `principal`.
      kind: "sweep" or "path_patch".
      model: the model's name.
      state: "queued", "running", "done", "failed", "cancelled", or "deleted" by this object.
      done, total: cells that are finished, and all of them.
      error: why it failed or was cancelled, as the exception that `result()` raises; else None.
      created, changed: when it was submitted, and when its state changed last.
    """

    def __init__(self, client: Client, message: jobs_pb2.Job, read: Callable[[Iterable[bytes], bool | None], Result] | None) -> None:
        self._client = client
        self._read = read
        self._result: Result | None = None
        self.id, self.kind, self.model = message.id, message.kind, message.model
        self._take(message)

    def _take(self, message: jobs_pb2.Job) -> None:
        self.state = _STATES.get(message.state, "unknown")
        self.done, self.total = message.cells_done, message.cells_total
        self.error: FluoroscopeError | None = of_code(message.code, message.message) if message.code else None
        self.created, self.changed = _time(message.created_ms), _time(message.changed_ms)

    def refresh(self) -> Job[Result]:
        """Asks the server how it stands.

        Raises:
          NotFoundError: it was deleted, or its time is up.
        """
        self._take(_get(self._client, self.id).job)
        return self

    @property
    def progress(self) -> float:
        """The share of cells that are finished, from 0 to 1."""
        return self.done / self.total if self.total else 1.0

    def result(self, *, progress: bool | None = None, timeout: float | None = None) -> Result:
        """Waits for the end and gives what the direct call would give.

        Args:
          progress: show a bar. Default: on a terminal or in a notebook, when it takes more than a second.
          timeout: seconds after which to give up waiting (DeadlineExceededError); the job goes on.

        Raises:
          UnavailableError: the server shut down meanwhile. The job goes on when it is back; ask again then.
          CancelledError, NotFoundError: the job was cancelled, or deleted.
          FailedPreconditionError: the server was started again with other weights.
        """
        if self._result is None:
            if self._read is None:  # of client.jobs(): what it was asked with is still to be fetched
                self._read = cast(Any, _reader(_get(self._client, self.id).request))
            watch = jobs_pb2.WatchJobRequest(id=self.id)
            self._result = cast(Any, self._read)(self._client.stream(_SERVICE + "Watch", watch, timeout), progress)
            self.refresh()
        return cast(Result, self._result)

    def wait(self, *, progress: bool | None = None, timeout: float | None = None) -> Job[Result]:
        """Waits for the end; arguments and errors as in `result`."""
        self.result(progress=progress, timeout=timeout)
        return self

    def cancel(self) -> None:
        """Stops it for good; what is finished stays on the server until it is deleted. Of a job that has ended already nothing changes."""
        try:
            self._take(self._client.unary(_SERVICE + "Cancel", jobs_pb2.CancelJobRequest(id=self.id), jobs_pb2.Job))
        except FailedPreconditionError:
            if self.refresh().state in ("queued", "running"):
                raise

    def delete(self) -> None:
        """Stops it if it has not ended, and has the server forget it."""
        self._client.unary(_SERVICE + "Delete", jobs_pb2.DeleteJobRequest(id=self.id), jobs_pb2.DeleteJobReply)
        self.state = "deleted"

    def __repr__(self) -> str:
        why = f": {self.error}" if self.error is not None else ""
        return f"Job {self.id}: {self.kind} of {self.model}, {self.state}, {self.done:,} of {counted(self.total, 'cell')}{why}"


class AsyncJob(Generic[Result]):
    """A job for asyncio: fluoroscope.Job with every call awaited, and its attributes. Cancelling the task that waits for a result does not cancel the job.

    Attributes:
      id, kind, model, state, done, total, progress, error, created, changed: as Job's, of the last answer of the server.
    """

    def __init__(self, job: Job[Result], call: Callable[..., Coroutine[Any, Any, Any]]) -> None:
        self._job = job
        self._call = call

    def __getattr__(self, name: str) -> Any:
        if name in ("id", "kind", "model", "state", "done", "total", "progress", "error", "created", "changed"):
            return getattr(self._job, name)
        raise AttributeError(f"AsyncJob has no attribute {name!r}")

    async def refresh(self) -> AsyncJob[Result]:
        """As Job.refresh."""
        await self._call(self._job.refresh)
        return self

    async def result(self, *, progress: bool | None = None, timeout: float | None = None) -> Result:
        """As Job.result."""
        return cast(Result, await self._call(self._job.result, progress=progress, timeout=timeout))

    async def wait(self, *, progress: bool | None = None, timeout: float | None = None) -> AsyncJob[Result]:
        """As Job.wait."""
        await self._call(self._job.wait, progress=progress, timeout=timeout)
        return self

    async def cancel(self) -> None:
        """As Job.cancel."""
        await self._call(self._job.cancel)

    async def delete(self) -> None:
        """As Job.delete."""
        await self._call(self._job.delete)

    def __repr__(self) -> str:
        return f"Async{self._job!r}"


def submit_sweep(client: Client, plan: SweepPlan) -> Job[SweepResult]:
    """For the package's own use."""
    return _submit(client, jobs_pb2.SubmitJobRequest(sweep=plan.request), lambda messages, progress: read_sweep(plan, messages, progress))


def submit_paths(client: Client, plan: PathPlan) -> Job[PathResult]:
    """For the package's own use."""
    return _submit(client, jobs_pb2.SubmitJobRequest(path_patch=plan.request), lambda messages, progress: read_paths(plan, messages, progress))


def list_jobs(client: Client) -> list[Job[Any]]:
    """For Client.jobs."""
    reply = client.unary(_SERVICE + "List", jobs_pb2.ListJobsRequest(), jobs_pb2.ListJobsReply)
    return [Job(client, message, None) for message in reply.jobs]


def find_job(client: Client, id: str) -> Job[Any]:
    """For Client.job."""
    reply = _get(client, id)
    return Job(client, reply.job, _reader(reply.request))


def _submit(client: Client, request: jobs_pb2.SubmitJobRequest, read: Callable[[Iterable[bytes], bool | None], Result]) -> Job[Result]:
    message = client.unary(_SERVICE + "Submit", request, jobs_pb2.Job)
    if not client.principal_given:
        warn(
            f"job {message.id} belongs to this client, whose name is random: no other process will find it. Connect with a name of your own, "
            'fs.connect(..., principal="me"), or set FLUOROSCOPE_PRINCIPAL'
        )
    return Job(client, message, read)


def _get(client: Client, id: str) -> jobs_pb2.GetJobReply:
    return client.unary(_SERVICE + "Get", jobs_pb2.GetJobRequest(id=id), jobs_pb2.GetJobReply)


def _reader(request: jobs_pb2.SubmitJobRequest) -> Callable[[Iterable[bytes], bool | None], Any]:
    """How the answer to a request from the server is read: its metrics are known by name only."""
    if request.HasField("sweep"):
        plan = SweepPlan(request.sweep, {}, len(request.sweep.pairs) == 1)
        return lambda messages, progress: read_sweep(plan, messages, progress)
    paths = PathPlan(request.path_patch, {})
    return lambda messages, progress: read_paths(paths, messages, progress)


def _time(milliseconds: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)

