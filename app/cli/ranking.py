"""``saif rank``: the latents that carry an instruction."""

from typing import Annotated

from app.cli.groups import Pairs, Place, Reading, Selecting
from app.cli.options import JsonOption, Of
from app.cli.output import answering, wait_for
from app.cli.requests import opened_at, ranking_request, read_pairs
from app.cli.texts import ranking_text
from app.cli.values import named_values
from saif_core.records.as_json import to_json
from saif_core.records.ranking import Ranking, RankingRequest


def rank(
    pairs: Pairs,
    reading: Reading,
    selecting: Selecting,
    place: Place,
    top: Annotated[int, Of(RankingRequest, help="how many latents to take")] = RankingRequest.top,
    chat: Annotated[bool, Of(RankingRequest)] = RankingRequest.chat,
    as_json: JsonOption = False,
) -> None:
    """Rank the latents that carry an instruction, best first."""
    named_values("--selector-parameter", selecting.selector_parameter)
    given = read_pairs(pairs)
    with answering(as_json) as answer, opened_at(place) as (here, sae_id):
        request = ranking_request(given, sae_id, reading, selecting, chat=chat, top=top)
        ranking: Ranking = wait_for(here.engine.submit(request))
        data = to_json(ranking)
        data["latents"] = data["latents"][:top]
        answer(data, ranking_text(ranking))
