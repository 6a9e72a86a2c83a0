"""The order of what comes back. The server takes positions and heads in ascending order; who writes [13, 0] gets position 13 first.

That holds for lists of plain indices. A list with slices, words or fs.occurrences is a union, which is in ascending order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fluoroscope._proto.v1 import inference_pb2, plan_pb2, tensor_pb2

_BY_QUERY = ("attn.hook_pattern", "attn.hook_attn_scores")  # [head, query, key]; everything else has the position axis first


def indices(positions: plan_pb2.Positions | None) -> list[int] | None:
    """The indices as they were written; None where there is anything else."""
    items = [] if positions is None else positions.items
    return [item.index for item in items] if items and all(item.WhichOneof("kind") == "index" for item in items) else None


def refuse_twice(positions: plan_pb2.Positions | None, heads: Sequence[int] = (), units: Sequence[int] = ()) -> None:
    """ValueError for a number that is written twice, where one value comes back for each."""
    for what, numbers in (("positions", indices(positions) or ()), ("heads", heads), ("units", units)):
        if len(set(numbers)) < len(numbers):
            number = next(number for i, number in enumerate(numbers) if number in numbers[:i])
            raise ValueError(f"{what} has {number} twice: {list(numbers)}; give each once")


def refuse_unsorted(positions: plan_pb2.Positions | None, heads: Sequence[int] = (), *, why: str) -> None:
    """ValueError for what is not in ascending order, as far as that can be seen without the prompt's length: where the order cannot be kept."""
    for name, numbers in (("positions", indices(positions) or ()), ("heads", heads)):
        if any(_behind(a, b) for a, b in zip(numbers, numbers[1:], strict=False)):
            raise ValueError(f"{name} must be written in ascending order, each once, because {why}; not {list(numbers)}")


def as_written(positions: plan_pb2.Positions | None, has: Sequence[int], length: int) -> list[int] | None:
    """Where the positions as they were written stand in `has`, which is ascending; None: as they are. Indices that meet in a short prompt ([0, -1] of one
    token) stand where the first of them does."""
    written = indices(positions)
    if written is None or _sorted(written):
        return None
    wanted = list(dict.fromkeys(index + length if index < 0 else index for index in written))
    if sorted(wanted) != list(has):  # metrics may lack some
        return None
    return [list(has).index(position) for position in wanted]


def lengths(prompts: Sequence[plan_pb2.Prompt], header: inference_pb2.ForwardHeader) -> list[int]:
    """How many tokens each of these prompts has, the first of a request; of one that begins with activations, how many positions."""
    return [
        prompt.activations.value.shape[0] if prompt.HasField("activations") else len(row.token_ids)
        for prompt, row in zip(prompts, header.rows, strict=False)
    ]


def arrange(
    tensors: Iterable[tuple[tensor_pb2.TensorHeader, np.ndarray]],
    captures: Sequence[plan_pb2.Capture],
    logits: plan_pb2.LogitsRequest | None,
    lengths: Sequence[int],
) -> None:
    """Puts positions and heads of a reply's tensors, and of their headers, into the order in which the request names them. In place.

    Args:
      lengths: how many tokens each prompt has.
    """
    unsorted = {i for i, capture in enumerate(captures) if not (_sorted(indices(capture.select.positions)) and _sorted(capture.select.heads))}
    turned = logits is not None and not _sorted(indices(logits.positions))
    if not unsorted and not turned:
        return
    for header, array in tensors:
        of_logits = header.name == "logits" or header.name.startswith("top.")
        if not (turned if of_logits else header.capture in unsorted):
            continue
        positions = logits.positions if of_logits and logits is not None else captures[header.capture].select.positions
        heads = [] if of_logits else list(captures[header.capture].select.heads)
        query_axis = 1 if header.name.endswith(_BY_QUERY) else 0
        order = None if header.HasField("sample") else as_written(positions, header.positions, lengths[header.row])
        if order is not None:
            array[...] = array.take(order, query_axis)
            _replace(header.positions, [header.positions[i] for i in order])
            if len(header.token_ids) == len(order):
                _replace(header.token_ids, [header.token_ids[i] for i in order])
        if heads and sorted(heads) == list(header.heads) and heads != list(header.heads):
            array[...] = array.take([list(header.heads).index(head) for head in heads], 1 - query_axis)
            _replace(header.heads, heads)


def _behind(a: int, b: int) -> bool:
    """Whether index b certainly does not come behind index a; a negative one counts from the end."""
    return b <= a if (a < 0) == (b < 0) else a == -1


def _sorted(numbers: Sequence[int] | None) -> bool:
    """Whether it is certain to be in ascending order."""
    return not numbers or (min(numbers) >= 0 or max(numbers) < 0) and all(a < b for a, b in zip(numbers, numbers[1:], strict=False))


def _replace(field: Any, numbers: Sequence[int]) -> None:
    del field[:]
    field.extend(numbers)
