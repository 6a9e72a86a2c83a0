"""What TransformerLens and others call things that have another name here: errors say the name."""

from __future__ import annotations

from collections.abc import Mapping

# Keyword arguments.
KEYWORDS = {
    "fwd_hooks": "edits are data here: interventions=[fs.patch(...), fs.zero(...)]",
    "bwd_hooks": "gradients come with grad_of=metric",
    "incl_bwd": "gradients come with grad_of=metric",
    "return_type": "choose with logits= and metrics=[...]",
    "loss_per_token": "that is metrics=[fs.metrics.cross_entropy()]",
    "stop_at_layer": "only what is asked for is computed: names_filter=..., logits=None",
    "start_at_layer": "that is model.run(start_at=..., value=...)",
    "prepend_bos": "that is bos='always' or bos='never'",
    "pos_slice": "that is positions=...",
    "patching_metric": "that is metric=fs.metrics.logit_diff(...)",
    "do_sample": "over temperature=0 tokens are drawn",
    "freq_penalty": "that is repetition_penalty=...",
    "stop_at_eos": "that is ignore_eos=...",
    "eos_token_id": "that is stop=... with a text, or ignore_eos=...",
    "max_tokens": "that is max_new_tokens=...",
    "max_length": "that is max_new_tokens=...",
    "num_return_sequences": "that is samples=...",
    "verbose": "that is progress=..., where there is a bar",
}

_WEIGHTS = {name: f'model.weights["{name}", layer]' for name in ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "W_gate", "b_Q", "b_K", "b_V", "b_O", "b_in", "b_out")}
MODEL = {
    "to_tokens": "model.tokenize(text)",
    "to_string": "model.detokenize(ids)",
    "to_single_str_token": "model.to_str_tokens([id])[0]",
    "tokens_to_residual_directions": 'model.weights["unembed.W_U", :, [id]]',
    "get_token_position": "positions=fs.occurrences(token)",
    "cfg": "model.info",
    "config": "model.info",
    "tokenizer": "model.tokenize, model.detokenize and model.to_str_tokens",
    "forward": "model.run_with_hooks(prompts, logits='all')",
    "hook_dict": "model.hooks()",
    "hook_points": "model.hooks()",
    "add_hook": "interventions=[...] of model.run_with_hooks: edits belong to a run",
    "add_perma_hook": "interventions=[...] of model.run_with_hooks: edits belong to a run",
    "reset_hooks": "nothing: edits belong to a run, and none stays",
    "state_dict": "model.weights",
    "named_parameters": "model.weights",
    "parameters": "model.weights, or model.info.parameters for their number",
    "loss_fn": "metrics=[fs.metrics.cross_entropy()]",
    "W_E": 'model.weights["embed.W_E"]',
    "W_U": 'model.weights["unembed.W_U"]',
    "b_U": 'model.weights["unembed.b_U"]',
    "W_pos": 'model.weights["pos_embed.W_pos"]',
    **_WEIGHTS,
}
ASYNC_MODEL = {name: hint for name, hint in MODEL.items() if "model.weights" not in hint} | {
    name: 'await model.weight("blocks.3.attn.W_Q"), and their names await model.weight_infos()'
    for name in ("weights", *(name for name, hint in MODEL.items() if "model.weights" in hint))
}
CACHE = {
    "remove_batch_dim": "remove_batch_dim=True of model.run_with_cache",
    "get_full_resid_decomposition": "cache.decompose_resid and cache.stack_head_results, or model.logit_attrs(prompt, answer, by='head') on the server",
    "get_neuron_results": "model.logit_attrs(prompt, answer, by='neuron'), on the server",
    "stack_neuron_results": "model.logit_attrs(prompt, answer, by='neuron'), on the server",
    "compute_head_results": "cache.stack_head_results, which computes them",
    "cache_dict": "dict(cache)",
    "has_batch_dim": "remove_batch_dim of model.run_with_cache, which decides",
    "toggle_autodiff": "grad_of=metric of model.run_with_cache",
    "to": "cache[name], a numpy array",
    "apply_slice_to_batch_dim": "cache[name][rows]",
}
_CALL = "a model is not called here: model.run_with_cache(prompts) gives (logits, cache), model.run_with_hooks(prompts, interventions) edits"


def no_attribute(owner: object, name: str, hints: Mapping[str, str]) -> AttributeError:
    """The error for an attribute that is not there, with what it is called here."""
    kind = type(owner).__name__
    hint = f"; here it is {hints[name]}" if name in hints else ""
    return AttributeError(f"{kind!r} object has no attribute {name!r}{hint}", name=name, obj=owner)


def not_called(owner: object) -> TypeError:
    """The error for `model(...)`."""
    return TypeError(f"{type(owner).__name__!r} object is not callable; {_CALL}")
