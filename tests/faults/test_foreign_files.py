"""Fuzz: whatever checkpoints, graphs, configs and scores of others hold ends well, or in a line that names the file."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdse.commands.report import write_report
from kdse.errors import UserError
from kdse.models.checkpoint import load_model
from kdse.pretrained import FOLDER, find
from kdse.report.build import Options, build_report
from kdse.report.collect import find_runs, read_scores
from kdse.report.rebuilt_run import rebuild
from tests.report.test_survival import make_scores

pytestmark = pytest.mark.slow

TRIES = 300
#: What stands in for a value, or beside one under an odd key.
ODD = [None, 3, -1, 0, 1e308, float("nan"), float("inf"), 10**12, "x", "", [], [1], {}, True, [[[]]], "../x", "$x_{$",
       {"class_path": "os.system"}, {"class_path": "kdse.models.Cruse"}, "os.system", "kdse.models.TorchScript",
       {"a": {"b": [1]}}, "\x1b[31m", "a.yaml"]  # fmt: skip
KEYS = ["class_path", "init_args", "a.b", "__path__", "x"]
NET = {"class_path": "kdse.models.Cruse", "init_args": {"channels": [2, 4, 4, 4], "window": "hann"}}
CONFIG = {
    "seed_everything": 1,
    "model": {"class_path": "kdse.Distiller",
              "init_args": {"teacher_checkpoint": "cruse-30k", "student": NET, "metrics": ["si_sdr"],
                            "student_taps": {"a": {"path": "encoder.0", "layout": "b c t f"}}}},
    "trainer": {"max_steps": 3, "gradient_clip_val": 5.0},
    "data": {"class_path": "kdse.data.SyntheticCorpus", "init_args": {"minutes": 1}},
}  # fmt: skip


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths to all entries at any depth."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in entries for found in ((*path, key), *places(inner, (*path, key)))]


def changed(rng: random.Random, value: Any) -> Any:
    """A copy with an entry less, replaced by an odd one, or with an odd one beside it; once or twice."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 2)):
        *above, last = rng.choice(places(value) or [(0,)])
        place = value
        for key in above:
            place = place[key]
        what = rng.randrange(4)
        if what == 0 and place:
            del place[last]
        elif what == 1 and isinstance(place, dict):
            place[rng.choice(KEYS)] = copy.deepcopy(rng.choice(ODD))
        elif place:
            place[last] = copy.deepcopy(rng.choice(ODD))
    return value


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Bytes that are changed, lost or put in, most of them near the beginning."""
    found, what = bytearray(content), rng.randrange(4)
    start = rng.randrange(rng.choice([len(found), min(len(found), 9000)]))
    if what == 0:
        del found[start:]
    elif what == 1:
        del found[start : start + rng.randrange(1, 5000)]
    elif what == 2:
        found[start:start] = rng.randbytes(rng.randrange(1, 50))
    else:
        for place in range(start, min(len(found), start + 200), rng.randrange(7, 60)):
            found[place] ^= 1 << rng.randrange(8)
    return bytes(found)


def run_of(folder: Path, config: object) -> Path:
    (folder / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(find("cruse-30k"), folder / "run" / "checkpoints" / "last.ckpt")
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "run"


def checkpoint_bytes(rng: random.Random, folder: Path) -> None:
    (folder / "f.ckpt").write_bytes(damaged(rng, find("cruse-30k").read_bytes()))
    load_model(folder / "f.ckpt")


def checkpoint_content(rng: random.Random, folder: Path) -> None:
    torch.save(changed(rng, torch.load(find("cruse-30k"), weights_only=True)), folder / "f.ckpt")
    load_model(folder / "f.ckpt")


def graph(rng: random.Random, folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    (folder / "f.onnx").write_bytes(damaged(rng, (FOLDER / "cruse-30k.onnx").read_bytes()))
    load_model(folder / "f.onnx")(torch.zeros(1, 512))


def config(rng: random.Random, folder: Path) -> None:
    rebuild(run_of(folder, changed(rng, CONFIG)))


def report(rng: random.Random, folder: Path) -> None:
    """All that a report reads, and the report written."""
    run, scores = run_of(folder, changed(rng, CONFIG)), make_scores(folder / "scores")
    record = json.loads((scores / "summary.json").read_text())
    record |= {"items": {"synthetic": True, "items": 2, "snr_db": [0.0]}, "versions": {"torch": "1"}, "known_set": []}
    record["systems"]["run"] |= {"cost": {"latency_ms": 1.0}, "path": str(run / "checkpoints" / "last.ckpt")}
    (scores / "summary.json").write_text(json.dumps(changed(rng, record)))
    lines = changed(rng, [{"step": step, "metrics": {"val/si_sdr": step}} for step in (1, 2, 3)])
    (run / "validations.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (run / "result.json").write_text(json.dumps(changed(rng, {"state": "finished", "step": 3, "switches": [1]})))
    made = build_report(find_runs([str(run)]), read_scores([("", scores)]), Options(listen=0, similarity_items=0))
    write_report(made, folder / "out")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trial", [checkpoint_bytes, checkpoint_content, graph, config, report])
def test_no_file_of_others_ends_in_a_traceback(trial: Callable[[random.Random, Path], None], tmp_path):
    refused = 0
    for number in range(TRIES // (3 if trial is report else 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            trial(random.Random(number), folder)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(folder) in str(error), (number, str(error))
        except Exception as error:
            raise AssertionError(f"{trial.__name__} {number}: {type(error).__name__}: {error}") from error
        shutil.rmtree(folder)
    assert refused or trial is report
