"""How a model runs prompts: from its methods' arguments to a request, and from the reply to what they return."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fluoroscope import order
from fluoroscope.assemble import Assembler, Bfloat16
from fluoroscope.cache import ActivationCache
from fluoroscope.errors import warn
from fluoroscope.hooks import HookTable
from fluoroscope.finite import not_finite
from fluoroscope.indices import is_int
from fluoroscope.metrics import Metric
from fluoroscope.names import HookKey, hook_name, is_layered, needs_layer
from fluoroscope.ragged import Ragged
from fluoroscope.requests import CaptureChoice, Plan, Reduction, build
from fluoroscope.results import Metrics, ModelInfo, Provenance, RunResult, Timing
from fluoroscope.selections import Positions, Prompts, as_ints, from_last, positions_message, resolve
from fluoroscope.tokens import Tokens
from fluoroscope.wire import Reply, read_reply

if TYPE_CHECKING:
    from fluoroscope.model import Model

# A hook name or glob, several of them, a function of the full name that says which to keep, or None.
NamesFilter = str | Sequence[str] | Callable[[str], bool] | None

_COPY_WARNING = re.compile(r"interventions\[\d+\] copies row \d+ to row \d+, but both have the same tokens")
_FORWARD = "/fluoroscope.v1.Inference/Forward"
# TransformerLens keeps these only when asked for by configuration: they repeat other tensors once per head.
_NOT_BY_DEFAULT = ("attn.hook_result", "hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in")


class Running(Tokens):
    """The part of a Model that sends runs; for the package's own use."""

    info: ModelInfo
    _hooks: HookTable

    def _build(self, prompts: Prompts, **choices: Any) -> Plan:
        return build(self.name, prompts, layers=self.info.layers, hooks=self._hooks, **choices)

    def _capture(
        self, names_filter: NamesFilter, positions: Positions, layers: int | Sequence[int], heads: int | Sequence[int], reduction: Reduction,
        grad_of: Metric | None = None,
    ) -> CaptureChoice | None:
        if isinstance(names_filter, Sequence) and len(names_filter) == 0:
            if grad_of is not None:
                raise ValueError("grad_of needs names_filter: the hook points whose gradients are wanted")
            return None
        chosen = as_ints(layers, "layers")
        sites = self._sites(names_filter, chosen)
        numbers, _ = from_last(self._hooks, sites, as_ints(heads, "heads"))
        return CaptureChoice(sites, positions, chosen, numbers, reduction, grad_of=grad_of)

    def _behind(self, start_at: HookKey, chosen: Callable[[str], bool] | None) -> list[str]:
        """Hook points from the start of a run on that a function chooses, or that are kept by default."""
        names, start = self._hooks.names(), hook_name(start_at, self.info.layers)
        behind = names[names.index(start) :] if start in names else names  # the server says what is wrong with the start
        return [name for name in behind if (chosen(name) if chosen else not name.endswith(_NOT_BY_DEFAULT))]

    def _sites(self, names_filter: NamesFilter, layers: Sequence[int]) -> list[str]:
        if isinstance(names_filter, str) or is_layered(names_filter):
            return [self._site(names_filter)]
        if names_filter is None:
            return [hook.name.replace("{l}", "*") for hook in self._hooks if hook.readable and not hook.unavailable_because
                    and not hook.name.endswith(_NOT_BY_DEFAULT)]
        if callable(names_filter):
            # Names of other layers would match nothing on the server, which is an error for a name that somebody wrote.
            inside = tuple(f"blocks.{layer % self.info.layers}." for layer in layers)
            sites = [name for name in self._hooks.names() if name.startswith(inside or "") and names_filter(name)]
            if not sites:
                raise ValueError("names_filter says no to every hook point of this model (and these layers); model.hooks() shows them")
            return sites
        if not isinstance(names_filter, Iterable):
            raise ValueError(f"names_filter is {names_filter!r}; give hook names, globs, a function of the name, or None")
        names = list(names_filter)
        for number, name in enumerate(names):
            if not isinstance(name, str | tuple):
                short = (names[number - 1], operator.index(name)) if number and is_int(name) and isinstance(names[number - 1], str) else None
                raise ValueError(f"names_filter: {name!r} is not a hook name" + (f"; did you mean {short!r}?" if short else "; model.hooks() shows them"))
        return [self._site(name) for name in names]

    def _site(self, key: Any) -> str:
        """The full name of a hook point, or a glob as it is."""
        is_glob = isinstance(key, str) and any(sign in key for sign in "*?") and not key.startswith("blocks.-")
        return key if is_glob else hook_name(key, self.info.layers)

    def _call(self, plan: Plan, bfloat16: Bfloat16, timeout: float | None) -> tuple[Reply, Assembler]:
        assembler = Assembler(plan.rows, bfloat16)
        messages = self._client.stream(_FORWARD, plan.request, timeout)
        try:
            reply = read_reply(messages, assembler.allocate)
        finally:
            messages.close()  # cancels the call if reading it failed
        order.arrange(assembler.tensors(), plan.request.captures, plan.request.logits, order.lengths(plan.request.prompts[: plan.rows], reply.header))
        return reply, assembler

    def _run(self, plan: Plan, bfloat16: Bfloat16, single: bool, timeout: float | None) -> RunResult:
        reply, assembler = self._call(plan, bfloat16, timeout)
        provenance = Provenance.of(reply.header.provenance)
        names = list(assembler.names())
        cache = ActivationCache(
            {name: assembler.entry(name, single) for name in names if name != "logits"},
            reply.header.rows[: plan.rows],
            provenance,
            self.info.layers,
            single,
            cast("Model", self),
        )
        logits = cast("np.ndarray | Ragged", assembler.value("logits", single)) if "logits" in names else None
        metrics = _metrics(plan, reply)
        warnings = self._warn(plan, reply, not_finite(plan, reply, logits))
        return RunResult(logits, metrics, cache, provenance, Timing.of(reply.summary), warnings)

    def _warn(self, plan: Plan, reply: Reply, more: Sequence[str] = ()) -> tuple[str, ...]:
        # The server's own warning about a patch between equal rows speaks of row numbers that this package made up; ours speaks of prompts.
        messages = [message for message in reply.summary.warnings if not _COPY_WARNING.match(message)]
        messages += [*_useless_patches(plan, reply), *more]
        for message in messages:
            warn(message)
        return tuple(messages)


def _metrics(plan: Plan, reply: Reply) -> Metrics:
    lengths = order.lengths(plan.request.prompts[: plan.rows], reply.header)
    values: dict[str, list[tuple[int, int, float]]] = {}
    for value in reply.summary.metrics:
        values.setdefault(value.name, []).append((value.row, value.position, value.value))
    found = {}
    for metric, names in plan.metrics.items():
        rows: list[list[float]] = [[] for _ in range(plan.rows)]
        places: list[list[int]] = [[] for _ in range(plan.rows)]
        for index, position, number in sorted(entry for name in names for entry in values.get(name, [])):
            rows[index].append(number)
            places[index].append(position)
        for index, length in enumerate(lengths):
            if (turned := order.as_written(positions_message(metric.positions), places[index], length)) is not None:
                rows[index] = [rows[index][i] for i in turned]
        if metric.one_value:
            found[metric] = np.array([row[0] for row in rows])
        else:
            longest = max(map(len, rows))
            found[metric] = np.array([row + [np.nan] * (longest - len(row)) for row in rows])
    return Metrics(found)


def _useless_patches(plan: Plan, reply: Reply) -> list[str]:
    """What a row sees at a position depends only on the tokens up to it, so a source that agrees with the prompt so far gives the same values back.

    Where another patch does change the prompt, such a patch is meant: it restores the original value downstream.
    """
    found: dict[int, str] = {}
    useful = set(plan.edited)
    for target, source, positions, same_positions in plan.patches:
        ids, others = list(reply.header.rows[target].token_ids), list(reply.header.rows[source].token_ids)
        # Of a row that begins with activations tokens say nothing.
        starts = any(plan.request.prompts[row].HasField("activations") for row in (target, source))
        where = resolve(positions, len(ids)) if same_positions and not starts else None
        if where and ids[: where[-1] + 1] == others[: where[-1] + 1]:
            found[target] = (
                f"patching prompt {target} changes nothing: up to the patched position {where[-1]}, the source has the same tokens as the prompt; "
                "model.differing_positions(clean, corrupt) says where two prompts differ"
            )
        else:
            useful.add(target)
    return [message for target, message in found.items() if target not in useful]
