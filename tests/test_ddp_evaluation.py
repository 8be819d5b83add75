"""One checkpoint gives one table: on one, two and three processes, for any number of items, in training and after."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import soundfile
import torch

from tests import ddp_evaluation_run
from tests.ddp_launch import torchrun

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
WORLDS = (2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def alone(folder) -> dict:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of several processes has
    try:
        ddp_evaluation_run.main(str(folder / "1"))
    finally:
        torch.set_num_threads(threads)
    return json.loads((folder / "1" / "found.json").read_text())


@pytest.fixture(scope="module", params=WORLDS)
def together(folder, request) -> dict:
    out = folder / str(request.param)
    torchrun(request.param, "tests/ddp_evaluation_run.py", out)
    return {**json.loads((out / "found.json").read_text()), "world": request.param, "out": out}


def test_the_same_checkpoint_gives_the_same_scores_table_and_loss_to_the_last_bit(alone, together):
    for name, one in alone["sets"].items():
        many = together["sets"][name]
        assert many["rows"] == one["rows"]
        assert many["table"] == one["table"]
        assert many["logged"] == one["logged"] and "test/loss" in one["logged"]
    assert together["limited"]["table"] == alone["limited"]["table"]  # six items, not six a process
    assert ",all,6," in alone["limited"]["table"]


def test_every_item_is_measured_by_one_process_and_some_may_have_none(together):
    for count, found in together["sets"].items():
        assert len(found["items"]) == together["world"]
        assert sorted(item for share in found["items"] for item in share) == list(range(int(count)))
        assert found["items"][0][:2] == [0, 1]  # rank zero, which logs examples, has the first ones
    assert together["sets"]["2"]["items"][1:] == [[]] * (together["world"] - 1)


def test_the_loss_is_the_mean_over_items_of_each_items_own_loss(alone):
    model = ddp_evaluation_run.distiller().eval()
    losses = []
    with torch.no_grad():
        for batch in ddp_evaluation_run.SharedData(7).val_dataloader():
            window = torch.hann_window(512, dtype=torch.float64).sqrt()
            for i, samples in enumerate(batch["samples"].tolist()):
                estimate = model.model(batch["noisy"][i : i + 1, :samples])
                clean, noisy = (batch[key][i, :samples].double() for key in ("clean", "noisy"))
                level = (noisy.square().mean() * window.square().sum()).sqrt()
                pad = [torch.nn.functional.pad(x, (256, -len(x) % 256 + 256)) for x in (clean, noisy)]
                s, y = (torch.fft.rfft(x.unfold(0, 512, 256) * window).T for x in pad)
                target = s.abs() * torch.cos(s.angle() - y.angle())
                losses.append(float(((estimate.spectrum[0].abs().double() - target) / level).square().mean()))
    assert alone["sets"]["7"]["logged"]["test/loss"] == pytest.approx(sum(losses) / 7, rel=1e-4)


def test_predictions_are_written_once_each_and_are_those_of_one_process(folder, alone, together):
    def written(out: Path) -> Counter:
        return Counter(name for path in out.glob("written.*") for name in path.read_text().split())

    def samples(out: Path) -> dict[str, list[float]]:  # (a header holds the time of writing)
        return {path.name: soundfile.read(path)[0].tolist() for path in out.glob("*.wav")}

    assert written(together["out"]) == Counter(f"toy{i:04d}" for i in range(7))
    assert written(together["out"] / "few") == Counter(f"toy{i:04d}" for i in range(2))
    assert samples(together["out"] / "predictions") == samples(folder / "1" / "predictions")
    assert len(samples(folder / "1" / "predictions")) == 7


def test_a_validation_in_training_measures_the_model_that_is_saved(alone, together):
    for found in (alone, together):
        assert len(found["training"]["during"]) == 7
        assert found["training"]["during"] == found["training"]["after"]


def test_distillation_in_bf16_gathers_activations_and_leaves_all_processes_with_one_student(together):
    assert len(together["bf16"]) == together["world"] and len(set(together["bf16"])) == 1


def test_loaders_of_the_users_own_are_counted_once_whether_repeated_by_lightnings_sampler_or_not_shared(
    alone, together
):
    assert together["plain"]["table"] == together["lightnings"]["table"] == alone["plain"]["table"]
    assert together["plain"]["logged"] == alone["plain"]["logged"]
    measured = [item for share in together["lightnings"]["items"] for item in share]
    assert len(measured) > 5 and set(measured) == set(range(5))  # Lightning evens out the ends by repeats


def test_what_cannot_be_right_is_refused_in_one_line(together):
    errors = together["errors"]
    assert "use_distributed_sampler=true" in errors["own sampler"] and "leave the flag" in errors["own sampler"]
    assert "training loader gives each of the" in errors["plain training"]
    assert "predict loader gives each of the" in errors["plain predict"]
    assert "limit_test_batches=0.5" in errors["share"]
