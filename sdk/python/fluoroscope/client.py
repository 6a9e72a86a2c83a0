"""The connection to a server."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

import grpc

from fluoroscope._proto.v1 import models_pb2
from fluoroscope.address import grpc_target, seconds
from fluoroscope.errors import CancelledError, FluoroscopeError, UnavailableError, from_rpc
from fluoroscope.handles import Handle, list_handles
from fluoroscope.interrupt import CtrlC
from fluoroscope.loading import ModelList, list_models, load_model, unload_model
from fluoroscope.memory import keep_freed_buffers
from fluoroscope.results import ModelInfo

if TYPE_CHECKING:
    from fluoroscope.jobs import Job
    from fluoroscope.local_server import LocalServer
    from fluoroscope.model import Model


class _Message(Protocol):
    def SerializeToString(self) -> bytes: ...
    def ByteSize(self) -> int: ...


R = TypeVar("R")
Priority = Literal["interactive", "batch"]


class Client:
    """A connection to one server. Thread-safe: use one per process and share it. Also a context manager that closes it.

    Attributes:
      target: the server's address.
      server: the local server process that belongs to this client (see fs.serve), else None.
      principal: who is calling; `principal_given` says whether it was chosen, and not drawn for this client.
    """

    def __init__(
        self, target: str, *, timeout: float | None = None, server: LocalServer | None = None, principal: str | None = None, priority: Priority = "interactive",
    ) -> None:  # fmt: skip
        """Opens the connection lazily; `fs.connect` also checks that a server answers."""
        self.target = grpc_target(target)
        self.server = server
        self._closed = False
        seconds(timeout)  # refuses what is none
        self._timeout = timeout
        # Whose work this is: the server shares itself out fairly between principals, and jobs belong to them.
        chosen = principal or os.environ.get("FLUOROSCOPE_PRINCIPAL")
        self.principal_given = chosen is not None and chosen != ""
        self.principal = chosen or secrets.token_hex(16)
        self._metadata: tuple[tuple[str, str], ...] = (("x-fluoroscope-principal", self.principal), ("x-fluoroscope-priority", priority))
        # Request messages may be large (token ids, directions); replies come in chunks far below gRPC's default limit.
        keep_freed_buffers()
        self._channel = grpc.insecure_channel(self.target, options=[("grpc.max_send_message_length", -1)])

    def models(self) -> ModelList:
        """The models this server has in memory; `.others` are those that it could load. Printed, all with their state."""
        return list_models(self)

    def load_model(self, name: str, dtype: str | None = None, *, timeout: float | None = None) -> ModelInfo:
        """Has the server load a model, one of its configuration or of its model store, and waits until it can be used. Nothing to do when it is loaded.
        When all clients that wait for it have gone away, or their time is over, the load ends.

        Args:
          name: the model's name; `client.models()` shows which there are.
          dtype: "f32", "bf16" or "f16" casts. Default: the configuration's for this model, else the checkpoint's own.
          timeout: seconds to wait. Default: no limit, even where the client has one for its calls: a large model may take longer than any of them.

        Raises:
          FailedPreconditionError: the server does not allow it (`allow_loading` in its configuration; a server of fs.serve does), or the model is loaded in
            another dtype.
          NotFoundError: there is no such model; with those that there are.
          ResourceExhaustedError: it does not fit the server's memory for weights; with both numbers and what could be unloaded.
          InvalidArgumentError: the checkpoint is broken.
          DeadlineExceededError: it took longer than `timeout`.
        """
        return load_model(self, name, dtype, timeout)

    def unload_model(self, name: str) -> bool:
        """Takes a model away from this server, for everybody: new requests are refused at once, those in flight go on to their end.

        Returns:
          Whether such requests still hold its memory, which is given back when the last of them ends. Asking again tells.

        Raises:
          FailedPreconditionError: the server does not allow it, or the model is being loaded.
          NotFoundError: there is no such model.
        """
        return unload_model(self, name)

    def model(self, name: str) -> Model:
        """A model by name. NotFoundError, with the names that exist, when there is none."""
        from fluoroscope.model import Model

        return Model(self, name)

    def handles(self) -> list[Handle]:
        """The activations that this client has left on the server (model.keep, model.put) and that are still there; by layer and hook point."""
        return list_handles(self)

    def jobs(self) -> list[Job[Any]]:
        """The jobs of this client's principal, newest first. FailedPreconditionError when the server keeps none."""
        from fluoroscope.jobs import list_jobs

        return list_jobs(self)

    def job(self, id: str) -> Job[Any]:
        """A job by its id. NotFoundError when there is none, or when it belongs to another principal: connect with the one that submitted it.

        Its result's metrics are known by their names: `job.result()["logit_diff"]`.
        """
        from fluoroscope.jobs import find_job

        return find_job(self, id)

    def close(self) -> None:
        """Closes the connection, and ends the local server process if there is one. May be called again."""
        self._closed = True
        self._channel.close()
        if self.server is not None:
            self.server.stop()

    def _check_open(self) -> None:
        """FluoroscopeError when this client has been closed."""
        if self._closed:
            again = " and its server has ended: start another with fs.serve" if self.server else ": connect again with fs.connect"
            raise FluoroscopeError(f"this client, of {self.target}, is closed{again}")

    def unary(self, method: str, request: _Message, reply: type[R], timeout: float | None = None) -> R:
        """One request, one reply. For the package's own use."""
        deadline = self._deadline(timeout)
        call: Any = self._channel.unary_unary(method, type(request).SerializeToString, cast(Any, reply).FromString)
        ctrl_c = CtrlC()
        try:
            with ctrl_c:
                future = ctrl_c.watch(call.future(request, timeout=deadline, metadata=self._metadata))
                return cast(R, future.result())
        except grpc.RpcError as error:
            raise self._failed(error, deadline, request.ByteSize()) from None
        except ValueError:
            self._check_open()  # closed by another thread in this moment
            raise
        finally:
            ctrl_c.cancel()  # however it was left, the server must not go on working for nobody

    def upload(
        self, method: str, requests: Iterator[_Message], request: type[_Message], reply: type[R], timeout: float | None = None
    ) -> R:
        """A stream of requests, one reply. For the package's own use."""
        deadline = self._deadline(timeout)
        call: Any = self._channel.stream_unary(method, request.SerializeToString, cast(Any, reply).FromString)
        ctrl_c = CtrlC()
        try:
            with ctrl_c:
                future = ctrl_c.watch(call.future(requests, timeout=deadline, metadata=self._metadata))
                return cast(R, future.result())
        except grpc.RpcError as error:
            raise self._failed(error, deadline) from None
        except ValueError:
            self._check_open()  # closed by another thread in this moment
            raise
        finally:
            ctrl_c.cancel()

    def stream(self, method: str, request: _Message, timeout: float | None = None) -> Generator[bytes, None, None]:
        """One request, the messages of a stream as bytes. For the package's own use. Cancels the call when it is left early."""
        deadline = self._deadline(timeout)
        call: Any = self._channel.unary_stream(method, type(request).SerializeToString, None)
        ctrl_c = CtrlC()
        try:
            with ctrl_c:
                messages = ctrl_c.watch(call(request, timeout=deadline, metadata=self._metadata))
            while True:
                with ctrl_c:
                    message = next(messages, None)
                if message is None:
                    return
                yield message
        except grpc.RpcError as error:
            raise self._failed(error, deadline, request.ByteSize()) from None
        except ValueError:
            self._check_open()  # closed by another thread in this moment
            raise
        finally:
            ctrl_c.cancel()  # does nothing once the stream has ended

    def _deadline(self, timeout: float | None) -> float | None:
        """What a call is given: None is the client's own, infinity none at all. Every call begins with this."""
        self._check_open()
        return seconds(self._timeout if timeout is None else timeout)

    def _failed(self, error: grpc.RpcError, deadline: float | None, request_bytes: int | None = None) -> FluoroscopeError:
        """The exception for a call that failed; it knows more of this client's own server and of its time limit than gRPC does."""
        if error.code() is grpc.StatusCode.CANCELLED and self._closed:
            return CancelledError("this client was closed while the call was running")
        if error.code() is grpc.StatusCode.UNAVAILABLE and self.server is not None and not self._closed:
            # The connection breaks a moment before the process is known to have ended.
            if (how := self.server.ended(patience=1)) is not None:
                return UnavailableError(f"the server of this client {how}")
        return from_rpc(error, self.target, request_bytes, deadline)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.target!r}{', with its own server' if self.server is not None else ''})"


def connect(
    target: str = "localhost:7070", *, timeout: float | None = None, principal: str | None = None, priority: Priority = "interactive",
) -> Client:  # fmt: skip
    """Connects to a running server.

    Args:
      target: its gRPC address, "host:port", or only the host for port 7070.
      timeout: seconds after which any call of this client but load_model fails with DeadlineExceededError. Default: none; Ctrl-C cancels a call on the
        server too.
      principal: a name for yourself, 1 to 128 of A-Z a-z 0-9 . _ -. The server shares itself out fairly between principals, and jobs belong to them: to find
        them again from another process, connect by the same name. It is no password. Default: $FLUOROSCOPE_PRINCIPAL, else a random one for this client.
      priority: "batch" lets other callers' interactive calls go first, in the queue and on the device: for long jobs that nobody waits for.

    Raises:
      UnavailableError: no server answers there.
      ValueError: `target` is a web address, or `timeout` is not more than 0.
    """
    client = Client(target, timeout=timeout, principal=principal, priority=priority)
    try:
        client.unary("/fluoroscope.v1.Models/ListModels", models_pb2.ListModelsRequest(), models_pb2.ListModelsReply, timeout=10 if timeout is None else timeout)
    except BaseException:
        client.close()
        raise
    return client
