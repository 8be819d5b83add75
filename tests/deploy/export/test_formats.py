"""A format is a class and its name in one list: options, messages and the comparison follow from what it states."""

from __future__ import annotations

import pytest
import torch

from kdse.cli import main
from kdse.deploy.export import parity, write
from kdse.deploy.export.format import ExportFormat
from kdse.deploy.export.graphs import graph_of
from tests.deploy.export.students import student
from tests.deploy.export.tiny import MODELS, networks


class Pickled(ExportFormat):
    """The weights alone, one hop a call; runs with a student of the same kind, ``louder`` as often."""

    name, suffixes, whole, stft = "pickled", (".pkl", ".p"), False, ("inside",)
    louder = 1.0

    def write(self, graph, path, options, about):
        torch.save(graph.model.state_dict(), path)

    def program(self, path):
        model = student("tiny")
        model.load_state_dict(torch.load(path, weights_only=True))
        graph = graph_of(model)
        return lambda hop, *states: [self.louder * (answer := graph(hop, *states))[0], *answer[1:]]


@pytest.fixture
def pickled(monkeypatch):
    added = Pickled()
    monkeypatch.setitem(write.FORMATS, "pickled", added)
    monkeypatch.setattr(parity, "SECONDS", 1.0)
    monkeypatch.delenv("KDSE_CORPUS", raising=False)
    return added


@torch.no_grad()
def test_a_new_format_is_written_and_compared(pickled, tmp_path):
    written = write.export_file(student("tiny"), tmp_path / "s.pkl", "pickled")
    assert written.metadata["parity"]["max_abs_difference"] < 1e-6 and written.initializer_bytes is None
    assert [port.name for port in written.inputs][:1] == ["audio"] and written.inputs[0].shape == [1, 256]
    pickled.louder = 1.1
    with pytest.raises(ValueError, match="differs from PyTorch by"):
        write.export_file(student("tiny"), tmp_path / "other.pkl", "pickled")
    assert [path.name for path in tmp_path.iterdir()] == ["s.pkl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--whole"], "--whole: a file of --format pickled holds one hop"),
        (["--opset", "20"], "--opset 20: is for --format onnx; leave it out"),
        (["--quantize", "int8"], "--quantize int8: is for --format onnx; leave it out"),
        (["--delegate", "xnnpack"], "--delegate xnnpack: is for --format executorch; leave it out"),
        (["--out", "x.onnx"], "--out x.onnx: a pickled file ends in .pkl or .p"),
    ],
)
def test_what_a_new_format_does_not_carry_is_refused_by_flag(
    pickled, arguments, message, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "cruse-30k", "--format", "pickled", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_every_format_has_its_name_and_endings_of_its_own():
    endings = [suffix for kind in write.FORMATS.values() for suffix in kind.suffixes]
    assert len(endings) == len(set(endings)) and all(name == kind.name for name, kind in write.FORMATS.items())


def test_every_network_of_kdse_is_exported_here():
    assert networks() == {cls for cls, _ in MODELS.values()}
