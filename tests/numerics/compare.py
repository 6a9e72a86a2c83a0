"""What "equal" means, in one place; docs/architecture.md says why."""

from __future__ import annotations

import numpy as np
from torch import Tensor

TINY = 5e-5  # largest absolute difference on tiny models in float32
ALONE = 1e-5  # a row alone against the same row in a batch, tiny models
VECTOR = 2e-5  # real models: |a - b| / |b| of every token's vector
LOGIT = 5e-4  # real models: largest absolute difference of a logit


def rounding(expected: Tensor | np.ndarray) -> float:
    """The largest difference between values in float64 and a run of them in float32: 1e-5, and where they are above 10, where one step of
    float32 is a millionth already (9.5e-7), a millionth of the largest."""
    finite = np.abs(as_array(expected)[np.isfinite(as_array(expected))])
    return max(1e-5, 1e-6 * float(finite.max(initial=0)))


def as_array(value: Tensor | np.ndarray) -> np.ndarray:
    return value.numpy() if isinstance(value, Tensor) else value


def assert_close(got: np.ndarray, expected: Tensor | np.ndarray, limit: float, what: str) -> None:
    """Same shape, the same infinities (masked scores), and everything else within `limit`."""
    expected = as_array(expected)
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite], expected[~finite], err_msg=what)
    if finite.any():
        difference = np.abs(got[finite].astype(np.float64) - expected[finite]).max()
        assert difference <= limit, f"{what}: largest difference {difference:.3g}, at most {limit:g} is allowed"


def vector_error(got: np.ndarray, expected: np.ndarray) -> float:
    """The worst relative error of a vector along the last axis. Never divided by a maximum over positions: that would hide errors behind
    the attention sink, whose norm is a hundred times larger."""
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    assert (np.isfinite(got) == finite).all()
    got, expected = np.where(finite, got, 0), np.where(finite, expected, 0)
    norm = np.linalg.norm(expected, axis=-1)
    return float((np.linalg.norm(got - expected, axis=-1) / np.maximum(norm, 1e-12)).max())


def assert_vectors_close(got: np.ndarray, expected: Tensor | np.ndarray, limit: float, what: str) -> None:
    expected = as_array(expected)
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    error = vector_error(got, expected)
    assert error <= limit, f"{what}: a token's vector is off by {error:.3g} of its length, at most {limit:g} is allowed"


def assert_vectors_alike(got: np.ndarray, expected: Tensor | np.ndarray, limit: float, what: str) -> None:
    """For half precision: every vector points the same way (1 - cosine) and is as long, each within `limit`. A cosine alone cannot see a
    wrong scale."""
    got, expected = got.astype(np.float64), as_array(expected).astype(np.float64)
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    lengths = np.linalg.norm(got, axis=-1), np.linalg.norm(expected, axis=-1)
    cosine = (got * expected).sum(-1) / (lengths[0] * lengths[1])
    assert (1 - cosine).max() <= limit, f"{what}: 1 - cosine is {(1 - cosine).max():.3g}, at most {limit:g} is allowed"
    ratio = np.abs(lengths[0] / lengths[1] - 1).max()
    assert ratio <= limit, f"{what}: a vector's length is off by {ratio:.3g} of it, at most {limit:g} is allowed"


def compared(kind: str, reference: Tensor, last: Tensor) -> float:
    """KL(reference || cell), Jensen-Shannon, Euclidean distance of logits; nats."""
    p, q = reference.softmax(-1), last.softmax(-1)
    if kind == "l2":
        return float((reference - last).norm())
    if kind == "kl":
        return float((p * (p / q).log()).sum())
    m = (p + q) / 2
    return float(((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2)
