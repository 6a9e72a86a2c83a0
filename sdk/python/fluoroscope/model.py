"""A model on the server: what it is, its tokens, and runs with captures and interventions."""

from __future__ import annotations

import re
import warnings as python_warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from fluoroscope import generate_request, subspace
from fluoroscope._proto.v1 import inference_pb2, models_pb2, plan_pb2
from fluoroscope.assemble import Assembler, Bfloat16
from fluoroscope.cache import ActivationCache
from fluoroscope.causal_trace import CausalTrace, causal_trace
from fluoroscope.chat import ChatTemplate, Message
from fluoroscope.client import Client
from fluoroscope.errors import FluoroscopeWarning
from fluoroscope.generate import METHOD as _GENERATE
from fluoroscope.generate import Generation
from fluoroscope.handles import Handle, Handles, keep, put
from fluoroscope.hooks import Hook, HookTable
from fluoroscope.interventions import Intervention
from fluoroscope.logit_attribution import LogitAttribution, logit_attrs, single_token
from fluoroscope.logit_lens import LogitLens, logit_lens
from fluoroscope.logits import LogitsChoice, top_message
from fluoroscope.metrics import Metric
from fluoroscope.names import HookKey, hook_name
from fluoroscope.patching import Patching, check_options
from fluoroscope.ragged import Ragged
from fluoroscope.requests import CaptureChoice, Plan, Reduction, build, starts
from fluoroscope.results import Estimate, Metrics, ModelInfo, Provenance, RunResult, Timing, TopToken, TopTokens
from fluoroscope.selections import Bos, Positions, Prompts, Where, as_ints, as_prompts, prompt_messages, resolve
from fluoroscope.subspace import SubspaceEffects
from fluoroscope.weights import Weights
from fluoroscope.wire import Reply, read_reply

# A hook name or glob, several of them, a function of the full name that says which to keep, or None.
NamesFilter = str | Sequence[str] | Callable[[str], bool] | None

_COPY_WARNING = re.compile(r"interventions\[\d+\] copies row \d+ to row \d+, but both have the same tokens")
_FORWARD = "/fluoroscope.v1.Inference/Forward"
_ESTIMATE = "/fluoroscope.v1.Inference/Estimate"
# TransformerLens keeps these only when asked for by configuration: they repeat other tensors once per head.
_NOT_BY_DEFAULT = ("attn.hook_result", "hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in")


class Model(Patching):
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

    # Tokens.

    def tokenize(self, prompts: Prompts, *, bos: Bos = None, parse_special_tokens: bool = False) -> list[int] | list[list[int]]:
        """The token ids that a run of these prompts would use: one list, or one per prompt for a list of prompts.

        Args:
          bos: None or "default": what the tokenizer does by default; "always" (True) or "never" (False).
          parse_special_tokens: special tokens written in the text, such as "<|im_start|>", become their ids; else they are plain text.
        """
        rows, single = self._rows(prompts, bos, parse_special_tokens)
        ids = [list(row.token_ids) for row in rows]
        return ids[0] if single else ids

    def to_str_tokens(self, prompts: Prompts, *, bos: Bos = None, parse_special_tokens: bool = False) -> list[str] | list[list[str]]:
        """The same as text, each token decoded on its own: one list, or one per prompt for a list of prompts."""
        rows, single = self._rows(prompts, bos, parse_special_tokens)
        texts = [list(row.tokens) for row in rows]
        return texts[0] if single else texts

    def to_single_token(self, text: str) -> int:
        """The id of a text that is exactly one token; ValueError, with its pieces, when it is not."""
        return single_token(self, text)

    def detokenize(self, ids: Prompts, *, skip_special_tokens: bool = False) -> str | list[str]:
        """The text of token ids: one text, or one per list for a list of lists."""
        rows, single = as_prompts(ids)
        messages = []
        for row in rows:
            if not isinstance(row, list):
                raise ValueError("detokenize takes token ids, not text")
            messages.append(plan_pb2.TokenIds(ids=row))
        request = models_pb2.DetokenizeRequest(model=self.name, rows=messages, skip_special_tokens=skip_special_tokens)
        texts = list(self._client.unary("/fluoroscope.v1.Models/Detokenize", request, models_pb2.DetokenizeReply).texts)
        return texts[0] if single else texts

    def differing_positions(
        self, clean: Prompts, corrupt: Prompts, *, bos: Bos = None, parse_special_tokens: bool = False
    ) -> list[int] | list[list[int]]:
        """The positions at which two prompts have different tokens, ascending. For two lists of prompts: one list per pair.

        Raises:
          ValueError: the prompts have different numbers of tokens, so that a position does not mean the same in both.
        """
        rows, single = as_prompts(clean)
        others, other_single = as_prompts(corrupt)
        if (len(rows), single) != (len(others), other_single):
            raise ValueError(f"clean has {len(rows)} prompts and corrupt {len(others)}; give one each, or two lists of the same length")
        reply, _ = self._rows([*rows, *others], bos, parse_special_tokens)
        found = []
        for number, (a, b) in enumerate(zip(reply[: len(rows)], reply[len(rows) :], strict=True)):
            if len(a.token_ids) != len(b.token_ids):
                raise ValueError(_unequal(a, b, None if single else number))
            found.append([i for i, (x, y) in enumerate(zip(a.token_ids, b.token_ids, strict=True)) if x != y])
        return found[0] if single else found

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

    def generate(
        self,
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
        timeout: float | None = None,
    ) -> Generation:
        """Lets prompts go on: `for token in model.generate("Once upon a time", max_new_tokens=40): print(token.text, end="")`.

        Args:
          max_new_tokens: of each continuation; it and the prompt must fit the model's context.
          temperature: 0 takes the most likely token each time. Over 0 tokens are drawn.
          top_k, top_p, min_p: draw only from the k most likely; from the most likely that have the probability p together; from those at least p times as
            likely as the most likely one. In this order, behind the temperature, as in transformers.
          repetition_penalty: over 1 makes tokens that were there already less likely, also in the prompt.
          seed: the same prompt and seed give the same tokens, alone and in any batch. Default: a new one each time.
          samples: continuations of each prompt.
          stop: a continuation ends where its text contains this, or one of these.
          ignore_eos: go on behind the model's end-of-sequence tokens.
          top_logprobs: so many of the most likely tokens, with each token.
          interventions: as in run_with_hooks. Their positions may be "prompt", "generated" or "all" (the default: both). Kinds that take values from another
            prompt act on the prompt's tokens only.
          names_filter, positions, layers, heads, reduction: activations to keep, as in run_with_hooks; positions as of interventions.
          isolated: each continuation steps alone and nothing is reused from earlier generations: a repeat gives the same bits.

        Returns:
          An iterator of GeneratedToken. `.text` reads to the end and gives the whole.

        Raises:
          InvalidArgumentError: an argument is out of range; the message says what is allowed.
        """
        plan, request = generate_request.request_of(
            self, prompts, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
            seed=seed, samples=samples, stop=stop, ignore_eos=ignore_eos, top_logprobs=top_logprobs, interventions=interventions,
            names_filter=names_filter, positions=positions, layers=layers, heads=heads, reduction=reduction, bos=bos,
            parse_special_tokens=parse_special_tokens, isolated=isolated,
        )  # fmt: skip
        return Generation(plan, request, self._client.stream(_GENERATE, request, timeout), self.info.layers)

    def estimate_generate(self, prompts: Prompts, max_new_tokens: int = 64, **options: Any) -> Estimate:
        """What `generate` with these arguments would cost, without running it: as if every continuation took all its tokens and nothing were reused."""
        check_options("estimate_generate", options, Model.generate, but=("self", "prompts", "max_new_tokens", "timeout"))
        return generate_request.estimate(self, prompts, max_new_tokens, **options)

    def chat(self, messages: Sequence[Message], max_new_tokens: int = 64, **options: Any) -> Generation:
        """The model's answer in a conversation: `model.chat([{"role": "user", "content": "What is the capital of France?"}]).text`.

        Args:
          messages: what was said so far, oldest first: {"role": "system", "user" or "assistant", "content": text}.
          options: the other arguments of `generate` but `bos` and `parse_special_tokens`: the model's template writes its special tokens itself, a BOS
            too, and nothing is added to it. Special tokens that a message's content spells out are read as such, as in transformers.

        Raises:
          FailedPreconditionError: the model has no chat template.
        """
        check_options("chat", options, Model.generate, but=("self", "prompts", "max_new_tokens", "bos", "parse_special_tokens"))
        return self.generate(self.chat_text(messages), max_new_tokens, bos="never", parse_special_tokens=True, **options)

    def chat_text(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any) -> str:
        """The text that the model's chat template makes of a conversation, up to where the answer begins. `variables` are for the template."""
        return self._chat_template.render(messages, add_generation_prompt=add_generation_prompt, **variables)

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

    def _build(self, prompts: Prompts, **choices: Any) -> Plan:
        return build(self.name, prompts, layers=self.info.layers, **choices)

    def _capture(
        self, names_filter: NamesFilter, positions: Positions, layers: int | Sequence[int], heads: int | Sequence[int], reduction: Reduction,
        grad_of: Metric | None = None,
    ) -> CaptureChoice | None:
        if isinstance(names_filter, Sequence) and len(names_filter) == 0:
            if grad_of is not None:
                raise ValueError("grad_of needs names_filter: the hook points whose gradients are wanted")
            return None
        chosen = as_ints(layers)
        return CaptureChoice(self._sites(names_filter, chosen), positions, chosen, as_ints(heads), reduction, grad_of=grad_of)

    def _behind(self, start_at: HookKey, chosen: Callable[[str], bool] | None) -> list[str]:
        """Hook points from the start of a run on that a function chooses, or that are kept by default."""
        names, start = self._hooks.names(), hook_name(start_at, self.info.layers)
        behind = names[names.index(start) :] if start in names else names  # the server says what is wrong with the start
        return [name for name in behind if (chosen(name) if chosen else not name.endswith(_NOT_BY_DEFAULT))]

    def _sites(self, names_filter: NamesFilter, layers: Sequence[int]) -> list[str]:
        if isinstance(names_filter, str):
            return [names_filter]
        if isinstance(names_filter, tuple) and len(names_filter) > 1 and isinstance(names_filter[1], int):
            return [hook_name(names_filter, self.info.layers)]
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
        return [hook_name(name, self.info.layers) if isinstance(name, tuple) else name for name in names_filter]

    def _call(self, plan: Plan, bfloat16: Bfloat16, timeout: float | None) -> tuple[Reply, Assembler]:
        assembler = Assembler(plan.rows, bfloat16)
        messages = self._client.stream(_FORWARD, plan.request, timeout)
        try:
            return read_reply(messages, assembler.allocate), assembler
        finally:
            messages.close()  # cancels the call if reading it failed

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
            self,
        )
        logits = cast("np.ndarray | Ragged", assembler.value("logits", single)) if "logits" in names else None
        return RunResult(logits, _metrics(plan, reply), cache, provenance, Timing.of(reply.summary), self._warn(plan, reply))

    def _warn(self, plan: Plan, reply: Reply) -> tuple[str, ...]:
        # The server's own warning about a patch between equal rows speaks of row numbers that this package made up; ours speaks of prompts.
        messages = [message for message in reply.summary.warnings if not _COPY_WARNING.match(message)]
        messages += _useless_patches(plan, reply)
        for message in messages:
            python_warnings.warn(message, FluoroscopeWarning, stacklevel=4)
        return tuple(messages)

    def _rows(self, prompts: Prompts, bos: Bos, parse_special_tokens: bool) -> tuple[list[models_pb2.TokenizeReply.Row], bool]:
        rows, single = as_prompts(prompts)
        request = models_pb2.TokenizeRequest(model=self.name, prompts=prompt_messages(rows, bos, parse_special_tokens))
        return list(self._client.unary("/fluoroscope.v1.Models/Tokenize", request, models_pb2.TokenizeReply).rows), single


def _metrics(plan: Plan, reply: Reply) -> Metrics:
    values: dict[str, list[tuple[int, int, float]]] = {}
    for value in reply.summary.metrics:
        values.setdefault(value.name, []).append((value.row, value.position, value.value))
    found = {}
    for metric, names in plan.metrics.items():
        rows: list[list[float]] = [[] for _ in range(plan.rows)]
        for index, _, number in sorted(entry for name in names for entry in values.get(name, [])):
            rows[index].append(number)
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


def _unequal(a: models_pb2.TokenizeReply.Row, b: models_pb2.TokenizeReply.Row, number: int | None) -> str:
    first = next((i for i, (x, y) in enumerate(zip(a.token_ids, b.token_ids, strict=False)) if x != y), min(len(a.token_ids), len(b.token_ids)))
    which = "the prompts" if number is None else f"the prompts of pair {number}"
    shown = [" | ".join(row.tokens[max(0, first - 2) : first + 4]) for row in (a, b)]
    return (
        f"{which} have {len(a.token_ids)} and {len(b.token_ids)} tokens, so a position does not mean the same in both. They part at position {first}:\n"
        f"  clean:   … {shown[0]} …\n  corrupt: … {shown[1]} …\n"
        "Change one so that they have the same number of tokens (names of one token each: model.to_str_tokens shows them), or patch with explicit "
        "`positions` and `source_positions`."
    )
