"""The report page in a browser for eyes and for those who read with other means: pixels, names, order, contrast."""

from __future__ import annotations

import io

import numpy as np
import pytest

from kdse.report.page.spectrogram import BINS
from tests.report.page_reports import RATE, SYSTEMS, TONES

pytestmark = pytest.mark.integration


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
