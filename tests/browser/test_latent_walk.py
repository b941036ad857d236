"""From a word to a latent, its neighbours and its flow, and on to steering with it."""

import re

import pytest
from playwright.sync_api import Browser, Error, Locator, Page, expect

from tests.browser.steps import open_page

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SAE = "smollm2-135m-instruct/layer29"
# It promotes "by" after a participle; one of layer 22 does the same.
LATENT, BELOW = 302, 4435


def title_of(page: Page) -> str:
    return page.locator("h1").first.inner_text()


def click_node(page: Page, name: str, goal: Locator) -> None:
    """Click the node above a name of the flow graph, until the page that it opens is there."""
    text = page.locator("[data-testid=stVegaLiteChart] text", has_text=name).first
    for _ in range(10):
        try:
            text.scroll_into_view_if_needed(timeout=5_000)
            node = text.bounding_box(timeout=5_000)
            assert node is not None
            page.mouse.click(node["x"] + node["width"] / 2, node["y"] - 12)
            goal.wait_for(timeout=10_000)
            return
        except Error:
            # The chart was drawn anew in between.
            continue
    expect(goal).to_be_visible()


def test_search_latent_neighbour_flow_and_compare(chromium: Browser, dashboard: str) -> None:
    page = open_page(chromium, f"{dashboard}/search?sae={SAE}", height=2400)

    # A search can be shared: it stands in the address.
    page.get_by_role("textbox", name="Words in labels, tokens and examples").fill("by inspired")
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url("**search_words=by*")
    page.get_by_text(re.compile(r"of 4,608 latents")).wait_for()
    table = page.locator("[data-testid=stDataFrame]")
    box = table.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 200, box["y"] + 52)  # a cell of the first row
    page.get_by_role("heading", name="Where it fires").wait_for()
    assert re.fullmatch(r"What is latent \d+\?", title_of(page))

    # By address: another latent.
    page.goto(f"{dashboard}/latent?sae={SAE}&latent={LATENT}")
    page.get_by_text("Strongest (n = 8)").wait_for()

    # A neighbour in the layer below, and back.
    page.get_by_role("link", name=re.compile(rf"^{BELOW} \(\+0\.65\)")).click()
    page.get_by_role("heading", name=f"What is latent {BELOW}?").wait_for()
    page.wait_for_url("**layer22*")
    page.go_back()
    page.get_by_role("heading", name=f"What is latent {LATENT}?").wait_for()

    # The same step by the flow graph: its nodes stand above their names.
    click_node(page, f"22/{BELOW}", page.get_by_role("heading", name=f"What is latent {BELOW}?"))

    # Steer with it.
    page.get_by_role("button", name="Steer with this one").click()
    page.get_by_role("heading", name="What does it do to the text?").wait_for()
    expect(page).to_have_url(re.compile(rf"basket={BELOW}(%3A|:)"))
    page.context.close()


def test_markup_in_a_note_stays_text(chromium: Browser, dashboard: str) -> None:
    page = open_page(chromium, f"{dashboard}/latent?sae={SAE}&latent=208", height=2400)
    hostile = "<img src=x onerror=\"document.title='owned'\"> **games**"
    field = page.get_by_role("textbox", name="Text", exact=True).last
    field.fill(hostile)
    field.press("Tab")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("heading", name=hostile)).to_be_visible()
    assert page.title() != "owned"
    assert page.locator("img[src=x]").count() == 0
    page.context.close()
