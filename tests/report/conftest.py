"""The report page opened in headless Chromium, wide and as on a phone. Skips without Chromium or playwright."""

from __future__ import annotations

import shutil

import pytest

from kdse.report.page.page import write_page
from tests.report.page_reports import report

ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    """One a module: while playwright runs, nothing else in the process can use asyncio."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium (chromium, chromium-browser or google-chrome) on the PATH")
    reason = "playwright is not installed (pip install 'kdse[dev]')"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
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
