"""MODEL is the same in every command: box, run folder, checkpoint, exported file, class path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch

import kdse
from kdse import pretrained
from kdse.cli import main
from kdse.commands.model import labelled
from kdse.commands.parser import Parser
from kdse.distiller import Distiller
from kdse.enhancer import Enhancer
from kdse.models import Cruse
from kdse.models.checkpoint import describe, fingerprint, load_model
from tests.data.small_corpus import hiss

TINY = [2, 4, 6, 8]


def save(model: Cruse, path: Path) -> Cruse:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": describe(model)}, path)
    return model


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A run folder with a last and a best checkpoint, in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "student").mkdir(parents=True)
    (tmp_path / "runs" / "student" / "config.yaml").write_text("seed_everything: 1\n")
    for name, seed in (("last", 1), ("best", 2)):
        torch.manual_seed(seed)
        save(Cruse(TINY), tmp_path / "runs" / "student" / "checkpoints" / f"{name}.ckpt")
    return Path("runs/student")


@pytest.mark.parametrize(
    ("text", "label", "file"),
    [
        ("cruse-30k", "cruse-30k", pretrained.FOLDER / "cruse-30k.ckpt"),
        ("runs/student", "student", "runs/student/checkpoints/last.ckpt"),
        ("runs/student/", "student", "runs/student/checkpoints/last.ckpt"),
        ("runs/student:best", "student-best", "runs/student/checkpoints/best.ckpt"),
        ("runs/student/checkpoints", "student", "runs/student/checkpoints/last.ckpt"),
        ("runs/student/checkpoints/best.ckpt", "best", "runs/student/checkpoints/best.ckpt"),
        ("mine=runs/student", "mine", "runs/student/checkpoints/last.ckpt"),
    ],
)
def test_a_text_names_one_file_with_one_label(run, text, label, file):
    assert {label: named.path for label, named in labelled([text], init=[]).items()} == {label: Path(file)}


@pytest.mark.parametrize(
    ("text", "path"), [("Cruse", "kdse.models.Cruse"), ("kdse.models.Cruse", "kdse.models.Cruse"), ("a.B", "a.B")]
)
def test_a_dotted_name_or_one_in_capitals_is_a_class_path(text, path):
    assert pretrained.resolve(text) == (path.rpartition(".")[2], None, path, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cruse-62", "did you mean cruse-62k?"),
        ("student", "neither a checkpoint file nor a model in the box"),
        ("", "MODEL is empty"),
        ("kdse.models.Cruise", "kdse.models.Cruse"),
        ("os.system", "which kdse does not ship"),
        ("runs/other", "runs/other: no such file"),
        ("runs/student:switch", "switch.ckpt: no such file"),
    ],
)
def test_what_names_nothing_is_answered_with_what_can(run, text, said):
    with pytest.raises(kdse.errors.UserError, match=said.replace("?", r"\?")):
        load_model(text)


def test_a_run_of_the_name_of_a_student_in_the_box_wins_over_it(run):
    shutil.copytree(run, "cruse-30k")
    assert pretrained.find("cruse-30k") == Path("cruse-30k/checkpoints/last.ckpt")


def test_load_student_teachers_and_weights_take_a_run_and_its_best_checkpoint(run):
    last, best = (fingerprint(load_model(run / "checkpoints" / f"{name}.ckpt")) for name in ("last", "best"))
    assert last != best
    assert fingerprint(kdse.load_student("runs/student")) == last
    assert fingerprint(Distiller(teacher_checkpoint="runs/student:best", compression=2).teacher) == best
    assert fingerprint(Enhancer(lambda: Cruse(TINY), weights="runs/student").model) == last
    for other, said in (("kdse.models.Cruse", "is a class path"), ("student.onnx", "is an exported file")):
        Path("student.onnx").touch()
        with pytest.raises(kdse.errors.UserError, match=said):
            Enhancer(lambda: Cruse(TINY), weights=other)


KINDS = {
    "box": ["cruse-30k"],
    "run": ["runs/student"],
    "best": ["runs/student:best"],
    "file": ["runs/student/checkpoints/last.ckpt"],
    "exported": [str(pretrained.FOLDER / "cruse-30k.onnx")],
    "class path": ["kdse.models.Cruse", "--init", f"channels={TINY}"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_takes_a_model_of_every_kind(kind, run, capsys):
    pytest.importorskip("onnxruntime")
    assert main(["profile", *KINDS[kind], "--no-timing", "--seconds", "0.5", "--json"]) == 0
    size = {"box": 30_101, "exported": 0}.get(kind, sum(p.numel() for p in Cruse(TINY).parameters()))
    assert json.loads(capsys.readouterr().out)["parameters_total"] == size
    soundfile.write("noisy.wav", hiss(0.2), 16000)
    assert main(["enhance", "noisy.wav", "--checkpoint", *KINDS[kind], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["status"] == "enhanced"


@pytest.mark.integration
def test_scores_and_an_exported_file_lie_beside_the_run_if_no_folder_is_named(run, capsys):
    pytest.importorskip("onnxscript")
    for folder in ("noisy", "clean"):
        Path(folder).mkdir()
        soundfile.write(f"{folder}/a.wav", hiss(0.5, seed=folder == "noisy"), 16000)
    score = ["--paired", "noisy", "clean", "--metrics", "si_sdr", "--workers", "0", "--no-cost"]
    systems = ["runs/student", "runs/student:best", "other=kdse.models.Cruse", "--init", f"channels={TINY}"]
    assert main(["evaluate", *systems, *score]) == 0
    summary = json.loads(Path("runs/student/scores/summary.json").read_text())
    assert list(summary["systems"]) == ["noisy", "student", "student-best", "other"]
    assert main(["evaluate", "cruse-30k", *score]) == 2 and "--out: give a folder" in capsys.readouterr().err
    assert main(["export", "runs/student", "--format", "torchscript"]) == 0
    assert list(Path("runs/student").glob("student.*")) == [Path("runs/student/student.pt")]


def test_flags_are_taken_with_hyphens_and_with_underscores(run, capsys):
    for flag in ("--trust-code", "--trust_code"):
        assert main(["profile", "runs/student", "--no_timing", flag, "--json"]) == 0
        capsys.readouterr()
    assert main(["profile", "runs/student", "--trust_kode"]) == 2
    assert "unrecognized arguments: --trust_kode;" in capsys.readouterr().err


def test_flags_that_a_command_passes_on_are_spelled_as_fit_spells_them():
    parser = Parser("kdse sweep", "")
    parser.add_argument("--max-points", type=int)
    found, rest = parser.parse_known_args(
        ["--max_points", "3", "--run-root=a-b", "--data.batch-size=2", "--data.x_y=1"]
    )
    assert found.max_points == 3 and rest == ["--run_root=a-b", "--data.batch_size=2", "--data.x_y=1"]
