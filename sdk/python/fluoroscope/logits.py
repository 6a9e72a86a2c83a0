"""Which logits come back."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from fluoroscope._proto.v1 import plan_pb2
from fluoroscope.order import refuse_twice
from fluoroscope.selections import Positions, Token, positions_message, token_refs


@dataclass(frozen=True)
class Logits:
    """A choice of logits: only these positions and columns are computed and sent.

    Attributes:
      positions: as everywhere; plain indices in this order. Default: the last.
      tokens: columns, in this order. Default: the whole vocabulary.
    """

    positions: Positions = "last"
    tokens: Token | Sequence[Token] = ()


# "all", "last", None (no logits), positions, or Logits(positions, tokens).
LogitsChoice = Logits | Positions


def logits_message(choice: LogitsChoice, rows: int) -> plan_pb2.LogitsRequest | None:
    """As the protocol has it, for the first `rows` rows."""
    if choice is None:
        return None
    if not isinstance(choice, Logits):
        choice = Logits(positions=choice)
    positions = positions_message(choice.positions)
    refuse_twice(positions)
    return plan_pb2.LogitsRequest(positions=positions, tokens=token_refs(choice.tokens), rows=range(rows))


def top_message(k: int, positions: Positions, rows: int) -> plan_pb2.LogitsRequest:
    """The k best tokens instead of logits."""
    k = operator.index(k)
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    return plan_pb2.LogitsRequest(positions=positions_message(positions), top_k=k, rows=range(rows))
