"""Which senders come before which receivers: of a pair that does not, there is no path."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from fluoroscope._proto.v1 import path_pb2


def can_exist(receivers: Sequence[path_pb2.PathEnd], senders: Sequence[path_pb2.PathEnd]) -> np.ndarray:
    """[receivers, senders]: whether what the sender writes is in the residual stream that the receiver reads.

    Queries, keys and values of layer L read the embedding and all layers before L; the MLP of layer L also L's heads; the logits read all. Of sets one part
    that can be heard by one that listens is enough.
    """
    heard = np.array([max(_reads(node.site) for node in end.nodes) for end in receivers])
    said = np.array([min(_writes(node.site) for node in end.nodes) for end in senders])
    return said[None, :] < heard[:, None]


def _writes(site: str) -> float:
    """When: the embedding at -1, heads of layer L at 2 L, its MLP at 2 L + 1."""
    layer = _layer(site)
    return -1 if layer is None else 2 * layer + site.endswith("hook_mlp_out")


def _reads(site: str) -> float:
    """It reads what was written before this."""
    layer = _layer(site)
    return math.inf if layer is None else 2 * layer + site.endswith("hook_mlp_in")


def _layer(site: str) -> int | None:
    found = re.match(r"blocks\.(\d+)\.", site)
    return int(found[1]) if found else None
