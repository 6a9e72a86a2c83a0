"""Every gRPC status becomes its own exception with the server's words, and a call that is left early is cancelled on the server."""

import threading
from concurrent import futures

import fluoroscope as fs
import grpc
import pytest
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
