"""What the README tells a newcomer to type works, in its order, with fewer steps."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import soundfile
import torch
import yaml

from kdse.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
COMMANDS = [
    line.removeprefix("kdse ")
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("kdse ")
]
FEWER = {
    "fit": ["--trainer.max_steps=2", "--data.validation_items=1", "--data.validation_seconds=2", "--data.batch_size=2"],
    "evaluate": ["--items", "1", "--seconds", "2", "--metrics", "si_sdr", "--workers", "0"],
    "compare": ["--trainer.max_steps=2", "--data.validation_items=1", "--data.validation_seconds=2",
                "--data.batch_size=4", "--metrics", "si_sdr", "--workers", "0"],
    "teach": ["--data.batch_size=2", "--data.steps_per_epoch=2", "--workers", "0"],
    "report": ["--listen", "1", "--similarity-items", "1"],
    "profile": ["--seconds", "1", "--runs", "1"],
    "sweep": ["--max-points", "1", "--trainer.max_steps=2", "--data.validation_items=1", "--data.validation_seconds=2",
              "--data.batch_size=2", "--data.steps_per_epoch=2", "--trainer.check_val_every_n_epoch=1"],
    "benchmark": ["--seconds", "1", "--rounds", "1"],
}  # fmt: skip
FEWER_NOISY = ["--trainer.max_steps=2", "--data.batch_size=2", "--data.steps_per_epoch=2"]

# a reduced demo takes 80 s on two idle cores; a busy machine is no failure
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Where the embedded corpus is kept; not in a clone, which is fresh all the same."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Path:
    """A folder like a fresh clone in which no demo has run, with a recording of the user's."""
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "experiments").symlink_to(REPOSITORY / "experiments")
    (folder / "recordings").mkdir()
    soundfile.write(folder / "recordings" / "talk.wav", torch.randn(30000).mul(0.05).numpy(), 44100)
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, cache):
    """A demo that Ctrl-C ended while the first student was trained: its folder, how to run it, and what it said."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "experiments").symlink_to(REPOSITORY / "experiments")
    environment = {**os.environ, "KDSE_CACHE": str(cache), "PYTHONPATH": str(REPOSITORY)}
    flags = "--teacher-steps 4 --student-steps 4 --items 1 --listen 1 --workers 0"
    demo = [sys.executable, "experiments/demo.py", *flags.split()]
    log = folder / "interrupted.log"
    with open(log, "w") as file:
        command = subprocess.Popen(demo, cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True)
        while "step 0/4" not in log.read_text().partition("supervised.yaml")[2]:
            assert command.poll() is None, log.read_text()[-3000:]
            time.sleep(0.05)
        os.killpg(command.pid, signal.SIGINT)  # as a terminal does: to the demo and to what it runs
        code = command.wait(timeout=120)
    return folder, demo, environment, code, log.read_text()


@pytest.fixture(scope="module")
def newcomer(interrupted):
    """A folder like a clone after `make demo`, which was interrupted once."""
    folder, demo, environment, *_ = interrupted
    done = subprocess.run(demo, cwd=folder, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder, demo, environment, done.stdout


def test_ctrl_c_ends_the_demo_with_one_line_that_says_how_it_goes_on(interrupted):
    folder, _, _, code, said = interrupted
    lines = said.splitlines()
    assert code == 130 and "Traceback" not in said and "\r" not in said
    assert lines[-1] == "demo: interrupted; run the same command again to go on"
    assert lines[-2].startswith("stopped by Ctrl-C after optimizer step") and lines[-2].endswith("--resume=true")
    for system in ("teacher", "supervised"):
        assert (folder / "runs/demo" / system / "checkpoints/last.ckpt").is_file()


def test_an_interrupted_demo_goes_on_and_trains_nothing_twice(newcomer):
    folder, _, _, printed = newcomer
    assert "teacher: finished before" in printed
    assert "--run_dir=runs/demo/supervised --resume=true" in printed
    assert "--run_dir=runs/demo/one_step\n" in printed


def test_the_demo_leaves_a_table_pictures_audio_and_says_where(newcomer):
    folder, _, _, printed = newcomer
    scores = folder / "runs" / "demo" / "scores"
    table = pd.read_csv(scores / "summary.csv")
    assert set(table["system"]) == {"noisy", "teacher", "supervised", "one_step", "two_step"}
    assert {-5.0, 0.0, 5.0, 10.0} <= {float(v) for v in table["snr_db"] if str(v) != "all"}
    for path in ("runs/demo/report/report.html", "runs/demo/report/figures", "runs/demo/scores/audio"):
        assert path in printed and (folder / path).exists()
    figures = {path.name for path in (folder / "runs/demo/report/figures").iterdir()}
    assert {"improvement_by_snr.png", "similarity_two_step.png"} <= figures
    assert len(list((scores / "audio").glob("*_two_step.wav"))) == 2
    assert "cannot rank methods" in printed and "kdse fit" in printed


def test_the_readmes_pictures_come_from_the_demos_report(newcomer):
    import numpy as np
    from PIL import Image

    folder, _, environment, _ = newcomer
    if not any(shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")):
        pytest.skip("no Chromium on this machine to take a picture with")
    command = [sys.executable, "experiments/figures.py", "runs/demo/report", "pictures", "--listening",
               "--figures", "improvement_by_snr", "similarity_two_step"]  # fmt: skip
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=300)
    pictured = {path.name for path in (folder / "pictures").iterdir()}
    linked = set(re.findall(r"experiments/figures/demo/(\S+?\.png)", README))
    assert linked <= pictured and "listening.png" in linked
    assert all((REPOSITORY / path).is_file() for path in re.findall(r"\((experiments/figures/\S+?)\)", README))
    picture = np.asarray(Image.open(folder / "pictures" / "listening.png").convert("RGB")).astype(int)
    assert picture.shape[1] > 900 and picture.shape[0] > 500
    colourful = np.ptp(picture, axis=2) > 60  # spectrograms; the page around them is grey
    assert 0.05 < colourful.mean() < 0.9


def test_the_demo_run_again_keeps_what_is_finished(newcomer):
    folder, demo, environment, _ = newcomer
    before = (folder / "runs/demo/two_step/checkpoints/last.ckpt").stat().st_mtime_ns
    done = subprocess.run(demo, cwd=folder, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0 and "two_step: finished before" in done.stdout
    assert (folder / "runs/demo/two_step/checkpoints/last.ckpt").stat().st_mtime_ns == before


def test_the_demo_students_start_from_equal_budgets_and_equal_models():
    configs = [
        yaml.safe_load((REPOSITORY / f"experiments/demo/{n}.yaml").read_text()) for n in ("one_step", "two_step")
    ]
    one, two = ({k: v for k, v in c.items() if k not in ("schedule", "run_dir")} for c in configs)
    assert one == two


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c.split()[:3]))
def test_the_readmes_commands_work(command, fresh, cache, monkeypatch, capsys):
    arguments = shlex.split(command)
    needs_corpus = any(name in command for name in ("two_step", "methods", "sweeps"))
    if needs_corpus and not os.environ.get("KDSE_CORPUS"):
        pytest.skip("KDSE_CORPUS names no folder of real recordings")
    monkeypatch.chdir(fresh)
    monkeypatch.setenv("KDSE_CACHE", str(cache))
    if "--print_config" in arguments:
        with pytest.raises(SystemExit) as leaving:
            main(arguments)
        assert leaving.value.code == 0 and yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
        return
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    fewer = FEWER_NOISY if "no_labels" in command else FEWER.get(arguments[0], [])
    assert main([*arguments, *fewer]) == 0
    if arguments[0] == "enhance":
        out = arguments[arguments.index("--out") + 1] if "--out" in arguments else "enhanced"
        assert soundfile.info(fresh / out / "talk.wav").frames == 30000


def trained_quickstart() -> None:
    """Trains the quickstart, in the current folder, if the test of that command was not asked for."""
    if not Path("runs/quickstart/checkpoints/last.ckpt").exists():
        assert main(["fit", "--config", "experiments/quickstart.yaml", *FEWER["fit"]]) == 0


def test_the_readmes_python_runs(fresh, cache, monkeypatch):
    monkeypatch.chdir(fresh)
    monkeypatch.setenv("KDSE_CACHE", str(cache))
    trained_quickstart()
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(code, {"__name__": "readme"})


def test_the_readme_compares_the_files_of_one_model(fresh, cache, monkeypatch):
    """Floats and 8-bit weights of the same student, by the README's own commands, score the same."""
    exports = {shlex.split(c)[-1]: shlex.split(c)[1] for c in COMMANDS if c.startswith("export")}
    compared = next(shlex.split(c) for c in COMMANDS if c.startswith("evaluate") and "int8=" in c)
    files = [part.partition("=")[2] for part in compared if part.endswith(".onnx")]
    assert len(files) == 2 and len({exports[file] for file in files}) == 1
    monkeypatch.chdir(fresh)
    monkeypatch.setenv("KDSE_CACHE", str(cache))
    scores = Path(compared[compared.index("--out") + 1], "summary.csv")
    if not scores.exists():  # (the commands above were not asked for)
        trained_quickstart()
        for command in (c for c in COMMANDS if c.startswith("export")):
            assert main([*shlex.split(command), "--overwrite"]) == 0
        assert main([*compared, *FEWER["evaluate"]]) == 0
    table = pd.read_csv(scores)
    mean = table[table["snr_db"].astype(str) == "all"].set_index("system")["si_sdr"]
    assert abs(mean["float"] - mean["int8"]) < 0.1


def test_the_readmes_objective_distils(newcomer, tmp_path):
    from kdse.distiller import Distiller
    from tests.toys import ToyData, make_student, make_teacher, make_trainer

    scope: dict = {"__name__": "readme"}
    exec(next(c for c in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Attention" in c), scope)
    model = Distiller(teacher=make_teacher, student=make_student, metrics=["si_sdr"])
    before = [p.clone() for p in model.student.parameters()]
    make_trainer(tmp_path, [scope["Attention"]()], max_steps=1).fit(model, ToyData())
    assert any(not torch.equal(a, b) for a, b in zip(before, model.student.parameters(), strict=True))
