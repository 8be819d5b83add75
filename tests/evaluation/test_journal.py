"""Scores are kept as they come in, for exactly the settings they were made under, and nothing that failed is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from kdse.evaluation.journal import FILE, Journal, Key
from kdse.metrics.registry import Scores

SETTINGS = {"items": {"seed": 0}, "metrics": {"si_sdr": "plain"}}
KEY = Key("abc", "", "file 1", 7)


def fill(folder: Path, *values: float) -> None:
    with Journal(folder, SETTINGS) as journal:
        for index, value in enumerate(values):
            journal.put(KEY._replace(name=f"file {index}"), Scores({"si_sdr": value}, {}))


def test_scores_come_back_to_the_last_digit(tmp_path):
    fill(tmp_path, 0.1 + 0.2, -1e-6)
    with Journal(tmp_path, SETTINGS) as journal:
        assert len(journal) == 2
        assert journal.get(KEY._replace(name="file 0")) == Scores({"si_sdr": 0.1 + 0.2}, {})
        assert journal.get(KEY._replace(name="file 1")) == Scores({"si_sdr": -1e-6}, {})


@pytest.mark.parametrize("field", Key._fields)
def test_another_system_item_or_audio_is_not_taken_for_this_one(tmp_path, field):
    with Journal(tmp_path, SETTINGS) as journal:
        journal.put(KEY, Scores({"si_sdr": 1.0}, {}))
        other = KEY._replace(**{field: 8 if field == "audio" else "other"})
        assert journal.get(KEY) is not None and journal.get(other) is None


def test_what_failed_is_tried_again(tmp_path):
    with Journal(tmp_path, SETTINGS) as journal:
        journal.put(KEY, Scores({"si_sdr": math.nan}, {"si_sdr": "the scoring process died"}))
    with Journal(tmp_path, SETTINGS) as journal:
        assert len(journal) == 0 and journal.get(KEY) is None


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_cut_short_by_a_kill_costs_that_line_only(tmp_path, cut):
    fill(tmp_path, 1.0, 2.0, 3.0)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(tmp_path, SETTINGS) as journal:
        assert len(journal) == 2
        journal.put(KEY._replace(name="file 2"), Scores({"si_sdr": 3.0}, {}))
    with Journal(tmp_path, SETTINGS) as journal:
        assert len(journal) == 3


def test_other_settings_are_refused_by_name_and_replaced_on_request_only(tmp_path):
    fill(tmp_path, 1.0)
    other = {**SETTINGS, "metrics": {"si_sdr": "zero mean"}}
    with pytest.raises(ValueError, match=r"--out .*\(metrics\).*--overwrite"):
        Journal(tmp_path, other)
    with Journal(tmp_path, SETTINGS) as journal:
        assert len(journal) == 1  # the refusal touched nothing
    with Journal(tmp_path, other, replace=True) as journal:
        assert len(journal) == 0
    with pytest.raises(ValueError, match="metrics"):
        Journal(tmp_path, SETTINGS)


def test_two_writers_at_once_are_refused(tmp_path):
    with Journal(tmp_path, SETTINGS), pytest.raises(ValueError, match="another `kdse evaluate`"):
        Journal(tmp_path, SETTINGS)
    with Journal(tmp_path, SETTINGS):
        pass


def test_a_full_disk_is_one_line_and_keeps_what_there_is(tmp_path, monkeypatch):
    fill(tmp_path, 1.0)
    with Journal(tmp_path, SETTINGS) as journal:

        def full(_: str) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(journal._file, "write", full, raising=False)
        with pytest.raises(ValueError, match="No space left on device.*1 scores are kept"):
            journal.put(KEY, Scores({"si_sdr": 2.0}, {}))
    with Journal(tmp_path, SETTINGS) as journal:
        assert len(journal) == 1


def test_a_file_that_is_no_journal_counts_as_none(tmp_path):
    (tmp_path / FILE).write_text('{"si_sdr": 1}\nnonsense\n')
    with Journal(tmp_path, SETTINGS) as journal:
        assert len(journal) == 0
    assert json.loads((tmp_path / FILE).read_text().splitlines()[0])["settings"] == SETTINGS


@pytest.mark.parametrize("damage", ['{"key": [1]}', '{"key": ["a", "", "b", 1], "values": [1]}', "[]", "null", '"key"'])
def test_a_damaged_line_is_computed_again(tmp_path, damage):
    fill(tmp_path, 1.0, 2.0)
    lines = (tmp_path / FILE).read_text().splitlines()
    (tmp_path / FILE).write_text("\n".join([lines[0], damage, lines[2]]) + "\n")
    with Journal(tmp_path, SETTINGS) as journal:
        assert len(journal) == 1 and journal.get(KEY._replace(name="file 1")) is not None
