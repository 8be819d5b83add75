"""Promises of `kdse.metrics.uncertainty`: intervals and tests are right, and no digit depends on order or threads."""

from __future__ import annotations

import itertools
import math
import os
import random
import statistics
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from kdse.metrics.bootstrap import on_grid
from kdse.metrics.uncertainty import (
    Difference,
    clear,
    holm,
    mean_interval,
    mean_intervals,
    over_seeds,
    paired_difference,
    paired_differences,
    seeds_p_value,
)

NAN = math.nan


def scores(seed: int, items: int, shift: float = 0.0) -> list[float]:
    """Skewed, with six decimals, as metrics give them."""
    drawn = np.random.default_rng(seed).lognormal(0.0, 0.7, items) + shift
    return [round(float(value), 6) for value in drawn]


def named(values: list[float]) -> dict[str, float]:
    return {f"item{index}": value for index, value in enumerate(values)}


@pytest.mark.parametrize(("items", "confidence"), [(24, 0.95), (144, 0.95), (40, 0.8)])
def test_intervals_are_those_of_scipys_percentile_bootstrap(items: int, confidence: float) -> None:
    values = scores(items, items)
    found = mean_interval(values, confidence)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", confidence_level=confidence, rng=1
    ).confidence_interval
    width = expected.high - expected.low
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-12) and found.items == items
    assert found.low == pytest.approx(expected.low, abs=0.05 * width)
    assert found.high == pytest.approx(expected.high, abs=0.05 * width)


def test_with_strata_items_are_drawn_within_each() -> None:
    parts = {snr: scores(snr + 50, 10 + snr, shift=10.0 * snr) for snr in (0, 5, 10)}
    rng = np.random.default_rng(3)
    sums = sum(rng.choice(part, size=(20_000, len(part))).sum(axis=1) for part in parts.values())
    values = [value for part in parts.values() for value in part]
    labels = [snr for snr, part in parts.items() for _ in part]
    low, high = np.quantile(sums / len(values), (0.025, 0.975))
    found = mean_interval(values, strata=labels)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))
    whole = mean_interval(values)
    assert whole.high - whole.low > 5 * (high - low)  # what the SNRs do is in this one
    shuffled = random.Random(0).sample(list(zip(values, labels, strict=True)), len(values))
    assert mean_interval([v for v, _ in shuffled], strata=[label for _, label in shuffled]) == found


def test_95_percent_of_intervals_hold_the_true_mean() -> None:
    rng = np.random.default_rng(0)
    normal = mean_intervals([rng.normal(1.0, 2.0, 24).tolist() for _ in range(1500)])
    assert np.mean([x.low <= 1.0 <= x.high for x in normal]) == pytest.approx(0.935, abs=0.02)
    skewed = mean_intervals([rng.exponential(1.0, 144).tolist() for _ in range(600)])
    assert np.mean([x.low <= 1.0 <= x.high for x in skewed]) == pytest.approx(0.945, abs=0.025)


def test_systems_that_do_not_differ_are_called_different_in_5_percent_of_tests() -> None:
    rng = np.random.default_rng(1)
    pairs = [(named(rng.normal(0, 1, 30).tolist()), named(rng.normal(0, 1, 30).tolist())) for _ in range(1500)]
    found = paired_differences(pairs)
    assert np.mean([d.p_value < 0.05 for d in found]) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("items", range(1, 11))
def test_p_values_of_few_items_are_exact(items: int) -> None:
    a, b = scores(items, items, 0.4), scores(items + 100, items)
    exact = [Fraction(str(x)) - Fraction(str(y)) for x, y in zip(a, b, strict=True)]
    sums = [abs(sum(s * d for s, d in zip(signs, exact, strict=True)))
            for signs in itertools.product((1, -1), repeat=items)]  # fmt: skip
    expected = sum(value >= abs(sum(exact)) for value in sums) / len(sums)
    assert paired_difference(named(a), named(b)).p_value == expected
    if items > 1:  # (scipy refuses one)
        test = stats.permutation_test(
            (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True
        )
        assert expected == pytest.approx(test.pvalue, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.35])
def test_p_values_of_many_items_agree_with_scipys_permutation_test(shift: float) -> None:
    a, b = scores(1, 60, shift), scores(2, 60)
    test = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=20_000, rng=5,
    )  # fmt: skip
    spread = math.sqrt(test.pvalue * (1 - test.pvalue) * (1 / 10_000 + 1 / 20_000))
    assert paired_difference(named(a), named(b)).p_value == pytest.approx(test.pvalue, abs=4 * spread + 1e-4)


def test_sums_that_are_equal_tie_although_sums_of_floats_do_not() -> None:
    differences = [0.1, 0.2, -0.3, 0.6]
    patterns = list(itertools.product((1, -1), repeat=4))
    exact = [abs(sum(s * Fraction(str(d)) for s, d in zip(signs, differences, strict=True))) for signs in patterns]
    naive = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in patterns]
    as_far = sum(value >= exact[0] for value in exact)
    assert as_far != sum(value >= naive[0] for value in naive)
    a, zeros = named(differences), named([0.0] * 4)
    assert paired_difference(a, zeros).p_value == as_far / 16


def test_the_interval_of_a_difference_is_that_of_the_differences() -> None:
    a, b = scores(7, 50, 0.3), scores(8, 50)
    pair = paired_difference(named(a), named(b))
    alone = mean_interval([x - y for x, y in zip(a, b, strict=True)])
    assert pair[:4] == pytest.approx(alone, abs=1e-9)


def test_order_of_files_changes_no_digit() -> None:
    a, b = named(scores(1, 100, 0.1)), named(scores(2, 100))
    strata = {name: index % 4 for index, name in enumerate(a)}
    expected = mean_interval(list(a.values())), paired_difference(a, b), paired_difference(a, b, strata=strata)
    for seed in range(5):
        names = random.Random(seed).sample(list(a), len(a))
        c, d = {name: a[name] for name in names}, {name: b[name] for name in reversed(names)}
        found = mean_interval(list(c.values())), paired_difference(c, d), paired_difference(c, d, strata=strata)
        assert found == expected


def test_results_together_are_results_one_by_one() -> None:
    samples = [scores(seed, items) for seed, items in enumerate([30, 50, 30, 1, 0, 7])]
    one_by_one = [mean_interval(values) for values in samples]
    assert str(mean_intervals(samples)) == str(one_by_one)  # (NaN is not equal to itself)


def test_threads_of_the_linear_algebra_change_no_digit() -> None:
    program = (
        "import random; from kdse.metrics.uncertainty import *; r = random.Random(0)\n"
        "s = [{i: r.gauss(5, 9) for i in range(301)} for _ in range(70)]\n"
        "print(mean_intervals([list(x.values()) for x in s], resamples=3000),"
        " paired_differences([(x, s[0]) for x in s], resamples=3000))"
    )
    printed = []
    for threads in ("1", "2", "3"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, threads)
        printed.append(subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True))
    assert printed[0].returncode == 0 and len(printed[0].stdout) > 5000
    assert len({run.stdout for run in printed}) == 1


@pytest.mark.parametrize("scale", [1e-9, 1.0, 100.0, 1e7, 1e20])
@pytest.mark.parametrize("items", [2, 144, 10_000])
def test_sums_on_the_grid_are_exact(items: int, scale: float) -> None:
    values = np.random.default_rng(0).uniform(-scale, scale, (1, items))
    whole, factors = on_grid(values, np.array([scale]))
    assert (whole == np.rint(whole)).all() and 2 * items * np.abs(whole).max() < 2**53
    assert whole / factors[:, None] == pytest.approx(values, abs=1e-9 * scale)


def test_missing_values_are_left_out() -> None:
    values = scores(3, 20)
    assert mean_interval([NAN, *values, NAN]) == mean_interval(values)
    assert mean_interval(values, strata=[0] * 20) == mean_interval([*values, NAN], strata=[*[0] * 20, 1])
    a, b = named(values), named(scores(4, 20))
    with_gaps = a | {"item3": NAN, "mine": 1.0}, b | {"item4": NAN, "theirs": 2.0}
    kept = [{k: v for k, v in x.items() if k not in ("item3", "item4")} for x in (a, b)]
    assert paired_difference(*with_gaps) == paired_difference(*kept) and paired_difference(*kept).items == 18


def test_no_items_and_one_item_have_no_interval() -> None:
    none, one = mean_interval([]), mean_interval([3.0])
    assert none.items == 0 and all(map(math.isnan, none[:3]))
    assert (one.mean, one.items) == (3.0, 1) and math.isnan(one.low) and math.isnan(one.high)
    lonely, nothing = paired_difference({"a": 5.0}, {"a": 1.0}), paired_difference({"a": 5.0}, {"b": 1.0})
    assert lonely.p_value == 1.0 and not clear(lonely, lonely.p_value)
    assert math.isnan(nothing.p_value) and not clear(nothing, nothing.p_value)


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_infinite_values_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="infinite"):
        mean_interval([1.0, bad])
    with pytest.raises(ValueError, match="infinite"):
        paired_difference({"a": bad}, {"a": bad})


def test_equal_systems_are_never_clearly_different() -> None:
    same = named(scores(5, 40))
    found = paired_difference(same, dict(same))
    assert found == Difference(0.0, 0.0, 0.0, 40, 1.0) and not clear(found, found.p_value)


def test_a_constant_lead_is_clear_with_six_items_and_not_with_five() -> None:
    for items, is_clear in ((5, False), (6, True), (200, True)):
        base = named(scores(6, items))
        found = paired_difference({name: value + 0.5 for name, value in base.items()}, base)
        assert (found.low, found.high) == pytest.approx((0.5, 0.5), abs=1e-9)
        assert clear(found, found.p_value) is is_clear


def test_clear_asks_for_both_the_test_and_the_interval() -> None:
    assert clear(Difference(1.0, 0.2, 1.8, 30, 0.01), 0.049)
    assert clear(Difference(-1.0, -1.8, -0.2, 30, 0.01), 0.049)
    assert not clear(Difference(1.0, 0.2, 1.8, 30, 0.01), 0.05)
    assert not clear(Difference(1.0, -0.01, 1.8, 30, 0.01), 0.01)


def test_holms_adjustment_is_that_of_the_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0] and holm([]) == []
    with_gap = holm([0.01, NAN, 0.02])
    assert with_gap[0] == pytest.approx(0.02) and math.isnan(with_gap[1]) and with_gap[2] == pytest.approx(0.02)


def test_deviation_over_seeds_is_the_sample_deviation() -> None:
    means = [9.4, 9.1, 9.9]
    found = over_seeds([*means, NAN])
    assert (found.mean, found.deviation) == pytest.approx((statistics.fmean(means), statistics.stdev(means)))
    assert found.seeds == 3
    one = over_seeds([9.4])
    assert (one.mean, one.seeds) == (9.4, 1) and math.isnan(one.deviation)


def test_seeds_are_compared_by_welchs_formula() -> None:
    a, b = [9.4, 9.1, 9.9], [8.7, 8.9, 8.2, 8.8]
    errors = [statistics.variance(x) / len(x) for x in (a, b)]
    t = (statistics.fmean(a) - statistics.fmean(b)) / math.sqrt(sum(errors))
    freedom = sum(errors) ** 2 / sum(e**2 / (len(x) - 1) for e, x in zip(errors, (a, b), strict=True))
    assert seeds_p_value(a, b) == pytest.approx(2 * stats.t.sf(abs(t), freedom), rel=1e-9)
    fixed = (statistics.fmean(a) - 8.0) / math.sqrt(errors[0])
    assert seeds_p_value(a, 8.0) == pytest.approx(2 * stats.t.sf(abs(fixed), 2), rel=1e-9)


def test_one_seed_says_nothing_nor_do_seeds_that_changed_nothing() -> None:
    assert math.isnan(seeds_p_value([9.4], [8.0, 8.1])) and math.isnan(seeds_p_value([9.4], 8.0))
    assert seeds_p_value([9.0, 9.0], [9.0, 9.0]) == 1.0 and math.isnan(seeds_p_value([9.0, 9.0], [8.0, 8.0]))


def test_importing_it_imports_no_scipy() -> None:
    program = "import sys, kdse.metrics.uncertainty; print('scipy' in sys.modules, 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.split() == ["False", "False"]
