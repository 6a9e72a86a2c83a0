"""Every step of a generation against whole forward passes: the slow reference, and the server's own Forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fluoroscope import wire

from .checkpoints import SPECS
from .compare import ALONE, TINY, assert_close
from .generating import GENERATED, IDS, SHORT, TOKENS, at, generate
from .reference import trace
from .serving import ALL_LOGITS, Server, capture


@pytest.mark.parametrize("name", SPECS)
def test_every_step_is_the_whole_forward(server, weights, name):
    """Each site of each generated token, and the log-probabilities, as one Forward over the whole sequence has them."""
    got = generate(server, name, [IDS, SHORT], TOKENS, captures=[capture("*")], top_logprobs=100, ignore_eos=True)
    for row, prompt in enumerate((IDS, SHORT)):
        ids = prompt + got.ids(row)
        assert len(ids) == len(prompt) + TOKENS
        whole = server.forward(name, [ids], captures=[capture("*")], logits=ALL_LOGITS)
        logs = torch.tensor(whole.get("logits")).log_softmax(-1)
        reference = trace(weights(name), ids).logits.log_softmax(-1)
        for token in got.tokens[row, 0]:
            here = len(prompt) + token.index - 1
            assert token.id == int(logs[here].argmax())
            for expected in (logs, reference):
                assert abs(token.logprob - float(expected[here, token.id])) <= TINY
            assert [t.logprob for t in token.top] == pytest.approx(logs[here].topk(100).values.tolist(), abs=TINY)
            assert {t.id for t in token.top[:5]} == set(logs[here].topk(5).indices.tolist())
        for position in range(len(prompt), len(ids) - 1):
            for site, value in whole.sites().items():
                own = got.of_token(site, position, row)
                if site.endswith(("attn_scores", "pattern")):
                    expected = value[:, position : position + 1, : position + 1]
                else:
                    expected = value[position : position + 1]
                assert_close(own, expected, TINY, f"{name} {site} at {position} of row {row}")
    assert got.summary.tokens == len(IDS) + len(SHORT) + 2 * (TOKENS - 1)


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two", "mqa-head20", "rope-bands-new"])
def test_alone_equals_in_a_batch(server, name):
    rows = [IDS, SHORT, IDS[:3], [299, 298, 1, 4] * 5]
    options = dict(captures=[at(capture("blocks.*.hook_resid_post"), GENERATED)], top_logprobs=5, ignore_eos=True)
    together = generate(server, name, rows, TOKENS, **options)
    for row, prompt in enumerate(rows):
        alone = generate(server, name, [prompt], TOKENS, **options)
        assert together.ids(row) == alone.ids()
        for a, b in zip(together.tokens[row, 0], alone.tokens[0, 0], strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=ALONE)
        for header, array in alone.tensors:
            assert_close(together.of_token(header.name, header.positions[0], row), array, ALONE, f"{name} {header.name} of row {row}")


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_half_precision_steps_are_the_whole_forward(checkpoints, tmp_path, dtype):
    """Attention of the library's, keys and values in half precision. A number has 8 (11) bits, and logits here are up to about 5, so steps of
    0.03 (0.004) apart: the two ways round differently, by a few of them."""
    limit = {"bf16": 0.15, "f16": 0.02}[dtype]
    names = ["gqa-tied-sharded", "two"]
    server = Server({name: (checkpoints[name].path, dtype) for name in names}, tmp_path)
    try:
        for name in names:
            got = generate(server, name, [IDS, SHORT], TOKENS, captures=[at(capture("blocks.1.attn.hook_k"), GENERATED)], top_logprobs=10, ignore_eos=True)
            rows = [IDS + got.ids(0), SHORT + got.ids(1)]
            whole = server.forward(name, rows, captures=[capture("blocks.1.attn.hook_k")], logits=ALL_LOGITS)
            for row, ids in enumerate(rows):
                logits = whole.get("logits", row)
                logits = wire.widen_bf16(logits) if dtype == "bf16" else logits.astype(np.float32)
                logs = torch.tensor(logits).log_softmax(-1)
                for token in got.tokens[row, 0]:
                    here = len(ids) - TOKENS + token.index - 1
                    assert [t.logprob for t in token.top] == pytest.approx(logs[here].topk(10).values.tolist(), abs=limit)
                assert got.of_token("blocks.1.attn.hook_k", len(ids) - 2, row).dtype == (np.uint16 if dtype == "bf16" else np.float16)
    finally:
        server.stop()
