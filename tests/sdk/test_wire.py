"""The tensor stream: what is read straight from bytes equals what protobuf reads, and nothing that is wrong gets through."""

import numpy as np
import pytest
import xxhash
from fluoroscope import DataLossError
from fluoroscope._proto.v1 import inference_pb2, tensor_pb2
from fluoroscope.wire import NUMPY_DTYPES, parse_chunk, parse_pack, read_reply, widen_bf16
from hypothesis import given
from hypothesis import strategies as st


def chunk(tensor_id: int, offset: int, data: bytes) -> bytes:
    return inference_pb2.ForwardReply(chunk=tensor_pb2.TensorChunk(tensor_id=tensor_id, offset=offset, data=data)).SerializeToString()


def empty(_header, dtype, shape):
    return np.empty(shape, dtype)


def stream(arrays: dict[str, np.ndarray], chunk_bytes: int = 16, **summary) -> list[bytes]:
    """The messages a server sends for these tensors."""
    messages = [inference_pb2.ForwardReply(header=inference_pb2.ForwardHeader())]
    digest, size = xxhash.xxh3_64(), 0
    names = {dtype: number for number, dtype in NUMPY_DTYPES.items()}
    for number, (name, array) in enumerate(arrays.items()):
        header = tensor_pb2.TensorHeader(id=number, dtype=names[array.dtype], shape=array.shape, byte_size=array.nbytes, name=name)
        messages.append(inference_pb2.ForwardReply(tensor=header))
        data = array.tobytes()
        digest.update(data)
        size += len(data)
        for at in range(0, len(data), chunk_bytes):
            piece = tensor_pb2.TensorChunk(tensor_id=number, offset=at, data=data[at : at + chunk_bytes])
            messages.append(inference_pb2.ForwardReply(chunk=piece))
    fields = {"tensor_count": len(arrays), "byte_count": size, "checksum": digest.intdigest(), **summary}
    messages.append(inference_pb2.ForwardReply(summary=inference_pb2.ForwardSummary(**fields)))
    return [message.SerializeToString() for message in messages]


def packed(arrays: dict[str, np.ndarray], per_pack: int = 100, **summary) -> list[bytes]:
    """The same reply as `stream`, its tensors in packs."""
    header, *parts, end = [inference_pb2.ForwardReply.FromString(message) for message in stream(arrays, **summary)]
    headers = [part.tensor for part in parts if part.HasField("tensor")]
    datas = [array.tobytes() for array in arrays.values()]
    packs = []
    for at in range(0, len(headers), per_pack):
        pack = tensor_pb2.TensorPack(headers=headers[at : at + per_pack], data=b"".join(datas[at : at + per_pack]))
        packs.append(inference_pb2.ForwardReply(pack=pack))
    return [message.SerializeToString() for message in [header, *packs, end]]


TWO = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(5, dtype=np.int64)}


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(min_size=1, max_size=300))
def test_a_chunk_reads_as_protobuf_reads_it(tensor_id, offset, data):
    found = parse_chunk(chunk(tensor_id, offset, data))
    assert found is not None
    assert (found[0], found[1], bytes(found[2])) == (tensor_id, offset, data)


@given(st.binary(max_size=200))
def test_garbage_never_reads_differently_than_protobuf(message):
    found = parse_chunk(message)
    if found is None:
        return
    reply = inference_pb2.ForwardReply.FromString(message)
    # A number that is too long for its field is cut by protobuf; the fast path only has to agree on what a server can send.
    if found[0] < 2**32 and found[1] < 2**64:
        assert (reply.chunk.tensor_id, reply.chunk.offset, reply.chunk.data) == (found[0], found[1], bytes(found[2]))


@pytest.mark.parametrize("chunk_bytes", [1, 7, 16, 1000])
def test_tensors_arrive_whole(chunk_bytes):
    reply = read_reply(stream(TWO, chunk_bytes), empty)
    assert [header.name for header, _ in reply.tensors] == ["a", "b"]
    for header, array in reply.tensors:
        assert array.dtype == TWO[header.name].dtype
        np.testing.assert_array_equal(array, TWO[header.name])


MANY = {f"t{i}": np.arange(i % 5, dtype=np.float32) + i for i in range(300)} | {"scalar": np.array(2.5, np.float32)}


@pytest.mark.parametrize("per_pack", [1, 7, 1000])
def test_packed_tensors_arrive_whole(per_pack):
    messages = packed(MANY, per_pack)
    for message in messages[1:-1]:  # an empty `data` is not written by protobuf
        assert (parse_pack(message) is not None) == bool(inference_pb2.ForwardReply.FromString(message).pack.data)
    reply = read_reply(messages, empty)
    assert [header.name for header, _ in reply.tensors] == list(MANY)
    for header, array in reply.tensors:
        assert array.shape == MANY[header.name].shape
        np.testing.assert_array_equal(array, MANY[header.name])


def test_packs_and_chunks_in_one_reply():
    chunked, both = stream(TWO), packed(TWO, 1)
    for messages in (chunked[:5] + both[2:], both[:2] + chunked[5:]):  # a is 3 chunks of 16 bytes
        for header, array in read_reply(messages, empty).tensors:
            np.testing.assert_array_equal(array, TWO[header.name])


def test_a_pack_in_an_unusual_encoding_goes_through_protobuf():
    messages = packed(TWO)
    pack = inference_pb2.ForwardReply.FromString(messages[1]).pack
    # Two packs of one reply part merge, and data comes before the headers: legal protobuf.
    data_first = inference_pb2.ForwardReply(pack=tensor_pb2.TensorPack(data=pack.data)).SerializeToString()
    messages[1] = data_first + inference_pb2.ForwardReply(pack=tensor_pb2.TensorPack(headers=pack.headers)).SerializeToString()
    assert parse_pack(messages[1]) is None
    assert [array.tolist() for _, array in read_reply(messages, empty).tensors] == [array.tolist() for array in TWO.values()]


@given(st.data())
def test_a_damaged_pack_never_reads_differently_than_protobuf(data):
    message = bytearray(packed(TWO)[1])
    for _ in range(data.draw(st.integers(0, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    message = bytes(message[: data.draw(st.integers(0, len(message)))] if data.draw(st.booleans()) else message)
    found = parse_pack(message)
    if found is not None:
        reply = inference_pb2.ForwardReply.FromString(message)
        assert list(reply.pack.headers) == list(found[0])
        assert reply.pack.data == bytes(found[1])


def lying_pack(change) -> list[bytes]:
    messages = packed(TWO)
    reply = inference_pb2.ForwardReply.FromString(messages[1])
    change(reply.pack)
    messages[1] = reply.SerializeToString()
    return messages


def test_an_empty_tensor_and_a_scalar():
    arrays = {"none": np.empty((0, 3), np.float32), "one": np.array(2.5, np.float32)}
    reply = read_reply(stream(arrays), empty)
    assert [array.shape for _, array in reply.tensors] == [(0, 3), ()]
    assert reply.tensors[1][1] == 2.5


def test_a_chunk_in_an_unusual_encoding_goes_through_protobuf():
    data = np.float32(1.5).tobytes()
    inner = b"\x7a\x04" + data + b"\x08\x00"  # data first, then tensor_id: legal protobuf
    message = b"\x1a" + bytes([len(inner)]) + inner
    assert parse_chunk(message) is None
    messages = stream({"a": np.array([1.5], np.float32)})
    messages[2] = message
    assert read_reply(messages, empty).tensors[0][1].tolist() == [1.5]


def test_a_part_of_a_newer_server_is_passed_over():
    messages = stream(TWO)
    messages.insert(1, b"\xfa\x01\x02hi")  # field 31
    assert len(read_reply(messages, empty).tensors) == 2


def changed(header_change) -> list[bytes]:
    messages = stream(TWO)
    reply = inference_pb2.ForwardReply.FromString(messages[1])
    header_change(reply.tensor)
    messages[1] = reply.SerializeToString()
    return messages


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        (stream(TWO)[1:], "without its header"),
        (stream(TWO)[:-1], "or its summary"),
        (stream(TWO) + stream(TWO)[:1], "two header"),
        (stream(TWO, checksum=1), "checksum"),
        (stream(TWO, tensor_count=3), "2 tensors"),
        (stream(TWO, byte_count=1), "with 88 bytes"),
        (stream(TWO)[:3] + stream(TWO)[4:], "came when byte 16 was next"),  # one chunk is lost
        (stream(TWO)[:4] + stream(TWO)[3:], "came when byte 32 was next"),  # one comes twice
        (stream(TWO)[:-2] + stream(TWO)[-1:], "'b' of row 0 ended after 32 of 40"),
        (stream(TWO)[:2] + [chunk(7, 0, b"x")], "tensor 7"),
        (stream(TWO)[:2] + [chunk(0, 0, b"x" * 49)], "bytes 0 to 49"),
        (stream(TWO)[:2] + [chunk(0, 2**64 - 1, b"x")], "was next"),
        (stream(TWO)[:2] + stream(TWO)[1:], "id 0"),
        (changed(lambda h: setattr(h, "byte_size", 2**60)), "says it has 1152921504606846976 bytes"),
        (changed(lambda h: h.shape.append(2**40)), "says it has 48 bytes"),
        (changed(lambda h: h.shape.__setitem__(0, -3)), "[-3, 4]"),
        (changed(lambda h: setattr(h, "dtype", 99)), "dtype 99"),
        ([b"\xff\xff\xff"], "not a ForwardReply"),
        (packed(TWO, checksum=1), "checksum"),
        (packed(TWO, 1)[:2] + packed(TWO, 1)[1:], "id 0"),
        (packed(TWO)[:2] + [chunk(0, 0, b"x")], "when byte 48 was next"),
        (lying_pack(lambda p: setattr(p, "data", p.data[:-1])), "has 87 bytes; its headers say 88"),
        (lying_pack(lambda p: setattr(p, "data", p.data + b"x")), "has 89 bytes; its headers say 88"),
        (lying_pack(lambda p: setattr(p.headers[1], "byte_size", 2**60)), "a pack of 2 tensors has 88 bytes"),
        (lying_pack(lambda p: p.headers[0].shape.append(2**40)), "says it has 48 bytes"),
        (lying_pack(lambda p: setattr(p.headers[1], "id", 0)), "id 0"),
        (lying_pack(lambda p: p.ClearField("headers")), "a pack of 0 tensors has 88 bytes"),
        (lying_pack(lambda p: setattr(p, "data", b"x" + p.data[1:])), "checksum"),
        (packed(TWO)[:1] + [packed(TWO)[1][:-1]], "not a ForwardReply"),
    ],
)
def test_a_reply_that_does_not_fit_is_refused(messages, why):
    with pytest.raises(DataLossError) as caught:
        read_reply(messages, empty)
    assert why in str(caught.value)


def test_sizes_are_compared_before_memory_is_allocated():
    allocated = []

    def allocate(header, dtype, shape):
        allocated.append(shape)
        return np.empty(shape, dtype)

    with pytest.raises(DataLossError):
        read_reply(changed(lambda h: h.shape.append(2**40)), allocate)
    assert allocated == []


def test_bf16_widens_exactly():
    values = np.array([0.0, -0.0, 1.0, -2.5, 3.140625, np.inf, -np.inf, 2.0**-133], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(widen_bf16(bits).view(np.uint32), values.view(np.uint32))
