"""Which texts of an evaluation are about their contents: the measure, and what it says of each.

Only texts that follow strictly and are whole are looked at, as no other can be useful. What was
found is kept by what decides it.
"""

import hashlib
import json
from collections.abc import Sequence

from saif_core.inputs.prompt_pairs import join_instruction
from saif_core.inputs.shipped import shipped_references
from saif_core.judging.content import compared_contents
from saif_core.judging.content_measures import (
    ChosenMeasure,
    Scorer,
    by_embedding,
    by_log_prob,
    by_references,
    choose_measure,
    comparison_pool,
    judge_contents,
)
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.text_embeddings import TextEmbedder
from saif_core.records.evaluation import EvaluationRequest
from saif_core.records.ports import ActivationCache


class ContentJudge:
    """Says of texts whether they are about their contents.

    Attributes:
        chosen: the measure, or why there is none.
    """

    def __init__(
        self, model: LoadedModel, request: EvaluationRequest, cache: ActivationCache | None
    ) -> None:
        self._model, self._request, self._cache = model, request, cache
        self.chosen: ChosenMeasure = choose_measure(
            request.instruction, request.test_contents, model_id=model.id
        )
        self._pool = comparison_pool(request.test_contents)
        self._scorer = self._make_scorer() if self.chosen.measure else None

    def judge(self, texts: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bool]:
        """Whether each text, given with its content, is about it; nothing without a measure."""
        if self._scorer is None:
            return {}
        keys = {pair: self._key(*pair) for pair in dict.fromkeys(texts)}
        kept = self._cache.get_many(list(keys.values())) if self._cache else {}
        new = [pair for pair, key in keys.items() if key not in kept]
        fresh = {}
        if new:
            written, contents = zip(*new, strict=True)
            verdicts = judge_contents(self._scorer, written, contents, self._pool)
            fresh = {keys[p]: bytes([v.is_about]) for p, v in zip(new, verdicts, strict=True)}
            if self._cache:
                self._cache.put_many(fresh)
        found = {**kept, **fresh}
        return {pair: bool(found[key][0]) for pair, key in keys.items()}

    def _make_scorer(self) -> Scorer:
        if self.chosen.measure == "chrf":
            return by_references(shipped_references(self.chosen.kind))
        if self.chosen.measure == "embedding":
            return by_embedding(TextEmbedder())
        return by_log_prob(self._model, self._prompt)

    def _prompt(self, content: str) -> list[int]:
        request = self._request
        asked = join_instruction(content, self._wording, request.position)
        return self._model.encode_prompt(
            asked, chat=request.sampling.chat, system=request.sampling.system
        )

    @property
    def _wording(self) -> str:
        wordings = self._request.test_wordings or self._request.rank_wordings
        return wordings[0] if wordings else ""

    def _key(self, text: str, content: str) -> str:
        # What a text is compared with is part of what is said of it.
        (compared,) = compared_contents([content], self._pool)
        said: list[object] = ["about", self.chosen.measure, self.chosen.kind, text, compared]
        if self.chosen.measure == "log_prob":
            said += [self._model.fingerprint, self._prompt(content)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()
