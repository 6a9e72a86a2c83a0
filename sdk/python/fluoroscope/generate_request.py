"""Generation: the request, from a model's arguments; and what it would cost."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fluoroscope._proto.v1 import inference_pb2
from fluoroscope.interventions import Intervention
from fluoroscope.requests import Plan, Reduction
from fluoroscope.results import Estimate
from fluoroscope.selections import Bos, Positions, Prompts

if TYPE_CHECKING:
    from fluoroscope.model import Model, NamesFilter

ESTIMATE_METHOD = "/fluoroscope.v1.Inference/EstimateGenerate"


def request_of(
    model: Model,
    prompts: Prompts,
    max_new_tokens: int = 64,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    samples: int = 1,
    stop: str | Sequence[str] = (),
    ignore_eos: bool = False,
    top_logprobs: int = 0,
    interventions: Sequence[Intervention] = (),
    names_filter: NamesFilter = (),
    positions: Positions = None,
    layers: int | Sequence[int] = (),
    heads: int | Sequence[int] = (),
    reduction: Reduction = None,
    bos: Bos = None,
    parse_special_tokens: bool = False,
    isolated: bool = False,
) -> tuple[Plan, inference_pb2.GenerateRequest]:
    """Model.generate's arguments as the plan of its prompts and the request."""
    numbers: Mapping[str, Any] = {"max_new_tokens": max_new_tokens, "top_k": top_k, "samples": samples, "top_logprobs": top_logprobs}
    for name, number in numbers.items():
        if not 0 <= number < 2**32:
            raise ValueError(f"{name} is {number}; it cannot be negative or over {2**32 - 1}")
    if seed is not None and not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; it must be from 0 to {2**64 - 1}")
    capture = model._capture(names_filter, positions, layers, heads, reduction)
    plan = model._build(prompts, interventions=interventions, capture=capture, bos=bos, parse_special_tokens=parse_special_tokens)
    sampling = inference_pb2.Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
        seed=secrets.randbits(64) if seed is None else seed,
    )  # fmt: skip
    return plan, inference_pb2.GenerateRequest(
        model=plan.request.model, prompts=plan.request.prompts, captures=plan.request.captures, interventions=plan.request.interventions,
        max_new_tokens=max_new_tokens, sampling=sampling, samples=samples, stop=[stop] if isinstance(stop, str) else stop, ignore_eos=ignore_eos,
        top_logprobs=top_logprobs, sources=len(plan.request.prompts) - plan.rows, isolated=isolated,
    )  # fmt: skip


def estimate(model: Model, prompts: Prompts, max_new_tokens: int, **options: Any) -> Estimate:
    """See Model.estimate_generate."""
    _, request = request_of(model, prompts, max_new_tokens, **options)
    return Estimate.of(model._client.unary(ESTIMATE_METHOD, request, inference_pb2.EstimateReply))
