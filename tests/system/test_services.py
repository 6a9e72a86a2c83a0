"""What the server says about itself: its health, by service and while it loads, and its services by reflection. Expectations come from the .proto files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import grpc
import pytest

from .server_process import ServerProcess, eventually
from .wire import services


@pytest.mark.parametrize("service", ["", *services()])
def test_every_service_has_a_named_health(shared_server, service):
    assert shared_server.client().health(service) == "SERVING"


def test_an_unknown_name_has_no_health(shared_server):
    with pytest.raises(grpc.RpcError) as error:
        shared_server.client().health("fluoroscope.v1.Nonsense")
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


class Gate:
    """A file of the model that is a named pipe: whoever reads it waits until it is opened."""

    def __init__(self, path: Path):
        os.mkfifo(path)
        self.path = path
        self.pipe: int | None = None

    def has_a_visitor(self) -> bool:
        """Whether a reader waits. From then on it is held until open()."""
        if self.pipe is None:
            try:
                self.pipe = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads
                return False
        return True

    def open(self) -> None:
        assert self.pipe is not None
        os.write(self.pipe, b"{{ messages }}")
        os.close(self.pipe)


@pytest.fixture
def loading(start, tiny, tmp_path):
    """A server that stays in the middle of loading its second model, and the gate that lets it go on."""
    shutil.copytree(tiny, tmp_path / "held")
    gate = Gate(tmp_path / "held" / "chat_template.jinja")
    server = start({"tiny": tiny, "held": tmp_path / "held"}, wait=False)
    assert eventually(lambda: server.process.poll() is not None or gate.has_a_visitor(), 60) and server.process.poll() is None, server.log()
    return server, gate


def find_ports(server: ServerProcess) -> None:
    """From the log: the port file is written only when all models are loaded."""
    line = next(line for line in server.log().splitlines() if "; loading " in line)
    grpc_port, http_port = (int(part.split(")")[0]) for part in line.split("(port ")[1:])
    server.grpc_address, server.http_address = f"127.0.0.1:{grpc_port}", f"127.0.0.1:{http_port}"


def test_not_ready_while_loading(loading):
    server, gate = loading
    find_ports(server)
    client = server.client()
    assert server.http("/readyz")[0] == 503 and server.http("/healthz") == (200, "ok\n")
    for service in ("", *services()):
        assert client.health(service) == "NOT_SERVING"
    with pytest.raises(grpc.RpcError) as error:
        client.call("fluoroscope.v1.Models/ListModels")
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE and "still loading" in error.value.details()
    watch = client.call("grpc.health.v1.Health/Watch", service="")
    assert next(watch).status == 2  # NOT_SERVING
    assert not server.port_file.exists()

    gate.open()
    assert next(watch).status == 1  # SERVING
    watch.cancel()
    server.wait_until_ready()
    assert server.http("/readyz") == (200, "ready\n") and server.http("/healthz") == (200, "ok\n")
    for service in ("", *services(), "tiny", "held"):
        assert client.health(service) == "SERVING"
    assert {model.name for model in client.call("fluoroscope.v1.Models/ListModels").models} == {"tiny", "held"}


def test_health_watch_sees_the_end(start, tiny):
    server = start({"tiny": tiny})
    watch = server.client().call("grpc.health.v1.Health/Watch", service="fluoroscope.v1.Inference", timeout=60)
    assert next(watch).status == 1
    server.terminate()
    assert next(watch).status == 2
    with pytest.raises(grpc.RpcError) as error:
        next(watch)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert server.wait() == 0


def test_reflection_lists_the_services(shared_server):
    # ServerReflectionRequest by hand: list_services = 7, file_containing_symbol = 4, both strings; the names are plain text in the replies.
    names = [name.encode() for name in services()]
    with grpc.insecure_channel(shared_server.grpc_address) as channel:
        ask = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        questions = [b"\x3a\x00", *(b"\x22" + bytes([len(name)]) + name for name in names)]
        listed, *replies = list(ask(iter(questions), timeout=20))
    for name in (*names, b"grpc.health.v1.Health", b"grpc.reflection.v1alpha.ServerReflection"):
        assert name in listed
    for service, reply in zip(services().values(), replies, strict=True):
        assert service.file.name.encode() in reply
        assert all(method.name.encode() in reply and method.input_type.name.encode() in reply for method in service.methods)
