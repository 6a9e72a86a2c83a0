"""Sixteen clients at once, for a minute: every answer is right, and nothing is left behind."""

from __future__ import annotations

from .soak import soak


def test_a_mixed_load_is_answered_and_leaves_nothing_behind(tiny, tmp_path):
    report = soak(tmp_path, {"tiny": tiny}, seconds=60, clients=16, seed=1)
    assert not report.wrong, report.text()
    assert not any(report.left.values()), report.text()
    assert {"ask: ok", "cancel: ok", "mistake: ok", "read_slowly: ok", "keep: ok"} <= report.calls.keys(), report.text()
    assert report.calls["ask: ok"] > 100 and report.merged > 20, report.text()
    assert report.leaked() < 64, report.text()  # bytes for a call; in so short a run the server's own tables still grow. scripts/soak allows less
