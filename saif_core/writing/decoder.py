"""Step 7: prompts × arms in one batch, written together, steered row by row.

A `Decoder` writes one token for all of its rows in one forward pass. Prompts are read as a prefix
tree up to their last token, so arms of a prompt share that work; the last token is every row's
first step, where steering of the answer begins. Rows join and leave between any two tokens, so
requests that arrive at different times still share their passes.

Sampling is by the Gumbel-max trick with noise keyed by (seed, sample, step), so arms share their
random draws and a difference between two arms comes from steering.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saif_core.errors import ModelError, SteeringError
from saif_core.models.activations import PackedRow, pack_prefix_trees, pack_singly
from saif_core.models.hook_points import edit_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.steering.edits import Delta, Steering, add_deltas
from saif_core.writing.kv_cache import RowCache
from saif_core.writing.step_graph import StepGraph

OnStep = Callable[[int, Sequence[Sequence[int]]], None]


@dataclass(frozen=True, eq=False)
class RowRequest:
    """One text to be written.

    Attributes:
        prompt: its token ids, at least one.
        max_new_tokens: tokens to write at most.
        temperature: 0 is greedy.
        seed, sample: key of the sampling noise; rows with the same ones share it.
        steering: edits of the residual stream; none for an unsteered row.
        logit_bias: (d_vocab,) added to the logits of every step.
        forced: token ids that the text begins with, whatever the model would write.
        top_p: draw among the likeliest tokens that hold this share of the probability.
        stop: the text ends once it holds one of these.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    sample: int = 0
    steering: tuple[Steering, ...] = ()
    logit_bias: Float[Tensor, " d_vocab"] | None = None
    forced: tuple[int, ...] = ()
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(eq=False)
class Row:
    """A text as it is being written.

    Attributes:
        token_ids: tokens so far, the end token left out.
        ended: the model wrote an end token.
        stopped: the text holds one of the request's stop texts.
        finished: nothing will be added any more.
        error: why it was given up, if it was.
        n_steered: forward passes in which the steering hook reached this row.
        added_norm, resid_norm: at the last token of the prompt, for reporting.
    """

    request: RowRequest
    token_ids: list[int] = field(default_factory=list)
    ended: bool = False
    stopped: bool = False
    finished: bool = False
    error: Exception | None = None
    n_steered: int = 0
    added_norm: float = 0.0
    resid_norm: float = 0.0

    @property
    def next_token(self) -> int:
        """The token that the next step feeds to the model."""
        return self.token_ids[-1] if self.token_ids else self.request.prompt[-1]

    @property
    def position(self) -> int:
        """Position of that token in the sequence."""
        return len(self.request.prompt) - 1 + len(self.token_ids)


class _Part(NamedTuple):
    """A delta, its strength (rows, 1, 1) for every row of the batch, and the rows it is for.

    ``keeps_norm`` (rows, 1, 1) is true for rows whose residual stream keeps its norm.
    """

    delta: Delta
    strengths: Tensor
    keeps_norm: Tensor
    numbers: list[int]


class Decoder:
    """Rows in the middle of being written by one model.

    Args:
        model: writes the texts.
        graph: runs the steps; on a GPU there always is one.

    Attributes:
        rows: those that are not finished, in the order of the batch.
    """

    def __init__(self, model: LoadedModel, *, graph: StepGraph | None = None) -> None:
        if not model.keeps_keys:
            raise ModelError(
                f"Model {model.id!r} keeps more than keys and values of a text, such as the state "
                "of recurrent layers, and SAIF cannot write from that; choose a model whose layers "
                "all attend, or read at the last prompt token."
            )
        self.rows: list[Row] = []
        self._model = model
        # On a GPU, launching the kernels of a step takes longer than their work.
        records = model.device.type == "cuda" and not model.is_spread
        self._graph = StepGraph() if graph is None and records else graph
        self._cache = self._new_cache()
        self._n_batches = 0
        self._n_fired: dict[int, int] = {}
        self._ends = frozenset(model.end_token_ids)

    @torch.no_grad()
    def admit(
        self, requests: Sequence[RowRequest], *, on_read: Callable[[int, int], None] | None = None
    ) -> list[Row]:
        """Read the prompts of new rows; each of their tokens is computed once for all rows.

        Args:
            requests: the texts to be written.
            on_read: told (rows read, rows in all) after each forward pass; may raise to stop.

        Raises:
            PromptPairError: a prompt with its answer is too long, or has tokens that the model
                lacks; the rows that were here before go on.
        """
        for request in requests:
            # Found before they join others, whose texts they would end.
            self._model.check_length(len(request.prompt) + request.max_new_tokens)
            self._model.check_tokens(torch.tensor([*request.prompt, *request.forced]))
        rows = [Row(request) for request in requests]
        n_before = len(self.rows)
        self._cache.add_rows(len(rows), max(len(r.prompt) for r in requests) - 1)
        self.rows += rows
        self._n_batches += 1
        try:
            self._read_prompts(rows, n_before, on_read)
        except BaseException:
            self.drop(rows)
            raise
        return rows

    def drop(self, rows: Sequence[Row]) -> None:
        """Let rows go, finished or not."""
        gone = set(map(id, rows))
        kept = [number for number, row in enumerate(self.rows) if id(row) not in gone]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[number] for number in kept]
        self._n_batches += 1
        if kept:
            self._cache.keep_rows(kept)
        else:
            self._cache = self._new_cache()

    def take_out(self, rows: Sequence[Row]) -> "Decoder":
        """A decoder of their own for some rows, which leave this one between two tokens."""
        taken = set(map(id, rows))
        numbers = [number for number, row in enumerate(self.rows) if id(row) in taken]
        own = Decoder(self._model, graph=self._graph and self._graph.another())
        own.rows = [self.rows[number] for number in numbers]
        own._cache = self._cache.part(numbers)
        self.drop(own.rows)
        return own

    def _new_cache(self) -> RowCache:
        return RowCache(
            self._model.n_layers,
            fixed=self._graph is not None,
            between_layers=self._model.give_way,
        )

    @torch.no_grad()
    def step(self) -> None:
        """Write one token of every row, and let the finished ones go.

        A row whose steering did nothing, or that something goes wrong with, is given up with its
        ``error`` set; the others go on. If the pass itself fails, no row has changed, and the step
        can be tried again without those at fault.
        """
        n_steered = [row.n_steered for row in self.rows]
        steered = [len(_steering_now(row)) for row in self.rows]
        logits = self._forward()
        for row, expected, before in zip(self.rows, steered, n_steered, strict=True):
            if row.n_steered != before + expected:
                row.error = _never_fired(row, row.n_steered - before)
        for row, is_finite in zip(self.rows, torch.isfinite(logits).all(-1).tolist(), strict=True):
            if not is_finite:
                row.error = self._model.not_finite("the logits")
        _check_effect(self._model, self.rows, logits)
        chosen = _sample(logits, self.rows)
        for row, token in zip(self.rows, chosen, strict=True):
            try:
                self._take(row, token)
            except Exception as error:
                row.error = error
            is_full = len(row.token_ids) >= row.request.max_new_tokens
            row.finished = row.ended or row.stopped or is_full or row.error is not None
        self.drop([row for row in self.rows if row.finished])

    def _take(self, row: Row, token: int) -> None:
        row.ended = token in self._ends
        if not row.ended:
            row.token_ids.append(token)
        row.stopped = self._holds_stop(row)

    def _holds_stop(self, row: Row) -> bool:
        if not row.request.stop:
            return False
        text = self._model.decode(row.token_ids)
        return any(stop in text for stop in row.request.stop)

    def _forward(self) -> Float[Tensor, "rows d_vocab"]:
        device = self._model.device
        self._cache.reserve(self._cache.length + 1)
        token_ids = torch.tensor([[row.next_token] for row in self.rows], device=device)
        positions = torch.tensor([[row.position] for row in self.rows], device=device)
        parts = self._parts_now()
        if self._graph is None:
            logits = self._pass(token_ids, positions, self._padding_mask(positions), parts)
        else:
            logits = self._recorded_pass(self._graph, token_ids, positions, parts)
        for layer, steered in parts.items():
            for number in chain.from_iterable(part.numbers for part in steered):
                self.rows[number].n_steered += self._n_fired[layer]
        self._cache.advance()
        return logits

    def _pass(
        self, token_ids: Tensor, positions: Tensor, mask: Any, parts: dict[int, list[_Part]]
    ) -> Float[Tensor, "rows d_vocab"]:
        # Kept for the steps that replay this one, in which no hook runs.
        self._n_fired = dict.fromkeys(parts, 0)

        def edit(layer: int, resid: Tensor) -> Tensor:
            self._n_fired[layer] += 1
            return self._edit(parts[layer], resid)

        with ExitStack() as hooks:
            for layer in parts:
                hooks.enter_context(edit_resid(self._model.blocks[layer], partial(edit, layer)))
            return self._model.decode_step(token_ids, positions, mask, self._cache)

    def _padding_mask(self, positions: Int[Tensor, "rows 1"]) -> Tensor | None:
        """True for slots that hold tokens; None where all do, as attention is faster without."""
        length = self._cache.length
        if all(row.position == length for row in self.rows):
            return None
        return torch.arange(length + 1, device=positions.device) >= length - positions

    def _recorded_pass(
        self,
        graph: StepGraph,
        token_ids: Tensor,
        positions: Tensor,
        parts: dict[int, list[_Part]],
    ) -> Float[Tensor, "rows d_vocab"]:
        n_slots = self._cache.n_slots
        slots = torch.arange(n_slots, device=positions.device)
        slot = torch.tensor([self._cache.length], device=positions.device)
        flat = [part for layer in parts for part in parts[layer]]

        def step(inputs: Sequence[Tensor]) -> Tensor:
            token_ids, positions, slot, *given = inputs
            self._cache.slot = slot
            key_positions = slots - (slot - positions)
            mask = ((slots <= slot) & (key_positions >= 0))[:, None, None]
            masks = self._model.attention_masks(mask, positions, key_positions)
            new = iter(given)
            now = {
                layer: [
                    part._replace(strengths=next(new), keeps_norm=next(new))
                    for part in parts[layer]
                ]
                for layer in parts
            }
            return self._pass(token_ids, positions, masks, now)

        shape = (
            self._n_batches,
            n_slots,
            tuple((layer, id(part.delta)) for layer in parts for part in parts[layer]),
        )
        given = chain.from_iterable((part.strengths, part.keeps_norm) for part in flat)
        return graph.run(shape, [token_ids, positions, slot, *given], step)

    def _parts_now(self) -> dict[int, list[_Part]]:
        """What is steered in this step: by layer, one strength for every row of each delta."""
        layers: dict[int, dict[int, _Part]] = defaultdict(dict)
        for number, row in enumerate(self.rows):
            for steering, strength in _steering_now(row):
                parts = layers[steering.layer]
                if id(steering.delta) not in parts:
                    blank = torch.zeros(len(self.rows), 1, 1)
                    parts[id(steering.delta)] = _Part(steering.delta, blank, blank.bool(), [])
                part = parts[id(steering.delta)]
                part.strengths[number] += strength
                part.keeps_norm[number] = steering.keep_norm
                part.numbers.append(number)
        device = self._model.device
        return {
            layer: [
                part._replace(
                    strengths=part.strengths.to(device), keeps_norm=part.keeps_norm.to(device)
                )
                for part in parts.values()
            ]
            for layer, parts in layers.items()
        }

    def _edit(
        self, parts: Sequence[_Part], resid: Float[Tensor, "rows 1 d_model"]
    ) -> Float[Tensor, "rows 1 d_model"]:
        """The residual stream with every steered row's own share of its steering vector."""
        changes = [(part.delta, part.strengths, part.keeps_norm.to(resid.device)) for part in parts]
        edited = add_deltas(resid, changes)
        for number in dict.fromkeys(chain.from_iterable(part.numbers for part in parts)):
            row = self.rows[number]
            # Once: reading a norm waits for the device, which a recorded step may not.
            if row.n_steered == 0:
                row.added_norm = float((edited[number] - resid[number]).float().norm())
                row.resid_norm = float(resid[number].float().norm())
        return edited

    def _read_prompts(
        self, rows: Sequence[Row], first: int, on_read: Callable[[int, int], None] | None
    ) -> None:
        n_read = 0
        for numbers in _same_prefix_steering(rows):
            by_prefix: dict[tuple[int, ...], list[int]] = defaultdict(list)
            for number in numbers:
                by_prefix[rows[number].request.prompt[:-1]].append(number)
            n_read += len(by_prefix.pop((), ()))
            prefixes = list(by_prefix)
            n_prompt = len(rows[numbers[0]].request.prompt)
            pack = pack_prefix_trees if self._model.packs_trees else pack_singly
            for packed in pack(prefixes):
                targets = [(by_prefix[prefixes[index]], path) for index, path in packed.paths]
                steering = rows[numbers[0]].request.steering
                self._read_tree(packed, steering, n_prompt, targets, first)
                n_read += sum(len(where) for where, _ in targets)
                if on_read:
                    on_read(n_read, len(rows))

    def _read_tree(
        self,
        packed: PackedRow,
        steerings: Sequence[Steering],
        n_prompt: int,
        targets: Sequence[tuple[Sequence[int], np.ndarray]],
        first: int,
    ) -> None:
        with ExitStack() as hooks:
            depths = torch.from_numpy(packed.depths)
            for layer, changes in _prompt_changes(steerings, n_prompt, depths).items():
                edit = partial(add_deltas, changes=changes)
                hooks.enter_context(edit_resid(self._model.blocks[layer], edit))
            computed = self._model.read_tree(
                torch.from_numpy(packed.token_ids)[None],
                torch.from_numpy(packed.depths)[None],
                torch.from_numpy(packed.mask)[None, None],
            )
        width = max(len(path) for _, path in targets)
        numbers = [first + number for where, _ in targets for number in where]
        paths = np.zeros((len(numbers), width), dtype=np.int64)
        copies = [path for where, path in targets for _ in where]
        for row, path in enumerate(copies):
            paths[row, width - len(path) :] = path
        self._cache.fill(numbers, torch.from_numpy(paths), computed)


def decode(
    model: LoadedModel,
    requests: Sequence[RowRequest],
    *,
    on_read: Callable[[int, int], None] | None = None,
    on_step: OnStep | None = None,
) -> list[Row]:
    """Write all texts to their end, one batched forward pass per token.

    Args:
        requests: the texts to be written.
        on_read: see ``Decoder.admit``.
        on_step: told (tokens so far, token ids of every row) after each step; may raise to stop.

    Raises:
        SteeringError: a steered row whose hook never fired or that changed no logit.
    """
    decoder = Decoder(model)
    rows = decoder.admit(requests, on_read=on_read)
    n_done = 0
    while decoder.rows:
        decoder.step()
        n_done += 1
        for row in rows:
            if row.error is not None:
                raise row.error
        if on_step:
            on_step(n_done, [row.token_ids for row in rows])
    return rows


def _steering_now(row: Row) -> list[tuple[Steering, float]]:
    """What steers a row's next token, and how strongly."""
    step = len(row.token_ids)
    now = [(steering, steering.strength_at(step)) for steering in row.request.steering]
    return [(steering, strength) for steering, strength in now if strength != 0]


def _prompt_changes(
    steerings: Sequence[Steering], n_prompt: int, depths: Int[Tensor, " pos"]
) -> dict[int, list[tuple[Delta, Tensor, Tensor]]]:
    """What is added to the tokens of prompts before their last, by layer.

    Args:
        n_prompt: tokens of a prompt, where steering depends on it.
        depths: position of each token in its prompt.
    """
    layers: dict[int, list[tuple[Delta, Tensor, Tensor]]] = defaultdict(list)
    for steering in steerings:
        if steering.edits_prompt:
            longest = int(depths.max()) + 1
            strengths = steering.strengths(max(n_prompt, longest + 1), longest)[:, depths]
            keeps_norm = (strengths != 0) & torch.tensor(steering.keep_norm)
            layers[steering.layer].append((steering.delta, strengths, keeps_norm))
    return layers


def _same_prefix_steering(rows: Sequence[Row]) -> list[list[int]]:
    """Rows whose prompts, but for the last token, are steered alike; most are not at all.

    Where the end of a prompt is steered, only prompts of one length are.
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        key = tuple(
            (
                *(steering.layer, id(steering.delta), steering.strength, steering.keep_norm),
                *(steering.schedule.scope, steering.schedule.prompt_first),
                steering.schedule.prompt_last,
                len(row.request.prompt) if steering.schedule.scope == "prompt-ends" else 0,
            )
            for steering in row.request.steering
            if steering.edits_prompt
        )
        groups[key].append(number)
    return list(groups.values())


def _never_fired(row: Row, n_calls: int) -> SteeringError:
    layers = ", ".join(str(steering.layer) for steering in row.request.steering)
    return SteeringError(
        f"The steering hook after block {layers} fired {n_calls} times in one forward pass instead "
        "of once, so the text would not be what its label says; choose another layer or model."
    )


def _check_effect(
    model: LoadedModel, rows: Sequence[Row], logits: Float[Tensor, "rows d_vocab"]
) -> None:
    """Compare each row's first steered logits with an unsteered row of the same prompt, if any."""
    new = [number for number, row in enumerate(rows) if not row.token_ids]
    if not any(_steering_now(rows[number]) for number in new):
        return
    # Rows of a batch with equal inputs may differ in their last bits.
    rounding = 1e-5 if model.dtype == torch.float32 else 0.0
    plain = {rows[n].request.prompt: n for n in new if not _steering_now(rows[n])}
    for number in new:
        twin = plain.get(rows[number].request.prompt)
        now = _steering_now(rows[number])
        if twin is None or not now or all(steering.may_be_silent for steering, _ in now):
            continue
        change = float((logits[number] - logits[twin]).abs().max())
        if rows[number].added_norm == 0 or change <= rounding * float(logits[twin].abs().max()):
            strength = now[0][1]
            rows[number].error = SteeringError(
                f"Steering with strength {strength:g} changed no logit of model "
                f"{model.id!r}; raise the strength or choose latents with larger coefficients."
            )


def _sample(logits: Float[Tensor, "rows d_vocab"], rows: Sequence[Row]) -> list[int]:
    changed = [n for n, row in enumerate(rows) if _is_drawn(row.request)]
    if changed:
        logits = logits.clone()
    noise: dict[tuple[int, int, int], Tensor] = {}
    for number in changed:
        try:
            logits[number] = _drawn(logits[number], rows[number], noise)
        except Exception as error:
            rows[number].error = error
    chosen: list[int] = logits.argmax(dim=-1).tolist()
    for number, row in enumerate(rows):
        if len(row.token_ids) < len(row.request.forced):
            chosen[number] = row.request.forced[len(row.token_ids)]
    return chosen


def _drawn(
    logits: Float[Tensor, " d_vocab"], row: Row, noise: dict[tuple[int, int, int], Tensor]
) -> Float[Tensor, " d_vocab"]:
    """Logits whose largest is the token that is drawn.

    Args:
        noise: what rows of this step have in common.
    """
    request = row.request
    if request.logit_bias is not None:
        logits = logits + request.logit_bias.to(logits.device)
    if request.temperature:
        key = (request.seed, request.sample, len(row.token_ids))
        if key not in noise:
            noise[key] = _gumbel(logits.shape[-1], *key).to(logits.device)
        logits = _nucleus(logits / request.temperature, request.top_p) + noise[key]
    return logits


def _is_drawn(request: RowRequest) -> bool:
    return bool(request.temperature) or request.logit_bias is not None


def _nucleus(logits: Float[Tensor, " d_vocab"], top_p: float) -> Float[Tensor, " d_vocab"]:
    """Logits with those outside the likeliest tokens of probability ``top_p`` at minus infinity.

    Source: nucleus sampling (arXiv 1904.09751).
    """
    if top_p >= 1:
        return logits
    ordered, order = logits.sort(descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return logits.masked_fill(
        torch.zeros_like(logits, dtype=torch.bool).scatter(0, order, before >= top_p), -torch.inf
    )


def _gumbel(d_vocab: int, seed: int, sample: int, step: int) -> Float[Tensor, " d_vocab"]:
    # Drawn on the CPU, so that the same seed gives the same text on every device.
    key = (seed * 1_000_003 + sample) * 1_000_003 + step
    generator = torch.Generator().manual_seed(key % (1 << 63))
    uniform = torch.rand(d_vocab, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return -torch.log(-torch.log(uniform)).float()
