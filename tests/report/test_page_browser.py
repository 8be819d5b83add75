"""The report page in a browser, from a file and without a network. Needs Chromium and playwright; skips without."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest

from kdse.report.page import write_page
from kdse.report.spectrogram import BINS
from tests.report.page_reports import RATE, SYSTEMS, TONES, report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if BROWSER is None:
    pytest.skip("no Chromium (chromium, chromium-browser or google-chrome) on the PATH", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install 'kdse[dev]')")

ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip
PLAYED = "() => kdsePage.player.playing"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return write_page(report(), tmp_path_factory.mktemp("page") / "a report #1.html").as_uri()


class Opened:
    """A page with what went wrong on it."""

    def __init__(self, browser, address: str, width: int, height: int, **settings) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("requestfailed", lambda request: self.problems.append(request.url[:80]))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        if self.page.locator("#play").count():
            self.page.evaluate("kdsePage.ready()")


@pytest.fixture(scope="module")
def wide(browser, address):
    opened = Opened(browser, address, 1280, 900)
    yield opened
    opened.context.close()


@pytest.fixture
def page(wide):
    """The wide page at its first file, stopped at 0 s, at the listening part, nothing focused."""
    wide.page.evaluate(
        """async () => {
            document.activeElement.blur();
            document.querySelector('#listening').scrollIntoView({ behavior: 'instant' });
            kdsePage.player.setLoop(false);
            kdsePage.list.pick.order.value = 'given';
            kdsePage.list.pick.group.value = 'all';
            kdsePage.list.show();
            await kdsePage.open(0);
            kdsePage.player.choose('noisy');
            await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)));
        }"""
    )
    return wide.page


@pytest.fixture(scope="module", params=["light", "dark"])
def narrow(browser, address, request):
    opened = Opened(browser, address, 360, 740, color_scheme=request.param)
    yield opened.page
    opened.context.close()


def files_of(page) -> list[int]:
    return page.eval_on_selector_all("#files tbody button", "all => all.map((one) => Number(one.dataset.file))")


def position(page) -> float:
    return page.evaluate("kdsePage.player.position")


def chosen(page) -> str:
    return page.evaluate("document.querySelector('#systems input:checked').value")


def test_nothing_fails_and_nothing_is_requested_but_the_file_itself(wide):
    assert wide.problems == []
    assert [url for url in wide.requests if not url.startswith("data:")] == [wide.page.url]
    assert wide.page.evaluate("window.alert.toString().includes('native')")


def test_the_decoded_sound_is_the_wave_times_the_stated_gain(page):
    for index, file in enumerate(report().listening[:2]):
        found = page.evaluate(
            """async (index) => {
                await kdsePage.open(index);
                return [...kdsePage.player.buffers].map(([name, buffer]) =>
                    [name, buffer.sampleRate, [...buffer.getChannelData(0)]]);
            }""",
            index,
        )
        gain_db = page.evaluate(f"JSON.parse(document.getElementById('catalogue').textContent).files[{index}].gainDb")
        assert [name for name, *_ in found] == list(SYSTEMS)
        for name, rate, samples in found:
            wave = file.waves[name] * 10 ** (gain_db / 20)
            assert rate == RATE and len(samples) == len(wave)
            assert np.abs(np.array(samples) - wave).max() < 1e-4


def test_the_sound_that_comes_out_is_that_of_the_chosen_system_and_time_passes(page):
    page.evaluate("kdsePage.player.setLoop(true)")
    page.click("#play")
    page.wait_for_function(PLAYED)
    heard = page.evaluate(
        """async (systems) => {
            const { player } = kdsePage;
            const listen = player.context.createAnalyser();
            listen.fftSize = 2048;
            player.voices.out.connect(listen);
            const heard = {};
            for (const system of systems) {
                player.choose(system);
                await new Promise((done) => setTimeout(done, 250));
                const levels = new Float32Array(listen.frequencyBinCount);
                listen.getFloatFrequencyData(levels);
                heard[system] = levels.indexOf(Math.max(...levels)) * player.context.sampleRate / 2048;
            }
            return heard;
        }""",
        list(SYSTEMS),
    )
    assert heard == pytest.approx(TONES, abs=RATE / 2048)
    first = page.evaluate("[kdsePage.player.context.currentTime, kdsePage.player.position]")
    page.wait_for_timeout(200)
    second = page.evaluate("[kdsePage.player.context.currentTime, kdsePage.player.position]")
    assert second[0] > first[0] + 0.1 and (second[1] - first[1]) % 2 == pytest.approx(second[0] - first[0], abs=0.01)
    page.click("#play")
    assert page.get_attribute("#play", "aria-label") == "Play" and not page.evaluate(PLAYED)


def test_a_switch_is_exact_to_the_sample_and_fades_over_ten_milliseconds(page):
    """The player's own graph rendered offline: before and after the switch the output is the wave, shifted alike."""
    switch = 63 * 128 / RATE  # an offline context stops at blocks of 128 samples
    rendered, systems = page.evaluate(
        """async (switchAt) => {
            const { player } = kdsePage;
            const systems = [...player.buffers].map(([name, buffer]) => [name, [...buffer.getChannelData(0)]]);
            const other = new player.constructor(player.sampleRate);
            other.load(player.buffers, player.duration);
            other.choose('teacher');
            other.context = new OfflineAudioContext(1, player.sampleRate, player.sampleRate);
            other.playing = true;
            other.start();
            other.context.suspend(switchAt).then(() => { other.choose('student'); other.context.resume(); });
            const rendered = await other.context.startRendering();
            return [[...rendered.getChannelData(0)], Object.fromEntries(systems)];
        }""",
        switch,
    )
    out, teacher, student = map(np.array, (rendered, systems["teacher"], systems["student"]))
    delay, cut, fade = round(0.02 * RATE), round(switch * RATE), round(0.01 * RATE)
    assert np.abs(out[:delay]).max() == 0
    assert np.abs(out[delay:cut] - teacher[: cut - delay]).max() < 1e-5
    after = cut + fade + 1
    assert np.abs(out[after:] - student[after - delay : RATE - delay]).max() < 1e-5
    share = np.clip((np.arange(cut, after) - cut) / fade, 0, 1)
    n = np.arange(cut, after) - delay
    mixed = (1 - share) * teacher[n] + share * student[n]
    assert np.abs(out[cut:after] - mixed).max() < 1e-4


def test_switching_keeps_the_position(page):
    page.click("#play")
    page.wait_for_function("() => kdsePage.player.position > 0.2")
    before, after, clock = page.evaluate(
        """() => {
            const { player } = kdsePage;
            const before = [player.position, player.context.currentTime];
            document.querySelector('#systems input[value=student]').click();
            return [before[0], player.position, player.context.currentTime - before[1]];
        }"""
    )
    assert chosen(page) == "student" and abs(after - before - clock) < 0.05
    page.click("#play")
    paused = position(page)
    page.keyboard.press("1")
    assert chosen(page) == "noisy" and position(page) == paused


def test_at_the_end_it_stops_and_the_next_play_starts_anew(page):
    page.evaluate("kdsePage.player.seek(1.85)")
    page.click("#play")
    page.wait_for_function("() => !kdsePage.player.playing && kdsePage.player.position > 1.9")
    assert position(page) == pytest.approx(2.0) and page.get_attribute("#play", "aria-label") == "Play"
    page.click("#play")
    page.wait_for_function(PLAYED)
    assert position(page) < 1.0


def test_a_loop_goes_on_from_the_start(page):
    page.check("#loop")
    page.evaluate("kdsePage.player.seek(1.8)")
    page.click("#play")
    page.wait_for_function("() => kdsePage.player.playing && kdsePage.player.position < 1")
    assert page.evaluate(PLAYED)


@pytest.mark.parametrize("by", ["click", "keyboard"])
def test_sorting_orders_a_column_both_ways_within_its_blocks(page, by):
    header = page.locator("table.sortable thead th").nth(1)

    def sort() -> list[list[str]]:
        if by == "click":
            header.locator("button").click()
        else:
            header.locator("button").focus()
            page.keyboard.press("Enter")
        return page.eval_on_selector_all(
            "table.sortable tbody",
            "all => all.map((body) => [...body.querySelectorAll('th[scope=row]')].map((one) => one.textContent))",
        )

    assert sort() == [["noisy", "teacher", "student", "tiny"]] * 2  # higher is better: best first, no value last
    assert header.get_attribute("aria-sort") == "descending"
    assert sort() == [["student", "teacher", "noisy", "tiny"]] * 2
    assert header.get_attribute("aria-sort") == "ascending"
    assert sort() == [["noisy", "teacher", "student", "tiny"]] * 2
    assert header.get_attribute("aria-sort") is None
    page.locator("table.sortable thead button").nth(2).click()
    assert page.locator("table.sortable th[aria-sort]").count() == 1
    assert page.locator("table.sortable tbody").first.locator("th[scope=row]").all_text_contents() == [
        "tiny", "student", "teacher", "noisy",
    ]  # fmt: skip
    assert page.locator("tbody tr:first-child").first.text_content() == "test set one"
    for _ in range(2):
        page.locator("table.sortable thead button").nth(2).click()


@pytest.mark.parametrize("system", ["student", "teacher"])
@pytest.mark.parametrize("metric", [0, 1])
def test_worst_first_is_the_order_that_python_finds(page, system, metric):
    page.select_option("#pick-system", system)
    page.select_option("#pick-metric", str(metric))
    page.select_option("#pick-order", "worst")
    name = ("si_sdr", "pesq_wb")[metric]
    scores = [file.scores[system][name] for file in report().listening]
    expected = sorted(range(len(scores)), key=lambda i: (np.isnan(scores[i]), scores[i], i))
    assert files_of(page) == expected
    gains = [file.scores[system][name] - file.scores["noisy"][name] for file in report().listening]
    page.select_option("#pick-order", "least")
    assert files_of(page) == sorted(range(len(gains)), key=lambda i: (np.isnan(gains[i]), gains[i], i))


def test_files_are_sorted_by_snr_and_filtered_by_test_set(page):
    page.select_option("#pick-order", "snr")
    assert files_of(page) == [1, 3, 0, 4, 2]  # -5, 0, 5, 5, unknown
    page.select_option("#pick-group", label="b")
    assert files_of(page) == [3, 2]


def test_keys_play_seek_choose_and_move(page):
    page.keyboard.press(" ")
    page.wait_for_function(PLAYED)
    page.keyboard.press(" ")
    page.wait_for_function("() => !kdsePage.player.playing")
    assert "paused at noisy" in page.text_content("#status")
    page.keyboard.press("3")
    assert chosen(page) == "teacher"
    page.evaluate("kdsePage.player.seek(0.25)")
    page.keyboard.press("ArrowRight")
    assert position(page) == pytest.approx(1.25, abs=1e-4)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert position(page) == 0
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.evaluate("kdsePage.ready()")
    assert page.text_content("#file-name") == "second" and chosen(page) == "teacher"
    page.locator("#files-scroll").focus()
    page.keyboard.press("ArrowUp")
    assert page.text_content("#file-name") == "first"
    page.keyboard.press("?")
    assert page.evaluate("document.getElementById('help').open")
    page.keyboard.press("3")
    page.keyboard.press("Escape")
    assert not page.evaluate("document.getElementById('help').open")


def test_keys_are_left_to_controls_modifiers_and_readers_of_the_tables(page):
    page.locator("#pick-order").focus()
    for key in ("3", "j", " "):
        page.locator("#pick-order").dispatch_event("keydown", {"key": key, "bubbles": True})
    page.locator("#seek").focus()
    page.keyboard.press("Control+3")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Alt+3")
    assert chosen(page) == "noisy" and page.text_content("#file-name") == "first" and not page.evaluate(PLAYED)
    page.evaluate("window.scrollTo({ top: 0, behavior: 'instant' })")
    page.set_viewport_size({"width": 1280, "height": 300})
    page.wait_for_timeout(100)
    page.keyboard.press("3")
    assert chosen(page) == "noisy"
    page.set_viewport_size({"width": 1280, "height": 900})
    page.locator("#systems input").first.focus()
    page.keyboard.press("ArrowRight")  # a radio's own key
    assert chosen(page) == "clean" and position(page) == 0


def test_keys_can_be_switched_off(page):
    page.click("#help-open")
    page.uncheck("#keys-on")
    page.click("#help button")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("3")
    assert chosen(page) == "noisy"
    page.evaluate("document.getElementById('keys-on').checked = true")


def test_a_click_on_a_picture_goes_there_and_chooses_it(page):
    plot = page.locator(".row[data-system=student] .plot")
    box = plot.bounding_box()
    plot.click(position={"x": box["width"] * 0.75, "y": 20})
    assert chosen(page) == "student" and position(page) == pytest.approx(1.5, abs=0.01)
    assert page.get_attribute("#seek", "aria-valuetext") == "1.5 of 2.0 seconds"
    playhead = page.locator("#playhead").bounding_box()
    assert playhead["x"] + playhead["width"] / 2 == pytest.approx(box["x"] + 0.75 * box["width"], abs=1.5)


def test_a_damaged_signal_is_named_and_cannot_be_chosen(page):
    page.evaluate("kdsePage.open(4)")
    assert page.is_disabled("#systems input[value=student]")
    assert "student holds NaN" in page.text_content(".row[data-system=student]")
    assert "clean is silent" in page.text_content(".row[data-system=clean]")
    page.keyboard.press("4")
    assert chosen(page) == "noisy" and "failed" in page.text_content("#scores tr[data-system=teacher]")
    assert page.text_content("#scores tr[data-system=teacher]").count("+1.000") == 1


def test_what_the_browser_cannot_decode_is_said_in_words(page):
    page.evaluate(
        """async () => {
            const block = document.getElementById('audio-0-2');
            const kept = block.textContent;
            block.textContent = 'AAAA';
            await kdsePage.open(0);
            block.textContent = kept;
        }"""
    )
    assert "could not decode teacher" in page.text_content("#trouble") and page.is_visible("#trouble")
    assert page.evaluate("[...kdsePage.player.buffers.keys()]") == ["noisy", "clean", "student"]


def test_a_browser_without_web_audio_says_so_and_sorts_tables(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.add_init_script("delete window.AudioContext; delete window.OfflineAudioContext;")
    page = context.new_page()
    page.goto(address)
    page.wait_for_function("() => !document.getElementById('trouble').hidden")
    assert "could not decode" in page.text_content("#trouble")
    page.locator("table.sortable thead button").nth(1).click()
    assert page.locator("th[aria-sort]").count() == 1
    context.close()


def pixels(page, selector: str) -> np.ndarray:
    from PIL import Image

    png = page.locator(selector).screenshot()
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=float)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_drawn_picture_has_its_tone_at_the_right_height(page, system):
    drawn = pixels(page, f".row[data-system={system}] .plot img")
    middle = drawn[:, drawn.shape[1] // 3 : drawn.shape[1] // 2].sum(2).mean(1)
    middle[[0, -1]] = 0  # a picture may begin between two pixels of the screen
    expected = len(middle) * (1 - (TONES[system] / RATE * 512 + 0.5) / BINS)
    assert middle.argmax() + 0.5 == pytest.approx(expected, abs=2.0)
    assert drawn.std() > 5


def test_neither_width_is_blank(page, narrow):
    for one in (page, narrow):
        for selector in ("h1", "table.sortable", "figure img", "#files", ".transport", "#scores", ".bar img"):
            one.locator(selector).first.scroll_into_view_if_needed()
            assert one.locator(selector).first.is_visible()
            seen = pixels(one, f"{selector} >> nth=0")
            assert seen.std() > 1 or selector == "figure img", selector


def test_a_phone_never_scrolls_sideways_and_nothing_sticks_out(narrow):
    assert narrow.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    outside = narrow.evaluate(
        """() => [...document.querySelectorAll('button, input, select, a, img, .plot, h1, h2, h3, p')].filter((one) => {
            const box = one.getBoundingClientRect();
            const inside = one.closest('.scroll') || one.closest('.unseen') || !box.width;
            return !inside && (box.left < 0 || box.right > innerWidth + 0.5);
        }).map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert outside == []


def test_every_control_has_a_name_and_headings_are_in_order(page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, a')].filter((one) => !(
            one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.[0]?.textContent.trim()
        )).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("img:not([alt])").count() == 0 and page.locator("img[alt='']").count() == 0
    levels = [
        int(tag[1]) for tag in page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map((one) => one.tagName)")
    ]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    for landmark in ("main", "nav", "header", "footer"):
        assert page.locator(f"body {landmark}").count() == 1
    assert page.locator("table:not(:has(caption))").count() == 0 and page.locator("th:not([scope])").count() == 0
    ids = page.eval_on_selector_all("[id]", "all => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))
    described = page.eval_on_selector_all(
        "[aria-labelledby]", "all => all.map((one) => one.ariaLabelledByElements.length)"
    )
    assert described and all(described)


CONTRAST = """() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgba = (text) => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
    const bad = [];
    for (const one of document.querySelectorAll('body *')) {
        const text = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!text || !one.checkVisibility() || one.closest('.plot, .unseen, script, noscript, :disabled')) continue;
        let behind = one;
        while (behind && rgba(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
        const page = rgba(getComputedStyle(behind ?? document.body).backgroundColor);
        const [x, y] = [light(rgba(getComputedStyle(one).color)), light(page)].sort((p, q) => q - p);
        if ((x + 0.05) / (y + 0.05) < 4.5) bad.push([one.outerHTML.slice(0, 80), (x + 0.05) / (y + 0.05)]);
    }
    return bad;
}"""


def test_text_has_the_contrast_of_wcag_aa_in_light_and_dark(narrow):
    assert narrow.evaluate(CONTRAST) == []
