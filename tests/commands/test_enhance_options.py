"""`kdse enhance` with the model in the box, --mix, --stream and --backend."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kdse import pretrained
from kdse.cli import main
from kdse.commands import model as enhance_model
from kdse.models import Cruse
from kdse.models.base import UNBOUNDED
from kdse.models.checkpoint import load_model
from tests.commands.test_enhance import record


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def enhanced(path: str = "enhanced/talk.wav") -> np.ndarray:
    return soundfile.read(path, dtype="float32", always_2d=True)[0]


def test_a_file_is_all_it_needs_and_it_says_what_it_did(capsys):
    wave = record(Path("talk.wav"), 4000, subtype="FLOAT")
    assert main(["enhance", "talk.wav"]) == 0
    said = capsys.readouterr().out
    assert "into enhanced" in said and pretrained.DEFAULT in said
    with torch.no_grad():
        offline = load_model(pretrained.find(pretrained.DEFAULT))(torch.from_numpy(wave.T).float()).waveform
    np.testing.assert_allclose(enhanced().T, offline.numpy(), atol=3e-6)


@pytest.mark.parametrize("name", pretrained.names())
def test_every_model_in_the_box_goes_by_its_name(name, capsys):
    record(Path("talk.wav"), 2000)
    assert main(["enhance", "talk.wav", "--checkpoint", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"] == name


def test_a_name_that_is_not_in_the_box_is_answered_with_those_that_are(capsys):
    record(Path("talk.wav"), 300)
    assert main(["enhance", "talk.wav", "--checkpoint", "cruse-1g"]) == 2
    said = capsys.readouterr().err
    assert "--checkpoint cruse-1g" in said and pretrained.DEFAULT in said and not Path("enhanced").exists()


def test_a_mix_of_zero_changes_no_byte_and_a_mix_of_one_returns_the_input():
    record(Path("talk.wav"), 9000, rate=44100, channels=2)
    for out, flags in {"a": [], "b": ["--mix", "0"], "c": ["--mix", "1"]}.items():
        assert main(["enhance", "talk.wav", "--out", out, *flags]) == 0
    first, zero = (Path(out, "talk.wav").read_bytes() for out in "ab")
    assert first == zero
    np.testing.assert_array_equal(enhanced("c/talk.wav"), enhanced("talk.wav"))


def test_a_mix_between_is_the_weighted_sum_in_a_streamed_file_too():
    record(Path("talk.wav"), 15_000, subtype="FLOAT")
    for out, flags in {"a": [], "b": ["--mix", "0.25"], "c": ["--mix", "0.25", "--stream"]}.items():
        assert main(["enhance", "talk.wav", "--out", out, *flags]) == 0
    expected = 0.75 * enhanced("a/talk.wav") + 0.25 * enhanced("talk.wav")
    np.testing.assert_allclose(enhanced("b/talk.wav"), expected, atol=1e-6)
    np.testing.assert_allclose(enhanced("c/talk.wav"), expected, atol=3e-6)


def test_streaming_can_be_asked_for_at_any_length_and_gives_the_same(capsys):
    record(Path("talk.wav"), 700, rate=8000, subtype="FLOAT")
    assert main(["enhance", "talk.wav", "--json"]) == 0
    assert main(["enhance", "talk.wav", "--json", "--stream", "--out", "b"]) == 0
    decoder = json.JSONDecoder()
    text = capsys.readouterr().out
    whole, end = decoder.raw_decode(text)
    streamed = json.loads(text[end:])
    assert [r["files"][0]["method"] for r in (whole, streamed)] == ["whole", "streamed"]
    np.testing.assert_allclose(enhanced("b/talk.wav"), enhanced(), atol=3e-6)


def test_a_model_that_cannot_stream_says_so_in_a_line_and_writes_nothing(monkeypatch, capsys):
    record(Path("talk.wav"), 700)
    monkeypatch.setattr(Cruse, "lookahead_samples", UNBOUNDED)
    assert main(["enhance", "talk.wav", "--stream", "--backend", "torch"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "--stream" in lines[0] and "does not stream" in lines[0]
    assert not Path("enhanced").exists()


def test_samples_far_beyond_full_scale_are_refused_with_their_place(capsys):
    wave = np.zeros(5000, dtype=np.float32)
    wave[3000] = 1e12
    soundfile.write("talk.wav", wave, 16000, subtype="FLOAT")
    assert main(["enhance", "talk.wav", "--json"]) == 1
    message = json.loads(capsys.readouterr().out)["files"][0]["message"]
    assert "larger than 1e+06" in message and "sample 3000" in message and not list(Path("enhanced").iterdir())


def test_the_onnx_backend_runs_the_student_that_the_checkpoint_holds(monkeypatch, capsys):
    record(Path("talk.wav"), 700)
    mine = Path(shutil.copy(pretrained.find(pretrained.DEFAULT), "mine.ckpt"))
    asked = []
    monkeypatch.setattr(enhance_model, "to_onnx", lambda model, path: asked.append((type(model), path)) or model)
    assert main(["enhance", "talk.wav", "--backend", "onnx", "--checkpoint", "mine.ckpt"]) == 0
    assert asked == [(Cruse, mine)]
    assert "mine.ckpt in ONNX Runtime" in capsys.readouterr().out


def test_a_model_in_the_box_brings_its_graph_and_is_not_exported(monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    record(Path("talk.wav"), 700)
    monkeypatch.setattr(enhance_model, "to_onnx", lambda model, path: pytest.fail("exported"))
    assert main(["enhance", "talk.wav", "--backend", "onnx"]) == 0
    assert f"{pretrained.DEFAULT} in ONNX Runtime" in capsys.readouterr().out


def test_a_model_without_steps_has_no_onnx_backend(monkeypatch, capsys):
    record(Path("talk.wav"), 700)
    shutil.copy(pretrained.find(pretrained.DEFAULT), "mine.ckpt")
    monkeypatch.setattr(Cruse, "lookahead_samples", UNBOUNDED)
    assert main(["enhance", "talk.wav", "--backend", "onnx", "--checkpoint", "mine.ckpt"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "--backend onnx" in lines[0] and "--backend torch" in lines[0]


def test_onnx_runtime_gives_what_torch_gives_and_leaves_no_file(capsys, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    record(Path("talk.wav"), 9000, channels=2, subtype="FLOAT")
    assert main(["enhance", "talk.wav", "--out", "a", "--backend", "torch"]) == 0
    assert "in PyTorch" in capsys.readouterr().out
    assert main(["enhance", "talk.wav", "--out", "b", "--backend", "onnx"]) == 0
    assert "in ONNX Runtime" in capsys.readouterr().out and not list(Path("temporary").iterdir())
    np.testing.assert_allclose(enhanced("b/talk.wav"), enhanced("a/talk.wav"), atol=1e-5)


def test_a_checkpoints_graph_is_exported_once_and_then_runs_by_default(capsys, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("KDSE_CACHE", str(tmp_path / "cache"))
    exports = []

    def export(model, file, checkpoint):  # (the box's graph is the very one: an export takes seconds)
        exports.append(checkpoint)
        shutil.copy(pretrained.exported(pretrained.find(pretrained.DEFAULT)), file)

    monkeypatch.setattr("kdse.deploy.export.write.export_file", export)
    record(Path("talk.wav"), 9000, subtype="FLOAT")
    mine = Path(shutil.copy(pretrained.find(pretrained.DEFAULT), "mine.ckpt"))
    shutil.copy(pretrained.find("cruse-30k"), "other.ckpt")
    runs = [("a", [], "PyTorch"), ("b", ["--backend", "onnx"], "ONNX Runtime"), ("c", [], "ONNX Runtime")]
    for out, flags, runtime in [*runs, ("d", ["--backend", "onnx"], "ONNX Runtime")]:
        assert main(["enhance", "talk.wav", "--checkpoint", "mine.ckpt", "--out", out, *flags]) == 0
        assert f"mine.ckpt in {runtime}" in capsys.readouterr().out
        np.testing.assert_allclose(enhanced(f"{out}/talk.wav"), enhanced("a/talk.wav"), atol=1e-5)
    assert exports == [mine]
    assert main(["enhance", "talk.wav", "--checkpoint", "other.ckpt", "--out", "e"]) == 0
    assert "other.ckpt in PyTorch" in capsys.readouterr().out
    (kept,) = (tmp_path / "cache").rglob("*.onnx")
    kept.write_bytes(b"damaged")
    assert main(["enhance", "talk.wav", "--checkpoint", "mine.ckpt", "--out", "f"]) == 0
    assert exports == [mine, mine] and kept.stat().st_size > 1000


def test_help_loads_no_torch():
    code = (
        "import sys\nfrom kdse.cli import main\n"
        "try: main(['enhance', '--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False") and "--mix" in done.stdout
