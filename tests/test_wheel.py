"""The wheel works without the checkout: it holds all that kdse reads, and its commands run in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from kdse.web.runtime import FILES, VERSION

REPOSITORY = Path(__file__).resolve().parent.parent


def sources() -> list[str]:
    """The files of the checkout that git knows or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in set(listed.split("\0")) if name and (REPOSITORY / name).is_file())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the checkout: setuptools leaves its work folders there, and takes up what lies in them."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in sources():
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, folder / "tree" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(folder)]
    done = subprocess.run([*build, str(folder / "tree")], capture_output=True, text=True)
    assert done.returncode == 0, f"the build needs setuptools 77 or later in this environment:\n{done.stderr[-3000:]}"
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == {name for name in sources() if name.startswith("kdse/")}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A new environment with the wheel; of the one that runs the tests it sees the packages that kdse depends on."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    dependencies = folder / "dependencies"
    dependencies.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():  # .pth files, the checkout's among them, are not read in such a folder
            link = dependencies / entry.name
            if not entry.name.startswith(("kdse", "__editable__")) and not link.exists():
                link.symlink_to(entry)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "env/bin/python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")
    (folder / "work").mkdir()
    rng = np.random.default_rng(0)
    soundfile.write(folder / "work" / "noisy.wav", 0.1 * rng.standard_normal(16000), 16000)
    return folder


def run(installed: Path, *words: str) -> str:
    """What a command of the new environment prints; it runs in a folder without anything of kdse."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KDSE", "PYTHON"))}
    environment = kept | {"HOME": str(installed), "KDSE_CACHE": str(installed / "cache"), "OMP_NUM_THREADS": "1"}
    program = str(installed / "env" / "bin" / words[0])
    where = installed / "work"
    done = subprocess.run([program, *words[1:]], cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert str(REPOSITORY) not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_python_finds_the_installed_kdse_and_the_students_in_the_box(installed):
    code = (
        "import json, sys, kdse; from kdse import pretrained; "
        "sizes = {n: sum(p.numel() for p in kdse.load_student(pretrained.find(n)).parameters()) for n in "
        "pretrained.names()}; print(json.dumps([kdse.__file__, sys.path, [str(f) for f in sys.meta_path], sizes]))"
    )
    file, path, finders, sizes = json.loads(run(installed, "python", "-c", code))
    assert Path(file).is_relative_to(installed / "env")
    assert not any(entry and Path(entry).is_relative_to(REPOSITORY / "kdse") for entry in path)
    assert str(REPOSITORY) not in path and not any("editable" in finder for finder in finders)
    assert sizes == {"cruse-30k": 30_101, "cruse-62k": 62_313}


@pytest.mark.slow
def test_the_student_in_the_box_enhances_in_torch_and_in_onnxruntime(installed):
    for backend in ("torch", "onnx"):
        run(installed, "kdse", "enhance", "noisy.wav", "--out", backend, "--backend", backend)
    one, other = (soundfile.read(installed / "work" / backend / "noisy.wav")[0] for backend in ("torch", "onnx"))
    assert len(one) == 16000 and np.abs(one).max() > 0
    np.testing.assert_allclose(one, other, atol=2 / 2**15)  # two steps of 16 bits


@pytest.mark.slow
def test_a_run_on_the_embedded_corpus_gives_a_student_that_loads_and_a_report(installed):
    config = {
        "model": {
            "class_path": "kdse.Enhancer",
            "init_args": {"model": {"class_path": "kdse.models.Cruse", "init_args": {"channels": [2, 4, 4, 4]}},
                          "metrics": ["si_sdr"]},
        },
        "data": {
            "class_path": "kdse.data.SyntheticCorpus",
            "init_args": {"minutes": 0.5, "segment_seconds": 0.5, "batch_size": 2, "steps_per_epoch": 2,
                          "validation_items": 1, "validation_seconds": 1.0, "test_items": 1},
        },
        "trainer": {"max_steps": 2, "accelerator": "cpu"},
        "run_dir": "runs/tiny",
    }  # fmt: skip
    (installed / "work" / "tiny.yaml").write_text(yaml.safe_dump(config))
    run(installed, "kdse", "fit", "--config", "tiny.yaml")
    load = "import kdse; print(type(kdse.load_student('runs/tiny/checkpoints/last.ckpt')).__module__)"
    assert run(installed, "python", "-c", load).strip() == "kdse.models.cruse"
    run(installed, "kdse", "report", "runs/tiny", "--out", "report", "--metrics", "si_sdr", "--listen", "1")
    page = (installed / "work" / "report" / "report.html").read_text(encoding="utf-8")
    assets = (REPOSITORY / "kdse/report/page/assets").iterdir()
    parts = [file.read_text(encoding="utf-8").strip() for file in assets if file.suffix in (".js", ".css")]
    assert parts and all(part in page for part in parts)
    assert 'id="catalogue"' in page  # something to listen to


@pytest.mark.slow
def test_the_page_for_the_browser_is_built(installed):
    package = installed / "work" / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"version": VERSION}))
    for name in FILES:
        (package / "dist" / name).write_bytes(name.encode())
    run(installed, "kdse", "web", "--runtime", str(package), "--out", "page")
    page = {file.name for file in (installed / "work" / "page").rglob("*") if file.is_file()}
    assets = {file.name for file in (REPOSITORY / "kdse/web/assets").iterdir() if file.suffix in (".js", ".css")}
    assert page >= {"index.html", "LICENSE.txt", *assets, *FILES.values()}
