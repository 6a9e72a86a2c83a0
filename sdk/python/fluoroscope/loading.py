"""Which models a server has, and loading and unloading them while it runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fluoroscope._proto.v1 import models_pb2
from fluoroscope.results import ModelInfo, bytes_text

if TYPE_CHECKING:
    from fluoroscope.client import Client


@dataclass(frozen=True)
class UnloadedModel:
    """A model that the server knows and that cannot be used now.

    Attributes:
      state: "available" (client.load_model loads it), "loading", or "unloading" (unloaded, and requests that began before still hold its memory).
      loaded_bytes, total_bytes: while it is loading, how much of its weights has been read, and of how much (0: not known yet).
    """

    name: str
    state: str
    loaded_bytes: int = 0
    total_bytes: int = 0


class ModelList(list[ModelInfo]):
    """The models that are loaded; a list that also knows the others, and prints all of them with their state.

    Attributes:
      others: models that are not loaded now, where the server allows loading them.
      weights_bytes: what weights hold of the server's budget for them, `weights_budget_bytes`.
    """

    def __init__(self, loaded: Iterable[ModelInfo], others: Iterable[UnloadedModel], weights_bytes: int, weights_budget_bytes: int) -> None:
        super().__init__(loaded)
        self.others = list(others)
        self.weights_bytes = weights_bytes
        self.weights_budget_bytes = weights_budget_bytes

    def __repr__(self) -> str:
        lines = [(info.name, "loaded", f"{info.dtype}, {bytes_text(info.weight_bytes)}") for info in self]
        for other in self.others:
            progress = f"{bytes_text(other.loaded_bytes)} of {bytes_text(other.total_bytes)}" if other.state == "loading" else ""
            lines.append((other.name, other.state, progress))
        width = max((len(name) for name, _, _ in lines), default=0)
        memory = f"weights hold {bytes_text(self.weights_bytes)} of {bytes_text(self.weights_budget_bytes)}"
        return "\n".join([*(f"{name:<{width}}  {state:<9}  {more}".rstrip() for name, state, more in lines), memory])


def list_models(client: Client) -> ModelList:
    reply = client.unary("/fluoroscope.v1.Models/ListModels", models_pb2.ListModelsRequest(), models_pb2.ListModelsReply)
    others = (
        UnloadedModel(other.name, models_pb2.UnloadedModel.State.Name(other.state).removeprefix("STATE_").lower(), other.loaded_bytes, other.total_bytes)
        for other in reply.others
    )
    return ModelList(map(ModelInfo.of, reply.models), others, reply.weights_bytes, reply.weights_budget_bytes)


def load_model(client: Client, name: str, dtype: str | None, timeout: float | None) -> ModelInfo:
    request = models_pb2.LoadModelRequest(model=name, dtype=dtype or "")
    # A deadline would end the load: the client's own, meant for calls that compute, must not do so.
    seconds = math.inf if timeout is None else timeout
    return ModelInfo.of(client.unary("/fluoroscope.v1.Models/LoadModel", request, models_pb2.LoadModelReply, timeout=seconds).info)


def unload_model(client: Client, name: str) -> bool:
    request = models_pb2.UnloadModelRequest(model=name)
    return client.unary("/fluoroscope.v1.Models/UnloadModel", request, models_pb2.UnloadModelReply).still_in_use
