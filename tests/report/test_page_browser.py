"""The report page in a browser, from a file and without a network: tables, files, keys."""

from __future__ import annotations

import numpy as np
import pytest

from tests.report.page_reports import report

pytestmark = pytest.mark.integration

PLAYED = "() => kdsePage.player.playing"


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
