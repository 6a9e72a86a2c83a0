"""Where a server answers, as users write it, and how long a call may take."""

from __future__ import annotations

import math
import re

PORT = 7070


def grpc_target(target: str) -> str:
    """"localhost" as "localhost:7070"; "host:port" and what gRPC itself knows ("unix:/path", "dns:///host:port") as it is.

    Raises:
      ValueError: a web address, or nothing.
    """
    if not isinstance(target, str) or not target.strip():
        raise ValueError(f"target is {target!r}; give the server's gRPC address, host:port")
    if (web := re.match(r"(?i)(https?://)([^/]*)", target)) is not None:
        raise ValueError(f"target is {target!r}; give host:port without {web[1]}: {grpc_target(web[2] or 'localhost')!r}")
    if re.fullmatch(r"[\w.-]+|\[[\da-fA-F:.]+\]", target):
        return f"{target}:{PORT}"
    if re.fullmatch(r"[\da-fA-F]*:[\da-fA-F:.]*:[\da-fA-F.]*", target):  # an IPv6 address
        return f"[{target}]:{PORT}"
    return target


def seconds(timeout: float | None) -> float | None:
    """A time limit as gRPC takes it, None for none at all. ValueError when no time would be left."""
    if timeout is None:
        return None
    if isinstance(timeout, bool | str) or not timeout > 0:
        raise ValueError(f"timeout is {timeout!r}; give seconds, more than 0, or math.inf for no limit")
    return None if timeout == math.inf else float(timeout)
