"""``saif latent`` and ``saif describe``: what one latent is, and a description of it in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.groups import Place
from app.cli.options import JsonOption
from app.cli.output import answering, wait_for
from app.cli.requests import Opened, opened_at
from app.cli.texts import description_text, latent_text
from saif_core.records.as_json import to_json

if TYPE_CHECKING:  # these import numpy
    from app.presentation.latents import ExampleText
    from saif_core.records.corpus import LatentIndex, LatentProfile
    from saif_core.records.latents import TokenChange
    from saif_core.records.notes import LatentDescription

LatentArgument = Annotated[
    int, typer.Argument(min=0, metavar="LATENT", help="Index of the latent, from 0 on.")
]
IndexOption = Annotated[
    str,
    typer.Option(
        "--index",
        metavar="NAME",
        show_default="the newest of the SAE",
        help="Corpus index to read from, by its name or id.",
    ),
]
TokenChangeOption = Annotated[
    bool,
    typer.Option(
        "--token-change",
        help="Measure which tokens it makes likelier where it fires most; needs the model.",
    ),
]


@dataclass(frozen=True)
class Known:
    """A latent in a corpus index, with its examples."""

    index: "LatentIndex"
    profile: "LatentProfile"
    texts: "list[ExampleText]"
    promoted: list[tuple[str, float]]
    suppressed: list[tuple[str, float]]


def latent(
    number: LatentArgument,
    place: Place,
    index: IndexOption = "",
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            metavar="TEXT",
            show_default=False,
            help="Show it on this text, token by token; may be given several times; needs the "
            "model.",
        ),
    ] = None,
    token_change: TokenChangeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a latent is.

    From a corpus that was read, without the model: how often it fires, where it does most, S_in
    and S_out, what fires with it, notes and descriptions. Where none was read, from its weights.
    """
    with answering(as_json) as answer, opened_at(place) as (here, sae_id):
        known = read_known(here, sae_id, number, index)
        data = _of_weights(here, sae_id, number) if known is None else _of_corpus(known)
        data = {"sae": sae_id, "index": number, **data, **_relatives(here, sae_id, number, data)}
        data |= _said(here, data["sae_sha256"], number)
        data["texts"] = _on_texts(here, sae_id, number, text or ())
        data["token_change"] = None
        if token_change and known is not None:
            data["token_change"] = to_json(read_change(here, sae_id, known))
        answer(data, latent_text(data))


def describe(
    number: LatentArgument,
    place: Place,
    index: IndexOption = "",
    token_change: TokenChangeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Have a language model describe a latent, and test what it says.

    SAIF_LLM_URL and SAIF_LLM_MODEL name the model; it is told tokens and examples of the latent.
    """
    with answering(as_json) as answer, opened_at(place) as (here, sae_id):
        from app.presentation.latents import (
            choose_index,
            evidence_of,
            indexes_of,
            needs_index,
            other_latents,
        )
        from saif_core.records.questions import DescribeRequest
        from saif_core.records.ranking import ChosenLatent

        needs_index(choose_index(indexes_of(here.store, sae_id), index), sae_id)
        known = read_known(here, sae_id, number, index)
        assert known is not None
        change = read_change(here, sae_id, known) if token_change else None
        evidence = evidence_of(
            [token for token, _ in known.promoted],
            [token for token, _ in known.suppressed],
            known.texts,
            change,
        )
        request = DescribeRequest(
            sae_id,
            known.index.sae_sha256,
            ChosenLatent(number, known.profile.maximum or 1.0),
            evidence,
            other_latents(here.store, known.index, number),
        )
        made: LatentDescription = wait_for(here.engine.submit(request))
        answer(to_json(made), description_text(made))


def read_known(here: Opened, sae_id: str, number: int, wanted: str) -> Known | None:
    """What a corpus says of a latent; None if none was read through its SAE.

    Raises:
        SaifError: there is no such index or latent.
    """
    from app.presentation.latents import choose_index, indexes_of, read_examples, words_of_tokens

    index = choose_index(indexes_of(here.store, sae_id), wanted)
    if index is None:
        return None
    profile = here.store.profiles.get(index.id, number)
    words = words_of_tokens(
        here.engine.token_texts, (t for t, _ in (*profile.promoted, *profile.suppressed))
    )
    return Known(
        index,
        profile,
        read_examples(here.store, index, profile, here.engine.token_texts),
        [(words[token], logit) for token, logit in profile.promoted],
        [(words[token], logit) for token, logit in profile.suppressed],
    )


def read_change(here: Opened, sae_id: str, known: Known) -> "TokenChange | None":
    """Which tokens the latent makes likelier, set to its 99% quantile where it fires most."""
    from saif_core.records.questions import TokenChangeQuestion

    ordinals = [text.example.context for text in known.texts if text.example.kind == 0]
    if not ordinals:
        return None
    contexts = here.store.profiles.contexts(known.index.id, ordinals)
    question = TokenChangeQuestion(
        sae_id,
        known.profile.latent,
        known.profile.quantiles[-1],
        tuple(tuple(token_ids.tolist()) for token_ids in contexts.values()),
    )
    change: TokenChange = wait_for(here.engine.submit(question))
    return change


def sae_sha256_of(here: Opened, sae_id: str) -> str:
    """Hash of an SAE: from an index of it, else from its weights."""
    from app.presentation.latents import indexes_of
    from saif_core.records.questions import SaeQuestion

    indexes = indexes_of(here.store, sae_id)
    if indexes:
        return indexes[0].sae_sha256
    return str(wait_for(here.engine.submit(SaeQuestion(sae_id))).sha256)


def _of_corpus(known: Known) -> dict[str, Any]:
    from app.presentation.latents import corpus_data
    from saif_core.explaining.latent_scores import verdict_on

    profile, index = known.profile, known.index
    s_in, s_out = profile.s_in, profile.s_out
    return {
        "hook_point": index.hook_point,
        "sae_sha256": index.sae_sha256,
        "promoted": [list(pair) for pair in known.promoted],
        "suppressed": [list(pair) for pair in known.suppressed],
        "s_in": s_in,
        "s_out": s_out,
        "verdict": verdict_on(index.n_tokens, s_in, s_out) or "",
        "corpus": corpus_data(index, profile, known.texts),
        "weights": None,
    }


def _of_weights(here: Opened, sae_id: str, number: int) -> dict[str, Any]:
    from saif_core.records.questions import LatentQuestion

    detail = to_json(wait_for(here.engine.submit(LatentQuestion(sae_id, number))))
    return {
        "hook_point": detail["hook_point"],
        "sae_sha256": sae_sha256_of(here, sae_id),
        "promoted": detail["promoted"],
        "suppressed": detail["suppressed"],
        "s_in": None,
        "s_out": None,
        "verdict": "",
        "corpus": None,
        "weights": {name: detail[name] for name in ("decoder_norm", "encoder_bias", "neighbours")},
    }


def _relatives(here: Opened, sae_id: str, number: int, data: dict[str, Any]) -> dict[str, Any]:
    """Neighbours in the same SAE, those in the layers beside, and the flow through the layers."""
    from app.presentation.latents import relatives_of

    found = relatives_of(here.engine, sae_id, number)
    if found is None:
        same = data["weights"]["neighbours"] if data["weights"] else []
        return {"neighbours": same, "near": [], "flow": None}
    own, *others = found.near.values()
    return {
        "neighbours": [[one.latent, one.cosine] for one in own],
        "near": [to_json(one) for other in others for one in other],
        "flow": to_json(found.flow),
    }


def _said(here: Opened, sae_sha256: str, number: int) -> dict[str, Any]:
    """What people and models say of it."""
    from app.presentation.latents import newest_label

    notes = here.store.notes.list(sae_sha256, number)
    descriptions = here.store.notes.descriptions(sae_sha256, number)
    return {
        "label": newest_label(notes),
        "notes": [to_json(note) for note in notes],
        "descriptions": [to_json(one) for one in descriptions],
    }


def _on_texts(here: Opened, sae_id: str, number: int, texts: Sequence[str]) -> list[dict[str, Any]]:
    from saif_core.records.questions import LatentOnTextsQuestion

    if not texts:
        return []
    question = LatentOnTextsQuestion(sae_id, number, tuple(texts))
    return [to_json(one) for one in wait_for(here.engine.submit(question)).texts]
