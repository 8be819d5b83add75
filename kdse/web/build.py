"""Builds the page: one folder for any static host, which asks no other host for anything."""

from __future__ import annotations

import hashlib
import os
import shutil
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from kdse.errors import UserError
from kdse.machine.files import write_bytes
from kdse.web.embedding import embedded_json, palette
from kdse.web.model import facts, read_step_graph
from kdse.web.runtime import SCRIPT, VERSION, WASM, runtime_files

TITLE = "Take the noise out of speech"
#: Longest sound that the page takes (our choice): decoded at 48 kHz in stereo it needs 230 MB, which phones have.
MAX_SECONDS = 600
#: Enhanced sound that waits before the headphones get it, beyond two hops (our choice): room for the worker's delays.
HOLD_SECONDS = 0.02
#: Scripts and style may come from the page's own folder only, and nothing from anywhere else; "wasm-unsafe-eval" lets
#: WebAssembly be compiled, "blob:" lets the worker inherit this policy and lengths of chosen files be read.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self'; "
    "style-src 'self'; img-src data:; media-src blob:; base-uri 'none'; form-action 'none'"
)
#: In index.html, by which a page of this command is known.
_MARK = '<meta name="generator" content="kdse web">'


def build_page(
    model: Path, runtime: Path, out: Path, title: str = TITLE, example: Path | None = None, overwrite: bool = False
) -> Path:
    """Writes the page's folder; returns its path. The folder appears once it is complete.

    Args:
        model: step graph with the STFT inside, of `kdse export`.
        runtime: folder of the unpacked npm package onnxruntime-web.
        out: the folder; a folder there that is not such a page is never replaced, a page only by ``overwrite``.
        title: heading of the page.
        example: a recording that the page offers to try; taken along as it is.

    Raises:
        UserError: naming what is missing, does not fit or cannot be written.
    """
    check_target(out, overwrite)
    content, about = read_step_graph(model)
    # the model's name changes with it, so that no browser mixes an old one with the new page
    name = f"model-{hashlib.sha256(content).hexdigest()[:12]}.onnx"
    files = {name: content, **{f"runtime/{part}": data for part, data in runtime_files(runtime).items()}}
    hold_seconds = 2 * about["hop_samples"] / about["sample_rate_hz"] + HOLD_SECONDS
    page: dict[str, Any] = {
        "model": name,
        "modelBytes": len(content),
        "runtime": {"script": f"runtime/{SCRIPT}", "wasm": f"runtime/{WASM}", "bytes": len(files[f"runtime/{WASM}"])},
        "metadata": {key: about[key] for key in ("sample_rate_hz", "hop_samples", "latency_samples", "states")},
        "about": [*facts(about, content), ("Runs on", f"ONNX Runtime Web {VERSION}, one thread")],
        "maxSeconds": MAX_SECONDS,
        "holdSeconds": hold_seconds,
        "palette": palette().hex(),
        "example": None,
    }
    if example is not None:
        page["example"] = f"example{example.suffix.lower()}"
        try:
            files[page["example"]] = example.read_bytes()
        except OSError as error:
            raise UserError(f"--example {example}: cannot be read ({error.strerror or error})") from None
    for asset in (resources.files("kdse.web") / "assets").iterdir():
        if asset.name.endswith((".js", ".css")):
            files[asset.name] = asset.read_bytes()
        elif asset.name == "index.html":
            index = Template(asset.read_text(encoding="utf-8")).substitute(
                policy=POLICY,
                title=escape(title),
                facts=embedded_json(page),
                minutes=f"{MAX_SECONDS / 60:g}",
                monitor_ms=f"{1000 * (about['latency_samples'] / about['sample_rate_hz'] + hold_seconds):.0f}",
                rate=f"{about['sample_rate_hz'] / 1000:g}",
            )
            files[asset.name] = index.encode("utf-8")
    return _put(files, out)


def check_target(out: Path, overwrite: bool) -> None:
    """Refuses to replace what is at ``out``.

    Raises:
        UserError: if it is no page of this command, or is one and ``overwrite`` is not set.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    index = out / "index.html"
    if not (index.is_file() and _MARK in index.read_text(encoding="utf-8", errors="replace")):
        raise UserError(f"--out {out}: exists and is not a page of kdse web; give another folder")
    if not overwrite:
        raise UserError(f"--out {out}: exists; --overwrite replaces it")


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
        raise UserError(f"--out {out}: could not be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return out
