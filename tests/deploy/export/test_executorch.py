"""ExecuTorch programs: what kdse refuses everywhere, and, where the package is installed, that they are the student."""

from __future__ import annotations

import importlib.util
import shutil

import pytest
import torch

from kdse.cli import main
from kdse.deploy.export.executorch_file import DELEGATES, FORMAT, load_executorch
from kdse.deploy.export.format import Options
from kdse.deploy.export.graphs import graph_of
from kdse.models import Cruse

needs_executorch = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None or shutil.which("flatc") is None,
    reason="executorch is not installed (pip install 'kdse[executorch]')",
)


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Cruse([4, 4, 4, 4]).eval()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--format", "executorch"], "add --stft outside"),
        (["--delegate", "xnnpack"], "is for --format executorch"),
        (["--format", "executorch", "--stft", "outside", "--out", "x.onnx"], "ends in .pte"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "cruse-30k", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


@pytest.mark.skipif(importlib.util.find_spec("executorch") is not None, reason="executorch is installed")
def test_the_missing_package_is_named_with_the_command_that_brings_it(student, tmp_path):
    with pytest.raises(ValueError, match=r"pip install 'kdse\[executorch\]'"):
        FORMAT.write(graph_of(student, stft="outside"), tmp_path / "s.pte", Options(stft="outside"), {})
    assert not any(tmp_path.iterdir())


@needs_executorch
@pytest.mark.slow
@pytest.mark.parametrize("delegate", DELEGATES)
def test_a_program_is_the_student_hop_by_hop_and_says_what_it_is(delegate, student, tmp_path):
    before = {name: value.clone() for name, value in student.state_dict().items()}
    step, options = graph_of(student, stft="outside"), Options(stft="outside", delegate=delegate)
    FORMAT.write(step, tmp_path / "s.pte", options, {"hop_samples": 256})
    run, about = load_executorch(tmp_path / "s.pte")
    assert about == {"hop_samples": 256}
    first, *states = step.example(1)
    ours = theirs = list(states)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(50):
            frame = 0.1 * torch.randn(first.shape, generator=generator)
            expected, *ours = step(frame, *ours)
            got, *theirs = run(frame, *theirs)
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
