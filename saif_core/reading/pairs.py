"""Prompt pairs → latent activations at the reading position, through the cache.

Reading positions: the last prompt token (SAIF), or the response tokens: the answer that the model
itself writes, greedily, to the prompt with and without the instruction.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saif_core.errors import PromptPairError
from saif_core.models.activations import count_tree_tokens, read_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.jobs import Step
from saif_core.records.ports import ActivationCache
from saif_core.records.ranking import RankingRequest, WorkEstimate
from saif_core.saes.latents import LatentActivations, from_payload, join_rows, to_payload
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.writing.decoder import RowRequest, decode

DECODE_ROWS = 64


@dataclass(frozen=True)
class ReadResult:
    """Latent activations with (positive) and without (negative) the instruction, and the cost.

    Attributes:
        tokens_total: tokens that running every prompt on its own would take; responses are
            written in one pass and read in another.
        tokens_computed: tokens that had to be run through the model.
    """

    positive: LatentActivations
    negative: LatentActivations
    tokens_total: int
    tokens_computed: int


@dataclass(frozen=True)
class Reading:
    """One sequence to read.

    Attributes:
        start: first position read; the rest of the sequence follows.
    """

    token_ids: tuple[int, ...]
    start: int

    def key(self, model: LoadedModel, sae: LoadedSae) -> str:
        return _hash(
            f"latents|{model.fingerprint}|{sae.sha256}|{sae.hook_point}|{self.start}",
            self.token_ids,
        )


def read_latents(
    model: LoadedModel,
    sae: LoadedSae,
    request: RankingRequest,
    *,
    cache: ActivationCache | None = None,
    step: Step | None = None,
) -> ReadResult:
    """Latent activations of every pair at the request's reading position.

    Raises:
        PromptPairError: there are no pairs, or the model answers every prompt with nothing.
    """
    readings, n_computed = find_readings(model, request, cache, step)
    parts, n_read = _read_cached(model, sae, readings, cache, step)
    n_pairs = len(request.pairs)
    positive, negative = join_rows(parts[:n_pairs]), join_rows(parts[n_pairs:])
    if positive.n_rows == 0 or negative.n_rows == 0:
        raise no_answer()
    n_passes = 2 if request.read == "response" else 1
    total = n_passes * sum(len(r.token_ids) for r in readings)
    return ReadResult(positive, negative, total, n_computed + n_read)


def find_readings(
    model: LoadedModel, request: RankingRequest, cache: ActivationCache | None, step: Step | None
) -> tuple[list[Reading], int]:
    """Where all positives, then all negatives, are read, and the tokens that finding it took.

    Answers that the cache does not have are written by the model.

    Raises:
        PromptPairError: there are no pairs.
    """
    prompts = encode_pairs(model, request)
    if request.read == "last-token":
        return [Reading(tuple(prompt), len(prompt) - 1) for prompt in prompts], 0
    responses, n_computed = read_responses(model, prompts, request.response_tokens, cache, step)
    readings = [
        Reading((*prompt, *response), len(prompt))
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    return readings, n_computed


def encode_pairs(model: LoadedModel, request: RankingRequest) -> list[list[int]]:
    """Token ids of all positives, then of all negatives."""
    if not request.pairs:
        raise PromptPairError("There are no prompt pairs; choose at least one content.")
    texts = [p.positive for p in request.pairs] + [p.negative for p in request.pairs]
    # Wordings of one content share their negative.
    encoded = {text: model.encode_prompt(text, chat=request.chat) for text in dict.fromkeys(texts)}
    n_answer = request.response_tokens if request.read == "response" else 0
    model.check_length(max(map(len, encoded.values())) + n_answer)
    return [encoded[text] for text in texts]


def estimate_work(
    model: LoadedModel, sae: LoadedSae, request: RankingRequest, cache: ActivationCache | None
) -> WorkEstimate:
    """What ``read_latents`` would compute; responses that are not written yet count in full."""
    prompts = encode_pairs(model, request)
    if request.read == "last-token":
        readings = [Reading(tuple(prompt), len(prompt) - 1) for prompt in prompts]
    else:
        known = _cached_responses(model, prompts, request.response_tokens, cache)
        if any(_key not in known for _key in map(tuple, prompts)):
            distinct = set(map(tuple, prompts))
            total = 2 * (sum(map(len, prompts)) + len(prompts) * request.response_tokens)
            to_write = sum(len(p) + request.response_tokens for p in distinct if p not in known)
            to_read = sum(len(p) + request.response_tokens for p in distinct)
            return WorkEstimate(len(request.pairs), total, to_write + to_read, False)
        readings = [Reading((*p, *known[tuple(p)]), len(p)) for p in prompts]
    keys = [reading.key(model, sae) for reading in readings]
    found = cache.get_many(sorted(set(keys))) if cache else {}
    missing = {r.token_ids for r, key in zip(readings, keys, strict=True) if key not in found}
    n_passes = 2 if request.read == "response" else 1
    total = n_passes * sum(len(r.token_ids) for r in readings)
    to_compute = count_tree_tokens(sorted(missing)) if missing else 0
    return WorkEstimate(len(request.pairs), total, to_compute, to_compute == 0)


def _read_cached(
    model: LoadedModel,
    sae: LoadedSae,
    readings: Sequence[Reading],
    cache: ActivationCache | None,
    step: Step | None,
) -> tuple[list[LatentActivations], int]:
    keys = [reading.key(model, sae) for reading in readings]
    payloads = cache.get_many(sorted(set(keys))) if cache else {}
    missing = {
        key: reading for key, reading in zip(keys, readings, strict=True) if key not in payloads
    }
    n_computed = 0
    if missing:
        if step:
            # What was counted before is done.
            step(0, len(missing), "reading")
        wanted = [list(range(r.start, len(r.token_ids))) for r in missing.values()]
        found, n_computed = read_resid(
            model,
            [reading.token_ids for reading in missing.values()],
            [sae.layer],
            wanted,
            on_row=(lambda done, total: step(done, total, "reading")) if step else None,
            reduce=lambda resid: to_payload(sae.encode_sparse(resid)),
        )
        fresh = dict(zip(missing, found[sae.layer], strict=True))
        if cache:
            cache.put_many(fresh)
        payloads = {**payloads, **fresh}
    return [from_payload(payloads[key], sae.d_sae) for key in keys], n_computed


def _response_key(model: LoadedModel, prompt: Sequence[int], n_tokens: int) -> str:
    return _hash(f"response|{model.fingerprint}|{n_tokens}", prompt)


def _cached_responses(
    model: LoadedModel,
    prompts: Sequence[Sequence[int]],
    n_tokens: int,
    cache: ActivationCache | None,
) -> dict[tuple[int, ...], tuple[int, ...]]:
    distinct = sorted(set(map(tuple, prompts)))
    keys = {prompt: _response_key(model, prompt, n_tokens) for prompt in distinct}
    payloads = cache.get_many(list(keys.values())) if cache else {}
    return {
        prompt: tuple(int(i) for i in np.frombuffer(payloads[key], np.int32))
        for prompt, key in keys.items()
        if key in payloads
    }


def read_responses(
    model: LoadedModel,
    prompts: Sequence[Sequence[int]],
    n_tokens: int,
    cache: ActivationCache | None,
    step: Step | None,
) -> tuple[list[tuple[int, ...]], int]:
    """The model's own greedy answers, and the tokens that writing them took."""
    responses = _cached_responses(model, prompts, n_tokens, cache)
    # In this order, prompts of a batch share the most of their beginnings.
    missing = sorted({tuple(p) for p in prompts if tuple(p) not in responses})
    n_computed = 0
    for start in range(0, len(missing), DECODE_ROWS):
        batch = missing[start : start + DECODE_ROWS]

        def on_read(n_read: int, _total: int, start: int = start) -> None:
            if step:
                step(start + n_read // 2, len(missing), "writing answers")

        def on_step(n_done: int, texts: Sequence[Sequence[int]], start: int = start) -> None:
            if step:
                share = len(texts) * (n_tokens + n_done) // (2 * n_tokens)
                step(start + share, len(missing), "writing answers")

        requests = [RowRequest(prompt, n_tokens) for prompt in batch]
        rows = decode(model, requests, on_read=on_read, on_step=on_step)
        fresh = {prompt: tuple(row.token_ids) for prompt, row in zip(batch, rows, strict=True)}
        n_computed += sum(len(p) + len(r) for p, r in fresh.items())
        responses.update(fresh)
        if cache:
            cache.put_many(
                {
                    _response_key(model, prompt, n_tokens): np.array(ids, np.int32).tobytes()
                    for prompt, ids in fresh.items()
                }
            )
    return [responses[tuple(prompt)] for prompt in prompts], n_computed


def _hash(head: str, token_ids: Sequence[int]) -> str:
    digest = hashlib.sha256(head.encode())
    digest.update(np.asarray(token_ids, dtype=np.int64).tobytes())
    return digest.hexdigest()


def no_answer() -> PromptPairError:
    """What there is to say where answer tokens were to be read, and no answer has any."""
    return PromptPairError(
        "The model wrote no answer to any prompt, so there are no answer tokens to read; "
        "read at the last prompt token, or use other contents."
    )
