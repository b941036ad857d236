"""Prompts and texts as token ids, and back; it knows a tokenizer and no model."""

import hashlib
from collections.abc import Sequence
from typing import Any

from saif_core.errors import PromptPairError
from saif_core.records.prompts import PromptView, Turn

# Where something is measured that no prompt of a person's should decide.
NEUTRAL_PROMPT = "In my experience,"


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

    def encode_prompt(self, text: str, *, chat: bool, history: Sequence[Turn] = ()) -> list[int]:
        """Token ids of a prompt, through the chat template when asked for and present.

        Args:
            text: the prompt.
            chat: use the chat template.
            history: earlier turns of the chat; without a template, text before the prompt.

        Raises:
            PromptPairError: the prompt has no tokens.
        """
        if chat and self.has_chat_template:
            # The template writes its own special tokens, so the tokenizer must add none.
            ids = self.tokenizer.apply_chat_template(
                [
                    *({"role": turn.role, "content": turn.text} for turn in history),
                    {"role": "user", "content": text},
                ],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
            )["input_ids"]
        else:
            ids = self.tokenizer("\n".join([*(t.text for t in history), text]))["input_ids"]
        ids = [int(i) for i in ids]
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            ids = ids[1:]
        if not ids:
            raise PromptPairError("The prompt is empty; give it some text.")
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of generated tokens, without special tokens or half a character at the end."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text.rstrip("\ufffd")

    def token_text(self, token_id: int) -> str:
        """One token as text, its leading space kept."""
        text: str = self.tokenizer.decode([token_id])
        return text

    def view_prompt(self, text: str, *, chat: bool) -> PromptView:
        """The prompt as the model sees it, token by token."""
        ids = self.encode_prompt(text, chat=chat)
        special = set(self.tokenizer.all_special_ids)
        return PromptView(
            tuple(self.token_text(i) for i in ids), tuple(i in special for i in ids), tuple(ids)
        )
