"""The sidebar: the work in hand and the basket, then what the engine is doing."""

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.dashboard.handles import engine, store
from app.dashboard.instructions.pair_grid import own_pairs_sentence
from app.dashboard.messages import shown
from app.dashboard.work import open_page, work
from app.presentation.escaping import escape_markdown
from app.presentation.figures import counted, number_words
from app.presentation.glossary import meaning, words_on_pages
from app.store_tasks import EmbedRequest
from saif_core.records.jobs import JobRecord
from saif_core.records.questions import DescribeRequest, LoadRequest
from saif_core.records.saes import SaeInfo

if TYPE_CHECKING:  # importing the engine imports torch, which the first paint need not wait for
    from saif_core.engine.engine import EngineStatus

POLL_SECONDS = 2.0
PAGE_OF_JOB = {
    "rank": "views/instructions.py",
    "generate": "views/compare.py",
    "learn": "views/compare.py",
    "evaluate": "views/evaluate.py",
    "index": "views/corpus.py",
    "labels": "views/corpus.py",
    "contrast": "views/search.py",
    "embed": "views/search.py",
    "vector": "views/vector.py",
    "health": "views/sae_health.py",
    "describe": "views/latent.py",
}


def draw_work_in_hand() -> None:
    """Model, SAE picker, instruction and basket."""
    st.markdown("**Work in hand**")
    offered = engine().saes()
    if not offered:
        st.info(
            f"No SAE is offered for {escape_markdown(engine().model_id)}; name one in SAIF_SAES "
            "and restart.",
            icon=":material/info:",
        )
        _draw_refused()
        return
    check_sae()
    st.caption(f"Model {escape_markdown(engine().model_id)}")
    sae_picker("sidebar_sae")
    if warning := engine().sae_warning(work().sae_id):
        st.warning(escape_markdown(warning), icon=":material/warning:")
    _draw_refused()
    _draw_instruction()
    _draw_basket()


def check_sae() -> None:
    """Have an SAE in hand that this installation offers, where it offers any."""
    offered = engine().saes()
    if offered and work().sae_id not in {info.id for info in offered}:
        # Ids come from the URL too: only what this installation offers is ever loaded.
        work().sae_id = offered[0].id


def load_ahead() -> None:
    """Have the model loaded while a person reads; one that could not be loaded is left alone."""
    check_sae()
    if work().sae_id and not engine().status().model_loaded and engine().newest("load") is None:
        engine().submit(LoadRequest(work().sae_id))


def draw_words() -> None:
    """What the words on the pages mean."""
    with (
        st.popover("Words", icon=":material/dictionary:", type="tertiary", key="words"),
        st.container(height=420, border=False),
    ):
        st.markdown(words_on_pages())


def _draw_instruction() -> None:
    if own := own_pairs_sentence():
        st.caption(f":material/table_rows: {own}")
        return
    # A name may come from the URL or from a file, so it must not act as Markdown.
    name = escape_markdown(work().instruction)
    if work().instruction_record() is None:
        st.caption(f":material/table_rows: Your own pairs: {name}")
        return
    st.caption(f"Instruction {name}")


def sae_picker(key: str) -> None:
    """The SAE choice of the work in hand; several pages may draw it, each with its own key."""
    offered = {info.id: info for info in engine().saes()}

    def choose() -> None:
        work().choose_sae(st.session_state[key])

    st.session_state[key] = work().sae_id
    st.selectbox(
        "SAE",
        list(offered),
        format_func=lambda sae_id: describe_sae(offered[sae_id]),
        key=key,
        on_change=choose,
        help=f"{meaning('SAE')} Its layer is the block whose output it reads; blocks count from 0.",
    )


def describe_sae(info: SaeInfo) -> str:
    """One line that tells SAEs apart."""
    name = info.id.rstrip("/").rsplit("/", 1)[-1]
    layer = info.hook_point if info.layer is None else f"layer {info.layer}"
    size = f" · {info.d_sae:,} latents" if info.d_sae else ""
    return f"{layer}{size}" if name == f"layer{info.layer}" else f"{name} · {layer}{size}"


def _draw_refused() -> None:
    for info in engine().refused_saes():
        st.caption(f":material/block: {escape_markdown(f'{info.id}: {info.unsupported}')}")


def _draw_basket() -> None:
    in_hand = work()
    n_chosen = len(in_hand.basket)
    st.markdown(
        f"**Basket** · {counted(n_chosen, 'latent')}",
        help=f"{meaning('basket')}  \n{meaning('latent')}  \n{meaning('coefficient')}",
    )
    if not n_chosen:
        st.caption("Tick latents on the Latents or the Search page to steer with them.")
        return
    st.caption("Latent and its coefficient: the activation it is given at strength 1.")
    with st.container(height=240 if n_chosen > 5 else "content", border=False, key="basket"):
        for index, coefficient in list(in_hand.basket.items()):
            with st.container(horizontal=True, vertical_alignment="center", wrap=False):
                st.markdown(f"`{index}` {number_words(round(coefficient, 6))}", width="stretch")
                st.button(
                    "",
                    key=f"basket_remove_{index}",
                    icon=":material/close:",
                    type="tertiary",
                    help=f"Remove latent {index}",
                    on_click=in_hand.remove_latent,
                    args=(index,),
                )
    st.button("Clear", key="basket_clear", icon=":material/delete:", on_click=in_hand.clear)


def draw_engine_status() -> None:
    """Device, memory, cache and running jobs; polls only while a job runs."""
    st.divider()
    status = engine().status()
    interval = POLL_SECONDS if status.running else None
    st.fragment(_draw_status, run_every=interval)([status])


def _draw_status(first: "list[EngineStatus]") -> None:
    """Draw the status; ``first`` holds what the full run saw and is empty on every later poll."""
    with shown():
        # Asking again in the full run could rerun the script and lose the click that started it.
        polled = not first
        status = engine().status() if polled else first.pop()
        if polled and not status.running:
            st.rerun()
        loaded = "loaded" if status.model_loaded else "not loaded yet"
        st.caption(
            f"{status.device} · {status.dtype} · model {loaded} · "
            f"weights {megabytes(status.memory_bytes)} · "
            f"cache {megabytes(store().cache.size_bytes())}"
        )
        for record in status.running:
            _draw_job(record)


def _draw_job(record: JobRecord) -> None:
    share = min(1.0, record.done / record.total) if record.total else 0.0
    st.progress(share, text=escape_markdown(f"{record.title}: {record.message or record.state}"))
    page = PAGE_OF_JOB.get(record.kind)
    if page and st.button(
        "Go to it", key=f"job_{record.id}", icon=":material/arrow_forward:", type="tertiary"
    ):
        open_page(page, **_point_at(record))


def _point_at(record: JobRecord) -> dict[str, str]:
    """What the address of a job's page has to say for the page to show that job.

    The SAE that the job works with becomes the one in hand, as pages show the work of no other.
    """
    job = engine().job(record.id)
    asked = job.request if job else None
    if sae_id := _sae_of(asked):
        work().choose_sae(sae_id)
    if record.kind == "rank":
        work().attach(record.id)
    if record.kind in ("contrast", "embed"):
        # The page keeps its way to search, which would win over the address.
        st.session_state["by"] = "contrast" if record.kind == "contrast" else "meaning"
    if isinstance(asked, EmbedRequest):
        st.session_state["index"] = asked.index_id
    if record.kind == "contrast":
        st.session_state["contrast"] = record.id
    if isinstance(asked, DescribeRequest):
        return {"latent": str(asked.chosen.index)}
    name = {"generate": "run", "evaluate": "run", "vector": "vector"}.get(record.kind)
    return {name: record.id} if name else {}


def _sae_of(asked: Any) -> str:
    """The SAE that a request is about; "" for none, or for several."""
    if isinstance(asked, EmbedRequest):
        indexes = store().latents.indexes()
        return next((index.sae_id for index in indexes if index.id == asked.index_id), "")
    return str(getattr(asked, "sae_id", ""))


def megabytes(n_bytes: int) -> str:
    """A size in the unit that people compare memory in."""
    return f"{n_bytes / 2**20:,.0f} MiB" if n_bytes >= 2**20 else f"{n_bytes / 2**10:,.0f} KiB"
