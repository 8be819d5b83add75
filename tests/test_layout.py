"""Promises of the layout: few rooms on the top level, imports that only go down, files that fit into a head."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
LONGEST = 400
#: The packages and modules directly below kdse, from the ground up. Each imports from lower floors and from itself.
FLOORS = (
    {"errors"},
    {"internals", "machine", "precision", "seeding", "schedule", "distributed", "pretrained", "trust"},
    {"audio", "gradients"},
    {"models", "data"},
    {"metrics"},
    {"losses", "taps", "compiling", "run", "cluster", "web"},
    {"objectives", "enhancer", "teacher", "deploy"},
    {"distiller", "evaluation"},
    {"report"},
    {"training", "sweeps"},
    {"commands"},
    {"cli"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted((REPOSITORY / "kdse").rglob("*.py"))


def dotted(file: Path) -> str:
    parts = file.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {dotted(file): file for file in FILES}


def imported(file: Path) -> dict[str, int]:
    """Modules of kdse that a file imports anywhere, also in functions and for types only, and in which line."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name: node.lineno for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno}: a relative import"
            inside = [f"{node.module}.{name.name}" for name in node.names]
            found |= {full if full in MODULES else str(node.module): node.lineno for full in inside}
    ours = {name: line for name, line in found.items() if name.startswith("kdse.")}
    missing = [f"{file}:{line}: {name}" for name, line in ours.items() if name not in MODULES]
    assert not missing  # (mypy passes over imports that it cannot find)
    return ours


def test_the_top_level_holds_the_named_rooms_and_no_others():
    rooms = {name.split(".")[1] for name in MODULES if "." in name}
    assert rooms == set(FLOOR_OF)


@pytest.mark.parametrize("room", sorted(FLOOR_OF))
def test_a_room_imports_from_lower_floors_only(room):
    upward = [
        f"{MODULES[name].relative_to(REPOSITORY)}:{line}: {other}"
        for name in MODULES
        if f"{name}.".startswith(f"kdse.{room}.")
        for other, line in imported(MODULES[name]).items()
        if (other_room := other.split(".")[1]) != room and FLOOR_OF[other_room] >= FLOOR_OF[room]
    ]
    assert not upward


def test_no_two_modules_import_each_other_in_a_circle():
    packages = {name for name, file in MODULES.items() if file.stem == "__init__"}
    left = {name: set(imported(file)) - packages - {name} for name, file in MODULES.items()}
    while True:  # takes away what imports nothing that is left; a circle stays
        ready = {name for name, others in left.items() if not others & set(left)}
        if not ready:
            break
        left = {name: others for name, others in left.items() if name not in ready}
    assert not left


@pytest.mark.parametrize("folder", ["kdse", "tests", "experiments", "benchmarks"])
def test_no_file_has_more_than_400_lines(folder):
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in (REPOSITORY / folder).rglob("*.py")}
    assert {str(file.relative_to(REPOSITORY)): count for file, count in lines.items() if count > LONGEST} == {}
