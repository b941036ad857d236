"""The engine and store handles, and the work in hand that follows a person across the pages.

The work in hand is one `Work` object in ``st.session_state``. It is read from the URL when a
browser session starts and written back on every run (by ``main.py``), so that a copied address
opens the same work; what is too much for an address is kept in the store, see ``kept_work``.
Pages read its fields and call its methods; they never touch its URL parameters: ``sae``,
``instruction``, ``job``, ``basket``, ``strength``, ``work``. Every other parameter name is free
for a page's own use.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import streamlit as st

from app.dashboard.handles import engine
from app.dashboard.history_steps import fill_in_place
from app.dashboard.kept_work import PARAMETER, keep, kept_id, read_part, save_kept
from saif_core.inputs.latent_lists import MAX_INDEX_DIGITS
from saif_core.records.as_json import from_json, to_json
from saif_core.records.prompts import Instruction
from saif_core.records.ranking import (
    MAX_COEFFICIENT,
    ChosenLatent,
    LatentScore,
    Ranking,
    RankingRequest,
)
from saif_core.records.steering import MAX_STRENGTH

DEFAULT_INSTRUCTION = "translate-to-french"
_PUBLISHED = "published_parameters"
URL_PARAMETERS = ("sae", "instruction", "job", "basket", "strength", PARAMETER)
# Links from a page to itself carry it: the browser changes its address only when told to, and
# taking this away again tells it.
VIA_LINK = "via"


@dataclass(frozen=True)
class FinishedRanking:
    """A ranking of this browser session, with the request and the job that made it."""

    job_id: str
    request: RankingRequest
    ranking: Ranking


@dataclass(frozen=True)
class EarlierBasket:
    """A basket that made way for another one.

    Attributes:
        strength: that it was steered with.
        settings: how it was written, where that made way too; for who set them.
    """

    sae_id: str
    latents: dict[int, float]
    strength: float
    settings: Any = None


@dataclass
class Work:
    """What a person is working on.

    Attributes:
        sae_id: chosen SAE ("" before the first choice); set it with ``choose_sae``.
        instruction: name of the chosen instruction.
        uploaded: the person's own instructions, by name.
        job_id: the ranking job in hand, running or finished ("" for none).
        ranking: the finished ranking in hand.
        ranking_request: the request that made it.
        finished: every ranking finished in this browser session, oldest first.
        baskets: chosen latents (index → coefficient) by SAE id; indices mean nothing elsewhere.
        strength: the steering dial; 1 = as strongly as the latents fire on instructed prompts.
        earlier: the basket that was emptied or replaced last, so that it can come back.
    """

    sae_id: str = ""
    instruction: str = DEFAULT_INSTRUCTION
    uploaded: dict[str, Instruction] = field(default_factory=dict)
    job_id: str = ""
    ranking: Ranking | None = None
    ranking_request: RankingRequest | None = None
    finished: list[FinishedRanking] = field(default_factory=list)
    baskets: dict[str, dict[int, float]] = field(default_factory=dict)
    strength: float = 1.0
    earlier: EarlierBasket | None = None

    @property
    def basket(self) -> dict[int, float]:
        """Chosen latents of the current SAE: index → coefficient, in the order of choosing."""
        return self.baskets.setdefault(self.sae_id, {})

    def basket_latents(self) -> tuple[ChosenLatent, ...]:
        """The basket as an edit takes it."""
        return tuple(ChosenLatent(index, value) for index, value in self.basket.items())

    def add_latent(self, index: int, coefficient: float) -> None:
        """Put a latent in the basket, or change its coefficient (default choice: its mean)."""
        self.basket[index] = float(coefficient)

    def remove_latent(self, index: int) -> None:
        """Take a latent out of the basket; one that is not in it is no error."""
        self.basket.pop(index, None)

    def clear(self, settings: Any = None) -> None:
        """Empty the basket of the current SAE; ``undo`` brings it back.

        Args:
            settings: see ``EarlierBasket``.
        """
        if self.basket:
            self.earlier = EarlierBasket(self.sae_id, dict(self.basket), self.strength, settings)
        self.basket.clear()

    def set_basket(self, latents: Mapping[int, float]) -> None:
        """Have these latents in the basket of the current SAE, as somebody edits it."""
        self.baskets[self.sae_id] = dict(latents)

    def undo(self) -> None:
        """Have the basket that was emptied or replaced last back, with its strength."""
        if self.earlier is not None:
            earlier, self.earlier = self.earlier, None
            self.choose_sae(earlier.sae_id)
            self.set_basket(earlier.latents)
            self.strength = earlier.strength

    def choose_sae(self, sae_id: str) -> None:
        """Work with another SAE: its basket and its newest ranking of this session come back."""
        if sae_id == self.sae_id:
            return
        self.sae_id = sae_id
        self.ranking = self.ranking_request = None
        self.job_id = ""
        for done in self.finished:
            if done.request.sae_id == sae_id:
                self._hold(done)

    def keep_ranking(self, job_id: str, request: RankingRequest, ranking: Ranking) -> None:
        """Make a finished ranking the one in hand and remember it for comparisons."""
        done = FinishedRanking(job_id, request, ranking)
        self.finished = [old for old in self.finished if old.job_id != job_id] + [done]
        self.sae_id = request.sae_id
        self._hold(done)

    def attach(self, job_id: str) -> None:
        """Follow a ranking job; the ranking in hand makes way until that job has finished."""
        self.job_id = job_id
        self.ranking = self.ranking_request = None

    def instruction_record(self) -> Instruction | None:
        """The chosen instruction; None when the work came from uploaded pairs."""
        from saif_core.inputs.shipped import shipped_instructions

        return self.uploaded.get(self.instruction) or shipped_instructions().get(self.instruction)

    def latent_score(self, index: int) -> LatentScore | None:
        """What the ranking in hand says about a latent; None when it is not in it."""
        if self.ranking is None:
            return None
        return next((score for score in self.ranking.latents if score.index == index), None)

    def to_query(self) -> dict[str, str]:
        """The URL parameters of this work; those at their default are left out."""
        basket = ",".join(f"{index}:{value:.12g}" for index, value in self.basket.items())
        query = {
            "sae": self.sae_id,
            "instruction": "" if self.instruction == DEFAULT_INSTRUCTION else self.instruction,
            "job": self.job_id,
            "basket": basket,
            "strength": "" if self.strength == 1.0 else f"{self.strength:.12g}",
        }
        return {name: value for name, value in query.items() if value}

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> "Work":
        """The work that an address describes; parts that make no sense are ignored."""
        work = cls(sae_id=query.get("sae", ""), job_id=query.get("job", ""))
        work.instruction = query.get("instruction", "") or DEFAULT_INSTRUCTION
        work.strength = _number(query.get("strength", ""), 1.0)
        if abs(work.strength) > MAX_STRENGTH:
            work.strength = 1.0
        for part in query.get("basket", "").split(",")[:1000]:
            index, _, value = part.partition(":")
            coefficient = _number(value, math.nan)
            is_index = index.isascii() and index.isdigit() and len(index) <= MAX_INDEX_DIGITS
            if is_index and abs(coefficient) <= MAX_COEFFICIENT:
                work.basket[int(index)] = coefficient
        return work

    def to_kept(self) -> dict[str, Any]:
        """What an address has no room for: baskets of other SAEs, and a person's instructions."""
        others = {
            sae_id: [[index, value] for index, value in basket.items()]
            for sae_id, basket in self.baskets.items()
            if basket and sae_id != self.sae_id
        }
        own = {name: to_json(one) for name, one in self.uploaded.items()}
        return {
            name: part for name, part in {"baskets": others, "instructions": own}.items() if part
        }

    def take_kept(self, part: Mapping[str, Any]) -> None:
        """Take up what ``to_kept`` made; what an address says of a basket goes before it.

        Raises:
            ValueError: it is something else.
        """
        for sae_id, latents in part.get("baskets", {}).items():
            if not self.baskets.get(sae_id):
                self.baskets[str(sae_id)] = {int(i): _finite(value) for i, value in latents}
        for name, one in part.get("instructions", {}).items():
            self.uploaded.setdefault(name, from_json(Instruction, one))

    def _hold(self, done: FinishedRanking) -> None:
        self.job_id, self.ranking_request, self.ranking = done.job_id, done.request, done.ranking
        self.instruction = done.request.instruction


def work() -> Work:
    """The work in hand of this browser session, read from the URL the first time."""
    if "work" not in st.session_state:
        begun = Work.from_query(st.query_params.to_dict())
        read_part("work", begun.take_kept, None)
        st.session_state["work"] = begun
    in_hand: Work = st.session_state["work"]
    return in_hand


def resume_ranking() -> None:
    """Take up the ranking that the URL names, if its job has finished in this process."""
    in_hand = work()
    if in_hand.ranking is not None or not in_hand.job_id:
        return
    job = engine().job(in_hand.job_id)
    if job is not None and job.kind == "rank" and job.record.state == "done":
        in_hand.keep_ranking(job.id, job.request, job.result())


def open_page(page: str, **parameters: str) -> NoReturn:
    """Go to a page with the work in hand, and parameters of its own, in the URL."""
    st.switch_page(page, query_params={**_query(), **parameters})


def begin_url() -> None:
    """Forget what the last run published (``main.py`` calls this as a run begins)."""
    st.session_state[_PUBLISHED] = {}


def publish_parameter(name: str, value: str) -> None:
    """Have a page's own parameter in the URL when the run ends; an empty value takes it away."""
    st.session_state.setdefault(_PUBLISHED, {})[name] = value


def write_url() -> None:
    """Bring the URL in line with the work in hand and the page (``main.py``, as a run ends).

    All parameters change at once: every single change would be a step of the browser's history.
    """
    published: dict[str, str] = st.session_state.get(_PUBLISHED, {})
    ours = {*URL_PARAMETERS, *published, VIA_LINK}
    current = st.query_params.to_dict()
    wanted = {name: value for name, value in current.items() if name not in ours}
    wanted |= {name: value for name, value in published.items() if value} | _query()
    fill_in_place()
    if wanted != current:
        st.query_params.from_dict(wanted)


def _query() -> dict[str, str]:
    """The address of the work in hand, with the id of what is kept of it."""
    keep("work", work().to_kept())
    save_kept()
    return work().to_query() | ({PARAMETER: kept_id()} if kept_id() else {})


def _finite(value: Any) -> float:
    number = float(value)
    if not abs(number) <= MAX_COEFFICIENT:
        raise ValueError(f"{number} is no coefficient.")
    return number


def _number(text: str, default: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return default
    return value if math.isfinite(value) else default
