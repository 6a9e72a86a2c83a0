"""Gradients of a metric at hook points: the request's part, and their names in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fluoroscope._proto.v1 import plan_pb2, tensor_pb2
from fluoroscope.metrics import Metric, as_metrics

if TYPE_CHECKING:
    from fluoroscope.requests import CaptureChoice

SUFFIX = "_grad"  # as TransformerLens's get_caching_hooks(incl_bwd=True) calls them: "blocks.3.hook_resid_pre_grad"


def entry_name(header: tensor_pb2.TensorHeader) -> str:
    """What a tensor of a reply is called in the cache."""
    return header.name + SUFFIX if header.gradient_of else header.name


def with_gradients(metrics: Sequence[Metric], choices: Sequence[CaptureChoice]) -> list[Metric]:
    """The metrics of a run, and those whose gradients it takes."""
    wanted = list(metrics)
    for choice in choices:
        if choice.grad_of is None:
            continue
        if not isinstance(choice.grad_of, Metric):
            as_metrics([choice.grad_of], "grad_of")  # says what is wrong
        if choice.grad_of not in wanted:
            wanted.append(choice.grad_of)
    return wanted


def gradient_captures(capture: plan_pb2.Capture, messages: Sequence[plan_pb2.Metric]) -> list[plan_pb2.Capture]:
    """The gradients at the places of a capture of values: one message for each of the metric's, which may be one per prompt."""
    captures = []
    for message in messages:
        chosen = set(capture.select.rows)
        rows = [row for row in message.rows if row in chosen]
        if not rows:
            continue
        made = plan_pb2.Capture()
        made.CopyFrom(capture)
        del made.select.rows[:]
        made.select.rows.extend(rows)
        made.gradient_of = message.name
        captures.append(made)
    return captures
