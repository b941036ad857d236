"""How fast texts are written and read here and now: a short measurement, not a constant."""

import time

from saif_core.judging.perplexity import read_perplexities
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.prompting import NEUTRAL_PROMPT
from saif_core.writing.decoder import RowRequest, decode

# An evaluation writes some tens of texts at once; so few tokens take half a second on a CPU.
ROWS, TOKENS = 16, 3


def measure_speed(model: LoadedModel) -> float:
    """Tokens per second, of texts that are written together and read for their perplexity."""
    texts = [f"{NEUTRAL_PROMPT} {number}" for number in range(ROWS)]
    prompts = [tuple(model.encode_prompt(text, chat=model.has_chat_template)) for text in texts]
    rows = [RowRequest(p, TOKENS, temperature=1.0, sample=at) for at, p in enumerate(prompts)]
    started = time.perf_counter()
    written = decode(model, rows)
    read_perplexities(model, prompts, [row.token_ids for row in written])
    return sum(len(row.token_ids) for row in written) / (time.perf_counter() - started)
