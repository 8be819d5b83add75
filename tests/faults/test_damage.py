"""Damaged checkpoints, a full disk, two starts at once: nothing finished is lost and the reason is said."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kdse.models.checkpoint import LAST, PREVIOUS, read_checkpoint
from kdse.run.resume import last_good
from tests.data.small_corpus import make_corpus
from tests.faults.runs import assert_same_end, fit, make_config

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def killed(config, tmp_path_factory) -> Path:
    """A run folder as a kill after step 5 of 8 leaves it."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    fit(config, folder, harm="kill after step 5")
    return folder


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip_a_bit_of_a_weight(path: Path) -> None:
    content = bytearray(path.read_bytes())
    weights = read_checkpoint(path)["state_dict"]
    value = max(weights.values(), key=lambda t: t.numel()).contiguous().numpy().tobytes()
    place = bytes(content).index(value) + len(value) // 2
    content[place] ^= 0x40
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit_of_a_weight])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before_and_says_so(damage, killed, tmp_path, caplog):
    folder = shutil.copytree(killed / "checkpoints", tmp_path / "checkpoints")
    assert last_good(folder) == folder / LAST and not caplog.text
    damage(folder / LAST)
    assert last_good(folder) == folder / PREVIOUS
    assert LAST in caplog.text and "corrupt" in caplog.text and "going on from the checkpoint before it" in caplog.text


def test_a_run_with_a_damaged_last_checkpoint_still_reaches_the_undisturbed_weights(
    killed, config, undisturbed, tmp_path
):
    run = shutil.copytree(killed, tmp_path / "run")
    truncate(run / "checkpoints" / LAST)
    done = fit(config, run)
    assert done.returncode == 0 and "going on from the checkpoint before it" in done.stderr
    assert_same_end(run, undisturbed)


def test_a_run_whose_checkpoints_are_all_damaged_is_not_started_again_unasked(killed, config, tmp_path):
    run = shutil.copytree(killed, tmp_path / "run")
    for name in (LAST, PREVIOUS):
        truncate(run / "checkpoints" / name)
    done = fit(config, run)
    assert done.returncode == 2
    message = done.stderr.strip().splitlines()[-1]
    assert "no checkpoint in" in message and "delete the folder to start again" in message


def test_a_full_disk_stops_the_run_with_the_last_checkpoint_intact_and_it_goes_on_with_more_space(
    config, undisturbed, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.call(["mount", "-t", "tmpfs", "-o", "size=2m", "kdse", disk]) == 0
    if not mounted:
        pytest.skip("needs the right to mount a small file system")
    try:
        run = disk / "run"
        stopped = fit(config, run, harm="kill after step 3")  # something to lose
        ballast = disk / "ballast"
        with open(ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        step = read_checkpoint(last_good(run / "checkpoints"))["global_step"]
        stopped = fit(config, run)
        assert stopped.returncode in (1, 2) and "No space left" in stopped.stderr
        assert read_checkpoint(last_good(run / "checkpoints"))["global_step"] >= step > 0
        ballast.unlink()
        done = fit(config, run)
        assert done.returncode == 0, done.stderr
        assert_same_end(run, undisturbed)
    finally:
        subprocess.call(["umount", disk])


def test_a_run_folder_is_one_processes_at_a_time(config, killed, tmp_path):
    from contextlib import ExitStack

    from kdse.run.resume import hold

    run = shutil.copytree(killed, tmp_path / "run")
    with ExitStack() as cleanup:
        hold(run, cleanup)
        done = fit(config, run)
    assert done.returncode == 2 and "another process trains in it" in done.stderr.strip().splitlines()[-1]
    assert fit(config, run).returncode == 0


def test_a_folder_of_other_settings_is_refused_and_says_which(config, killed, tmp_path):
    run = shutil.copytree(killed, tmp_path / "run")
    done = fit(config, run, "--model.compression=3", "--seed_everything=9")
    assert done.returncode == 2
    message = done.stderr.strip().splitlines()[-1]
    assert "model.compression" in message and "seed_everything" in message and "--ckpt_path" in message


def test_a_run_goes_on_with_its_own_recordings_only_wherever_they_lie(tmp_path):
    here, moved, other = (make_corpus(tmp_path / name) for name in ("here", "moved", "other"))
    (other / "speech" / "train").joinpath("more.flac").write_bytes(next((here / "speech").rglob("*.flac")).read_bytes())
    settings = {"segment_seconds": 0.5, "batch_size": 2, "steps_per_epoch": 3, "validation_items": 2,
                "validation_seconds": 1.0}  # fmt: skip
    config = make_config(tmp_path, data={"class_path": "kdse.data.Mixtures", "init_args": settings})
    run = tmp_path / "run"
    fit(config, run, harm="kill after step 4", KDSE_CORPUS=str(here))
    refused = fit(config, run, KDSE_CORPUS=str(other))
    assert refused.returncode == 2 and "trained on other recordings" in refused.stderr.strip().splitlines()[-1]
    done = fit(config, run, KDSE_CORPUS=str(moved))
    assert done.returncode == 0, done.stderr[-2000:]
    finished = fit(config, run, KDSE_CORPUS=str(other))
    assert finished.returncode == 2 and "trained on other recordings" in finished.stderr.strip().splitlines()[-1]
    assert "nothing to do" in fit(config, run, KDSE_CORPUS=str(here)).stdout


def test_another_clock_locale_and_working_directory_change_nothing(config, undisturbed, tmp_path):
    run = tmp_path / "run"
    elsewhere = {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "LANG": "de_DE.UTF-8", "PYTHONUTF8": "0"}
    assert fit(config, run, harm="kill after step 5", **elsewhere).returncode < 0
    past = subprocess.run(["date", "-d", "1999-12-31", "+%s"], capture_output=True, text=True).stdout.strip()
    for path in (run, run / "checkpoints", run / "checkpoints" / LAST):  # as a node whose clock is behind leaves them
        os.utime(path, (int(past), int(past)))
    assert fit(config, Path("run"), cwd=tmp_path).returncode == 0
    assert_same_end(run, undisturbed)
