"""Promises of `kdse.metrics.table`."""

from __future__ import annotations

import csv
import io
import math
import random

import pytest

from kdse.metrics.table import Row, read_rows, records, snr_buckets, summarize, to_csv

NAN = math.nan


def rows() -> list[Row]:
    made = []
    for system, gain in (("student", 2.0), ("noisy", 0.0), ("teacher", 5.0)):
        for index in range(12):
            snr_db = (-5.0, 0.0, 5.0)[index % 3]
            value = snr_db + gain + 0.1 * math.sin(index * 7 + gain)
            made.append(Row(system, f"item{index:02d}", {"si_sdr": value, "estoi": value / 10}, {}, snr_db))
    return made


def test_means_and_improvements_are_those_of_a_plain_loop() -> None:
    table = rows()
    summary = summarize(table, ["si_sdr", "estoi"])
    for snr_db in (-5.0, 0.0, 5.0, "all"):
        for system in ("noisy", "student", "teacher"):
            chosen = [r for r in table if r.system == system and snr_db in ("all", r.snr_db)]
            base = [r for r in table if r.system == "noisy" and snr_db in ("all", r.snr_db)]
            mean = sum(r.values["si_sdr"] for r in chosen) / len(chosen)
            noisy = sum(r.values["si_sdr"] for r in base) / len(base)
            line = summary.line(system, snr_db)
            assert line.items == len(chosen)
            assert line.values["si_sdr"] == pytest.approx(mean, abs=1e-12)
            assert line.improvements["si_sdr"] == pytest.approx(mean - noisy, abs=1e-12)


def test_no_digit_depends_on_the_order_of_files() -> None:
    table = rows()
    expected = to_csv(records(summarize(table, ["si_sdr", "estoi"])))
    for seed in range(20):
        shuffled = [row for system in ("student", "noisy", "teacher") for row in _shuffled(table, system, seed)]
        assert to_csv(records(summarize(shuffled, ["si_sdr", "estoi"]))) == expected


def _shuffled(table: list[Row], system: str, seed: int) -> list[Row]:
    chosen = [row for row in table if row.system == system]
    random.Random(seed).shuffle(chosen)
    return chosen


def test_lines_go_by_snr_then_system_with_noisy_first_and_all_last() -> None:
    lines = summarize(rows(), ["si_sdr"]).lines
    assert [line.system for line in lines[:3]] == ["noisy", "student", "teacher"]
    assert [line.snr_db for line in lines[::3]] == [-5.0, 0.0, 5.0, "all"]


def test_failed_items_are_counted_and_left_out_of_mean_and_improvement() -> None:
    table = [
        Row("noisy", "a", {"m": 1.0}),
        Row("noisy", "b", {"m": NAN}, {"m": "no speech"}),
        Row("noisy", "c", {"m": 2.0}),
        Row("x", "a", {"m": NAN}, {"m": "silent"}),
        Row("x", "b", {"m": 10.0}),
        Row("x", "c", {"m": 5.0}),
    ]
    summary = summarize(table, ["m"], max_failed_share=0.4)
    line = summary.line("x")
    assert (line.values["m"], line.improvements["m"], line.failures["m"]) == (7.5, 3.0, 1)
    assert summary.failures == [("", "noisy", "b", "m", "no speech"), ("", "x", "a", "m", "silent")]


def test_too_many_failures_fail_the_run() -> None:
    table = [
        Row("noisy", f"n{i:02d}", {"m": NAN if i < 3 else 1.0}, {"m": "broken"} if i < 3 else {}) for i in range(20)
    ]
    with pytest.raises(ValueError, match=r"m failed on 3 of 20 items of 'noisy' \(more than 10%\).*n00: broken"):
        summarize(table, ["m"])
    assert summarize(table, ["m"], max_failed_share=0.15).line("noisy").failures == {"m": 3}
    assert summarize(table, ["m"], max_failed_share=None).line("noisy").values == {"m": 1.0}


def test_a_metric_without_any_value_is_shown_as_missing_not_as_a_number() -> None:
    summary = summarize([Row("noisy", "a", {"m": NAN}, {"m": "x"})], ["m"], max_failed_share=None)
    assert records(summary)[0]["m"] is None
    assert list(csv.DictReader(io.StringIO(to_csv(records(summary)))))[0]["m"] == ""


def test_repeats_that_pad_a_distributed_epoch_count_once() -> None:
    table = [Row("noisy", "a", {"m": 1.0}), Row("noisy", "b", {"m": 3.0}), Row("noisy", "a", {"m": 1.0})]
    assert summarize(table, ["m"]).line("noisy").values["m"] == 2.0


def test_sets_are_never_averaged_together() -> None:
    table = [Row("noisy", "a", {"m": 1.0}, snr_db=0.0), Row("noisy", "a", {"m": 9.0}, group="range")]
    summary = summarize(table, ["m"])
    assert summary.line("noisy", "all", group="").values["m"] == 1.0
    assert summary.line("noisy", "all", group="range").values["m"] == 9.0


@pytest.mark.parametrize(
    ("snrs", "buckets"),
    [
        ([-5.0, 2.5, 17.5], [-5.0, 2.5, 17.5]),
        ([-4.9, -2.4, 2.6, 14.0], [-5.0, 0.0, 5.0, 15.0]),
        ([-2.5, 2.5, 7.4], [0.0, 5.0, 5.0]),
        ([3.0000002, -5.0000001], [3.0, -5.0]),
    ],
)
def test_listed_snrs_are_their_own_bucket_and_drawn_ones_go_to_the_nearest_5_db(snrs: list, buckets: list) -> None:
    assert snr_buckets(snrs) == buckets


def test_unknown_snrs_get_no_bucket_of_their_own() -> None:
    assert [line.snr_db for line in summarize([Row("noisy", "a", {"m": 1.0})], ["m"]).lines] == ["all"]


def test_read_rows_gives_back_what_evaluate_wrote(tmp_path) -> None:
    from kdse.evaluation.scoring import per_file_csv

    written = [
        Row("noisy", 'a, "b"/c.wav', {"si_sdr": -0.000001, "stoi": 0.1}, {}, -5.0),
        Row("noisy", "d", {"si_sdr": NAN, "stoi": 1.0}, {"si_sdr": "silent; stoi is fine: really"}, 2.3000000715255737),
        Row("=1+1", "-x", {"si_sdr": 1.0, "stoi": 1.0}, {}, NAN, "'@z"),
        Row("x y", "d", {"si_sdr": NAN, "stoi": NAN}, {"si_sdr": "a; b: c", "stoi": ""}, NAN, "range, wide"),
    ]
    path = tmp_path / "per_file.csv"
    path.write_text(per_file_csv(written, ["si_sdr", "stoi"]), encoding="utf-8")
    assert list(map(str, read_rows(path))) == list(map(str, written))  # (NaN is not equal to itself)
    assert per_file_csv(read_rows(path), ["si_sdr", "stoi"]) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a,b\n1,2\n", "its columns are not set, system, name, snr_db, metrics, failures"),
        ("", "its columns are not"),
        ("set,system,name,snr_db,m,failures\n,x,i,0,1.0", "line 2 has not 6 values"),
        ("set,system,name,snr_db,m,failures\n,x,i,0,high,\n", "could not convert string to float: 'high'"),
        ("set,system,name,snr_db,m,failures\n,x,i,0,inf,\n", "line 2 has an infinite value"),
        ("set,system,name,snr_db,m,failures\n,x,i,0,,why\n", "failures 'why' do not begin with a metric"),
    ],
)
def test_another_file_or_a_broken_one_is_refused_by_name(tmp_path, content: str, why: str) -> None:
    path = tmp_path / "per_file.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match="per_file.csv: is no per_file.csv of kdse evaluate") as refusal:
        read_rows(path)
    assert why in str(refusal.value)
    with pytest.raises(ValueError, match="No such file"):
        read_rows(tmp_path / "nothing.csv")
