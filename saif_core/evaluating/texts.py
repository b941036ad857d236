"""The texts of an evaluation: written in shared batches, kept in the cache, judged."""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from saif_core.evaluating.content import ContentJudge
from saif_core.finding.learning import Learned
from saif_core.judging.fluency import outcome
from saif_core.judging.judgements import judge_text, pair_for
from saif_core.judging.perplexity import read_perplexities
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.as_json import to_json
from saif_core.records.evaluation import CellSetting, EvaluationRequest, EvaluationText
from saif_core.records.jobs import Step
from saif_core.records.ports import ActivationCache
from saif_core.records.steering import UNSTEERED, Arm, ArmKind
from saif_core.steering.arms import ArmBuilder, WrittenArm, plugin_hashes
from saif_core.writing.decoder import RowRequest, decode

ROWS_PER_BATCH = 96
SETTINGS_PER_BATCH = 24


class _Written(NamedTuple):
    """A text as it came from the model or the cache."""

    text: str
    perplexity: float | None


class _PlannedArm(NamedTuple):
    """An arm with what it adds, and what its texts are kept by besides their prompts."""

    arm: Arm
    written: WrittenArm
    key: bytes


@dataclass(frozen=True)
class JudgedSetting:
    """The texts of one setting, in the order of the test contents."""

    setting: CellSetting
    texts: tuple[EvaluationText, ...]
    resid_share: float | None


class TextWriter:
    """Writes and judges the texts of settings, taking from the cache what it has.

    Attributes:
        content: says which texts are about their contents.

    Args:
        learned: what a setting is steered with.
    """

    def __init__(
        self,
        model: LoadedModel,
        request: EvaluationRequest,
        builder: ArmBuilder,
        learned: Callable[[CellSetting], Learned],
        *,
        cache: ActivationCache | None = None,
        step: Step | None = None,
    ) -> None:
        self._model, self._request, self._learned = model, request, learned
        self._builder, self._cache, self._step = builder, cache, step
        self._planned: dict[tuple[CellSetting, int], _PlannedArm] = {}
        self.content = ContentJudge(model, request, cache)

    def judge(self, settings: Sequence[CellSetting]) -> list[JudgedSetting]:
        """The texts of every setting, judged."""
        judged: list[JudgedSetting] = []
        for start in range(0, len(settings), SETTINGS_PER_BATCH):
            batch = settings[start : start + SETTINGS_PER_BATCH]
            written = self._write(batch, start, len(settings))
            texts = self._judge_contents([self._judge_texts(texts) for texts in written])
            for setting, of_setting in zip(batch, texts, strict=True):
                size = self._builder.size(self._plan(setting, 0).arm)
                share = size.resid_share if size else None
                judged.append(JudgedSetting(setting, of_setting, share))
        return judged

    def _judge_contents(
        self, settings: Sequence[tuple[EvaluationText, ...]]
    ) -> list[tuple[EvaluationText, ...]]:
        """The texts of some settings, with whether those that may be useful are about something."""
        looked_at = [(t.text, t.content) for texts in settings for t in texts if t.is_useful]
        about = self.content.judge(looked_at)
        return [
            tuple(
                replace(text, about=about.get((text.text, text.content)))
                if text.is_useful
                else text
                for text in texts
            )
            for texts in settings
        ]

    def _plan(self, setting: CellSetting, content_number: int) -> _PlannedArm:
        wording = self._wording(content_number) if self._is_told(setting) else 0
        if (setting, wording) not in self._planned:
            arm = self._arm(setting, wording)
            # The instruction is part of the prompt, by which a text is kept too.
            named = to_json(replace(arm, name="", instruction="", origin=None))
            shas = [self._builder.sae_sha256(edit) for edit in arm.edits]
            said = json.dumps([shas, plugin_hashes([arm]), named], sort_keys=True)
            self._planned[setting, wording] = _PlannedArm(
                arm, self._builder.write(arm), hashlib.sha256(said.encode()).digest()
            )
        return self._planned[setting, wording]

    def _is_told(self, setting: CellSetting) -> bool:
        """Whether the instruction stands in the prompt of a setting."""
        told = {one.arm for one in self._request.candidates if one.prompted}
        return setting.arm == "prompted" or setting.steered_arm in told

    def _wording(self, content_number: int) -> int:
        # The halves take turns too, and each shall see all wordings.
        return content_number // 2 % max(len(self._request.test_wordings), 1)

    def _arm(self, setting: CellSetting, wording: int) -> Arm:
        request = self._request
        if setting.arm == "unsteered":
            return UNSTEERED
        if setting.arm == "prompted":
            instruction = request.test_wordings[wording]
            return Arm("prompted", "prompted", instruction=instruction, position=request.position)
        learned = self._learned(setting)
        kind: ArmKind = "steered"
        if setting.of:
            kind = next(control for control in request.controls if control == setting.arm)
        edits = learned.edits
        if request.keep_norm:
            edits = tuple(replace(edit, keep_norm=True) for edit in edits)
        return Arm(
            setting.arm,
            kind,
            edits,
            strength=setting.strength or 0.0,
            schedule=request.schedule,
            seed=request.sampling.seed,
            instruction=request.test_wordings[wording] if self._is_told(setting) else "",
            position=request.position,
            origin=learned.origin,
        )

    def _write(
        self, settings: Sequence[CellSetting], n_before: int, n_settings: int
    ) -> list[list[_Written]]:
        """The texts of some settings; contents are taken together, as they share their prompts."""
        request, contents = self._request, self._request.test_contents
        plan: list[tuple[RowRequest, str]] = []
        for number, content in enumerate(contents):
            for setting in settings:
                plan.append(self._row(self._plan(setting, number), content, number))
        found = self._cache.get_many([key for _, key in plan]) if self._cache else {}
        missing = {key: row for row, key in plan if key not in found}
        plain = {
            key: self._builder.prompt(UNSTEERED, contents[at // len(settings)], request.sampling)
            for at, (_, key) in enumerate(plan)
            if key in missing
        }
        keys = list(missing)
        for start in range(0, len(keys), ROWS_PER_BATCH):
            batch = keys[start : start + ROWS_PER_BATCH]

            def on_step(n_done: int, _texts: object, start: int = start) -> None:
                done = start + ROWS_PER_BATCH * n_done / request.sampling.max_new_tokens
                self._report(n_before + len(settings) * min(done / len(keys), 1.0), n_settings)

            rows = decode(self._model, [missing[key] for key in batch], on_step=on_step)
            ids = [row.token_ids for row in rows]
            perplexities = read_perplexities(self._model, [plain[key] for key in batch], ids)
            fresh = {
                key: _pack(token_ids, perplexity)
                for key, token_ids, perplexity in zip(batch, ids, perplexities, strict=True)
            }
            if self._cache:
                self._cache.put_many(fresh)
            found = {**found, **fresh}
        self._report(n_before + len(settings), n_settings)
        written = [self._unpack(found[key]) for _, key in plan]
        return [written[at :: len(settings)] for at in range(len(settings))]

    def _report(self, done: float, total: int) -> None:
        if self._step:
            # Progress in hundredths of a setting, as a setting may take a while.
            self._step(int(100 * done), 100 * total, f"{int(done)} of {total} settings")

    def _row(self, plan: _PlannedArm, content: str, number: int) -> tuple[RowRequest, str]:
        """The row that writes a text, and the key that the text is kept by."""
        sampling = self._request.sampling
        row = RowRequest(
            prompt=self._builder.prompt(plan.arm, content, sampling),
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            seed=sampling.seed,
            sample=number,
            steering=plan.written.steering,
            logit_bias=plan.written.logit_bias,
            forced=plan.written.forced,
            top_p=sampling.top_p,
            stop=sampling.stop,
        )
        # Greedy texts do not depend on the draws.
        draws = (row.temperature, row.top_p, row.seed, row.sample) if row.temperature else ()
        head = f"text|{self._model.fingerprint}|{row.max_new_tokens}|{draws}|{row.stop}|"
        digest = hashlib.sha256(head.encode("utf-8", "surrogatepass") + plan.key)
        digest.update(np.asarray(row.prompt, dtype=np.int64).tobytes())
        # With a text goes its perplexity, which is measured after the content alone.
        digest.update(content.encode("utf-8", "surrogatepass"))
        return row, digest.hexdigest()

    def _unpack(self, payload: bytes) -> _Written:
        token_ids, perplexity = _unpack(payload)
        text = self._model.decode(token_ids)
        ends = [at for stop in self._request.sampling.stop if (at := text.find(stop)) >= 0]
        return _Written(text[: min(ends)] if ends else text, perplexity)

    def _judge_texts(self, texts: Sequence[_Written]) -> tuple[EvaluationText, ...]:
        request = self._request
        wordings = request.test_wordings or request.rank_wordings or ("",)
        found = []
        for number, (content, written) in enumerate(zip(request.test_contents, texts, strict=True)):
            pair = pair_for(content, wordings[number // 2 % len(wordings)], request.position)
            judgement = judge_text(request.instruction, pair, written.text)
            found.append(
                EvaluationText(
                    cell=0,
                    content=content,
                    text=written.text,
                    grade=judgement.grade,
                    reason=judgement.reason,
                    outcome=outcome(judgement, written.text, written.perplexity),
                    perplexity=written.perplexity,
                )
            )
        return tuple(found)


def _pack(token_ids: Sequence[int], perplexity: float | None) -> bytes:
    head = struct.pack("<f", math.nan if perplexity is None else perplexity)
    return head + np.asarray(token_ids, dtype=np.int32).tobytes()


def _unpack(payload: bytes) -> tuple[list[int], float | None]:
    (perplexity,) = struct.unpack_from("<f", payload)
    token_ids = np.frombuffer(payload, dtype=np.int32, offset=4).tolist()
    return token_ids, None if math.isnan(perplexity) else perplexity
