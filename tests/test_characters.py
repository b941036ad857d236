import pytest
from hypothesis import given
from hypothesis import strategies as st

from saif_core.characters import (
    byte_words,
    encodable_text,
    is_valid_text,
    join_tokens,
    token_with,
    valid_text,
)

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=[]))


@pytest.mark.parametrize(
    ("text", "encodable", "valid"),
    [
        ("", "", ""),
        ("é 漢字 🙂 \u202e\n", "é 漢字 🙂 \u202e\n", "é 漢字 🙂 \u202e\n"),
        ("a\0b", "a\0b", "a\ufffdb"),
        ("a\ud83d", "a\ufffd", "a\ufffd"),
        ("\ud83db", "\ufffdb", "\ufffdb"),
        ("\ude42\ud83d", "\ufffd\ufffd", "\ufffd\ufffd"),
        ("\ud83d\ude42", "🙂", "🙂"),
    ],
)
def test_halves_of_pairs_are_joined_or_shown(text: str, encodable: str, valid: str) -> None:
    assert encodable_text(text) == encodable
    assert valid_text(text) == valid
    assert is_valid_text(text) == (text == valid)


@given(ANY_TEXT)
def test_what_is_made_valid_can_be_encoded_and_stays_as_it_is(text: str) -> None:
    valid = valid_text(text)
    assert valid.encode().decode() == valid == valid_text(valid)
    assert "\0" not in valid
    assert is_valid_text(valid)


@pytest.mark.parametrize(
    ("tokens", "joined"),
    [
        (["<C3>", "<A7>", "a"], ("ç", "", "a")),
        ([" <F0><9F>", "<8C>", "<8B>", "!"], (" 🌋", "", "", "!")),
        (["<E4><BD>", "<A0> you"], ("你", " you")),
        (["<C3>", "a", "<A7>"], ("<C3>", "a", "<A7>")),
        (["a", "<C3>"], ("a", "<C3>")),
        (["<C3>", "<C3>", "<A7>"], ("<C3>", "ç", "")),
        (["<", "C3", ">"], ("<", "C3", ">")),
        ([], ()),
    ],
)
def test_a_character_of_several_tokens_stands_on_its_first(
    tokens: list[str], joined: tuple[str, ...]
) -> None:
    assert join_tokens(tokens) == joined


def test_a_token_inside_a_character_is_known_by_the_whole_of_it() -> None:
    joined = join_tokens(["le", " <F0><9F>", "<8C>", "<8B>"])
    assert [token_with(joined, at) for at in range(4)] == ["le", " 🌋", " 🌋", " 🌋"]


def test_bytes_that_are_no_character_are_told_one_by_one() -> None:
    assert byte_words(b"\xc3") == "<C3>"
    assert byte_words(b" a\xe4\xbd") == " a<E4><BD>"
    assert byte_words("ça �".encode()) == "ça �"
