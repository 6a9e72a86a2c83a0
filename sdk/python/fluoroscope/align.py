"""Which tokens of two prompts belong together."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher


def align(source: Sequence[int], base: Sequence[int]) -> list[int]:
    """For each token of `base` the position in `source` that it corresponds to, -1 for none. Where a stretch differs but has the same length in both, its
    tokens correspond one by one."""
    out = [-1] * len(base)
    for what, s, s_end, b, b_end in SequenceMatcher(None, source, base, autojunk=False).get_opcodes():
        if what == "equal" or (what == "replace" and s_end - s == b_end - b):
            out[b:b_end] = range(s, s_end)
    return out
