"""TransformerLens's stacks of the residual stream, on a cache: same names, shapes and labels as its ActivationCache (3.9).

Everything is calculated here from captured values, in numpy. The cache must hold what a stack is made of; `model.logit_lens` and `model.logit_attrs`
calculate on the server instead and send little. As in TransformerLens, `logit_attrs` and `apply_ln` take the norm's scale and centring but, without folded
weights, not its own weight: on models whose `ln_final.w` is not 1 the parts do not add up to the logit. `model.logit_attrs` does take it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from fluoroscope.names import HookKey

if TYPE_CHECKING:
    from fluoroscope.model import Model

# Which positions (or prompts): an index drops the axis; (stop,), (start, stop) or (start, stop, step); a list of indices; None for all.
SliceInput = int | tuple[int, ...] | list[int] | slice | np.ndarray | None


def sliced(value: np.ndarray, chosen: SliceInput, axis: int) -> np.ndarray:
    """TransformerLens's utils.Slice."""
    if chosen is None:
        return value
    index: list[Any] = [slice(None)] * value.ndim
    index[axis] = slice(*chosen) if isinstance(chosen, tuple) else np.asarray(chosen) if isinstance(chosen, list) else chosen
    return cast(np.ndarray, value[tuple(index)])


class ResidualStacks:
    """Mixed into ActivationCache."""

    _model: Model | None
    _layers: int
    _single: bool

    def __getitem__(self, key: HookKey) -> Any:
        raise NotImplementedError

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: SliceInput = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """The residual stream at every layer up to the input of `layer`: [layers, *batch_and_pos, d_model]. Default: all, and the final one.

        Args:
          incl_mid: also hook_resid_mid. `mlp_input`: also the last layer's hook_resid_mid.
          apply_ln: apply the final norm with its weights and statistics of each vector (logit lens) when all layers are taken; else divide by the scale that
            `layer`'s norm had.
          pos_slice: positions; an index drops the axis.
          return_labels: give (stack, labels): "0_pre", "0_mid", ..., "final_post".
        """
        last = self._layer(layer)
        parts, labels = [], []
        for at in range(last + 1):
            if at == self._layers:
                parts.append(self._value(("resid_post", at - 1)))
                labels.append("final_post")
                continue
            parts.append(self._value(("resid_pre", at)))
            labels.append(f"{at}_pre")
            if (incl_mid and at < last) or (mlp_input and at == last):
                parts.append(self._value(("resid_mid", at)))
                labels.append(f"{at}_mid")
        stack = np.stack([sliced(part, pos_slice, -2) for part in parts])
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, last, mlp_input, pos_slice, has_batch_dim=not self._single, recompute_ln=last == self._layers)
        return (stack, labels) if return_labels else stack

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "mlp", "attn"] = "all",
        apply_ln: bool = False,
        pos_slice: SliceInput = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """What was added to the residual stream up to the input of `layer`, part by part: [parts, *batch_and_pos, d_model]; they sum to that input.

        Labels: "embed", "pos_embed" (where the model has one), "0_attn_out", "0_mlp_out", ... Arguments as in accumulated_resid.
        """
        last = self._layer(layer)
        keys: list[tuple[str, HookKey]] = []
        if incl_embeds:
            keys.append(("embed", "hook_embed"))
            if "pos_embed.W_pos" in self._own_model().weights:
                keys.append(("pos_embed", "hook_pos_embed"))
        for at in range(last):
            keys += [(f"{at}_{part}_out", (f"{part}_out", at)) for part in ("attn", "mlp") if mode in ("all", part)]
        if mlp_input and mode != "mlp":
            keys.append((f"{last}_attn_out", ("attn_out", last)))
        stack = np.stack([sliced(self._value(key), pos_slice, -2) for _, key in keys])
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, last, mlp_input, pos_slice)
        return (stack, [label for label, _ in keys]) if return_labels else stack

    def stack_head_results(
        self, layer: int | None = -1, return_labels: bool = False, incl_remainder: bool = False, pos_slice: SliceInput = None, apply_ln: bool = False
    ) -> Any:
        """What every head adds to the residual stream (without b_O) in the layers before `layer`: [layers * heads, *batch_and_pos, d_model].

        From hook_result where that was captured, else from hook_z and W_O. Labels: "L0H0", ...; `incl_remainder` adds a last entry "remainder", the rest of
        the residual stream.
        """
        last = self._layer(layer)
        parts: list[np.ndarray] = []
        for at in range(last):
            parts.append(np.moveaxis(sliced(self._head_results(at), pos_slice, -3), -2, 0))
        labels = [f"L{at}H{head}" for at in range(last) for head in range(self._own_model().info.heads)]
        if parts:
            stack = np.concatenate(parts)
            if incl_remainder:
                rest = sliced(self._value(("resid_post", last - 1)), pos_slice, -2) - stack.sum(0)
                stack = np.concatenate([stack, rest[None]])
                labels.append("remainder")
        elif incl_remainder:
            raise ValueError("stack_head_results(layer=0, incl_remainder=True): in front of layer 0 there are no heads and no resid_post")
        else:
            stack = np.zeros((0, *sliced(self._value("hook_embed"), pos_slice, -2).shape), np.float32)
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, last, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def logit_attrs(
        self,
        residual_stack: np.ndarray,
        tokens: str | int | Sequence[int] | np.ndarray,
        incorrect_tokens: str | int | Sequence[int] | np.ndarray | None = None,
        pos_slice: SliceInput = None,
        batch_slice: SliceInput = None,
        has_batch_dim: bool = True,
    ) -> np.ndarray:
        """How much each entry of a stack adds to the tokens' logits (minus the incorrect tokens'), with the final norm's scale as it was.

        Args:
          residual_stack: [parts, *batch_and_pos, d_model], with pos_slice applied already.
          tokens: a token, or an array of ids [batch] or [batch, pos] that broadcasts with the stack's axes; `incorrect_tokens` of the same shape.
          pos_slice, batch_slice: what the scale is taken of; batch_slice is applied to the stack too.

        Returns:
          [parts, *batch_and_pos].
        """
        self._check_stack(residual_stack)
        directions = self._directions(tokens)
        if incorrect_tokens is not None:
            if np.shape(self._ids(tokens)) != np.shape(self._ids(incorrect_tokens)):
                raise ValueError(f"tokens and incorrect_tokens must have the same shape, not {np.shape(tokens)} and {np.shape(incorrect_tokens)}")
            directions = directions - self._directions(incorrect_tokens)
        scaled = self.apply_ln_to_stack(residual_stack, -1, False, pos_slice, batch_slice, has_batch_dim)
        return cast(np.ndarray, (scaled * directions).sum(-1))

    def apply_ln_to_stack(
        self,
        residual_stack: np.ndarray,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: SliceInput = None,
        batch_slice: SliceInput = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> np.ndarray:
        """The stack centred (LayerNorm) and divided by the scale that the norm in front of `layer` had: what each entry adds to that layer's input.

        `recompute_ln` (of the final norm only): norm each vector by its own statistics, and apply the norm's weights.
        """
        last = self._layer(layer)
        self._check_stack(residual_stack)
        stack = sliced(residual_stack, batch_slice, 1) if has_batch_dim and batch_slice is not None else residual_stack
        weights = self._own_model().weights
        centred = "ln_final.b" in weights
        if recompute_ln and last == self._layers:
            if centred:
                stack = stack - stack.mean(-1, keepdims=True)
            scale = np.sqrt(np.square(stack, dtype=np.float64).mean(-1, keepdims=True) + self._own_model().info.norm_eps).astype(np.float32)
            normed = stack / scale * weights["ln_final.w"]
            return cast(np.ndarray, normed + weights["ln_final.b"] if centred else normed)
        if centred:
            stack = stack - stack.mean(-1, keepdims=True)
        name = "ln_final.hook_scale" if last == self._layers else f"blocks.{last}.ln{2 if mlp_input else 1}.hook_scale"
        scale = sliced(self._value(name), pos_slice, -2)
        if not self._single:
            scale = sliced(scale, batch_slice, 0)
        return cast(np.ndarray, stack / scale)

    def stack_activation(self, activation_name: str, layer: int | None = -1, sublayer_type: str | None = None) -> np.ndarray:
        """One hook point of all layers before `layer`: [layers, ...]."""
        key = (lambda at: (activation_name, at, sublayer_type)) if sublayer_type else (lambda at: (activation_name, at))  # type: ignore[return-value]
        return np.stack([self._value(key(at)) for at in range(self._layer(layer))])

    def _check_stack(self, stack: np.ndarray) -> None:
        width = self._own_model().info.d_model
        if np.ndim(stack) < 2 or np.shape(stack)[-1] != width:
            raise ValueError(f"residual_stack is {list(np.shape(stack))}; it must be [parts, ..., d_model], and d_model is {width} here")

    def _layer(self, layer: int | None) -> int:
        if layer is None or layer == -1:
            return self._layers
        if not 0 <= layer <= self._layers:
            raise ValueError(f"layer is {layer}; 0 to {self._layers} are allowed, and None or -1 for all")
        return layer

    def _own_model(self) -> Model:
        if self._model is None:
            raise ValueError("this cache has no model to take weights from")
        return self._model

    def _value(self, key: HookKey) -> np.ndarray:
        value = self[key]
        if not isinstance(value, np.ndarray):
            raise ValueError(f"{key!r} is a {type(value).__name__}; stacks need whole arrays, of prompts of equal length and without a reduction")
        return value

    def _head_results(self, layer: int) -> np.ndarray:
        if ("result", layer) in self:  # type: ignore[operator]
            return self._value(("result", layer))
        out = self._own_model().weights[f"blocks.{layer}.attn.W_O"]
        return np.einsum("...hd,hdm->...hm", self._value(("z", layer)), out)

    def _ids(self, tokens: str | int | Sequence[int] | np.ndarray) -> np.ndarray:
        return np.asarray(self._own_model().to_single_token(tokens) if isinstance(tokens, str) else tokens)

    def _directions(self, tokens: str | int | Sequence[int] | np.ndarray) -> np.ndarray:
        ids = self._ids(tokens)
        known, inverse = np.unique(ids, return_inverse=True)
        columns = self._own_model().weights["unembed.W_U", :, known.tolist()]  # [d_model, known]
        directions = columns.T[inverse].reshape(*ids.shape, -1)
        return directions[0] if ids.size == 1 and ids.ndim else directions  # as in TransformerLens: one token is a single vector
