"""`--model.compile` changes time and nothing else: values, checkpoints and resumed runs stay as they are."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

import kdse.compiling
import kdse.distiller
import kdse.enhancer
from kdse.compiling import Compiled
from kdse.distiller import Distiller
from kdse.enhancer import Enhancer
from kdse.models import Cruse, SpeechModel
from kdse.models.base import Estimate, Tap
from kdse.models.checkpoint import fingerprint
from kdse.objectives import Hint, SimilarityPreserving
from kdse.schedule import Joint, TwoStep
from tests.ddp_launch import REPOSITORY, environment
from tests.test_distiller import StopAt
from tests.toys import ToyData, make_student, make_trainer


class Toy(SpeechModel):
    """A recurrence between two convolutions, with statistics of its own, in time domain."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        # (the gradient of a bias before a batch norm is rounding, of which Adam makes whole steps)
        conv = nn.Conv1d(1, channels, 64, stride=64, bias=False)
        self.encoder = nn.Sequential(conv, nn.BatchNorm1d(channels), nn.Tanh())
        self.gru = nn.GRU(channels, channels, batch_first=True)
        self.decoder = nn.ConvTranspose1d(channels, 1, 64, stride=64)

    def forward(self, noisy: Tensor) -> Estimate:
        x = self.encoder(noisy[:, None])
        return Estimate(self.decoder(x + self.gru(x.transpose(1, 2))[0].transpose(1, 2))[:, 0])

    def taps(self) -> dict[str, Tap]:
        return {"encoder": Tap("encoder", "b c t"), "gru": Tap("gru", "b t c")}


@pytest.fixture
def everything_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, and toys too; traced and differentiated as always, but with no compiler of kernels."""
    torch.compiler.reset()
    monkeypatch.setattr(kdse.compiling, "BACKEND", "aot_eager")
    monkeypatch.setattr(kdse.compiling, "why_eager", lambda *_, **__: None)
    monkeypatch.setattr(kdse.enhancer, "why_eager", lambda *_: None)
    monkeypatch.setattr(kdse.distiller, "why_eager", lambda *_: None)


def objectives() -> list[L.Callback]:
    return [SimilarityPreserving(), Hint(pairs=[["encoder", "encoder"]]).named("early"), TwoStep(distil_steps=3)]


def distil(folder: Path, compile: bool, callbacks: list[L.Callback], steps: int = 6, ckpt: Path | None = None, **more):
    """A trained Distiller, of toys unless told otherwise."""
    torch.manual_seed(0)
    settings = {key: more.pop(key) for key in ("accumulate_grad_batches", "enable_checkpointing") if key in more}
    networks = {"teacher": Toy(8), "student": Toy(4)}
    model = Distiller(
        **{**networks, "loss": kdse.losses.SiSdr(), "metrics": ["si_sdr"], **more},
        optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1),
        compile=compile,
    )
    trainer = make_trainer(folder, callbacks, max_steps=steps, **settings)
    trainer.fit(model, ToyData(), ckpt_path=None if ckpt is None else str(ckpt), weights_only=True)
    return model


def largest_difference(a: nn.Module, b: nn.Module) -> float:
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    return max(float((ours[k].double() - theirs[k].double()).abs().max()) for k in ours)


@pytest.mark.parametrize(
    "settings",
    [{}, {"accumulate_grad_batches": 2}, {"balance_gradients": True, "balance_every": 2}],
    ids=["plain", "accumulated", "balanced"],
)
def test_a_compiled_run_reaches_the_weights_and_statistics_of_the_eager_one(settings, tmp_path, everything_compiles):
    schedule = [Joint(gamma=0.5)] if "balance_gradients" in settings else objectives()[-1:]
    eager, compiled = (distil(tmp_path, on, [*objectives()[:-1], *schedule], **settings) for on in (False, True))
    assert largest_difference(eager, compiled) < 1e-5
    assert not [m for m in compiled.student.modules() if "forward" in vars(m)]


def compiled_graphs() -> int:
    """Graphs that torch.compile has made in this process."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


class Graphs(L.Callback):
    """Graphs that were compiled before each step's end."""

    def __init__(self) -> None:
        self.after_step: list[int] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.after_step.append(compiled_graphs())


def test_nothing_is_compiled_after_the_first_step_not_even_at_the_switch(tmp_path, everything_compiles):
    before, graphs = compiled_graphs(), Graphs()
    distil(tmp_path, True, [*objectives(), graphs], steps=8)
    assert before < graphs.after_step[0] == graphs.after_step[-1] and len(graphs.after_step) == 8


def test_parameters_that_no_term_of_a_phase_reaches_get_no_gradient(tmp_path, everything_compiles):
    seen: list[list[str]] = []

    class Gradients(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: object) -> None:
            seen.append([name for name, p in module.student.named_parameters() if p.grad is None])

    hint = Hint(pairs=[["encoder", "encoder"]])
    model = distil(tmp_path, True, [hint, TwoStep(distil_steps=1), Gradients()], steps=2)
    behind = [name for name, _ in model.student.named_parameters() if not name.startswith("encoder")]
    assert seen == [behind, []]


@pytest.mark.parametrize("stopped_at", [2, 4])
def test_a_compiled_run_that_is_resumed_reaches_the_bytes_of_one_that_was_not(
    stopped_at, tmp_path, everything_compiles
):
    whole = distil(tmp_path, True, objectives())
    saver = ModelCheckpoint(dirpath=tmp_path, filename="last", every_n_train_steps=1, enable_version_counter=False)
    distil(tmp_path, True, [*objectives(), saver, StopAt(stopped_at)], enable_checkpointing=True)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert list(state) == list(whole.state_dict())
    again = distil(tmp_path, True, objectives(), ckpt=tmp_path / "last.ckpt")
    assert fingerprint(again) == fingerprint(whole)


def test_a_run_without_a_teacher_is_compiled_too(tmp_path, everything_compiles):
    runs = []
    for on in (False, True):
        torch.manual_seed(0)
        runs.append(Enhancer(Toy(), loss=kdse.losses.SiSdr(), metrics=["si_sdr"], compile=on))
        before = compiled_graphs()
        make_trainer(tmp_path, max_steps=3).fit(runs[-1], ToyData())
        assert (compiled_graphs() > before) == on
    assert largest_difference(*runs) < 1e-5


# --- what runs eager says so, in one line ---


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith("compile:")]


def test_what_does_not_pay_on_a_cpu_or_is_not_known_runs_eager_and_is_named_in_one_line(tmp_path, caplog):
    class Own(SimilarityPreserving):
        pass

    Own.__module__ = "somewhere.else"
    caplog.set_level(logging.INFO, logger="kdse.compiling")
    distil(
        tmp_path,
        True,
        [Own(pairs=[["encoder", "encoder0"]], over=[]), Joint(0.5)],
        steps=1,
        teacher=Toy(8),
        student=make_student,
    )
    (line,) = said(caplog)
    assert line == (
        "compile: teacher runs eager: Toy was never measured compiled; student runs eager: Cruse is as fast "
        "eager on a CPU; supervised loss runs eager: SiSdr is as fast eager on a CPU; objectives.own runs eager: "
        "Own was never measured compiled"
    )


def test_hooks_and_taps_inside_recurrences_leave_a_network_eager():
    network, cpu = Cruse(channels=[2, 4, 4, 4]), torch.device("cpu")
    ask = kdse.compiling.why_eager_network
    assert ask(network, network.taps(), cpu, trains=False) is None
    inside = {"one": Tap("bottleneck.grus.0", "b t c")}
    assert "inside a recurrent layer" in str(ask(network, inside, cpu, trains=False))
    network.encoder[0].register_forward_hook(lambda *_: None)
    assert "hooks" in str(ask(network, network.taps(), cpu, trains=False))


def test_without_a_compiler_the_run_is_eager_and_says_what_to_install(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("CXX", "a-compiler-that-is-nowhere")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "a-compiler-that-is-nowhere"))
    caplog.set_level(logging.INFO, logger="kdse.compiling")
    distil(tmp_path, True, objectives(), steps=1)
    (line,) = said(caplog)
    assert "everything runs eager" in line and "g++" in line and "CXX" in line


def test_what_cannot_be_compiled_after_all_runs_eager_and_says_so_once(caplog, monkeypatch):
    def refuse(*_: object) -> None:
        raise NotImplementedError("no such kernel")

    monkeypatch.setattr(kdse.compiling, "BACKEND", refuse)
    double = Compiled(lambda x: 2 * x, "the double")
    x = torch.ones(3)
    assert double(x).tolist() == double(x).tolist() == [2, 2, 2]
    (line,) = said(caplog)
    assert "the double runs eager" in line and "no such kernel" in line


def test_a_batch_of_another_shape_runs_eager_and_compiles_nothing(caplog, monkeypatch):
    monkeypatch.setattr(kdse.compiling, "BACKEND", "aot_eager")
    caplog.set_level(logging.INFO, logger="kdse.compiling")
    double = Compiled(lambda x: 2 * x, "the double")
    double(torch.ones(4, 8))
    graphs = compiled_graphs()
    assert double(torch.ones(3, 8)).sum() == 48 and double(torch.ones(2, 8)).sum() == 32
    with torch.inference_mode():
        assert double(torch.ones(4, 8)).sum() == 64
    assert compiled_graphs() == graphs and len(said(caplog)) == 1


# --- with the compiler itself ---

TWICE = """
import sys, torch
import kdse.compiling
from tests.test_compiling import distil
from tests.toys import make_student, make_teacher
from kdse.objectives import Hint, SimilarityPreserving
from kdse.schedule import TwoStep
kdse.compiling.PAYS = 10.0
def run(on):
    callbacks = [SimilarityPreserving(), Hint(pairs="bottleneck"), TwoStep(distil_steps=2)]
    return distil(sys.argv[1], on, callbacks, 4, teacher=make_teacher, student=make_student, loss=None)
ours, theirs = run(True).state_dict(), run(False).state_dict()
print("difference", max(float((ours[k] - theirs[k]).abs().max()) for k in ours))
from torch._dynamo.utils import counters
print("found and made", *(counters["inductor"][f"fxgraph_cache_{what}"] for what in ("hit", "miss")))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kernels_keep_the_values_and_a_second_process_compiles_none(tmp_path):
    answers = []
    for _ in range(2):
        call = [sys.executable, "-c", TWICE, str(tmp_path)]
        place = {**environment(), "KDSE_CACHE": str(tmp_path / "cache")}
        place.pop("TORCHINDUCTOR_CACHE_DIR", None)
        done = subprocess.run(call, cwd=REPOSITORY, env=place, capture_output=True, text=True, timeout=800)
        assert done.returncode == 0, done.stderr[-3000:]
        answers.append([line.split() for line in done.stdout.splitlines() if line.startswith(("difference", "found"))])
    for difference, _ in answers:
        assert float(difference[1]) < 1e-5
    assert (tmp_path / "cache" / "compiled").is_dir()
    (_, first), (_, second) = answers
    (found, made), (found_again, made_again) = ([int(word) for word in line[-2:]] for line in (first, second))
    assert made > 0 and (found_again, made_again) == (found + made, 0)
