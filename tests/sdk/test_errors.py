"""Every gRPC status becomes its own exception with the server's words, and a call that is left early is cancelled on the server."""

import asyncio
import math
import os
import signal
import threading
from concurrent import futures

import fluoroscope as fs
import grpc
import pytest
from fluoroscope import address
from fluoroscope._proto.v1 import models_pb2


class AnyMethod(grpc.GenericRpcHandler):
    """Answers every call with the status that the method's name ends with; streams until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.metadata: list[dict[str, str]] = []

    def service(self, details):
        code = details.method.rsplit("/", 1)[-1]
        self.metadata.append(dict(details.invocation_metadata))
        if code in ("ENDLESS", "LARGE"):
            return grpc.unary_stream_rpc_method_handler(self._endless if code == "ENDLESS" else self._large)
        return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(grpc.StatusCode[code], f"what is wrong, and what is allowed: {code}"))

    def _large(self, _request, _context):
        yield b"x" * (5 << 20)

    def _endless(self, _request, context):
        context.add_callback(self.cancelled.set)
        while not self.cancelled.is_set():
            yield b"x" * 1000


@pytest.fixture(scope="module")
def handler():
    return AnyMethod()


@pytest.fixture(scope="module")
def client(handler):
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with fs.Client(f"127.0.0.1:{port}") as client:
        yield client
    server.stop(0).wait()


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_has_its_exception(client, code):
    with pytest.raises(fs.FluoroscopeError) as caught:
        client.unary(f"/x/{code.name}", models_pb2.ListModelsRequest(), models_pb2.ListModelsReply)
    assert caught.value.code is code
    assert caught.value.message == f"what is wrong, and what is allowed: {code.name}"
    name = code.name.title().replace("_", "")
    assert type(caught.value).__name__ == f"{name}Error"
    assert type(caught.value) is getattr(fs, f"{name}Error")


@pytest.mark.parametrize(
    ("code", "base"),
    [("INVALID_ARGUMENT", ValueError), ("DEADLINE_EXCEEDED", TimeoutError), ("NOT_FOUND", LookupError), ("UNAVAILABLE", ConnectionError),
     ("PERMISSION_DENIED", PermissionError), ("UNIMPLEMENTED", NotImplementedError)],
)
def test_exceptions_are_pythons_own_kinds_too(client, code, base):
    with pytest.raises(base, match=code):
        client.unary(f"/x/{code}", models_pb2.ListModelsRequest(), models_pb2.ListModelsReply)


def test_a_stream_that_is_left_early_is_cancelled(client, handler):
    messages = client.stream("/x/ENDLESS", models_pb2.ListModelsRequest())
    assert next(messages) == b"x" * 1000
    assert not handler.cancelled.is_set()
    messages.close()
    assert handler.cancelled.wait(5)


def test_a_client_always_is_the_same_principal(client, handler):
    for _ in range(2):
        with pytest.raises(fs.InternalError):
            client.unary("/x/INTERNAL", models_pb2.ListModelsRequest(), models_pb2.ListModelsReply)
    principals = [metadata["x-fluoroscope-principal"] for metadata in handler.metadata[-2:]]
    assert principals[0] == principals[1] and len(principals[0]) == 32


def test_the_priority_is_sent_with_every_call(client, handler):
    for priority in ("interactive", "batch"):
        with fs.Client(client.target, priority=priority) as other, pytest.raises(fs.InternalError):
            other.unary("/x/INTERNAL", models_pb2.ListModelsRequest(), models_pb2.ListModelsReply)
        assert handler.metadata[-1]["x-fluoroscope-priority"] == priority


def test_a_reply_over_this_sides_limit_is_not_blamed_on_the_request(client):
    with pytest.raises(fs.ResourceExhaustedError, match=r"larger than max \(5242880 vs. 4194304\)"):
        list(client.stream("/x/LARGE", models_pb2.ListModelsRequest()))


def test_nobody_there():
    with pytest.raises(fs.UnavailableError, match=r"no server answers at 127.0.0.1:1\. Start one with"):
        fs.connect("127.0.0.1:1")


def test_a_closed_client_says_so(smollm2_path):
    owner = fs.serve({"small": smollm2_path}, jobs=False)
    other = fs.connect(owner.target)
    there = other.model("small")
    kept = there.keep("text", "hook_embed")
    other.close()
    why = rf"^this client, of {other.target}, is closed: connect again with fs\.connect$"
    for ask in (other.models, lambda: there.run_with_cache("text", "hook_embed"), kept.numpy, lambda: list(there.generate("text")),
                lambda: there.put("hook_embed", [[0.0] * 576])):  # fmt: skip
        with pytest.raises(fs.FluoroscopeError, match=why):
            ask()
    owner.close()
    with pytest.raises(fs.FluoroscopeError, match=r"is closed and its server has ended: start another with fs\.serve$"):
        owner.models()


def test_a_deadline_says_how_long_it_was(client, handler):
    handler.cancelled.clear()
    with pytest.raises(fs.DeadlineExceededError) as caught:
        list(client.stream("/x/ENDLESS", models_pb2.ListModelsRequest(), timeout=0.05))
    assert caught.value.message == (
        "the call took longer than its timeout of 0.05 s. Give it a longer one (timeout=...), or all calls: fs.connect(..., timeout=...), "
        "fs.serve(..., call_timeout=...); math.inf is no limit"
    )


@pytest.mark.parametrize("timeout", [0, -1, math.nan, "3", True])
def test_a_timeout_leaves_some_time(client, timeout):
    for ask in (lambda: fs.connect(client.target, timeout=timeout), lambda: fs.serve("none", call_timeout=timeout),
                lambda: client.unary("/x/OK", models_pb2.ListModelsRequest(), models_pb2.ListModelsReply, timeout)):  # fmt: skip
        with pytest.raises(ValueError, match=f"timeout is {timeout!r}; give seconds, more than 0, or math.inf for no limit"):
            ask()


def test_an_own_server_that_is_killed(smollm2_path):
    with fs.serve({"small": smollm2_path}, jobs=False) as client:
        model = client.model("small")
        os.kill(client.server.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(fs.UnavailableError, match=r"(?s)^the server of this client ended with signal 9 \(SIGKILL\)\. The end of its log:\n.+small"):
                model.tokenize("text")

    async def ask():
        client = fs.AsyncClient(fs.serve({"small": smollm2_path}, jobs=False))
        model = await client.model("small")
        os.kill(client._client.server.pid, signal.SIGTERM)
        client._client.server._process.wait()
        with pytest.raises(fs.UnavailableError, match=r"^the server of this client ended with status 0"):
            await model.tokenize("text")
        await client.close()

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("written", "target"),
    [("localhost", "localhost:7070"), ("gpu-3.example.org", "gpu-3.example.org:7070"), ("10.0.0.7", "10.0.0.7:7070"), ("::1", "[::1]:7070"),
     ("[::1]", "[::1]:7070"), ("localhost:1", "localhost:1"), ("[::1]:1", "[::1]:1"), ("unix:/tmp/socket", "unix:/tmp/socket"),
     ("dns:///host:1", "dns:///host:1")],
)  # fmt: skip
def test_targets(written, target):
    assert address.grpc_target(written) == target
    with fs.Client(written) as client:
        assert client.target == target


@pytest.mark.parametrize(
    ("written", "why"),
    [("http://localhost:7070", "target is 'http://localhost:7070'; give host:port without http://: 'localhost:7070'"),
     ("https://host/path", "target is 'https://host/path'; give host:port without https://: 'host:7070'"), ("", "target is ''; give the server's gRPC address")],
)  # fmt: skip
def test_targets_that_are_none(written, why):
    with pytest.raises(ValueError) as caught:
        fs.connect(written)
    assert why in str(caught.value)
    with pytest.raises(ValueError):
        asyncio.run(fs.connect_async(written))
