"""The site builds without a warning, with every public name, without a broken link, and without a network."""

import html.parser
import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytestmark = pytest.mark.xdist_group("site")  # one process builds it, also where tests of a file are shared out

ROOT = Path(__file__).parents[2]
API = runpy.run_path(str(ROOT / "tests" / "test_api.py"))


class Links(html.parser.HTMLParser):
    """The links and sources of a page, and the places that it has."""

    def __init__(self, text):
        super().__init__()
        self.links, self.sources, self.places = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places.add(given.get("id"))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        self.sources += [given[name] for name in ("src", "href") if given.get(name) and tag in ("script", "img", "link", "video")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if importlib.util.find_spec("furo") is None or importlib.util.find_spec("myst_nb") is None:
        pytest.skip('the extra "docs" is not installed')
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-d", out / "state", ROOT / "funrl" / "docs", out / "html"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-5_000:]
    return out / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {path.relative_to(site).as_posix(): Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


@pytest.mark.nightly
def test_every_public_name_is_there(site, pages):
    """A minute and a half: all docstrings become pages."""
    missing = []
    for module, names in API["public"]():
        page = pages[f"api/{module.__name__}.html"]
        missing += [f"{module.__name__}.{name}" for name in names if f"{module.__name__}.{name}" not in page.places]
    assert not missing and sum(len(names) for _, names in API["public"]()) > 500
    text = (site / "api" / "funrl.returns.html").read_text()
    assert "<math" in text and "lambda_" in text and "arXiv" in text


@pytest.mark.nightly
def test_no_link_is_broken_and_nothing_comes_from_elsewhere(site, pages):
    broken, elsewhere = [], []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (site / name).parent / unquote(parts.path) if parts.path else site / name
            whole = target.resolve().relative_to(site.resolve()).as_posix()
            if not target.exists() or (parts.fragment and whole in pages and unquote(parts.fragment) not in pages[whole].places):
                broken.append(f"{name}: {link}")
        elsewhere += [f"{name}: {x}" for x in page.sources if urlsplit(x).scheme in ("http", "https") or x.startswith("//")]
    assert not broken and not elsewhere and len(pages) > 80


@pytest.mark.nightly
def test_a_search_for_gae_finds_it(site):
    """In a browser, from the files alone."""
    browser = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium"))), None)
    assert "gae" in (site / "searchindex.js").read_text()
    if browser is None:
        pytest.skip("there is no headless Chromium")
    options = ["--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    address = (site / "search.html").as_uri() + "?q=gae"
    done = subprocess.run([browser, *options, address], capture_output=True, text=True, check=True, timeout=120)
    assert re.search(r'<a href="api/funrl\.returns\.html#funrl\.returns\.gae', done.stdout)
