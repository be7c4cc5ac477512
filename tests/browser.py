"""A Chromium without a screen, where there is one; and what it complains of."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ALONE = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)


@contextmanager
def chromium() -> Iterator:
    """A browser. Skips the test where Chromium or playwright is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if not (path := next(filter(None, map(shutil.which, NAMES)), None)):
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ALONE))
        yield browser
        browser.close()


class Tab:
    """A page of a browser that must stay quiet: ``said`` has every console message and error, ``asked`` every address
    that was requested beside the page's own."""

    def __init__(self, browser, address: str, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        self.said, self.asked = [], []
        self.address = address.partition("#")[0]
        self.page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page.set_default_timeout(5_000)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)

    def __enter__(self) -> "Tab":
        return self

    def __exit__(self, kind, *_: object) -> None:
        self.page.close()
        if kind is None:
            assert not self.said, self.said
            assert {url.partition("#")[0] for url in self.asked} == {self.address}, self.asked
