"""Promises of the tables over seeds, of costs, and of failures."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from kdse.metrics.table import Row
from kdse.report.tables.costs import cost_table, failure_table
from kdse.report.tables.seeds import seed_table
from kdse.report.tables.table import MARK, Cell, Table
from kdse.report.tables.writers import to_csv


def rows(means: dict[str, float], items: int = 40) -> list[Row]:
    rng = np.random.default_rng(0)
    level = rng.normal(0, 3, items)
    return [
        Row(system, f"item{i}", {"m": round(float(level[i] + mean + 0.1 * rng.standard_normal()), 6)})
        for system, mean in {"noisy": 0.0, **means}.items()
        for i in range(items)
    ]


def cells(table: Table, column: int) -> dict[str, Cell]:
    return {str(row[0].value): row[column] for row in table.rows}


def test_seed_table_holds_mean_and_sample_deviation_of_the_seeds_means() -> None:
    scored = rows({"a0": 5.0, "a1": 5.4, "a2": 5.1, "b0": 1.0, "b1": 1.1})
    table = seed_table(scored, ["m"], {"a": {0: "a0", 1: "a1", 2: "a2"}, "b": {0: "b0", 1: "b1"}})
    mean = {s: statistics.fmean(r.values["m"] for r in scored if r.system == s) for s in ("noisy", "a0", "a1", "a2")}
    seeds = [mean["a0"], mean["a1"], mean["a2"]]
    found = cells(table, 2)["a"]
    assert found.value == pytest.approx(statistics.fmean(seeds)) and cells(table, 1)["a"].value == 3
    assert found.deviation == pytest.approx(statistics.stdev(seeds))
    gain = statistics.fmean(seeds) - mean["noisy"]
    assert found.text == f"{statistics.fmean(seeds):.3f} ± {statistics.stdev(seeds):.3f} ({gain:+.3f})"
    assert found.best and not cells(table, 2)["b"].noise  # 4 apart, with deviations of 0.2
    assert f"{found.deviation}" in to_csv(table)


def test_a_lead_that_the_seeds_do_not_bear_out_is_marked_although_files_do() -> None:
    scored = rows({"a0": 5.0, "a1": 6.0, "b0": 4.6, "b1": 5.6})  # files: 0.4 apart, each to 0.1
    table = seed_table(scored, ["m"], {"a": {0: "a0", 1: "a1"}, "b": {0: "b0", 1: "b1"}})
    assert cells(table, 2)["a"].best and cells(table, 2)["b"].noise and cells(table, 2)["b"].text.endswith(MARK)
    alone = seed_table(scored, ["m"], {"a": {0: "a0", 1: "a1"}, "once": {0: "b0"}})
    assert cells(alone, 2)["once"].noise and "±" not in cells(alone, 2)["once"].text  # one seed has no spread
    assert "one seed" in alone.caption


def test_a_seed_without_scores_is_named() -> None:
    with pytest.raises(ValueError, match="seed 1 of 'a': there are no scores of 'a1'"):
        seed_table(rows({"a0": 1.0}), ["m"], {"a": {0: "a0", 1: "a1"}})


def test_cost_table_leaves_missing_costs_empty_and_columns_without_any_out() -> None:
    costs = {
        "noisy": {},
        "small": {"parameters": 30101, "macs_per_second": 12_345_678.0, "real_time_factor": 0.0123, "threads": 1,
                  "latency_ms": 24.0, "model_bytes": 123_456, "steps": 500},
        "big": {"parameters": 2_000_000, "latency_ms": None, "real_time_factor": 0.5, "threads": 1},
    }  # fmt: skip
    table = cost_table(costs)
    titles = [column.title for column in table.columns]
    assert titles == ["system", "parameters", "MACs / s of audio", "real-time factor (1 thread)", "latency ms",
                      "model kB", "steps"]  # fmt: skip
    texts = [[c.text for c in row] for row in table.rows]
    assert texts[0] == ["noisy", "", "", "", "", "", ""]
    assert texts[1] == ["small", "30,101", "12.3 M", "0.012", "24", "123", "500"]
    assert texts[2] == ["big", "2,000,000", "", "0.500", "n/a", "", ""]
    assert [c.value for c in table.rows[1][1:]] == [30101, 12_345_678.0, 0.0123, 24.0, 123_456, 500]


def test_real_time_factors_on_other_thread_counts_say_so() -> None:
    table = cost_table({s: {"real_time_factor": 0.1, "threads": n} for s, n in (("a", 1), ("b", 4))})
    assert [row[1].text for row in table.rows] == ["0.100 (1 thread)", "0.100 (4 threads)"]
    assert table.columns[1].title == "real-time factor"


def test_failure_table_holds_every_failure_and_the_set_only_if_there_are_some() -> None:
    table = failure_table([("", "x", "item1", "pesq_wb", "no utterances"), ("", "noisy", "item2", "stoi", "silent")])
    assert [column.key for column in table.columns] == ["system", "name", "metric", "reason"]
    assert [[c.text for c in row] for row in table.rows][0] == ["x", "item1", "pesq_wb", "no utterances"]
    assert [c.key for c in failure_table([("vb", "x", "i", "m", "why")]).columns][0] == "set"
    assert failure_table([]).rows == () and not math.isnan(len(failure_table([]).columns))
