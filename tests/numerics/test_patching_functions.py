"""Every ready-made sweep of transformer_lens.patching and its one-line equivalent, as the README lists them, give the same numbers.

TransformerLens patches the clean run's cache into the corrupted tokens: our "denoise".
"""

from __future__ import annotations

import fluoroscope as fs
import numpy as np
import pytest
import torch
from transformer_lens import patching

from . import lens

LIMIT = 1e-4
CLEAN = [0, 17, 42, 250, 42, 7]
CORRUPT = [0, 17, 42, 9, 42, 8]
RIGHT, WRONG = 5, 17
METRIC = fs.metrics.logit_diff(RIGHT, WRONG)

# The function's name behind get_act_patch_ -> (site, over).
ONE_LINERS = {
    "resid_pre": ("resid_pre", ("layer", "position")),
    "resid_mid": ("resid_mid", ("layer", "position")),
    "attn_out": ("attn_out", ("layer", "position")),
    "mlp_out": ("mlp_out", ("layer", "position")),
    "attn_head_out_by_pos": ("z", ("layer", "position", "head")),
    "attn_head_q_by_pos": ("q", ("layer", "position", "head")),
    "attn_head_k_by_pos": ("k", ("layer", "position", "head")),
    "attn_head_v_by_pos": ("v", ("layer", "position", "head")),
    "attn_head_pattern_by_pos": ("pattern", ("layer", "head", "position")),
    "attn_head_pattern_dest_src_pos": ("pattern", ("layer", "head", "position", "source")),
    "attn_head_out_all_pos": ("z", ("layer", "head")),
    "attn_head_q_all_pos": ("q", ("layer", "head")),
    "attn_head_k_all_pos": ("k", ("layer", "head")),
    "attn_head_v_all_pos": ("v", ("layer", "head")),
    "attn_head_pattern_all_pos": ("pattern", ("layer", "head")),
    "block_every": (("resid_pre", "attn_out", "mlp_out"), ("site", "layer", "position")),
    "attn_head_all_pos_every": (("z", "q", "k", "v", "pattern"), ("site", "layer", "head")),
    "attn_head_by_pos_every": (("z", "q", "k", "v", "pattern"), ("site", "layer", "position", "head")),
}


@pytest.fixture(scope="module")
def ours(server):
    with fs.connect(server.address) as client:
        yield client.model("two")


@pytest.fixture(scope="module")
def theirs(checkpoints):
    """The model, its cache of the clean run, and the corrupted tokens."""
    model = lens.load(checkpoints["two"].path, checkpoints["two"].model)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([CLEAN]), prepend_bos=False)
    return model, cache, torch.tensor([CORRUPT])


def difference(logits: torch.Tensor) -> torch.Tensor:
    return logits[0, -1, RIGHT] - logits[0, -1, WRONG]


def test_no_function_is_left_out():
    names = {name.removeprefix("get_act_patch_") for name in dir(patching) if name.startswith("get_act_patch_")}
    assert names == set(ONE_LINERS)


@pytest.mark.parametrize("name", ONE_LINERS)
@torch.no_grad()
def test_the_one_liner_is_the_function(ours, theirs, name, monkeypatch):
    monkeypatch.setattr(patching, "tqdm", lambda cells: cells)
    model, cache, corrupted = theirs
    wanted = getattr(patching, f"get_act_patch_{name}")(model, corrupted, cache, difference).numpy()
    site, over = ONE_LINERS[name]
    got = ours.sweep(CLEAN, CORRUPT, site, over, METRIC)
    assert got.values.shape == wanted.shape
    assert np.abs(got.values - wanted).max() <= LIMIT
    assert np.abs(wanted - got.base).max() > 1e-2  # something happened
