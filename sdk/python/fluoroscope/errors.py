"""What can go wrong, as exceptions: one base class and one subclass per gRPC status code.

The server's messages say what was wrong and what is allowed; they are passed on unchanged. Where Python has a class for the same kind of problem
(ValueError, TimeoutError, ...) the subclass is one of those too.
"""

from __future__ import annotations

import os
import re
import sys
import warnings

import grpc


class FluoroscopeError(Exception):
    """Base of everything this package raises about a server or a request.

    Attributes:
      message: what went wrong, in words.
      code: the gRPC status code, or None when the problem is on this side of the wire.
    """

    code: grpc.StatusCode | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class CancelledError(FluoroscopeError):
    """The call was cancelled."""

    code = grpc.StatusCode.CANCELLED


class UnknownError(FluoroscopeError):
    """The server failed in a way it did not describe."""

    code = grpc.StatusCode.UNKNOWN


class InvalidArgumentError(FluoroscopeError, ValueError):
    """The request is wrong; the message names the field and what is allowed."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class DeadlineExceededError(FluoroscopeError, TimeoutError):
    """The call's `timeout` ran out."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class NotFoundError(FluoroscopeError, LookupError):
    """There is no such model (the message lists those that exist), or no such job of this client's principal."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(FluoroscopeError):
    """The thing to be made is there already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class PermissionDeniedError(FluoroscopeError, PermissionError):
    """The caller may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhaustedError(FluoroscopeError):
    """Too large for the server's budget, or its queue is full; the message gives both numbers."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class FailedPreconditionError(FluoroscopeError):
    """This model or this server cannot offer what was asked, or a job cannot be resumed; the message says why."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class AbortedError(FluoroscopeError):
    """The call lost against another one; it may be tried again."""

    code = grpc.StatusCode.ABORTED


class OutOfRangeError(FluoroscopeError, ValueError):
    """A number lies outside what is valid at the moment."""

    code = grpc.StatusCode.OUT_OF_RANGE


class UnimplementedError(FluoroscopeError, NotImplementedError):
    """The server does not have this call: it is older than this package, or not a Fluoroscope server."""

    code = grpc.StatusCode.UNIMPLEMENTED


class InternalError(FluoroscopeError):
    """A bug in the server, or a broken transport."""

    code = grpc.StatusCode.INTERNAL


class UnavailableError(FluoroscopeError, ConnectionError):
    """No server answers there, or it is shutting down; the call may be tried again."""

    code = grpc.StatusCode.UNAVAILABLE


class DataLossError(FluoroscopeError):
    """The reply did not arrive as it was sent: a checksum, a size or an order does not fit."""

    code = grpc.StatusCode.DATA_LOSS


class UnauthenticatedError(FluoroscopeError, PermissionError):
    """The server wants to know who is calling."""

    code = grpc.StatusCode.UNAUTHENTICATED


class ServerStartError(FluoroscopeError):
    """A local server could not be started; the message ends with the last lines of its log."""


class FluoroscopeWarning(UserWarning):
    """A result that is correct but probably not what was meant, such as a patch that changes nothing."""


def warn(message: str) -> None:
    """A FluoroscopeWarning at the line outside this package that made the call."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, FluoroscopeWarning, stacklevel=level)


_HERE = os.path.dirname(__file__) + os.sep
_OUT_OF_TIME = re.compile(r"Deadline Exceeded|Stream removed \(Deadline Exceeded\)")  # gRPC's words; the server's own say where the time went
_TOO_LARGE = re.compile(r"larger than max \((\d+) vs\. (\d+)\)")

_BY_CODE: dict[grpc.StatusCode, type[FluoroscopeError]] = {
    cls.code: cls for cls in FluoroscopeError.__subclasses__() if cls.code is not None
}


_BY_NUMBER: dict[int, type[FluoroscopeError]] = {code.value[0]: cls for code, cls in _BY_CODE.items()}


def of_code(number: int, message: str) -> FluoroscopeError:
    """The exception for a canonical gRPC code that a message carries as a number."""
    return _BY_NUMBER.get(number, UnknownError)(message)


def from_rpc(error: grpc.RpcError, target: str, request_bytes: int | None = None, seconds: float | None = None) -> FluoroscopeError:
    """The exception of this package for a failed call to `target`, whose request was so many bytes long (None: a stream of small ones), and which had so many
    seconds."""
    code: grpc.StatusCode = error.code()
    details: str = error.details() or code.name
    if code is grpc.StatusCode.UNAVAILABLE and "failed to connect" in details.lower():
        details = (
            f"no server answers at {target}. Start one with `fluoroscope-server --model NAME=DIR`, or let this process start one: "
            f"fs.serve(\"smollm2-135m\"). ({details})"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and seconds is not None and _OUT_OF_TIME.fullmatch(details):
        details = (
            f"the call took longer than its timeout of {seconds:g} s. Give it a longer one (timeout=...), or all calls: fs.connect(..., timeout=...), "
            "fs.serve(..., call_timeout=...); math.inf is no limit"
        )
    # gRPC itself refuses a request over the server's receive limit, before the server sees it. A reply that is too large reads the same, with its own size.
    too_large = _TOO_LARGE.search(details) if code is grpc.StatusCode.RESOURCE_EXHAUSTED else None
    if too_large and int(too_large[1]) == request_bytes:
        size, limit = (f"{int(number)} bytes ({int(number) / 2**20:.1f} MiB)" for number in too_large.groups())
        details = (
            f"the request has {size}, and the server takes at most {limit} in one. Leave large tensors on the server once (model.put, model.keep) and give "
            "their handles instead, or send fewer prompts in a request; whoever runs the server can raise limits.max_receive_mib in its configuration"
        )
    return _BY_CODE.get(code, UnknownError)(details)
