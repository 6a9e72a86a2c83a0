"""`fluoroscope generate` against the real server."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from .conftest import CLI, run_cli
from .test_cli import on_a_terminal

STORY = "Once upon a time"


def ok(done: subprocess.CompletedProcess) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def greedy(target) -> dict:
    return json.loads(ok(run_cli("generate", "smollm2-135m", STORY, "--max-new-tokens", "12", "--json", "--top-logprobs", "2", target=target)))


def test_as_json(greedy):
    (one,) = greedy["continuations"]
    assert greedy["prompt"] == STORY and [token["token"] for token in greedy["tokens"]] == ["Once", " upon", " a", " time"]
    assert one["text"] == "".join(token["token"] for token in one["tokens"]) and len(one["tokens"]) == 12
    assert one["finish_reason"] == "length"
    for token in one["tokens"]:
        assert token["top"][0]["id"] == token["id"] and token["top"][0]["log_probability"] == token["log_probability"] < 0
    assert len(greedy["provenance"]["plan_sha256"]) == 64


def test_the_text_goes_to_the_terminal(cli, greedy):
    assert ok(cli("generate", "smollm2-135m", STORY, "--max-new-tokens", "12")) == STORY + greedy["continuations"][0]["text"] + "\n"
    assert ok(cli("generate", "smollm2-135m", "-", "--max-new-tokens", "12", stdin=STORY)).startswith(STORY)


def test_what_was_reused_is_said(cli):
    """A prompt of several blocks: its beginning is there from the first call, unless the second is isolated. The numbers stay within rounding."""
    prompt = "The quick brown fox jumps over the lazy dog and runs away. " * 5

    def reply(*options: str) -> dict:
        return json.loads(ok(cli("generate", "smollm2-135m", prompt, "--max-new-tokens", "3", "--json", "--principal", "reuse", *options)))

    first, second, isolated = reply(), reply(), reply("--isolated")
    assert first["reused_tokens"] == isolated["reused_tokens"] == 0 < second["reused_tokens"] < len(second["tokens"])
    assert first["continuations"][0]["text"] == second["continuations"][0]["text"] == isolated["continuations"][0]["text"]
    assert isolated["provenance"]["isolated"] and not second["provenance"]["isolated"]
    assert reply("--isolated")["continuations"] == isolated["continuations"], "bit for bit"


def test_on_a_terminal_the_costs_stand_below_the_text(target):
    text = on_a_terminal(["--target", target, "generate", "smollm2-135m", STORY, "--max-new-tokens", "2"], NO_COLOR="", TERM="xterm")
    assert "0 of 4 prompt tokens reused from an earlier call" in text.splitlines()[-1]


def test_it_streams(target):
    """The first words are there long before a text of two thousand tokens is."""
    command = [CLI, "--target", target, "--timeout", "0", "generate", "smollm2-135m", STORY, "--max-new-tokens", "2000", "--ignore-eos"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    text = os.read(process.stdout.fileno(), len(STORY) + 1).decode()
    assert process.poll() is None, "it goes on"
    process.kill()
    process.wait()
    assert text.startswith(STORY[: len(text)])


def test_sampling(cli):
    def texts(*options: str) -> list[str]:
        reply = json.loads(ok(cli("generate", "smollm2-135m", STORY, "--max-new-tokens", "8", "--temperature", "1.2", "--json", *options)))
        return [one["text"] for one in reply["continuations"]]

    assert texts("--seed", "7", "--samples", "3") == texts("--seed", "7", "--samples", "3")
    assert len(set(texts("--seed", "7", "--samples", "3"))) == 3
    assert texts("--seed", "7", "--top-k", "1") == texts("--seed", "8", "--top-p", "0.0000001") == texts("--seed", "9", "--min-p", "1")
    lines = ok(cli("generate", "smollm2-135m", STORY, "--max-new-tokens", "4", "--temperature", "1", "--samples", "2", "--seed", "1"))
    assert lines.startswith("sample 0\n" + STORY) and "sample 1\n" + STORY in lines


def test_stop(cli, greedy):
    whole = greedy["continuations"][0]["text"]
    word = whole[8:14]
    assert ok(cli("generate", "smollm2-135m", STORY, "--max-new-tokens", "12", "--stop", word, "--stop", "zzz")) == STORY + whole[: whole.index(word)] + "\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["--max-new-tokens", "9000"], "8192"),
        (["--temperature", "-1"], "sampling.temperature is -1"),
        (["--top-p", "1.5"], "sampling.top_p is 1.5"),
        (["--stop", ""], "stop[0] is empty"),
    ],
)
def test_what_the_server_refuses_is_said_in_its_words(cli, options, words):
    done = cli("generate", "smollm2-135m", STORY, *options)
    assert done.returncode == 1 and done.stdout == ""
    assert words in done.stderr and "INVALID_ARGUMENT" in done.stderr


def test_wrong_usage():
    for arguments, word in [(["generate", "m"], "PROMPT is required"), (["generate", "m", "p", "--seed", "x"], "--seed"), (["generate", "m", "p", "--samples", "0"], "--samples")]:
        done = run_cli(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert word in done.stderr
