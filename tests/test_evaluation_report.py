"""The page of HTML that an evaluation becomes: escaped, offline, drawn from its figures."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from app.presentation.evaluation import CANDIDATE_COLOURS, FIXED_COLOURS, content_sentence
from app.presentation.evaluation_page import SHOWN_TEXTS, evaluation_html
from saif_core.records.evaluation import Candidate, CellSetting
from tests.storage_samples import as_before
from tests.test_evaluation_files import (
    BEST,
    CELLS,
    SAIF,
    XSS,
    cell,
    rates,
    sample_evaluation,
    sample_text,
)

VOID = {"meta"}


class Page(HTMLParser):
    """Elements, attributes and texts of a page; tags must be closed in order."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(page.decode())
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def within(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def test_nothing_that_people_or_models_wrote_becomes_html() -> None:
    evaluation = sample_evaluation(XSS, model=XSS, dtype=XSS, versions={XSS: XSS})
    cells = tuple(replace(c, setting=replace(c.setting, of=XSS)) for c in evaluation.cells)
    request = replace(evaluation.request, test_contents=(XSS,) * 4, sae_ids=(XSS,))
    hostile = replace(evaluation, cells=cells, request=request, sae_sha256s=(XSS,))
    texts = {3: [sample_text(3, XSS, content=XSS, reason=XSS)]}

    page = Page(evaluation_html(hostile, texts))

    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in page.elements}
    names = {name for _, attributes in page.elements for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    assert not names & {"src", "href", "style"}
    assert page.within("td").count(XSS) == 3
    assert page.within("h1") == [f"Does it work? {XSS}"]
    assert page.within("title")[0] == f"Evaluation of {XSS}"
    assert json.dumps(XSS) in "".join(page.within("dd"))


def test_the_page_needs_no_network_and_forbids_scripts() -> None:
    page = evaluation_html(sample_evaluation(), {})
    for address in (b"http:", b"https:", b"//", b"url(", b"@import"):
        assert address not in page
    policy = [found for found in Page(page).all("meta") if found.get("http-equiv")]
    assert policy[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert b"prefers-color-scheme:dark" in page


def test_the_chart_stands_at_the_shares_and_strengths_of_the_cells() -> None:
    page = Page(evaluation_html(sample_evaluation(), {}))
    grid = [
        float((found["d"] or "").split()[1].split("H")[0])
        for found in page.all("path")
        if found.get("class") == "grid"
    ]
    marks = [(float(m["cx"] or 0), float(m["cy"] or 0)) for m in page.all("circle")]
    # Per panel, the marks of: SAIF at 0.4 and 0.8, mean difference at 1, random at 0.8.
    assert (len(grid), len(marks)) == (10, 8)
    for start, lowest, shares in ((0, grid[0], (0.12, 0.38, 0.52, 0.0)), (4, grid[5], (0.02,) * 4)):
        highest = grid[4] if start == 0 else grid[9]
        for (_, y), share in zip(marks[start : start + 4], shares, strict=True):
            assert y == pytest.approx(lowest + share * (highest - lowest), abs=0.2)
    xs = [x for x, _ in marks]
    assert xs[:4] == xs[4:]
    ticks = {
        text: float(place["x"] or 0)
        for place, text in zip(page.all("text"), page.within("text"), strict=True)
    }
    for x, strength in zip(xs[:4], ("0.4", "0.8", "1", "0.8"), strict=True):
        assert x == pytest.approx(ticks[strength], abs=12)
    assert ticks["1"] - ticks["0.8"] == pytest.approx((ticks["0.8"] - ticks["0.4"]) / 2, abs=0.2)
    lines = [found["color"] for found in page.all("g") if found.get("class") == "line"]
    assert lines == [*CANDIDATE_COLOURS[:2], FIXED_COLOURS["random"]] * 2
    titles = page.within("title")
    assert any(title.endswith("strength 0.8: 38% [28–48]") for title in titles)


def test_the_page_counts_useful_texts_and_says_how_content_was_measured() -> None:
    evaluation = sample_evaluation()
    page = Page(evaluation_html(evaluation, {}))
    assert content_sentence(evaluation) in page.within("p")
    assert "useful texts" in page.within("text")
    assert any("McNemar tests of useful texts" in text for text in page.within("p"))
    cells = page.within("td")
    headers = page.within("th")
    assert headers.count("useful") == headers.count("against prompted") == 2
    assert headers.index("useful") < headers.index("strict") < headers.index("loose")
    assert cells[cells.index("84% [74–94]") + 1] == "92% [82–100]"
    silent = sample_evaluation(content_measure="", content_reason="A refusal need not be.")
    assert "A refusal need not be. So useful means" in evaluation_html(silent, {}).decode()


def test_the_page_of_an_evaluation_of_before_counts_strict_texts() -> None:
    before = as_before(sample_evaluation())
    page = Page(evaluation_html(before, {3: [sample_text(3, "Le chat.", about=None)]}))
    assert content_sentence(before) in page.within("p")
    assert "follows strictly" in page.within("text")
    assert any("McNemar tests of strict grades" in text for text in page.within("p"))
    assert "useful" not in page.within("th")
    assert "content not measured" in page.within("td")
    titles = page.within("title")
    assert any(title.endswith("strength 0.8: 46% [36–56]") for title in titles)


def test_each_text_says_whether_it_is_about_its_content() -> None:
    texts = {
        3: [
            sample_text(3, "Le chat."),
            sample_text(3, "Le chien.", about=False),
            sample_text(3, "The cat.", grade="none", about=None),
        ]
    }
    cells = Page(evaluation_html(sample_evaluation(), texts)).within("td")
    for text, words in (
        ("Le chat.", "about its content"),
        ("Le chien.", "not about its content, so it does not count as useful"),
        ("The cat.", "content not looked at"),
    ):
        assert cells[cells.index(text) + 4] == words


def test_an_arm_with_several_settings_has_a_line_and_a_dash_for_each() -> None:
    other = tuple(replace(c, setting=replace(c.setting, layers=(20,))) for c in CELLS[2:4])
    page = Page(evaluation_html(sample_evaluation(cells=(*CELLS, *other)), {}))
    drawn = [found for found in page.all("polyline") if found["points"] != "0,5 34,5"]
    assert len(drawn) == 2 * 4
    assert len({found["stroke-dasharray"] for found in (drawn[0], drawn[3])}) == 2


def test_parameters_are_shown_by_name_with_all_in_them_escaped() -> None:
    evaluation = sample_evaluation()
    candidate = Candidate("saif", {"top": (15,), "least_score": (XSS[:30],)})
    setting = replace(SAIF, parameters={"top": 15, "least_score": XSS[:30]}, strength=0.625)
    request = replace(evaluation.request, candidates=(candidate,))
    hostile = replace(evaluation, request=request, cells=(cell(setting, 0.4),), best=())
    page = Page(evaluation_html(hostile, {}))
    headers = page.within("th")
    assert {"top", "least score", "strength"} <= set(headers)
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.within("td").count(XSS[:30]) == 1
    assert page.within("td").count("0.625") == 1
    assert "0.625" in page.within("text")


def test_an_arm_of_which_nothing_qualified_is_called_so() -> None:
    broken = replace(CELLS[3], choosing=rates(0.9, disorder=0.3))
    evaluation = sample_evaluation(cells=(*CELLS[:3], broken, *CELLS[4:]))
    assert any(
        text.startswith("None qualified of saif")
        for text in Page(evaluation_html(evaluation, {})).within("p")
    )
    assert "None qualified" not in evaluation_html(sample_evaluation(), {}).decode()


def test_a_colour_that_comes_round_again_has_another_dash() -> None:
    candidates = tuple(Candidate(f"source_{n}") for n in range(len(CANDIDATE_COLOURS) + 1))
    cells = tuple(cell(CellSetting(c.arm, "", (1,), {}, 1.0), 0.5) for c in candidates)
    request = replace(sample_evaluation().request, candidates=candidates)
    page = Page(evaluation_html(sample_evaluation(cells=cells, request=request, best=()), {}))
    lines = [found for found in page.all("polyline") if found["points"] != "0,5 34,5"]
    colours = [found["color"] for found in page.all("g") if found.get("class") == "line"]
    first, again = 0, len(CANDIDATE_COLOURS)
    assert colours[first] == colours[again]
    assert lines[first]["stroke-dasharray"] != lines[again]["stroke-dasharray"]


def test_without_a_strength_a_sentence_stands_in_for_the_chart() -> None:
    page = Page(evaluation_html(sample_evaluation(cells=CELLS[:2], best=BEST[:1]), {}))
    assert page.all("svg") == []
    assert "No arm has a strength, so there is no curve." in page.within("p")


def test_the_page_has_the_first_texts_of_the_best_cells_with_grade_and_reason() -> None:
    texts = {
        3: [sample_text(3, f"text {number};") for number in range(SHOWN_TEXTS + 5)],
        4: [sample_text(4, "שלום \ud83d \x00", grade=None, reason="No language was found.")],
        2: [sample_text(2, "of no best cell")],
    }
    page = Page(evaluation_html(sample_evaluation(), texts))
    found = page.within("td")
    assert f"text {SHOWN_TEXTS - 1};" in found
    assert f"text {SHOWN_TEXTS};" not in found
    assert any("20 of 25 texts" in summary for summary in page.within("summary"))
    at = found.index("שלום \ufffd \ufffd")
    assert found[at + 1 : at + 3] == ["not judged", "No language was found."]
    assert "of no best cell" not in found


def test_the_page_says_how_the_evaluation_was_made() -> None:
    evaluation = sample_evaluation()
    page = Page(evaluation_html(evaluation, {}))
    told = dict(zip(page.within("dt"), page.within("dd"), strict=True))
    assert told["model SHA-256"] == "aa" * 32
    assert told["SAE SHA-256"].split() == ["bb" * 32, "cc" * 32]
    assert told["seed"] == "7"
    assert told["versions"] == "torch 2.0"
    assert told["edits of the best settings"].split("\n") == [
        "saif · layer 14 · top 15: 7:1.5, 9:0.25 · addition",
        "mean difference · layer 12: tensors cdcdcdcdcdcd · addition · share 0.5",
        "mean difference · layer 14: tensors cdcdcdcdcdcd · addition · share 0.5",
    ]
    assert json.loads(told["request"])["instruction"]["name"] == "translate-to-french"
    assert json.loads(told["request"])["selector_parameters"] == {"compare": "higher"}


def test_a_broken_text_is_called_so_beside_its_grade() -> None:
    texts = {3: [sample_text(3, "la la la", outcome="disorder"), sample_text(3, "Le chat.")]}
    cells = Page(evaluation_html(sample_evaluation(), texts)).within("td")
    for text, outcome in (("la la la", "disorder"), ("Le chat.", "whole")):
        at = cells.index(text)
        assert (cells[at + 1], cells[at + 3]) == ("strict", outcome)


def test_a_narrow_screen_shows_the_whole_chart_and_every_cell_with_its_heading() -> None:
    body = evaluation_html(sample_evaluation(), {}).decode()
    assert "min-width:36rem" not in body
    assert "white-space:nowrap" not in body
    assert "@media (max-width:75rem)" in body
    page = Page(body.encode())
    (chart,) = [found for found in page.all("svg") if found.get("role") == "img"]
    # A phone's 360 points show letters of 12 no smaller than 9.
    width = float((chart["viewbox"] or "").split()[2])
    assert 12 * 360 / width >= 9
    assert {found["data-name"] for found in page.all("td")} >= {"strict", "strength", "broken"}
