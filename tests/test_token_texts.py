"""Tokens shown one by one: leading spaces, and characters of several tokens."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from app.presentation.escaping import CONTINUED, visible
from app.presentation.token_change_html import changes_html
from app.presentation.token_html import TintedText, text_html
from saif_core.models.prompting import Prompting, text_of_token
from saif_core.records.texts import TokenDivergence
from tests import tiny


@pytest.fixture(scope="module")
def byte_level() -> Any:
    return tiny.build_tokenizer()


def llama_2() -> Any:
    """A tokenizer in the manner of Llama 2: spaces as ▁, bytes as <0xC3>."""
    bytes_of_it = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁the", "the", "▁", "▁▁", *bytes_of_it]
    known = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(known, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_tokens_in_the_manner_of_llama_2_keep_their_leading_space() -> None:
    tokenizer = llama_2()
    words = ["▁the", "the", "▁", "▁▁", "<0xC3>", "<0x0A>"]
    ids = tokenizer.convert_tokens_to_ids(words)
    shown = [text_of_token(tokenizer, token_id) for token_id in ids]
    assert shown == [" the", "the", " ", "  ", "<C3>", "\n"]


@pytest.mark.parametrize("text", ["ça va", "你好 世界", "🌋 hot", "naïve"])
def test_a_prompt_token_by_token_is_the_prompt(byte_level: Any, text: str) -> None:
    prompting = Prompting()
    prompting.tokenizer = byte_level
    view = prompting.view_prompt(text, chat=False)
    assert "".join(view.tokens) == text
    assert not any("\ufffd" in token for token in view.tokens)
    alone = [prompting.token_text(token_id) for token_id in view.token_ids]
    assert any(token.startswith("<") for token in alone)


def test_a_token_that_goes_on_with_a_character_has_a_mark_that_copying_leaves_out() -> None:
    assert visible("") == CONTINUED
    body = text_html(TintedText(("ç", "", "a"), (1.0, 2.0, 0.0)), 2.0)
    assert body.count(f'<span style="user-select:none;opacity:0.85">{CONTINUED}</span>') == 1


def test_changed_tokens_show_whole_characters() -> None:
    changes = [TokenDivergence(token, -1.0, 0.0, 0.0, 0.0) for token in ("<C3>", "<A7>", "a")]
    body = changes_html(changes, "change")
    assert "ç" in body
    assert "C3" not in body
