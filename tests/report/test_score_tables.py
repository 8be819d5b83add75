"""Promises of the tables of scores: numbers are those of plain loops, and differences inside the noise are marked."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from kdse.metrics.table import Row
from kdse.report.tables.scores import difference_table, score_table
from kdse.report.tables.table import MARK, Cell, Table

NAN = math.nan
SNRS = (-5.0, 0.0, 5.0)


def rows(gains: dict[str, float], items: int = 60, noise: float = 0.3, metric: str = "si_sdr") -> list[Row]:
    """Every system gains so much over the noisy input, give or take what differs from item to item."""
    rng = np.random.default_rng(0)
    made = []
    level = [round(SNRS[i % 3] + 0.1 * rng.standard_normal(), 6) for i in range(items)]
    for system, gain in {"noisy": None, **gains}.items():
        for i in range(items):
            value = level[i] if gain is None else round(level[i] + gain + noise * rng.standard_normal(), 6)
            made.append(Row(system, f"item{i:03d}", {metric: value}, {}, SNRS[i % 3]))
    return made


def cell(table: Table, key: str, system: str, snr: float | str = "all", group: str | None = None) -> Cell:
    keys = [column.key for column in table.columns]
    for row in table.rows:
        about = dict(zip(keys, row, strict=True))
        right = [about["system"].value == system]
        right += [about["snr_db"].value == snr] if "snr_db" in about else []
        right += [about["set"].value == group] if group is not None else []
        if all(right):
            return about[key]
    raise KeyError((system, snr))


def test_cells_are_the_means_and_improvements_of_a_plain_loop() -> None:
    scored = rows({"a": 4.0, "b": 6.0})
    table = score_table(scored, ["si_sdr"])
    for snr in (*SNRS, "all"):
        chosen = {s: [r.values["si_sdr"] for r in scored if r.system == s and snr in ("all", r.snr_db)] for s in "ab"}
        noisy = [r.values["si_sdr"] for r in scored if r.system == "noisy" and snr in ("all", r.snr_db)]
        for system, values in chosen.items():
            mean, gain = statistics.fmean(values), statistics.fmean(values) - statistics.fmean(noisy)
            found = cell(table, "si_sdr", system, snr)
            assert found.value == pytest.approx(mean, abs=1e-9)
            assert found.text.startswith(f"{mean:.2f} ({gain:+.2f})")
            assert cell(table, "items", system, snr).value == len(values)
    assert [row[0].text for row in table.rows[::3]] == ["-5 dB", "0 dB", "5 dB", "all"]
    assert table.blocks == (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)


def test_a_clear_lead_is_bold_and_unmarked_and_a_tie_is_marked() -> None:
    scored = rows({"best": 6.0, "worse": 5.0})
    best = [row for row in scored if row.system == "best"]
    for index, row in enumerate(best):  # as often better as worse, at every SNR, and 0.01 behind
        off = 0.3 * (-1) ** (index // 3) - 0.01
        scored.append(Row("tie", row.name, {"si_sdr": row.values["si_sdr"] + off}, {}, row.snr_db))
    table = score_table(scored, ["si_sdr"])
    for snr in (*SNRS, "all"):
        found = {s: cell(table, "si_sdr", s, snr) for s in ("noisy", "best", "tie", "worse")}
        assert found["best"].best and not found["best"].noise and not found["best"].text.endswith(MARK)
        assert found["tie"].noise and not found["tie"].best and found["tie"].text.endswith(MARK)
        for clearly in ("noisy", "worse"):
            assert not found[clearly].best and not found[clearly].noise and MARK not in found[clearly].text
    assert "Bold" in table.caption and MARK in table.caption and "seed" in table.caption


def test_an_improvement_inside_the_noise_is_marked_in_its_brackets() -> None:
    table = score_table(rows({"good": 6.0, "nothing": 0.02}), ["si_sdr"])
    assert f"{MARK})" in cell(table, "si_sdr", "nothing").text
    assert MARK not in cell(table, "si_sdr", "good").text


def test_marks_are_adjusted_for_the_number_of_systems() -> None:
    """One comparison at p of about 0.02 is clear; the same one among forty is not."""
    rng = np.random.default_rng(3)
    difference = rng.standard_normal(80)
    difference = 0.27 + difference - difference.mean()
    made = []
    for system in ("best", "rival", *(f"more{i}" for i in range(38))):
        for i in range(80):
            value = {"best": 10.0, "rival": 10.0 - difference[i]}.get(system, 9.99 + (-1) ** i * (1 + 0.01 * i))
            made.append(Row(system, f"item{i}", {"m": float(value)}))
    few = [row for row in made if row.system in ("best", "rival")]
    assert not cell(score_table(few, ["m"]), "m", "rival").noise
    assert cell(score_table(made, ["m"]), "m", "rival").noise


def test_where_lower_is_better_the_lowest_is_best() -> None:
    scored = rows({"low": -3.0, "high": 1.0}, metric="lsd")
    table = score_table(scored, ["lsd"])
    assert cell(table, "lsd", "low").best and not cell(table, "lsd", "high").best
    assert {column.key: column.better for column in table.columns}["lsd"] == "lower"


def test_noisy_and_excluded_systems_never_win_but_are_compared() -> None:
    table = score_table(rows({"teacher": 8.0, "a": 5.0, "b": 4.0, "same": 5.0}), ["si_sdr"], ["teacher"])
    assert not cell(table, "si_sdr", "teacher").best and not cell(table, "si_sdr", "teacher").noise
    assert sum(cell(table, "si_sdr", s).best for s in ("a", "same")) == 1 and "without teacher" in table.caption
    worse = score_table(rows({"a": -2.0, "b": -3.0}), ["si_sdr"])
    assert cell(worse, "si_sdr", "a").best and not cell(worse, "si_sdr", "noisy").best


def test_one_system_alone_is_not_called_the_best() -> None:
    assert not any(c.best for row in score_table(rows({"only": 3.0}), ["si_sdr"]).rows for c in row)


def test_a_system_that_fails_on_hard_items_does_not_win_by_it() -> None:
    scored = rows({"honest": 5.0, "failing": 4.0}, noise=0.05)
    dropped = [
        Row(r.system, r.name, {"si_sdr": NAN}, {"si_sdr": "silent"}, r.snr_db)
        if r.system == "failing" and r.snr_db < 5 and r.name < "item040"
        else r
        for r in scored
    ]
    table = score_table(dropped, ["si_sdr"])
    failing, honest = cell(table, "si_sdr", "failing"), cell(table, "si_sdr", "honest")
    assert float(failing.value or 0) > float(honest.value or 0)  # its mean is over the easy items
    assert honest.best and not failing.best
    assert cell(table, "failed", "failing").text == "si_sdr 27" and cell(table, "failed", "honest").text == ""


def test_only_means_over_all_snrs_show_an_interval_and_all_cells_hold_one() -> None:
    table = score_table(rows({"a": 4.0, "b": 6.0}), ["si_sdr"])
    for row in table.rows:
        found = row[-1]
        assert ("[" in found.text) == (row[0].value == "all")
        assert found.low is not None and found.high is not None and found.low < found.value < found.high


def test_intervals_leave_out_the_spread_of_listed_snrs_but_not_of_drawn_ones() -> None:
    listed = rows({"a": 4.0})
    drawn = [Row(r.system, r.name, r.values, {}, r.snr_db + 0.137) for r in listed]
    narrow, wide = (cell(score_table(scored, ["si_sdr"]), "si_sdr", "noisy") for scored in (listed, drawn))
    assert narrow.high - narrow.low < 0.1 < 1.5 < wide.high - wide.low


def test_a_metric_without_values_is_missing_and_unmarked() -> None:
    scored = [Row(s, f"i{k}", {"m": NAN if s == "b" else 1.0 + k}) for s in ("noisy", "a", "b") for k in range(8)]
    table = score_table(scored, ["m"])
    assert cell(table, "m", "b") == Cell("n/a") and difference_table(scored, ["m"], "a").rows[1][2] == Cell("n/a")


def test_sets_are_blocks_of_their_own() -> None:
    scored = rows({"a": 4.0, "b": 6.0})
    other = [Row(r.system, r.name, {"si_sdr": -r.values["si_sdr"]}, {}, NAN, "range") for r in scored]
    table = score_table([*scored, *other], ["si_sdr"])
    assert cell(table, "si_sdr", "b", group="").best and cell(table, "si_sdr", "a", group="range").best
    differences = difference_table([*scored, *other], ["si_sdr"], "a")
    b, mirrored = (float(cell(differences, "si_sdr_difference", "b", group=g).value) for g in ("", "range"))
    assert b == pytest.approx(-mirrored) and set(differences.blocks) == {0, 1}


def test_nothing_depends_on_the_order_of_items() -> None:
    scored = rows({"a": 4.0, "b": 4.05})
    mixed = [row for system in ("noisy", "a", "b") for row in reversed([r for r in scored if r.system == system])]
    assert score_table(mixed, ["si_sdr"]) == score_table(scored, ["si_sdr"])
    assert difference_table(mixed, ["si_sdr"], "a") == difference_table(scored, ["si_sdr"], "a")


def test_differences_are_paired_and_only_unclear_ones_are_marked() -> None:
    scored = rows({"a": 4.0, "same": 4.0, "b": 6.0})
    table = difference_table(scored, ["si_sdr"], "a")
    values = {s: {r.name: r.values["si_sdr"] for r in scored if r.system == s} for s in ("noisy", "a", "same", "b")}
    assert [row[0].value for row in table.rows] == ["noisy", "same", "b"]
    for system in ("noisy", "same", "b"):
        found, p_value = cell(table, "si_sdr_difference", system), cell(table, "si_sdr_p", system)
        expected = statistics.fmean(values[system][name] - values["a"][name] for name in values["a"])
        assert found.value == pytest.approx(expected, abs=1e-9) and found.text.startswith(f"{expected:+.2f} [")
        assert found.low < expected < found.high
        assert found.noise == found.text.endswith(MARK) == (system == "same") == (p_value.value > 0.05)


def test_a_difference_on_fewer_items_says_on_how_many() -> None:
    scored = rows({"a": 4.0, "b": 6.0})
    gaps = [Row(r.system, r.name, {"si_sdr": NAN}, {"si_sdr": "x"}, r.snr_db) if (r.system, r.name) == ("b", "item007")
            else r for r in scored]  # fmt: skip
    table = difference_table(gaps, ["si_sdr"], "a")
    assert cell(table, "items", "b").value == 60 and "n=59" in cell(table, "si_sdr_difference", "b").text
    assert "n=" not in cell(table, "si_sdr_difference", "noisy").text


def test_a_reference_without_scores_is_named() -> None:
    with pytest.raises(ValueError, match="reference 'c': no such system; there are noisy, a"):
        difference_table(rows({"a": 1.0}), ["si_sdr"], "c")


def test_p_values_of_differences_are_adjusted_for_the_number_of_systems() -> None:
    from kdse.metrics.uncertainty import holm, paired_difference

    scored = rows({"base": 4.0, "a": 4.1, "b": 4.12, "c": 4.15, "d": 4.0}, noise=0.3)
    table = difference_table(scored, ["si_sdr"], "base")
    values = {s: {r.name: r.values["si_sdr"] for r in scored if r.system == s} for s in ("base", "noisy", *"abcd")}
    found = [paired_difference(values[system], values["base"]).p_value for system in ("noisy", *"abcd")]
    adjusted = holm(found)
    assert any(one > before for one, before in zip(adjusted, found, strict=True))
    for system, expected in zip(("noisy", *"abcd"), adjusted, strict=True):
        assert cell(table, "si_sdr_p", system).value == pytest.approx(expected)


def test_intervals_of_differences_leave_out_the_spread_of_listed_snrs() -> None:
    rng = np.random.default_rng(1)
    made = []
    for i in range(60):
        snr = SNRS[i % 3]
        noisy = round(float(snr + 0.01 * rng.standard_normal()), 6)
        made.append(Row("noisy", f"{i}", {"si_sdr": noisy}, {}, snr))
        made.append(Row("base", f"{i}", {"si_sdr": noisy}, {}, snr))
        # the gain depends on the SNR alone, which is not drawn
        made.append(Row("x", f"{i}", {"si_sdr": round(noisy + snr + 0.01 * float(rng.standard_normal()), 6)}, {}, snr))
    found = cell(difference_table(made, ["si_sdr"], "base"), "si_sdr_difference", "x")
    assert found.low is not None and found.high is not None and found.high - found.low < 0.05
