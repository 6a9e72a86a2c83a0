"""A server process of one's own: `with fs.serve("smollm2-135m") as client:`."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from fluoroscope import store
from fluoroscope.client import Client
from fluoroscope.errors import ServerStartError

# Runs before the server in its process: asks the kernel to end it when the process that started it dies, however it dies. (A child of a killed notebook
# kernel would otherwise keep its memory for ever.) The second line covers a parent that died before the first.
_TIED_TO_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]): sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""
_SERVICE = b"fluoroscope.v1.Inference"
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}


class LocalServer:
    """A fluoroscope-server that this process started and will end. Made by `serve`; thread-safe.

    Attributes:
      grpc_address: where it answers, "127.0.0.1:port".
      http_address: where /metrics, /healthz and /readyz are.
      pid: its process id.
      log_path: the file with its log; deleted when the server is stopped, unless it was given to `serve`.
    """

    def __init__(
        self, arguments: Sequence[str], *, log: str | os.PathLike[str] | None, timeout: float, keep_open: Sequence[int] = ()
    ) -> None:
        """Starts the process and returns when it serves. ServerStartError, with the end of its log, when it does not.

        `keep_open`: file descriptors that the process inherits, and so keeps open as long as it lives.
        """
        self._keep_open = tuple(keep_open)
        self._scratch = Path(tempfile.mkdtemp(prefix="fluoroscope-"))
        self.log_path = Path(log) if log is not None else self._scratch / "server.log"
        self._stopping = threading.Lock()
        self._started = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        ports = self._scratch / "ports"
        command = [*arguments, "--grpc_address=127.0.0.1:0", "--http_address=127.0.0.1:0", f"--port_file={ports}"]
        # The kernel ties the child to the *thread* that started it, so that thread must live as long as the server.
        threading.Thread(target=self._own, args=(command,), name="fluoroscope-server", daemon=True).start()
        try:
            self._started.wait()
            if self._failure is not None:
                raise ServerStartError(f"cannot start {arguments[0]}: {self._failure}")
            deadline = time.monotonic() + timeout
            self.grpc_address, self.http_address = self._wait_for_ports(ports, deadline)
            self._wait_until_serving(deadline, timeout)
        except BaseException:
            self.stop()
            raise
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        """The server's process id; it stays the same when the process has ended."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive: False after `stop`, and when it ended by itself (`log_tail` says why)."""
        return self._process is not None and self._process.poll() is None

    def stop(self, grace: float = 15) -> None:
        """Ends the server: SIGTERM, on which it finishes or cancels its work, and SIGKILL after `grace` seconds. May be called again."""
        with self._stopping:
            atexit.unregister(self.stop)
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                try:
                    self._process.wait(grace)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the server's log."""
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _own(self, command: list[str]) -> None:
        try:
            with self.log_path.open("ab") as log:
                launcher = [sys.executable, "-I", "-S", "-c", _TIED_TO_PARENT, str(os.getpid())]
                # A session of its own: Ctrl-C in a terminal is for the client, which then cancels its call and goes on.
                self._process = subprocess.Popen(
                    [*launcher, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                    pass_fds=self._keep_open,
                )  # fmt: skip
        except OSError as error:
            self._failure = error
            return
        finally:
            self._started.set()
        self._process.wait()

    def _wait_for_ports(self, path: Path, deadline: float) -> tuple[str, str]:
        while True:
            self._check(deadline, "did not say which ports it uses")
            with contextlib.suppress(OSError):
                found = dict(re.findall(r"^(grpc|http)=(\d+)\n", path.read_text(), re.MULTILINE))
                if len(found) == 2:
                    return f"127.0.0.1:{found['grpc']}", f"127.0.0.1:{found['http']}"
            time.sleep(0.01)

    def _wait_until_serving(self, deadline: float, timeout: float) -> None:
        request = b"\x0a" + bytes([len(_SERVICE)]) + _SERVICE  # HealthCheckRequest{service}
        with grpc.insecure_channel(self.grpc_address) as channel:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            while True:
                self._check(deadline, f"was not ready within {timeout:g} s")
                with contextlib.suppress(grpc.RpcError):
                    if check(request, timeout=1, wait_for_ready=True) == _SERVING:
                        return
                time.sleep(0.01)

    def _check(self, deadline: float, what: str) -> None:
        """ServerStartError when the process has ended or the time is up."""
        assert self._process is not None
        status = self._process.poll()
        if status is not None:
            raise ServerStartError(f"the server ended with status {status} before it was ready. The end of its log:\n{self.log_tail()}")
        if time.monotonic() > deadline:
            raise ServerStartError(f"the server {what}. The end of its log:\n{self.log_tail()}")


def serve(
    models: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | Sequence[str],
    *,
    arguments: Sequence[str] = (),
    log: str | os.PathLike[str] | None = None,
    timeout: float = 120,
    call_timeout: float | None = None,
    principal: str | None = None,
    jobs: str | os.PathLike[str] | bool = True,
    loading: bool = True,
) -> Client:
    """Starts a server on this machine and connects to it. The server ends with the client (`close()`, or leaving the `with` block), and never outlives
    this process.

    Args:
      models: what to serve: a name in the model store ("smollm2-135m", see `python -m fluoroscope.fetch`), a Hugging Face directory (its last part becomes
        the name), several of these, or a mapping of names to directories.
      arguments: further flags for fluoroscope-server.
      log: a file to append the server's log to. Default: a temporary file, `client.server.log_path`.
      timeout: seconds the server may take to become ready.
      call_timeout: seconds that any call of the client but load_model may take. Default: no limit.
      principal: as in fs.connect; give one to find your jobs again when a later process serves again.
      jobs: a directory for jobs, which no other server may use at the same time. True: the first free one under `$FLUOROSCOPE_HOME/jobs` (0, 1, ...), so
        that one server after the other has the same and goes on with its unfinished jobs. False: no jobs.
      loading: whether client.load_model and client.unload_model may change what the server holds, with the models of the store to choose from.

    Raises:
      ServerStartError: there is no server binary or no such model, or the server did not become ready; with the last lines of its log.
    """
    chosen = ",".join(f"{name}={path}" for name, path in _directories(models).items())
    command = [str(find_binary()), f"--model={chosen}", *arguments]
    if loading:
        models_of_store = store.home() / "models"
        models_of_store.mkdir(parents=True, exist_ok=True)
        command[2:2] = ["--allow_loading", f"--model_store={models_of_store.resolve()}"]
    directory, lock = (Path(jobs), None) if not isinstance(jobs, bool) else _free_jobs_directory() if jobs else (None, None)
    if directory is not None:
        command.insert(2, f"--jobs_directory={directory.resolve()}")
    try:
        server = LocalServer(command, log=log, timeout=timeout, keep_open=[] if lock is None else [lock])
    finally:
        if lock is not None:
            os.close(lock)  # the server has it now
    return Client(server.grpc_address, timeout=call_timeout, server=server, principal=principal)


def _free_jobs_directory() -> tuple[Path, int]:
    """The first directory under $FLUOROSCOPE_HOME/jobs that no local server uses, and the lock on it, which lasts as long as anyone has it open."""
    for number in itertools.count():
        directory = store.home() / "jobs" / str(number)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return directory, lock
    raise AssertionError("there are always more numbers")


def find_binary() -> Path:
    """fluoroscope-server: `$FLUOROSCOPE_SERVER`, else on the PATH, else the release build of the source checkout this package lies in."""
    if chosen := os.environ.get("FLUOROSCOPE_SERVER"):
        if not os.access(chosen, os.X_OK):
            raise ServerStartError(f"FLUOROSCOPE_SERVER is {chosen!r}, which is not a program")
        return Path(chosen).resolve()
    if found := shutil.which("fluoroscope-server"):
        return Path(found).resolve()
    checkout = Path(__file__).resolve().parents[3]
    built = checkout / "build" / "release" / "bin" / "fluoroscope-server"
    if os.access(built, os.X_OK):
        return built
    raise ServerStartError(
        "there is no fluoroscope-server on the PATH. Build one with scripts/setup in a checkout of the project, put it on the PATH, or set "
        "FLUOROSCOPE_SERVER to it."
    )


def _directories(models: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | Sequence[str]) -> dict[str, Path]:
    if isinstance(models, Mapping):
        found = {store.check_name(name): Path(path) for name, path in models.items()}
    else:
        found = dict(map(_directory, [models] if isinstance(models, str | os.PathLike) else models))
    if not found:
        raise ServerStartError("there is no model to serve")
    for name, path in found.items():
        if not (path / "config.json").is_file():
            raise ServerStartError(f"{name!r}: {path} is not a Hugging Face directory (it has no config.json)")
        if "," in str(path):
            raise ServerStartError(f"{name!r}: the server separates models with commas, and {path} has one; serve it through a link without")
    return {name: path.resolve() for name, path in found.items()}


def _directory(model: str | os.PathLike[str]) -> tuple[str, Path]:
    text = os.fspath(model)
    if os.sep in text or Path(text).is_dir():
        path = Path(text).expanduser().resolve()
        return store.check_name(path.name), path
    path = store.model_path(text)
    if not path.is_dir():
        known = ", ".join(store.installed()) or "nothing yet"
        raise ServerStartError(f"there is no model {text!r} in the store ({known}); get it with: python -m fluoroscope.fetch {text}")
    return text, path
