"""TorchScript and torch.export files give the model's results, hop by hop and whole, where there is no kdse."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdse.deploy.export.format import Options
from kdse.deploy.export.graphs import graph_of
from kdse.deploy.export.write import FORMATS
from kdse.models import SpeechModel, TorchScript
from tests.deploy.export.tiny import MODELS, STREAMING, built

pytestmark = pytest.mark.integration

WRITERS = {"pt": FORMATS["torchscript"], "pt2": FORMATS["pt2"]}
FAST = {"pt": "dccrn", "pt2": "unet"}
#: Runs a file on the arguments it finds and keeps the answers; knows torch alone.
RUNNER = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "kdse":
            raise ImportError("kdse is not here")
sys.meta_path.insert(0, Wall())
import torch
folder = sys.argv[1]
told = {"kdse.json": ""}
for job in torch.load(folder + "/jobs.pt"):
    if job["path"].endswith("2"):
        program = torch.export.load(job["path"], extra_files=told).module()
    else:
        program = torch.jit.load(job["path"], _extra_files=told)
    torch.set_grad_enabled(False)
    if job["states"] is None:
        answers = [program(audio) for audio in job["audio"]]
    else:
        answers, states = [], job["states"]
        for hop in job["audio"]:
            answer, *states = program(hop, *states)
            answers.append(answer)
    text = told["kdse.json"]
    torch.save({"answers": answers, "told": text if isinstance(text, str) else text.decode()}, job["path"] + ".answer")
assert not any(name.partition(".")[0] == "kdse" for name in sys.modules)
"""


def write(ending: str, model: SpeechModel, path: str | Path, streaming: bool, stft: str, about: dict) -> None:
    WRITERS[ending].write(graph_of(model, streaming, stft), Path(path), Options(streaming, stft), about)


def noise(*shape: int) -> Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(4))


def run_elsewhere(folder: Path, jobs: list[dict]) -> list[dict]:
    """Answers of a Python that cannot import kdse."""
    torch.save(jobs, folder / "jobs.pt")
    subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", RUNNER, str(folder)], check=True, cwd=folder)
    return [torch.load(f"{job['path']}.answer") for job in jobs]


def signals(model: SpeechModel, batch: int = 1) -> list[Tensor]:
    """The shortest signal that a file takes and one of an odd length."""
    least = model.shortest_samples
    return [noise(batch, n) for n in (least, 1997)]


@torch.no_grad()
def check_all(names: list[str], ending: str, folder: Path) -> None:
    """Files of all kinds for these models, run elsewhere, against the models."""
    jobs, expected = [], []
    for number, name in enumerate(names):
        model = built(name)
        path = str(folder / f"{number}.whole.{ending}")
        write(ending, model, path, False, "inside", {"kind": "whole", "name": name})
        audio = signals(model) + signals(model, 3)[-1:]
        jobs.append({"path": path, "audio": audio, "states": None})
        expected.append([model(wave).waveform for wave in audio])
        if name not in STREAMING:
            continue
        path = str(folder / f"{number}.step.{ending}")
        write(ending, model, path, True, "inside", {"kind": "step", "name": name})
        audio = list(noise(1, 20 * model.hop_samples).split(model.hop_samples, 1))
        jobs.append({"path": path, "audio": audio, "states": list(model.initial_state(1).values())})
        state, answers = model.initial_state(1), []
        for hop in audio:
            answer, state = model.step(hop, state)
            answers.append(answer)
        expected.append(answers)
    for job, found, wanted in zip(jobs, run_elsewhere(folder, jobs), expected, strict=True):
        assert json.loads(found["told"])["kind"] == ("step" if job["states"] else "whole")
        assert max(wave.abs().max() for wave in wanted) > 1e-4
        for one, other in zip(found["answers"], wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_gives_the_models_results_without_kdse(ending, tmp_path):
    check_all([FAST[ending]], ending, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("ending", WRITERS)
def test_files_of_every_family_give_the_models_results_without_kdse(ending, tmp_path):
    check_all([name for name in MODELS if name != FAST[ending]], ending, tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("ending", WRITERS)
def test_a_step_file_without_its_stft_enhances_spectra(ending, tmp_path):
    model = built("dccrn")
    path = str(tmp_path / f"step.{ending}")
    write(ending, model, path, True, "outside", {})
    program = torch.jit.load(path) if ending == "pt" else torch.export.load(path).module()
    state = {k: v for k, v in model.initial_state(1).items() if k not in ("input", "output")}
    names, states = list(state), list(state.values())
    for frame in torch.view_as_real(model.stft(noise(1, 300))).unbind(2):
        enhanced, state = model.step_spectrum(torch.view_as_complex(frame.contiguous())[:, :, None], state)
        found, *states = program(frame, *states)
        torch.testing.assert_close(found, torch.view_as_real(enhanced[:, :, 0]), atol=1e-6, rtol=0)
    assert found.abs().max() > 1e-5
    for name, one in zip(names, states, strict=True):
        torch.testing.assert_close(one, state[name], atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_torchscript_step_takes_any_batch(tmp_path):
    model = built("cruse")
    write("pt", model, tmp_path / "step.pt", True, "inside", {})
    program = torch.jit.load(str(tmp_path / "step.pt"))
    hop, state = noise(5, model.hop_samples), model.initial_state(5)
    torch.testing.assert_close(program(hop, *state.values())[0], model.step(hop, state)[0], atol=1e-6, rtol=0)


@torch.no_grad()
def test_kdse_serves_a_whole_torchscript_file(tmp_path):
    model = built("manner")
    write("pt", model, tmp_path / "whole.pt", False, "inside", {})
    least = model.shortest_samples
    served = TorchScript(str(tmp_path / "whole.pt"), minimum_samples=least)
    wave = noise(2, 5001)
    torch.testing.assert_close(served(wave).waveform, model(wave).waveform, atol=1e-6, rtol=0)
    assert served(noise(1, least // 2)).waveform.shape == (1, least // 2)


@pytest.mark.parametrize("ending", WRITERS)
def test_writing_is_quiet_and_leaves_the_model_and_no_trace_of_this_machine(ending, tmp_path, capfd):
    model = built("dccrn")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for streaming in (True, False):
            write(ending, model, tmp_path / f"{streaming}.{ending}", streaming, "inside", {"a": 1})
    assert capfd.readouterr() == ("", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"False.{ending}", f"True.{ending}"]
    here = str(Path(__file__).resolve().parents[3]).encode()
    for path in tmp_path.iterdir():
        with zipfile.ZipFile(path) as archive:
            assert not any(here in archive.read(name) for name in archive.namelist())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.isfinite(model(noise(1, 500)).waveform).all() and model(noise(1, 500)).waveform.requires_grad


@pytest.mark.parametrize("ending", WRITERS)
def test_a_model_that_does_not_stream_has_no_step_file(ending, tmp_path):
    with pytest.raises(ValueError, match="Manner cannot run hop by hop"):
        write(ending, built("manner"), tmp_path / f"x.{ending}", True, "inside", {})
    assert not any(tmp_path.iterdir())
