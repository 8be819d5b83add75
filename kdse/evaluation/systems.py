"""Systems that `kdse evaluate` compares: the unprocessed input, models in checkpoints, folders of enhanced audio."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdse.data.affixes import INPUT_WORDS, TARGET_WORDS, Affix, common_affix
from kdse.errors import UserError, some
from kdse.evaluation.costs import THREADS, running_cost, training_cost
from kdse.metrics.table import NOISY
from kdse.pretrained import is_onnx
from kdse.run.folder import run_folder_of

if TYPE_CHECKING:
    from torch import Tensor

    from kdse.evaluation.held_out import Item
    from kdse.models.base import SpeechModel


log = logging.getLogger(__name__)


class System(NamedTuple):
    """Something that enhances."""

    enhance: Callable[[Item], Tensor]  # an item to an estimate ``[N]``; a ValueError counts the item as failed
    about: dict[str, Any]  # what to record of it, as plain data
    identity: str = ""  # digest of all that its estimates depend on besides the item; "" if that is not known before


def unprocessed() -> System:
    """The noisy input itself."""
    return System(lambda item: item.noisy, {"kind": "unprocessed input"}, "noisy")


def model_system(path: Path, sample_rate_hz: int, device: str, trust_code: bool, cost: bool = True) -> System:
    """A checkpoint or an ONNX file as a system, with what it costs unless ``cost`` is off."""
    import torch

    from kdse.models.checkpoint import fingerprint, load_model
    from kdse.models.onnx_student import load_onnx

    onnx = is_onnx(path)  # (one that does not state its sample rate works at that of the test set)
    model = load_onnx(path, sample_rate_hz, THREADS) if onnx else load_model(path, trust_code=trust_code)
    if model.sample_rate_hz != sample_rate_hz:
        raise UserError(
            f"checkpoint {path}: works at {model.sample_rate_hz} Hz and the test set is at {sample_rate_hz} Hz; "
            f"set --sample-rate-hz {model.sample_rate_hz}"
        )
    inside = model.parameter_count  # of an exported student: it holds none itself
    about: dict[str, Any] = {
        "kind": "onnx" if onnx else "checkpoint",
        "path": str(path.absolute()),
        "model": type(model).__name__,
        "parameters": inside or sum(p.numel() for p in model.parameters() if p.requires_grad) or None,
    }
    if cost:
        about["cost"] = _cost(model, path) | ({"parameters": inside} if inside else {})
    about["weights_sha256"] = fingerprint(model)
    made_of = [type(model).__qualname__, model.init_args, about["weights_sha256"], device, _code_of(type(model))]
    identity = hashlib.sha256(json.dumps(made_of, default=str).encode()).hexdigest()[:16]
    model.to(device)

    @torch.no_grad()
    def enhance(item: Item) -> Tensor:
        return model(item.noisy[None].to(device)).waveform[0].float().cpu()

    return System(enhance, about, identity)


def _code_of(cls: type) -> str:
    """Code that runs a model, beyond this version of kdse: a user's source, the runtime of an ONNX file, or none."""
    if cls.__name__.startswith("Onnx"):
        import onnxruntime  # (of whichever distribution)

        return f"onnxruntime {onnxruntime.__version__}"
    if cls.__module__.split(".")[0] == "kdse":
        return ""
    try:
        return inspect.getsource(inspect.getmodule(cls) or cls)
    except (OSError, TypeError):
        return cls.__module__


def _cost(model: SpeechModel, path: Path) -> dict[str, Any]:
    cost = running_cost(model)
    if is_onnx(path):
        data = Path(f"{path}.data")  # where weights beyond 2 GB, or by choice, lie
        cost["model_bytes"] = path.stat().st_size + (data.stat().st_size if data.is_file() else 0)
    run = run_folder_of(path)
    return cost if run is None else {**cost, **training_cost(run)}


def folder_system(folder: Path, sample_rate_hz: int, names: Sequence[str] = ()) -> System:
    """A folder of enhanced files as a system: of the items' relative names, or of their last part if that is unique.

    If it holds none of the ``names`` of the items, theirs may differ from them by a prefix and suffix (see
    `kdse.data.affixes`), which is logged. A missing file fails its item; they are logged too. A file that is up to
    0.02 s longer or shorter is cut, or filled with zeros: many tools drop the last hop.
    """
    if not folder.is_dir():
        raise UserError(f"--enhanced {folder}: no such folder")
    import torch

    from kdse.audio.files import read
    from kdse.audio.listing import audio_files
    from kdse.data.file_pairs import LENGTH_TOLERANCE_SECONDS, LISTED, stem

    by_path: dict[str, list[Path]] = {}
    by_stem: dict[str, list[Path]] = {}
    for file in audio_files(folder):
        by_path.setdefault(stem(file), []).append(folder / file)
        by_stem.setdefault((folder / file).stem, []).append(folder / file)
    if not by_path:
        raise UserError(f"--enhanced {folder}: holds no audio files")
    served: dict[Path, str] = {}
    affix = _affix(folder, names, [*by_path, *by_stem])

    def files_of(name: str) -> list[Path]:
        name = affix.of(name)
        return by_path.get(name) or by_stem.get(name.rsplit("/", 1)[-1]) or []

    if missing := [name for name in names if not files_of(name)]:
        log.warning("--enhanced %s: holds no file for %d of %d items: %s", folder, len(missing), len(names),
                    some(missing, LISTED))  # fmt: skip

    def look_up(item: Item) -> Tensor:
        found = files_of(item.name)
        if len(found) != 1:
            raise UserError(f"{folder} holds {len(found) or 'no'} files for {item.name}")
        if served.setdefault(found[0], item.name) != item.name:
            raise UserError(f"{folder} holds no file for {item.name} ({found[0].name} is that of {served[found[0]]})")
        wave, samples = read(found[0], sample_rate_hz), item.noisy.numel()
        if abs(wave.numel() - samples) > LENGTH_TOLERANCE_SECONDS * sample_rate_hz:
            raise UserError(f"{found[0]} has {wave.numel()} samples and the item {samples}")
        return torch.nn.functional.pad(wave[:samples], (0, max(0, samples - wave.numel())))

    return System(look_up, {"kind": "enhanced folder", "folder": str(folder.absolute()), "files": str(affix)})


def _affix(folder: Path, names: Sequence[str], stems: Sequence[str]) -> Affix:
    """How the files of a folder are called after the items.

    Raises:
        UserError: if none is called after one of ``names``, showing what the folder holds.
    """
    flat = [name.rsplit("/", 1)[-1] for name in names]
    if not names or not {*names, *flat}.isdisjoint(stems):
        return Affix()
    where = f"--enhanced {folder}"
    affix = common_affix(names, stems, where, [*INPUT_WORDS, *TARGET_WORDS])
    affix = affix or common_affix(flat, stems, where, [*INPUT_WORDS, *TARGET_WORDS])
    if affix is None:
        raise UserError(f"{where}: no file is called after the items ({some(names)}); it holds {some(stems)}")
    log.warning("%s: %s", where, affix.told)
    return affix


def enhanced_folders(texts: Sequence[str], taken: Sequence[str] = ()) -> dict[str, Path]:
    """Label to folder from ``label=folder``.

    Raises:
        ValueError: for another form or a label given twice (or ``taken``).
    """
    found: dict[str, Path] = {}
    for text in texts:
        label, _, folder = text.partition("=")
        if not (label and folder):
            raise UserError(f"--enhanced {text}: write it as LABEL=PATH")
        check_label(label, [*taken, *found])
        found[label] = Path(folder)
    return found


def check_label(label: str, taken: Collection[str]) -> None:
    if label in (NOISY, "clean"):
        raise UserError(f"a system cannot be called {label!r}: that is the unprocessed input, or the reference")
    if label in taken:
        raise UserError(f"two systems are called {label!r}; give them different labels (LABEL=PATH)")
