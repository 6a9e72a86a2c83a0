"""The `fluoroscope` command line against the real server: values, tables, exit codes, errors that teach."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import subprocess

import pytest

from .conftest import CLI, run_cli

FRANCE = "The capital of France is"


def ok(done: subprocess.CompletedProcess) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_models_lists_what_the_server_holds(cli):
    title, row = ok(cli("models")).splitlines()
    assert title.split() == "MODEL STATE FAMILY LAYERS D_MODEL HEADS KV_HEADS VOCABULARY CONTEXT PARAMETERS WEIGHTS DTYPE DEVICE".split()
    assert row.split() == "smollm2-135m loaded llama 30 576 9 3 49152 8192 134.5M 513.1 MiB f32 cpu".split()
    assert title.index("DTYPE") == row.index("f32")  # aligned


def test_models_as_json(cli):
    (model,) = json.loads(ok(cli("models", "--json")))["models"]
    assert (model["name"], model["layers"], model["kv_heads"], model["parameters"]) == ("smollm2-135m", 30, 3, 134515008)
    assert model["default_bos"] is False
    assert len(model["weights_sha256"]) == 64


def test_hooks_shows_every_site_with_its_equation(cli):
    lines = ok(cli("hooks", "smollm2-135m")).splitlines()
    table = {line.split()[0]: line for line in lines if line.startswith(("blocks", "hook_", "ln_final"))}
    assert "[pos, d_model=576]" in table["blocks.{l}.hook_resid_pre"]
    assert "[pos, kv_head=3, d_head=64]" in table["blocks.{l}.attn.hook_k"]
    assert "attn.hook_pattern @ attn.hook_v" in table["blocks.{l}.attn.hook_z"]
    assert "read, edit, gradient  " in table["blocks.{l}.attn.hook_z"] and "read  " in table["blocks.{l}.hook_attn_in"]
    assert lines.index(table["hook_pos_embed"]) > lines.index("NOT IN THIS MODEL  BECAUSE")
    assert "0 to 29" in lines[-1]


def test_hooks_as_json(cli):
    reply = json.loads(ok(cli("hooks", "smollm2-135m", "--json")))
    sites = {site["name"]: site for site in reply["sites"]}
    assert (reply["model"], reply["layers"]) == ("smollm2-135m", 30)
    pattern = sites["blocks.{l}.attn.hook_pattern"]
    assert pattern["has_gradient"] and not sites["blocks.{l}.hook_q_input"]["has_gradient"] and not sites["hook_pos_embed"]["has_gradient"]
    assert (pattern["axes"], pattern["shape"], pattern["unavailable_because"]) == (["head", "query", "key"], [9, -1, -1], None)
    assert "position" in sites["hook_pos_embed"]["unavailable_because"]


def test_run_knows_the_capital_of_france(cli):
    lines = ok(cli("run", "smollm2-135m", FRANCE, "--top", "5")).splitlines()
    assert lines[0] == '5 tokens  "The" " capital" " of" " France" " is"'
    assert lines[2].split() == ["NEXT", "TOKEN", "ID", "PROBABILITY", "LOGIT"]
    tokens = [line.rsplit(maxsplit=3) for line in lines[3:8]]
    token, number, probability, _ = tokens[0]
    assert (token, number) == ('" Paris"', "7042")
    assert float(probability) == pytest.approx(0.7725, abs=2e-4)
    probabilities = [float(row[2]) for row in tokens]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) < 1
    assert "\x1b" not in "".join(lines)  # no colours in a pipe


def test_run_as_json(cli):
    reply = json.loads(ok(cli("--json", "run", "smollm2-135m", FRANCE, "--top", "3")))
    best = reply["top"][0]
    assert (best["token"], best["id"], len(reply["top"])) == (" Paris", 7042, 3)
    assert best["probability"] == pytest.approx(0.77253, abs=5e-5)
    assert best["log_probability"] == pytest.approx(-0.25808, abs=5e-5)
    assert best["logit"] == pytest.approx(17.3713, abs=5e-4)
    assert [token["token"] for token in reply["tokens"]] == ["The", " capital", " of", " France", " is"]
    assert [token["id"] for token in reply["tokens"]] == [504, 3575, 282, 4649, 314]
    assert reply["bos_added"] is False
    assert reply["provenance"]["model"] == "smollm2-135m" and len(reply["provenance"]["plan_sha256"]) == 64


def test_the_prompt_may_come_from_standard_input(cli):
    piped = json.loads(ok(cli("run", "smollm2-135m", "-", "--json", stdin=FRANCE)))
    assert piped["prompt"] == FRANCE
    assert piped["top"][0]["token"] == " Paris"


def test_bos_and_special_tokens(cli):
    def tokens(*options: str, prompt: str = "<|im_start|>hi") -> tuple[list[str], bool]:
        reply = json.loads(ok(cli("run", "smollm2-135m", prompt, "--json", *options)))
        return [token["token"] for token in reply["tokens"]], reply["bos_added"]

    assert tokens("--bos", "always", prompt="hi") == (["<|im_start|>", "hi"], True)
    assert tokens("--bos", "never", prompt="hi") == (["hi"], False)
    assert tokens("--parse-special-tokens") == (["<|im_start|>", "hi"], False)
    plain, _ = tokens()
    assert "".join(plain) == "<|im_start|>hi" and len(plain) > 3


def test_tokens_of_all_scripts_line_up(cli):
    lines = ok(cli("run", "smollm2-135m", "日本 é 🙂", "--top", "8")).splitlines()
    assert "🙂" in lines[0]
    assert len(lines) == 3 + 8 + 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "smollm2-135m", ""], ["empty", "INVALID_ARGUMENT"]),
        (["run", "nope", "x"], ["nope", "smollm2-135m", "NOT_FOUND"]),
        (["hooks", "nope"], ["nope", "smollm2-135m", "NOT_FOUND"]),
        (["run", "smollm2-135m", "x", "--top", "999999"], ["999999", "49152", "INVALID_ARGUMENT"]),
        (["run", "smollm2-135m", "word " * 9000], ["8192", "INVALID_ARGUMENT"]),
    ],
)
def test_what_the_server_refuses_is_said_in_its_words(cli, arguments, words):
    done = cli(*arguments)
    assert done.returncode == 1 and done.stdout == ""
    for word in words:
        assert word in done.stderr


def test_a_prompt_that_is_no_text(cli):
    done = cli("run", "smollm2-135m", "-", stdin=b"caf\xe9")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "fluoroscope: the prompt is not UTF-8 text (INVALID_ARGUMENT)\n"


def test_a_request_over_the_receive_limit(cli):
    """gRPC's own words are two numbers; the C++ client says what they mean and what to do."""
    for command in ("run", "generate", "lens"):
        done = cli(command, "smollm2-135m", "-", stdin="x" * (5 << 20))
        assert (done.returncode, done.stdout) == (1, "")
        for words in ("the request has 52429", "bytes (5.0 MiB)", "at most 4194304 (4.0 MiB)", "Handles.Put", "limits.max_receive_mib", "RESOURCE_EXHAUSTED"):
            assert words in done.stderr


def test_a_deadline(cli):
    done = cli("run", "smollm2-135m", "word " * 2000, "--timeout", "0.01")
    assert done.returncode == 1
    assert "DEADLINE_EXCEEDED" in done.stderr and "--timeout SECONDS" in done.stderr


def test_no_server_says_how_to_start_one():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        done = run_cli("--target", address, "models")
    assert (done.returncode, done.stdout) == (3, "")
    assert f"no server answers at {address}" in done.stderr
    assert "fluoroscope-server --model NAME=DIRECTORY" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "Usage:"),
        (["nonsense"], "nonsense"),
        (["run"], "MODEL is required"),
        (["run", "m"], "PROMPT is required"),
        (["run", "m", "p", "--top", "0"], "--top"),
        (["run", "m", "p", "--top", "many"], "--top"),
        (["run", "m", "p", "--bos", "often"], "{default,always,never}"),
        (["models", "--timeout", "-1"], "--timeout"),
        (["models", "extra"], "extra"),
    ],
)
def test_wrong_usage(arguments, word):
    done = run_cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert word in done.stderr


def test_help_and_version():
    text = ok(run_cli("--help"))
    for word in ("models", "hooks", "run", "--target", "FLUOROSCOPE_TARGET", "--timeout", "--json", "Exit codes", "Examples"):
        assert word in text
    assert "--bos" in ok(run_cli("run", "--help"))
    assert ok(run_cli("--version")).startswith("fluoroscope 0.")


def on_a_terminal(arguments: list[str], **environment: str) -> str:
    master, slave = pty.openpty()
    process = subprocess.Popen([CLI, *arguments], stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, env=os.environ | environment)
    os.close(slave)
    output = b""
    try:
        while part := os.read(master, 4096):
            output += part
    except OSError:
        pass  # how Linux says that the other end is closed
    os.close(master)
    assert process.wait(timeout=60) == 0
    return output.decode()


def test_colours_only_on_a_terminal_and_when_wanted(target):
    assert "\x1b[1mMODEL" in on_a_terminal(["--target", target, "models"], NO_COLOR="")
    assert "\x1b" not in on_a_terminal(["--target", target, "models"], NO_COLOR="1")


def test_output_that_cannot_be_written_is_a_failure(target):
    with open("/dev/full", "w") as full:
        for command in (["models"], ["hooks", "smollm2-135m", "--json"]):
            done = subprocess.run([CLI, "--target", target, *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
            assert done.returncode == 1
            assert "No space left on device" in done.stderr


def test_a_reader_that_goes_away_is_no_crash(target):
    process = subprocess.Popen([CLI, "--target", target, "hooks", "smollm2-135m"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    error = process.stderr.read().decode()
    assert process.wait(timeout=60) in (1, -13)  # SIGPIPE, where it is not ignored
    assert "terminate" not in error


def test_top_says_what_the_server_does(cli):
    lines = ok(cli("top", "--once")).splitlines()
    assert lines[0].startswith("0 running, 0 waiting, of 0 callers; 0 B of ") and lines[0].endswith("admitted")
    assert "requests a second, device" in lines[1]
    assert lines[2].split() == "CALLER STATE PRIORITY AGE MEMORY GFLOP".split()


def test_top_as_json(cli):
    status = json.loads(ok(cli("top", "--json")))
    assert status["works"] == [] and status["admitted_bytes"] == 0 < status["budget_bytes"]
    assert 0 < status["busy_seconds"] <= status["uptime_seconds"]


def test_a_batch_call_is_answered(cli):
    batch, interactive = (ok(cli("run", "smollm2-135m", FRANCE, "--top", "1", *more)).splitlines() for more in (["--batch"], []))
    assert batch[:-1] == interactive[:-1]  # the last line has times


@pytest.mark.parametrize("name", ["fluoroscope", "example_patch"])
def test_the_client_needs_no_torch(name):
    libraries = ok(subprocess.run(["ldd", CLI.parent / name], capture_output=True, text=True, timeout=30))
    assert "libgrpc++" in libraries and "not found" not in libraries
    assert not re.search(r"torch|libc10|gomp|mkl", libraries), libraries
