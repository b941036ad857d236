"""Chats through templates that refuse some turns or ask what day it is."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from saif_core.errors import PromptPairError
from saif_core.models.chat_template import PINNED_DAY, encode_turns
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.models.prompting import Prompting
from saif_core.records.prompts import Turn
from tests import tiny

# As Gemma's and Mistral's do.
NO_SYSTEM = (
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
)
ALTERNATE = (
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate.') }}{% endif %}"
)
SAY = "{{ '[' + m['role'] + ']' + m['content'] }}"


def template(*checks: str) -> str:
    loop = "{% for m in messages %}" + "".join(checks) + SAY + "{% endfor %}"
    return loop + "{% if add_generation_prompt %}[answer]{% endif %}"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.build_tokenizer()


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    return load_model(tiny_model_dir, id="tiny")


def encoded(tokenizer: Any, *turns: tuple[str, str], **options: bool) -> str:
    said = [{"role": role, "content": content} for role, content in turns]
    text: str = tokenizer.decode(encode_turns(tokenizer, said, **options))
    return text


def test_turns_that_a_template_takes_are_left_as_they_are(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template(ALTERNATE))
    assert encoded(tokenizer, ("user", "the cat"), ("assistant", "sees")) == (
        "[user]the cat[assistant]sees"
    )
    assert encoded(tokenizer, ("user", "the cat"), answers_next=True) == "[user]the cat[answer]"


def test_a_system_turn_that_is_refused_stands_before_the_first_user_turn(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template(NO_SYSTEM, ALTERNATE))
    chat = (("system", "You are helpful"), ("user", "the cat"), ("assistant", "sees"))
    assert encoded(tokenizer, *chat) == "[user]You are helpful\n\nthe cat[assistant]sees"
    two = (("system", "one"), ("system", "two"), ("user", "three"))
    assert encoded(tokenizer, *two) == "[user]one\n\ntwo\n\nthree"


@pytest.mark.parametrize(
    "roles",
    [
        ("user", "user"),
        ("assistant", "user"),
        ("system", "user", "user"),
        ("system", "assistant"),
        ("system",),
        ("user", "system", "assistant"),
    ],
)
def test_turns_that_cannot_be_mended_are_refused_in_one_sentence(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, roles: tuple[str, ...]
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template(NO_SYSTEM, ALTERNATE))
    with pytest.raises(PromptPairError, match=rf"turns of {', '.join(roles)} \(") as refusal:
        encoded(tokenizer, *((role, "the cat") for role in roles))
    assert str(refusal.value).count(". ") == 0


def test_whatever_a_template_raises_is_a_refusal(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for broken in ("{{ messages[5].content.upper() }}", "{{ 'x' + 3 }}", "{{ 1 / 0 }}", "{% if %}"):
        monkeypatch.setattr(tokenizer, "chat_template", broken)
        with pytest.raises(PromptPairError, match="does not take turns of user"):
            encoded(tokenizer, ("user", "the cat"))


def test_a_prompt_whose_history_is_refused_is_one_sentence(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.tokenizer, "chat_template", template(NO_SYSTEM, ALTERNATE))
    ids = model.encode_prompt("the cat", chat=True, system="You are helpful")
    assert model.tokenizer.decode(ids) == "[user]You are helpful\n\nthe cat[answer]"
    with pytest.raises(PromptPairError, match="user, user"):
        model.encode_prompt("the cat", chat=True, history=[Turn("user", "a dog")])


def prompt_on(day: datetime, prompting: Prompting, patch: pytest.MonkeyPatch) -> str:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return day.replace(tzinfo=tz)

    patch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
    text: str = prompting.tokenizer.decode(prompting.encode_prompt("the cat", chat=True))
    return text


@pytest.mark.parametrize(
    ("asks", "told"),
    [
        ('strftime_now("%Y-%m-%d")', "2025-01-01"),
        ("strftime_now('%d %b %Y')", "01 Jan 2025"),
        ("strftime_now('%B %d, %Y')", "January 01, 2025"),
        ("strftime_now('%A, %H:%M:%S')", "Wednesday, 12:00:00"),
        ("(strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024')", "01 Jan 2025"),
    ],
)
def test_a_template_that_asks_for_the_date_is_told_one_day(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, asks: str, told: str
) -> None:
    dated = "\n  {%- set today = " + asks + " %}{{ 'Today is ' + today }}" + template(ALTERNATE)
    monkeypatch.setattr(model.tokenizer, "chat_template", dated)
    first = prompt_on(datetime(2031, 5, 6), model, monkeypatch)
    second = prompt_on(datetime(2032, 7, 8), model, monkeypatch)
    assert first == second == f"Today is {told}[user]the cat[answer]"


def test_the_pinned_clock_changes_nothing_else_of_a_template(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside_a_macro = (
        "\n\n {% macro head(name) %}{{ name }} {{ strftime_now('%Y') }}{% endmacro %}"
        "{{ head('The') }}" + template(ALTERNATE)
    )
    monkeypatch.setattr(model.tokenizer, "chat_template", inside_a_macro)
    pinned = model.tokenizer.decode(model.encode_prompt("the cat", chat=True))
    plain = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "the cat"}], add_generation_prompt=True, tokenize=False
    )
    assert pinned == plain.replace(str(datetime.now().year), "2025")


def test_every_way_to_write_the_pinned_day_is_what_strftime_writes() -> None:
    day = datetime(2025, 1, 1, 12)
    for code, word in PINNED_DAY.items():
        assert day.strftime(code) == word, code
