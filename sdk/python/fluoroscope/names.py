"""TransformerLens's short names of hook points: ("resid_pre", 5) is "blocks.5.hook_resid_pre"."""

from __future__ import annotations

import re

from fluoroscope.indices import is_int, whole
from fluoroscope.suggest import unknown

HookKey = str | tuple[str] | tuple[str, int] | tuple[str, int, str]

_ALIASES = {
    "attn": "pattern", "attn_logits": "attn_scores", "key": "k", "query": "q", "value": "v",
    "mlp_pre": "pre", "mlp_post": "post",
}
_ATTENTION = frozenset({"q", "k", "v", "z", "rot_q", "rot_k", "result", "pattern", "attn_scores"})
_MLP = frozenset({"pre", "pre_linear", "post"})
_NORM = frozenset({"scale", "normalized"})
_LAYERED = _ATTENTION | _MLP | {"resid_pre", "resid_mid", "resid_post", "attn_in", "attn_out", "mlp_in", "mlp_out", "q_input", "k_input", "v_input"}
_PARTS = {"a": "attn", "attn": "attn", "attention": "attn", "m": "mlp", "mlp": "mlp", "ln1": "ln1", "ln2": "ln2"}


def hook_name(key: HookKey, layers: int | None = None) -> str:
    """The full name of a hook point.

    Args:
      key: a full name, in which only a negative layer is changed; a short name ("embed"); or (short name, layer) or (short name, layer, part), where part is
        "attn", "mlp", "ln1" or "ln2" and only needed for "scale" and "normalized". Negative layers count from the last.
        "_grad" behind the short name ("resid_pre_grad") means the gradient there.
      layers: how many layers the model has; needed for negative layers.

    Raises:
      KeyError: the key is not of one of these forms, or does not say which layer.
    """
    if isinstance(key, str):
        name, layer, part = key, None, None
        if needs_layer(name):
            short, pattern = name.removeprefix("hook_"), hook_name((name.removeprefix("hook_"), 0)).replace("blocks.0.", "blocks.*.")
            raise KeyError(f"{name!r} is in every layer: say which, ({short!r}, 5); {pattern!r} is all of them")
        if "." in name or name.startswith("hook_") or name in ("logits",):
            return _from_last(name, layers)
    elif isinstance(key, tuple) and 1 <= len(key) <= 3 and isinstance(key[0], str):
        name, layer, part = (*key, None, None)[:3]
    else:
        raise KeyError(f"{key!r} is not a hook name: use 'blocks.5.hook_resid_pre', ('resid_pre', 5) or ('scale', 5, 'ln1')")
    gradient = "_grad" if name.endswith("_grad") else ""
    name = name.removesuffix("_grad")
    name = _ALIASES.get(name, name).removeprefix("hook_")
    if layer is None:
        return f"ln_final.hook_{name}{gradient}" if name in _NORM else f"hook_{name}{gradient}"
    if not is_int(layer):
        raise KeyError(f"{layer!r} in {key!r} is not a layer: give its number, ({name!r}, 5)")
    layer = counted_layer(whole(layer, "layer", -(2**31), 2**31 - 1), layers, key)
    if part is not None and part not in _PARTS:
        raise KeyError(unknown("part of a block", part, sorted(_PARTS)))
    if part is None and name in _NORM:
        raise KeyError(f"{key!r} could be ln1 or ln2: use ({name!r}, {layer}, 'ln1')")
    folder = "attn" if name in _ATTENTION else "mlp" if name in _MLP else _PARTS[part] if part else ""
    return f"blocks.{layer}.{folder + '.' if folder else ''}hook_{name}{gradient}"


def counted_layer(layer: int, layers: int | None, key: object) -> int:
    """The layer, counted from the first one. KeyError when it lies before that."""
    if layer < 0 and (layers is None or layer + layers < 0):
        raise KeyError(f"layer {layer} of {key!r} lies before the first layer" + (f" of {layers}" if layers else ""))
    return layer + (layers or 0) if layer < 0 else layer


def needs_layer(key: object) -> bool:
    """Whether this is the name of a hook point that every layer has, without a layer: "resid_pre" or "hook_resid_pre"."""
    if not isinstance(key, str) or "." in key:
        return False
    name = key.removesuffix("_grad").removeprefix("hook_")
    return _ALIASES.get(name, name) in _LAYERED


def is_layered(key: object) -> bool:
    """Whether this is one key with a layer, ("resid_pre", 5), and not several names."""
    return isinstance(key, tuple) and len(key) > 1 and isinstance(key[0], str) and is_int(key[1])


def _from_last(name: str, layers: int | None) -> str:
    match = re.match(r"blocks\.(-\d+)\.", name)
    return name if match is None else f"blocks.{counted_layer(int(match[1]), layers, name)}.{name[match.end():]}"
