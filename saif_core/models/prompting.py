"""Prompts and texts as token ids, and back; it knows a tokenizer and no model."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from saif_core.characters import REPLACEMENT, byte_words, join_tokens
from saif_core.errors import PromptPairError
from saif_core.models.chat_template import encode_turns
from saif_core.records.prompts import PromptView, Turn

# Where something is measured that no prompt of a person's should decide.
NEUTRAL_PROMPT = "In my experience,"
_SPACE = "\u2581"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class Prompting:
    """What a model's tokenizer and chat template make of texts.

    Attributes:
        tokenizer: the model's, as transformers loads it.
    """

    tokenizer: Any

    @property
    def has_chat_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    @property
    def chat_template_sha256(self) -> str:
        """Hash of the chat template, empty without one."""
        template = self.tokenizer.chat_template
        return hashlib.sha256(str(template).encode()).hexdigest() if template else ""

    def encode_prompt(
        self, text: str, *, chat: bool, history: Sequence[Turn] = (), system: str = ""
    ) -> list[int]:
        """Token ids of a prompt, through the chat template when asked for and present.

        Args:
            text: the prompt.
            chat: use the chat template.
            history: earlier turns of the chat; without a template, text before the prompt.
            system: the system turn; "" for none. It stands before the first user turn where the
                template knows no such role, and before everything where there is no template.

        Raises:
            PromptPairError: the prompt has no tokens, or the chat template refuses its turns.
        """
        if chat and self.has_chat_template:
            turns = [{"role": "system", "content": system}] if system else []
            turns += [{"role": turn.role, "content": turn.text} for turn in history]
            turns.append({"role": "user", "content": text})
            ids = encode_turns(self.tokenizer, turns, answers_next=True)
        else:
            before = [system] if system else []
            ids = self.tokenizer("\n".join([*before, *(t.text for t in history), text]))[
                "input_ids"
            ]
        ids = [int(i) for i in ids]
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            ids = ids[1:]
        if not ids:
            raise PromptPairError("The prompt is empty; give it some text.")
        return ids

    def encode_turns(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a whole conversation, through the chat template or, without one, joined.

        Args:
            turns: each with "role" and "content".

        Raises:
            PromptPairError: the template refuses the turns.
        """
        if self.has_chat_template:
            return encode_turns(self.tokenizer, turns)
        ids: list[int] = self.tokenizer("\n\n".join(turn["content"] for turn in turns))["input_ids"]
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated tokens, without special tokens or half a character at the end."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text.rstrip("\ufffd")

    def token_text(self, token_id: int) -> str:
        """One token as text: its leading space kept, a byte that is no character as ``<C3>``."""
        return text_of_token(self.tokenizer, token_id)

    def view_prompt(self, text: str, *, chat: bool, system: str = "") -> PromptView:
        """The prompt as the model sees it, token by token."""
        ids = self.encode_prompt(text, chat=chat, system=system)
        special = set(self.tokenizer.all_special_ids)
        tokens = join_tokens([self.token_text(i) for i in ids])
        return PromptView(tokens, tuple(i in special for i in ids), tuple(ids))


def text_of_token(tokenizer: Any, token_id: int) -> str:
    """One token as text: its leading space kept, a byte that is no character as ``<C3>``."""
    if not 0 <= token_id < len(tokenizer):
        return f"<token {token_id}>"
    # Cleaning up would take the space before a full stop away.
    text: str = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    token = tokenizer.convert_ids_to_tokens(token_id) or ""
    if REPLACEMENT in text:
        return _with_bytes(token, text)
    # Tokenizers in the manner of Llama 2 leave it out at the beginning of a text.
    n_spaces = len(token) - len(token.lstrip(_SPACE))
    return text if text.startswith(" " * n_spaces) else " " * n_spaces + text.lstrip(" ")


def _with_bytes(token: str, text: str) -> str:
    """A token with its bytes, as its tokenizer keeps them: ``<0xC3>``, or letter by letter."""
    if found := _BYTE_TOKEN.fullmatch(token):
        return byte_words(bytes([int(found[1], 16)]))
    known = _byte_letters()
    if token and all(letter in known for letter in token):
        return byte_words(bytes(known[letter] for letter in token))
    return text


@cache
def _byte_letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes as: visible ones as they are."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in visible]
    letters = {chr(byte): byte for byte in visible}
    return letters | {chr(0x100 + n): byte for n, byte in enumerate(others)}
