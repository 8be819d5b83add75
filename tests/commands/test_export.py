"""`kdse export` writes a student that kdse's other commands take, and explains what it cannot write."""

from __future__ import annotations

import hashlib
import json

import pytest
import soundfile
import torch

from kdse.cli import main
from kdse.deploy.export import onnx_graph, parity
from kdse.distiller import Distiller
from kdse.models import Cruse, Uformer
from kdse.models.checkpoint import describe, load_model
from kdse.models.onnx_student import read_metadata
from kdse.objectives.hint import Hint
from tests.data.small_corpus import hiss, put
from tests.deploy.export.students import step_bytes, student
from tests.toys import ToyData, make_student, make_teacher, make_trainer

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def save(model, path, **more):
    """A student-only checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{k}": v for k, v in model.state_dict().items()}
    torch.save({"kdse": describe(model), "state_dict": weights, **more}, path)
    return path


@pytest.fixture
def ready_made(monkeypatch):
    """The exporter's part done before, for a tiny UNet."""
    content = step_bytes("tiny")
    monkeypatch.setattr(onnx_graph, "build", lambda *a, **k: content)
    monkeypatch.setattr(parity, "SECONDS", 1.0)
    monkeypatch.delenv("KDSE_CORPUS", raising=False)


@pytest.mark.integration
def test_a_distilled_students_file_holds_no_teacher_and_no_head(tmp_path, capsys, monkeypatch):
    """From training to `kdse enhance` with the exported file; the file is no larger than that of the bare student."""
    monkeypatch.chdir(tmp_path)
    distiller = Distiller(teacher=make_teacher, student=make_student, metrics=["si_sdr"])
    trainer = make_trainer(tmp_path, callbacks=[Hint()], max_steps=2)
    trainer.fit(distiller, ToyData())
    trainer.save_checkpoint(tmp_path / "distilled.ckpt")
    assert any(key.startswith("heads.") for key in torch.load("distilled.ckpt", weights_only=True)["state_dict"])
    assert main(["export", "distilled.ckpt", "--format", "onnx", "--streaming", "--out", "student.onnx"]) == 0
    told = capsys.readouterr()
    about = read_metadata(tmp_path / "student.onnx")
    bare = load_model(tmp_path / "distilled.ckpt")
    weights = 4 * (sum(p.numel() for p in bare.parameters()) + bare.mel.numel() + bare.expand.numel())
    proto = onnx.load(tmp_path / "student.onnx")
    assert sum(len(onnx.numpy_helper.to_array(t).tobytes()) for t in proto.graph.initializer) < weights + 3000
    assert about["parameters"] == sum(p.numel() for p in bare.parameters())
    assert not any(word in i.name for i in proto.graph.initializer for word in ("teacher", "head", "objective"))
    assert "audio float32 [1, 256] and 18 states" in told.out and "latency 32 ms" in told.out
    assert "difference to PyTorch" in told.out and str((tmp_path / "student.onnx").stat().st_size // 1000) in told.out
    assert told.err == ""
    put(tmp_path / "noisy.wav", hiss(1.3), subtype="FLOAT")
    assert main(["enhance", "noisy.wav", "--checkpoint", "student.onnx", "--out", "enhanced"]) == 0
    found = torch.from_numpy(soundfile.read("enhanced/noisy.wav", dtype="float32")[0])
    wanted = bare(torch.from_numpy(soundfile.read("noisy.wav", dtype="float32")[0])[None]).waveform[0]
    torch.testing.assert_close(found, wanted.detach(), atol=1e-5, rtol=0)


def test_the_run_a_checkpoint_lies_in_says_its_config_and_scores(tmp_path, ready_made, capsys):
    run = tmp_path / "runs" / "two"
    checkpoint = save(student("tiny"), run / "checkpoints" / "last.ckpt", global_step=200)
    (run / "config.yaml").write_text("seed_everything: 1\n")
    (run / "csv" / "version_0").mkdir(parents=True)
    (run / "csv" / "version_0" / "metrics.csv").write_text(
        "epoch,step,train/loss,val/si_sdr,val/si_sdr_snr5,val/noisy_si_sdr,val/pesq_wb\n"
        "0,99,,5.5,1.0,4.0,\n0,150,0.25,,,,\n1,199,,6.5,2.0,4.0,nan\n2,299,,9.5,3.0,4.0,2.0\n"
    )
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "s.onnx"), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)["metadata"]
    assert about == read_metadata(tmp_path / "s.onnx")
    assert about["config_sha256"] == hashlib.sha256(b"seed_everything: 1\n").hexdigest()
    assert about["scores"] == {"step": 199.0, "val/si_sdr": 6.5, "val/noisy_si_sdr": 4.0}


def test_a_checkpoint_outside_a_run_claims_no_scores(tmp_path, ready_made, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(student("tiny"), tmp_path / "small.ckpt")
    assert main(["export", "small.ckpt"]) == 0
    about = read_metadata("small.onnx")
    assert about["scores"] is None and about["config_sha256"] is None
    assert main(["export", "small.ckpt"]) == 2
    assert "--out small.onnx: exists; --overwrite replaces it" in capsys.readouterr().err
    assert main(["export", "small.ckpt", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-model"], "neither a checkpoint file nor a model in the box"),
        (["none.ckpt"], "none.ckpt: no such file"),
        (["student.onnx"], "is an exported file already"),
        (["small.ckpt", "--format", "tflite"], "--format"),
        (["small.ckpt", "--opset", "9"], "--opset 9: this exporter writes 18 to 26"),
        (["small.ckpt", "--streaming", "--whole"], "not allowed with"),
        (["small.ckpt", "--whole", "--stft", "outside"], "--stft outside: is for --streaming"),
        (["small.ckpt", "--format", "pt2", "--opset", "20"], "--opset 20: is for --format onnx"),
        (["small.ckpt", "--format", "torchscript", "--quantize", "int8"], "--quantize int8: is for --format onnx"),
        (["small.ckpt", "--calibration", "."], "--calibration: is for --quantize int8"),
        (["small.ckpt", "--out", "a.pt"], "--out a.pt: a onnx file ends in .onnx"),
        (["small.ckpt", "--parity-audio", "none.wav"], "--parity-audio none.wav"),
        (["uformer.ckpt", "--streaming"], "--streaming: Uformer cannot run hop by hop"),
        (["uformer.ckpt", "--stft", "outside"], "--stft outside: Uformer cannot run hop by hop"),
        (["uformer.ckpt", "--quantize", "int8-weights"], "--quantize int8-weights: Uformer cannot run hop by hop"),
        (["small.ckpt", "--quantize", "int8"], "give --calibration FOLDER"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDSE_CORPUS", raising=False)
    save(Cruse([2, 2, 2, 4]), tmp_path / "small.ckpt")
    if arguments[0] == "uformer.ckpt":
        save(
            Uformer([2, 2], dilated_layers=1, attention_channels=2, ff_channels=2, dilated_channels=2),
            tmp_path / "uformer.ckpt",
        )
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main(["export", *arguments]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("kdse export: ") and message in told.err and told.err.count("\n") == 1
    assert told.out == "" and sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["torchscript", "pt2"])
@pytest.mark.parametrize("scope", ["--streaming", "--whole"])
def test_the_other_formats_are_compared_too(tmp_path, monkeypatch, capsys, file_format, scope):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDSE_CORPUS", raising=False)
    save(Cruse([2, 2, 2, 4]), tmp_path / "small.ckpt")
    assert main(["export", "small.ckpt", "--format", file_format, scope, "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["metadata"]["parity"]["max_abs_difference"] < 1e-5 and written["initializer_bytes"] is None


@pytest.mark.slow
def test_a_graph_of_whole_signals_enhances_any_length(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDSE_CORPUS", raising=False)
    model = Cruse([2, 2, 2, 4]).eval()
    save(model, tmp_path / "small.ckpt")
    assert main(["export", "small.ckpt", "--whole", "--out", "whole.onnx"]) == 0
    loaded = load_model("whole.onnx")
    for batch, samples in ((1, 300), (3, 9001)):
        noisy = 0.1 * torch.randn(batch, samples)
        torch.testing.assert_close(loaded(noisy).waveform, model(noisy).waveform.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("flag", "mode"), [("int8", "static"), ("int8-dynamic", "dynamic"), ("int8-weights", "weights")]
)
@pytest.mark.integration
def test_a_quantised_file_streams_and_says_what_it_is(tmp_path, monkeypatch, capsys, flag, mode):
    monkeypatch.delenv("KDSE_CORPUS", raising=False)
    checkpoint = save(Cruse([2, 2, 2, 4]), tmp_path / "small.ckpt")
    noisy = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    arguments = ["export", str(checkpoint), "--quantize", flag, "--out", str(tmp_path / "q.onnx")]
    if flag == "int8":
        (tmp_path / "heard").mkdir()
        soundfile.write(tmp_path / "heard" / "a.wav", noisy[0].numpy(), 16000)
        arguments += ["--calibration", str(tmp_path / "heard")]
    assert main(arguments) == 0
    assert f"8 bits, {mode}: " in capsys.readouterr().out
    about = read_metadata(tmp_path / "q.onnx")
    assert about is not None and about["quantized"]["mode"] == mode and about["quantized"]["weight_share"] < 0.6
    with torch.no_grad():
        expected, got = (load_model(path)(noisy).waveform for path in (checkpoint, tmp_path / "q.onnx"))
    error = (got - expected).square().mean() / expected.square().mean()
    assert 0 < error < 0.01
