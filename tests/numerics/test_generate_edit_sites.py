"""Every kind of intervention that acts on generated tokens, at every site that can be edited, against the slow reference in float64."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import torch
from fluoroscope._proto.v1 import plan_pb2

from .compare import rounding
from .generating import GENERATED, IDS, at, generate, slow_greedy
from .reference import trace
from .serving import edit, tensor
from .slow_edits import Change, Place, at_place, edited, make
from .test_interventions import KEYS, LAYER, SOURCES, A, editable

PROMPTS = [A, [9, 8, 7, 6]]  # sites with a key axis take means of rows as long as the first only
KINDS = ["zero", "set", "set-whole", "add", "scale", "mean", "mean-value", "project_out", "noise"]
STEPS = 3  # that run with the edit, behind the token that the prompt alone gives


def place_of(spec, full: str, whole: bool) -> tuple[Place, bool]:
    """All heads and units of one position, or some; and whether the site has heads. Of keys always the same two, for there are more with every token."""
    sizes = dict(zip(spec.axes, spec.shape, strict=True))
    heads = sizes.get("head", sizes.get("kv_head", 0))
    units = list(sizes.values())[-1]
    chosen = [0, 2] if full.endswith(KEYS) else list(range(units)) if whole else sorted({0, units // 2, units - 1})
    return Place(full, [0], list(range(max(heads, 1))) if whole or heads == 1 else [0, heads - 1] if heads else [0], chosen), heads > 0


def at_generated(place: Place, change: Change, prompt: int):
    """The change of each generated token's line, for generating.slow_greedy."""

    def whole(value: torch.Tensor, length: int) -> torch.Tensor:
        generated = Place(place.site, list(range(prompt, length)), place.heads, place.units)
        return edited(generated, value, lambda own, i, h, position, head: change(own, 0, h, position, head))

    return whole


@pytest.mark.parametrize("name", ["gqa-tied-sharded", "two"])
def test_every_kind_at_every_site_equals_the_reference(server, exact, name):
    """A request for each site, with a row for each kind, so that rows with different edits step together."""
    w = exact(name)
    sources = [trace(w, ids) for ids in SOURCES]
    first = [int(trace(w, ids).logits[-1].argmax()) for ids in PROMPTS]
    plain = [slow_greedy(w, [*ids, token], 1, {})[1][0] for ids, token in zip(PROMPTS, first, strict=True)]
    moved = checked = 0
    for number, site in editable(server, name):
        full = site.replace("{l}", str(LAYER))
        # Generation refuses numbers that are not finite, and those are what a norm makes that divides by 0.
        kinds = [kind for kind in KINDS if not (site.endswith("hook_scale") and kind in ("zero", "project_out"))]
        prompts = [0 if full.endswith(KEYS) else row % 2 for row in range(len(kinds))]
        asked, interventions = [], []
        for row, kind in enumerate(kinds):
            whole = (number + row) % 2 == 0
            place, has_heads = place_of(server.sites(name)[site], full, whole)
            values = {len(kinds) + i: source.sites[full] for i, source in enumerate(sources)}
            made = make(kind, place, row, values, number | (LAYER << 8 if "{l}" in site else 0), np.random.default_rng(number + row))
            asked.append((place, made.change))
            message = at_place(made.message, place, row, heads=has_heads and not whole, units=not whole or full.endswith(KEYS))
            interventions.append(at(message, GENERATED))
        rows = [PROMPTS[prompt] for prompt in prompts]
        got = generate(server, name, [*rows, *SOURCES], STEPS + 1, interventions=interventions, sources=2, ignore_eos=True, top_logprobs=100)
        for row, (start, kind, (place, change)) in enumerate(zip(prompts, kinds, asked, strict=True)):
            what = f"{name} {full} {kind} heads {place.heads}"
            ids, logs = slow_greedy(w, [*PROMPTS[start], first[start]], STEPS, {full: at_generated(place, change, len(PROMPTS[start]))})
            assert got.ids(row) == [first[start], *ids], what
            for token, expected in zip(got.tokens[row, 0][1:], logs, strict=True):
                difference = max(abs(t.logprob - float(expected[t.id])) for t in token.top)
                assert difference <= rounding(expected), f"{what}: token {token.index} is off by {difference:.3g}"
            moved += bool((logs[0] - plain[start]).abs().max() > 1e-3)
            checked += 1
    assert checked > 200 and moved > checked / 2, f"{moved} of {checked} edits changed something"


@pytest.mark.parametrize(
    "kind",
    [
        dict(copy=plan_pb2.CopyFromRow(row=1)),
        dict(interpolate=plan_pb2.Interpolate(source=plan_pb2.CopyFromRow(row=1), weight=0.5)),
        dict(resample=plan_pb2.Resample(rows=[1], seed=1)),
        dict(swap_subspace=plan_pb2.SwapSubspace(source=plan_pb2.CopyFromRow(row=1), directions=tensor(np.ones((1, 48), np.float32)))),
    ],
    ids=lambda kind: next(iter(kind)),
)
def test_kinds_that_copy_positions_are_refused(server, kind):
    with pytest.raises(grpc.RpcError, match="acts on the prompt only, for a generated token has no such position there") as refused:
        asked = at(edit("blocks.1.hook_resid_post", rows=[0], **kind), GENERATED)
        generate(server, "two", [IDS, IDS], 4, interventions=[asked], sources=1)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
