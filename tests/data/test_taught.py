"""Any system that writes files can teach: its files are cropped where the noisy ones are."""

import numpy as np
import pytest
import torch

from kdse.audio.files import read
from kdse.data import NoisyFolder, PairedFolders
from kdse.data.taught import Recording, Taught, align_taught, find_taught
from tests.data.small_corpus import hiss, put, tone_and_pauses

RATE = 16000
SECONDS = (0.15, 0.4, 0.5, 0.6, 0.7, 0.45)


@pytest.fixture
def folder(tmp_path):
    """Six recordings in subfolders, and a teacher that halves whatever it hears: taught = noisy / 2."""
    for i, seconds in enumerate(SECONDS):
        noisy = (tone_and_pauses(seconds, seed=i) + hiss(seconds, seed=i)).astype(np.float32)
        name = f"{'ab'[i % 2]}/{i}.wav"
        put(tmp_path / "noisy" / name, noisy, subtype="FLOAT")
        put(tmp_path / "clean" / name, 0.1 * noisy, subtype="FLOAT")
        put(tmp_path / "taught" / name, 0.5 * noisy, subtype="FLOAT")
    return tmp_path


def make(kind, folder, **settings):
    common = {"segment_seconds": 0.3, "batch_size": 2, "steps_per_epoch": 6, "seed": 3}
    common |= {"teacher_folder": str(folder / "taught"), "teacher_delay_samples": 0, "teacher_gain": 1.0}
    if kind is NoisyFolder:
        return NoisyFolder(str(folder / "noisy"), **{**common, **settings})
    train = {"train_noisy": str(folder / "noisy"), "train_clean": str(folder / "clean")}
    return PairedFolders(**train, **{**common, **settings})


KINDS = pytest.mark.parametrize("kind", [NoisyFolder, PairedFolders])


@KINDS
def test_what_was_taught_is_cropped_at_the_same_samples_as_the_noisy_file(folder, kind):
    lengths = set()
    for batch in make(kind, folder).train_dataloader():
        assert batch["taught"].shape == batch["noisy"].shape == (2, 4800)
        assert torch.equal(batch["taught"], 0.5 * batch["noisy"])  # short files are repeated alike
        lengths |= {name.rsplit("/", 1)[1] for name in batch["name"]}
    assert len(lengths) >= 5  # short and long files


@KINDS
def test_without_a_teacher_folder_nothing_is_taught(folder, kind):
    batch = next(iter(make(kind, folder, teacher_folder=None).train_dataloader()))
    assert "taught" not in batch


def test_what_was_taught_does_not_depend_on_labels(folder):
    batches = list(make(PairedFolders, folder, labelled_share=0.0).train_dataloader())
    assert all(torch.equal(b["taught"], 0.5 * b["noisy"]) and not b["clean"].any() for b in batches)


def test_held_out_pairs_carry_what_was_taught_if_the_folder_has_them_all(folder):
    module = make(PairedFolders, folder, batch_size=6, valid_share=0.4)
    held_out = [pair.name for pair in module.pairs("valid")]
    assert len(held_out) == 2
    (batch,) = list(module.val_dataloader())
    assert torch.equal(batch["taught"], 0.5 * batch["noisy"])
    (folder / "taught" / f"{held_out[0]}.wav").unlink()
    (batch,) = list(make(PairedFolders, folder, batch_size=6, valid_share=0.4).val_dataloader())
    assert "taught" not in batch and batch["name"] == held_out


@pytest.mark.parametrize("extra", [-0.09, -0.001, 0.001, 0.09])
def test_up_to_a_tenth_of_a_second_at_the_end_is_cut_or_filled_with_zeros(folder, extra):
    path = folder / "taught" / "b" / "1.wav"
    whole = read(folder / "noisy" / "b" / "1.wav", RATE) / 2
    count = len(whole) + round(extra * RATE)
    put(path, torch.nn.functional.pad(whole, (0, count - len(whole)), value=0.25).numpy(), subtype="FLOAT")
    files = find_taught(folder / "taught", [Recording("b/1", len(whole))], RATE)
    assert files == [str(path)]
    got = Taught(files).read(0, RATE, 0, len(whole))
    kept = min(count, len(whole))
    assert len(got) == len(whole)
    assert torch.equal(got[:kept], whole[:kept]) and not got[kept:].any()
    assert torch.equal(Taught(files).read(0, RATE, 5000, len(whole)), got[5000:])


@KINDS
def test_a_shorter_file_keeps_its_crops_in_place_to_the_last_sample(folder, kind):
    for path in (folder / "taught").rglob("*.wav"):
        put(path, read(path, RATE)[:-1000].numpy(), subtype="FLOAT")
    silent = 0
    for batch in make(kind, folder, steps_per_epoch=20, batch_size=4).train_dataloader():
        same = batch["taught"] == 0.5 * batch["noisy"]
        silent += int((batch["taught"] == 0).sum())
        assert (same | (batch["taught"] == 0)).all()
    assert silent > 0


@pytest.mark.parametrize("seconds", [0.2, 0.6])
def test_a_file_of_another_length_is_refused_by_name(folder, seconds):
    put(folder / "taught" / "b" / "1.wav", hiss(seconds))
    with pytest.raises(ValueError, match=rf"--data\.teacher_folder .*b.1\.wav: lasts {seconds:.3f} s and .* 0\.400 s"):
        make(NoisyFolder, folder).train_dataloader()


@KINDS
def test_missing_files_are_named(folder, kind):
    module = make(kind, folder)
    name = module.pairs("train")[0].name if kind is PairedFolders else "b/1"
    (folder / "taught" / f"{name}.wav").rename(folder / "taught" / "x.wav")
    with pytest.raises(ValueError, match=rf"--data\.teacher_folder .*taught: has no file for {name}; enhance"):
        module.train_dataloader()
    for path in (folder / "taught").rglob("*.wav"):
        path.unlink()
    with pytest.raises(ValueError, match=r"--data\.teacher_folder .*taught: holds no audio"):
        module.train_dataloader()


def test_a_lower_rate_is_refused_and_a_higher_one_resampled(folder):
    wave = tone_and_pauses(0.4, 48000)
    path = put(folder / "taught" / "b" / "1.wav", wave, 48000, subtype="FLOAT")
    assert find_taught(folder / "taught", [Recording("b/1", 6400)], RATE) == [str(path)]
    torch.testing.assert_close(
        Taught([str(path)]).read(0, RATE, 1000, 6400), read(path, RATE)[1000:], atol=1e-6, rtol=0
    )
    put(path, hiss(0.4, 8000), 8000)
    with pytest.raises(ValueError, match=r"b.1\.wav: is at 8000 Hz, below the 16000 Hz of --data\.sample_rate_hz"):
        make(NoisyFolder, folder).train_dataloader()


def test_the_format_may_differ_and_two_files_of_one_name_are_refused(folder):
    wave = read(folder / "taught" / "b" / "1.wav", RATE).numpy()
    (folder / "taught" / "b" / "1.wav").unlink()
    put(folder / "taught" / "b" / "1.flac", wave)
    assert find_taught(folder / "taught", [Recording("b/1", 6400)], RATE) == [str(folder / "taught" / "b" / "1.flac")]
    put(folder / "taught" / "b" / "1.wav", wave)
    with pytest.raises(ValueError, match=r"taught: holds 2 files called b/1"):
        find_taught(folder / "taught", [Recording("b/1", 6400)], RATE)


def test_a_gain_of_zero_is_refused(folder):
    with pytest.raises(ValueError, match="--data.teacher_gain 0"):
        make(NoisyFolder, folder, teacher_gain=0.0)


@KINDS
@pytest.mark.parametrize("delay", [-120, 0, 357])
def test_files_that_are_late_and_of_another_level_are_measured_and_put_right(folder, kind, delay, caplog):
    for path in (folder / "taught").rglob("*.wav"):
        noisy = read(folder / "noisy" / path.relative_to(folder / "taught"), RATE)
        late = torch.roll(torch.nn.functional.pad(noisy, (0, abs(delay))), delay)
        put(path, (-0.25 * late).numpy(), subtype="FLOAT")
    module = make(kind, folder, teacher_delay_samples=None, teacher_gain=None)
    with caplog.at_level("INFO"):
        batches = list(module.train_dataloader())
    assert f"{delay} samples late and at -0.25 times" in caplog.text
    for batch in batches:
        known = batch["taught"] != 0  # what lay before the first sample of an early file is gone
        # (an early file lost its beginning, which moves the measured gain by a per cent)
        torch.testing.assert_close(batch["taught"][known], batch["noisy"][known], atol=3e-3, rtol=0.02)
        assert known.float().mean() > 0.9


def test_files_that_do_not_belong_to_the_recordings_are_refused(folder):
    for i, path in enumerate(sorted((folder / "taught").rglob("*.wav"))):
        put(path, hiss(len(read(path, RATE)) / RATE, seed=99 + i), subtype="FLOAT")
    with pytest.raises(ValueError, match=r"--data\.teacher_folder.*little in common.*teacher_delay_samples"):
        make(NoisyFolder, folder, teacher_delay_samples=None).train_dataloader()


def test_what_is_given_is_not_measured(folder):
    files = [str(folder / "taught" / "b" / "1.wav")]
    assert align_taught(files, ["nowhere.wav"], RATE, 12, 2.0) == Taught(files, 12, 2.0)


class Halving(torch.nn.Module):
    """A denoiser whose output is known."""

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        return 0.5 * noisy


def test_files_that_kdse_enhance_wrote_can_teach(folder, monkeypatch):
    """The names and lengths that our own tool writes are those that the folder is searched for."""
    from kdse.cli import main
    from kdse.models import Wrapped

    monkeypatch.setattr("kdse.models.checkpoint.load_model", lambda *_, **__: Wrapped(f"{__name__}.Halving").eval())
    out = folder / "enhanced"
    assert main(["enhance", str(folder / "noisy"), "--checkpoint", "any.ckpt", "--out", str(out)]) == 0
    for batch in make(NoisyFolder, folder, teacher_folder=str(out)).train_dataloader():
        torch.testing.assert_close(batch["taught"], 0.5 * batch["noisy"], atol=1e-4, rtol=0)
