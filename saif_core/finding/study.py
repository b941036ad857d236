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
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from saif_core.errors import HookPointError, SteeringError
from saif_core.finding.ranking import make_ranking
from saif_core.judging.judgements import judge_text
from saif_core.models.activations import read_resid
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
from saif_core.records.prompts import PromptPair
from saif_core.records.ranking import ChosenLatent, Ranking, RankingRequest
from saif_core.records.steering import UNSTEERED, Arm, Edit, Sampling
from saif_core.records.texts import Judgement
from saif_core.registry import EVALUATORS, SELECTORS
from saif_core.saes.latents import LatentActivations
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.arms import ArmBuilder
from saif_core.steering.edits import Delta
from saif_core.steering.tensors import Tensors
from saif_core.writing.decoder import RowRequest, decode

T = TypeVar("T")
# A checkpoint is looked for at every one of so many steps at most.
MOST_CHECKPOINTS = 1000


@dataclass(frozen=True)
class Answer:
    """A text that the model wrote to a prompt of the study, judged.

    Attributes:
        pair: what it answers.
        prompt, token_ids: of the prompt as it was put, and of the answer.
    """

    pair: PromptPair
    prompt: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    judgement: Judgement


@dataclass(frozen=True)
class Target:
    """A prompt without the instruction, and an answer that follows it; both as token ids."""

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
        used = ((SELECTORS, self.request.selector), (EVALUATORS, judge))
        said = json.dumps(
            [
                self.model.fingerprint,
                [(n, self._saes[n].sha256 if n in self._saes else "") for n in self.layers],
                asked,
                [known.get(name).file_sha256 for known, name in used if name in known],
                self.seed,
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
    ) -> list[Answer]:
        """What the model writes to the pairs' prompts, judged by the instruction's evaluator.

        Args:
            edits: steered with; none for the model as it is.
            prompted: the instruction stands in the prompt.
            n: pairs that are answered, one for each content, from the first on.

        Raises:
            SteeringError: the instruction has no evaluator.
        """
        arguments = tuple(edits), prompted, strength, n, max_new_tokens, temperature
        return self._once(("answers", repr(arguments)), lambda: self._answer(*arguments))

    def targets(self, n: int = 32, max_new_tokens: int = 48) -> list[Target]:
        """Prompts without the instruction, each with a prompted answer that follows it strictly.

        Args:
            n: pairs that are tried.

        Raises:
            SteeringError: no prompted answer follows the instruction.
        """
        answers = self.answers(prompted=True, n=n, max_new_tokens=max_new_tokens)
        chat = self.request.chat
        found = [
            Target(tuple(self.model.encode_prompt(a.pair.negative, chat=chat)), a.token_ids)
            for a in answers
            if a.judgement.grade == "strict" and a.token_ids
        ]
        if not found:
            raise SteeringError(
                f"None of {len(answers)} answers to prompts with the instruction "
                f"{self.instruction!r} follows it, so there is nothing to learn from; use a model "
                "that follows it, or a source that compares prompts only."
            )
        return found

    def loss(self, write: Mapping[int, Delta], targets: Sequence[Target]) -> Tensor:
        """Mean cross-entropy of the targets' answers, in nats per token.

        Differentiable in what ``write`` holds; the model's weights stay frozen.

        Args:
            write: what is added after each layer, from the last prompt token on, at strength 1.
            targets: what is to become likelier. All run in one pass, whose gradients are in memory
                at once, so a long list is for the caller to cut.
        """
        sequences = [[*target.prompt, *target.answer] for target in targets]
        starts = [len(target.prompt) - 1 for target in targets]
        logits = self.model.logits_with_gradient(sequences, starts, write)
        losses = [
            torch.nn.functional.cross_entropy(
                row.float(), torch.tensor(target.answer, device=row.device), reduction="sum"
            )
            for row, target in zip(logits, targets, strict=True)
        ]
        return torch.stack(losses).sum() / sum(len(target.answer) for target in targets)

    def edit(
        self,
        layer: int,
        *,
        latents: Iterable[ChosenLatent] = (),
        method: str = "addition",
        parameters: Mapping[str, Any] | None = None,
        share: float | None = None,
        keep_norm: bool = False,
        **tensors: Tensor,
    ) -> Edit:
        """What is to be written after a layer.

        Args:
            latents: of the layer's SAE.
            method: how; the name of the source's own file if that holds ``write``.
            share: of the arm's strength; by default the study's layers share it equally.
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

    def _answer(
        self,
        edits: tuple[Edit, ...],
        prompted: bool,
        strength: float,
        n: int,
        max_new_tokens: int,
        temperature: float,
    ) -> list[Answer]:
        instruction = self.request.judged_by
        if instruction is None or not instruction.evaluator:
            raise SteeringError(
                f"Answers to {self.instruction!r} were to be judged, but it names no evaluator; "
                "choose an instruction that has one."
            )
        # One pair for each content, and the wordings in turn.
        by_content: dict[str, list[PromptPair]] = {}
        for pair in self.pairs:
            by_content.setdefault(pair.negative, []).append(pair)
        chosen = [pairs[at % len(pairs)] for at, pairs in enumerate(by_content.values())][:n]
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
            )
            for pair, row, text in zip(chosen, done, texts, strict=True)
        ]
