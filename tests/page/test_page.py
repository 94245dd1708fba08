"""The status page as a browser shows it: it draws, follows what happens, and keeps to its own place."""

import json
import re
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from playwright.sync_api import Page, expect

import served
from conftest import HANG_MS, Watched

expect.set_options(timeout=HANG_MS)

Watch = Callable[..., Watched]

# How many colours a canvas has: one that is blank has one.
COLOURS = """(id) => {
  const canvas = document.getElementById(id);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
}"""
SCROLLS = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


def image(page: Page, canvas: str) -> str:
    """What a canvas shows."""
    return page.evaluate("(id) => document.getElementById(id).toDataURL()", canvas)


def wait_for(page: Page, condition: str, value: object = None) -> None:
    """Waits until something holds in the page, told once a second or more often."""
    page.wait_for_function(condition, arg=value)


def points(page: Page, number: int) -> None:
    """Waits until the timeline has so many points."""
    expect(page.locator("#timeline")).to_have_attribute("data-points", str(number))


def test_it_draws_and_asks_nobody_else(daemon: served.Served, watch: Watch) -> None:
    watched = watch()
    page = watched.open(daemon.page)
    expect(page.locator("#pool")).to_have_attribute("data-cells", "256")
    points(page, 1)
    for canvas in ("pool", "timeline"):
        assert page.evaluate(COLOURS, canvas) > 3, canvas
    expect(page.locator("#graph .node")).to_have_count(8)
    assert int(page.locator("#graph").get_attribute("data-edges") or 0) >= 8
    assert page.locator("#graph path.edge").count() >= 8
    expect(page.locator(".active")).to_contain_text("city")
    expect(page.locator("#health")).to_contain_text("serving")
    assert page.title().startswith("city")
    assert watched.others(daemon.page) == []
    # All but the first request come from the page itself, which names its files.
    assert {url.rsplit("/", 1)[-1] for url in watched.asked} >= {"app.js", "style.css", "events", "models"}


def test_it_follows_switches(daemon: served.Served, watch: Watch) -> None:
    page = watch(reduced_motion="reduce").open(daemon.page)
    expect(page.locator(".active")).to_contain_text("city")
    expect(page.locator("#graph .now")).to_contain_text("city")
    points(page, 1)
    pool, timeline = image(page, "pool"), image(page, "timeline")
    daemon.switch("highway")
    expect(page.locator(".active")).to_contain_text("highway")
    expect(page.locator("#graph .now")).to_contain_text("highway")
    points(page, 2)
    wait_for(page, "(before) => document.getElementById('pool').toDataURL() !== before", pool)
    assert image(page, "timeline") != timeline
    # What city alone needs is kept, and no part of it is missing.
    expect(page.locator("#pool-tasks button", has_text="city")).to_contain_text("100 %")
    for task in ("rural", "city", "rural"):
        daemon.switch(task)
    points(page, 5)
    expect(page.locator("#switches-table tbody tr")).to_have_count(5)


def test_it_says_why_a_switch_was_slow(daemon: served.Served, watch: Watch) -> None:
    page = watch().open(daemon.page)
    daemon.switch("parking")
    why = page.locator("#why")
    expect(why).to_contain_text("city → parking took")
    expect(why).to_contain_text("came from storage")
    expect(why).to_contain_text("were there already")
    # A switch that found all of it is not slow; chosen, it is explained all the same.
    daemon.switch("city")
    points(page, 3)
    page.locator("#timeline").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#why-title")).to_have_text("The chosen switch")
    expect(why).to_contain_text("parking → city took")
    expect(page.locator("#timeline-switch")).to_contain_text("parking → city")
    page.keyboard.press("Escape")
    expect(page.locator("#why-title")).to_have_text("The last slow switch")


def test_a_switch_that_fails_is_marked(drive: Path, watch: Watch) -> None:
    # A pool with hardly more room than one task takes.
    with served.serve([f"{{bundle: {drive}, pool_bytes: 460KiB, initial_task: city}}"]) as daemon:
        page = watch().open(daemon.page)
        points(page, 1)
        with pytest.raises(AssertionError, match="POOL_FULL"):
            daemon.switch("highway")
        points(page, 2)
        expect(page.locator("#switches-note")).to_have_text("2 switches, 1 failed")
        expect(page.locator("#why")).to_contain_text("city → highway failed")
        expect(page.locator("#why")).to_contain_text("The session keeps city.")
        expect(page.locator(".active")).to_contain_text("city")


def test_pointer_and_keys_tell_what_a_slot_holds(daemon: served.Served, watch: Watch) -> None:
    page = watch().open(daemon.page)
    line = page.locator("#pool-cell")
    page.locator("#pool").hover(position={"x": 5, "y": 5})
    expect(line).to_contain_text("Slot 0 · in use · needed by")
    page.mouse.move(0, 0)
    expect(line).to_contain_text("Point at a slot")
    page.locator("#pool").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(line).to_contain_text("Slot 1")
    before = image(page, "pool")
    page.locator("#pool-tasks button", has_text="fog").click()
    assert image(page, "pool") != before, "the rest is dimmed"


def test_names_are_text(daemon: served.Served, watch: Watch) -> None:
    page = watch().open(daemon.page)
    name = "<img src=x onerror=document.title='bad'>\x1b[31m"
    daemon.switch("parking", "--request-id", name)
    expect(page.locator("#why")).to_contain_text("request <img src=x onerror=document.title='bad'>")
    assert page.locator("#why img").count() == 0
    assert page.evaluate("document.querySelectorAll('img').length") == 1, "the one of the head"
    assert not page.title().startswith("bad")
    assert page.evaluate("document.querySelectorAll('script').length") == 1
    for script in (Path(served.ROOT, "src/observe/http/assets")).glob("*.js"):
        text = script.read_text()
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert way not in text, f"{script.name} uses {way}"


def test_dark_and_light_differ_and_both_can_be_read(daemon: served.Served, watch: Watch) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        page = watch(color_scheme=scheme, reduced_motion="reduce").open(daemon.page)
        expect(page.locator("#pool")).to_have_attribute("data-cells", "256")
        grounds[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert page.evaluate(CONTRAST) == [], scheme
    assert grounds["light"] != grounds["dark"]
    # The same page follows when the choice changes.
    before = image(page, "pool")
    page.emulate_media(color_scheme="light")
    wait_for(page, "(before) => document.getElementById('pool').toDataURL() !== before", before)


# Texts whose contrast with what is behind them is below 4.5 (WCAG AA).
CONTRAST = """() => {
  const parse = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const light = (colour) => {
    const [r, g, b] = parse(colour).map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (colour.startsWith("rgb(")) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const bad = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.getClientRects().length || node.closest("noscript")) continue;
    const style = getComputedStyle(node);
    const ink = node instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(ink), light(ground(node))].sort((a, b) => b - a);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.push(`${node.textContent.trim()} ${ink} on ${ground(node)}`);
  }
  return bad;
}"""


@pytest.mark.parametrize("width", [768, 1024, 360])
def test_it_fits_tablets_and_phones(daemon: served.Served, watch: Watch, width: int) -> None:
    page = watch(width, 1024, has_touch=True).open(daemon.page)
    expect(page.locator("#pool")).to_have_attribute("data-cells", "256")
    points(page, 1)
    assert not page.evaluate(SCROLLS), "nothing is beside the screen"
    page.locator(".switches summary").click()
    assert not page.evaluate(SCROLLS), "nor is a table"
    page.locator("#pool").tap(position={"x": 5, "y": 5})
    expect(page.locator("#pool-cell")).to_contain_text("Slot 0")


def test_p1_a_daemon_that_is_gone_is_told_and_the_page_recovers(daemon: served.Served, watch: Watch) -> None:
    watched = watch()
    page = watched.open(daemon.page)
    daemon.switch("night")
    points(page, 2)
    assert watched.wrong == []
    daemon.stop(signal.SIGKILL)
    expect(page.locator("#link")).to_contain_text("does not answer")
    expect(page.locator("body")).to_have_class("gone")
    assert page.evaluate("getComputedStyle(document.querySelector('main')).filter") != "none", "what was is grey"
    expect(page.locator(".active")).to_contain_text("night")
    daemon.start()
    expect(page.locator("body")).to_have_class("live")
    # The session survives a kill.
    expect(page.locator(".active")).to_contain_text("night")
    # What happened before the restart is still to be seen, and what happens after it is added.
    points(page, 3)
    daemon.switch("rain")
    points(page, 4)
    # The browser itself tells of connections that were refused, and nothing else was wrong.
    assert [what for what in watched.wrong if "net::ERR_" not in what] == []
    watched.wrong.clear()


def test_a_page_for_which_there_is_no_place_waits_for_one(daemon: served.Served, watch: Watch) -> None:
    address = urlsplit(daemon.page)
    request = f"GET /api/events HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode()
    with ExitStack() as others:
        for _ in range(16):
            other = others.enter_context(socket.create_connection((address.hostname, address.port)))
            other.sendall(request)
            assert other.recv(15) == b"HTTP/1.1 200 OK"
        watched = watch()
        watched.page.goto(daemon.page)
        expect(watched.page.locator("#link")).to_contain_text("too many pages are open")
    expect(watched.page.locator("#link")).to_have_text("live")
    expect(watched.page.locator(".active")).to_contain_text("city")
    assert [what for what in watched.wrong if "503" not in what] == []
    watched.wrong.clear()


def test_models_can_be_chosen_and_a_large_pool_draws(drive: Path, large: Path, watch: Watch) -> None:
    models = [f"{{bundle: {drive}, pool_bytes: 1MiB, initial_task: city}}", f"{{bundle: {large}, pool_bytes: 64MiB}}"]
    with served.serve(models) as daemon:
        page = watch(reduced_motion="reduce").open(daemon.page)
        expect(page.locator("#pool")).to_have_attribute("data-cells", "256")
        page.locator("#models button", has_text="large").click()
        pool = page.locator("#pool")
        # A cell for several slots, as there are so many.
        expect(pool).to_have_attribute("data-cells", re.compile(r"^\d{4,}$"))
        empty = image(page, "pool")
        daemon.switch("left", "--model", "large")
        expect(page.locator(".active")).to_contain_text("left")
        wait_for(page, "(before) => document.getElementById('pool').toDataURL() !== before", empty)
        assert page.evaluate(COLOURS, "pool") > 3
        page.locator("#models button", has_text="drive").click()
        expect(page.locator(".active")).to_contain_text("city")


# Counts from now on which canvases are made and how often styles are asked for.
COUNTED = """() => {
  window.counted = { canvases: 0, styles: 0 };
  const [make, style] = [document.createElement.bind(document), window.getComputedStyle.bind(window)];
  document.createElement = (name, ...more) => ((window.counted.canvases += name === "canvas"), make(name, ...more));
  window.getComputedStyle = (...of) => (window.counted.styles++, style(...of));
}"""

# What is counted while something is drawn twice, by drawing.
DURING = """([file, name, what]) => import(file).then((module) => {
  const before = counted[what];
  module[name]();
  module[name]();
  return (counted[what] - before) / 2;
})"""


def test_of_many_tasks_what_looks_the_same_is_made_once(many: Path, watch: Watch) -> None:
    with served.serve([f"{{bundle: {many}, pool_bytes: 24MiB, initial_task: task-of-a-long-name-00}}"]) as daemon:
        watched = watch(reduced_motion="reduce")
        watched.page.add_init_script(f"({COUNTED})()")
        page = watched.open(daemon.page)
        expect(page.locator("#pool")).to_have_attribute("data-cells", re.compile(r"^\d{4}$"))
        for i in (63, 7, 31, 32):
            daemon.switch(f"task-of-a-long-name-{i:02}")
            expect(page.locator(".active")).to_contain_text(f"name-{i:02}")
            # Its share is told from masks of 64 bits.
            expect(page.locator("#pool-tasks button", has_text=f"name-{i:02}")).to_contain_text("100 %")
        # A cell each of thousands has a set of tasks of its own, but there are 128 strengths and hues of three kinds.
        assert page.evaluate("counted.canvases") < 600
        assert page.evaluate(DURING, ["/pool.js", "drawPool", "canvases"]) == 0, "what was made is kept"
        assert page.evaluate(DURING, ["/timeline.js", "drawTimeline", "styles"]) == 1, "colours are read once"
        # The rest of the tasks is there, but not in the way.
        assert page.locator("#pool-tasks button").count() < 20
        expect(page.locator("#pool-more summary")).to_contain_text("other tasks")
        page.locator("#pool-more summary").click()
        last = page.locator("#pool-others button").last
        before = image(page, "pool")
        last.click()
        assert image(page, "pool") != before, "the rest is dimmed"
        assert page.evaluate(OVERLAPS) == []


# Names in the graph that lie on one another.
OVERLAPS = """() => {
  const seen = [...document.querySelectorAll("#graph .node text")].filter((it) => getComputedStyle(it).visibility !== "hidden");
  const boxes = seen.map((it) => [it.textContent, it.getBoundingClientRect()]);
  return boxes.flatMap(([name, a], i) => boxes.slice(i + 1)
    .filter(([, b]) => a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom)
    .map(([other]) => `${name} ${other}`));
}"""


def stream(lost: int, first: int) -> str:
    """What a page is told of events: how many are missing before the first, and one of each of two kinds."""
    now = time.time_ns() // 1000
    missing = [{"sequence": first - 1, "time_us": now, "lost": {"count": lost}}] if lost else []
    opened = {"sequence": first, "time_us": now - 100_000_000, "session": "rear", "session_opened": {}}
    events = {"instance": "I", "events": [*missing, opened]}
    return f"event: events\nid: I:{first}\ndata: {json.dumps(events)}\n\n"


@pytest.mark.parametrize("lost", [0, 7])
def test_what_aged_before_a_page_came_is_not_kept_and_not_lost(daemon: served.Served, watch: Watch, lost: int) -> None:
    watched = watch()
    told = json.loads(urlopen(f"{daemon.page}api/status").read())
    state = json.dumps({"instance": "I", "now_us": time.time_ns() // 1000, "status": told})
    body = f"retry: 3600000\n\nevent: status\ndata: {state}\n\n{stream(lost, 8)}"
    watched.page.route("**/api/events*", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    watched.page.goto(daemon.page)
    page = watched.page
    expect(page.locator("#why")).to_contain_text("older switches are not kept")
    expect(page.locator("#health div", has_text="Events lost")).to_contain_text("0")
    expect(page.locator("#health div", has_text="Events lost")).to_have_class("")
    expect(page.locator("#log")).not_to_contain_text("not kept")
    assert int(page.locator("#timeline").get_attribute("data-unknown") or 0) > 0, "what is not known is shaded"


LEASE = """() => import("/panels.js").then(({ showSessions }) => {
  const lease = { pid: 4194304, uid: 65534, task: "highway-in-the-rain", kept: { bytes: 123456789 }, superseded_ms: 7e6, revoked: false };
  const it = { session: "default", generation: 12, clients: 3, task: "city", likely: [], leases: [lease] };
  showSessions({ sessions: [it] }, ["city"]);
  const { scrollWidth, clientWidth } = document.querySelector("#sessions .scroll");
  return scrollWidth <= clientWidth;
})"""


def test_leases_are_whole_on_a_tablet(daemon: served.Served, watch: Watch) -> None:
    page = watch(768, 1024, has_touch=True).open(daemon.page)
    assert page.evaluate(LEASE)
