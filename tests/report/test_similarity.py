"""Linear CKA by its definition, blocks paired as they should be, and the student of a run as it was before step 0."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from kdse.cli import main
from kdse.enhancer import Enhancer
from kdse.models import Cruse
from kdse.models.base import Estimate, SpeechModel, Tap
from kdse.models.checkpoint import load_model
from kdse.report.rebuilt_run import rebuild
from kdse.report.similarity import block_similarity, linear_cka, similarity_of_run
from tests.tiny_run import save_model, write_config
from tests.toys import make_student, make_teacher


def hsic_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Kornblith et al. 2019, equations 3 and 4: HSIC with the centring matrix written out."""
    n = len(x)
    h = np.eye(n) - np.ones((n, n)) / n

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        return np.trace(k @ h @ m @ h) / (n - 1) ** 2

    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize(("n", "p", "q"), [(40, 5, 7), (12, 30, 4), (12, 4, 30), (9, 50, 60)])
def test_cka_is_the_normalised_hsic_of_linear_kernels(n, p, q):
    rng = np.random.default_rng(n + p)
    x = rng.standard_normal((n, p)) + 3.0
    y = x[:, :1] * rng.standard_normal((1, q)) + rng.standard_normal((n, q))
    assert linear_cka(x, y) == pytest.approx(hsic_cka(x, y), rel=1e-10)
    assert linear_cka(torch.tensor(x), torch.tensor(y)) == linear_cka(x, y)


def test_rotation_scale_and_offset_do_not_matter_and_other_maps_do():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 6)) * [5, 3, 2, 1, 1, 1]
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    assert linear_cka(x, x) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(x, 0.01 * x @ rotation - 7.0) == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(x, x * [1, 1, 1, 1, 1, 100.0]) < 0.5


def test_unrelated_features_are_unlike_where_samples_outnumber_them():
    rng = np.random.default_rng(1)
    assert linear_cka(rng.standard_normal((5000, 6)), rng.standard_normal((5000, 8))) < 0.01


def test_features_that_do_not_change_have_no_similarity():
    x = np.random.default_rng(2).standard_normal((30, 4))
    assert math.isnan(linear_cka(x, np.full((30, 3), 0.1))) and math.isnan(linear_cka(np.zeros((30, 40)), x))


def test_matrices_of_other_samples_are_refused():
    with pytest.raises(ValueError, match=r"\[5, 2\] and \[6, 2\]"):
        linear_cka(np.zeros((5, 2)), np.zeros((6, 2)))


def noise(items: int = 2, samples: int = 8000, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(items, samples, generator=torch.Generator().manual_seed(seed))


def activations(model: SpeechModel, noisy: torch.Tensor) -> dict[str, np.ndarray]:
    """By tap ``[items x frames, channels x frequencies]``, by hooks of our own."""
    found: dict[str, np.ndarray] = {}
    handles = []
    for name, tap in model.taps().items():

        def keep(module, inputs, output, name=name):
            found[name] = np.concatenate([np.moveaxis(x.numpy(), 1, 0).reshape(x.shape[1], -1) for x in output])

        handles.append(model.get_submodule(tap.path).register_forward_hook(keep))
    with torch.no_grad():
        model.eval()(noisy)
    for handle in handles:
        handle.remove()
    return found


def test_every_pair_of_blocks_is_compared_over_items_and_frames():
    teacher, student, noisy = make_teacher(), make_student(), noise()
    found = block_similarity(teacher, student, [noisy])
    t, s = activations(teacher, noisy), activations(student, noisy)
    expected = [[hsic_cka(s[row].astype(float), t[column].astype(float)) for column in t] for row in s]
    np.testing.assert_allclose(found.matrix, expected, rtol=1e-5)
    assert found.student == tuple(s) and found.teacher == tuple(t) and found.samples == len(s["encoder0"])
    np.testing.assert_allclose(found.diagonal, np.diag(expected), rtol=1e-5)
    assert found.mean_diagonal == pytest.approx(np.mean(np.diag(expected)), rel=1e-5)
    assert found.mean_all == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_network_is_like_itself_however_few_frames_are_taken():
    model = make_teacher().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.random.get_rng_state()
    batches = [noise(3, 8000), noise(1, 4000)]
    found, again = (block_similarity(model, model, batches, frames=20) for _ in range(2))
    np.testing.assert_allclose(found.diagonal, 1.0, rtol=1e-12)
    assert 15 <= found.samples <= 20 and np.array_equal(found.matrix, again.matrix)
    assert model.training and torch.equal(torch.random.get_rng_state(), stream)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Averages(SpeechModel):
    """One tap: the mean of the signal over every hop, as many hops as fit."""

    def __init__(self, hop: int, name: str = "block") -> None:
        super().__init__()
        self.hop, self.name, self.block = hop, name, nn.Identity()

    def forward(self, noisy: torch.Tensor) -> Estimate:
        frames = self.block(noisy.unfold(1, self.hop, self.hop).mean(-1)[:, None, :, None])
        return Estimate(noisy + 0 * frames.sum())

    def taps(self) -> dict[str, Tap]:
        return {self.name: Tap("block")} if self.name else {}


def test_frames_of_networks_of_other_hops_are_those_nearest_in_time():
    slow = torch.sin(torch.arange(16000) / 3000 + torch.tensor([[0.0], [1.0]]))
    for hop in (100, 320, 1000):
        assert block_similarity(Averages(hop), Averages(200), [slow]).matrix[0, 0] > 0.97


def test_same_blocks_are_those_of_one_name_else_those_in_one_place_else_none():
    teacher, student, noisy = make_teacher(), make_student(), [noise()]
    taps = list(teacher.taps().items())
    named = block_similarity(teacher, student, noisy, dict(reversed(taps)), dict(taps[2:4]))
    assert named.diagonal == (named.matrix[0, 6], named.matrix[1, 5])
    placed = block_similarity(teacher, Averages(256, "other"), noisy, dict(taps[:1]))
    assert placed.diagonal == (placed.matrix[0, 0],)
    unpaired = block_similarity(teacher, Averages(256, "other"), noisy)
    assert np.isnan(unpaired.diagonal).all() and math.isnan(unpaired.mean_diagonal) and unpaired.mean_all > 0


def test_silence_leaves_no_number_in_the_means():
    found = block_similarity(Averages(256), Averages(256), [torch.zeros(1, 8000)])
    assert np.isnan(found.matrix).all() and math.isnan(found.mean_all)


def test_networks_without_taps_and_no_audio_are_refused():
    with pytest.raises(ValueError, match="teacher Averages has no taps"):
        block_similarity(Averages(256, ""), make_student(), [noise()])
    with pytest.raises(ValueError, match="no audio"):
        block_similarity(make_teacher(), make_student(), [])


# --- finished runs ---


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A two-step run, and the student's weights as its first step found them."""
    folder = tmp_path_factory.mktemp("two_step")
    return folder, fit_and_keep_start(write_config(folder))


def fit_and_keep_start(config: Path) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = {}
    with pytest.MonkeyPatch.context() as patch:
        start = Enhancer.on_train_start

        def on_train_start(self):
            kept.update({name: value.clone() for name, value in self.model.state_dict().items()})
            start(self)

        patch.setattr(Enhancer, "on_train_start", on_train_start)
        assert main(["fit", "--config", str(config)]) == 0
    return kept


def test_the_rebuilt_student_is_bit_identical_to_the_one_of_step_0(finished):
    folder, start = finished
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    rebuilt = rebuild(folder / "run").student.state_dict()
    assert rebuilt.keys() == start.keys() and all(torch.equal(rebuilt[name], start[name]) for name in start)
    assert torch.initial_seed() == 123 and torch.equal(torch.random.get_rng_state(), state)
    trained = load_model(folder / "run" / "checkpoints" / "last.ckpt").state_dict()
    assert not all(torch.equal(trained[name], start[name]) for name in start)


def test_a_run_is_compared_before_at_the_switch_and_after(finished):
    folder, start = finished
    found = similarity_of_run(folder / "run", [noise()])
    student = load_model(folder / "run" / "checkpoints" / "last.ckpt")
    states = {
        "before": start,
        "at the switch": load_model(folder / "run" / "checkpoints" / "switch.ckpt").state_dict(),
        "after": {name: value.clone() for name, value in student.state_dict().items()},
    }
    assert list(found) == list(states)
    for moment, state in states.items():
        student.load_state_dict(state)
        expected = block_similarity(make_teacher(), student, [noise()]).matrix
        np.testing.assert_allclose(found[moment].matrix, expected, rtol=1e-5)
    assert found["before"].mean_diagonal != found["at the switch"].mean_diagonal != found["after"].mean_diagonal


def test_a_switch_checkpoint_of_another_run_is_left_out(finished, tmp_path):
    folder, _ = finished
    fit_and_keep_start(write_config(tmp_path, schedule={"class_path": "kdse.schedule.Joint"}))
    stray = folder / "run" / "checkpoints" / "switch.ckpt"
    (tmp_path / "run" / "checkpoints" / "switch.ckpt").write_bytes(stray.read_bytes())
    assert list(similarity_of_run(tmp_path / "run", [noise()])) == ["before", "after"]


def test_a_run_without_a_teacher_takes_one(tmp_path):
    model = {"class_path": "kdse.models.Cruse", "init_args": {"channels": [2, 4, 4, 4]}}
    section = {"class_path": "kdse.Enhancer", "init_args": {"model": model, "metrics": ["si_sdr"]}}
    start = fit_and_keep_start(write_config(tmp_path, model=section, objectives={}, schedule=None))
    found = similarity_of_run(tmp_path / "run", [noise()], teacher_checkpoint=tmp_path / "teacher.ckpt")
    student = Cruse(channels=[2, 4, 4, 4])
    student.load_state_dict(start)
    expected = block_similarity(make_teacher(), student, [noise()])
    assert list(found) == ["before", "after"]
    np.testing.assert_allclose(found["before"].matrix, expected.matrix, rtol=1e-5)
    with pytest.raises(ValueError, match=r"config\.yaml: this run had no teacher; name the checkpoint"):
        rebuild(tmp_path / "run")


def changed(finished: tuple[Path, dict], tmp_path: Path, change) -> Path:
    """A folder with the finished run's config, changed, and its checkpoints."""
    run = tmp_path / "changed"
    run.mkdir()
    config = yaml.safe_load((finished[0] / "run" / "config.yaml").read_text())
    change(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "checkpoints").symlink_to(finished[0] / "run" / "checkpoints")
    return run


def test_a_missing_or_other_teacher_is_named_with_the_fix(finished, tmp_path):
    other = Cruse(channels=[4, 8, 8, 12])  # of the same shape
    path = save_model(other, tmp_path / "other.ckpt")
    run = changed(finished, tmp_path, lambda c: c["model"]["init_args"].update(teacher_checkpoint=str(path)))
    with pytest.raises(ValueError, match="not the one this run was trained under"):
        rebuild(run)
    assert isinstance(rebuild(run, teacher_checkpoint=finished[0] / "teacher.ckpt").teacher, Cruse)
    path.unlink()
    with pytest.raises(ValueError, match=r"changed/config\.yaml: its teacher .*other\.ckpt is not there; run in the"):
        rebuild(run)


@pytest.mark.parametrize("place", ["module", "student"])
def test_classes_that_kdse_does_not_ship_need_trust(place, finished, tmp_path):
    def change(config: dict) -> None:
        if place == "module":
            config["model"]["class_path"] = "evil.Distiller"
        else:
            config["model"]["init_args"].update(student={"class_path": "evil.Net"}, compression=None)

    with pytest.raises(ValueError, match="evil.*which kdse does not ship; --trust-code"):
        rebuild(changed(finished, tmp_path, change))


def test_a_run_of_unknown_seed_or_without_config_cannot_be_rebuilt(finished, tmp_path):
    with pytest.raises(ValueError, match="seed_everything is True"):
        rebuild(changed(finished, tmp_path, lambda c: c.update(seed_everything=True)))
    with pytest.raises(ValueError, match=r"config\.yaml: missing"):
        rebuild(tmp_path)


def test_a_student_with_other_taps_of_the_config_is_compared_on_those(finished, tmp_path):
    taps = {"first": {"path": "encoder.0"}, "mid": {"path": "bottleneck"}}
    run = changed(finished, tmp_path, lambda c: c["model"]["init_args"].update(student_taps=taps))
    assert similarity_of_run(run, [noise()])["after"].student == ("first", "mid")
