"""The whole path on the default model: rank, look, steer, compare, save, share."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from app.settings import load_settings

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# Read before a fixture gives every test a home of its own: the model is not fetched again.
MODELS = load_settings().home / "models"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT_MS = 180_000


def find_chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on this machine")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A dashboard with an empty database on the default model."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").symlink_to(MODELS, target_is_directory=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path / "serve.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve", "--port", str(port)],
        env={**os.environ, "SAIF_HOME": str(home), "PYTHONWARNINGS": "default"},
        stdout=log,
        stderr=log,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "serve.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "serve.log").read_text()
                time.sleep(0.3)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield opened
        opened.close()


def new_page(browser: Browser) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(WAIT_MS)
    expect.set_options(timeout=WAIT_MS)
    return page


def test_from_an_instruction_to_a_shared_link(server: str, browser: Browser) -> None:
    page = new_page(browser)
    page.goto(server)
    page.get_by_role("button", name="Find latents").click()
    expect(page.get_by_role("button", name="Go to the latents")).to_be_visible()
    assert "job=" in page.url

    page.reload()
    page.get_by_role("button", name="Go to the latents").click()
    expect(page.get_by_role("heading", name="Which latents carry it?")).to_be_visible()
    page.get_by_role("button", name="Steer with the top 15").click()

    expect(page.get_by_role("heading", name="What does it do to the text?")).to_be_visible()
    prompt = page.get_by_label("Prompt, without the instruction")
    prompt.fill("The old bridge was closed for repairs.")
    prompt.press("Control+Enter")
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_text("perplexity").first).to_be_visible()

    page.get_by_role("button", name="Save as session").click()
    page.get_by_label("Name").fill("First <b>light</b>")
    page.get_by_role("button", name="Save as new").click()
    expect(page.get_by_text("Saved as")).to_be_visible()

    page.goto(f"{server}/sessions")
    expect(page.get_by_role("heading", name="What did we find?")).to_be_visible()
    link = share_first_session(page)
    assert "session=" in link

    stranger = new_page(browser)
    stranger.goto(server + link[link.index("/?") :])
    expect(stranger.get_by_text("First <b>light</b>").first).to_be_visible()
    expect(stranger.get_by_text("The old bridge was closed for repairs.").first).to_be_visible()
    assert stranger.get_by_role("button", name="Generate").count() == 0


def share_first_session(page: Page) -> str:
    """Choose the first row, turn its link on and read it."""
    grid = page.locator("[data-testid=stDataFrame] canvas").first
    grid.wait_for()
    box = grid.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 15, box["y"] + 52)
    page.get_by_text("Share", exact=False).first.click()
    code = page.get_by_text("?session=").first
    code.wait_for()
    return code.inner_text().strip()
