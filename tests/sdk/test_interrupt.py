"""Ctrl-C in a notebook: one press ends the call, and neither the server nor the connection."""

import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest
from fluoroscope.interrupt import CtrlC

NOTEBOOK = """
import sys, fluoroscope as fs
with fs.serve(sys.argv[1]) as client:
    model = client.model("smollm2-135m")
    ids = [list(range(100, 1100))] * 64
    for _ in range(int(sys.argv[2])):
        try:
            print("running", flush=True)
            model.run_with_cache(ids, (), logits="last")
            print("finished", flush=True)
        except KeyboardInterrupt:
            print("interrupted", model.top_tokens("The capital of France is", k=1)[0].token, flush=True)
"""


def test_one_press_ends_the_call_and_not_the_server(smollm2_path):
    waits = [0, 0.01, 0.05, 0.3, 1]  # seconds from before the request exists to well within the run
    owner = subprocess.Popen(
        [sys.executable, "-c", NOTEBOOK, smollm2_path, str(len(waits))], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for wait in waits:
        assert owner.stdout.readline() == "running\n"
        time.sleep(wait)
        os.killpg(owner.pid, signal.SIGINT)
        # The 64,000 tokens would take minutes: they were cancelled, and the connection answers the next question.
        assert select.select([owner.stdout], [], [], 60)[0], f"nothing happened within a minute of a press after {wait} s"
        assert owner.stdout.readline() == "interrupted  Paris\n"
    assert owner.wait(30) == 0
    assert owner.stderr.read() == ""


class Call:
    def __init__(self):
        self.cancelled = 0

    def cancel(self):
        self.cancelled += 1


def press():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0)  # Python looks for signals


def test_a_press_cancels_at_once_and_is_raised_where_the_block_ends():
    call, reached = Call(), []
    with pytest.raises(KeyboardInterrupt), (ctrl_c := CtrlC()):
        ctrl_c.watch(call)
        press()
        reached.append(call.cancelled)
        raise RuntimeError("the call was cancelled")  # what gRPC makes of it
    assert reached == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_press_in_a_finalizer_is_not_lost():
    class Finalized:
        def __del__(self):
            press()

    call = Call()
    with pytest.raises(KeyboardInterrupt), (ctrl_c := CtrlC()):
        ctrl_c.watch(call)
        Finalized()
    assert call.cancelled == 1


def test_a_press_while_the_call_is_being_started():
    call, reached = Call(), []
    with pytest.raises(KeyboardInterrupt), (ctrl_c := CtrlC()):
        press()
        reached.append(call.cancelled)
        ctrl_c.watch(call)
    assert (reached, call.cancelled) == ([0], 1)


def test_a_second_press_does_not_wait_for_the_call():
    call, reached = Call(), []
    with pytest.raises(KeyboardInterrupt), (ctrl_c := CtrlC()):
        ctrl_c.watch(call)
        press()
        reached.append("after the first")
        press()
        reached.append("after the second")
    assert reached == ["after the first"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_between_two_blocks_a_press_is_pythons_own():
    call, ctrl_c = Call(), CtrlC()
    with ctrl_c:
        ctrl_c.watch(call)
    with pytest.raises(KeyboardInterrupt):
        press()
    assert call.cancelled == 0
    with ctrl_c:  # nothing lingers
        pass


def test_another_meaning_of_ctrl_c_is_left_alone():
    pressed = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        call = Call()
        with (ctrl_c := CtrlC()):
            ctrl_c.watch(call)
            press()
        assert (pressed, call.cancelled) == ([signal.SIGINT], 0)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_signals_alone():
    seen = []

    def elsewhere():
        with CtrlC():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
