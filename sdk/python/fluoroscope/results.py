"""What comes back, as values that print well."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import overload

import numpy as np

from fluoroscope._proto.v1 import inference_pb2, models_pb2, provenance_pb2
from fluoroscope.cache import ActivationCache
from fluoroscope.metrics import Metric
from fluoroscope.ragged import Ragged


class _Printed:
    """A dataclass whose repr has one `name  value` line per field."""

    def __repr__(self) -> str:
        width = max(len(item.name) for item in fields(self))  # type: ignore[arg-type]
        lines = [f"  {item.name:<{width}}  {self._shown(item.name, getattr(self, item.name))}" for item in fields(self)]  # type: ignore[arg-type]
        return "\n".join([type(self).__name__, *lines])

    def _shown(self, name: str, value: object) -> str:
        if name.endswith("bytes") and isinstance(value, int):
            return bytes_text(value)
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@dataclass(frozen=True, repr=False)
class Provenance(_Printed):
    """Enough to reproduce a result: the same plan and provenance give the same numbers. `isolated=True` gives the same bits."""

    model: str
    revision: str
    weights_sha256: str
    tokenizer_sha256: str
    weight_processing: str
    dtype: str
    device: str
    attention: str
    server_version: str
    plan_sha256: str
    isolated: bool
    threads: int

    @classmethod
    def of(cls, message: provenance_pb2.Provenance) -> Provenance:
        """From the wire's message."""
        return cls(**{item.name: getattr(message, item.name) for item in fields(cls)})


@dataclass(frozen=True, repr=False)
class ModelInfo(_Printed):
    """A model that the server has in memory. `context` is the longest sequence in tokens; tied weights count once in `parameters`."""

    name: str
    family: str
    layers: int
    d_model: int
    heads: int
    kv_heads: int
    d_head: int
    d_mlp: int
    vocabulary: int
    context: int
    parameters: int
    weight_bytes: int
    dtype: str
    device: str
    weights_sha256: str
    tokenizer_sha256: str
    revision: str
    default_bos: bool
    norm_eps: float

    @classmethod
    def of(cls, message: models_pb2.ModelInfo) -> ModelInfo:
        """From the wire's message."""
        return cls(**{item.name: getattr(message, item.name) for item in fields(cls)})


@dataclass(frozen=True, repr=False)
class Estimate(_Printed):
    """What a run would cost.

    Attributes:
      peak_bytes: what the server's admission would charge; more than `budget_bytes` is refused.
      reply_bytes: tensor bytes that would be sent.
      flops: floating-point operations, a multiply-add counted as two.
      tokens: tokens run through the first layer, those of patches' sources included.
      waves: rounds of rows: the sources of patches run before the rows that read them.
      budget_bytes: the server's limit for `peak_bytes`.
    """

    peak_bytes: int
    reply_bytes: int
    flops: float
    tokens: int
    waves: int
    budget_bytes: int

    @classmethod
    def of(cls, message: inference_pb2.EstimateReply) -> Estimate:
        """From the wire's message."""
        return cls(**{item.name: getattr(message, item.name) for item in fields(cls)})

    def _shown(self, name: str, value: object) -> str:
        return f"{value / 1e9:.3f} GFLOP" if name == "flops" and isinstance(value, float) else super()._shown(name, value)


@dataclass(frozen=True, repr=False)
class Timing(_Printed):
    """Where the time went, in milliseconds, and what the run used.

    Attributes:
      tokens: those that ran. reused_tokens: of a generation's prompts, those that did not, because an earlier generation of this client began alike.
    """

    queue_ms: float
    run_ms: float
    tokens: int
    peak_bytes: int
    reused_tokens: int = 0

    @classmethod
    def of(cls, message: inference_pb2.ForwardSummary) -> Timing:
        """From the wire's message."""
        return cls(**{item.name: getattr(message, item.name) for item in fields(cls)})

    def _shown(self, name: str, value: object) -> str:
        return f"{value:.2f}" if isinstance(value, float) else super()._shown(name, value)


class Metrics(Mapping[str, np.ndarray]):
    """Metric values by name or by the metric itself: `metrics["logit_diff"]` or `metrics[diff]`.

    Each is a float64 array [prompts], in the order of the prompts also when there is only one; [prompts, positions] for a metric with `positions`
    (NaN behind the end where prompts have different numbers of them).
    """

    def __init__(self, values: Mapping[Metric, np.ndarray]) -> None:
        self._values = {metric.name: value for metric, value in values.items()}

    def __getitem__(self, key: str | Metric) -> np.ndarray:
        name = key.name if isinstance(key, Metric) else key
        if name not in self._values:
            raise KeyError(f"no metric {name!r}; there are: {', '.join(self._values) or 'none'}")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return "Metrics(" + ", ".join(f"{name}={np.array2string(value, precision=4)}" for name, value in self._values.items()) + ")"


@dataclass(frozen=True)
class RunResult:
    """The result of Model.run_with_hooks.

    Attributes:
      logits: [batch, positions, vocabulary or chosen tokens], a Ragged for prompts of unequal length, or None when none were asked for.
      metrics: values by name.
      cache: the captured activations; empty without `names_filter`. It also has `.tokens` and `.str_tokens`.
      provenance, timing: see their classes.
      warnings: what the server or this package found odd; also given to Python's `warnings`.
    """

    logits: np.ndarray | Ragged | None
    metrics: Metrics
    cache: ActivationCache
    provenance: Provenance
    timing: Timing
    warnings: tuple[str, ...]

    def __repr__(self) -> str:
        shape = "none" if self.logits is None else self.logits if isinstance(self.logits, Ragged) else f"{self.logits.dtype} {list(self.logits.shape)}"
        return f"RunResult of {self.provenance.model}\n  logits   {shape}\n  metrics  {self.metrics!r}\n  cache    {len(self.cache)} tensors"


@dataclass(frozen=True)
class TopToken:
    """One candidate for the next token."""

    token: str
    id: int
    logit: float
    logprob: float

    @property
    def probability(self) -> float:
        """exp(logprob): of the whole vocabulary, 0 to 1."""
        return math.exp(self.logprob)


class TopTokens(Sequence[TopToken]):
    """The most likely next tokens at one position, best first."""

    def __init__(self, tokens: Sequence[TopToken]) -> None:
        self._tokens = list(tokens)

    @overload
    def __getitem__(self, index: int) -> TopToken: ...
    @overload
    def __getitem__(self, index: slice) -> TopTokens: ...
    def __getitem__(self, index: int | slice) -> TopToken | TopTokens:
        return TopTokens(self._tokens[index]) if isinstance(index, slice) else self._tokens[index]

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        width = max((len(repr(item.token)) for item in self._tokens), default=0)
        return "\n".join(
            f"{item.probability:8.4f}  {item.token!r:<{width}}  {'█' * round(item.probability * 40)}".rstrip() for item in self._tokens
        )


def bytes_text(size: int) -> str:
    """A size for people: "2.1 MiB"."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
