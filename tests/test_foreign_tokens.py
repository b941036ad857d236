"""Token ids of another model: a sentence where they are read, their number where they are shown."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saif_core.catalog import Catalog
from saif_core.engine.engine import Engine
from saif_core.errors import PromptPairError
from saif_core.explaining.token_change import read_token_change
from saif_core.judging.perplexity import read_perplexities
from saif_core.models.activations import read_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.questions import TokenChangeQuestion
from saif_core.saes.card import measure_sae
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.writing.decoder import RowRequest, decode

FOREIGN = 50_000
Read = Callable[[LoadedModel, LoadedSae], object]


@pytest.mark.parametrize(
    "read",
    [
        lambda model, _sae: read_resid(model, [[5, FOREIGN]], [0], [[1]]),
        lambda model, _sae: read_resid(model, [[5, 6], [5, FOREIGN], [5, 7]], [0], [[1]] * 3),
        lambda model, _sae: read_perplexities(model, [[5, 6]], [[FOREIGN, 7]]),
        lambda model, sae: read_token_change(model, sae, 7, 1.0, [[5, FOREIGN]]),
        lambda model, sae: measure_sae(model, sae, {"text": [[5, 6, FOREIGN]]}),
        lambda model, _sae: decode(model, [RowRequest((5, FOREIGN), 3)]),
        lambda model, _sae: decode(model, [RowRequest((5, FOREIGN, 6), 3)]),
        lambda model, _sae: model.run_sequences(torch.tensor([[-1, 5]]), [2], [0]),
    ],
)
def test_a_token_that_the_model_lacks_is_one_sentence(
    endless_model: LoadedModel, tiny_sae: LoadedSae, read: Read
) -> None:
    with pytest.raises(PromptPairError, match=r"^Token (50,000|-1) was to be read, but model"):
        read(endless_model, tiny_sae)


def test_the_engine_refuses_contexts_of_another_model_and_shows_their_tokens_as_numbers(
    tiny_model_dir: Path, tiny_sae_dir: Path, tmp_path: Path
) -> None:
    catalog = Catalog(tmp_path, extra_saes=[str(tiny_sae_dir)])
    engine = Engine(catalog, model_id=str(tiny_model_dir), device="cpu")
    numbers = [5, FOREIGN, 1 << 31, 1 << 40, -3]
    try:
        before = engine.token_texts(numbers)  # the tokenizer alone
        with pytest.raises(PromptPairError, match="Token 50,000"):
            engine.ask(TokenChangeQuestion(str(tiny_sae_dir), 7, 1.0, ((5, FOREIGN),)))
        assert engine.token_texts(numbers) == before
    finally:
        engine.close()
    assert before[1:] == [f"<token {number}>" for number in numbers[1:]]
