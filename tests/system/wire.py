"""The wire's own messages and calls, made from the .proto files in a descriptor pool of their own: nothing here comes from the SDK."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
V1 = sorted(str(file.relative_to(ROOT / "proto")) for file in (ROOT / "proto/fluoroscope/v1").glob("*.proto"))
PROTOS = [*V1, "grpc/health/v1/health.proto"]


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors.bin"
        code = protoc.main(["protoc", f"-I{ROOT / 'proto'}", "--include_imports", f"--descriptor_set_out={out}", *PROTOS])
        assert code == 0, "protoc failed"
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


@cache
def message(name: str):
    """The class of a message: message("fluoroscope.v1.ForwardRequest")."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


def v1(name: str):
    return message(f"fluoroscope.v1.{name}")


@cache
def services() -> dict:
    """Descriptors of the services that fluoroscope/v1/*.proto declare, by full name."""
    files = [_pool().FindFileByName(name) for name in V1]
    return {service.full_name: service for file in files for service in file.services_by_name.values()}


@cache
def _method(full_name: str):
    service, name = full_name.rsplit("/", 1)
    method = _pool().FindServiceByName(service).FindMethodByName(name)
    return message(method.input_type.full_name), message(method.output_type.full_name), method.server_streaming


class Client:
    """One channel. `call("fluoroscope.v1.Models/GetModel", model="m")` answers with the reply, or a call to iterate over for a stream."""

    def __init__(self, address: str):
        # A connection of its own: gRPC otherwise shares one between the channels of a process.
        self.channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])

    def call(self, method: str, request=None, *, timeout: float = 60, metadata=None, **fields):
        kind, reply, streaming = _method(method)
        if request is None:
            request = kind(**fields)
        serialize = (lambda r: r) if isinstance(request, bytes) else kind.SerializeToString
        make = self.channel.unary_stream if streaming else self.channel.unary_unary
        rpc = make("/" + method, request_serializer=serialize, response_deserializer=reply.FromString)
        return rpc(request, timeout=timeout, metadata=metadata)

    def future(self, method: str, *, timeout: float = 60, metadata=None, **fields):
        """A call with one reply, not waited for: result(), exception(), cancel()."""
        kind, reply, _ = _method(method)
        rpc = self.channel.unary_unary("/" + method, request_serializer=kind.SerializeToString, response_deserializer=reply.FromString)
        return rpc.future(kind(**fields), timeout=timeout, metadata=metadata)

    def forward(self, request=None, **options):
        """Runs a Forward to its end: (summary, tensors by (name, row))."""
        headers, data, summary = {}, {}, None
        for part in self.call("fluoroscope.v1.Inference/Forward", request, **options):
            kind = part.WhichOneof("part")
            if kind == "tensor":
                headers[part.tensor.id] = part.tensor
                data[part.tensor.id] = bytearray()
            elif kind == "chunk":
                assert part.chunk.offset == len(data[part.chunk.tensor_id])
                data[part.chunk.tensor_id] += part.chunk.data
            elif kind == "pack":
                at = 0
                for header in part.pack.headers:
                    headers[header.id] = header
                    data[header.id] = part.pack.data[at : at + header.byte_size]
                    at += header.byte_size
                assert at == len(part.pack.data)
            elif kind == "summary":
                summary = part.summary
        assert summary is not None and summary.tensor_count == len(headers)
        assert all(len(data[i]) == header.byte_size for i, header in headers.items())
        return summary, {(header.name, header.row): (header, bytes(data[i])) for i, header in headers.items()}

    def upload(self, requests, *, timeout: float = 60, metadata=None):
        """Handles.Put of these messages; the call's future."""
        kind, reply, _ = _method("fluoroscope.v1.Handles/Put")
        rpc = self.channel.stream_unary("/fluoroscope.v1.Handles/Put", request_serializer=kind.SerializeToString, response_deserializer=reply.FromString)
        return rpc.future(iter(requests), timeout=timeout, metadata=metadata)

    def health(self, service: str = "") -> str:
        reply = self.call("grpc.health.v1.Health/Check", service=service)
        return reply.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[reply.status].name

    def close(self):
        self.channel.close()
