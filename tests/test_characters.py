import pytest
from hypothesis import given
from hypothesis import strategies as st

from saif_core.characters import encodable_text, is_valid_text, valid_text

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
