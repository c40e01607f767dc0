"""Every page of the built site in headless Chromium, at the width of a phone: make browser.

It is not part of `python -m pytest`, because it needs the site, Playwright and Chromium.
"""

import functools
import http.server
import pathlib
import re
import shutil
import threading
import urllib.parse

import pytest
from playwright.sync_api import Page, sync_playwright

SITE = pathlib.Path(__file__).resolve().parents[2] / "build" / "site"
PHONE = {"width": 390, "height": 844}
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: sudo apt install chromium")
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
assert PAGES, "there is no site: run make docs"
# Listings of code are alike: a tenth of them is enough.
LISTINGS = [page for page in PAGES if page.startswith("_modules/")]
SHOWN = [page for page in PAGES if page not in LISTINGS] + LISTINGS[::10]
IMAGES = """[...document.images]
  .filter(i => !i.naturalWidth || !i.alt.trim() || /\\.(png|svg|jpe?g|gif)$/.test(i.alt))
  .map(i => `image ${i.src} of ${i.naturalWidth} pixels with the text "${i.alt}"`)"""
# What a reader cannot reach. Wide tables and code scroll in boxes of their own.
CUT_OFF = """[...document.querySelectorAll("article *")]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .filter(e => {
    for (; e.tagName != "ARTICLE"; e = e.parentElement)
      if (/auto|scroll/.test(getComputedStyle(e).overflowX)) return false;
    return true;
  })
  .map(e => `wider than the screen: ${e.outerHTML.slice(0, 80)}`)"""
LINKS = "[...new Set([...document.links].map(link => link.href))]"


@pytest.fixture(scope="module")
def address():
    """The site's address, on a free port of this machine."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def tab():
    """A tab of the browser, which all tests use."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser.new_page(viewport=PHONE)
        browser.close()


@pytest.fixture
def problems(tab: Page, address: str):
    """A list, to which the browser's complaints during a test are added."""
    found = []
    events = {
        "console": lambda m: found.append(f"{m.type}: {m.text} ({m.location['url']})"),
        "pageerror": lambda error: found.append(str(error)),
        # Aborted: the tab left a page before this page's icon was there.
        "requestfailed": lambda request: (
            request.failure == "net::ERR_ABORTED"
            or found.append(f"{request.url}: {request.failure}")
        ),
        "response": lambda r: r.ok or r.status == 304 or found.append(f"{r.url}: {r.status}"),
        "request": lambda request: (
            request.url.startswith((address, "data:"))
            or found.append(f"another site: {request.url}")
        ),
    }
    for name, listener in events.items():
        tab.on(name, listener)
    yield found
    for name, listener in events.items():
        tab.remove_listener(name, listener)


@functools.cache
def ids(path: str) -> set[str]:
    """The names of the places on a page of the site."""
    return set(re.findall(r'\bid="([^"]*)"', (SITE / path).read_text(encoding="utf-8")))


@functools.cache
def leads_nowhere(link: str) -> bool:
    """Whether a link, relative to the site's address, has no file or no place in it."""
    path, _, place = link.partition("#")
    path = path.partition("?")[0] or "index.html"
    if not (SITE / path).is_file():
        return True
    return bool(place) and urllib.parse.unquote(place) not in ids(path)


@pytest.mark.parametrize("path", SHOWN)
def test_page(tab: Page, address: str, problems: list[str], path: str):
    """A page loads without complaints, its links lead somewhere, and it fits on a phone."""
    tab.goto(address + path)
    problems += tab.evaluate(IMAGES) + tab.evaluate(CUT_OFF)
    links = (link.removeprefix(address) for link in tab.evaluate(LINKS) if link.startswith(address))
    problems += [f"link to {link}" for link in links if leads_nowhere(link)]
    assert not problems
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= PHONE["width"]


def test_search(tab: Page, address: str, problems: list[str]):
    """A word that is typed into the search box leads to a page with this word."""
    tab.goto(address)
    tab.locator("label.nav-overlay-icon").click()
    tab.get_by_placeholder("Search").fill("dropout")
    tab.keyboard.press("Enter")
    first = tab.locator("#search-results li a").first
    first.wait_for()
    tab.wait_for_load_state("networkidle")  # the texts of the results
    assert not problems
    first.click()
    tab.wait_for_url(lambda url: "search.html" not in url)
    assert "dropout" in tab.locator("article").inner_text().lower()
