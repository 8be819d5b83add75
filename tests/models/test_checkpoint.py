"""Checkpoints describe themselves, cannot run code, and are never left half written."""

from __future__ import annotations

import errno
import importlib
import pickle

import pytest
import torch

import kdse.models
from kdse.models import Cruse, SpeechModel
from kdse.models.checkpoint import class_path_of, describe, load_model, read_checkpoint
from kdse.models.exported import ExportedStudent
from kdse.training.checkpoint_files import SafeCheckpointIO
from tests.toys import STUDENT_CHANNELS, make_student


@pytest.fixture
def student_checkpoint(tmp_path):
    model = make_student()
    content = {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": describe(model)}
    torch.save(content, tmp_path / "student.ckpt")
    return tmp_path / "student.ckpt", model, content


def test_a_student_is_rebuilt_from_its_checkpoint_alone(student_checkpoint):
    path, model, _ = student_checkpoint
    loaded = load_model(path)
    assert type(loaded) is Cruse and loaded.init_args["channels"] == STUDENT_CHANNELS and not loaded.training
    noisy = torch.randn(1, 3000)
    assert torch.equal(loaded(noisy).waveform, model.eval()(noisy).waveform)


def test_a_checkpoint_names_a_shipped_model_by_its_public_path_and_another_by_its_module():
    shipped = [cls for cls in vars(kdse.models).values() if isinstance(cls, type) and issubclass(cls, SpeechModel)]
    assert len(shipped) > 10
    for cls in shipped:
        assert class_path_of(cls) == f"kdse.models.{cls.__name__}"
        assert getattr(importlib.import_module("kdse.models"), cls.__name__) is cls
    own = type("Own", (SpeechModel,), {})
    assert class_path_of(own) == f"{__name__}.Own"
    assert class_path_of(ExportedStudent) == "kdse.models.exported.ExportedStudent"  # (no package exports it)


#: What kdse 0.1 stored: the module that held the class then. "gone" is one that has moved since.
@pytest.mark.parametrize("class_path", ["kdse.models.Cruse", "kdse.models.cruse.Cruse", "kdse.models.gone.Cruse"])
def test_a_checkpoint_with_the_public_path_or_a_path_of_an_earlier_version_loads(
    student_checkpoint, tmp_path, class_path
):
    _, model, content = student_checkpoint
    content["kdse"]["model"]["class_path"] = class_path
    torch.save(content, tmp_path / "old.ckpt")
    loaded, noisy = load_model(tmp_path / "old.ckpt"), torch.randn(1, 3000)
    assert type(loaded) is Cruse and torch.equal(loaded(noisy).waveform, model.eval()(noisy).waveform)


def test_a_mapping_where_a_number_is_meant_is_refused_by_name(tmp_path):
    model = make_student()
    about = describe(model)
    about["model"]["init_args"]["slope"] = {"a": 1}
    torch.save(
        {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": about}, tmp_path / "a.ckpt"
    )
    with pytest.raises(ValueError, match=r"a\.ckpt.*slope: is a dict where one value is meant"):
        load_model(tmp_path / "a.ckpt")


def test_a_pickled_object_is_refused_before_it_can_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"state_dict": {}, "bomb": Bomb()}, tmp_path / "bomb.ckpt")
    with open(tmp_path / "legacy.ckpt", "wb") as file:
        pickle.dump({"state_dict": {}, "bomb": Bomb()}, file)
    for name in ("bomb.ckpt", "legacy.ckpt"):
        with pytest.raises(ValueError, match=name):
            load_model(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "class_path",
    ["os.system", "tests.toys.ToyData", "kdse.commands.enhance.main", "kdse.models.base.importlib.import_module",
     "kdse.models.Wrapped", "kdse.models.wrapped.Wrapped", "kdse.models.gone.Wrapped", "kdse.models.gone.compress",
     "kdse.models.gone.Gone", "kdse.models.SpeechModel.__init__", "kdse.models..os.system", ""],
)  # fmt: skip
def test_a_class_path_in_a_checkpoint_reaches_only_models_that_kdse_ships(student_checkpoint, tmp_path, class_path):
    _, _, content = student_checkpoint
    content["kdse"]["model"]["class_path"] = class_path
    torch.save(content, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil\.ckpt"):
        load_model(tmp_path / "evil.ckpt")


@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "text", "missing", "folder", "list"])
def test_a_damaged_checkpoint_is_one_line_that_names_the_file(student_checkpoint, tmp_path, damage):
    path, _, _ = student_checkpoint
    bad = tmp_path / "bad.ckpt"
    if damage == "empty":
        bad.write_bytes(b"")
    elif damage == "half":
        bad.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "garbage":
        bad.write_bytes(bytes(range(256)) * 50)
    elif damage == "text":
        bad.write_text("trainer: {}\n")
    elif damage == "folder":
        bad.mkdir()
    elif damage == "list":
        torch.save([1, 2], bad)
    with pytest.raises(ValueError, match=r"bad\.ckpt") as caught:
        read_checkpoint(bad)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_architecture_names_what_does_not_fit(student_checkpoint, tmp_path):
    _, _, content = student_checkpoint
    content["kdse"]["model"]["init_args"]["channels"] = [4, 4, 4, 8]
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt.*another architecture than Cruse.*shapes"):
        load_model(tmp_path / "other.ckpt")


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    io = SafeCheckpointIO()
    target = tmp_path / "last.ckpt"
    io.save_checkpoint({"state_dict": {"a": torch.ones(3)}}, target)
    before = target.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kdse.models.checkpoint.os.fsync", full)
    with pytest.raises(ValueError, match=r"last\.ckpt.*No space left") as caught:
        io.save_checkpoint({"state_dict": {"a": torch.zeros(3)}}, target)
    assert "\n" not in str(caught.value)
    assert target.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt"]
