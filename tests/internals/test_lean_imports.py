"""Starting kdse imports what it uses, and Lightning works as if it had imported everything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from kdse.cli import main
from kdse.internals.lean_imports import uncompiled
from tests.tiny_run import write_config

#: Packages that take a tenth of a second or more, or that only some runs use.
HEAVY = ["torch._dynamo", "scipy.signal", "scipy.stats", "matplotlib", "torchvision", "wandb", "pandas", "onnx", "pesq"]


def loaded(code: str, folder: Path) -> list[str]:
    """Which heavy packages a fresh Python has loaded after the code."""
    code += f"; print([name for name in {[*HEAVY, 'lightning', 'torchaudio', 'torch']} if name in sys.modules])"
    command = [sys.executable, "-c", f"import sys; from kdse.cli import main; {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    found: list[str] = eval(done.stdout.splitlines()[-1])
    return found


@pytest.mark.integration
def test_the_help_of_fit_loads_lightning_and_nothing_heavy(tmp_path):
    assert loaded("main(['fit', '--help'])", tmp_path) == ["lightning", "torch"]


@pytest.mark.integration
@pytest.mark.parametrize(("backend", "more"), [("auto", []), ("torch", ["torchaudio"])])
def test_enhancing_a_file_loads_nothing_heavy(tmp_path, backend, more):
    pytest.importorskip("onnxruntime")
    soundfile.write(tmp_path / "talk.wav", np.zeros(4000), 16000)
    assert loaded(f"main(['enhance', 'talk.wav', '--backend', {backend!r}])", tmp_path) == [*more, "torch"]


@pytest.mark.integration
def test_lightning_knows_compiled_modules_by_the_stand_in(tmp_path):
    code = """
from kdse.internals.lean_imports import import_lightning
import_lightning()
import torch
from lightning.fabric.wrappers import OptimizedModule, _unwrap_compiled
module = torch.nn.Linear(2, 2)
before = isinstance(module, OptimizedModule), "torch._dynamo" in sys.modules
compiled = torch.compile(module, backend="eager")
same = _unwrap_compiled(compiled)[0] is module
print(before, isinstance(compiled, OptimizedModule), isinstance(module, OptimizedModule), same)
"""
    done = subprocess.run([sys.executable, "-c", f"import sys{code}"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["(False,", "False)", "True", "False", "True"]


class Half(nn.Module):
    """Half of its work is done by numpy, which the compiler must not look into."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seen: list[bool] = []

    @uncompiled
    def outside(self, x: Tensor) -> Tensor:
        self.seen.append(torch.compiler.is_compiling())
        return torch.from_numpy(2 * x.numpy())

    def forward(self, x: Tensor) -> Tensor:
        return self.outside(self.linear(x).detach()) + 1


@pytest.mark.integration
def test_what_is_not_to_be_compiled_runs_as_it_is_inside_of_a_compiled_module():
    module, x = Half(), torch.randn(3, 4)
    compiled = torch.compile(module, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(x), module(x))
    assert module.seen == [False] * 4


def test_a_start_writes_out_its_config_once(tmp_path, monkeypatch, capsys):
    import jsonargparse

    config, dumps, dump = write_config(tmp_path), [], jsonargparse.ArgumentParser.dump

    def counted(self, *args, **kwargs):
        dumps.append(self)
        return dump(self, *args, **kwargs)

    monkeypatch.setattr(jsonargparse.ArgumentParser, "dump", counted)
    (tmp_path / "taken").write_text("a file where the run folder would be: the start ends after its settings")
    assert main(["fit", "--config", str(config), f"--run_dir={tmp_path / 'taken'}"]) == 2
    assert "taken" in capsys.readouterr().err
    assert dumps.count(dumps[0]) == 1  # (it dumps its subparsers for itself)
