"""Resampling of items in exact arithmetic: bootstrap bounds of a mean, and the sign-flip test of paired differences.

Values are put on a decimal grid so coarse that every sum of every resample is a whole number below 2^53. Sums are
then exact in float64, whatever the order of additions: no digit depends on BLAS, its threads, or the order of files,
and equal sums tie exactly. The grid is finer than 1e-9 of the largest value up to 100,000 items, far below the six
decimals that scores are kept at.

Not scipy's `bootstrap` and `permutation_test`, which the tests compare with: they draw again for every sample. Scipy's
bootstrap is up to three times as fast for one sample, but for the 40 means of a table of 1,000 files it takes some 15
times as long, its test 25 times; and it refuses a stratum of one item.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np

#: Sums stay below this times two (the differences of two values), which is below 2^53, about 9.007e15.
LARGEST_SUM = 1e15
#: Up to so many items all sign patterns are tried: 2^13 is less than the 10,000 patterns drawn for more.
ENUMERATED_ITEMS = 13
#: Samples, and entries of a resampling matrix, that are worked on at once.
SAMPLES_AT_ONCE, ENTRIES_AT_ONCE = 64, 4_000_000
#: Matrices of so many entries (a byte each) are kept for further samples; 24 of them at most.
ENTRIES_KEPT = 10_000_000


def on_grid(values_kn: np.ndarray, largest_k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers ``[K, N]`` (as float64) and the factor ``[K]`` that made them.

    Args:
        values_kn: K samples of N items.
        largest_k: the largest magnitude that the values, or what they are differences of, have; zero is fine.
    """
    room = math.log10(LARGEST_SUM) - math.log10(values_kn.shape[1])
    digits = [min(300, math.floor(room - math.log10(largest))) if largest else 0 for largest in largest_k.tolist()]
    factors = np.array([float(f"1e{number}") for number in digits])
    return np.rint(values_kn * factors[:, None]), factors


def bootstrap_bounds(
    whole_kn: np.ndarray, strata: tuple[int, ...], confidence: float, resamples: int, seed: int
) -> np.ndarray:
    """Percentile bounds of the *sums* of resamples, lower and upper ``[2, K]``.

    Args:
        whole_kn: from `on_grid`.
        strata: lengths of consecutive parts of N; each is drawn from by itself and keeps its length.
        confidence: between the bounds.
        resamples: how many.
        seed: of the drawing.
    """
    bounds = np.empty((2, len(whole_kn)))
    for chosen in _slices(len(whole_kn), SAMPLES_AT_ONCE):
        parts = np.split(whole_kn[chosen], np.cumsum(strata)[:-1], axis=1)
        sums = sum(_sums(part, _drawn(_counts, resamples, part.shape[1], seed, i)) for i, part in enumerate(parts))
        bounds[:, chosen] = np.quantile(sums, (0.5 - confidence / 2, 0.5 + confidence / 2), axis=1)
    return bounds


def sign_flip_p_values(whole_kn: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Two-sided p values ``[K]`` of the mean differing from zero, if every sign were as likely as its opposite.

    All sign patterns for up to 13 items; else ``(k + 1) / (resamples + 1)`` with the k of them whose sum is at least
    as far from zero (Phipson and Smyth 2010: such a p is never zero and never too small).
    """
    items = whole_kn.shape[1]
    exact = items <= ENUMERATED_ITEMS
    if exact:
        signs = 1 - 2 * (np.arange(2**items)[:, None] >> np.arange(items) & 1)
    else:
        signs = _drawn(_signs, resamples, items, seed)
    p_values = np.empty(len(whole_kn))
    for chosen in _slices(len(whole_kn), SAMPLES_AT_ONCE):
        observed = np.abs(whole_kn[chosen].sum(axis=1))
        as_far = np.count_nonzero(np.abs(_sums(whole_kn[chosen], signs)) >= observed[:, None], axis=1)
        p_values[chosen] = as_far / len(signs) if exact else (as_far + 1) / (len(signs) + 1)
    return p_values


def _sums(whole_kn: np.ndarray, weights_rn: np.ndarray) -> np.ndarray:
    """Exact weighted sums ``[K, R]``: all partial sums are whole numbers that float64 holds."""
    sums = np.empty((len(whole_kn), len(weights_rn)))
    for rows in _slices(len(weights_rn), max(1, ENTRIES_AT_ONCE // whole_kn.shape[1])):
        sums[:, rows] = whole_kn @ weights_rn[rows].T.astype(np.float64)
    return sums


def _drawn(draw: Callable[..., np.ndarray], resamples: int, items: int, *key: int) -> np.ndarray:
    """A resampling matrix ``[R, N]``, the same for all samples of so many items; kept for others unless it is large."""
    get = _keep if resamples * items <= ENTRIES_KEPT else _keep.__wrapped__
    return get(draw, resamples, items, *key)


@functools.lru_cache(maxsize=24)
def _keep(draw: Callable[..., np.ndarray], *key: int) -> np.ndarray:
    return draw(*key)


# The legacy generator below is the one whose stream numpy promises never to change: tables keep their digits.


def _counts(resamples: int, items: int, seed: int, stratum: int) -> np.ndarray:
    """How often each item is drawn in each resample."""
    generator = np.random.RandomState([seed, items, 0, stratum])
    counts = np.empty((resamples, items), dtype=np.uint8)  # (one item 256 times: a chance of 1 in 10^500)
    for rows in _slices(resamples, max(1, ENTRIES_AT_ONCE // items)):
        size = rows.stop - rows.start
        drawn = generator.randint(0, items, size=(size, items), dtype=np.int64)
        drawn += items * np.arange(size)[:, None]
        counts[rows] = np.bincount(drawn.ravel(), minlength=size * items).reshape(size, items)
    return counts


def _signs(resamples: int, items: int, seed: int) -> np.ndarray:
    """Random signs, plus and minus one."""
    generator = np.random.RandomState([seed, items, 1])
    return (2 * generator.randint(0, 2, size=(resamples, items), dtype=np.int8) - 1).astype(np.int8)


def _slices(length: int, step: int) -> Iterator[slice]:
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))
