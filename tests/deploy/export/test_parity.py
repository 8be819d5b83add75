"""No file gets its name before it gave PyTorch's results."""

from __future__ import annotations

import json
import math

import pytest
import torch

from kdse.deploy.export import onnx_graph, parity, write
from kdse.models.onnx_student import OnnxStudent, read_metadata
from tests.data.small_corpus import hiss, make_corpus, put
from tests.deploy.export.students import step_bytes, step_file, student

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def ready_made(monkeypatch):
    """The exporter's part done before: its bytes for a tiny UNet, as they are or changed by the test."""
    found = {"bytes": step_bytes("tiny")}
    monkeypatch.setattr(onnx_graph, "build", lambda *a, **k: found["bytes"])
    monkeypatch.delenv("KDSE_CORPUS", raising=False)
    monkeypatch.setattr(parity, "SECONDS", 1.0)
    return found


def tampered(content: bytes, change) -> bytes:
    """The largest weight of the file, changed."""
    proto = onnx.load_model_from_string(content)
    tensor = max(proto.graph.initializer, key=lambda t: len(t.raw_data))
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), tensor.name))
    return proto.SerializeToString()


def test_the_file_keeps_what_the_comparison_found(tmp_path, ready_made):
    written = write.export_file(student("tiny"), tmp_path / "s.onnx")
    about = read_metadata(tmp_path / "s.onnx")
    assert about == written.metadata
    assert about["parity"]["max_abs_difference"] < 5e-6 and about["parity"]["seconds"] == 1.0
    assert about["parity"]["signal"] == "kdse probe signal"
    assert written.bytes == (tmp_path / "s.onnx").stat().st_size > written.initializer_bytes > 0
    assert [p.name for p in written.inputs][0] == "audio" and json.dumps(written.as_dict())


@pytest.mark.parametrize("change", [lambda w: w * 1.05, lambda w: w * math.nan], ids=["5 % louder", "not finite"])
def test_a_file_that_differs_is_never_left(tmp_path, ready_made, change):
    ready_made["bytes"] = tampered(ready_made["bytes"], change)
    (tmp_path / "old.onnx").write_bytes(b"before")
    for name in ("s.onnx", "old.onnx"):
        with pytest.raises(ValueError, match=r"differs from PyTorch by .* at .* s of .* \(tolerance 0.0001\); nothing"):
            write.export_file(student("tiny"), tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["old.onnx"]
    assert (tmp_path / "old.onnx").read_bytes() == b"before"


def test_the_place_of_the_largest_difference_is_named(tmp_path):
    """A model that is wrong in one sample of its hops, at a place known in advance."""
    exported, noisy = OnnxStudent(str(step_file(tmp_path, "tiny"))), 0.1 * torch.randn(1, 8000)
    hops, step = [], exported.step

    def late_error(hop, state):
        out, new = step(hop, state)
        hops.append(1)
        if len(hops) == 10:
            out = out.clone()
            out[0, 5] += 0.25
        return out, new

    exported.step = late_error
    found = parity.compare(exported, student("tiny"), noisy, "noise", "step")
    assert found.max_abs_difference == pytest.approx(0.25, abs=1e-5)
    assert found.place_seconds == (9 * 256 + 5 - 256) / 16000  # (the tenth hop, 256 samples late)
    assert found.decibels == pytest.approx(-12.04, abs=0.01)


def test_speech_and_noise_of_the_corpus_are_taken_where_they_are(tmp_path, monkeypatch):
    root = make_corpus(tmp_path, files=1, seconds=4.5)
    monkeypatch.setenv("KDSE_CORPUS", str(root))
    noisy, signal = parity.probe(16000)
    assert noisy.shape == (1, 64000) and signal == "voice0.flac + noise0.flac at 5 dB"
    assert not noisy[:, 32000:40000].any() and noisy[:, :32000].any() and noisy[:, 40000:].any()
    monkeypatch.setenv("KDSE_CORPUS", str(tmp_path / "absent"))
    fixed, signal = parity.probe(8000)
    assert fixed.shape == (1, 32000) and signal == "kdse probe signal"
    assert torch.equal(fixed, parity.probe(8000)[0])


def test_audio_of_the_users_is_taken_and_must_last(tmp_path):
    noisy, signal = parity.probe(16000, put(tmp_path / "mine.wav", hiss(5.0)))
    assert noisy.shape == (1, 80000) and signal == "mine.wav"
    with pytest.raises(ValueError, match="--parity-audio .*short.wav: is 1.0 s long; give 4 s"):
        parity.probe(16000, put(tmp_path / "short.wav", hiss(1.0)))
    with pytest.raises(ValueError, match="none.wav"):
        parity.probe(16000, tmp_path / "none.wav")


def test_the_same_student_gives_the_same_bytes(tmp_path, ready_made):
    for name in "ab":
        write.export_file(student("tiny"), tmp_path / name / "s.onnx")
    assert (tmp_path / "a" / "s.onnx").read_bytes() == (tmp_path / "b" / "s.onnx").read_bytes()
    assert onnx_graph.KEY in {e.key for e in onnx.load(tmp_path / "a" / "s.onnx").metadata_props}
