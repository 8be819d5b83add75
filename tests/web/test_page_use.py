"""The page in use: switching, keys, messages, no request to another host, names and contrast."""

from __future__ import annotations

import struct
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import soundfile

from tests.data.small_corpus import RATE
from tests.report.test_page_browser_looks import CONTRAST
from tests.web.conftest import Opened, give, noisy_speech

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def opened(browser, address):
    opened = Opened(browser, address)
    opened.page.goto(address)
    yield opened
    opened.context.close()


@pytest.fixture
def page(opened):
    """The page with its example enhanced, stopped at 0 s, nothing focused."""
    page = opened.page
    if page.locator("#result").is_hidden():
        page.click("#example")
        page.locator("#result").wait_for(timeout=60_000)
    page.evaluate(
        """() => {
            const { result } = kdsePage;
            result.player.pause();
            result.player.setLoop(false);
            document.getElementById('loop').checked = false;
            result.player.seek(0);
            result.choose('enhanced');
            document.getElementById('mix').value = 0;
            result.setMix();
            document.activeElement.blur();
        }"""
    )
    return page


def player(page, expression: str):
    return page.evaluate(f"kdsePage.result.player.{expression}")


def wait_until(page, expression: str) -> None:
    """Asks again and again: the page's policy forbids what playwright's own waiting evaluates."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")


def gains(page) -> tuple[float, float]:
    page.wait_for_timeout(60)
    found = page.evaluate("Object.values(kdsePage.result.player.voices.gains).map((node) => node.gain.value)")
    return found[0], found[1]


def test_a_switch_while_playing_keeps_the_place_and_moves_only_the_gains(page):
    page.check("#loop")
    page.click("#play")
    wait_until(page, "kdsePage.result.player.playing")
    before = page.evaluate(
        "(() => { const { player } = kdsePage.result; window.voices = player.voices; return player.since; })()"
    )
    assert gains(page) == pytest.approx((0, 1), abs=1e-6)
    page.click("label:has([value=noisy])")
    assert gains(page) == pytest.approx((1, 0), abs=1e-6)
    page.click("label:has([value=enhanced])")
    page.fill("#mix", "0.3")
    assert gains(page) == pytest.approx((0.3, 0.7), abs=1e-6)
    assert page.evaluate("kdsePage.result.player.voices === voices") and player(page, "since") == before
    page.click("#play")
    page.uncheck("#loop")
    assert page.get_attribute("#play", "aria-label") == "Play"


def test_every_key_does_what_the_list_says(page):
    page.keyboard.press("1")
    assert page.is_checked("input[value=noisy]") and player(page, "chosen") == "noisy"
    page.keyboard.press("2")
    assert player(page, "chosen") == "enhanced"
    page.evaluate("kdsePage.result.player.seek(0.1)")
    page.keyboard.press("ArrowRight")
    assert player(page, "position") == pytest.approx(0.5)  # the example is half a second long
    page.keyboard.press("ArrowLeft")
    assert player(page, "position") == 0
    page.keyboard.press("l")
    assert player(page, "loop") and page.is_checked("#loop")
    page.keyboard.press("l")
    page.keyboard.press("Space")
    wait_until(page, "kdsePage.result.player.playing")
    assert page.get_attribute("#play", "aria-label") == "Pause"
    page.keyboard.press("Space")
    wait_until(page, "!kdsePage.result.player.playing")
    page.click("summary")
    page.uncheck("#keys-on")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("1")
    assert player(page, "chosen") == "enhanced"
    page.check("#keys-on")
    page.click("summary")


def test_a_focused_control_keeps_its_keys(page):
    page.focus("#mix")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#mix") == "0.01" and player(page, "mix") == 0.01 and player(page, "position") == 0
    page.focus("input[name=sound]:checked")
    page.keyboard.press("ArrowUp")
    assert player(page, "chosen") == "noisy"


def test_everything_can_be_reached_by_tab_and_shows_it(page):
    reached, seen = set(), []
    for _ in range(25):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => {
                const one = document.activeElement;
                const drawn = one.id === 'file' || one.name === 'sound'; // as its label
                const shown = drawn ? one.closest('label') ?? one.nextElementSibling : one;
                return [one.id || one.name || one.tagName, getComputedStyle(shown).outlineStyle];
            }"""
        )
        reached.add(name)
        if name != "BODY":
            seen.append(outline)
    assert {"file", "record", "example", "play", "seek", "loop", "sound", "mix", "save", "save-noisy"} <= reached
    assert set(seen) <= {"solid", "auto"}


def test_a_click_on_a_picture_plays_on_from_there(page):
    box = page.locator("[data-sound=noisy] .plot").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    assert player(page, "position") == pytest.approx(0.25, abs=0.005) and player(page, "chosen") == "noisy"


DRAWN = "!kdsePage.result.drawing"


def test_pictures_are_drawn_and_follow_the_mix(page):
    pixels = """(name) => {
        const canvas = document.getElementById(`picture-${name}`);
        return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data];
    }"""
    page.fill("#mix", "1")
    wait_until(page, DRAWN)
    noisy, mixed = (np.array(page.evaluate(pixels, name), dtype=int) for name in ("noisy", "enhanced"))
    assert noisy.size == 63 * 257 * 4 and noisy.std() > 20
    assert np.abs(noisy - mixed).max() <= 12  # a step of the colour scale by rounding
    page.fill("#mix", "0")
    wait_until(page, DRAWN)
    enhanced = np.array(page.evaluate(pixels, "enhanced"), dtype=int)
    assert np.abs(noisy - enhanced).max() > 50 and enhanced.sum() < noisy.sum()
    assert "0 to 8 kHz, 0 to 0.50 s" in page.get_attribute("#picture-enhanced", "aria-label")


def wav(data: bytes, promised: int | None = None, rate: int = RATE, bits: int = 16, tag: int = 1) -> bytes:
    form = struct.pack("<HHIIHH", tag, 1, rate, rate * bits // 8, bits // 8, bits)
    size = len(data) if promised is None else promised
    return (
        b"RIFF"
        + struct.pack("<I", 36 + size)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
        + data
    )


BAD_FILES = {
    "letter.txt": (b"Dear Sir or Madam", "letter.txt cannot be read as audio"),
    "nothing.wav": (b"", "nothing.wav is empty"),
    "silent.wav": (wav(b"", promised=0), "holds no samples"),
    "cut.wav": (wav(b"\0" * 100, promised=1000), "cut short: its header promises 1000 bytes of audio, 100"),
    "nan.wav": (wav(struct.pack("<3f", 0, 0.5, float("nan")), bits=32, tag=3), "NaN or infinite samples"),
    "loud.wav": (wav(struct.pack("<2f", 0, 2e6), bits=32, tag=3), "larger than 1000000"),
    "long.wav": (wav(b"\0" * (4000 * 601), rate=4000, bits=8), "too long (10.0 minutes)"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_used_is_refused_in_words(opened, tmp_path, name):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    opened.page.set_input_files("#file", tmp_path / name)
    opened.page.locator("#trouble:not([hidden])").wait_for(timeout=20_000)
    assert message in opened.page.inner_text("#trouble")
    assert opened.page.get_attribute("#trouble", "role") == "alert"
    assert opened.page.locator("#drop").is_visible() and opened.page.locator("#result").is_hidden()


@pytest.mark.parametrize(("error", "message"), [("NotAllowedError", "is blocked"), ("NotFoundError", "No microphone")])
def test_without_a_microphone_the_page_says_why(opened, error, message):
    refuse = "(name) => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('no', name); }; }"
    opened.page.evaluate(refuse, error)
    opened.page.click("#record")
    opened.page.locator("#trouble:not([hidden])").wait_for()
    assert message in opened.page.inner_text("#trouble") and opened.page.locator("#drop").is_visible()
    opened.page.evaluate("delete navigator.mediaDevices.getUserMedia")


def test_a_long_file_shows_progress_and_can_be_cancelled(opened, tmp_path):
    page = opened.page
    soundfile.write(tmp_path / "long.wav", np.zeros(120 * RATE), RATE, subtype="PCM_16")
    page.set_input_files("#file", tmp_path / "long.wav")
    page.locator("#cancel").wait_for()
    wait_until(page, "document.getElementById('progress').value > 0 || kdsePage.result.sound")
    assert "Enhancing long.wav" in page.inner_text("#progress-text")
    assert "Enhancing" in page.inner_text("#status") and page.get_attribute("#status", "aria-live") == "polite"
    page.click("#cancel")
    assert page.inner_text("#status") == "Cancelled." and page.evaluate("document.activeElement.id") == "file"
    soundfile.write(tmp_path / "next.wav", noisy_speech(4000), RATE)
    give(page, tmp_path / "next.wav")
    assert "next.wav: 0.3 s" in page.inner_text("#result-facts")
    assert page.locator("#trouble").is_hidden()


def test_a_dropped_file_is_opened(opened, tmp_path):
    soundfile.write(tmp_path / "dropped.wav", noisy_speech(3000), RATE, subtype="PCM_16")
    opened.page.evaluate(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(bytes)], 'dropped.wav'));
            const at = { bubbles: true, cancelable: true, dataTransfer: transfer };
            document.querySelector('main').dispatchEvent(new DragEvent('drop', at));
        }""",
        list((tmp_path / "dropped.wav").read_bytes()),
    )
    opened.page.locator("#result-facts", has_text="dropped.wav: 0.2 s").wait_for()


class _Counting(BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(204)
        self.end_headers()


def test_neither_the_page_nor_its_worker_can_reach_another_host(opened, page):
    assert opened.elsewhere() == [] and any(url.endswith(".wasm") for url in opened.requests)
    other = HTTPServer(("127.0.0.1", 0), _Counting)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    ask = "(url) => fetch(url, { mode: 'no-cors' }).then(() => 'went out', () => 'blocked')"
    try:
        for one in (page, page.workers[0]):
            assert one.evaluate(ask, f"http://127.0.0.1:{other.server_port}/leak") == "blocked"
    finally:
        other.shutdown()
        other.server_close()
    assert _Counting.asked == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_all_with_the_contrast_of_wcag_aa(browser, address, scheme):
    opened = Opened(browser, address, 360, color_scheme=scheme, reduced_motion="reduce")
    page = opened.page
    page.route("**/*.onnx", lambda route: route.fulfill(status=404))  # what is said where the model does not come
    page.goto(address)
    page.locator("#trouble:not([hidden])").wait_for(timeout=30_000)
    assert "The model could not be loaded" in page.inner_text("#trouble") and "404" in page.inner_text("#trouble")
    page.evaluate(
        "['recording', 'working', 'result', 'example'].forEach((id) => document.getElementById(id).hidden = false)"
    )
    page.evaluate("document.querySelector('details').open = true")
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate("getComputedStyle(document.querySelector('.dot')).animationName") == "none"
    opened.context.close()


def test_every_control_has_a_name_and_headings_are_in_order(page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, progress, [role=meter], [role=img]')].filter((one) => !(
            one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.[0]?.textContent.trim()
        )).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1 and set(levels[1:]) == {2}
    ids = page.eval_on_selector_all("[id]", "all => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))


def test_opened_as_a_file_it_says_what_to_do(browser, runtime, student_graph, tmp_path):
    from kdse.web.build import build_page

    page = browser.new_page()
    page.goto((build_page(student_graph, runtime, tmp_path / "page") / "index.html").as_uri())
    assert page.locator("#unserved").is_visible() and page.locator("#start").is_hidden()
    assert "python3 -m http.server" in page.inner_text("#unserved")
    page.close()
