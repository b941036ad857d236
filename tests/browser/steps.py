"""Steps that several walks take."""

import re
from typing import Literal

from playwright.sync_api import Browser, Locator, Page, expect

# In milliseconds; a busy machine computes and draws slowly.
PATIENCE = 300_000
PROMPT = "The old bridge was closed for repairs."

expect.set_options(timeout=PATIENCE)


def open_page(
    chromium: Browser, url: str, *, height: int = 900, theme: Literal["light", "dark"] = "light"
) -> Page:
    """A window of its own, at an address."""
    context = chromium.new_context(viewport={"width": 1280, "height": height}, color_scheme=theme)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(url)
    return page


def prompt_box(page: Page) -> Locator:
    """The box of the prompt of the Compare page."""
    return page.get_by_role("textbox", name="Prompt, without the instruction")


def write_prompt(page: Page) -> None:
    """Fill the prompt of the Compare page."""
    prompt = prompt_box(page)
    prompt.fill(PROMPT)
    prompt.press("Control+Enter")


def save_and_share(page: Page, dashboard: str, name: str) -> str:
    """Save what the Compare page shows as a session; the link under which it is shared."""
    page.get_by_role("button", name="Save as session").click()
    page.locator(".st-key-save_name input").fill(name)
    page.get_by_role("button", name="Save as new").click()
    page.get_by_text("Saved as").wait_for()
    page.goto(f"{dashboard}/sessions")
    box = page.locator("[data-testid=stDataFrame] canvas").first.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 15, box["y"] + 52)  # the first row's selection box
    page.get_by_text("Share link").first.click()
    link = page.get_by_text("?session=").first.inner_text()
    match = re.search(r"\?session=[\w-]+", link)
    assert match is not None
    return f"{dashboard}/{match[0]}"
