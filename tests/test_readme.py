"""What the README tells a newcomer to type works, in its order, with fewer steps."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
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
def newcomer(tmp_path_factory):
    """A folder like a fresh clone after `make demo`, with a recording of the user's."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "experiments").symlink_to(REPOSITORY / "experiments")
    (folder / "recordings").mkdir()
    soundfile.write(folder / "recordings" / "talk.wav", torch.randn(30000).mul(0.05).numpy(), 44100)
    environment = {**os.environ, "KDSE_CACHE": str(folder / "cache"), "PYTHONPATH": str(REPOSITORY)}
    flags = "--teacher-steps 4 --student-steps 4 --items 1 --listen 1 --workers 0"
    demo = [sys.executable, "experiments/demo.py", *flags.split()]
    done = subprocess.run(demo, cwd=folder, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder, demo, environment, done.stdout


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
def test_the_readmes_commands_work(command, newcomer, monkeypatch, capsys):
    folder, _, environment, _ = newcomer
    arguments = shlex.split(command)
    needs_corpus = any(name in command for name in ("two_step", "methods", "sweeps"))
    if needs_corpus and not os.environ.get("KDSE_CORPUS"):
        pytest.skip("KDSE_CORPUS names no folder of real recordings")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KDSE_CACHE", environment["KDSE_CACHE"])
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
        assert soundfile.info(folder / out / "talk.wav").frames == 30000


def test_the_readmes_python_runs(newcomer, monkeypatch):
    folder, _, _, _ = newcomer
    monkeypatch.chdir(folder)
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(code.replace("runs/quickstart", "runs/demo/two_step"), {"__name__": "readme"})


def test_the_readmes_objective_distils(newcomer, tmp_path):
    from kdse.distiller import Distiller
    from tests.toys import ToyData, make_student, make_teacher, make_trainer

    scope: dict = {"__name__": "readme"}
    exec(next(c for c in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Attention" in c), scope)
    model = Distiller(teacher=make_teacher, student=make_student, metrics=["si_sdr"])
    before = [p.clone() for p in model.student.parameters()]
    make_trainer(tmp_path, [scope["Attention"]()], max_steps=1).fit(model, ToyData())
    assert any(not torch.equal(a, b) for a, b in zip(before, model.student.parameters(), strict=True))
