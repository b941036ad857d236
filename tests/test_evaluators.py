import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saif_core.errors import EvaluatorError
from saif_core.inputs.prompt_pairs import make_pairs
from saif_core.inputs.shipped import shipped_contents, shipped_instructions
from saif_core.records.prompts import PromptPair
from saif_core.records.texts import Judgement
from saif_core.registry import EVALUATORS
from tests.contracts import parameters_of

CONTENT = "If you only have one day, skip the castle, the tower and go straight to the old market."
FRENCH = "Si vous n'avez qu'une journée, évitez le château et allez directement au vieux marché."
GERMAN = "Wenn du nur einen Tag hast, lass die Burg aus und geh direkt zum alten Markt."
SPANISH = "Si solo tienes un día, olvídate del castillo y ve directamente al mercado viejo."
CHINESE = "如果你只有一天时间，就不要去城堡，直接去老市场。"
REPHRASED = "With a single day to spend, you should ignore every fortress and visit a bazaar."

PARAMETERS = {evaluator.name: parameters_of(evaluator) for evaluator in EVALUATORS}
ODD_TEXTS = [
    "",
    " \n\t ",
    "\0",
    "\ud800 half a pair",
    "\ufeff\u200b\u200e",
    "e\u0301" * 50,
    "🙂👩‍👩‍👧",
    "مرحبا، كيف حالك؟",
    "屋顶",
    "ǅ ß ﬁ İ",
    "[" * 3000,
    '{"a":' * 3000,
    "9" * 6000,
    '{"a": ' + "9" * 6000 + "}",
    "- \n- \n* ",
    "a" * 20_000,
    "…?!.,;:" * 40,
]


def pair_for(instruction: str = "Do as I say, please.", content: str = CONTENT) -> PromptPair:
    return PromptPair(f"{content} {instruction}", content, content, instruction)


def judge(name: str, text: str, *, pair: PromptPair | None = None, **parameters: object) -> object:
    evaluator = EVALUATORS.bind(name, parameters or PARAMETERS[name])
    return evaluator(pair or pair_for(), text).grade


@pytest.mark.parametrize(
    ("name", "grade", "text"),
    [
        ("casing", "strict", "SKIP THE CASTLE, GO TO THE MARKET."),
        ("casing", "loose", "Here it is: no. SKIP THE CASTLE NOW."),
        ("casing", "none", "Skip the Castle and go TO the market."),
        ("commas", "strict", "Skip the castle and go straight to the old market."),
        (
            "commas",
            "loose",
            "Skip the castle, because one day is not enough to see all of it and the old market "
            "is so much nicer to visit.",
        ),
        ("commas", "none", "Skip the castle, the tower, the wall, and go."),
        ("commas", "none", "Nothing here belongs to it."),
        ("json", "strict", '{"text": "Skip the castle."}'),
        ("json", "strict", '```json\n{"text": ["Skip", {"the": 1}]}\n```'),
        ("json", "loose", 'Here you are: {"text": "Skip the castle."} I hope it helps.'),
        ("json", "loose", '["Skip", "the castle"]'),
        ("json", "loose", '{"text": "Skip the castle and'),
        ("json", "none", "{}"),
        ("json", "none", "See note [1] and {this}."),
        ("keyword", "strict", "Go along the River to the market."),
        ("keyword", "loose", "River!"),
        ("keyword", "loose", "There are many rivers on the way."),
        ("keyword", "none", "The driver goes straight to the market."),
        ("language", "strict", FRENCH),
        ("language", "loose", f"Sure! Here is the French translation: {FRENCH}"),
        ("language", "loose", f"{FRENCH} {REPHRASED}"),
        ("language", "none", REPHRASED),
        ("language", "none", GERMAN),
        ("language", "none", "La la la la la la la la."),
        ("length", "strict", "Skip the castle for the market."),
        (
            "length",
            "loose",
            "With one day only, skip the castle and the tower, then see the market.",
        ),
        ("length", "loose", "Go to the market."),
        ("length", "none", "Bananas are yellow."),
        ("length", "none", "If you only have one day, skip the"),
        ("list", "strict", "- Skip the castle\n- Go to the market"),
        ("list", "strict", "• Skip the castle\n   it is dull\n\n• Go to the market"),
        ("list", "loose", "Here is the list:\n* Skip the castle\n* Go to the market"),
        ("list", "loose", "1. Skip the castle\n2. Go to the market"),
        ("list", "none", "-5 degrees\n**Bold** words\n---"),
        ("question", "strict", "Should you skip the castle?"),
        ("question", "strict", "Should you skip it? And then?"),
        ("question", "loose", "Sure. Should you skip the castle?"),
        ("question", "none", "You should skip the castle."),
        ("question", "none", "Okay?"),
    ],
)
def test_known_text_gets_its_grade(name: str, grade: str, text: str) -> None:
    assert judge(name, text) == grade


@pytest.mark.parametrize(
    ("code", "text"),
    [("fr", FRENCH), ("de", GERMAN), ("es", SPANISH), ("zh", CHINESE), ("en", REPHRASED)],
)
def test_language_tells_its_languages_apart(code: str, text: str) -> None:
    for other in ("fr", "de", "es", "zh", "en"):
        assert judge("language", text, language=other) == ("strict" if other == code else "none")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("es", "Se você só tem um dia, esqueça o castelo e vá direto ao mercado velho."),
        ("fr", "Se hai solo un giorno, salta il castello e vai dritto al mercato vecchio."),
        ("de", "Als je maar één dag hebt, sla het kasteel over en ga naar de oude markt."),
        ("zh", "一日しかないなら、城は飛ばして古い市場へ直行してください。"),
    ],
)
def test_language_does_not_take_a_neighbour_for_the_target(code: str, text: str) -> None:
    assert judge("language", text, language=code) == "none"


def test_language_is_not_strict_with_letters_of_another_script() -> None:
    mixed = f"{FRENCH[:-1]} 城堡 市场 直接去老市场 就不要去城堡."
    assert judge("language", mixed, language="fr") != "strict"


def test_lower_case_is_judged_by_the_same_rules() -> None:
    for text, grade in [
        ("skip the castle, go to the market.", "strict"),
        ("Yes. skip the castle now.", "loose"),
        ("Skip the castle. Go to it.", "none"),
    ]:
        assert judge("casing", text, casing="lower") == grade


def test_keyword_of_several_words_and_of_chinese_is_found() -> None:
    assert judge("keyword", "You go to the Old  Bridge at noon.", keyword="old bridge") == "strict"
    assert judge("keyword", "你一天就去城堡。", keyword="城堡") == "strict"
    assert judge("keyword", "You cross the bridge of old at noon.", keyword="old bridge") == "none"


@pytest.mark.parametrize("name", sorted(shipped_instructions()))
@pytest.mark.parametrize("part", ["content", "instruction", "both", "broken off"])
def test_repeating_the_prompt_never_counts(name: str, part: str) -> None:
    instruction = shipped_instructions()[name]
    evaluator = EVALUATORS.bind(instruction.evaluator, instruction.evaluator_parameters)
    for pair in make_pairs(instruction, [CONTENT, "Does the river 7 Up, my friend, run dry?"]):
        text = {
            "content": pair.content,
            "instruction": pair.instruction,
            "both": pair.positive,
            "broken off": pair.positive[:33],
        }[part]
        assert evaluator(pair, text).grade == "none"


def test_unrelated_english_text_is_never_a_translation() -> None:
    contents = shipped_contents()
    for code in ("fr", "de", "es", "zh"):
        evaluator = EVALUATORS.bind("language", {"language": code})
        for content in contents:
            assert evaluator(pair_for(), content).grade == "none", content


@pytest.mark.parametrize(
    ("name", "parameters", "content"),
    [
        ("commas", {}, "The market opens at seven."),
        ("casing", {"casing": "upper"}, "THE MARKET OPENS AT SEVEN."),
        ("length", {}, "Go there."),
    ],
)
def test_content_that_needs_no_change_cannot_be_judged(
    name: str, parameters: dict[str, object], content: str
) -> None:
    judgement = EVALUATORS.bind(name, parameters)(pair_for(content=content), content[:-1])
    assert judgement.grade is None
    assert judgement.reason


def test_pairs_without_separate_content_are_judged_by_the_negative() -> None:
    bare = PromptPair(f"{CONTENT} Shorten this.", CONTENT)
    assert judge("length", "Skip the castle for the market.", pair=bare) == "strict"
    assert judge("length", CONTENT, pair=bare) == "none"


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_odd_text_never_raises(name: str) -> None:
    evaluator = EVALUATORS.bind(name, PARAMETERS[name])
    for text in ODD_TEXTS:
        for pair in (pair_for(), PromptPair("", ""), PromptPair(text, text, text, text)):
            judgement = evaluator(pair, text)
            assert isinstance(judgement, Judgement)
            assert judgement.grade in ("strict", "loose", "none", None)
            assert judgement.reason.endswith(".")


@pytest.mark.parametrize("name", sorted(PARAMETERS))
@pytest.mark.parametrize("text", ["", " \n", "\u200b"])
def test_empty_text_follows_nothing(name: str, text: str) -> None:
    assert judge(name, text) == "none"


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(alphabet=st.characters(), max_size=60),
    prompt=st.text(alphabet=st.characters(), max_size=30),
)
def test_any_text_is_judged(text: str, prompt: str) -> None:
    pair = PromptPair(f"{prompt} {text}", prompt, prompt, text)
    for name, parameters in PARAMETERS.items():
        assert EVALUATORS.bind(name, parameters)(pair, text).reason


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("length", {"max_share": 0}),
        ("length", {"max_share": 1.5}),
        ("keyword", {"keyword": " !? "}),
        ("keyword", {}),
        ("language", {"language": "it"}),
        ("summary", {"max_share": 1}),
        ("ifeval", {"instruction_id": "punctuation:no_dash"}),
        ("casing", {"casing": True}),
    ],
)
def test_unusable_parameters_are_refused(name: str, parameters: dict[str, object]) -> None:
    with pytest.raises(EvaluatorError, match=name):
        EVALUATORS.bind(name, parameters)(pair_for(), "Some text.")
