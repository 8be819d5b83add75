"""The files around the code agree with it: workflows, issue forms, citation, changelog, hooks, contributor's guide."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import kdse

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(p for p in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if p.name != "config.yml")
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def jobs(path: Path) -> list[dict]:
    return list(yaml.safe_load(path.read_text())["jobs"].values())


def commands(path: Path) -> list[str]:
    return [step["run"] for job in jobs(path) for step in job["steps"] if "run" in step]


def targets() -> set[str]:
    """The targets that the Makefile has rules for."""
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


def made(text: str) -> set[str]:
    """The targets of every `make` command in a text."""
    return {word for words in re.findall(r"\bmake((?: [a-z][a-z-]*(?![\w/-]))+)", text) for word in words.split()}


def pythons() -> list[str]:
    """The Python versions of the classifiers."""
    found = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", c) for c in PROJECT["project"]["classifiers"])
    return [match[1] for match in found if match]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_workflows_run_on_every_python_of_the_classifiers(path):
    assert pythons()
    for job in jobs(path):
        assert job["strategy"]["matrix"]["python"] == pythons()


def test_the_lowest_python_of_the_classifiers_is_the_lowest_that_installs():
    assert PROJECT["project"]["requires-python"] == f">={pythons()[0]}"


def test_ci_lints_checks_types_and_runs_the_fast_tests():
    assert commands(ROOT / ".github" / "workflows" / "ci.yml") == [
        "make env",
        "make lint",
        "make types",
        "make test-fast",
    ]


def test_the_newest_dependencies_are_tried_every_week_and_on_demand():
    path = ROOT / ".github" / "workflows" / "latest.yml"
    when = yaml.safe_load(path.read_text())[True]  # (YAML 1.1 reads the key `on` as a boolean)
    assert "workflow_dispatch" in when and commands(path) == ["make test-latest"]
    minute, hour, day, month, weekday = when["schedule"][0]["cron"].split()
    assert minute.isdigit() and hour.isdigit() and (day, month) == ("*", "*") and weekday in "0123456"


@pytest.mark.parametrize("path", [*WORKFLOWS, ROOT / ".ci" / "run"], ids=lambda p: p.name)
def test_what_a_workflow_makes_the_makefile_has(path):
    named = made("\n".join(commands(path)) if path.suffix else path.read_text())
    assert named and named <= targets()


def test_what_the_contributors_guide_makes_the_makefile_has():
    code = re.findall(r"```bash\n(.*?)```|`(make [^`]*)`", CONTRIBUTING, re.DOTALL)
    named = made("\n".join(block + span for block, span in code))
    assert {"env", "lock", "lint", "types", "bench"} <= named and named <= targets()
    assert {name for name in targets() if name.startswith("test")} <= named


def test_every_path_in_the_contributors_guide_exists():
    spans = re.findall(r"`([^`\n]+)`", CONTRIBUTING)
    paths = [s for s in spans if re.fullmatch(r"(kdse|tests|experiments|benchmarks)/[\w./-]*", s)]
    assert len(set(paths)) > 25 and not [path for path in paths if not (ROOT / path).exists()]


def test_every_name_in_the_contributors_table_is_in_a_file_of_its_row():
    """`METRICS` and the like: a row that names what its files no longer have is out of date."""
    rows = [line for line in CONTRIBUTING.splitlines() if re.match(r"\| an? ", line)]
    assert len(rows) == 5
    for row in rows:
        spans = re.findall(r"`([^`]+)`", row)
        text = "".join((ROOT / s).read_text() for s in spans if s.endswith(".py"))
        names = [s for s in spans if s.isidentifier()]
        assert names and not [name for name in names if not re.search(rf"\b{name}\b", text)]


def test_version_and_date_are_the_same_everywhere():
    newest = re.search(r"^## (\S+)(?: \((.+)\))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert (CITATION["version"], str(CITATION["date-released"])) == newest.groups()
    assert CITATION["version"] == kdse.__version__


def test_the_citation_has_what_the_format_requires():
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()
    assert (CITATION["cff-version"], CITATION["title"]) == ("1.2.0", PROJECT["project"]["name"])
    assert CITATION["license"] == PROJECT["project"]["license"]
    assert all("name" in author or {"given-names", "family-names"} <= author.keys() for author in CITATION["authors"])


@pytest.mark.parametrize("path", FORMS, ids=lambda p: p.name)
def test_an_issue_form_is_one_that_github_takes(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"] and form["body"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) >= 3
    for field in fields:
        assert field["type"] in ("input", "textarea", "dropdown", "checkboxes") and field["attributes"]["label"]
        assert field["type"] in ("input", "textarea") or field["attributes"]["options"]
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_hooks_run_ruff_and_mypy_of_the_locked_environment():
    (source,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert source["repo"] == "local"  # (another source would bring versions of its own)
    hooks = {hook["id"]: hook for hook in source["hooks"]}
    assert hooks.keys() == {"ruff-check", "ruff-format", "mypy"}
    assert all(hook["language"] == "system" and "${VENV:-.venv}/bin/" in hook["entry"] for hook in hooks.values())
