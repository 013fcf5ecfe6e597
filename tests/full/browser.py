"""Debian's Chromium, without a screen, for tests of pages; skipped, with the reason, where there is none."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

#: Nothing that would look for a network.
_ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-sandbox",
)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of one's own."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        yield browser
        browser.close()


@contextlib.contextmanager
def tab(browser: Browser, **options: Any) -> Iterator[tuple[Page, list[str], list[str]]]:
    """A tab, what went wrong in it, and the addresses it asked for."""
    context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
    page, troubles, asked = context.new_page(), [], []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: message.type == "error" and troubles.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    yield page, troubles, asked
    context.close()
