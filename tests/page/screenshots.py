"""Takes the screenshots of the documentation: a daemon that has been driven for some minutes."""

import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import models
import served
from conftest import ARGUMENTS, HANG_MS

sys.path.insert(0, str(served.ROOT / "python/src"))
import synchromesh  # noqa: E402

# How long it is driven; the page shows five minutes.
DRIVE_S = 285.0
# Colours that cover little count as much as those that cover a lot.
COVERAGE = Image.Quantize.MAXCOVERAGE
# Name, width, height, colours.
SHOTS = [("light", 1280, 900, "light"), ("dark", 1280, 900, "dark"), ("tablet", 768, 1024, "light")]


def drive(daemon: served.Served, seconds: float) -> str:
    """Switches as a car would, and gives the task that is active at the end."""
    random_ = random.Random(11)
    after: dict[str, list[str]] = {}
    for before, task, weight in models.JOURNEY:
        after.setdefault(before, []).extend([task] * weight)
    task, end = "city", time.monotonic() + seconds
    while time.monotonic() < end:
        task = random_.choice(after[task])
        if random_.random() < 0.3:
            served.run("hint", f"{task}=0.9@500", "--control", daemon.control)
            time.sleep(0.5)
        daemon.switch(task)
        time.sleep(random_.uniform(0.4, 5))
    return task


@contextmanager
def consumers(daemon: served.Served) -> Iterator[None]:
    """Clients of two sessions, of which one still reads what was active before the last switch."""
    served.run("sessions", "open", "rear", "--control", daemon.control)
    daemon.switch("parking", "--session", "rear")
    with ExitStack() as stack:
        for session in ("", "", "rear"):
            attached = stack.enter_context(synchromesh.Attachment(daemon.attach, session=session))
        reader = stack.enter_context(synchromesh.Attachment(daemon.attach))
        stack.enter_context(reader.lease())
        yield


def take(browser: Browser, address: str, folder: Path, shot: tuple[str, int, int, str]) -> None:
    """One screenshot of the whole page."""
    name, width, height, scheme = shot
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce")
    context.set_default_timeout(HANG_MS)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("body.live:not(.starting)")
    page.wait_for_selector("#pool[data-cells]")
    page.wait_for_selector("#timeline:not([data-points='0'])")
    page.evaluate("document.fonts.ready")
    path = folder / f"status-{name}.png"
    page.screenshot(path=path, full_page=True)
    # Few colours are in it, and a repository keeps every version.
    Image.open(path).convert("RGB").quantize(256, COVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    context.close()


def main() -> None:
    """Takes them all into the folder that is named."""
    target, seconds = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else DRIVE_S
    with TemporaryDirectory(prefix="synchromesh-") as folder:
        bundle = models.drive(Path(folder), 48)
        model = f"{{bundle: {bundle}, pool_bytes: 7MiB, initial_task: city}}"
        others = "prefetch: {enabled: true}\nlimits: {lease_patience_ms: 3600000}\n"
        with served.serve([model], others, locks=True) as daemon, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
            task = drive(daemon, seconds)
            with consumers(daemon):
                daemon.switch(next(after for before, after, _ in models.JOURNEY if before == task))
                for shot in SHOTS:
                    take(browser, daemon.page, target, shot)
            browser.close()


if __name__ == "__main__":
    main()
