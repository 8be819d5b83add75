"""Builds the page: one folder for any static host, which asks no other host for anything."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from kdse.machine.files import write_bytes
from kdse.web.model import facts, read_step_graph
from kdse.web.runtime import SCRIPT, VERSION, WASM, runtime_files

TITLE = "Take the noise out of speech"

#: Longest sound that the page takes (our choice): decoded at 48 kHz in stereo it needs 230 MB, which phones have.
MAX_SECONDS = 600

#: Enhanced sound that waits before the headphones get it, beyond two hops (our choice): room for the worker's delays.
HOLD_SECONDS = 0.02

#: Steps of the colour scale, as in the pictures of `kdse report`.
COLOURS = 64

#: Scripts and style may come from the page's own folder only, and nothing from anywhere else; "wasm-unsafe-eval" lets
#: WebAssembly be compiled, "blob:" lets the worker inherit this policy and lengths of chosen files be read.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self'; "
    "style-src 'self'; img-src data:; media-src blob:; base-uri 'none'; form-action 'none'"
)

#: In index.html, by which a page of this command is known.
_MARK = '<meta name="generator" content="kdse web">'


def build_page(
    model: Path,
    runtime: Path,
    out: Path,
    title: str = TITLE,
    example: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the page's folder; returns its path. The folder appears once it is complete.

    Args:
        model: step graph with the STFT inside, of `kdse export`.
        runtime: folder of the unpacked npm package onnxruntime-web.
        out: the folder; its parents are made.
        title: heading of the page.
        example: a recording that the page offers to try; taken along as it is.
        overwrite: replace an earlier page at ``out``. A folder that is not such a page is never replaced.

    Raises:
        ValueError: naming what is missing, does not fit or cannot be written.
    """
    out = Path(out)
    check_target(out, overwrite)
    content, about = read_step_graph(Path(model))
    files = {f"runtime/{name}": data for name, data in runtime_files(Path(runtime)).items()}
    fingerprint = hashlib.sha256(content).hexdigest()[:12]
    # The model's name changes with it, so that no browser mixes an old one with the new page.
    files[f"model-{fingerprint}.onnx"] = content
    page: dict[str, Any] = {
        "model": f"model-{fingerprint}.onnx",
        "modelBytes": len(content),
        "runtime": {"script": f"runtime/{SCRIPT}", "wasm": f"runtime/{WASM}", "bytes": len(files[f"runtime/{WASM}"])},
        "metadata": {key: about[key] for key in ("sample_rate_hz", "hop_samples", "latency_samples", "states")},
        "about": [*facts(about, content), ("Runs on", f"ONNX Runtime Web {VERSION}, one thread")],
        "maxSeconds": MAX_SECONDS,
        "holdSeconds": 2 * about["hop_samples"] / about["sample_rate_hz"] + HOLD_SECONDS,
        "palette": _palette(),
        "example": None,
    }
    if example is not None:
        page["example"] = f"example{Path(example).suffix.lower()}"
        files[page["example"]] = _read(Path(example))
    for asset in (resources.files("kdse.web") / "assets").iterdir():
        if asset.name.endswith((".js", ".css")):
            files[asset.name] = asset.read_bytes()
    files["index.html"] = _index(page, title).encode("utf-8")
    return _put(files, out)


def _index(page: dict[str, Any], title: str) -> str:
    about = page["metadata"]
    late = about["latency_samples"] / about["sample_rate_hz"] + page["holdSeconds"]
    template = (resources.files("kdse.web") / "assets" / "index.html").read_text(encoding="utf-8")
    data = json.dumps(page, allow_nan=False, separators=(",", ":"))
    return Template(template).substitute(
        policy=POLICY,
        title=escape(title),
        facts=data.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"),
        minutes=f"{MAX_SECONDS / 60:g}",
        monitor_ms=f"{1000 * late:.0f}",
        rate=f"{about['sample_rate_hz'] / 1000:g}",
    )


def _palette() -> str:
    """Magma, perceptually uniform and safe for colour-blind eyes (matplotlib), as hexadecimal digits, six a colour."""
    import matplotlib
    import numpy as np

    return (
        np.rint(255 * matplotlib.colormaps["magma"](np.linspace(0, 1, COLOURS))[:, :3]).astype(np.uint8).tobytes().hex()
    )


def _read(example: Path) -> bytes:
    try:
        return example.read_bytes()
    except OSError as error:
        raise ValueError(f"--example {example}: cannot be read ({error.strerror or error})") from None


def check_target(out: Path, overwrite: bool) -> None:
    """Refuses to replace what is at ``out``.

    Raises:
        ValueError: if it is no page of this command, or is one and ``overwrite`` is not set.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    index = out / "index.html"
    if not (index.is_file() and _MARK in index.read_text(encoding="utf-8", errors="replace")):
        raise ValueError(f"--out {out}: exists and is not a page of kdse web; give another folder")
    if not overwrite:
        raise ValueError(f"--out {out}: exists; --overwrite replaces it")


def _put(files: dict[str, bytes], out: Path) -> Path:
    """Writes the files beside ``out`` and moves the folder there."""
    out = Path(os.path.abspath(out))
    partial, old = (out.with_name(f".{out.name}.{os.getpid()}.{what}") for what in ("partial", "old"))
    try:
        for name, content in files.items():
            write_bytes(partial / name, content)
        if out.exists():
            os.replace(out, old)
        os.replace(partial, out)
    except OSError as error:
        if old.exists() and not out.exists():
            os.replace(old, out)
        raise ValueError(f"--out {out}: could not be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return out
