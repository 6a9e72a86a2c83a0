"""A model on the server: what it is, and runs with captures and interventions. Tokens, generation and grids are in modules of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from fluoroscope import subspace
from fluoroscope._proto.v1 import inference_pb2, models_pb2
from fluoroscope.assemble import Assembler, Bfloat16
from fluoroscope.cache import ActivationCache
from fluoroscope.causal_trace import CausalTrace, causal_trace
from fluoroscope.chat import ChatTemplate
from fluoroscope.client import Client
from fluoroscope.generating import Generating
from fluoroscope.handles import Handle, Handles, keep, put
from fluoroscope.hooks import Hook, HookTable
from fluoroscope.interventions import Intervention
from fluoroscope.logit_attribution import LogitAttribution, logit_attrs
from fluoroscope.logit_lens import LogitLens, logit_lens
from fluoroscope.logits import LogitsChoice, top_message
from fluoroscope.metrics import Metric
from fluoroscope.names import HookKey
from fluoroscope.patching import Patching
from fluoroscope.ragged import Ragged
from fluoroscope.requests import Reduction, starts
from fluoroscope.results import Estimate, ModelInfo, RunResult, TopToken, TopTokens
from fluoroscope.running import NamesFilter
from fluoroscope.selections import Bos, Positions, Prompts, Where
from fluoroscope.subspace import SubspaceEffects
from fluoroscope.weights import Weights
from fluoroscope.wire import read_reply

_ESTIMATE = "/fluoroscope.v1.Inference/Estimate"


class Model(Generating, Patching):
    """A model that the server has in memory; made by `client.model(name)`. Thread-safe.

    Wherever a prompt is expected, text or token ids do, or a list of either for several prompts in one request. Token ids run exactly as given. Text gets
    a BOS exactly when the model's tokenizer adds one by default; `bos="always"` or `"never"` changes that. (TransformerLens puts a BOS in front of
    every text, so numbers differ from it unless `bos` says the same.)

    Attributes:
      name: its name on this server.
      info: sizes, dtype, device and hashes.
    """

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name
        reply = client.unary("/fluoroscope.v1.Models/GetModel", models_pb2.GetModelRequest(model=name), models_pb2.GetModelReply)
        self.info = ModelInfo.of(reply.info)
        self._weights: Weights | None = None
        self._hooks = HookTable([Hook.of(site) for site in reply.sites], self.info.layers)
        self._chat_template = ChatTemplate.of(name, reply)

    def hooks(self) -> HookTable:
        """The hook points of this model, with their equations and shapes. Prints as a table."""
        return self._hooks

    @property
    def weights(self) -> Weights:
        """The weights by TransformerLens's names: `model.weights["blocks.3.attn.W_Q"]`, or a part: `model.weights["blocks.3.attn.W_Q", 2, :, :10]`.

        float32 for a float32 or bfloat16 model. `print(model.weights)` shows names and shapes.
        """
        if self._weights is None:
            request = models_pb2.ListWeightsRequest(model=self.name)
            reply = self._client.unary("/fluoroscope.v1.Models/ListWeights", request, models_pb2.ListWeightsReply)
            self._weights = Weights(self.name, reply.weights, self._read_weight)
        return self._weights

    # Runs.

    def run_with_cache(
        self,
        prompts: Prompts,
        names_filter: NamesFilter = None,
        *,
        positions: Positions = None,
        layers: int | Sequence[int] = (),
        heads: int | Sequence[int] = (),
        reduction: Reduction = None,
        grad_of: Metric | None = None,
        logits: LogitsChoice = "all",
        remove_batch_dim: bool = False,
        bos: Bos = None,
        parse_special_tokens: bool = False,
        bfloat16: Bfloat16 = "float32",
        isolated: bool = False,
        timeout: float | None = None,
    ) -> tuple[np.ndarray | Ragged | None, ActivationCache]:
        """Runs prompts and keeps activations. Only what is asked for is computed, kept and sent.

        Args:
          prompts: one prompt or a list of them.
          names_filter: which hook points to keep: a name ("blocks.5.hook_resid_pre"), a glob ("blocks.*.attn.hook_pattern"), a list of these, or a function
            of the full name. Default: all that TransformerLens keeps by default.
          positions: which positions to keep (query positions of scores and patterns). Default: all. See fs.Positions.
          layers, heads: narrow the choice further. Negative layers count from the last. `heads` needs hook points with a head axis.
          reduction: done on the server before anything is sent: "last" (each prompt's last position), fs.TopK(k) or fs.Dot(directions).
          grad_of: a metric, such as fs.metrics.logit_diff(" Mary", " John"). The cache then also has its gradient at the same places, as float32 with the
            same shape: `cache["blocks.3.hook_resid_pre_grad"]`. Of each prompt's own metric; of the sum over its positions when it has several.
          logits: "all" (as in TransformerLens), "last", positions, fs.Logits(positions, tokens), or None. For long prompts "all" is the largest part of
            the reply.
          remove_batch_dim: drop the batch axis; for a single prompt.
          bos, parse_special_tokens: see tokenize.
          bfloat16: what a bf16 model's values become: "float32" (exact), or "ml_dtypes" to keep them.
          isolated: run each prompt alone, so that a repeat gives the same bits.
          timeout: seconds; default: the client's.

        Returns:
          (logits, cache). Logits are [batch, positions, vocabulary or chosen tokens], float32 for a float32 model. Prompts of unequal length give a
          Ragged wherever sizes differ.

        Raises:
          NotFoundError: a name or layer does not exist, or a glob matches nothing; the message says what does.
          InvalidArgumentError: a position, head or token is out of range; the message says what is allowed.
          FailedPreconditionError: this model does not have the hook point; the message says why.
          ResourceExhaustedError: too large for the server; `estimate` says how large.
        """
        capture = self._capture(names_filter, positions, layers, heads, reduction, grad_of)
        plan = self._build(prompts, capture=capture, logits=logits, bos=bos, parse_special_tokens=parse_special_tokens, isolated=isolated)
        if remove_batch_dim and plan.rows != 1:
            raise ValueError(f"remove_batch_dim is for one prompt; there are {plan.rows}")
        result = self._run(plan, bfloat16, remove_batch_dim, timeout)
        return result.logits, result.cache

    def run_with_hooks(
        self,
        prompts: Prompts,
        interventions: Sequence[Intervention] = (),
        *,
        metrics: Sequence[Metric] = (),
        names_filter: NamesFilter = (),
        positions: Positions = None,
        layers: int | Sequence[int] = (),
        heads: int | Sequence[int] = (),
        reduction: Reduction = None,
        grad_of: Metric | None = None,
        logits: LogitsChoice = "last",
        bos: Bos = None,
        parse_special_tokens: bool = False,
        bfloat16: Bfloat16 = "float32",
        isolated: bool = False,
        timeout: float | None = None,
    ) -> RunResult:
        """Runs prompts with interventions and returns logits, metrics and, if asked for, activations of the edited run.

        Args:
          interventions: fs.patch(...), fs.zero(...), fs.add(...) and the others, in the order in which they act.
          metrics: fs.metrics.logit_diff(...), fs.metrics.kl() and the others; computed on the server.
          names_filter, positions, layers, heads, reduction, grad_of: activations to keep, as in run_with_cache. Default: none (None keeps what
            run_with_cache keeps by default). Gradients are those of the edited run, in the values behind the edits.
          logits: as in run_with_cache; default: each prompt's last position. None: metrics only.
          prompts, bos, parse_special_tokens, bfloat16, isolated, timeout: as in run_with_cache.

        Returns:
          A RunResult: `logits` [batch, positions, vocabulary or chosen tokens] as in run_with_cache; `metrics`, each [batch] or [batch, positions]; `cache`,
          with a batch axis also for one prompt; `provenance`, `timing` and `warnings`. The sources of patches are not among the prompts of any of them.

        Raises:
          NotFoundError: a name or layer does not exist, or a glob matches nothing; the message says what does.
          InvalidArgumentError: a position, head, unit or token is out of range, a value does not fit its place or is not finite, or a source is too short;
            the message names the intervention or metric and says what is allowed.
          FailedPreconditionError: this model does not have the hook point, or it can be read but not edited; the message says why.
          ResourceExhaustedError: too large for the server, or its queue is full; `estimate` says how large.
          ValueError: the arguments contradict each other; found before anything is sent.

        Warns:
          FluoroscopeWarning: a patch cannot change anything, because its source has the same tokens as the prompt up to the patched positions.
        """
        capture = self._capture(names_filter, positions, layers, heads, reduction, grad_of)
        plan = self._build(prompts, interventions=interventions, metrics=metrics, capture=capture, logits=logits, bos=bos,
                           parse_special_tokens=parse_special_tokens, isolated=isolated)
        return self._run(plan, bfloat16, False, timeout)

    def run(
        self,
        *,
        start_at: HookKey,
        value: ArrayLike | Sequence[ArrayLike],
        tokens: Prompts = (),
        interventions: Sequence[Intervention] = (),
        metrics: Sequence[Metric] = (),
        names_filter: NamesFilter = (),
        positions: Positions = None,
        layers: int | Sequence[int] = (),
        heads: int | Sequence[int] = (),
        reduction: Reduction = None,
        grad_of: Metric | None = None,
        logits: LogitsChoice = "last",
        bfloat16: Bfloat16 = "float32",
        isolated: bool = False,
        timeout: float | None = None,
    ) -> RunResult:
        """Runs on from the middle of the model, with activations of your own. (`fs.Start` is the same as a prompt, also for sources of patches.)

        Args:
          start_at: "blocks.7.hook_resid_pre" (or ("resid_pre", 7)), or a hook_resid_mid. What lies in front of it does not exist in such a run.
          value: [positions, d_model] for one prompt, [batch, positions, d_model] or a list of arrays for several.
          tokens: ids that the positions stand for, one list per prompt; needed only for positions by content, cross-entropy and labels.
          names_filter: as in run_with_hooks; None and functions choose among the hook points from the start on.
          The others: as in run_with_hooks.
        """
        rows, single = starts(start_at, value, tokens)
        if names_filter is None or callable(names_filter):
            names_filter = self._behind(start_at, names_filter)
        capture = self._capture(names_filter, positions, layers, heads, reduction, grad_of)
        prompts = rows[0] if single else rows
        plan = self._build(prompts, interventions=interventions, metrics=metrics, capture=capture, logits=logits, isolated=isolated)
        return self._run(plan, bfloat16, False, timeout)

    def subspace_effects(
        self,
        prompts: Prompts,
        where: Where,
        directions: ArrayLike,
        *,
        source: Prompts,
        metrics: Sequence[Metric],
        source_positions: Positions = None,
        bos: Bos = None,
        parse_special_tokens: bool = False,
        timeout: float | None = None,
    ) -> SubspaceEffects:
        """Subspace patching, and what its parts do alone: a guard against interpretability illusions. One request.

        Args:
          where: "blocks.5.mlp.hook_post" or a part of it, or one head of a z: fs.at("blocks.5.attn.hook_z", heads=3).
          directions, source, source_positions: as in fs.swap_subspace.
          metrics: what to compare.

        Raises:
          InvalidArgumentError: no single matrix reads the place.
        """
        chosen = [metrics] if isinstance(metrics, Metric) else list(metrics)
        rows, edits, repeated = subspace.copies(prompts, where, directions, source, source_positions, chosen)
        result = self.run_with_hooks(rows, edits, metrics=repeated, logits=None, bos=bos, parse_special_tokens=parse_special_tokens, timeout=timeout)
        return SubspaceEffects.of(chosen, result.metrics)

    def top_tokens(
        self,
        prompts: Prompts,
        k: int = 10,
        *,
        position: int | str = "last",
        interventions: Sequence[Intervention] = (),
        bos: Bos = None,
        parse_special_tokens: bool = False,
        timeout: float | None = None,
    ) -> TopTokens | list[TopTokens]:
        """The k most likely tokens to follow a position (default: the prompt), with logits and log-probabilities over the whole vocabulary.

        One TopTokens, or one per prompt for a list of prompts. Prints as a small bar chart.
        """
        plan = self._build(prompts, interventions=interventions, bos=bos, parse_special_tokens=parse_special_tokens)
        plan.request.logits.CopyFrom(top_message(k, position, plan.rows))
        reply, assembler = self._call(plan, "float32", timeout)
        self._warn(plan, reply)
        ids, logits, logprobs = (np.asarray(assembler.value(name))[:, 0] for name in ("top.tokens", "top.logits", "top.logprobs"))
        texts, _ = self._rows(ids.tolist(), None, False)
        found = [
            TopTokens([TopToken(text, int(i), float(x), float(p)) for text, i, x, p in zip(row.tokens, *columns, strict=True)])
            for row, *columns in zip(texts, ids, logits, logprobs, strict=True)
        ]
        return found[0] if plan.single else found

    def keep(self, prompts: Prompts, names_filter: NamesFilter, *, ttl: int = 600, **options: Any) -> Handle | Handles:
        """Runs prompts and leaves activations on the server: `with model.keep(prompt, "blocks.5.hook_resid_pre") as handle:`.

        Args:
          names_filter: as in run_with_cache.
          ttl: seconds to live. Nothing renews a handle in the background; `handle.renew()` does when it is called.
          options: interventions, positions, layers, heads, bos, parse_special_tokens, isolated, timeout: as in run_with_hooks. last=True keeps only each
            prompt's last position.

        Returns:
          A Handle for one prompt and one hook name; else Handles, a dict of them by hook name. Both delete on leaving `with`.

        Raises:
          ResourceExhaustedError: over this client's or the server's limit on handles; the message has both numbers. Nothing has run then.
        """
        return keep(self, prompts, names_filter, ttl=ttl, **options)

    def put(self, site: HookKey, value: ArrayLike, *, tokens: Sequence[int] = (), ttl: int = 600, **options: Any) -> Handle:
        """Uploads activations of one prompt: `model.put("blocks.5.hook_resid_pre", array, tokens=ids)`.

        Args:
          value: the axes of the hook point (`model.hooks()`), finite. Converted to the dtype the hook point has in this model, unless `dtype` says another
            ("f32", "bf16", ...), with which it can be stored and read but not used as a source.
          tokens: ids that the positions stand for, one each; needed only for positions by content.
          ttl: as in keep.
          options: positions (which ones of a prompt these are, ascending; default: 0, 1, 2, ...), heads and units (when only some are given), dtype, timeout.

        Raises:
          InvalidArgumentError: the shape is not the hook point's, or a number is NaN or infinite; the message says where.
        """
        return put(self, site, value, tokens=tokens, ttl=ttl, **options)

    def estimate(
        self,
        prompts: Prompts,
        names_filter: NamesFilter = (),
        *,
        interventions: Sequence[Intervention] = (),
        metrics: Sequence[Metric] = (),
        positions: Positions = None,
        layers: int | Sequence[int] = (),
        heads: int | Sequence[int] = (),
        reduction: Reduction = None,
        grad_of: Metric | None = None,
        logits: LogitsChoice = None,
        bos: Bos = None,
        parse_special_tokens: bool = False,
        isolated: bool = False,
    ) -> Estimate:
        """What such a run would cost, without running it. Arguments as in run_with_hooks; a wrong request gives the same errors."""
        capture = self._capture(names_filter, positions, layers, heads, reduction, grad_of)
        plan = self._build(prompts, interventions=interventions, metrics=metrics, capture=capture, logits=logits, bos=bos,
                           parse_special_tokens=parse_special_tokens, isolated=isolated)
        return Estimate.of(self._client.unary(_ESTIMATE, plan.request, inference_pb2.EstimateReply))

    def __repr__(self) -> str:
        info = self.info
        return (
            f"Model({self.name!r}: {info.family}, {info.layers} layers, {info.heads} heads, d_model {info.d_model}, "
            f"{info.parameters / 1e6:.1f} M parameters, {info.dtype} on {info.device})"
        )

    def causal_trace(
        self, prompt: Prompts, subject: str | Positions | Sequence[Any], metric: Metric | Sequence[Metric] | None = None, **options: Any
    ) -> CausalTrace:
        """Causal tracing with noise (ROME); see fluoroscope.causal_trace.causal_trace for the arguments."""
        return causal_trace(self, prompt, subject, metric, **options)

    def logit_lens(self, prompt: Prompts, **options: Any) -> LogitLens:
        """What the model would say after each layer (logit lens), computed on the server; see fluoroscope.logit_lens.logit_lens for the arguments."""
        return logit_lens(self, prompt, **options)

    def logit_attrs(self, prompts: Prompts, answer: Any, foil: Any = None, **options: Any) -> LogitAttribution:
        """Direct logit attribution of every component, head or neuron, computed on the server; see fluoroscope.logit_attribution.logit_attrs."""
        return logit_attrs(self, prompts, answer, foil, **options)

    # The parts of a run.

    def _read_weight(self, request: models_pb2.ReadWeightsRequest) -> np.ndarray:
        assembler = Assembler(rows=1)
        messages = self._client.stream("/fluoroscope.v1.Models/ReadWeights", request)
        try:
            read_reply(messages, assembler.allocate)
        finally:
            messages.close()  # cancels the call if reading it failed
        return cast(np.ndarray, assembler.value(request.name, single=True))
