"""Small sweeps over the fake training, run in this process or in their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from kdse.commands.sweep import main

FAKE = f"{sys.executable} -m tests.sweeps.fake_fit"
COMMAND = ["kdse", "fit", "--run_root=elsewhere", "--resume=true", "--wandb=online", "${args}"]


def write_sweep(folder: Path, parameters: dict[str, Any], method: str = "grid", **more: Any) -> Path:
    path = folder / "sweep.yaml"
    content = {"method": method, "metric": {"name": "val/si_sdr", "goal": "maximize"}, "command": COMMAND}
    path.write_text(yaml.safe_dump({**content, "parameters": parameters, **more}))
    return path


def run(path: Path, *flags: str) -> int:
    """`kdse sweep` in this process, into a folder beside the file."""
    return main([str(path), "--out", str(path.parent / "out"), "--program", FAKE, *flags])


def start(path: Path, *flags: str) -> subprocess.Popen:
    """`kdse sweep` in a process of its own."""
    words = [str(path), "--out", str(path.parent / "out"), "--program", FAKE, *flags]
    code = "import sys; from kdse.commands.sweep import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def points(path: Path) -> list[dict[str, Any]]:
    """What sweep.json says of every point."""
    content: dict[str, Any] = json.loads((path.parent / "out" / "sweep.json").read_text())
    return content["points"]


def trained(path: Path) -> Counter:
    """How often every step of every run was trained."""
    found: Counter = Counter()
    for file in sorted((path.parent / "out" / "runs").glob("*/trained.txt")):
        found.update((file.parent.name, step) for step in file.read_text().split())
    return found
