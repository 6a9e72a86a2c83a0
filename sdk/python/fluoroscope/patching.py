"""What a model's sweeps, path patching and attribution are asked with: requests that are answered with the cells of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack, cast, overload

from fluoroscope import options as keywords
from fluoroscope import paths
from fluoroscope import sweep as sweeps
from fluoroscope._proto.v1 import attribution_pb2, patching_pb2
from fluoroscope.align import align
from fluoroscope.hooks import HookTable
from fluoroscope.indices import two, whole
from fluoroscope.jobs import Job, submit_paths, submit_sweep
from fluoroscope.metrics import Metric
from fluoroscope.path_result import PathResult
from fluoroscope.results import ModelInfo
from fluoroscope.selections import Prompts
from fluoroscope.sweep import SweepOptions
from fluoroscope.sweep_reader import read_paths, read_sweep
from fluoroscope.sweep_result import SweepEstimate, SweepResult
from fluoroscope.tokens import Tokens

_SWEEP = "/fluoroscope.v1.Patching/Sweep"
_ATTRIBUTE = "/fluoroscope.v1.Attribution/Attribute"
_ATTRIBUTE_EDGES = "/fluoroscope.v1.Attribution/AttributeEdges"
_PATH_PATCH = "/fluoroscope.v1.Patching/PathPatch"
_ESTIMATE_PATH_PATCH = "/fluoroscope.v1.Patching/EstimatePathPatch"
_ESTIMATE_SWEEP = "/fluoroscope.v1.Patching/EstimateSweep"

ATTRIBUTION_METHODS = {
    "atp": attribution_pb2.ATTRIBUTION_METHOD_ATTRIBUTION_PATCHING,
    "ig": attribution_pb2.ATTRIBUTION_METHOD_INTEGRATED_GRADIENTS,
    "grad_x_input": attribution_pb2.ATTRIBUTION_METHOD_GRADIENT_TIMES_INPUT,
    "qk_fix": attribution_pb2.ATTRIBUTION_METHOD_QK_FIX,
    "atp*": attribution_pb2.ATTRIBUTION_METHOD_ATP_STAR,
    "ig_activations": attribution_pb2.ATTRIBUTION_METHOD_INTEGRATED_GRADIENTS_ACTIVATIONS,
}
EDGE_METHODS = {
    "eap": attribution_pb2.EDGE_METHOD_EAP,
    "eap_ig": attribution_pb2.EDGE_METHOD_EAP_IG,
    "eap_ig_activations": attribution_pb2.EDGE_METHOD_EAP_IG_ACTIVATIONS,
}


class Patching(Tokens):
    """The part of a Model that asks for grids; see Model."""

    info: ModelInfo
    _hooks: HookTable

    @overload
    def sweep(
        self,
        clean: Prompts | None,
        corrupt: Prompts | None,
        site: str | Sequence[str] = "resid_pre",
        over: Sequence[str] = ("layer", "position"),
        metric: Metric | Sequence[Metric] = (),
        *,
        progress: bool | None = None,
        timeout: float | None = None,
        as_job: Literal[False] = False,
        **options: Unpack[SweepOptions],
    ) -> SweepResult: ...

    @overload
    def sweep(
        self,
        clean: Prompts | None,
        corrupt: Prompts | None,
        site: str | Sequence[str] = "resid_pre",
        over: Sequence[str] = ("layer", "position"),
        metric: Metric | Sequence[Metric] = (),
        *,
        progress: bool | None = None,
        timeout: float | None = None,
        as_job: Literal[True],
        **options: Unpack[SweepOptions],
    ) -> Job[SweepResult]: ...

    @keywords.shows(SweepOptions, sweeps.DEFAULTS)
    def sweep(
        self,
        clean: Prompts | None,
        corrupt: Prompts | None,
        site: str | Sequence[str] = "resid_pre",
        over: Sequence[str] = ("layer", "position"),
        metric: Metric | Sequence[Metric] = (),
        *,
        progress: bool | None = None,
        timeout: float | None = None,
        as_job: bool = False,
        **options: Unpack[SweepOptions],
    ) -> SweepResult | Job[SweepResult]:
        """Activation patching over a whole grid in one request: each cell is the base run with one place changed, and what the metric then says.

        The server computes of each cell only what differs from the base run, so a sweep costs little more than a few forward passes.

        Args:
          clean, corrupt: two prompts, or two lists of prompts for a data set of pairs. With `source` the one that values would come from may be None.
          site: what is patched, by its name without the layer: "resid_pre", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern", or a full name such as
            "attn.hook_z". Several of them make "site" an axis.
          over: the axes of the result, outermost first: "layer", "position", "head", "site", "unit" (entries of the last axis: neurons, or residual
            dimensions), and for "pattern" and "attn_scores" "source" (the position that is attended to). What is not an axis is patched at all its places
            together. Cells that change two heads at once: ("layer", "head", "second_layer", "second_head"), or two layers: ("layer", "second_layer").
            (a, b) and (b, a) are run once, and where both are the same the cell is the single change.
          metric: fs.metrics.logit_diff(...), or several; each is read at one position (default: the last). fs.metrics.kl() and its like compare with the base
            run, or with the source run when `reference` is its prompt.
          direction: "denoise" patches clean values into the corrupt run (what restores the answer?); "noise" the other way round (what breaks it?).
          kind: "patch"; or an ablation: "zero", "mean" (over all positions of all `references`), "resample" (the same place of one of the `references`,
            drawn for each pair by `seed`).
          layers, heads, second_layers, second_heads, positions: narrow the axes; the second ones are by default as the first. Positions are those of the
            prompt that is run, corrupt for "denoise".
          groups: named places on the position axis instead of single positions: {"subject": [1, 3], "end": "last"}; for several pairs also one entry per pair.
          source: handles whose values are patched in, instead of a prompt's: one for each hook point of the grid, such as `model.keep(prompt,
            "blocks.*.hook_resid_pre")` or a list of model.put's. For several pairs one entry per pair, or what model.keep made of as many prompts. The source
            prompt, if there is one, then only serves to compare with; without it the result has no `source` and cannot be normalised.
          source_positions: for prompts of unequal length: for each position of the prompt that is run, the position of the other (of `source`: of the
            sequence that its values come from) that its value comes from, -1 for none; one list per pair.
          units: only these entries of the last axis. `unit_block`: so many adjacent ones of them are one place on the "unit" axis.
          references: prompts that means and resampled values come from. Default: those of the other side, of all pairs (resample: of the other pairs).
          window: patch so many adjacent layers together, from the cell's own on; `window_before` of them lie in front of it.
          corrupt_with: edits of the corrupt prompts' own runs at "hook_embed" or "hook_pos_embed", such as fs.noise(...); the corrupt prompt may then be the
            clean one.
          precision: "model" (its own numbers), or "fast": matrix products in bfloat16, residual stream in float32. Then the `recheck` cells farthest from the
            base run and as many others, drawn at random by `seed`, are run again in float32 (a pair gives both numbers), and the result's `precision`
            says how far they were off.
          bos, parse_special_tokens: see tokenize.
          progress: show a bar. Default: on a terminal or in a notebook, when the sweep takes more than a second.
          as_job: have the server keep the sweep and its results, and give an fs.Job at once: it goes on without this process, and after a restart of the
            server; `job.result()` waits for what would be returned here. The server needs a directory for jobs, and `fs.connect` a `principal` for another
            process to find the job.

        Raises:
          InvalidArgumentError: the prompts have unequal lengths and no source_positions; an axis does not fit the site; a position is out of range.
            A handle of `source` is of another model, hook point or dtype, lacks something that cells patch, or holds NaN or infinity; or it is given to a job.
          NotFoundError: a handle of `source` has ended.
          FailedPreconditionError: this model does not have the site.
          ResourceExhaustedError: too many cells, or too large for the server; `estimate_sweep` says how large.

        Warns:
          FluoroscopeWarning: a pair's prompts have the same tokens.
        """
        keywords.check(Patching.sweep, options, SweepOptions.__annotations__)
        plan = sweeps.build(self.name, clean, corrupt, site=site, over=over, metric=metric, hooks=self._hooks, **options)
        if as_job:
            return submit_sweep(self._client, plan)
        return read_sweep(plan, self._client.stream(_SWEEP, plan.request, timeout), progress)

    @keywords.shows(SweepOptions, sweeps.DEFAULTS)
    def estimate_sweep(
        self,
        clean: Prompts | None,
        corrupt: Prompts | None,
        site: str | Sequence[str] = "resid_pre",
        over: Sequence[str] = ("layer", "position"),
        metric: Metric | Sequence[Metric] = (),
        **options: Unpack[SweepOptions],
    ) -> SweepEstimate:
        """What such a sweep would cost, without running it. Arguments as in `sweep`; a wrong request gives the same errors."""
        keywords.check(Patching.estimate_sweep, options, SweepOptions.__annotations__)
        plan = sweeps.build(self.name, clean, corrupt, site=site, over=over, metric=metric, hooks=self._hooks, **options)
        return SweepEstimate.of(self._client.unary(_ESTIMATE_SWEEP, plan.request, patching_pb2.SweepEstimate))

    @overload
    def path_patch(
        self,
        clean: Prompts,
        corrupt: Prompts,
        senders: paths.Ends = "heads",
        receivers: paths.Ends = "logits",
        metric: Metric | Sequence[Metric] = (),
        *,
        progress: bool | None = None,
        timeout: float | None = None,
        as_job: Literal[False] = False,
        **options: Any,
    ) -> PathResult: ...

    @overload
    def path_patch(
        self,
        clean: Prompts,
        corrupt: Prompts,
        senders: paths.Ends = "heads",
        receivers: paths.Ends = "logits",
        metric: Metric | Sequence[Metric] = (),
        *,
        as_job: Literal[True],
        **options: Any,
    ) -> Job[PathResult]: ...

    def path_patch(
        self,
        clean: Prompts,
        corrupt: Prompts,
        senders: paths.Ends = "heads",
        receivers: paths.Ends = "logits",
        metric: Metric | Sequence[Metric] = (),
        *,
        progress: bool | None = None,
        timeout: float | None = None,
        as_job: bool = False,
        **options: Any,
    ) -> PathResult | Job[PathResult]:
        """Path patching (Wang et al. 2022): what each sender says to each receiver and to nobody else, exact, in one request.

        A cell: the base prompt runs with the sender's output as in the source run. All other heads stay frozen to the base run; MLPs and norms are recomputed.
        What the receiver then reads is put into a run of the base prompt in which everything behind it is recomputed; the value is its metric. For the
        receiver "logits" it is the metric of the first of these runs.

        Args:
          clean, corrupt: two prompts, or two lists of them.
          senders: "heads" (every head), "mlps", "embed", (layer, head), ("mlp", layer), hook names ("blocks.3.hook_mlp_out"), fs.at(name, heads=...,
            positions=...), or a list of these: each is a place of its own. A dict {"name": [...]} makes sets that act together.
          receivers: "logits", "q", "k" or "v" (every head's; k and v have key-value heads), "mlps", ("q", layer, head), ("mlp", layer), names, fs.at, or a
            dict, as for senders.
          metric: as in `sweep`.
          direction: "noise" (default, as in Wang et al.: the clean prompt is run, senders say what they say in the corrupt one) or "denoise".
          mlps, norms: "recompute" (default) or "freeze": whether paths may go through them.
          sender_positions, receiver_positions: where senders are changed and receivers listen. Default: everywhere. A list of lists: one per pair.
          source_positions, bos, parse_special_tokens, as_job: as in `sweep`.

        Returns:
          A PathResult [receivers, senders]; NaN where the sender does not come before the receiver.

        Raises:
          ValueError: no sender comes before any receiver, so that there is no path.
          Otherwise as `sweep`.
        """
        keywords.check(Patching.path_patch, options, paths.OPTIONS)
        plan = paths.build(self.name, self.info, clean, corrupt, senders, receivers, metric, **options)
        if as_job:
            return submit_paths(self._client, plan)
        return read_paths(plan, self._client.stream(_PATH_PATCH, plan.request, timeout), progress)

    def estimate_path_patch(
        self, clean: Prompts, corrupt: Prompts, senders: paths.Ends = "heads", receivers: paths.Ends = "logits", metric: Metric | Sequence[Metric] = (),
        **options: Any,
    ) -> SweepEstimate:  # fmt: skip
        """What such a run would cost, without running it. Arguments as in `path_patch`; a wrong request gives the same errors."""
        keywords.check(Patching.estimate_path_patch, options, paths.OPTIONS)
        plan = paths.build(self.name, self.info, clean, corrupt, senders, receivers, metric, **options)
        return SweepEstimate.of(self._client.unary(_ESTIMATE_PATH_PATCH, plan.request, patching_pb2.SweepEstimate))

    @keywords.shows(SweepOptions, sweeps.DEFAULTS)
    def attribute(
        self,
        clean: Prompts,
        corrupt: Prompts,
        site: str | Sequence[str] = "resid_pre",
        over: Sequence[str] = ("layer", "position"),
        metric: Metric | Sequence[Metric] = (),
        *,
        method: str = "atp",
        steps: int = 8,
        verify: int | tuple[int, int] = 0,
        timeout: float | None = None,
        **options: Unpack[SweepOptions],
    ) -> SweepResult:
        """What `sweep` would say, estimated from gradients: two forward passes and one backward pass per metric instead of a run per cell.

        Args:
          clean, corrupt, site, over, metric: as in `sweep`.
          method: "atp" (attribution patching: (a_source - a_base) * dm/da at the base run); "ig" (the same with the mean gradient over `steps` runs on the way
            from the base prompt's first residual to the source's); "ig_activations" (the mean gradient over `steps` runs in which the site itself, as a whole and in
            one layer at a time, is on that way); "grad_x_input" (a_base * dm/da); "qk_fix" (as "atp", but a query or key acts through the softmax exactly); "atp*"
            (AtP* of arXiv:2403.00745: the QK fix, and the mean size over backward passes that each leave one layer out; scores have no sign).
          verify: run the `verify` cells with the largest estimates and as many others, drawn at random, exactly too; a pair gives both numbers. The
            result's `check` then says how good the estimates are.
          options: the other arguments of `sweep`; `kind` is "patch" or "zero".

        Returns:
          A SweepResult whose `scores` are the estimated changes of the metric (with their `convention`) and whose `values` are the base run's metric plus them,
          to be compared with a sweep's.

        Raises:
          InvalidArgumentError: also for a metric without a gradient (rank).
        """
        chosen = sweeps.choice(method, ATTRIBUTION_METHODS, "method")
        steps = whole(steps, "steps", 1)
        keywords.check(Patching.attribute, options, SweepOptions.__annotations__)
        plan = sweeps.build(self.name, clean, corrupt, site=site, over=over, metric=metric, hooks=self._hooks, **options)
        request = attribution_pb2.AttributeRequest(grid=plan.request, method=chosen, steps=steps)
        _verify(request, verify, plan.request.seed)
        return read_sweep(plan, self._client.stream(_ATTRIBUTE, request, timeout), False)

    def attribute_edges(
        self,
        clean: Prompts,
        corrupt: Prompts,
        senders: paths.Ends = ("heads", "mlps", "embed"),
        receivers: paths.Ends = ("q", "k", "v", "mlps", "logits"),
        metric: Metric | Sequence[Metric] = (),
        *,
        method: str = "eap",
        steps: int = 8,
        verify: int | tuple[int, int] = 0,
        seed: int = 0,
        timeout: float | None = None,
        **options: Any,
    ) -> PathResult:
        """Edge attribution patching: for every direct edge from a sender to a receiver, what it does, estimated from gradients.

        An edge's score is sum (what the sender adds to the residual in the source run - in the base run) * dm/d(the residual as this receiver reads it).

        Args:
          clean, corrupt, senders, receivers, metric: as in `path_patch`; by default the whole graph.
          method: "eap" (gradients at the base run; arXiv:2310.10348); "eap_ig" (their mean over `steps` runs between the prompts; arXiv:2403.17806);
            "eap_ig_activations" (their mean over `steps` runs in which what the sender and those beside it say is on the way: all heads of its layer, or its
            layer's MLP, or the embedding; slower, and prompts may be of unequal length).
          verify: run the `verify` edges with the largest estimates and as many others, drawn at random from `seed`, exactly too; a pair gives both numbers. An
            edge's exact value is that of `path_patch` with mlps="freeze". The result's `check` then says how good the estimates are.
          options: the other arguments of `path_patch`, but for `mlps` and `norms`: an edge is direct, so nothing on it is frozen.

        Returns:
          A PathResult [receivers, senders] whose `scores` are the estimated changes of the metric; NaN where the sender does not come before the receiver,
          so that there is no edge.
        """
        chosen = sweeps.choice(method, EDGE_METHODS, "method")
        steps = whole(steps, "steps", 1)
        keywords.check(Patching.attribute_edges, options, paths.OPTIONS)
        plan = paths.build(self.name, self.info, clean, corrupt, senders, receivers, metric, **options)
        request = attribution_pb2.AttributeEdgesRequest(paths=plan.request, method=chosen, steps=steps)
        _verify(request, verify, whole(seed, "seed", 0, 2**64 - 1))
        return read_paths(plan, self._client.stream(_ATTRIBUTE_EDGES, request, timeout), False)

    def align(self, source: str | Sequence[int], base: str | Sequence[int]) -> list[int]:
        """For `source_positions` of a sweep over prompts of unequal length: for each token of `base` the position in `source` whose value belongs there, -1
        for none. Equal stretches of tokens belong together, and so do stretches of equal length between them (a name and the other name).

        Args:
          source: the prompt that values come from (of a "denoise" sweep the clean one).
          base: the prompt that is run.
        """
        return align(*(cast(Sequence[int], self.tokenize(prompt)) if isinstance(prompt, str) else list(prompt) for prompt in (source, base)))


def _verify(request: attribution_pb2.AttributeRequest | attribution_pb2.AttributeEdgesRequest, verify: int | tuple[int, int], seed: int) -> None:
    top, random = two(verify, "verify")
    if top or random:
        request.verify.top, request.verify.random, request.verify.seed = top, random, seed
