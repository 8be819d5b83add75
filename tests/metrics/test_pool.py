"""Promises of `kdse.metrics.pool`."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import kdse.metrics.pool as pool_module
from kdse.metrics import ScorePool
from tests.metrics.signals import noisy_version, speech_like

METRICS = ("si_sdr", "sdr", "pesq_wb", "estoi")


def items(count: int, seconds: float = 1.0) -> list[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
    made = []
    for i in range(count):
        clean = speech_like(i, seconds)
        made.append(
            (f"item{i}", clean, {"noisy": noisy_version(clean, 0.0, i), "better": noisy_version(clean, 9.0, i)})
        )
    return made


def run(pool: ScorePool, work: list) -> list:
    for item in work:
        pool.submit(*item)
    return pool.collect()


@pytest.mark.integration
def test_worker_count_changes_neither_order_nor_a_digit() -> None:
    work = items(5)
    results = []
    for workers in (0, 1, 3):
        with ScorePool(METRICS, workers=workers) as pool:
            results.append(run(pool, work))
    assert [item.name for item in results[0]] == [name for name, _, _ in work]
    assert results[0] == results[1] == results[2]
    assert not any(s.failures for item in results[0] for s in item.scores.values())


def test_a_pool_goes_on_after_collect_and_after_close() -> None:
    pool = ScorePool(["si_sdr"], workers=1)
    assert pool.collect() == []
    first, second = run(pool, items(2)), run(pool, items(2))
    pids = [worker._process.pid for worker in pool._crew]
    pool.close()
    pool.close()
    assert first == second
    assert all(not Path(f"/proc/{pid}").exists() for pid in pids)  # a zombie would still be listed
    assert run(pool, items(2)) == first
    pool.close()
    assert not any(thread.name == "kdse-score" for thread in threading.enumerate())


#: A pesq that ends its process in wide band and hangs in narrow band.
HARMFUL_PESQ = """
import os, signal, time
def pesq(rate, clean, estimate, mode):
    os.kill(os.getpid(), signal.SIGSEGV) if mode == "wb" else time.sleep(60)
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_crash_and_a_hang_cost_only_their_metric_of_their_item(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, plain = [(name, clean, {"noisy": made["noisy"]}) for name, clean, made in items(2)], ["si_sdr", "lsd"]
    with ScorePool(plain, workers=0) as pool:
        expected = run(pool, work)
    (tmp_path / "pesq.py").write_text(HARMFUL_PESQ)
    monkeypatch.syspath_prepend(tmp_path)  # (the scoring process has the same)
    with ScorePool(["si_sdr", "pesq_wb", "pesq_nb", "lsd"], workers=workers, timeout_s=2.0) as pool:
        got = run(pool, work)
    for item, sound in zip(got, expected, strict=True):
        for system, scores in item.scores.items():
            assert {name: scores.values[name] for name in plain} == sound.scores[system].values
            assert list(scores.values) == ["si_sdr", "pesq_wb", "pesq_nb", "lsd"]
            assert scores.failures == {
                "pesq_wb": "the scoring process died (signal 11)",
                "pesq_nb": "scoring took longer than 2 s",
            }


def test_native_code_never_runs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import pesq

    def here(*_: object) -> float:
        raise AssertionError("in this process")

    monkeypatch.setattr(pesq, "pesq", here)
    for workers in (0, 1):
        with ScorePool(["pesq_wb", "csig", "si_sdr"], workers=workers) as pool:
            (item,) = run(pool, items(1))
        assert not any(scores.failures for scores in item.scores.values())


def test_a_worker_killed_while_it_waits_costs_nothing() -> None:
    work = items(3)
    with ScorePool(["si_sdr", "estoi"], workers=1) as pool:
        expected = run(pool, work)
        os.kill(pool._crew[0]._process.pid, signal.SIGKILL)
        assert run(pool, work) == expected


def test_a_worker_that_cannot_start_fails_items_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module.sys, "executable", "/bin/false")
    with ScorePool(["si_sdr"], workers=2) as pool:
        results = run(pool, items(3))
    assert all("exit code 1" in s.failures["si_sdr"] for item in results for s in item.scores.values())


def test_close_does_not_wait_for_unfinished_items() -> None:
    pool = ScorePool(["estoi", "pesq_wb"], workers=1)
    for name, clean, estimates in items(4, seconds=15.0):
        pool.submit(name, clean, estimates)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 10
    assert pool.collect() == []


@pytest.mark.parametrize("ending", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_workers_end_with_the_main_process_however_it_ends(ending: str) -> None:
    code = f"""
import os, signal, numpy as np
from kdse.metrics import ScorePool
pool = ScorePool(["si_sdr"], workers=2)
for i in range(4):
    pool.submit(str(i), np.ones(10), {{"a": np.arange(10.0)}})
pool.collect()
print([w._process.pid for w in pool._crew if w._process], flush=True)
{ending}
"""
    out = subprocess.run([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, timeout=200).stdout
    pids = eval(out)
    assert pids
    deadline = time.monotonic() + 100
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return "kdse.metrics.worker" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def test_workers_do_not_run_the_users_script_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"  # no `if __name__ == "__main__"`
    script.write_text(
        "import numpy as np\nfrom kdse.metrics import ScorePool\nprint('script')\n"
        "with ScorePool(['si_sdr'], workers=1) as pool:\n"
        "    pool.submit('a', np.ones(10), {'x': np.arange(10.0)})\n"
        "    print(pool.collect()[0].scores['x'].failures)\n"
    )
    run = subprocess.run([sys.executable, str(script)], text=True, capture_output=True, timeout=200)
    assert (run.returncode, run.stdout) == (0, "script\n{}\n"), run.stderr


def test_a_copy_of_a_pool_has_its_settings_but_no_processes() -> None:
    with ScorePool(["si_sdr"], 8000, workers=1, timeout_s=60.0) as pool:
        expected = run(pool, items(1))
        with copy.deepcopy(pool) as other:
            assert (other.metrics, other.sample_rate_hz, other.workers, other.timeout_s) == (("si_sdr",), 8000, 1, 60.0)
            assert other._crew == [] and other.collect() == []
            assert run(other, items(1)) == expected


def test_settings_are_checked_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="workers=-1"):
        ScorePool(["si_sdr"], workers=-1)
    with pytest.raises(ValueError, match="there is no 'nope'"):
        ScorePool(["nope"], workers=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_item_is_reported_once_with_the_scores_that_collect_returns(workers: int) -> None:
    reported = []
    with ScorePool(["si_sdr"], workers=workers) as pool:
        for item in items(6):
            pool.submit(*item, done=reported.append)
        collected = pool.collect()
    assert sorted(reported, key=lambda scored: scored.name) == collected


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_who_is_told_ends_the_work_instead_of_vanishing(workers: int) -> None:
    def full_disk(_: object) -> None:
        raise ValueError("no space left")

    with ScorePool(["si_sdr"], workers=workers) as pool:
        with pytest.raises(ValueError, match="no space left"):
            for item in items(3):
                pool.submit(*item, done=full_disk)
            pool.collect()
        assert len(run(pool, items(2))) >= 2  # and the pool goes on
