"""The parts of onnxruntime-web that the page takes along."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from kdse.errors import UserError

#: The one version that the page is tested with.
VERSION = "1.30.0"
#: The smallest build that runs on one thread, without the headers (COOP, COEP) that threads ask of a host: the WASM
#: execution provider only, its loader bundled. Name in the package to name in the page; .mjs becomes .js because some
#: hosts do not know .mjs to be JavaScript and browsers then refuse it.
FILES = {
    "ort.wasm.bundle.min.mjs": "ort.wasm.bundle.min.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
SCRIPT, WASM = FILES.values()

#: Where `INSTALL`, run in the current folder, puts the package.
DEFAULT_FOLDER = Path("build/node_modules/onnxruntime-web")

INSTALL = f"npm install --prefix build --no-save --ignore-scripts onnxruntime-web@{VERSION}"


def runtime_files(package: Path) -> dict[str, bytes]:
    """Name to content of the runtime's files in the page, from the folder of the unpacked npm package.

    Raises:
        UserError: with the command that brings it, if it is not there, incomplete or of another version.
    """
    try:
        version = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
        files = {target: (package / "dist" / source).read_bytes() for source, target in FILES.items()}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"--runtime {package}: no onnxruntime-web there; get it with `{INSTALL}`") from None
    if version != VERSION:
        raise UserError(f"--runtime {package}: version {version}, but {VERSION} is needed; get it with `{INSTALL}`")
    # The package states its licence (MIT) in package.json but brings no text of it.
    files["LICENSE.txt"] = (resources.files("kdse.web") / "assets" / "onnxruntime-LICENSE.txt").read_bytes()
    return files
