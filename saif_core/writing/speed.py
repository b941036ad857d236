"""How fast texts are written and read here and now: a short measurement, not a constant."""

import time
from collections.abc import Callable

from saif_core.judging.perplexity import read_perplexities
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.prompting import NEUTRAL_PROMPT
from saif_core.writing.decoder import Decoder, RowRequest

# An evaluation writes some tens of texts at once, and reads each for its perplexity. Prompts are
# left out: they are read once for all arms. This takes about two seconds on a CPU.
ROWS, TOKENS = 32, 4
TEXTS_READ, TEXT_TOKENS = 8, 40


def measure_speed(model: LoadedModel) -> float:
    """Tokens per second, of texts that are written together and read for their perplexity."""
    texts = [f"{NEUTRAL_PROMPT} {number}" for number in range(ROWS)]
    prompts = [tuple(model.encode_prompt(text, chat=model.has_chat_template)) for text in texts]
    # Rows that ended would leave fewer to write.
    requests = [
        RowRequest(prompt, TOKENS + 1, temperature=1.0, sample=at)
        for at, prompt in enumerate(prompts)
    ]
    decoder = Decoder(model)
    decoder.admit(requests)
    decoder.step()  # the first step makes room for those that follow
    n_rows = len(decoder.rows)
    writing = _seconds(lambda: [decoder.step() for _ in range(TOKENS) if decoder.rows])
    some = prompts[:TEXTS_READ]
    text = (prompts[0] * TEXT_TOKENS)[:TEXT_TOKENS]
    reading = _seconds(lambda: read_perplexities(model, some, [text for _ in some]))
    return 1 / (writing / (max(n_rows, 1) * TOKENS) + reading / (TEXTS_READ * TEXT_TOKENS))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
