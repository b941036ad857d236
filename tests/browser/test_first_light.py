"""The whole path as a person walks it: rank, read, steer, save, share."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.slow]
MINUTES = 60_000  # in milliseconds
PROMPT = "The old bridge was closed for repairs."
NAME = "First <b>light</b>"


def open_page(chromium: Browser, url: str, color_scheme: str) -> Page:
    context = chromium.new_context(
        viewport={"width": 1280, "height": 900},
        color_scheme=color_scheme,  # type: ignore[arg-type]
    )
    page = context.new_page()
    page.goto(url)
    return page


def test_from_an_instruction_to_a_link_that_a_colleague_opens(
    chromium: Browser, dashboard: str
) -> None:
    page = open_page(chromium, dashboard, "light")
    page.set_default_timeout(3 * MINUTES)

    # Which instruction? The ranking goes on while the page is loaded anew.
    page.get_by_text("As the model sees it").wait_for()
    page.get_by_role("button", name="Find latents").click()
    page.locator(".st-key-rank_stop button").wait_for()
    page.wait_for_url("**job=*")
    page.reload()
    page.get_by_role("button", name="Go to the latents").click()

    # Which latents carry it? The view lives in the address.
    page.get_by_role("button", name="Steer with the top 15").wait_for()
    assert "job=" in page.url
    page.get_by_role("button", name="Steer with the top 15").click()

    # What does it do to the text?
    prompt = page.get_by_label("Prompt, without the instruction")
    prompt.fill(PROMPT)
    prompt.press("Control+Enter")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("perplexity").nth(1).wait_for()

    # What did we find?
    page.get_by_role("button", name="Save as session").click()
    page.get_by_label("Name").fill(NAME)
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
    page.context.close()

    colleague = open_page(chromium, f"{dashboard}/{match[0]}", "dark")
    expect(colleague.get_by_text(NAME, exact=True).first).to_be_visible(timeout=MINUTES)
    expect(colleague.get_by_text(PROMPT).first).to_be_visible()
    expect(colleague.get_by_role("button", name="Generate")).to_have_count(0)
    colleague.context.close()
