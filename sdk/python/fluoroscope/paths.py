"""Path patching: what one part of the model says to another, and to nobody else. See Model.path_patch."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from fluoroscope._proto.v1 import path_pb2
from fluoroscope.indices import from_start, is_int
from fluoroscope.metrics import Metric
from fluoroscope.names import hook_name
from fluoroscope.path_order import can_exist
from fluoroscope.results import ModelInfo
from fluoroscope.selections import At, Bos, Positions, Prompts, per_prompt_positions, positions_message
from fluoroscope.suggest import meant
from fluoroscope.sweep import DIRECTIONS, choice, metric_messages, pair_messages

# One part of the model, or a word for many of them; see Model.path_patch.
Node = str | tuple[Any, ...] | At
# What stands on an axis: parts that are each a place of their own, or named sets of parts that act together.
Ends = Node | Sequence[Node] | Mapping[str, Node | Sequence[Node]]

_FREEZE = {"recompute": False, "freeze": True}


@dataclass(frozen=True)
class PathPlan:
    """A request and how its answer is read. For the package's own use."""

    request: path_pb2.PathPatchRequest
    metrics: dict[Metric, str]


def build(
    model: str,
    info: ModelInfo,
    clean: Prompts,
    corrupt: Prompts,
    senders: Ends = "heads",
    receivers: Ends = "logits",
    metric: Metric | Sequence[Metric] = (),
    *,
    direction: str = "noise",
    mlps: str = "recompute",
    norms: str = "recompute",
    sender_positions: Positions | Sequence[Positions] = None,
    receiver_positions: Positions | Sequence[Positions] = None,
    source_positions: Sequence[int] | Sequence[Sequence[int]] | None = None,
    bos: Bos = None,
    parse_special_tokens: bool = False,
) -> PathPlan:
    """Turns the arguments of Model.path_patch into a request. ValueError for what can be seen to be wrong without the server."""
    pairs = pair_messages(clean, corrupt, source_positions, bos, parse_special_tokens)
    messages, names = metric_messages(metric, clean, corrupt, direction)
    speak = _Ends("senders", info, len(pairs), sender_positions).of(senders)
    listen = _Ends("receivers", info, len(pairs), receiver_positions).of(receivers)
    if not can_exist(listen, speak).any():
        raise ValueError(
            f"there is no path: {_shown(senders)} is not before {_shown(receivers)}. Queries, keys and values of a layer read the layers before it, its MLP "
            "also its heads, the logits everything"
        )
    return PathPlan(
        path_pb2.PathPatchRequest(
            model=model,
            pairs=pairs,
            direction=choice(direction, DIRECTIONS, "direction"),
            senders=speak,
            receivers=listen,
            freeze_mlps=bool(choice(mlps, _FREEZE, "mlps")),
            freeze_norms=bool(choice(norms, _FREEZE, "norms")),
            metrics=messages,
        ),
        names,
    )


def _shown(ends: Ends) -> str:
    return f"every one of {ends!r}" if isinstance(ends, list | Mapping) and len(ends) > 1 else repr(ends)


OPTIONS = tuple(name for name, one in inspect.signature(build).parameters.items() if one.kind is one.KEYWORD_ONLY)


class _Ends:
    """Reads what was given as senders or receivers."""

    def __init__(self, role: str, info: ModelInfo, pairs: int, positions: Positions | Sequence[Positions]) -> None:
        self._role, self._info, self._pairs, self._positions = role, info, pairs, positions

    def of(self, ends: Ends) -> list[path_pb2.PathEnd]:
        if isinstance(ends, Mapping):
            return [self._set(label, nodes) for label, nodes in ends.items()]
        single = isinstance(ends, str | At) or self._is_node(ends)
        places = [place for node in ([ends] if single else ends) for place in self._places(node)]  # type: ignore[union-attr,list-item,arg-type]
        if not places:
            raise ValueError(f"{self._role} is empty")
        return places

    @staticmethod
    def _is_node(value: object) -> bool:
        """(9, 6) or ("q", 9, 6), and not a tuple of several nodes."""
        return isinstance(value, tuple) and len(value) > 1 and is_int(value[-1]) and not isinstance(value[0], tuple | At)

    def _set(self, label: str, nodes: Node | Sequence[Node]) -> path_pb2.PathEnd:
        single = isinstance(nodes, str | At) or self._is_node(nodes)
        parts = [place for node in ([nodes] if single else nodes) for place in self._places(node)]  # type: ignore[union-attr,list-item,arg-type]
        if not parts:
            raise ValueError(f"{self._role}: {label!r} is empty")
        if any(list(part.positions) != list(parts[0].positions) for part in parts):
            raise ValueError(f"{self._role}: the parts of {label!r} act together, so they need the same positions")
        return path_pb2.PathEnd(label=label, nodes=[node for part in parts for node in part.nodes], positions=parts[0].positions)

    def _places(self, node: Node) -> list[path_pb2.PathEnd]:
        layers, heads = range(self._info.layers), range(self._info.heads)
        if isinstance(node, At):
            if node.units or node.rows is not None or node.layers:
                raise ValueError(f"{self._role}: {node!r} has layers, units or rows; a part of a path is a hook point with its heads and positions")
            positions = self._positions if node.positions is None else node.positions
            return [self._end(hook_name(node.site, self._info.layers), node.heads, positions)]
        if isinstance(node, str):
            words: dict[str, Any] = {"mlps": [("mlp", layer) for layer in layers]}
            if self._role == "senders":
                words["heads"] = [(layer, head) for layer in layers for head in heads]
            else:
                words |= {x: [(x, layer, head) for layer in layers for head in (heads if x == "q" else range(self._info.kv_heads))] for x in "qkv"}
            if node in words:
                return [place for part in words[node] for place in self._places(part)]
            if node == "logits":
                return [path_pb2.PathEnd(nodes=[path_pb2.PathNode(site="logits")])]
            if "." not in node and node not in ("embed", "hook_embed"):
                known = ", ".join(map(repr, sorted([*words, *(["embed"] if self._role == "senders" else ["logits"])])))
                near = meant(node, [*words, "embed" if self._role == "senders" else "logits"])
                raise ValueError(f"{self._role}: {node!r} is not one of {known}, nor a hook name; a head is {self._example()}{near}")
            return [self._end(hook_name(node, self._info.layers), (), self._positions)]
        return [self._end(*self._tuple(node), self._positions)]

    def _tuple(self, node: tuple[Any, ...]) -> tuple[str, tuple[int, ...]]:
        sender = self._role == "senders"
        match tuple(operator.index(part) if is_int(part) else part for part in node) if isinstance(node, tuple) else node:
            case (int(layer), int(head)) if sender:
                return hook_name(("z", layer), self._info.layers), (head,)
            case ("mlp" | "mlp_out" | "mlp_in", int(layer)):
                return hook_name(("mlp_out" if sender else "mlp_in", layer), self._info.layers), ()
            case (("z" | "q" | "k" | "v") as letter, int(layer), int(head)):
                return hook_name((letter, layer), self._info.layers), (head,)
            case (str(name), int(layer)):
                return hook_name((name, layer), self._info.layers), ()
        raise ValueError(f"{self._role}: {node!r} is not a part of a path; a head is {self._example()}, an MLP ('mlp', layer)")

    def _example(self) -> str:
        return "(layer, head)" if self._role == "senders" else "('q', layer, head)"

    def _end(self, site: str, heads: Sequence[int], positions: Positions | Sequence[Positions]) -> path_pb2.PathEnd:
        size = self._info.kv_heads if site.endswith(("hook_k", "hook_v", "hook_k_input", "hook_v_input", "hook_rot_k")) else self._info.heads
        heads = from_start(heads, f"{self._role}: head", size, f" of {site}")
        nested = per_prompt_positions(positions, self._pairs)
        chosen = [] if positions is None else [positions_message(p) for p in (nested if nested is not None else [positions])]  # type: ignore[list-item,arg-type]
        return path_pb2.PathEnd(nodes=[path_pb2.PathNode(site=site, heads=heads)], positions=cast(Any, chosen))
