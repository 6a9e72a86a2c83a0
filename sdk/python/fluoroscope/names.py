"""TransformerLens's short names of hook points: ("resid_pre", 5) is "blocks.5.hook_resid_pre"."""

from __future__ import annotations

HookKey = str | tuple[str] | tuple[str, int] | tuple[str, int, str]

_ALIASES = {
    "attn": "pattern", "attn_logits": "attn_scores", "key": "k", "query": "q", "value": "v",
    "mlp_pre": "pre", "mlp_post": "post",
}
_ATTENTION = frozenset({"q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores"})
_MLP = frozenset({"pre", "pre_linear", "post"})
_NORM = frozenset({"scale", "normalized"})
_PARTS = {"a": "attn", "attn": "attn", "attention": "attn", "m": "mlp", "mlp": "mlp", "ln1": "ln1", "ln2": "ln2"}


def hook_name(key: HookKey, layers: int | None = None) -> str:
    """The full name of a hook point.

    Args:
      key: a full name, which is returned as it is; a short name ("embed"); or (short name, layer) or (short name, layer, part), where part is
        "attn", "mlp", "ln1" or "ln2" and only needed for "scale" and "normalized". Negative layers count from the last.
        "_grad" behind the short name ("resid_pre_grad") means the gradient there.
      layers: how many layers the model has; needed for negative layers.

    Raises:
      KeyError: the key is not of one of these forms.
    """
    if isinstance(key, str):
        name, layer, part = key, None, None
        if "." in name or name.startswith("hook_") or name in ("logits",):
            return name
    elif isinstance(key, tuple) and 1 <= len(key) <= 3 and isinstance(key[0], str):
        name, layer, part = (*key, None, None)[:3]
    else:
        raise KeyError(f"{key!r} is not a hook name: use 'blocks.5.hook_resid_pre', ('resid_pre', 5) or ('scale', 5, 'ln1')")
    gradient = "_grad" if name.endswith("_grad") else ""
    name = name.removesuffix("_grad")
    name = _ALIASES.get(name, name).removeprefix("hook_")
    if layer is None:
        return f"ln_final.hook_{name}{gradient}" if name in _NORM else f"hook_{name}{gradient}"
    layer = int(layer)
    if layer < 0:
        if layers is None or layer + layers < 0:
            raise KeyError(f"layer {layer} of {key!r} lies before the first layer" + (f" of {layers}" if layers else ""))
        layer += layers
    if part is not None and part not in _PARTS:
        raise KeyError(f"{part!r} is not a part of a block: {', '.join(sorted(set(_PARTS)))} are")
    if part is None and name in _NORM:
        raise KeyError(f"{key!r} could be ln1 or ln2: use ({name!r}, {layer}, 'ln1')")
    folder = "attn" if name in _ATTENTION else "mlp" if name in _MLP else _PARTS[part] if part else ""
    return f"blocks.{layer}.{folder + '.' if folder else ''}hook_{name}{gradient}"
