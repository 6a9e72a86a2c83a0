"""256 MiB of activations to a C++ and a Python client, beside a bare gRPC stream of the same language.

The run is finished before the clock starts (the server holds its results in a large buffer), so that only the transport is timed.

The bare streams send one cached slice again and again, and their readers drop the bytes. Nobody who wants the values can do that: they lie in different
memory, somebody must hash them, put them somewhere and check them. So a second bare pair does the least that is needed for that (one hash; one copy into one
fresh array, one hash), to tell our share of the time from the machine's. Right before each reader's first clock starts, other memory is touched and freed: see machine.touch_memory.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from fluoroscope._proto.v1 import inference_pb2, plan_pb2
from fluoroscope.assemble import Assembler
from fluoroscope.wire import read_reply

import machine
from forward import serve
from process import metric
from report import Row

FORWARD = "/fluoroscope.v1.Inference/Forward"
MIB = 2**20


def request() -> inference_pb2.ForwardRequest:
    """Many bytes for little computation: what the heads of layer 0 read, 24 × 576 numbers a token."""
    capture = plan_pb2.Capture(select=plan_pb2.Selection(sites=[f"blocks.0.hook_{site}" for site in ("attn_in", "q_input", "k_input", "v_input")]))
    prompts = [plan_pb2.Prompt(tokens=plan_pb2.TokenIds(ids=[(7 * i + j) % 40000 for j in range(128)])) for i in range(38)]
    return inference_pb2.ForwardRequest(model="smollm2-135m", prompts=prompts, captures=[capture])


def measure(directory: Path, build: Path, rounds: int) -> list[Row]:
    memory = machine.fresh_memory()
    bare = subprocess.Popen([build / "bin/bench_bare_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    target = f"127.0.0.1:{bare.stdout.readline().strip()}"
    with serve(directory, sink_mib=1024) as client, tempfile.NamedTemporaryFile() as file:
        message = request()
        file.write(message.SerializeToString())
        file.flush()
        try:
            streams: dict[str, list[Stream]] = {}
            for _ in range(rounds + 1):
                for name, (first, further) in {
                    "C++ bare": _cpp(build, target, client, ["bare"]),
                    "C++ keep": _cpp(build, target, client, ["keep"]),
                    "C++ copied": _cpp(build, target, client, ["copied"]),
                    "C++ ours": _cpp(build, client.target, client, ["tensors", file.name]),
                    "Python bare": _python_bare(target),
                    "Python copied": _python_bare(target, "copied"),
                    "Python keep": _python_bare(target, "keep"),
                    "Python ours": _python_ours(client, message),
                }.items():
                    streams.setdefault(f"{name}, first", []).append(first)
                    streams.setdefault(name, []).append(further)
        finally:
            bare.stdin.close()
            bare.wait()
    median = {name: Stream(*(statistics.median(getattr(stream, field) for stream in values[1:]) for field in ("speed", "processor", "server")))
              for name, values in streams.items()}
    return [_row(median, "C++", "a C++ client, first reply of its process", ", first", f" Both fill fresh memory here: {memory}."),
            _row(median, "C++", "a C++ client, further replies", ""),
            _row(median, "Python", "the Python SDK", "")]


@dataclass
class Stream:
    speed: float  # MiB/s
    processor: float  # seconds that the client's process used
    server: float = 0.0  # and ours, where it is the server


def _row(median: dict[str, Stream], language: str, client: str, which: str, more: str = "") -> Row:
    """`which` streams of their process: ", first", or "" for further ones. The bare stream is the faster of the two, so that it is nobody's cold start."""
    ours, copied = median[f"{language} ours{which}"], median[f"{language} copied{which}"]
    bare = max((median[f"{language} bare"], median[f"{language} bare, first"]), key=lambda stream: stream.speed)
    keep = max(median[f"{language} keep"].speed, median[f"{language} keep, first"].speed)
    why = (f"the bare stream is one cached slice, and its reader drops the bytes. A bare pair that sends 256 MiB of different memory, hashed once on each side and "
           f"copied once into a fresh array, reaches {copied.speed:.0f} MiB/s, {copied.speed / bare.speed:.2f} × bare; ours is {ours.speed / copied.speed:.2f} × as "
           f"fast as that pair. Processor time of the client's process: {1e3 * bare.processor:.0f} ms bare, {1e3 * copied.processor:.0f} ms with copy and hash, "
           f"{1e3 * ours.processor:.0f} ms ours, and {1e3 * ours.server:.0f} ms of the server's, which reads all of it once to hash and once to send; the goal leaves "
           f"{1e3 * 256 / (0.8 * bare.speed):.0f} ms on both cores.{more}")
    return Row(f"256 MiB of activations to {client}, checksums verified",
               f"bare {language} gRPC stream {bare.speed:.0f} MiB/s; with glibc told to keep freed memory, as our clients do, {keep:.0f}; bare and copied and hashed "
               f"{copied.speed:.0f}",
               f"{ours.speed:.0f} MiB/s", ours.speed / bare.speed, f"× bare; {ours.speed / keep:.2f} × bare with freed memory kept", "≥ 0.8",
               ours.speed >= 0.8 * bare.speed, why)


def _captured(client: object) -> float:
    return metric(client, "fluoroscope_captured_bytes_total")


def _wait_until_run(client: object, before: float) -> None:
    """Until the run has ended (it is counted then): every result lies in the server's buffer."""
    while _captured(client) == before:
        time.sleep(0.02)


def _stream(line: str) -> Stream:
    seconds, size, processor = line.split()
    return Stream(int(size) / MIB / float(seconds), float(processor))


def _cpp(build: Path, target: str, client: object, mode: list[str]) -> tuple[Stream, Stream]:
    """The first and the second reply of one process."""
    reader = subprocess.Popen([build / "bin/bench_stream_reader", target, *mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    streams = []
    for _ in range(2):
        before = _captured(client)
        reader.stdout.readline()
        if mode[0] == "tensors":
            _wait_until_run(client, before)
        if not streams:
            machine.touch_memory()
        server = metric(client, "process_cpu_seconds_total")
        reader.stdin.write("\n")
        stream = _stream(reader.stdout.readline())
        stream.server = metric(client, "process_cpu_seconds_total") - server
        streams.append(stream)
    reader.communicate()
    return streams[0], streams[1]


def _python_bare(target: str, *mode: str) -> tuple[Stream, Stream]:
    """The first and the second stream of one process, which has not imported this package: it changes how glibc keeps memory."""
    script = Path(__file__).with_name("bare_reader.py")
    machine.touch_memory()
    lines = subprocess.run([sys.executable, script, target, *mode], capture_output=True, text=True, check=True).stdout.splitlines()
    return _stream(lines[0]), _stream(lines[1])


def _python_ours(client: object, message: inference_pb2.ForwardRequest) -> tuple[Stream, Stream]:
    return _python_reply(client, message), _python_reply(client, message)


def _python_reply(client: object, message: inference_pb2.ForwardRequest) -> Stream:
    assembler = Assembler(len(message.prompts))
    before = _captured(client)
    messages = client.stream(FORWARD, message)  # type: ignore[attr-defined]
    first = next(messages)
    _wait_until_run(client, before)
    start, start_processor = time.perf_counter(), time.process_time()

    def again():  # the stream with its first message back in front
        yield first
        yield from messages

    reply = read_reply(again(), assembler.allocate)
    return Stream(reply.summary.byte_count / MIB / (time.perf_counter() - start), time.process_time() - start_processor)
