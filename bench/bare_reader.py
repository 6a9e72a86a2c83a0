"""bare_reader.py TARGET [copied|keep]: reads two streams of bench_bare_server and prints the seconds, bytes and processor seconds of each.

Without more the messages are dropped. `copied`: their bytes go into one fresh array and are hashed. `keep`: dropped, but glibc keeps freed memory.
"""

from __future__ import annotations

import sys
import time

import grpc
import numpy as np
import xxhash

FORWARD = "/fluoroscope.v1.Inference/Forward"
MOST = 300 << 20


def main() -> None:
    target, mode = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    if mode == "keep":
        np.empty(31 << 20, np.uint8)  # see fluoroscope/memory.py
    with grpc.insecure_channel(target) as channel:
        for _ in range(2):
            messages = channel.unary_stream(FORWARD)(b"distinct" if mode == "copied" else b"")  # see bare_server.cc
            first = next(messages)
            start, start_processor = time.perf_counter(), time.process_time()
            size = copied(first, messages) if mode == "copied" else len(first) + sum(len(message) for message in messages)
            print(f"{time.perf_counter() - start:.6f} {size} {time.process_time() - start_processor:.6f}")


def copied(first: bytes, messages: grpc.CallIterator[bytes]) -> int:
    array, checksum, at = np.empty(MOST, np.uint8), xxhash.xxh3_64(), 0
    to = memoryview(array)
    message: bytes | None = first
    while message is not None:
        to[at : at + len(message)] = message
        checksum.update(message)
        at += len(message)
        message = next(messages, None)
    return at


if __name__ == "__main__":
    main()
