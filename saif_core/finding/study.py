"""Study: what a source or a selector learns from, read when it is asked for, and once.

It joins a model, SAEs of some of its layers and the prompt pairs of an instruction. A source asks
it for latent activations, residual streams, rankings, texts written and judged, or a loss that it
can learn by; it answers with edits that ``edit`` makes.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import cycle
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from saif_core.errors import HookPointError, SteeringError
from saif_core.finding.ranking import make_ranking
from saif_core.inputs.prompt_pairs import english_wordings, join_instruction
from saif_core.inputs.shipped import (
    learning_contents,
    learning_references,
    shipped_references,
)
from saif_core.judging.fluency import repeats_itself
from saif_core.judging.judgements import judge_text
from saif_core.models.activations import read_resid
from saif_core.models.gradients import PromptKeys, logits_with_gradient, read_prompt_keys
from saif_core.models.loaded_model import LoadedModel
from saif_core.reading.mean_difference import read_mean_difference
from saif_core.reading.pairs import (
    Reading,
    ReadResult,
    find_readings,
    no_answer,
    read_latents,
)
from saif_core.records.as_json import to_json
from saif_core.records.jobs import Step
from saif_core.records.ports import ActivationCache
from saif_core.records.prompts import InstructionPosition, PromptPair
from saif_core.records.ranking import ChosenLatent, Ranking, RankingRequest
from saif_core.records.steering import UNSTEERED, Arm, Edit, Sampling, Schedule
from saif_core.records.texts import Judgement
from saif_core.registry import EVALUATORS, SELECTORS, TARGET_RULES
from saif_core.saes.latents import LatentActivations
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.arms import ArmBuilder
from saif_core.steering.edits import Delta
from saif_core.steering.tensors import Tensors
from saif_core.writing.decoder import RowRequest, decode

T = TypeVar("T")
# A checkpoint is looked for at every one of so many steps at most.
MOST_CHECKPOINTS = 1000
GENERATED = Schedule()


@dataclass(frozen=True)
class Answer:
    """A text that the model wrote to a prompt of the study, judged.

    Attributes:
        pair: what it answers.
        prompt, token_ids: of the prompt as it was put, and of the answer.
        ended: the model ended it, before its limit.
    """

    pair: PromptPair
    prompt: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    judgement: Judgement
    ended: bool = False


@dataclass(frozen=True)
class Target:
    """A prompt without the instruction, and an answer that follows it; both as token ids.

    An answer that comes to its end has the token that ends it.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Study:
    """A model, SAEs by layer, and an instruction's prompt pairs.

    Attributes:
        request: pairs, reading position, selector and, if known, how answers are judged.
        layers: blocks that a source is to write after.
        model: for what the methods below do not give.
        key: hash of everything that decides what a source finds here.
    """

    def __init__(
        self,
        model: LoadedModel,
        saes: Iterable[LoadedSae],
        request: RankingRequest,
        *,
        layers: Sequence[int] = (),
        cache: ActivationCache | None = None,
        tensors: Tensors | None = None,
        step: Step | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.request, self.seed = model, request, seed
        self._saes = {sae.layer: sae for sae in saes}
        self.layers = tuple(dict.fromkeys([*self._saes, *layers]))
        self._all_layers = self.layers
        self._cache, self._step = cache, step
        self.tensors = tensors or Tensors()
        # Shared by every view of this study, see ``at``.
        self._kept: dict[Any, Any] = {}
        self._about = ""
        if not self.layers:
            raise HookPointError("A source was given no layer to write after; choose an SAE.")
        missing = [layer for layer in self.layers if not 0 <= layer < model.n_layers]
        if missing:
            raise HookPointError(
                f"A source was to write after block {missing[0]}, but the model has blocks 0 to "
                f"{model.n_layers - 1}; choose one of these."
            )

    @property
    def instruction(self) -> str:
        """Name of the instruction."""
        return self.request.instruction

    @property
    def pairs(self) -> tuple[PromptPair, ...]:
        """Contents with and without the instruction."""
        return self.request.pairs

    @property
    def key(self) -> str:
        """Hash of model, SAEs, layers, pairs, reading position, selector, evaluator and seed."""
        asked = to_json(self.request)
        asked.pop("sae_id")
        judge = self.request.judged_by.evaluator if self.request.judged_by else ""
        rule = self.request.judged_by.target_rule if self.request.judged_by else ""
        used = ((SELECTORS, self.request.selector), (EVALUATORS, judge), (TARGET_RULES, rule))
        said = json.dumps(
            [
                self.model.fingerprint,
                [(n, self._saes[n].sha256 if n in self._saes else "") for n in self.layers],
                asked,
                [known.get(name).file_sha256 for known, name in used if name in known],
                self.seed,
                *self._translations().items(),
            ],
            sort_keys=True,
        )
        return hashlib.sha256(said.encode()).hexdigest()

    def at(self, layers: Sequence[int]) -> "Study":
        """The same study for some of its layers; what was read is shared."""
        view = copy(self)
        view.layers = tuple(layers)
        return view

    def sae(self, layer: int) -> LoadedSae:
        """The SAE of a layer.

        Raises:
            HookPointError: the study has none there.
        """
        if layer not in self._saes:
            known = ", ".join(map(str, self._saes)) or "none"
            raise HookPointError(
                f"The source needs an SAE at layer {layer}, but the SAEs at hand are for layers "
                f"{known}; choose one of these, or a source that needs no SAE."
            )
        return self._saes[layer]

    def latents(self, layer: int) -> tuple[LatentActivations, LatentActivations]:
        """Latent activations at the reading positions, with and without the instruction."""
        read = self.read(layer)
        return read.positive, read.negative

    def read(self, layer: int) -> ReadResult:
        """``latents`` with what reading them cost."""
        return self._once(
            ("latents", layer),
            lambda: read_latents(
                self.model, self.sae(layer), self.request, cache=self._cache, step=self._step
            ),
        )

    @torch.no_grad()
    def resid(self, layer: int) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, "m d_model"]]:
        """Residual stream at every reading position, with and without the instruction.

        Raises:
            PromptPairError: the model answers every prompt with nothing.
        """
        return self._once(("resid", layer), lambda: self._read_resid(layer))

    def mean_difference(self, layer: int) -> Float[Tensor, " d_model"]:
        """Mean residual stream with minus without the instruction; all layers in one pass.

        Raises:
            HookPointError: the layer is none of the study's.
        """
        if layer not in self._all_layers:
            raise HookPointError(
                f"A mean difference was asked for at layer {layer}, but the study is of layers "
                f"{', '.join(map(str, self._all_layers))}; choose one of these."
            )
        return self._once(
            "mean difference",
            lambda: read_mean_difference(
                self.model, self.request, self._all_layers, cache=self._cache, step=self._step
            ),
        )[layer]

    def ranking(self, layer: int, selector: str = "", **parameters: Any) -> Ranking:
        """Latents ordered by a selector's score, the best first.

        Args:
            selector: its name; "" takes the request's, with its parameters.
            parameters: of the selector.

        Raises:
            SaifError: the selector does not exist, or does not take the parameters.
        """
        if not selector:
            selector, parameters = self.request.selector, dict(self.request.selector_parameters)
        name = ("ranking", layer, selector, repr(sorted(parameters.items())))
        return self._once(name, lambda: self._rank(layer, selector, parameters))

    def answers(
        self,
        edits: Sequence[Edit] = (),
        *,
        prompted: bool = False,
        strength: float = 1.0,
        n: int = 16,
        max_new_tokens: int = 48,
        temperature: float = 0.0,
        fill: bool = False,
    ) -> list[Answer]:
        """What the model writes to the pairs' prompts, judged by the instruction's evaluator.

        Args:
            edits: steered with; none for the model as it is.
            prompted: the instruction stands in the prompt.
            n: pairs that are answered, one for each content, from the first on.
            fill: where there are fewer contents, take shipped ones that are for learning.

        Raises:
            SteeringError: the instruction has no evaluator.
        """
        arguments = tuple(edits), prompted, strength, n, max_new_tokens, temperature, fill
        return self._once(("answers", repr(arguments)), lambda: self._answer(*arguments))

    def targets(self, n: int = 32, max_new_tokens: int = 48, *, told: bool = False) -> list[Target]:
        """Prompts, each with an answer that follows the instruction strictly.

        Where the instruction names a target rule, the rule makes the answers of what the model
        answers by itself, so that their content is its own. Translations are those that come with
        the contents, as a small model's own are mostly about something else. All other answers
        are prompted ones.

        Args:
            n: contents that are tried: those of the pairs, and shipped ones where these are fewer.
            told: the prompts hold the instruction, for what is to steer on top of prompting.

        Raises:
            SteeringError: no answer follows the instruction.
        """
        instruction = self.request.judged_by
        if instruction and instruction.target_rule:
            found = self._ruled_targets(instruction.target_rule, n, max_new_tokens, told)
        else:
            found = self._translated_targets(n, max_new_tokens, told)
            found = found or self._prompted_targets(n, max_new_tokens, told)
        if not found:
            raise SteeringError(
                f"None of {n} answers tried for the instruction {self.instruction!r} follows it, "
                "so there is nothing to learn from; use a model that follows it, an instruction "
                "with a target rule, or a source that compares prompts only."
            )
        return found

    def _translations(self) -> dict[str, str]:
        """Contents with their translations, where the instruction asks for one."""
        language = self.request.judged_by.translates_into if self.request.judged_by else ""
        return {**shipped_references(language), **learning_references(language)}

    def _translated_targets(self, n: int, max_new_tokens: int, told: bool) -> list[Target]:
        known = self._translations()
        pairs = self._one_pair_each(n, fill=True)
        return [
            self._target_of(pair, known[pair.negative], max_new_tokens, told)
            for pair in pairs
            if pair.negative in known
        ]

    def _prompted_targets(self, n: int, max_new_tokens: int, told: bool) -> list[Target]:
        answers = self.answers(prompted=True, n=n, max_new_tokens=max_new_tokens, fill=True)
        strict = [a for a in answers if a.judgement.grade == "strict" and a.token_ids]
        # A model that only ever repeats itself has nothing better to offer.
        whole = [answer for answer in strict if not repeats_itself(answer.text)] or strict
        return [
            Target(self._prompt(a.pair, told), (*a.token_ids, *self._end(a.ended))) for a in whole
        ]

    def _ruled_targets(self, name: str, n: int, max_new_tokens: int, told: bool) -> list[Target]:
        assert self.request.judged_by is not None
        rule, found = TARGET_RULES.bind(name, {}), []
        for answer in self.answers(n=n, max_new_tokens=max_new_tokens, fill=True):
            text = rule(answer.text)
            if not text or repeats_itself(text):
                continue
            if judge_text(self.request.judged_by, answer.pair, text).grade != "strict":
                continue
            # What a rule makes comes to its end, unless it has every word of what does not.
            ended = answer.ended or len(text.split()) < len(answer.text.split())
            found.append(self._target_of(answer.pair, text, max_new_tokens, told, ended=ended))
        return found

    def _target_of(
        self, pair: PromptPair, text: str, max_new_tokens: int, told: bool, *, ended: bool = True
    ) -> Target:
        """A text as the answer to a pair; one that is too long breaks off and does not end."""
        token_ids = self.model.tokenizer.encode(text, add_special_tokens=False)
        end = self._end(ended and len(token_ids) <= max_new_tokens)
        return Target(self._prompt(pair, told), (*token_ids[:max_new_tokens], *end))

    def _prompt(self, pair: PromptPair, told: bool) -> tuple[int, ...]:
        text = pair.positive if told else pair.negative
        return tuple(self.model.encode_prompt(text, chat=self.request.chat))

    def _end(self, ended: bool) -> tuple[int, ...]:
        return (min(self.model.end_token_ids),) if ended and self.model.end_token_ids else ()

    def loss(
        self,
        write: Mapping[int, Delta],
        targets: Sequence[Target],
        *,
        schedule: Schedule = GENERATED,
    ) -> Tensor:
        """Mean cross-entropy of the targets' answers, in nats per token.

        Differentiable in what ``write`` holds; the model's weights stay frozen.

        Args:
            write: what is added after each layer at strength 1.
            targets: what is to become likelier. All run in one pass, whose gradients are in memory
                at once, so a long list is for the caller to cut.
            schedule: the tokens that it is added to.
        """
        sequences = [[*target.prompt, *target.answer] for target in targets]
        starts = [len(target.prompt) - 1 for target in targets]
        strengths = [
            schedule.strengths(1.0, len(target.prompt), len(sequence))
            for target, sequence in zip(targets, sequences, strict=True)
        ]
        keys = None if schedule.edits_prompt else self._prompt_keys(targets)
        logits = logits_with_gradient(self.model, sequences, starts, write, strengths, keys)
        losses = [
            torch.nn.functional.cross_entropy(
                row.float(), torch.tensor(target.answer, device=row.device), reduction="sum"
            )
            for row, target in zip(logits, targets, strict=True)
        ]
        return torch.stack(losses).sum() / sum(len(target.answer) for target in targets)

    def _prompt_keys(self, targets: Sequence[Target]) -> list[PromptKeys] | None:
        """Keys and values of prompts without their last tokens, where a text can go on from them.

        Whoever learns sees a prompt again and again, so they are kept.
        """
        starts = [target.prompt[:-1] for target in targets]
        if not (all(starts) and self.model.keeps_keys and self.model.packs_trees):
            return None
        kept: dict[tuple[int, ...], PromptKeys] = self._once("prompt keys", dict)
        new = list(dict.fromkeys(start for start in starts if start not in kept))
        kept.update(zip(new, read_prompt_keys(self.model, new), strict=True))
        return [kept[start] for start in starts]

    def edit(
        self,
        layer: int,
        *,
        latents: Iterable[ChosenLatent] = (),
        method: str = "addition",
        parameters: Mapping[str, Any] | None = None,
        share: float | None = None,
        keep_norm: bool = False,
        schedule: Schedule | None = None,
        **tensors: Tensor,
    ) -> Edit:
        """What is to be written after a layer.

        Args:
            latents: of the layer's SAE.
            method: how; the name of the source's own file if that holds ``write``.
            share: of the arm's strength; by default the study's layers share it equally.
            schedule: the tokens that it was learned for; None leaves them to the arm.
            tensors: what the method reads, such as ``vector=`` (d_model,); kept by their content.
        """
        chosen = tuple(latents)
        return Edit(
            layer=layer,
            method=method,
            method_parameters=dict(parameters or {}),
            sae_id=self.sae(layer).id if chosen else "",
            latents=chosen,
            tensors=self.tensors.put(tensors, note=self._about) if tensors else "",
            share=1.0 / len(self.layers) if share is None else share,
            keep_norm=keep_norm,
            schedule=schedule,
        )

    def step(self, done: int, total: int, message: str) -> None:
        """Report progress and let people go first; raises to stop."""
        if self._step:
            self._step(done, total, message)

    def checkpoint(self, done: int, total: int, **tensors: Tensor) -> None:
        """Keep the state of a long training, so that a study of the same can ``resume`` it."""
        if self._cache and done % max(total // MOST_CHECKPOINTS, 1) == 0:
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            self._cache.put_many({self._checkpoint_key(done): save(plain)})

    def resume(self, total: int) -> tuple[int, dict[str, Tensor]]:
        """Steps done by the latest checkpoint, and what it kept; (0, nothing) without one."""
        if self._cache:
            stride = max(total // MOST_CHECKPOINTS, 1)
            for done in range(total - total % stride, 0, -stride):
                key = self._checkpoint_key(done)
                found = self._cache.get_many([key])
                if found:
                    return done, load(found[key])
        return 0, {}

    def made_by(self, source: str, parameters: Mapping[str, Any], file_sha256: str) -> "Study":
        """The same study with a name for what a source keeps in it: its checkpoints and tensors."""
        view = copy(self)
        view._about = json.dumps([source, dict(parameters), file_sha256], sort_keys=True)
        return view

    def _checkpoint_key(self, done: int) -> str:
        said = f"checkpoint|{self.key}|{self._about}|{done}"
        return hashlib.sha256(said.encode()).hexdigest()

    def _once(self, name: Any, read: Callable[[], T]) -> T:
        if name not in self._kept:
            self._kept[name] = read()
        kept: T = self._kept[name]
        return kept

    def _read_resid(self, layer: int) -> tuple[Tensor, Tensor]:
        readings, _ = find_readings(self.model, self.request, self._cache, self._step)
        distinct = list(dict.fromkeys(readings))
        found, _ = read_resid(
            self.model,
            [reading.token_ids for reading in distinct],
            [layer],
            [list(range(reading.start, len(reading.token_ids))) for reading in distinct],
            on_row=lambda done, total: self.step(done, total, "reading"),
        )
        by_reading: dict[Reading, Tensor] = dict(zip(distinct, found[layer], strict=True))
        n_pairs = len(self.pairs)
        halves = [
            torch.cat([by_reading[reading] for reading in half])
            for half in (readings[:n_pairs], readings[n_pairs:])
        ]
        if min(map(len, halves)) == 0:
            raise no_answer()
        return halves[0], halves[1]

    def _rank(self, layer: int, selector: str, parameters: Mapping[str, Any]) -> Ranking:
        registered = SELECTORS.get(selector)
        score = SELECTORS.bind(selector, parameters)
        started = time.perf_counter()
        read = self.read(layer)
        given = [read.positive, read.negative]
        more = [self.at((layer,))] if "study" in registered.takes else []
        scores = np.asarray(score(*given, *more), dtype=np.float64)
        return make_ranking(
            self.model,
            self.sae(layer),
            self.request,
            read,
            scores,
            selector=selector,
            parameters=parameters,
            seconds=time.perf_counter() - started,
        )

    def _one_pair_each(self, n: int, fill: bool) -> list[PromptPair]:
        """One pair for each content, and the wordings in turn."""
        by_content: dict[str, list[PromptPair]] = {}
        for pair in self.pairs:
            by_content.setdefault(pair.negative, []).append(pair)
        found = [pairs[at % len(pairs)] for at, pairs in enumerate(by_content.values())][:n]
        told = [pair for pair in self.pairs if pair.instruction]
        asked = list(dict.fromkeys(pair.instruction for pair in told))
        if not asked and not self.pairs and self.request.judged_by:
            # Whoever has no pairs at all still has an instruction.
            asked = english_wordings(self.request.judged_by)
        if not (fill and asked):
            return found
        further = [one for one in learning_contents() if one not in by_content]
        before = bool(told) and told[0].positive.startswith(told[0].instruction)
        position: InstructionPosition = "before" if before else "after"
        return found + [
            PromptPair(join_instruction(content, wording, position), content, content, wording)
            for content, wording in zip(further[: n - len(found)], cycle(asked), strict=False)
        ]

    def _answer(
        self,
        edits: tuple[Edit, ...],
        prompted: bool,
        strength: float,
        n: int,
        max_new_tokens: int,
        temperature: float,
        fill: bool,
    ) -> list[Answer]:
        instruction = self.request.judged_by
        if instruction is None or not instruction.evaluator:
            raise SteeringError(
                f"Answers to {self.instruction!r} were to be judged, but it names no evaluator; "
                "choose an instruction that has one."
            )
        chosen = self._one_pair_each(n, fill)
        builder = ArmBuilder(self.model, {sae.id: sae for sae in self._saes.values()}, self.tensors)
        arm = Arm("steered", edits=edits, strength=strength) if edits else UNSTEERED
        written = builder.write(arm)
        sampling = Sampling(chat=self.request.chat, max_new_tokens=max_new_tokens)
        rows = [
            RowRequest(
                builder.prompt(UNSTEERED, pair.positive if prompted else pair.negative, sampling),
                max_new_tokens,
                temperature=temperature,
                seed=self.seed,
                sample=at,
                steering=written.steering,
            )
            for at, pair in enumerate(chosen)
        ]
        done = decode(
            self.model, rows, on_step=lambda at, _: self.step(at, max_new_tokens, "writing")
        )
        texts = [self.model.decode(row.token_ids) for row in done]
        return [
            Answer(
                pair,
                row.request.prompt,
                tuple(row.token_ids),
                text,
                judge_text(instruction, pair, text),
                row.ended,
            )
            for pair, row, text in zip(chosen, done, texts, strict=True)
        ]
