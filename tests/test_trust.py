"""Files that somebody else may have written run no code without --trust-code, and fill no memory."""

from __future__ import annotations

import importlib
import inspect
import resource
import shutil
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

import kdse.data
import kdse.models
from kdse.cli import main
from kdse.errors import UserError
from kdse.evaluation.options import held_out_of
from kdse.machine.yaml_file import LARGEST_BYTES
from kdse.models import SpeechModel
from kdse.models.checkpoint import describe, load_model, read_checkpoint
from kdse.pretrained import find
from kdse.report.rebuilt_run import NOT_NEEDED, rebuild
from kdse.run.folder import read_config
from kdse.trust import HARMLESS, NETWORKS, harmless
from tests.toys import make_student

CANARY = """
from pathlib import Path
import lightning
from kdse.models import Cruse
Path({sung!r}).touch()
class Evil(Cruse): pass
class Data(lightning.LightningDataModule): pass
"""
#: What kdse ships and does not mark as harmless: each opens a file, or imports code, that its arguments name.
LOADERS = {"Aligned", "Asteroid", "DeepFilterNet", "DeepFilterNetNative", "Denoiser", "Onnx", "OnnxSpectral",
           "OnnxStream", "OnnxStudent", "RnNoise", "SpeechBrain", "Teachers", "TorchScript", "Wrapped"}  # fmt: skip
NET = {"class_path": "kdse.models.Cruse", "init_args": {"channels": [2, 4, 4, 4]}}
EVIL = {"class_path": "canary.Evil", "init_args": {"channels": [2, 4, 4, 4]}}


@pytest.fixture
def sung(tmp_path, monkeypatch) -> Path:
    """The file that exists once the module ``canary`` has run; its class is found as any other."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "canary.py").write_text(CANARY.format(sung=str(tmp_path / "sung")))
    (tmp_path / "evil.yaml").write_text(yaml.safe_dump(EVIL))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "canary", raising=False)
    yield tmp_path / "sung"
    sys.modules.pop("canary", None)


def run_of(folder: Path, model: object, **others: object) -> Path:
    """A run folder whose config says this, with a checkpoint in the box for its own."""
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump({"seed_everything": 1, "model": model, **others}))
    shutil.copy(find("cruse-30k"), folder / "run" / "checkpoints" / "last.ckpt")
    return folder / "run"


def named(model: str, /, **arguments: object) -> dict:
    return {"class_path": f"kdse.models.{model}", "init_args": arguments}


def enhancer(**arguments: object) -> dict:
    return {"class_path": "kdse.Enhancer", "init_args": {"model": NET, **arguments}}


def distiller(**arguments: object) -> dict:
    return {"class_path": "kdse.Distiller", "init_args": {"teacher_checkpoint": "cruse-30k", **arguments}}


#: Every form in which the parser of configs takes a class.
FORMS = {
    "another module": {"class_path": "canary.Evil"},
    "a mapping": enhancer(model=EVIL),
    "a class path as text": enhancer(model="canary.Evil"),
    "a YAML file": enhancer(model="evil.yaml"),
    "a dotted key": {"class_path": "kdse.Enhancer", "init_args": {"model.class_path": "canary.Evil"}},
    "a dotted key above": {"class_path": "kdse.Enhancer", "init_args.model.class_path": "canary.Evil"},
    "a student": distiller(student=EVIL),
    "a teacher": distiller(teacher=EVIL, student=NET),
    "within a tap": distiller(student=NET, student_taps={"a": {"class_path": "canary.Evil"}}),
    "a dotted key in a tap": distiller(student=NET, student_taps={"a.class_path": "canary.Evil"}),
    "in a list of taps": distiller(student=NET, student_taps={"a": [{"class_path": "canary.Evil"}]}),
    "more arguments": {**distiller(student=NET), "dict_kwargs": {"x": {"class_path": "canary.Evil"}}},
    "a loader of kdse's": enhancer(model=named("Wrapped", class_path="canary.Evil")),
    "an inner model": enhancer(model=named("Aligned", model=EVIL)),
    "a TorchScript file": enhancer(model=named("TorchScript", path="x.pt")),
    "a default config": enhancer(__default_config__="evil.yaml"),
    "a path": enhancer(__path__="evil.yaml"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_class_in_a_runs_config_runs_code_that_nobody_allowed(form, sung, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_of(tmp_path, FORMS[form])
    with pytest.raises(UserError, match="--trust-code") as refused:
        rebuild(run, None if "teacher" in form else find("cruse-30k"))
    text = str(refused.value)
    assert not sung.exists() and "\n" not in text
    assert "config.yaml" in text and any(
        name in text for name in ("canary", "kdse.models.", "evil.yaml", "dict_kwargs")
    )


@pytest.mark.parametrize("form", ["a mapping", "a class path as text", "a YAML file", "a dotted key", "a student"])
def test_with_trust_every_form_of_a_class_is_taken(form, sung, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rebuilt = rebuild(run_of(tmp_path, FORMS[form]), find("cruse-30k"), trust_code=True)
    assert sung.exists() and type(rebuilt.student).__name__ == "Evil"


@pytest.mark.parametrize(
    "data",
    [
        {"class_path": "canary.Data"},
        {"class_path": "kdse.data.Mixtures", "init_args": {"root": {"class_path": "canary.Data"}}},
        {"class_path": "kdse.data.Mixtures", "init_args.root.class_path": "canary.Data"},
        {"class_path": "lightning.LightningDataModule"},
    ],
)
@pytest.mark.parametrize("under", [True, False])
def test_the_data_of_a_config_runs_no_code_that_nobody_allowed(data, under, sung, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": data} if under else data))
    with pytest.raises(UserError, match=r"--data-config .*config\.yaml.*--trust-code"):
        held_out_of({"data_config": str(tmp_path / "config.yaml")})  # (as summary.json has it)
    assert not sung.exists()


@pytest.mark.parametrize(
    "command",
    ["taps RUN", "profile RUN", "export RUN --out x.onnx", "enhance a.wav --checkpoint RUN --out b.wav",
     "evaluate RUN --paired noisy clean --out scores --workers 0", "benchmark RUN --no-rnnoise",
     "report RUN --paired noisy clean --workers 0"],
)  # fmt: skip
def test_no_command_runs_a_class_that_a_checkpoint_names(command, sung, tmp_path, monkeypatch, capfd):
    import soundfile

    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "noisy/a.wav", "clean/a.wav"):
        Path(name).parent.mkdir(exist_ok=True)
        soundfile.write(name, torch.randn(16000).mul(0.1).numpy(), 16000)
    model = make_student()
    about = {**describe(model), "model": EVIL}
    run = run_of(tmp_path, enhancer())
    torch.save({"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "kdse": about},
               run / "checkpoints" / "last.ckpt")  # fmt: skip
    words = command.replace("RUN", str(run)).split()
    assert main(words) == 2
    said = capfd.readouterr().err
    assert not sung.exists() and "--trust-code" in said and "canary.Evil" in said and "Traceback" not in said


def test_every_class_that_kdse_ships_is_marked_or_named_here_as_one_that_opens_files():
    shipped = {f"kdse.models.{name}" for name in kdse.models.__all__ if _is_network(getattr(kdse.models, name))}
    assert shipped - set(HARMLESS) == {f"kdse.models.{name}" for name in LOADERS}
    assert {f"kdse.data.{name}" for name in kdse.data.__all__} <= set(HARMLESS)


def _is_network(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, SpeechModel) and value is not SpeechModel


@pytest.mark.parametrize("class_path", HARMLESS)
def test_only_the_named_arguments_of_harmless_classes_are_classes(class_path):
    """A class path as text, or a file of it, is taken wherever the type of an argument is a class or a function."""
    package, _, name = class_path.rpartition(".")
    cls = getattr(importlib.import_module(package), name)
    assert harmless(class_path) == harmless(f"{cls.__module__}.{name}") == class_path
    for part in cls.__mro__[: cls.__mro__.index(torch.nn.Module) if issubclass(cls, torch.nn.Module) else 3]:
        if not part.__module__.startswith("kdse."):
            continue
        own = part.__dict__.get("__init__", object.__init__)
        for argument in list(inspect.signature(own).parameters.values())[1:]:
            if argument.kind is argument.POSITIONAL_OR_KEYWORD and argument.name not in (*NETWORKS, *NOT_NEEDED):
                words = set("".join(c if c.isalnum() else " " for c in str(argument.annotation)).split())
                assert words <= {"int", "float", "str", "bool", "list", "dict", "None", "Any"}, argument


def test_a_users_class_keeps_its_path_and_is_not_taken_for_one_of_ours():
    for class_path in ("mine.Cruse", "kdse_models.Cruse", "kdse.Cruse", "kdse.data.Cruse", "kdse.models", "", "Cruse"):
        assert harmless(class_path) is None


# --- size ---


@contextmanager
def little_memory():
    """Two GB besides what this process has: what asks for more fails, and not the machine."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def checkpoint(path: Path, weights: dict | None = None, **init_args: object) -> Path:
    model = make_student()
    about = describe(model)
    about["model"]["init_args"].update(init_args)
    state = {f"model.{name}": value for name, value in model.state_dict().items()} | (weights or {})
    torch.save({"state_dict": state, "kdse": about}, path)
    return path


def repacked(path: Path, compression: int, extra: dict[str, bytes]) -> Path:
    """A checkpoint whose entries are compressed, with further ones."""
    with zipfile.ZipFile(path) as source:
        entries = {entry.filename: source.read(entry) for entry in source.infolist()}
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, content in {**entries, **extra}.items():
            target.writestr(name, content)
    return path


def test_a_checkpoint_that_inflates_is_refused_before_it_does(tmp_path):
    path = repacked(checkpoint(tmp_path / "a.ckpt"), zipfile.ZIP_DEFLATED, {"a/data/99": bytes(2**26)})
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match=r"a\.ckpt: is compressed"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("init_args", "said"),
    [
        ({"channels": [10**6] * 4}, "asks for more than"),
        ({"channels": [2**20, 2, 2, 2]}, "of another architecture|asks for more than"),
        ({"channels": [2] * 10**5}, "too many tensors|another architecture|cannot be built"),
        ({"channels": [10**12, 2, 2, 2]}, r"init_args\.channels\.0: 1000000000000 is beyond"),
        ({"mel_bands": 10**12}, "mel_bands: 1000000000000 is beyond"),
        ({"gru_groups": 0}, "cannot be built"),
        ({"mel_bands": None}, "cannot be built"),
    ],
)
def test_widths_without_end_in_a_checkpoint_are_one_line(init_args, said, tmp_path):
    path = checkpoint(tmp_path / "wide.ckpt", **init_args)
    with little_memory(), pytest.raises(UserError, match=said) as refused:
        load_model(path)
    assert "wide.ckpt" in str(refused.value) and "\n" not in str(refused.value)


def test_widths_without_end_in_a_config_are_one_line(tmp_path):
    for number, channels in enumerate(([10**6] * 4, "[100000000, 2, 2, 2]")):
        run = run_of(tmp_path / str(number), enhancer(model=named("Cruse", channels=channels)))
        with (
            little_memory(),
            pytest.raises(UserError, match=r"config\.yaml: model.*(more than|beyond|cannot be built)"),
        ):
            rebuild(run, find("cruse-30k"))


def test_a_config_starts_no_thousands_of_processes(tmp_path):
    data = {"class_path": "kdse.data.SyntheticCorpus", "init_args": {"build_workers": 10**5}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=r"config\.yaml: data: .*build_workers: 100000 is beyond 256"):
        held_out_of({"data_config": str(tmp_path / "config.yaml")})


@pytest.mark.parametrize(
    "wrong",
    [{"seconds": 1e9}, {"seconds": "x"}, {"items": 10**12}, {"snr_db": "x"}, {"paired": ["a"]}, {"range": [1]},
     {"corpus": 3}, {"sample_rate_hz": 10**9}, {"synthetic": {}}, {"seed": []}],
)  # fmt: skip
def test_items_in_the_scores_of_others_are_refused_by_name(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}: .* is not what this option takes"):
        held_out_of({"synthetic": True, **wrong})


def _weight(kind: str) -> object:
    one = torch.ones(2, 1, 2, 3)
    quantized = {"scale": 0.1, "zero_point": 0, "dtype": torch.qint8}
    makers = {
        "int8": one.to(torch.int8), "complex64": one.to(torch.complex64), "bool": one.bool(), "NoneType": None,
        "int": 3, "list": [1.0], "sparse": one.to_sparse(), "meta": one.to("meta"),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "qtensor": torch.quantize_per_tensor(one, **quantized), "bytearray": bytearray(3),
    }  # fmt: skip
    return makers[kind]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind",
    ["int8", "complex64", "bool", "NoneType", "int", "list", "sparse", "meta", "nested", "qtensor", "bytearray"],
)
def test_weights_of_another_kind_are_refused_by_name_and_not_cast(kind, tmp_path):
    key = next(f"model.{name}" for name in make_student().state_dict())
    path = checkpoint(tmp_path / "other.ckpt", {key: _weight(kind)})
    with pytest.raises(UserError, match=rf"other\.ckpt: holds .*{kind}"):
        load_model(path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_converted_and_that_is_said(kind, tmp_path, caplog):
    weights = {f"model.{name}": value.to(kind) for name, value in make_student().state_dict().items()}
    loaded = load_model(checkpoint(tmp_path / "half.ckpt", weights))
    assert str(kind) in caplog.text and "read as float32" in caplog.text
    assert all(torch.equal(v, weights[f"model.{k}"].float()) for k, v in loaded.state_dict().items())


def anchors(first: str, form: str) -> str:
    """Ten anchors, each of which uses the one before ten times."""
    pairs = zip("abcdefghi", "bcdefghij", strict=True)
    return f"a: &a {first}\n" + "".join(form.format(b=b, uses=",".join([f"*{a}"] * 10)) for a, b in pairs)


BOMBS = {
    "anchors": anchors("[x]", "{b}: &{b} [{uses}]\n"),
    "merges": anchors("{x: 1}", "{b}: &{b}\n  <<: [{uses}]\n"),
    "within itself": "a: &a [*a]",
    "deep": "[" * 10**5,
    "a long number": f"a: {'9' * 10**4}",
    "no date": "a: 2024-13-45",
    "large": "#" * (LARGEST_BYTES + 1),
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_a_config_that_fills_the_memory_is_one_line(text, tmp_path):
    (tmp_path / "bomb.yaml").write_text(text)
    with little_memory(), pytest.raises(UserError, match=r"bomb\.yaml: ") as refused:
        read_config(tmp_path / "bomb.yaml")
    assert "\n" not in str(refused.value)
