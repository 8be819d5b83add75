"""A missing or broken package is one sentence with the fix, from every command that needs it and from no other."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

import kdse
from kdse import pretrained
from kdse.cli import main
from kdse.machine.packages import TORCH_PAIRS, PackageError, required
from kdse.models.checkpoint import describe
from tests.toys import make_teacher

REPOSITORY = Path(__file__).resolve().parents[2]
SYMBOL = "undefined symbol: torch_exception_get_what_without_backtrace"
LIBRARY = "/somewhere/site-packages/torchaudio/lib/_torchaudio.abi3.so"
FAULTS = {
    "missing": ModuleNotFoundError("No module named 'torchaudio'", name="torchaudio"),
    "another torch": OSError(f"{LIBRARY}: {SYMBOL}"),
    "another CUDA": RuntimeError("Detected that PyTorch and TorchAudio were compiled with different CUDA versions."),
    "half a package": AttributeError("module 'torchaudio' has no attribute 'lib'"),
}


class Failing:
    """A finder that raises an error for one package, as an import of it would."""

    def __init__(self, package: str, error: Exception) -> None:
        self.package, self.error = package, error

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise self.error


def break_package(monkeypatch: pytest.MonkeyPatch, package: str, error: Exception) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Failing(package, error), *sys.meta_path])


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Lets the metadata name these versions."""
    monkeypatch.setattr(metadata, "version", lambda package: versions[package])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A corpus, a checkpoint, a short recording at 16 kHz and one at 44.1 kHz, a config, and a sweep over it."""
    root = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    for kind in ("speech", "noise"):
        for split in ("train", "valid", "test"):
            (root / "corpus" / kind / split).mkdir(parents=True)
            wave = 0.1 * rng.standard_normal(24000) * np.hanning(24000)
            soundfile.write(root / "corpus" / kind / split / "0.wav", wave, 16000)
    soundfile.write(root / "noisy.wav", 0.1 * rng.standard_normal(8000), 16000)
    model = make_teacher()
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": weights, "kdse": describe(model)}, root / "teacher.ckpt")
    init_args = {"root": str(root / "corpus"), "segment_seconds": 0.5, "batch_size": 2, "steps_per_epoch": 1,
                 "validation_items": 1, "validation_seconds": 1.0}  # fmt: skip
    student = {"class_path": "kdse.models.Cruse", "init_args": {"channels": [2, 4, 4, 4]}}
    config = {
        "model": {"class_path": "kdse.Enhancer", "init_args": {"model": student, "metrics": ["si_sdr"]}},
        "data": {"class_path": "kdse.data.Mixtures", "init_args": init_args},
        "trainer": {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
        "run_dir": str(root / "run"),
    }
    (root / "fit.yaml").write_text(yaml.safe_dump(config))
    student_config = {
        "class_path": "kdse.Distiller",
        "init_args": {"teacher_checkpoint": str(root / "teacher.ckpt"), "student": student, "metrics": ["si_sdr"]},
    }
    (root / "distil.yaml").write_text(yaml.safe_dump(config | {"model": student_config}))
    (root / "delta.yaml").write_text("seed_everything: 1\n")
    (root / "sweep.yaml").write_text(
        "program: kdse\nmethod: grid\nmetric: {name: val/si_sdr, goal: maximize}\n"
        "parameters: {seed_everything: {values: [1]}}\n"
        f"command: [kdse, fit, --config={root / 'fit.yaml'}, '${{args}}']\n"
    )
    run = root / "finished"
    assert main(["fit", "--config", str(root / "fit.yaml"), "--run_dir", str(run)]) == 0
    score = [
        "--corpus",
        str(root / "corpus"),
        "--items",
        "1",
        "--seconds",
        "1",
        "--metrics",
        "si_sdr",
        "--workers",
        "0",
    ]
    system = f"finished={run / 'checkpoints' / 'last.ckpt'}"
    assert main(["evaluate", system, *score, "--out", str(run / "scores")]) == 0
    return root


NEED = [
    "fit --config fit.yaml",
    "fit --config distil.yaml",
    "validate --config fit.yaml",
    "profile teacher.ckpt",
    "profile kdse.models.Cruse",
    "taps teacher.ckpt",
    "taps Cruse --init channels=[2,4,4,4]",
    "export teacher.ckpt --out student.onnx --format onnx --streaming",
    "export teacher.ckpt --out student.pt2 --format pt2",
    "enhance noisy.wav --out out-torch --backend torch",
    "enhance noisy.wav --out out-torch --checkpoint teacher.ckpt --backend onnx",
    "evaluate teacher.ckpt --corpus corpus --out out-scores --metrics si_sdr",
    "benchmark teacher.ckpt --no-rnnoise --seconds 1",
]
DO_NOT_NEED = [
    "--help",
    "--version",
    "enhance noisy.wav --out out-onnx --backend onnx",
    "enhance noisy.wav --out out-auto",
    "sweep sweep.yaml --dry-run",
    "compare --base fit.yaml delta.yaml --out out-compare --dry-run",
    "corpus index corpus --out manifest.csv",
    "report finished --out out-report --listen 0 --similarity-items 0",
    "taps kdse.models.UNet",
]


@pytest.mark.parametrize("fault", ["missing", "another torch"])
@pytest.mark.parametrize("command", NEED)
def test_a_command_that_needs_torchaudio_names_both_versions_and_the_fix(command, fault, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    versions = metadata.version("torch"), metadata.version("torchaudio")
    break_package(monkeypatch, "torchaudio", FAULTS[fault])
    assert main(command.split()) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kdse ")]
    assert len(said) == 1 and len(said[0]) < 330
    assert versions[0] in said[0] and (versions[1] if fault != "missing" else "not installed") in said[0]
    assert any(said[0].endswith(" 'torch=={}' 'torchaudio=={}'".format(*pair)) for pair in TORCH_PAIRS)


@pytest.mark.parametrize("command", DO_NOT_NEED)
def test_a_command_that_does_not_need_torchaudio_goes_on(command, place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    break_package(monkeypatch, "torchaudio", FAULTS["another torch"])
    assert main(command.replace("out-", f"{tmp_path}/").split()) == 0


@pytest.mark.parametrize("command", ["sweep sweep.yaml --out out", "compare --base fit.yaml delta.yaml --out out"])
def test_a_command_that_starts_others_shows_the_sentence_of_theirs(command, place, tmp_path):
    package = tmp_path / "first" / "torchaudio"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"raise OSError({LIBRARY + ': ' + SYMBOL!r})")
    path = os.pathsep.join([str(package.parent), str(REPOSITORY)])
    words = [sys.executable, "-m", "kdse.cli", *command.replace("--out out", f"--out {tmp_path}/out").split()]
    done = subprocess.run(words, cwd=place, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Union" not in done.stdout + done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "kdse fit: torchaudio " in line]
    versions = metadata.version("torch"), metadata.version("torchaudio")
    assert lines and all(version in lines[0] for version in versions)
    (pair,) = (pair for pair in TORCH_PAIRS if pair[0] == versions[0].partition("+")[0])
    assert "'torch=={}' 'torchaudio=={}'".format(*pair) in lines[0]


def test_importing_kdse_goes_on_and_loading_a_student_says_what_to_do(monkeypatch):
    break_package(monkeypatch, "torchaudio", FAULTS["another torch"])
    for name in [name for name in sys.modules if name == "kdse" or name.startswith("kdse.models.cruse")]:
        monkeypatch.delitem(sys.modules, name)
    import kdse as anew

    assert anew.__version__ == kdse.__version__
    with pytest.raises(ValueError, match="^torchaudio .* cannot be used with torch .*pip install"):
        kdse.load_student(pretrained.find("cruse-62k"))


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_the_import_raises_is_one_line(fault, monkeypatch):
    break_package(monkeypatch, "torchaudio", FAULTS[fault])
    install(monkeypatch, torch="2.11.0", torchaudio="2.11.1")
    with pytest.raises(PackageError) as caught:
        required("torchaudio.functional", "resample")
    assert "torch 2.11.0" in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith(": pip install 'torch==2.11.0' 'torchaudio==2.11.0'")
    assert caught.value.__cause__ is FAULTS[fault]


def test_a_release_without_the_function_is_one_line_too():
    with pytest.raises(PackageError, match="AttributeError: .*no attribute 'no_such_function'"):
        required("torchaudio.functional", "no_such_function")


@pytest.mark.parametrize(
    ("torch_version", "torchaudio_version", "command"),
    [
        ("2.11.0", "2.11.1", "pip install 'torch==2.11.0' 'torchaudio==2.11.0'"),  # the torch that is there stays
        ("2.11.0+cpu", "2.8.0", "pip install 'torch==2.11.0' 'torchaudio==2.11.0'"),
        ("2.14.1+cu126", "2.11.0", "pip install 'torch==2.14.1' 'torchaudio==2.11.1'"),
        ("2.3.0", "2.11.1", "pip install 'torch==2.14.1' 'torchaudio==2.11.1'"),  # no known torchaudio: the newest pair
        ("2.14.1+cu126", "2.11.1", "pip install --force-reinstall 'torch==2.14.1' 'torchaudio==2.11.1'"),
    ],
)
def test_the_fix_is_a_pair_that_works_and_changes_something(torch_version, torchaudio_version, command, monkeypatch):
    break_package(monkeypatch, "torchaudio", FAULTS["another CUDA"])
    install(monkeypatch, torch=torch_version, torchaudio=torchaudio_version)
    with pytest.raises(PackageError) as caught:
        required("torchaudio")
    assert f"torchaudio {torchaudio_version} cannot be used with torch {torch_version} (" in str(caught.value)
    assert str(caught.value).endswith(f": {command}")


def test_the_installed_pair_is_a_known_one():
    installed = tuple(metadata.version(package).partition("+")[0] for package in ("torch", "torchaudio"))
    assert installed in TORCH_PAIRS


class Resampled(torch.utils.data.Dataset):
    """One recording, read at another rate than its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        from kdse.audio.files import read

        return read(self.path, 8000)


def test_a_data_process_passes_the_sentence_on_as_it_is(place, monkeypatch):
    break_package(monkeypatch, "torchaudio", FAULTS["another torch"])
    with pytest.raises(PackageError) as alone:
        required("torchaudio.functional", "resample")
    loader = torch.utils.data.DataLoader(Resampled(place / "noisy.wav"), num_workers=1, multiprocessing_context="fork")
    with pytest.raises(PackageError) as caught:
        next(iter(loader))
    assert str(caught.value) == str(alone.value)


OTHERS = {
    "soundfile": "enhance noisy.wav --out out-soundfile --backend onnx",
    "onnxruntime": "enhance noisy.wav --out out-onnxruntime --backend onnx",
    "onnx": "export teacher.ckpt --out student.onnx --format onnx --streaming",
    "pesq": "evaluate teacher.ckpt --corpus corpus --out out-pesq --metrics pesq_wb",
    "pyroomacoustics": "corpus build --out out-rooms --minutes 1 --workers 0",
    "espeakng_loader": "corpus build --out out-speech --minutes 1 --workers 0",
}


@pytest.mark.parametrize("package", OTHERS)
@pytest.mark.parametrize("missing", [True, False])
def test_any_other_compiled_package_is_named_with_the_fix(package, missing, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    error = ModuleNotFoundError(f"No module named {package!r}", name=package)
    break_package(monkeypatch, package, error if missing else OSError("libc.so.6: version `GLIBC_2.38' not found"))
    assert main(OTHERS[package].split()) != 0
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said and (missing or "GLIBC_2.38" in said)
    assert f"pip install {'' if missing else '--force-reinstall '}{package}" in " ".join(said.split())
