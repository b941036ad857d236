"""Letters that everyone can read: every text of every page, in both themes."""

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser

from tests.browser.steps import open_page

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PAGES = (
    *("", "latents", "latent?latent=3469", "compare", "evaluate", "sessions"),
    *("search", "vector", "sae_health", "corpus", "?session=nothing"),
)
FAINT = (Path(__file__).parent / "faint_texts.js").read_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_has_a_contrast_of_at_least_four_and_a_half(
    chromium: Browser, dashboard: str, theme: Literal["light", "dark"]
) -> None:
    faint = {}
    page = open_page(chromium, dashboard, theme=theme)
    for name in PAGES:
        page.goto(f"{dashboard}/{name}")
        page.locator("h1").first.wait_for()
        # Nothing is faded while the page is drawn.
        page.locator("[data-testid=stStatusWidget]").wait_for(state="hidden")
        page.wait_for_timeout(1000)
        if found := page.evaluate(FAINT):
            faint[name] = found
    page.context.close()
    assert faint == {}
