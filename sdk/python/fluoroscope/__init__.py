"""Fluoroscope: see inside a transformer language model, and intervene, while it runs on a server.

    import fluoroscope as fs
    client = fs.connect("localhost:7070")          # or: with fs.serve("smollm2-135m") as client:
    model = client.model("smollm2-135m")
    logits, cache = model.run_with_cache("The capital of France is", names_filter="blocks.*.hook_resid_pre")
    cache["resid_pre", 5]                          # numpy [batch, pos, d_model]
"""

from importlib.metadata import version as _version

from fluoroscope import errors, metrics
from fluoroscope.aio import AsyncClient, AsyncGeneration, AsyncModel, connect_async
from fluoroscope.aio_handles import AsyncHandle, AsyncHandles
from fluoroscope.cache import ActivationCache, LensValues, TopKValues
from fluoroscope.causal_trace import CausalTrace
from fluoroscope.client import Client, connect
from fluoroscope.errors import (
    AbortedError,
    AlreadyExistsError,
    CancelledError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    FluoroscopeError,
    FluoroscopeWarning,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ServerStartError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    UnknownError,
)
from fluoroscope.generate import GeneratedToken, Generation, LikelyToken
from fluoroscope.handles import Handle, Handles
from fluoroscope.hooks import Hook, HookTable
from fluoroscope.interventions import Intervention, add, freeze, interpolate, mean, noise, patch, project_out, resample, scale, set, swap_subspace, zero
from fluoroscope.jobs import AsyncJob, Job
from fluoroscope.loading import ModelList, UnloadedModel
from fluoroscope.local_server import LocalServer, serve
from fluoroscope.logit_attribution import LogitAttribution
from fluoroscope.logit_lens import LogitLens
from fluoroscope.logits import Logits
from fluoroscope.model import Model
from fluoroscope.path_result import PathResult
from fluoroscope.ragged import Ragged
from fluoroscope.requests import Dot, Lens, TopK, Writes
from fluoroscope.results import Estimate, Metrics, ModelInfo, Provenance, RunResult, Timing, TopToken, TopTokens
from fluoroscope.selections import At, Start, at, occurrences
from fluoroscope.subspace import SubspaceEffects
from fluoroscope.sweep_result import SweepEstimate, SweepResult
from fluoroscope.weights import WeightInfo, Weights

__version__ = _version("fluoroscope")

__all__ = [
    "AbortedError",
    "ActivationCache",
    "add",
    "AlreadyExistsError",
    "AsyncClient",
    "AsyncGeneration",
    "AsyncHandle",
    "AsyncHandles",
    "AsyncJob",
    "AsyncModel",
    "At",
    "at",
    "CancelledError",
    "CausalTrace",
    "Client",
    "connect",
    "connect_async",
    "DataLossError",
    "DeadlineExceededError",
    "Dot",
    "errors",
    "Estimate",
    "FailedPreconditionError",
    "FluoroscopeError",
    "FluoroscopeWarning",
    "freeze",
    "GeneratedToken",
    "Generation",
    "Handle",
    "Handles",
    "Hook",
    "HookTable",
    "InternalError",
    "interpolate",
    "Intervention",
    "InvalidArgumentError",
    "Job",
    "Lens",
    "LensValues",
    "LikelyToken",
    "LocalServer",
    "LogitAttribution",
    "LogitLens",
    "Logits",
    "mean",
    "Metrics",
    "metrics",
    "Model",
    "ModelInfo",
    "ModelList",
    "noise",
    "NotFoundError",
    "occurrences",
    "OutOfRangeError",
    "patch",
    "PathResult",
    "PermissionDeniedError",
    "project_out",
    "Provenance",
    "Ragged",
    "resample",
    "ResourceExhaustedError",
    "RunResult",
    "scale",
    "serve",
    "ServerStartError",
    "set",
    "Start",
    "SubspaceEffects",
    "swap_subspace",
    "SweepEstimate",
    "SweepResult",
    "Timing",
    "TopK",
    "TopKValues",
    "TopToken",
    "TopTokens",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UnknownError",
    "UnloadedModel",
    "WeightInfo",
    "Weights",
    "Writes",
    "zero",
]
