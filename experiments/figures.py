"""The pictures of README.md, from a report: `make figures` after `make demo`.

Copies figures of a report and takes a picture of the listening part of its page, with the browser of this machine.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Nothing that needs a network, a screen or a user.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="folder that kdse report wrote")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("--figures", nargs="*", default=[], metavar="NAME[=NEW]", help="figures to copy, without .png")
    parser.add_argument("--listening", action="store_true", help="also take a picture of the listening part")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for text in arguments.figures:
        name, _, new = text.partition("=")
        shutil.copyfile(arguments.report / "figures" / f"{name}.png", arguments.out / f"{new or name}.png")
    if arguments.listening:
        browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
        if browser is None:
            print(f"figures: no browser found ({', '.join(BROWSERS)}); install Chromium", file=sys.stderr)
            return 2
        picture(browser, arguments.report / "report.html", arguments.out / "listening.png")
    return 0


def picture(browser: str, page: Path, out: Path) -> None:
    """The listening part of a page, as a PNG of 64 colours: it lies in a repository."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=browser, args=list(FLAGS))
        tab = window.new_page(viewport={"width": 1180, "height": 900})
        tab.goto(page.resolve().as_uri())
        part = tab.locator("section#listening, section[aria-labelledby=listening]").first
        part.scroll_into_view_if_needed()
        tab.wait_for_timeout(1000)  # its sound and pictures are decoded
        part.screenshot(path=str(out))
        window.close()
    Image.open(out).convert("RGB").quantize(64).save(out, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
