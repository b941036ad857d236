"""Work survives a reload, two tabs do not write over each other, and nothing is lost in a click."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.steps import PROMPT, open_page, prompt_box, write_prompt

pytestmark = [pytest.mark.browser, pytest.mark.slow]
HAND = "sae=smollm2-135m-instruct/layer14&basket=1496:9,12:3"


def wait_until_kept(page: Page) -> str:
    """Wait until the address names what is kept; its id."""
    page.wait_for_url(re.compile("work="))
    found = re.search(r"work=([\w-]+)", page.url)
    assert found is not None
    return found[1]


def prompt_of(page: Page) -> str:
    return prompt_box(page).input_value()


def test_compare_survives_a_reload(chromium: Browser, dashboard: str) -> None:
    page = open_page(chromium, f"{dashboard}/compare?{HAND}")
    write_prompt(page)
    page.get_by_role("button", name="Arm", exact=True).click()
    page.get_by_text("Control: random", exact=True).click()
    page.get_by_label("Name").first.wait_for()
    page.get_by_text("Method, scope and sampling").click()
    tokens = page.get_by_role("spinbutton", name="Tokens at most")
    tokens.fill("7")
    tokens.press("Enter")
    wait_until_kept(page)
    page.get_by_text("add arms to compare with").wait_for(state="hidden")
    page.wait_for_timeout(1500)

    page.reload()
    expect(prompt_box(page)).to_have_value(PROMPT)
    expect(page.locator("[class*=st-key-arm_][class*=_name] input")).to_have_value(
        re.compile("random")
    )
    page.get_by_text("Method, scope and sampling").click()
    expect(page.get_by_role("spinbutton", name="Tokens at most")).to_have_value("7")
    page.context.close()


def test_two_tabs_keep_work_of_their_own(chromium: Browser, dashboard: str) -> None:
    page = open_page(chromium, f"{dashboard}/compare?{HAND}")
    write_prompt(page)
    first = wait_until_kept(page)
    other = page.context.new_page()
    other.goto(page.url)
    expect(prompt_box(other)).to_have_value(PROMPT)
    box = prompt_box(other)
    box.fill("Another prompt.")
    box.press("Tab")
    other.wait_for_url(lambda url: "work=" in url and first not in url)
    other.wait_for_timeout(1000)

    page.reload()
    expect(prompt_box(page)).to_have_value(PROMPT)
    other.reload()
    expect(prompt_box(other)).to_have_value("Another prompt.")
    page.context.close()


def test_evaluate_keeps_its_form(chromium: Browser, dashboard: str) -> None:
    page = open_page(chromium, f"{dashboard}/evaluate?{HAND}")
    strengths = page.get_by_label("Strengths", exact=True)
    strengths.fill("0.75, 1")
    strengths.press("Enter")
    wait_until_kept(page)
    page.wait_for_timeout(1000)
    page.reload()
    expect(page.get_by_label("Strengths", exact=True)).to_have_value("0.75, 1")
    page.context.close()


def test_the_key_of_generate_takes_what_was_just_typed(chromium: Browser, dashboard: str) -> None:
    page = open_page(chromium, f"{dashboard}/compare?{HAND}")
    page.get_by_role("button", name="Generate").wait_for()
    box = prompt_box(page)
    box.fill(PROMPT)
    box.press("Control+Enter")
    page.get_by_text("perplexity").nth(1).wait_for()
    assert page.get_by_text(PROMPT, exact=True).last.is_visible()
    assert page.get_by_text("perplexity").first.bounding_box()["y"] < 1500  # type: ignore[index]
    page.context.close()


def test_a_text_that_is_too_long_says_so(chromium: Browser, dashboard: str) -> None:
    page = open_page(chromium, f"{dashboard}/compare?{HAND}")
    page.get_by_role("button", name="Generate").wait_for()
    box = prompt_box(page)
    box.fill("word " * 2000)
    box.press("Tab")
    expect(page.get_by_text("at most 8,000 are taken").first).to_be_visible()
    expect(page.locator(".st-key-compare_generate button").first).to_be_disabled()
    page.context.close()


@pytest.mark.parametrize("path", ["compare", "evaluate"])
def test_the_primary_button_is_above_the_fold(chromium: Browser, dashboard: str, path: str) -> None:
    page = open_page(chromium, f"{dashboard}/{path}?{HAND}")
    page.set_viewport_size({"width": 1440, "height": 900})
    key = {"compare": "compare_generate", "evaluate": "evaluation_measure_button"}[path]
    box = page.locator(f".st-key-{key} button").first.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 900
    page.context.close()


def test_one_press_leads_back_to_the_page_before(chromium: Browser, dashboard: str) -> None:
    page = open_page(chromium, f"{dashboard}/evaluate?{HAND}")
    page.get_by_role("button", name="Measure").first.wait_for()
    page.wait_for_timeout(1000)
    for name in ("Compare", "Sessions"):
        page.get_by_role("link", name=name, exact=True).click()
        page.wait_for_url(re.compile(f"{name.lower()}.*basket="))
    page.go_back()
    page.wait_for_url(re.compile("compare.*basket="))
    page.get_by_role("heading", name="What does it do to the text?").wait_for()
    page.go_back()
    page.wait_for_url(re.compile("evaluate.*basket="))
    page.context.close()
