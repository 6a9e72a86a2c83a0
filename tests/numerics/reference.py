"""The slow, obvious forward pass: every hook point of GPT-2 and Llama, one line each, from the weights of a transformers model.

It shares no code with the server and none with transformers' own forward; test_reference.py proves it against transformers (logits,
hidden states, attentions) and against TransformerLens (every hook point by name). The server is then compared with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Called with a hook point's name and value; what it returns is used from there on. This is how the reference is edited.
Edit = Callable[[str, Tensor], Tensor]


@dataclass
class Trace:
    """One row's run: the value at every hook point, without a batch axis, and the logits [pos, vocabulary]."""

    sites: dict[str, Tensor] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass
class Norm:
    weight: Tensor
    bias: Tensor | None  # None: RMS norm
    eps: float


@dataclass
class Layer:
    """One block's weights; matrices are [in, out], biases may be None."""

    ln1: Norm
    ln2: Norm
    w_q: Tensor
    w_k: Tensor
    w_v: Tensor
    w_o: Tensor
    b_q: Tensor | None
    b_k: Tensor | None
    b_v: Tensor | None
    b_o: Tensor | None
    w_gate: Tensor | None
    b_gate: Tensor | None
    w_in: Tensor
    b_in: Tensor | None
    w_out: Tensor
    b_out: Tensor | None
    score_scale: float


@dataclass
class Weights:
    embed: Tensor
    positions: Tensor | None  # learned positions [context, d_model]
    layers: list[Layer]
    ln_final: Norm
    unembed: Tensor  # [d_model, vocabulary]
    heads: int
    kv_heads: int
    d_head: int
    rope: dict | None
    activation: Callable[[Tensor], Tensor]


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_pytorch_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "relu": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "silu": lambda x: x / (1 + torch.exp(-x)),
}


def weights_of(model, dtype: torch.dtype = torch.float32) -> Weights:
    """Reads the weights of a transformers GPT-2 or Llama model."""
    state = {name: value.detach().to(dtype) for name, value in model.state_dict().items()}
    return _READERS[model.config.model_type](model.config, state)


def _gpt2(config, state: dict[str, Tensor]) -> Weights:
    d_head = config.n_embd // config.n_head

    def norm(name: str) -> Norm:
        return Norm(state[f"{name}.weight"], state[f"{name}.bias"], config.layer_norm_epsilon)

    layers = []
    for i in range(config.n_layer):
        block = f"transformer.h.{i}"
        w_q, w_k, w_v = state[f"{block}.attn.c_attn.weight"].split(config.n_embd, dim=1)
        b_q, b_k, b_v = state[f"{block}.attn.c_attn.bias"].split(config.n_embd)
        scale = d_head**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            scale /= i + 1
        layers.append(
            Layer(
                ln1=norm(f"{block}.ln_1"), ln2=norm(f"{block}.ln_2"),
                w_q=w_q, w_k=w_k, w_v=w_v, b_q=b_q, b_k=b_k, b_v=b_v,
                w_o=state[f"{block}.attn.c_proj.weight"], b_o=state[f"{block}.attn.c_proj.bias"],
                w_gate=None, b_gate=None,
                w_in=state[f"{block}.mlp.c_fc.weight"], b_in=state[f"{block}.mlp.c_fc.bias"],
                w_out=state[f"{block}.mlp.c_proj.weight"], b_out=state[f"{block}.mlp.c_proj.bias"],
                score_scale=scale,
            )
        )  # fmt: skip
    return Weights(
        embed=state["transformer.wte.weight"], positions=state["transformer.wpe.weight"], layers=layers,
        ln_final=norm("transformer.ln_f"), unembed=state["lm_head.weight"].T,
        heads=config.n_head, kv_heads=config.n_head, d_head=d_head, rope=None,
        activation=ACTIVATIONS[config.activation_function],
    )  # fmt: skip


def _llama(config, state: dict[str, Tensor]) -> Weights:
    def norm(name: str) -> Norm:
        return Norm(state[f"{name}.weight"], None, config.rms_norm_eps)

    layers = []
    for i in range(config.num_hidden_layers):
        block = f"model.layers.{i}"

        def linear(name: str, block: str = block) -> tuple[Tensor, Tensor | None]:
            return state[f"{block}.{name}.weight"].T, state.get(f"{block}.{name}.bias")

        (w_q, b_q), (w_k, b_k) = linear("self_attn.q_proj"), linear("self_attn.k_proj")
        (w_v, b_v), (w_o, b_o) = linear("self_attn.v_proj"), linear("self_attn.o_proj")
        (w_gate, b_gate), (w_in, b_in), (w_out, b_out) = linear("mlp.gate_proj"), linear("mlp.up_proj"), linear("mlp.down_proj")
        layers.append(
            Layer(
                ln1=norm(f"{block}.input_layernorm"), ln2=norm(f"{block}.post_attention_layernorm"),
                w_q=w_q, w_k=w_k, w_v=w_v, w_o=w_o, b_q=b_q, b_k=b_k, b_v=b_v, b_o=b_o,
                w_gate=w_gate, b_gate=b_gate, w_in=w_in, b_in=b_in, w_out=w_out, b_out=b_out,
                score_scale=config.head_dim**-0.5,
            )
        )  # fmt: skip
    return Weights(
        embed=state["model.embed_tokens.weight"], positions=None, layers=layers,
        ln_final=norm("model.norm"), unembed=state["lm_head.weight"].T,
        heads=config.num_attention_heads, kv_heads=config.num_key_value_heads, d_head=config.head_dim,
        rope=config.rope_parameters, activation=ACTIVATIONS[config.hidden_act],
    )  # fmt: skip


_READERS = {"gpt2": _gpt2, "llama": _llama}


def frequencies(rope: dict, d_head: int) -> Tensor:
    """Rotary frequencies [d_head / 2] in float64: default, linear (positions divided) or llama3 (long waves divided, short ones kept)."""
    plain = rope["rope_theta"] ** -(torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return plain
    if kind == "linear":
        return plain / rope["factor"]
    if kind == "llama3":
        scaled = []
        for f in plain.tolist():
            turns = rope["original_max_position_embeddings"] * f / (2 * math.pi)  # within the context it was trained on
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            kept = min(max((turns - low) / (high - low), 0.0), 1.0)
            scaled.append((1 - kept) * f / rope["factor"] + kept * f)
        return torch.tensor(scaled, dtype=torch.float64)
    raise ValueError(f"the reference does not know rope type {kind}")


def rotate(x: Tensor, freq: Tensor) -> Tensor:
    """x [pos, head, d_head]: the pair (i, i + d_head / 2) turned by pos * freq[i]."""
    angle = torch.arange(x.shape[0], dtype=torch.float64)[:, None, None] * freq
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def add(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


@torch.no_grad()
def trace(w: Weights, ids: list[int], edit: Edit = lambda name, value: value) -> Trace:
    """Runs one row and keeps the value at every hook point, after `edit`."""
    out = Trace()

    def hook(name: str, value: Tensor) -> Tensor:
        out.sites[name] = edit(name, value)
        return out.sites[name]

    def normalize(x: Tensor, norm: Norm, name: str | None) -> Tensor:
        if norm.bias is not None:
            x = x - x.mean(-1, keepdim=True)
        scale = (x.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
        if name is not None:
            scale = hook(f"{name}.hook_scale", scale)
        normalized = x / scale
        if name is not None:
            normalized = hook(f"{name}.hook_normalized", normalized)
        return add(normalized * norm.weight, norm.bias)

    def project(inputs: Tensor | None, x: Tensor, matrix: Tensor, bias: Tensor | None, ln: Norm, heads: int) -> Tensor:
        """[pos, head, d_head]. `x` is the normalized residual that all heads share. Heads whose own input [pos, head, d_model] was
        edited away from the residual are normalized and projected on their own."""
        shared = add(x @ matrix, bias).reshape(len(ids), heads, w.d_head)
        if inputs is None:
            return shared
        own = normalize(inputs, ln, None)
        per_head = matrix.reshape(-1, heads, w.d_head)
        result = torch.einsum("phm,mhd->phd", own, per_head)
        return result if bias is None else result + bias.reshape(heads, w.d_head)

    resid = hook("hook_embed", w.embed[ids])
    if w.positions is not None:
        resid = resid + hook("hook_pos_embed", w.positions[: len(ids)])
    causal = torch.tril(torch.ones(len(ids), len(ids), dtype=torch.bool))
    group = w.heads // w.kv_heads
    for i, layer in enumerate(w.layers):
        at = f"blocks.{i}"
        resid = hook(f"{at}.hook_resid_pre", resid)
        copies = resid[:, None, :].expand(-1, w.heads, -1)
        edited = hook(f"{at}.hook_attn_in", copies)
        # With grouped queries k and v have fewer heads than hook_attn_in, so there it can only be read.
        inputs = dict.fromkeys("qkv", None if edited is copies else edited)
        for letter, heads in (("q", w.heads), ("k", w.kv_heads), ("v", w.kv_heads)):
            copies = inputs[letter] if inputs[letter] is not None else resid[:, None, :].expand(-1, heads, -1)
            edited = hook(f"{at}.hook_{letter}_input", copies)
            inputs[letter] = inputs[letter] if edited is copies else edited
        x = normalize(resid, layer.ln1, f"{at}.ln1")
        q = hook(f"{at}.attn.hook_q", project(inputs["q"], x, layer.w_q, layer.b_q, layer.ln1, w.heads))
        k = hook(f"{at}.attn.hook_k", project(inputs["k"], x, layer.w_k, layer.b_k, layer.ln1, w.kv_heads))
        v = hook(f"{at}.attn.hook_v", project(inputs["v"], x, layer.w_v, layer.b_v, layer.ln1, w.kv_heads))
        if w.rope is not None:
            freq = frequencies(w.rope, w.d_head)
            q = hook(f"{at}.attn.hook_rot_q", rotate(q, freq))
            k = hook(f"{at}.attn.hook_rot_k", rotate(k, freq))
        k_all, v_all = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q, k_all) * layer.score_scale
        scores = hook(f"{at}.attn.hook_attn_scores", scores.masked_fill(~causal, -math.inf))
        pattern = hook(f"{at}.attn.hook_pattern", scores.softmax(-1))
        z = hook(f"{at}.attn.hook_z", torch.einsum("hqk,khd->qhd", pattern, v_all))
        result = hook(f"{at}.attn.hook_result", torch.einsum("phd,hdm->phm", z, layer.w_o.reshape(w.heads, w.d_head, -1)))
        attn_out = hook(f"{at}.hook_attn_out", add(result.sum(1), layer.b_o))
        resid = hook(f"{at}.hook_resid_mid", resid + attn_out)
        x = normalize(hook(f"{at}.hook_mlp_in", resid), layer.ln2, f"{at}.ln2")
        if layer.w_gate is None:
            post = w.activation(hook(f"{at}.mlp.hook_pre", add(x @ layer.w_in, layer.b_in)))
        else:
            pre = hook(f"{at}.mlp.hook_pre", add(x @ layer.w_gate, layer.b_gate))
            post = w.activation(pre) * hook(f"{at}.mlp.hook_pre_linear", add(x @ layer.w_in, layer.b_in))
        mlp_out = hook(f"{at}.hook_mlp_out", add(hook(f"{at}.mlp.hook_post", post) @ layer.w_out, layer.b_out))
        resid = hook(f"{at}.hook_resid_post", resid + mlp_out)
    out.logits = normalize(resid, w.ln_final, "ln_final") @ w.unembed
    return out
