"""One system on all items: the same items in every pass, a failure per item, and no audio kept."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kdse.commands.model import labelled
from kdse.evaluation.held_out import HeldOut, Item
from kdse.evaluation.journal import Journal, Key
from kdse.evaluation.scoring import per_file_csv, score_system
from kdse.evaluation.systems import System, folder_system, model_system
from kdse.metrics.pool import ScorePool
from kdse.metrics.registry import Scores
from kdse.metrics.table import Row, read_rows, records, summarize
from kdse.models import Cruse
from tests.tiny_run import save_model

RATE = 16000


def wave(seed: int, samples: int = 4000) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def test_set(names: list[str], noise: Callable[[int], torch.Tensor] = lambda i: wave(100 + i)) -> HeldOut:
    def iterate():
        for index, name in enumerate(names):
            yield Item("", name, math.nan, wave(index) + noise(index), wave(index))

    return HeldOut(len(names), iterate, RATE, {})


test_set.__test__ = False  # type: ignore[attr-defined]


def close_to(item: Item) -> torch.Tensor:
    """An estimate of 80 dB, which no other item's clean speech has."""
    return item.clean + 1e-4 * (item.noisy - item.clean)


def rows_of(folder: Path, system: System, held_out: HeldOut, **more):
    with Journal(folder, {}) as journal, ScorePool(("si_sdr",), RATE) as pool:
        return score_system("x", system, held_out, pool, journal, **more)


def test_whatever_a_model_raises_fails_its_item_only(tmp_path):
    def enhance(item: Item) -> torch.Tensor:
        if item.name == "b":
            raise RuntimeError("out of memory\non this device")
        return item.clean + 0.01

    rows = rows_of(tmp_path, System(enhance, {}, "model"), test_set(["a", "b", "c"]))
    assert [row.name for row in rows if row.failures] == ["b"]
    assert rows[1].failures["si_sdr"] == "RuntimeError: out of memory on this device"


def test_a_test_set_that_changes_between_passes_is_refused(tmp_path):
    drawn = iter(range(1000))
    held_out = test_set(["a", "b"], noise=lambda _: wave(next(drawn) + 7))
    rows_of(tmp_path, System(lambda item: item.noisy, {}, "noisy"), held_out)
    with pytest.raises(ValueError, match="other audio as 'a' in every pass"):
        rows_of(tmp_path, System(lambda item: item.noisy, {}, "other"), held_out)


def test_two_items_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two items called 'a'"):
        rows_of(tmp_path, System(lambda item: item.noisy, {}, "noisy"), test_set(["a", "b", "a"]))


def test_no_audio_stays_in_memory(tmp_path):
    samples = RATE * 4

    def iterate():
        for index in range(60):
            clean = torch.from_numpy(np.full(samples, 0.1 + index, np.float32))  # (counted by tracemalloc)
            yield Item("", str(index), 0.0, clean + 1e-3, clean)

    held_out = HeldOut(60, iterate, RATE, {})
    tracemalloc.start()
    rows_of(tmp_path, System(lambda item: item.noisy, {}, "noisy"), held_out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * samples * 4  # far less than the 120 signals


def test_files_of_nested_folders_are_never_taken_for_each_other(tmp_path):
    held_out = test_set(["a/x", "b/x"])
    items = list(held_out)
    (tmp_path / "one" / "a").mkdir(parents=True)
    soundfile.write(tmp_path / "one" / "a" / "x.wav", close_to(items[0]).numpy(), RATE, subtype="FLOAT")
    rows = rows_of(tmp_path / "out1", folder_system(tmp_path / "one", RATE), held_out)
    assert rows[0].values["si_sdr"] == pytest.approx(80, abs=0.5) and "no file for b/x" in rows[1].failures["si_sdr"]
    (tmp_path / "two" / "sub").mkdir(parents=True)
    for name, item in (("x", items[0]), ("sub/x", items[1])):
        soundfile.write(tmp_path / "two" / f"{name}.wav", close_to(item).numpy(), RATE, subtype="FLOAT")
    held_out = HeldOut(2, lambda: iter([items[0]._replace(name="x"), items[1]._replace(name="sub/x")]), RATE, {})
    rows = rows_of(tmp_path / "out2", folder_system(tmp_path / "two", RATE), held_out)
    assert [row.values["si_sdr"] for row in rows] == pytest.approx([80, 80], abs=0.5)


def test_scores_are_reused_for_the_same_network_only(tmp_path):
    torch.manual_seed(0)
    model = Cruse(channels=[2, 4, 6, 8])
    path = save_model(model, tmp_path / "a.ckpt")
    other = save_model(Cruse(channels=[2, 4, 6, 8]), tmp_path / "b.ckpt")
    again = save_model(model, tmp_path / "c.ckpt")
    first, second, third = (model_system(p, RATE, "cpu", False, cost=False) for p in (path, other, again))
    assert first.identity == third.identity != second.identity
    model.init_args["compression"] = 0.5  # equal weights, another network
    assert model_system(save_model(model, tmp_path / "d.ckpt"), RATE, "cpu", False, False).identity != first.identity


def test_the_reference_cannot_be_a_systems_name(tmp_path):
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(ValueError, match="cannot be called 'clean'"):
        labelled([f"clean={tmp_path / 'last.ckpt'}"], init=[])


def test_enhanced_files_with_a_suffix_are_matched_and_a_folder_of_others_is_refused_with_what_it_holds(tmp_path):
    held_out = test_set(["u1", "u10", "u2"])
    for item in held_out:
        (tmp_path / "fbd").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "fbd" / f"{item.name}_noisy.wav", item.noisy.numpy(), RATE)
        soundfile.write(tmp_path / "fbd" / f"{item.name}_enhanced.wav", close_to(item).numpy(), RATE, subtype="FLOAT")
    names = [item.name for item in held_out]
    system = folder_system(tmp_path / "fbd", RATE, names)
    rows = rows_of(tmp_path / "out", system, held_out)
    assert system.about["files"] == "NAME_enhanced"
    assert [row.values["si_sdr"] for row in rows] == pytest.approx([80] * 3, abs=0.5)
    with pytest.raises(ValueError, match=r"no file is called after the items \(a, b\); it holds u1.*_(noisy|enhanced)"):
        folder_system(tmp_path / "fbd", RATE, ["a", "b"])


def test_values_over_pieces_are_marked_in_the_files_of_scores_and_counted_in_the_summary(tmp_path):
    rows = [
        Row("noisy", "long", {"pesq_wb": 2.0, "stoi": math.nan}, {"stoi": "why"}, pieces={"pesq_wb": 15}),
        Row("noisy", "short", {"pesq_wb": 3.0, "stoi": 0.5}, {}),
    ]
    (tmp_path / "per_file.csv").write_text(per_file_csv(rows, ("pesq_wb", "stoi")))
    assert [row.pieces for row in read_rows(tmp_path / "per_file.csv")] == [{"pesq_wb": 15}, {}]
    assert "pieces" not in per_file_csv(rows[1:], ("pesq_wb", "stoi"))
    (record,) = records(summarize(rows, ("pesq_wb", "stoi"), None))
    assert record["pesq_wb_in_pieces"] == 1 and "stoi_in_pieces" not in record
    with Journal(tmp_path / "journal", {}) as journal:
        journal.put(Key("x", "", "long", 0), Scores({"pesq_wb": 2.0}, {}, {"pesq_wb": 15}))
    with Journal(tmp_path / "journal", {}) as journal:
        assert journal.get(Key("x", "", "long", 0)) == Scores({"pesq_wb": 2.0}, {}, {"pesq_wb": 15})
