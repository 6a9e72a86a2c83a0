"""Numbers from the user: arrays of numpy, tensors of torch, lists."""

from __future__ import annotations

from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """A torch tensor as a numpy array, wherever it lies and whether or not it has a gradient; bfloat16, which numpy does not have, as float32. Everything
    else as it is. Torch itself is not needed for this."""
    if not (hasattr(value, "detach") and hasattr(value, "cpu")):
        return value
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()


def float32(values: Any, what: str = "value") -> np.ndarray:
    """As the protocol takes numbers. ValueError, which says `what` they are, when there are none, or when one is finite but too large for float32."""
    if values is None:
        raise ValueError(f"{what} is None; give a number or an array of numbers")
    try:
        given = np.asarray(plain(values))
        if given.dtype == object and any(item is None for item in given.ravel()):
            raise ValueError(f"{what} has a None in it; give numbers only")
        with np.errstate(over="ignore"):
            array = given.astype("<f4")
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{what} is {type(values).__name__}, not numbers: {error}") from None
    if given.dtype.kind in "fO" and given.dtype.itemsize > 4 and not np.isfinite(array).all():
        wide = given.astype(np.float64)  # of Python's integers too
        large = wide[np.isfinite(wide) & ~np.isfinite(array)]
        if large.size:
            told = "has" if given.ndim else "is"
            raise ValueError(f"{what} {told} {large.flat[0]:.6g}{' in it' if given.ndim else ''}; numbers are float32, at most {np.finfo(np.float32).max:.4g}")
    return array


def number(value: Any, what: str) -> float:
    """A single number, finite in float32 if it is finite; ValueError, which says `what` it is, for anything else."""
    array = float32(value, what) if value is None or hasattr(value, "__float__") else None
    if array is None or array.ndim:
        raise ValueError(f"{what} is {value!r}; it must be a number")
    return float(value)
