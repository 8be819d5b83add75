"""The page of a student in the box, opened in headless Chromium. Skips without Chromium, playwright or the runtime."""

from __future__ import annotations

import base64
import os
import shutil
import threading
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile

from kdse.commands.web import RUNTIME_VARIABLE
from kdse.pretrained import exported, find
from kdse.web.build import build_page
from kdse.web.runtime import DEFAULT_FOLDER, INSTALL
from kdse.web.serve import make_server
from tests.data.small_corpus import RATE, hiss, tone_and_pauses

ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip


def noisy_speech(samples: int, seed: int = 0) -> np.ndarray:
    """Speech-like ``[N]`` with noise, on the grid of 16-bit samples."""
    wave = 2 * (tone_and_pauses(samples / RATE + 1, seed=seed) + 0.3 * hiss(samples / RATE + 1, seed=seed))[:samples]
    return np.round(wave * 2**15) / 2**15


@pytest.fixture(scope="session")
def runtime() -> Path:
    """The unpacked npm package."""
    checkout = Path(__file__).parents[2]
    folder = Path(os.environ.get(RUNTIME_VARIABLE) or checkout / DEFAULT_FOLDER)
    if not (folder / "package.json").is_file():
        pytest.skip(f"no onnxruntime-web at {folder}; run `{INSTALL}` or set {RUNTIME_VARIABLE}")
    return folder


@pytest.fixture(scope="session")
def student_graph() -> Path:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (pip install 'kdse[onnx]')")
    graph = exported(find("cruse-62k"))
    assert graph is not None
    return graph


@pytest.fixture(scope="module")
def address(runtime, student_graph, tmp_path_factory):
    """The page, served on this computer, with an example."""
    folder = tmp_path_factory.mktemp("page")
    soundfile.write(folder / "example.wav", noisy_speech(8000), RATE, subtype="PCM_16")
    page = build_page(student_graph, runtime, folder / "page", example=folder / "example.wav")
    server = make_server(page, 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One a module: while playwright runs, nothing else in the process can use asyncio."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium (chromium, chromium-browser or google-chrome) on the PATH")
    reason = "playwright is not installed (pip install 'kdse[dev]')"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    microphone = tmp_path_factory.mktemp("microphone") / "speech.wav"
    soundfile.write(microphone, np.repeat(noisy_speech(3 * RATE), 3), 3 * RATE, subtype="PCM_16")
    with sync_api.sync_playwright() as playwright:
        arguments = [*ARGUMENTS, f"--use-file-for-fake-audio-capture={microphone}"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


class Opened:
    """A page with what went wrong on it and what it asked for."""

    def __init__(self, browser, address: str, width: int = 1100, **settings) -> None:
        self.address = address
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.context.on("requestfailed", lambda request: self.problems.append(request.url[:80]))
        self.context.on("request", lambda request: self.requests.append(request.url))

    def elsewhere(self) -> list[str]:
        """Requests to other hosts."""
        home = urlsplit(self.address).netloc
        return [url for url in self.requests if not url.startswith(("blob:", "data:")) and urlsplit(url).netloc != home]


def give(page, path: Path) -> None:
    """Chooses a file and waits for the result or for the complaint."""
    page.set_input_files("#file", path)
    page.locator("#result:not([hidden]), #trouble:not([hidden])").first.wait_for(timeout=60_000)


def saved(page, path: Path, button: str = "#save") -> tuple[np.ndarray, int, str]:
    """What a click on a download button gives: samples ``[N, C]``, rate, name."""
    with page.expect_download() as download:
        page.click(button)
    download.value.save_as(path)
    samples, rate = soundfile.read(path, always_2d=True)
    return samples, rate, download.value.suggested_filename


TO_BASE64 = """(values) => {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    let text = '';
    for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
    return btoa(text);
}"""


def floats(page, expression: str, argument=None) -> np.ndarray:
    """A Float32Array of the page, exactly. The expression may be async and sees `argument`."""
    text = page.evaluate(f"async (argument) => ({TO_BASE64})(await ({expression}))", argument)
    return np.frombuffer(base64.b64decode(text), np.float32).copy()


def result(page, name: str, channel: int = 0) -> np.ndarray:
    """ "noisy" or "enhanced" as the page holds it."""
    return floats(page, f"kdsePage.result.sound.{name}[{channel}]")
