"""Measure, click a point, read its texts, take its strength to Compare, share what it wrote."""

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.steps import open_page, save_and_share, write_prompt

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def fill(page: Page, label: str, value: str) -> None:
    field = page.get_by_label(label, exact=True)
    field.fill(value)
    field.press("Enter")


def test_from_a_measurement_to_a_shared_text(chromium: Browser, dashboard: str) -> None:
    page = open_page(chromium, f"{dashboard}/evaluate", height=3000)

    # A small evaluation, followed through a reload.
    fill(page, "Strengths", "1.5")
    fill(page, "Test contents (of 240 shipped)", "4")
    fill(page, "Contents to rank latents on", "4")
    page.get_by_text(re.compile(r"settings|cells.* texts")).first.wait_for()
    page.get_by_role("button", name="Measure").click()
    page.wait_for_url("**run=*")
    page.reload()
    page.get_by_text("Best setting of each arm").wait_for()

    # A point of the curve, and the texts behind it.
    points = page.locator("[class*=st-key-evaluation_chart] g.mark-symbol.role-mark path")
    steered = points.and_(page.locator("[aria-label*='saif']"))
    steered.first.click(force=True)
    chosen = page.locator("[class*=st-key-evaluation_cell_] input")
    expect(chosen).to_have_value(re.compile("^saif"))
    expect(page.get_by_text("Texts 1 to 4 of 4 texts")).to_be_visible()

    # Its latents and its strength, on Compare.
    page.get_by_role("button", name="Use this on Compare").click()
    page.get_by_role("heading", name="What does it do to the text?").wait_for()
    assert "strength=1.5" in page.url
    write_prompt(page)
    page.get_by_role("button", name="Arm", exact=True).click()
    page.get_by_text("Control: random", exact=True).click()
    # Not waited for: a click is not lost when the next one interrupts what it began.
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("perplexity").nth(2).wait_for()

    # A link that a colleague opens: all three arms are there.
    page.goto(save_and_share(page, dashboard, "Measured"))
    for arm in ("unsteered", "steered", "random"):
        expect(page.get_by_text(arm).first).to_be_visible()
    page.context.close()
