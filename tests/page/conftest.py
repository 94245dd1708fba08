"""Bundles, a browser, and pages that must not complain."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

import models
import served

# Root, as in containers, has no sandbox; and /dev/shm may be small.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
# How long anything may take before a test gives up, in milliseconds; it measures nothing.
HANG_MS = 60_000


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that goes with the run."""
    with TemporaryDirectory(prefix="synchromesh-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def drive(folder: Path) -> Path:
    """A bundle of 256 blocks and eight tasks."""
    return models.drive(folder, 16)


@pytest.fixture(scope="session")
def large(folder: Path) -> Path:
    """A bundle of 16384 blocks."""
    return models.large(folder)


@pytest.fixture(scope="session")
def many(folder: Path) -> Path:
    """A bundle of 4096 blocks and 64 tasks, nearly each block of which has a set of tasks of its own."""
    return models.many(folder)


@pytest.fixture
def daemon(drive: Path) -> Iterator[served.Served]:
    """A daemon of a test's own that serves the small bundle and has city active."""
    with served.serve([f"{{bundle: {drive}, pool_bytes: 1MiB, initial_task: city}}"]) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        yield browser
        browser.close()


class Watched:
    """A page, and all that was wrong with it."""

    def __init__(self, context: BrowserContext) -> None:
        context.set_default_timeout(HANG_MS)
        self.page: Page = context.new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda said: self.wrong.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        # Refusals of the policy are said on the console, too; this is in case they are not.
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', (it) => console.error('refused ' + it.blockedURI))"
        )

    def open(self, address: str) -> Page:
        """Opens the page and waits until it shows a daemon."""
        self.page.goto(address)
        self.page.wait_for_selector("body.live:not(.starting)")
        return self.page

    def others(self, address: str) -> list[str]:
        """What was asked of any other place."""
        return [url for url in self.asked if urlsplit(url).netloc != urlsplit(address).netloc]


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Makes pages; at the end, none of them may have had anything wrong."""
    contexts: list[BrowserContext] = []
    made: list[Watched] = []

    def make(width: int = 1280, height: int = 900, **settings: object) -> Watched:
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        made.append(Watched(context))
        return made[-1]

    yield make
    wrong = [what for watched in made for what in watched.wrong]
    for context in contexts:
        context.close()
    assert wrong == []
