"""Disorder, on texts that are planted: loops, shuffled characters, scripts, and none of it."""

import random

import pytest

from saif_core.inputs.shipped import shipped_contents, shipped_references
from saif_core.judging.fluency import (
    disorder_reason,
    mixes_scripts,
    repeats_itself,
    share_again,
    share_in_words,
)

LOOPS = (
    "le mar sinon est fermé, le mar sinon est fermé",
    "Le marché est fermé, le marché est fermé le lundi et le mardi.",
    "Je mange du pain chaud. Je mange du pain froid. Je mange du pain noir.",
    "- The old market\n- The new market\n- The old market\n- The dumplings\n- The old market",
    "1. Restart the server. 2. Restart the server. 3. Restart the server.",
    "他说他不知道，他说他不知道，他说他不知道",
    "我喜欢吃苹果，我喜欢吃香蕉，我喜欢吃梨子，我喜欢吃葡萄",
)
MIXED = (
    "안the녕of하세요and저는 is 입니다 was",
    "La 的 casa 是 es 我 la 你 mejor 了",
    "我不好意思我の好きな、今天上北京很大的天安门广场去看见了人",
)
SOUND = (
    "If you only have one day, skip the castle. If you have two days, stay for the market.",
    "저는 AI를 좋아합니다. TV에서 봤어요.",
    "我は東京に住んでいます。今日はとても良い天気ですね。",
    "Он живёт в Москве и работает в большой больнице.",
    "他在 IBM 工作，每天用 Python 写程序。",
    "他住在東京，每天坐地鐵去學校學習日語。",
    "Oui.",
    "好的。",
)


@pytest.mark.parametrize("text", LOOPS)
def test_sound_clauses_that_come_again_are_loops(text: str) -> None:
    assert repeats_itself(text)
    assert disorder_reason(text, 5.0) == "it repeats itself"


@pytest.mark.parametrize("text", MIXED)
def test_mixed_scripts_are_disorder(text: str) -> None:
    assert mixes_scripts(text)
    assert disorder_reason(text, 5.0) == "it mixes scripts"


@pytest.mark.parametrize("text", SOUND)
def test_sound_texts_of_any_script_are_whole(text: str) -> None:
    assert disorder_reason(text, 5.0) == ""


def test_no_shipped_content_or_translation_is_disorder() -> None:
    texts = shipped_contents()
    for language in ("fr", "de", "es", "zh"):
        texts += shipped_references(language).values()
    assert len(texts) == 5 * 240
    assert [text for text in texts if disorder_reason(text, None)] == []


def test_shuffled_chinese_is_in_no_order() -> None:
    long = [text for text in shipped_references("zh").values() if len(text) >= 16]
    draw = random.Random(0)
    shuffled = ["".join(draw.sample(text, len(text))) for text in long]
    found = [disorder_reason(text, 5.0) for text in shuffled]
    assert len(long) > 150
    assert found.count("its characters are in no order") >= 0.85 * len(long)


def test_traditional_characters_are_known_too() -> None:
    text = "他們說這個國家的歷史學家認為這座橋樑很重要"
    assert share_in_words(text) > 0.7
    assert share_in_words(text[:6]) == 1.0  # too short to tell
    assert share_in_words("若世中混洛葛噴人糯骨系煝穷让") < 0.4


def test_words_that_come_again_are_counted_once() -> None:
    assert share_again("a b c d a b c".split()) == pytest.approx(3 / 7)
    assert share_again(["a"] * 4) == pytest.approx(3 / 4)
    assert share_again([]) == share_again(["a", "b"]) == 0.0
