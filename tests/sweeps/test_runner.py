"""What the local runner promises, kept over a training that is done at once (fake_fit)."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest

from kdse.commands.sweep import _gpus
from tests.sweeps.sweeping import COMMAND, points, run, start, trained, write_sweep

pytestmark = pytest.mark.integration


def wait_for(condition, seconds: float = 200.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.02)
    return found


def identities(path: Path) -> list[str]:
    return [Path(point["run"]).name for point in points(path)]


def test_every_point_is_trained_once_and_kept(tmp_path, capsys):
    path = write_sweep(tmp_path, {"quality": {"values": [1, 3, 2]}, "deep": {"value": [0, 5]}})
    assert run(path, "--workers=2", "--pause=0") == 0
    assert [(p["point"], p["state"], p["metrics"]["val/si_sdr"]) for p in points(path)] == [
        (1, "finished", 3.0), (2, "finished", 9.0), (3, "finished", 6.0),
    ]  # fmt: skip
    assert set(trained(path).values()) == {1} and len(trained(path)) == 9
    assert "point 2 of 3 finished, val/si_sdr 9" in capsys.readouterr().out
    before = trained(path)
    assert run(path, "--workers=2", "--pause=0") == 0  # a second time there is nothing to do
    assert trained(path) == before and "begins" not in capsys.readouterr().out


def test_the_table_is_in_every_format(tmp_path, capsys):
    path = write_sweep(tmp_path, {"quality": {"values": [1, 2]}, "deep": {"values": [[0, 5]]}})
    assert run(path, "--json", "--pause=0") == 0
    out = tmp_path / "out"
    printed = capsys.readouterr()
    assert json.loads(printed.out)["points"] == points(path) and "point 1 of 2 begins" in printed.err
    with open(out / "sweep.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["quality"], row["deep"], row["val/si_sdr"], row["seconds"]) for row in rows] == [
        ("1", "[0, 5]", "3.0", "1.5"), ("2", "[0, 5]", "6.0", "1.5"),
    ]  # fmt: skip
    text = (out / "sweep.md").read_text()
    assert "**6.00**" in text and "| SI-SDR (dB) |" in text and identities(path)[0] in text


def test_a_failed_point_says_why_and_the_others_go_on(tmp_path, capsys):
    path = write_sweep(tmp_path, {"crash": {"values": ["ValueError: no such corpus"]}, "quality": {"values": [1, 2]}})
    assert run(path, "--pause=0") == 1
    assert [(p["state"], p["error"]) for p in points(path)] == [("failed", "ValueError: no such corpus")] * 2
    assert "point 1 of 2 FAILED: ValueError: no such corpus" in capsys.readouterr().out
    assert "failed: ValueError: no such corpus" in (tmp_path / "out" / "sweep.md").read_text()


def test_failed_points_are_trained_again_only_if_asked(tmp_path):
    flags = [word.replace("${args}", "--crash=x") for word in COMMAND]
    path = write_sweep(tmp_path, {"quality": {"values": [1, 2]}}, command=[*flags, "${args}"])
    assert run(path, "--pause=0") == 1
    first = trained(path)
    assert run(path, "--pause=0") == 1 and trained(path) == first
    assert run(path, "--pause=0", "--retry-failed") == 1
    assert sum(trained(path).values()) == 2 * sum(first.values())
    assert [(p["point"], p["state"], p["attempts"]) for p in points(path)] == [(1, "failed", 2), (2, "failed", 2)]


def test_how_failed_points_are_trained_again_is_said_outside_of_json(tmp_path, capsys):
    path = write_sweep(tmp_path, {"quality": {"values": [1, 2]}})
    said = "2 failed; --retry-failed trains them again"
    assert run(path, "--pause=0", "--crash=x") == 1
    assert said in capsys.readouterr().out
    assert run(path, "--pause=0", "--crash=x", "--json") == 1
    printed = capsys.readouterr()
    assert said in printed.err and len(json.loads(printed.out)["points"]) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_when_the_first_points_are_all_refused_the_others_are_left_for_later(tmp_path, capsys, workers):
    path = write_sweep(tmp_path, {"quality": {"values": list(range(1, 8))}})
    assert run(path, "--pause=0", "--refuse=no such corpus", f"--workers={workers}") == 1
    states = [p["state"] for p in points(path)]
    assert states.count("failed") in range(3, 3 + workers) and states.count("waiting") == 7 - states.count("failed")
    printed = capsys.readouterr().out
    assert "FAILED: no such corpus" in printed and "the first 3 points were all refused" in printed


def test_refused_points_among_others_do_not_end_a_sweep(tmp_path, capsys):
    path = write_sweep(tmp_path, {"quality": {"values": [1, 6, 7, 8, 2, 3]}})
    assert run(path, "--pause=0", "--refuse=too much", "--refuse_above=5") == 1
    assert [p["state"] for p in points(path)] == ["finished", "failed", "failed", "failed", "finished", "finished"]


def test_a_point_without_the_metric_fails_and_says_which_there_are(tmp_path):
    path = write_sweep(tmp_path, {"quality": {"values": [1]}}, metric={"name": "val/pesq_wb", "goal": "maximize"})
    assert run(path, "--pause=0") == 1
    assert points(path)[0]["error"] == (
        "logged no val/pesq_wb, the sweep's metric; it has val/si_sdr, val/si_sdr_improvement"
    )


def test_a_stopped_sweep_stops_its_runs_and_goes_on_where_they_were(tmp_path):
    path = write_sweep(tmp_path, {"quality": {"values": [1, 2, 3]}})
    process = start(path, "--workers=2", "--steps=60", "--pause=0.1")
    wait_for(lambda: len(list(tmp_path.glob("out/runs/*/trained.txt"))) == 2)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 75
    assert "SIGTERM: stopping 2 run(s)" in printed and "go on with the same command" in printed
    assert 0 < sum(trained(path).values()) < 120
    assert run(path, "--workers=2", "--steps=60", "--pause=0.1") == 0
    assert [p["state"] for p in points(path)] == ["finished"] * 3
    assert set(trained(path).values()) == {1} and len(trained(path)) == 180


def test_ctrl_c_stops_and_a_second_one_kills(tmp_path):
    path = write_sweep(tmp_path, {"quality": {"values": [1]}})
    process = start(path, "--steps=2", "--pause=60")  # a step that would take a minute to stop after
    wait_for(lambda: list(tmp_path.glob("out/runs/*/environment.json")))
    process.send_signal(signal.SIGINT)
    wait_for(lambda: "SIGINT: stopping 1 run(s)" in process.stdout.readline())
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 75 and "SIGINT again: killing 1 run(s)" in printed


def test_a_worker_that_need_not_wait_ends_while_others_train(tmp_path):
    path = write_sweep(tmp_path, {"quality": {"values": [1]}})
    first = start(path, "--steps=2", "--pause=60")
    wait_for(lambda: list(tmp_path.glob("out/runs/*/environment.json")))
    second = start(path, "--steps=2", "--pause=60", "--no-wait")
    printed, _ = second.communicate(timeout=200)
    assert second.returncode == 0 and "1 running" in printed
    third = start(path, "--steps=2", "--pause=60")
    wait_for(lambda: "waiting for point 1, which others train" in third.stdout.readline())
    for process in (first, third):
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=200)


def test_a_killed_worker_leaves_its_point_to_the_other(tmp_path):
    path = write_sweep(tmp_path, {"quality": {"values": list(range(6))}})
    flags = ("--steps=8", "--pause=0.1")
    first, second = start(path, *flags), start(path, *flags)
    trains = Path(f"/proc/{first.pid}/task/{first.pid}/children")  # (between two points it does not)
    wait_for(lambda: len(list(tmp_path.glob("out/runs/*/trained.txt"))) >= 2 and trains.read_text().strip())
    os.kill(first.pid, signal.SIGKILL)
    printed, _ = second.communicate(timeout=200)
    first.communicate(timeout=200)
    assert second.returncode == 0, printed
    assert [p["state"] for p in points(path)] == ["finished"] * 6
    assert len(set(identities(path))) == 6
    assert set(trained(path).values()) == {1} and len(trained(path)) == 48  # no step twice, none missing
    assert "goes on" in printed


def test_two_points_that_are_the_same_run_are_trained_once(tmp_path):
    # the last of two equal flags counts, so that both points are quality=1
    path = write_sweep(tmp_path, {"quality": {"values": [1, 2]}}, command=[*COMMAND, "--quality=1"])
    assert run(path, "--workers=2", "--pause=0.1") == 0
    assert [p["state"] for p in points(path)] == ["finished"] * 2
    assert len(set(identities(path))) == 1 and set(trained(path).values()) == {1}


def test_a_run_that_somebody_else_trains_is_waited_for(tmp_path):
    path = write_sweep(tmp_path, {"quality": {"values": [1]}})
    assert run(path, "--pause=0", "--max-points=1") == 0
    folder = tmp_path / "out" / "runs" / identities(path)[0]
    (folder / "result.json").unlink()
    (folder / "step").unlink()
    for other in ("out/study.journal", "out/study_name"):  # the same run in a sweep that does not know it
        (tmp_path / other).unlink()
    import fcntl

    with open(folder / "run.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = start(path, "--pause=0")
        wait_for(lambda: "another process trains" in process.stdout.readline())
        time.sleep(1)
        assert process.poll() is None  # neither failed nor trained
    process.communicate(timeout=200)
    assert process.returncode == 0


def test_max_points_ends_after_so_many(tmp_path):
    path = write_sweep(tmp_path, {"quality": {"values": [1, 2, 3]}})
    for done in (1, 2, 3):
        assert run(path, "--max-points=1", "--pause=0") == 0
        assert [p["state"] for p in points(path)] == ["finished"] * done + ["waiting"] * (3 - done)


def test_random_points_do_not_depend_on_the_number_of_workers(tmp_path):
    drawn = []
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        path = write_sweep(folder, {"quality": {"min": 0.0, "max": 1.0}}, method="random", run_cap=4)
        assert run(path, "--pause=0", "--steps=1", f"--workers={workers}") == 0
        drawn.append([p["values"] for p in points(path)])
    assert drawn[0] == drawn[1]


def test_run_cap_holds_and_can_be_raised(tmp_path):
    path = write_sweep(tmp_path, {"quality": {"min": 0.0, "max": 1.0}}, method="random", run_cap=2)
    assert run(path, "--pause=0") == 0 and len(points(path)) == 2
    two = [p["values"] for p in points(path)]
    path = write_sweep(tmp_path, {"quality": {"min": 0.0, "max": 1.0}}, method="random", run_cap=4)
    assert run(path, "--pause=0") == 0
    assert len(points(path)) == 4 and [p["values"] for p in points(path)][:2] == two


def test_runs_that_fall_behind_are_stopped_early_and_kept(tmp_path):
    rule = {"type": "hyperband", "min_iter": 2, "eta": 2, "strict": True}
    path = write_sweep(tmp_path, {"quality": {"values": [5, 4, 1, 6]}}, early_terminate=rule)
    assert run(path, "--steps=20", "--pause=0.3") == 0
    found = points(path)
    # one after another: of two the second best still goes on, 1 is behind both, 6 is the best
    assert [p["state"] for p in found] == ["finished", "finished", "stopped early", "finished"]
    stopped = found[2]
    assert 2 <= stopped["step"] < 20 and stopped["metrics"]["val/si_sdr"] == stopped["step"]
    assert run(path, "--steps=20", "--pause=0.3") == 0 and points(path) == found  # it is not taken up again


def test_each_run_has_a_log_threads_and_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("kdse.commands.sweep._gpus", lambda workers: ("0", "1"))
    path = write_sweep(tmp_path, {"quality": {"values": [1, 2]}})
    assert run(path, "--workers=2", "--pause=0.3") == 0
    environments = [json.loads((Path(p["run"]) / "environment.json").read_text()) for p in points(path)]
    cores = len(os.sched_getaffinity(0))
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments] == ["0", "1"]
    assert [e["OMP_NUM_THREADS"] for e in environments] == [str(max(1, cores // 2))] * 2
    logs = sorted((tmp_path / "out" / "logs").iterdir())
    assert [log.name for log in logs] == ["point-0001.log", "point-0002.log"]
    assert f"run folder: {points(path)[1]['run']}" in logs[1].read_text()


def test_gpus_that_the_user_chose_are_shared_out(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5a")
    path = write_sweep(tmp_path, {"quality": {"values": [1, 2, 3]}})
    assert run(path, "--workers=3", "--pause=0.3") == 0
    environments = [json.loads((Path(p["run"]) / "environment.json").read_text()) for p in points(path)]
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments] == ["3", "GPU-5a", "3"]


@pytest.mark.parametrize("chosen", ["", "3", "3,", "-1", "3,-1,4"])
def test_fewer_than_two_gpus_are_not_shared_out(monkeypatch, chosen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert _gpus(4) == ()


def test_what_the_user_chose_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    path = write_sweep(tmp_path, {"quality": {"values": [1, 2]}})
    assert run(path, "--workers=2", "--pause=0") == 0
    for point in points(path):
        environment = json.loads((Path(point["run"]) / "environment.json").read_text())
        assert (environment["OMP_NUM_THREADS"], environment["CUDA_VISIBLE_DEVICES"]) == ("7", "3")


def test_a_journal_that_a_full_disk_cut_short_is_still_read(tmp_path):
    path = write_sweep(tmp_path, {"quality": {"values": [1, 2]}})
    assert run(path, "--max-points=1", "--pause=0") == 0
    with open(tmp_path / "out" / "study.journal", "ab") as file:
        file.write(b'{"op_code":5,"worker')
    assert run(path, "--pause=0") == 0
    assert [p["state"] for p in points(path)] == ["finished"] * 2


def test_a_database_takes_the_place_of_the_journal(tmp_path):
    path = write_sweep(tmp_path, {"quality": {"values": [1, 2]}})
    url = f"sqlite:///{tmp_path / 'sweeps.db'}"
    assert run(path, "--storage", url, "--pause=0") == 0
    assert [p["state"] for p in points(path)] == ["finished"] * 2
    assert (tmp_path / "sweeps.db").is_file() and not (tmp_path / "out" / "study.journal").exists()
