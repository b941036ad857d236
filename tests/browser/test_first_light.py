"""The whole path as a person walks it: rank, read, steer, save, share."""

import re

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.steps import PROMPT, open_page, save_and_share, write_prompt

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NAME = "First <b>light</b>"
FRENCH = re.compile("French")


def test_from_an_instruction_to_a_link_that_a_colleague_opens(
    chromium: Browser, dashboard: str
) -> None:
    page = open_page(chromium, dashboard)

    # What should the model do? An example is there to read, the rest begins with a click.
    page.get_by_text("The museum is open at ten").wait_for()
    page.get_by_text("translate to french").click()
    expect(page.get_by_role("textbox", name="Say it in words")).to_have_value(FRENCH)
    page.get_by_role("button", name="Find what carries it").click()

    # Which instruction? The ranking goes on while the page is loaded anew.
    page.locator(".st-key-rank_stop button").wait_for()
    page.wait_for_url("**job=*")
    page.reload()
    page.get_by_role("button", name="Go to the latents").click()

    # Which latents carry it? The view lives in the address.
    page.get_by_role("button", name="Steer with the top 15").wait_for()
    assert "job=" in page.url
    page.get_by_role("button", name="Steer with the top 15").click()

    # What does it do to the text?
    write_prompt(page)
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("perplexity").nth(1).wait_for()

    # What did we find?
    link = save_and_share(page, dashboard, NAME)
    page.context.close()

    colleague = open_page(chromium, link, theme="dark")
    expect(colleague.get_by_text(NAME, exact=True).first).to_be_visible()
    expect(colleague.get_by_text(PROMPT).first).to_be_visible()
    expect(colleague.get_by_role("button", name="Generate")).to_have_count(0)
    colleague.context.close()


def test_from_the_first_screen_to_a_text_in_french_by_clicks_alone(
    chromium: Browser, dashboard: str
) -> None:
    page = open_page(chromium, dashboard)
    page.get_by_text("translate to french").click()
    expect(page.get_by_text(re.compile("Measured on 80 contents: useful"))).to_be_visible()
    page.get_by_role("button", name="Steer with what measured best").click()
    counted = page.get_by_text("Texts that follow the instruction:")
    expect(counted).to_contain_text("unsteered: strictly 0")
    expect(counted).to_contain_text(re.compile("measured best: strictly [123]"))
    expect(counted).to_contain_text("random: strictly 0")
    page.context.close()
