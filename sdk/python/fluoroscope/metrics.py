"""Metrics: scalars that the server computes from each prompt's logits, so that often nothing else needs to cross the wire.

Every metric takes `positions` (where to read; default: each prompt's last position, and one number per prompt; values come in the order in which plain
indices are written) and `name` (how it is called in the result). Where tokens are expected, an id or a text that is exactly one token (" Mary") does, or a list of them. For tokens of its own per prompt give one
entry per prompt and `per_prompt=True`; lists of lists mean that by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from fluoroscope._proto.v1 import plan_pb2
from fluoroscope.indices import as_ints, is_int
from fluoroscope.names import HookKey, hook_name
from fluoroscope.order import refuse_twice
from fluoroscope.selections import Positions, Prompts, Row, Token, as_prompts, from_last, positions_message, tensor_message, token_ref, token_refs

if TYPE_CHECKING:
    from fluoroscope.hooks import HookTable

Tokens = Token | Sequence[Token]


@dataclass(frozen=True, eq=False)
class Metric:
    """One metric; made by fs.metrics.logit_diff and the others. Hashable by identity: `result.metrics[metric]` finds its values.

    Attributes:
      kind: the name of the function that made it.
      one_value: one number per prompt, else one per position.
    """

    kind: str
    name: str
    positions: Positions
    shown: str
    parts: tuple[dict[str, Any], ...]  # the message's kind: one entry for all prompts, or one per prompt
    per_prompt: bool = False
    one_value: bool = True
    reference: Prompts | None = None  # prompts it is compared with
    compares: bool = False
    reference_positions: Positions = None

    def messages(
        self, prompts: Sequence[Row], row_of: Callable[[Row], int], layers: int | None, hooks: HookTable | None = None
    ) -> list[plan_pb2.Metric]:
        """As the protocol has it: one message for all prompts, or one per prompt called name/0, name/1, ... `row_of` gives the row of a prompt that is
        run without interventions, `layers` is how many the model has, `hooks` are its hook points."""
        positions = positions_message(self.positions)
        refuse_twice(positions)
        if self.compares:
            parts: list[dict[str, Any]] = [{self.kind: self._reference(row_of(prompt))} for prompt in self._references(prompts)]
        elif self.per_prompt:
            if len(self.parts) != len(prompts):
                raise ValueError(f"metric {self.name!r} has answers for {len(self.parts)} prompts, but {len(prompts)} are run")
            parts = list(self.parts)
        else:
            shared: dict[str, Any] = dict(self.parts[0])
            if (site := shared.pop("site", None)) is not None:
                head = shared.pop("head")
                heads, _ = from_last(hooks, [name := hook_name(site, layers)], head)
                shared["read_out"] = plan_pb2.ReadOut(direction=shared["read_out"].direction, site=name, head=heads[0] if heads else None)
            return [plan_pb2.Metric(name=self.name, rows=range(len(prompts)), positions=positions, **shared)]
        return [plan_pb2.Metric(name=f"{self.name}/{row}", rows=[row], positions=positions, **part) for row, part in enumerate(parts)]

    def _reference(self, row: int) -> plan_pb2.ToReference:
        return plan_pb2.ToReference(row=row, positions=positions_message(self.reference_positions))

    def _references(self, prompts: Sequence[Row]) -> Sequence[Row]:
        if self.reference is None:
            return prompts
        references, single = as_prompts(self.reference)
        if not single and len(references) != len(prompts):
            raise ValueError(f"metric {self.name!r} has {len(references)} references for {len(prompts)} prompts: give one, or one per prompt")
        return references * len(prompts) if single else references

    def __repr__(self) -> str:
        return f"{self.kind}({self.shown})"

    # In a pickle messages are bytes. A metric never changes, so a copy is the same one.

    def __getstate__(self) -> dict[str, Any]:
        parts = []
        for part in self.parts:
            beside = {name: part[name] for name in ("site", "head") if name in part}
            parts.append((plan_pb2.Metric(**{field: value for field, value in part.items() if field not in beside}).SerializeToString(), beside))
        return self.__dict__ | {"parts": parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts = []
        for data, beside in state["parts"]:
            message = plan_pb2.Metric.FromString(data)
            field = message.ListFields()[0][0].name
            parts.append({field: getattr(message, field)} | beside)
        self.__dict__.update(state | {"parts": tuple(parts)})

    def __deepcopy__(self, memo: dict[int, Any]) -> Metric:
        return self


def as_metrics(metrics: Any, what: str) -> list[Metric]:
    """One metric or several, as a list; ValueError, which says how metrics are made, for anything else."""
    several = isinstance(metrics, Iterable) and not isinstance(metrics, str)
    chosen: list[Any] = list(metrics) if several else [metrics]
    for metric in chosen:
        if not isinstance(metric, Metric):
            why = "; the server computes metrics, so functions do not do" if callable(metric) else ""
            raise ValueError(f"{what}: {metric!r} is not a metric: use fs.metrics.logit_diff(right, wrong) or another of fs.metrics{why}")
    return chosen


def logit_diff(
    right: Tokens | Sequence[Tokens],
    wrong: Tokens | Sequence[Tokens],
    *,
    per_prompt: bool = False,
    positions: Positions = None,
    name: str = "logit_diff",
) -> Metric:
    """The logit of `right` minus the logit of `wrong`; the mean over each side where it has several tokens.

    Args:
      right, wrong: a token (an id, or a text that is exactly one token, such as " Mary"), or a list of tokens whose logits are averaged.
        For an answer of its own per prompt, give one entry per prompt and `per_prompt=True`; lists of lists mean that by themselves.
      per_prompt: entry i of both lists belongs to prompt i.
      positions: where to read the logits. Default: each prompt's last position, and one number per prompt; otherwise one per position.
      name: how it is called in the result.

    Raises:
      ValueError: the two sides do not fit each other, or are the same tokens, so that the difference would always be 0.
    """
    per_prompt = per_prompt or _is_nested(right) or _is_nested(wrong)
    sides = [_entries(right, per_prompt), _entries(wrong, per_prompt)]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"`right` has answers for {len(sides[0])} prompts and `wrong` for {len(sides[1])}")
    parts = tuple({"logit_difference": _difference(*pair)} for pair in zip(*sides, strict=True))
    for prompt, part in enumerate(parts):
        if _same_tokens(part["logit_difference"]):
            what = f"`right` and `wrong` of prompt {prompt}" if per_prompt else "`right` and `wrong`"
            several = not per_prompt and len(part["logit_difference"].right) > 1
            hint = "; for an answer of its own per prompt give per_prompt=True" if several else ""
            raise ValueError(f"{what} are the same tokens, so the difference is always 0{hint}")
    return Metric("logit_diff", name, positions, f"{right!r}, {wrong!r}", parts, per_prompt, positions is None)


def logits(tokens: Tokens | Sequence[Tokens], *, per_prompt: bool = False, positions: Positions = None, name: str = "logits") -> Metric:
    """The logit of a token; the mean for several. (For the logits of several tokens one by one ask the run for `logits=fs.Logits(positions, tokens)`.)"""
    return _of_tokens("logits", "mean_logit", plan_pb2.MeanLogit, tokens, per_prompt, positions, name)


def prob(tokens: Tokens | Sequence[Tokens], *, per_prompt: bool = False, positions: Positions = None, name: str = "prob") -> Metric:
    """The probability that the next token is this one, or one of these."""
    return _of_tokens("prob", "probability", plan_pb2.Probability, tokens, per_prompt, positions, name)


def logprob(tokens: Tokens | Sequence[Tokens], *, per_prompt: bool = False, positions: Positions = None, name: str = "logprob") -> Metric:
    """The natural logarithm of `prob`."""
    return _of_tokens("logprob", "log_probability", plan_pb2.LogProbability, tokens, per_prompt, positions, name)


def cross_entropy(token: Token | None = None, *, positions: Positions = None, name: str = "cross_entropy") -> Metric:
    """-log p(target) in nats, one number per position.

    Args:
      token: the target. Default: each position's target is the prompt's own next token.
      positions: default: all that have a next token; with a `token` the last, and one number per prompt.
    """
    message = plan_pb2.CrossEntropy(token=None if token is None else token_ref(token))
    shown = "" if token is None else repr(token)
    return Metric("cross_entropy", name, positions, shown, ({"cross_entropy": message},), one_value=token is not None and positions is None)


def kl(
    reference: Prompts | None = None, *, positions: Positions = None, reference_positions: Positions = None, name: str = "kl"
) -> Metric:
    """KL(reference || run) of the next-token distributions, in nats.

    Args:
      reference: a prompt that runs without interventions, or one per prompt. Default: the prompt itself, so that the metric says what the interventions did.
      reference_positions: where to read in the reference. Default: the same absolute positions. Both must be written in ascending order.
    """
    return _to_reference("kl", reference, positions, reference_positions, name)


def js(
    reference: Prompts | None = None, *, positions: Positions = None, reference_positions: Positions = None, name: str = "js"
) -> Metric:
    """Jensen-Shannon divergence from a reference, in nats (0 to log 2). Arguments as in `kl`."""
    return _to_reference("js", reference, positions, reference_positions, name)


def l2(
    reference: Prompts | None = None, *, positions: Positions = None, reference_positions: Positions = None, name: str = "l2"
) -> Metric:
    """Euclidean distance of the logits from a reference's. Arguments as in `kl`."""
    return _to_reference("l2", reference, positions, reference_positions, name)


def rank(token: Token | Sequence[Token], *, per_prompt: bool = False, positions: Positions = None, name: str = "rank") -> Metric:
    """1 + how many tokens have a larger logit: 1 is the best. Tokens with equal logits share the better rank."""
    entries = token if per_prompt else [token]
    if not _several(entries):
        raise ValueError("with per_prompt, `token` is a list with one token per prompt")
    parts = tuple({"rank": plan_pb2.Rank(token=token_ref(entry))} for entry in entries)  # type: ignore[arg-type,union-attr]
    return Metric("rank", name, positions, repr(token), parts, per_prompt, positions is None)


def readout(
    direction: ArrayLike,
    *,
    site: HookKey = "ln_final.hook_normalized",
    head: int | None = None,
    positions: Positions = None,
    name: str = "readout",
) -> Metric:
    """The dot product of a hook point's value with a direction.

    Args:
      direction: [size of the site's last axis], finite.
      site: one hook point. Default: what the final norm gives (before its weight).
      head: needed exactly for sites with a head axis; negative numbers count from the last.
    """
    if head is not None and not is_int(head):
        raise ValueError(f"head is {head!r}; give one whole number")
    message = plan_pb2.ReadOut(direction=tensor_message(direction, "direction"))
    part = {"read_out": message, "site": site, "head": () if head is None else as_ints(head, "head")}
    return Metric("readout", name, positions, f"<direction {list(message.direction.shape)}>, site={site!r}", (part,), one_value=positions is None)


def _of_tokens(kind: str, field: str, message: Any, tokens: Any, per_prompt: bool, positions: Positions, name: str) -> Metric:
    per_prompt = per_prompt or _is_nested(tokens)
    entries = [token_refs(entry) for entry in _entries(tokens, per_prompt)]
    if not all(entries):
        raise ValueError(f"{kind} needs at least one token")
    parts = tuple({field: message(tokens=entry)} for entry in entries)
    return Metric(kind, name, positions, repr(tokens), parts, per_prompt, positions is None)


def _to_reference(kind: str, reference: Prompts | None, positions: Positions, reference_positions: Positions, name: str) -> Metric:
    shown = "" if reference is None else repr(reference)
    return Metric(kind, name, positions, shown, (), False, positions is None, reference, True, reference_positions)


def _entries(tokens: Any, per_prompt: bool) -> list[Any]:
    """One entry for all prompts, or one per prompt."""
    if not per_prompt:
        return [tokens]
    if not _several(tokens):
        raise ValueError("with one answer per prompt, tokens (of logit_diff both lists, `right` and `wrong`) are lists with one entry per prompt")
    return list(tokens)


def _is_nested(side: object) -> bool:
    return _several(side) and any(_several(entry) for entry in side)  # type: ignore[attr-defined]


def _several(tokens: object) -> bool:
    return isinstance(tokens, Iterable) and not isinstance(tokens, str) and not is_int(tokens) and getattr(tokens, "ndim", 1) > 0


def _difference(right: Tokens, wrong: Tokens) -> plan_pb2.LogitDifference:
    message = plan_pb2.LogitDifference(right=token_refs(right), wrong=token_refs(wrong))
    if not message.right or not message.wrong:
        raise ValueError("logit_diff needs at least one token on each side")
    return message


def _same_tokens(difference: plan_pb2.LogitDifference) -> bool:
    return sorted(token.SerializeToString() for token in difference.right) == sorted(token.SerializeToString() for token in difference.wrong)
