"""Files that are nearly right: audio, configs, checkpoints, ONNX files and runs, each with a random fault."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

from kdse.pretrained import find

#: Values that are wrong almost anywhere.
EXTREMES: tuple[Any, ...] = (
    None, True, "", "x", "../x", -1, 0, 10**12, 1e-300, float("nan"), float("inf"), [], {}, [1, "x"],
    {"class_path": "x"}, "os.system", {"class_path": "kdse.models.Cruse"}, "\x1b[31m", "ä" * 300,
)  # fmt: skip
CONFIG: dict[str, Any] = {
    "model": {
        "class_path": "kdse.Enhancer",
        "init_args": {
            "model": {"class_path": "kdse.models.Cruse", "init_args": {"channels": [4, 4, 4, 4], "gru_groups": 1}},
            "loss": {"class_path": "kdse.losses.PhaseSensitive", "init_args": {"n_fft": 512}},
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.001}},
            "metrics": ["si_sdr"],
        },
    },
    "data": {"class_path": "kdse.data.SyntheticCorpus", "init_args": {"batch_size": 2, "snr_db": [-5, 5]}},
    "trainer": {
        "max_steps": 1, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False,
        "callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 3}}],
    },
    "run_dir": "out",
    "seed_everything": 0,
}  # fmt: skip


def spoilt(content: bytes, rng: random.Random, head: int = 64) -> bytes:
    """Bytes with a fault: cut, emptied, lengthened, or with a few changed, mostly near the beginning."""
    kind = rng.choice(("cut", "head", "head", "head", "field", "anywhere", "longer", "empty"))
    data = bytearray(content)
    if kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "empty":
        data.clear()
    elif kind == "longer":
        data += rng.randbytes(rng.choice((1, 7, 1000)))
    elif kind == "field":
        start = rng.randrange(max(1, min(head, len(data)) - 4))
        data[start : start + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\1\0\0\0"))
    else:
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(min(head, len(data)) if kind == "head" else len(data))] = rng.randrange(256)
    return bytes(data)


def audio(folder: Path, rng: random.Random) -> list[str]:
    """A folder of one sound and one spoilt recording, and a command that reads it."""
    suffix, settings = rng.choice(
        (("wav", {"subtype": "PCM_16"}), ("wav", {"subtype": "FLOAT"}), ("wav", {"format": "RF64"}), ("flac", {}),
         ("ogg", {}), ("mp3", {}), ("aiff", {}), ("w64", {}))
    )  # fmt: skip
    rate = rng.choice((8000, 16000, 44100))
    wave = 0.1 * np.random.default_rng(rng.randrange(2**32)).standard_normal((rate // 4, rng.choice((1, 2))))
    (folder / "in").mkdir()
    soundfile.write(folder / "in" / "sound.wav", wave, rate)
    file = folder / "in" / f"spoilt.{suffix}"
    soundfile.write(file, wave, rate, **settings)
    file.write_bytes(spoilt(file.read_bytes(), rng))
    return rng.choice(
        (
            ["enhance", str(file), "--out", "out"],
            ["enhance", "in", "--out", "out"],
            ["corpus", "index", "in", "--check", "decode", "--out", "out/m.csv"],
            [
                "evaluate",
                "cruse-30k",
                "--paired",
                "in",
                "in",
                "--metrics",
                "si_sdr",
                "--workers=0",
                "--no-cost",
                "--out=out",
            ],
        )
    )


def config(folder: Path, rng: random.Random) -> list[str]:
    """A config with a fault in its text, its keys or its values, and the fit that reads it."""
    content = yaml.safe_load(yaml.safe_dump(CONFIG))
    if rng.random() < 0.7:
        _change(content, rng)
    text = yaml.safe_dump(content, allow_unicode=True)
    if rng.random() < 0.4:
        at, odd = (
            rng.randrange(len(text)),
            (":", "{", "]", "- ", "'", '"', "#", "&a ", "*a ", "!", "\t", "\n", "\0", ""),
        )
        text = text[:at] + rng.choice(odd) + text[at + rng.choice((0, 1, 5)) :]
    (folder / "in").mkdir()
    (folder / "in" / "c.yaml").write_text(text, encoding="utf-8")
    return [rng.choice(("fit", "fit", "fit", "test")), "--config", "in/c.yaml"]


def _change(content: Any, rng: random.Random) -> None:
    """Changes one value or key, anywhere."""
    places = list(_places(content))
    holder, key = rng.choice(places)
    kind = rng.choice(("value", "value", "value", "typo", "gone"))
    if kind == "value" or isinstance(holder, list):
        holder[key] = rng.choice(EXTREMES)
    elif kind == "gone":
        del holder[key]
    else:
        holder[key[:1] + key[2:]] = holder.pop(key)


def _places(content: Any) -> Any:
    for key in list(content) if isinstance(content, dict) else range(len(content)):
        yield content, key
        if isinstance(content[key], (dict, list)):
            yield from _places(content[key])


def checkpoint(folder: Path, rng: random.Random) -> list[str]:
    """A checkpoint with changed bytes, or with a changed entry, and a command that reads it."""
    (folder / "in").mkdir()
    soundfile.write(folder / "in" / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(4000), 16000)
    file = folder / "in" / "model.ckpt"
    if rng.random() < 0.4:
        file.write_bytes(spoilt(find("cruse-30k").read_bytes(), rng, head=2000))
    else:
        content = torch.load(find("cruse-30k"), weights_only=True)
        tensors = content["state_dict"]
        name = rng.choice(list(tensors))
        odd = (
            torch.zeros(1), tensors[name].double() * float("nan"), tensors[name].to(torch.int8), tensors[name][..., :0],
            tensors[name].to_sparse(), tensors[name].to("meta"), None, 3, "x", torch.zeros(1).expand(10**9),
        )  # fmt: skip
        if rng.random() < 0.6:
            tensors[name] = rng.choice(odd)
        else:
            _change(content["kdse"], rng)
        torch.save(content, file)
    return rng.choice(
        (
            ["taps", str(file)],
            ["profile", str(file)],
            ["enhance", "in/a.wav", "--checkpoint", str(file), "--out", "out"],
            ["fit", "--model=kdse.Distiller", f"--model.teacher_checkpoint={file}", "--model.compression=2",
             "--data=kdse.data.SyntheticCorpus", "--run_dir=out"],
            ["export", str(file), "--format", "torchscript", "--out", "out/x.pt"],
        )
    )  # fmt: skip


def onnx(folder: Path, rng: random.Random) -> list[str]:
    """An ONNX file with changed bytes, or other metadata, and a command that runs it."""
    import onnx as package

    (folder / "in").mkdir()
    soundfile.write(folder / "in" / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(4000), 16000)
    file, content = folder / "in" / "model.onnx", find("cruse-30k").with_suffix(".onnx").read_bytes()
    if rng.random() < 0.5:
        file.write_bytes(spoilt(content, rng, head=4000))
    else:
        proto = package.load_from_string(content)
        if rng.random() < 0.6 and len(proto.metadata_props):
            entry = rng.choice(list(proto.metadata_props))
            entry.value = rng.choice(
                ("", "x", "-1", "0", "1000000000000", "[]", "{}", "null", spoilt_text(entry.value, rng))
            )
        else:
            shape = rng.choice([*proto.graph.input, *proto.graph.output]).type.tensor_type.shape
            if len(shape.dim):
                rng.choice(list(shape.dim)).dim_value = rng.choice((0, 1, 3, 10**9, 2**40))
        file.write_bytes(proto.SerializeToString())
    return rng.choice(
        (
            ["enhance", "in/a.wav", "--checkpoint", str(file), "--out", "out"],
            ["profile", str(file)],
            ["taps", str(file)],
        )
    )


def spoilt_text(text: str, rng: random.Random) -> str:
    """A text with one character changed."""
    at = rng.randrange(max(1, len(text)))
    return text[:at] + chr(rng.randrange(32, 127)) + text[at + 1 :]


def run(folder: Path, rng: random.Random, finished: Path) -> list[str]:
    """A copy of a finished run with one spoilt file, and a command that reads runs."""
    shutil.copytree(finished, folder / "in")
    files = sorted(path for path in (folder / "in").rglob("*") if path.is_file() and "tensorboard" not in str(path))
    text = [path for path in files if path.suffix in (".yaml", ".json", ".csv", ".jsonl")]
    file = rng.choice(text if rng.random() < 0.8 else files)
    if file.suffix == ".yaml" and rng.random() < 0.5:
        content = yaml.safe_load(file.read_text())
        _change(content, rng)
        file.write_text(yaml.safe_dump(content))
    else:
        file.write_bytes(spoilt(file.read_bytes(), rng, head=400))
    (folder / "pair").mkdir()
    soundfile.write(folder / "pair" / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    scoring = ["--paired", "pair", "pair", "--metrics", "si_sdr", "--workers=0", "--no-cost"]
    report = ["report", "in", "--out", "out", "--listen=0", "--similarity-items=1", *scoring]
    return rng.choice((report, ["taps", "in"], ["evaluate", "in", "--out", "out", *scoring]))
