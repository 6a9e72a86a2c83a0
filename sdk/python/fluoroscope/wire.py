"""The tensor stream of a Forward reply, read straight from the messages' bytes.

A large reply is almost entirely TensorChunks and TensorPacks, and these are "small prefix + raw bytes" (their `data` is the last field). So the prefix is
read by hand and the bytes are copied once, into the arrays they belong to; the generated classes would copy them twice. Every other message, and any chunk
or pack in an unusual encoding, goes through the generated classes: this is an optimisation of the format, never a second definition of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import xxhash
from google.protobuf.message import DecodeError

from fluoroscope._proto.v1 import handle_pb2, inference_pb2, tensor_pb2
from fluoroscope.errors import DataLossError

# bf16 has no numpy dtype; its bits travel as uint16 until somebody says what to do with them.
NUMPY_DTYPES: dict[int, np.dtype] = {
    tensor_pb2.DTYPE_F32: np.dtype("<f4"),
    tensor_pb2.DTYPE_F16: np.dtype("<f2"),
    tensor_pb2.DTYPE_BF16: np.dtype("<u2"),
    tensor_pb2.DTYPE_F64: np.dtype("<f8"),
    tensor_pb2.DTYPE_I32: np.dtype("<i4"),
    tensor_pb2.DTYPE_I64: np.dtype("<i8"),
    tensor_pb2.DTYPE_BOOL: np.dtype("?"),
}

# Gives the array whose memory a tensor's bytes go into: C-contiguous, of this dtype and shape.
Allocate = Callable[[tensor_pb2.TensorHeader, np.dtype, tuple[int, ...]], np.ndarray]

_CHUNK_OF_REPLY, _PACK_OF_REPLY = 0x1A, 0x2A  # fields 3 and 5, length-delimited
_TENSOR_ID, _OFFSET, _HEADERS, _DATA = 0x08, 0x10, 0x0A, 0x7A


@dataclass
class Reply:
    """A complete, checked Forward reply. `tensors` are in the order sent; their arrays came from the caller's Allocate."""

    header: inference_pb2.ForwardHeader
    summary: inference_pb2.ForwardSummary
    tensors: list[tuple[tensor_pb2.TensorHeader, np.ndarray]]
    handles: list[handle_pb2.Handle] = field(default_factory=list)  # of captures that stay on the server


@dataclass
class _Incoming:
    header: tensor_pb2.TensorHeader
    array: np.ndarray
    bytes: memoryview
    received: int = 0


class ReplyReader:
    """Takes the messages of one reply in order (`feed`) and gives the whole (`finish`). Not thread-safe; one per call.

    Trusts nothing: sizes are compared before memory is allocated, chunks must come in order and stay inside their tensor, and counts and checksum
    must fit at the end. Whatever does not is a DataLossError.
    """

    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate
        self._header: inference_pb2.ForwardHeader | None = None
        self._summary: inference_pb2.ForwardSummary | None = None
        self._tensors: dict[int, _Incoming] = {}
        self._handles: list[handle_pb2.Handle] = []
        self._hash = xxhash.xxh3_64()

    def feed(self, message: bytes) -> None:
        chunk = parse_chunk(message)
        if chunk is not None:
            self._take_chunk(*chunk)
            return
        pack = parse_pack(message)
        if pack is not None:
            self._take_pack(*pack)
            return
        try:
            reply = inference_pb2.ForwardReply.FromString(message)
        except Exception as error:
            raise DataLossError(f"a message of {len(message)} bytes is not a ForwardReply: {error}") from error
        match reply.WhichOneof("part"):
            case "chunk":
                self._take_chunk(reply.chunk.tensor_id, reply.chunk.offset, memoryview(reply.chunk.data))
            case "pack":
                self._take_pack(reply.pack.headers, memoryview(reply.pack.data))
            case "tensor":
                self._take_tensor(reply.tensor)
            case "handle":
                self._handles.append(reply.handle)
            case "header" if self._header is None:
                self._header = reply.header
            case "summary" if self._summary is None:
                self._summary = reply.summary
            case "header" | "summary" as part:
                raise DataLossError(f"the reply has two {part} messages")
            case _:
                pass  # a part that a newer server adds and this package does not know

    def finish(self) -> Reply:
        if self._header is None or self._summary is None:
            raise DataLossError("the reply ended without its header or its summary")
        for incoming in self._tensors.values():
            if incoming.received != incoming.header.byte_size:
                name, size = incoming.header.name, incoming.header.byte_size
                raise DataLossError(f"tensor {name!r} of row {incoming.header.row} ended after {incoming.received} of {size} bytes")
        received = sum(incoming.received for incoming in self._tensors.values())
        if (len(self._tensors), received) != (self._summary.tensor_count, self._summary.byte_count):
            raise DataLossError(
                f"received {len(self._tensors)} tensors with {received} bytes; the server sent {self._summary.tensor_count} with {self._summary.byte_count}"
            )
        if self._hash.intdigest() != self._summary.checksum:
            raise DataLossError(f"the tensors' checksum is {self._hash.intdigest():016x}, the server's {self._summary.checksum:016x}")
        return Reply(self._header, self._summary, [(incoming.header, incoming.array) for incoming in self._tensors.values()], self._handles)

    def _take_tensor(self, header: tensor_pb2.TensorHeader) -> _Incoming:
        dtype = NUMPY_DTYPES.get(header.dtype)
        if dtype is None:
            raise DataLossError(f"tensor {header.name!r} has dtype {header.dtype}, which this version of the package does not know")
        shape = tuple(header.shape)
        if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != header.byte_size:
            raise DataLossError(f"tensor {header.name!r} of shape {list(shape)} and {dtype.itemsize} bytes an element says it has {header.byte_size} bytes")
        if header.id in self._tensors:
            raise DataLossError(f"two tensors have the id {header.id}")
        array = self._allocate(header, dtype, shape)
        if not array.flags.c_contiguous or array.dtype != dtype or array.shape != shape:
            raise ValueError("Allocate must give a C-contiguous array of the dtype and shape it was asked for")
        incoming = self._tensors[header.id] = _Incoming(header, array, array.reshape(-1).view(np.uint8).data)
        return incoming

    def _take_chunk(self, tensor_id: int, offset: int, data: memoryview) -> None:
        incoming = self._tensors.get(tensor_id)
        if incoming is None:
            raise DataLossError(f"a chunk belongs to tensor {tensor_id}, which was not announced")
        end = offset + len(data)
        if offset != incoming.received or end > incoming.header.byte_size:
            raise DataLossError(
                f"a chunk with bytes {offset} to {end} of tensor {incoming.header.name!r} ({incoming.header.byte_size} bytes) came when byte "
                f"{incoming.received} was next"
            )
        incoming.bytes[offset:end] = data
        incoming.received = end
        self._hash.update(data)

    def _take_pack(self, headers: Sequence[tensor_pb2.TensorHeader], data: memoryview) -> None:
        size = sum(header.byte_size for header in headers)
        if size != len(data):
            raise DataLossError(f"a pack of {len(headers)} tensors has {len(data)} bytes; its headers say {size}")
        at = 0
        for header in headers:
            incoming = self._take_tensor(header)
            size = header.byte_size
            incoming.bytes[:] = data[at : at + size]
            incoming.received = size
            at += size
        self._hash.update(data)


def read_reply(messages: Iterable[bytes], allocate: Allocate) -> Reply:
    """Reads a whole reply."""
    reader = ReplyReader(allocate)
    for message in messages:
        reader.feed(message)
    return reader.finish()


def parse_chunk(message: bytes) -> tuple[int, int, memoryview] | None:
    """(tensor id, offset, data) when the message is a chunk in the usual encoding; else None. The data is a view of the message."""
    if not message or message[0] != _CHUNK_OF_REPLY:
        return None
    try:
        length, at = _varint(message, 1)
        if at + length != len(message):
            return None
        tensor_id = offset = 0
        if message[at] == _TENSOR_ID:
            tensor_id, at = _varint(message, at + 1)
        if message[at] == _OFFSET:
            offset, at = _varint(message, at + 1)
        if message[at] != _DATA:
            return None
        length, at = _varint(message, at + 1)
    except IndexError:
        return None
    if at + length != len(message):
        return None
    return tensor_id, offset, memoryview(message)[at:]


def parse_pack(message: bytes) -> tuple[Sequence[tensor_pb2.TensorHeader], memoryview] | None:
    """(headers, data) when the message is a pack in the usual encoding; else None. The data is a view of the message."""
    if not message or message[0] != _PACK_OF_REPLY:
        return None
    try:
        length, at = _varint(message, 1)
        if at + length != len(message):
            return None
        start = at
        while message[at] == _HEADERS:
            length, at = _varint(message, at + 1)
            at += length
        if message[at] != _DATA:
            return None
        headers = tensor_pb2.TensorPack.FromString(message[start:at]).headers
        length, at = _varint(message, at + 1)
    except (IndexError, DecodeError):
        return None
    if at + length != len(message):
        return None
    return headers, memoryview(message)[at:]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError  # too long for a varint: let the generated parser judge


def widen_bf16(bits: np.ndarray) -> np.ndarray:
    """float32 values of bf16 bit patterns (uint16). Exact."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)
