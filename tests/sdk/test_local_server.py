"""fs.serve: a server of one's own, that never outlives its owner."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fluoroscope as fs
import numpy as np
import pytest
from fluoroscope import local_server


def gone(pid: int, within: float = 20) -> bool:
    """Whether the process ends within some seconds."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True  # ended; whoever adopted it has not looked yet
        time.sleep(0.02)
    return False


def test_it_ends_with_the_client(smollm2_path):
    with fs.serve(smollm2_path) as client:
        server = client.server
        assert server.running and client.target == server.grpc_address
        assert client.model("smollm2-135m").top_tokens("The capital of France is", k=1)[0].token == " Paris"
        assert "serving" in server.log_tail()
        scratch = server.log_path.parent
    assert not server.running and gone(server.pid)
    assert not scratch.exists()
    client.close()  # again


def test_a_bf16_model_arrives_as_float32_or_as_it_is(smollm2_path, tmp_path):
    config = tmp_path / "server.textproto"
    config.write_text(f'models {{ name: "half" path: "{smollm2_path}" dtype: "bf16" }}')
    with fs.serve(smollm2_path, arguments=[f"--config={config}"]) as client:
        assert sorted(info.name for info in client.models()) == ["half", "smollm2-135m"]
        half, full = client.model("half"), client.model("smollm2-135m")
        assert (half.info.dtype, half.info.weight_bytes * 2) == ("bf16", full.info.weight_bytes)
        prompt = "The capital of France is"
        _, expected = full.run_with_cache(prompt, "blocks.0.hook_resid_post", logits=None)
        _, widened = half.run_with_cache(prompt, "blocks.0.hook_resid_post", logits=None)
        a, b = widened["resid_post", 0], expected["resid_post", 0]
        assert a.dtype == np.float32 and not (a.view(np.uint32) & 0xFFFF).any()
        assert (np.linalg.norm(a - b, axis=-1) / np.linalg.norm(b, axis=-1)).max() < 0.03
        _, kept = half.run_with_cache(prompt, "blocks.0.hook_resid_post", logits=None, bfloat16="ml_dtypes")
        assert kept["resid_post", 0].dtype.name == "bfloat16"
        assert np.linalg.norm(kept["resid_post", 0].astype(np.float32) - a) <= 0.02 * np.linalg.norm(a)
        assert half.top_tokens(prompt, k=1)[0].token == " Paris"


def test_it_may_be_started_in_a_thread_that_ends(smollm2_path):
    clients = []
    thread = threading.Thread(target=lambda: clients.append(fs.serve(smollm2_path)))
    thread.start()
    thread.join()
    with clients[0] as client:
        time.sleep(0.2)
        assert client.server.running and client.models()


OWNER = """
import sys, time, fluoroscope as fs
client = fs.serve(sys.argv[1])
print(client.server.pid, flush=True)
{then}
"""


@pytest.mark.parametrize(
    ("then", "how"),
    [("time.sleep(60)", signal.SIGKILL), ("time.sleep(60)", signal.SIGTERM), ("sys.exit(3)", None), ("raise RuntimeError", None)],
)
def test_it_never_outlives_its_owner(smollm2_path, then, how):
    owner = subprocess.Popen([sys.executable, "-c", OWNER.format(then=then), smollm2_path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    pid = int(owner.stdout.readline())
    if how is not None:
        owner.send_signal(how)
    owner.wait(20)
    assert gone(pid)


def test_a_server_that_cannot_start_says_why(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(fs.ServerStartError) as caught:
        fs.serve({"broken": tmp_path})
    assert "ended with status" in str(caught.value) and "broken" in str(caught.value)
    with pytest.raises(fs.ServerStartError, match=r"no config\.json"):
        fs.serve({"x": tmp_path / "nowhere"})
    with pytest.raises(fs.ServerStartError, match=r"python -m fluoroscope\.fetch no-such-model"):
        fs.serve("no-such-model")
    monkeypatch.setenv("FLUOROSCOPE_SERVER", str(tmp_path / "no-server"))
    with pytest.raises(fs.ServerStartError, match=r"FLUOROSCOPE_SERVER is"):
        local_server.find_binary()


def test_a_server_that_hangs_is_ended(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    script = tmp_path / "hang"
    script.write_text("#!/bin/sh\necho $$ > " + str(tmp_path / "pid") + "\necho still loading\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setenv("FLUOROSCOPE_SERVER", str(script))
    with pytest.raises(fs.ServerStartError, match=r"(?s)did not say which ports.*still loading"):
        fs.serve({"x": tmp_path}, timeout=1)
    assert gone(int((tmp_path / "pid").read_text()))
