"""Which cells a server runs once more, the slow way: the largest estimates of each metric, and others drawn with the 64-bit Mersenne Twister."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_MASK = (1 << 64) - 1


def mersenne_twister_64(seed: int) -> Iterator[int]:
    """The numbers of std::mt19937_64 (Nishimura 2000; the constants of [rand.predef] in the C++ standard)."""
    n, m, upper = 312, 156, _MASK & ~0x7FFFFFFF
    state = [seed & _MASK]
    for i in range(1, n):
        state.append((6364136223846793005 * (state[-1] ^ (state[-1] >> 62)) + i) & _MASK)
    while True:
        for i in range(n):
            x = (state[i] & upper) | (state[(i + 1) % n] & 0x7FFFFFFF)
            state[i] = state[(i + m) % n] ^ (x >> 1) ^ (0xB5026F5AA96619E9 if x & 1 else 0)
        for x in state:
            x ^= (x >> 29) & 0x5555555555555555
            x ^= (x << 17) & 0x71D67FFFEDA60000
            x ^= (x << 37) & 0xFFF7EEE000000000
            yield x ^ (x >> 43)


def choose(scores: list[np.ndarray], top: int, random: int, seed: int) -> list[int]:
    """Flat indices, ascending. `scores`: of each metric, the mean over pairs. NaN: there is no such cell."""
    chosen: set[int] = set()
    there = ~np.isnan(scores[0].ravel())
    for of_metric in scores:
        order = np.argsort(-np.abs(of_metric.ravel()), kind="stable")
        chosen.update(order[there[order]][:top].tolist())
    rest = [cell for cell in range(scores[0].size) if there[cell] and cell not in chosen]
    numbers = mersenne_twister_64(seed)
    for i in range(min(random, len(rest))):
        j = i + next(numbers) % (len(rest) - i)
        rest[i], rest[j] = rest[j], rest[i]
        chosen.add(rest[i])
    return sorted(chosen)
