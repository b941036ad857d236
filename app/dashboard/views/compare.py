"""Page 4: the same prompts answered unsteered, steered and by other arms, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import streamlit as st

from app.dashboard.compare.arm_cards import PlaceOfSize, draw_arms
from app.dashboard.compare.chat_turns import arms_without_texts, next_request
from app.dashboard.compare.compare_arms import missing_sae, request_problem
from app.dashboard.compare.measured_strength import draw_measured
from app.dashboard.compare.open_session import OPENED, RUN, hold, take_incoming
from app.dashboard.compare.steering_form import (
    SteeringForm,
    draw_basket,
    draw_prompts,
    draw_settings,
    draw_strength,
    draw_undo,
    keep_form,
    steering_form,
)
from app.dashboard.compare.text_columns import draw_finished, draw_growing
from app.dashboard.handles import engine, store
from app.dashboard.jobs.job_progress import shown_share
from app.dashboard.kept_work import keep, kept
from app.dashboard.messages import shown
from app.dashboard.sae_fit import draw_broken_model, misfit
from app.dashboard.scrolling import scroll_to, want_in_view
from app.dashboard.work import Work, publish_parameter, resume_ranking, work, write_url
from app.presentation.escaping import escape_markdown
from app.presentation.glossary import explain
from app.presentation.sessions import default_session_name, saes_of, session_of_work
from app.presentation.texts import arm_size_sentence, sizes_sentence, speed_sentence
from saif_core.errors import JobCancelled, PromptPairError, SaifError
from saif_core.records.as_json import from_json
from saif_core.records.jobs import JobRecord
from saif_core.records.prompts import Instruction
from saif_core.records.questions import SizeQuestion
from saif_core.records.ranking import LatentScore
from saif_core.records.saes import layers_of
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import Arm, GenerationRequest
from saif_core.records.texts import ArmSize, GenerationResult

if TYPE_CHECKING:
    from saif_core.engine.job import Job

POLL_SECONDS = 0.3
MAX_NAME, MAX_NOTES, MAX_MESSAGE = 120, 20_000, 8000
RESULTS = "compare_results"
SHORTCUT = "Ctrl+Enter"
MOST_SIZES = 100


@dataclass(frozen=True)
class Run:
    """The texts on the page: a job of this process, or texts that were kept.

    Attributes:
        record: what the store still knows of a job that another process ran.
    """

    job: "Job | None" = None
    result: GenerationResult | None = None
    record: JobRecord | None = None
    unknown: bool = False


def draw_page() -> None:
    """Head with the save button, controls, then the texts of the run in hand."""
    resume_ranking()
    in_hand, form = work(), steering_form()
    _reopen()
    take_incoming(form)
    run = _current_run()
    head = st.container(horizontal=True, vertical_alignment="center")
    head.title("What does it do to the text?", width="stretch")
    _draw_opened(in_hand)
    draw_broken_model()
    reason = misfit(in_hand.sae_id)
    if reason:
        _draw_misfit(reason)
    draw_prompts(form)
    _draw_refused_prompt(form, run)
    # Above what may be long, so that nobody has to look for it; drawn once all is known.
    generate_place = st.container()
    draw_strength(in_hand)
    band_place, measured_place = st.container(), st.container()
    edited = _draw_latents(in_hand, form)
    size_place, arms_place = st.empty(), st.container()
    with st.expander("Method, scope and sampling", key="compare_settings"):
        draw_settings(form)
    with measured_place, shown():
        draw_measured(in_hand, form, band_place)
    layer = layers_of(engine().saes()).get(in_hand.sae_id, 0)
    with arms_place:
        places = draw_arms(in_hand, form, layer)
    request = form.request(in_hand, layer)
    keep_form(form)
    with head:
        _draw_save(request, run)
    with generate_place, shown():
        _draw_generate(form, request, run, reason)
    with st.container(key=RESULTS):
        _draw_run(run, request)
    scroll_to(RESULTS)
    # Last, because the engine may take a moment to answer.
    if not reason:
        _draw_sizes([PlaceOfSize(size_place, form.steered(in_hand, layer)), *places])
    if edited:
        # The sidebar, drawn first, still lists the basket as it was. Not sooner: a button that
        # was pressed in the same run would be forgotten.
        st.rerun()


def _reopen() -> None:
    """Hold the session that the address names, once, so that a reload shows it again."""
    asked = st.query_params.get("open", "")
    opened = st.session_state.get(OPENED)
    if asked and (opened is None or opened.id != asked):
        with shown():
            session = store().sessions.get(asked)
            if opened is None and kept(OPENED) == asked:
                # What was changed since it was opened has come back with the work.
                st.session_state[OPENED] = session
            else:
                hold(session)
            st.rerun()
    elif opened is not None:
        publish_parameter("open", opened.id)
        keep(OPENED, opened.id)


def _draw_opened(in_hand: Work) -> None:
    opened: SteeringSession | None = st.session_state.get(OPENED)
    if opened is None:
        return
    st.caption(f":material/folder_open: Session “{escape_markdown(opened.name)}”")
    offered = {info.id for info in engine().saes()}
    for sae_id in saes_of(opened.request) if opened.request else ():
        if sae_id not in offered and sae_id != in_hand.sae_id:
            st.warning(
                f"The session's SAE, {escape_markdown(sae_id)}, is not offered here: "
                "its texts can be read, but steering uses the SAE chosen in the sidebar.",
                icon=":material/info:",
            )


def _current_run() -> Run:
    run_id = st.query_params.get("run", "") or st.session_state.get(RUN, "")
    if not run_id:
        opened = st.session_state.get(OPENED)
        return Run(result=opened.result if opened else None)
    _hold_run(run_id)
    job = engine().job(run_id)
    if job is not None and job.kind == "generate":
        done = job.finished() and job.record.state == "done"
        return Run(job=job, result=job.result() if done else None)
    record = store().jobs.get(run_id)
    if record is None or record.kind != "generate":
        return Run(unknown=True)
    try:
        result = from_json(GenerationResult, record.result) if record.result else None
    except ValueError:
        result = None
    return Run(record=record, result=result)


def _hold_run(run_id: str) -> None:
    st.session_state[RUN] = run_id
    publish_parameter("run", run_id)


def _draw_latents(in_hand: Work, form: SteeringForm) -> bool:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(
            "Steer with", anchor=False, width="content", help=explain("basket, coefficient")
        )
        draw_undo(in_hand, form)
    if in_hand.basket:
        return draw_basket(in_hand)
    st.info(
        "No latents are chosen yet: choose some on the Latents page, or take a ranking's best.",
        icon=":material/scatter_plot:",
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        ranking = in_hand.ranking
        best = [score for score in ranking.latents[: ranking.top] if score.mean] if ranking else []
        if best:
            st.button(
                f"Take the top {len(best)}",
                key="compare_take_top",
                icon=":material/playlist_add:",
                on_click=_take_top,
                args=(in_hand, best),
            )
        st.page_link("views/latents.py", label="Choose latents", icon=":material/scatter_plot:")
    return False


def _take_top(in_hand: Work, best: Sequence[LatentScore]) -> None:
    for score in best:
        in_hand.add_latent(score.index, score.mean)


def _draw_misfit(reason: str) -> None:
    st.error(escape_markdown(reason), icon=":material/block:")
    st.page_link(
        "views/sae_health.py", label="Is this SAE any good?", icon=":material/monitor_heart:"
    )


def _draw_generate(
    form: SteeringForm, request: GenerationRequest, run: Run, reason: str | None
) -> None:
    problem = (
        reason
        or form.length_problem()
        or request_problem(request, [info.id for info in engine().saes()])
    )
    names = ", ".join(escape_markdown(arm.name) for arm in request.arms)
    with st.container(horizontal=True, vertical_alignment="center"):
        clicked = st.button(
            "Generate",
            key="compare_generate",
            type="primary",
            icon=":material/play_arrow:",
            disabled=bool(problem),
            help=escape_markdown(problem) or f"Answers every prompt by every arm: {names}.",
            shortcut=SHORTCUT,
        )
        again_place = st.container(width="content")
        if problem:
            st.caption(f":material/info: {escape_markdown(problem)}", width="stretch")
    if clicked and not problem:
        _generate(request, run)
    with again_place:
        _draw_again(form, request, run, problem)


def _draw_again(form: SteeringForm, request: GenerationRequest, run: Run, problem: str) -> None:
    greedy = request.sampling.temperature == 0
    if run.result is None or greedy or any(run.result.request.histories):
        return
    seed = form.sampling.seed + 1

    def take_next_seed() -> None:
        # Before the seed's own field is drawn, which then shows it.
        form.sampling = replace(form.sampling, seed=seed)
        st.session_state["compare_seed"] = seed

    again = st.button(
        "Write them again",
        key="compare_again",
        icon=":material/casino:",
        disabled=bool(problem),
        help=f"With the next seed, {seed}.",
        on_click=take_next_seed,
    )
    if again and not problem:
        _generate(request, run)


def _generate(request: GenerationRequest, run: Run) -> None:
    job = engine().submit(request)
    if run.job is not None and not run.job.finished():
        run.job.cancel()
    _hold_run(job.id)
    want_in_view(RESULTS)
    # Now, not as the run ends: a page that is loaded anew in between must find its texts.
    write_url()
    st.rerun()


def _draw_refused_prompt(form: SteeringForm, run: Run) -> None:
    """Say at the prompts, not only at the texts, that the model cannot take them."""
    job = run.job
    if job is None or not job.finished() or not isinstance(job.error, PromptPairError):
        return
    if job.request.prompts == form.prompts():
        st.error(escape_markdown(str(job.error)), icon=":material/error:")


def _draw_run(run: Run, request: GenerationRequest) -> None:
    if run.unknown:
        st.warning(
            "The texts that this address names are not known here; generate them again.",
            icon=":material/help:",
        )
    elif run.job is not None and not run.job.finished():
        # A fragment, so that the texts grow while everything else on the page stays usable.
        st.fragment(_stream, run_every=POLL_SECONDS)(run.job)
    elif run.result is not None:
        _draw_result(run, run.result, request)
    elif run.job is not None:
        _draw_unfinished(run.job)
    elif run.record is not None:
        st.warning(
            f"“{escape_markdown(run.record.title)}” was {run.record.state} before SAIF was "
            "restarted and left no texts; generate them again.",
            icon=":material/history:",
        )


def _stream(job: "Job") -> None:
    with shown():
        if job.finished():
            st.rerun()
        record = job.record
        share = shown_share(record)
        count = f" · token {record.done} of {record.total} at most" if record.total else ""
        st.progress(share, text=f"{record.message or 'waiting for its turn'}{count}")
        if st.button("Stop", key="compare_run_stop", icon=":material/stop_circle:"):
            job.cancel()
        draw_growing(job.request, job.events())


def _draw_unfinished(job: "Job") -> None:
    try:
        job.result()
    except JobCancelled:
        st.info(
            "Stopped; the texts below are as far as they came and are not judged.",
            icon=":material/stop_circle:",
        )
    except SaifError as error:
        st.error(escape_markdown(str(error)), icon=":material/error:")
    except Exception:
        # The engine has logged it; the record holds the sentence that is fit to show.
        st.error(escape_markdown(job.record.error), icon=":material/error:")
    events = job.events()
    if events:
        draw_growing(job.request, events)


def _draw_result(run: Run, result: GenerationResult, request: GenerationRequest) -> None:
    asked = result.request
    st.divider()
    named = (*saes_of(asked), asked.instruction)
    st.caption(f"{escape_markdown(' · '.join(filter(None, named)))} · {speed_sentence(result)}")
    if sizes := sizes_sentence(result):
        st.caption(sizes)
    if run.job is not None and run.job.request != _same_turn(request, run.job.request):
        st.caption(":material/sync_problem: The settings above have changed since; generate again.")
    draw_finished(result, _instruction_of(asked.instruction))
    if asked.sampling.chat and len({text.prompt_index for text in result.generations}) == 1:
        _draw_chat(run, result, request)


def _same_turn(page: GenerationRequest, written: GenerationRequest) -> GenerationRequest:
    """What the page would ask for at the same turn of the chat."""
    if not written.histories:
        return page
    return replace(page, prompts=written.prompts, histories=written.histories)


def _draw_chat(run: Run, result: GenerationResult, request: GenerationRequest) -> None:
    st.subheader("Continue the chat", anchor=False)
    with st.form("compare_chat_form", clear_on_submit=True, border=False):
        message = st.text_input(
            "Next message", max_chars=MAX_MESSAGE, key="compare_message", placeholder="And then?"
        )
        shared = st.toggle(
            "Shared history",
            key="compare_shared_history",
            help="On: all arms go on with the unsteered chat, so that only the new texts differ. "
            "Off: each arm goes on with what it wrote itself.",
        )
        if result.request.sampling.samples > 1:
            st.caption("Sample 1 of each arm goes on.")
        if new := arms_without_texts(request, result):
            named = ", ".join(f"“{name}”" for name in new)
            st.caption(
                f":material/info: {escape_markdown(named)} wrote none of the texts above, so the "
                "history that it goes on with is the unsteered one; to give it one of its own, "
                "generate again."
            )
        sent = st.form_submit_button("Send", icon=":material/send:")
    if sent and (message or "").strip():
        asked = next_request(request, result, (message or "").strip(), shared=shared)
        problem = request_problem(asked, [info.id for info in engine().saes()])
        if problem:
            st.warning(escape_markdown(problem), icon=":material/info:")
        else:
            with shown():
                _generate(asked, run)
    if any(result.request.histories):
        st.button(
            "Start over",
            key="compare_start_over",
            icon=":material/restart_alt:",
            help="Clears the chat; the prompt and the arms stay.",
            on_click=_start_over,
        )


def _start_over() -> None:
    st.session_state[RUN] = ""
    st.query_params.pop("run", None)
    opened: SteeringSession | None = st.session_state.get(OPENED)
    if opened is not None:
        st.session_state[OPENED] = replace(opened, result=None)


def _instruction_of(name: str) -> Instruction | None:
    from saif_core.inputs.shipped import shipped_instructions

    opened: SteeringSession | None = st.session_state.get(OPENED)
    if opened and opened.instruction and opened.instruction.name == name:
        return opened.instruction
    return work().uploaded.get(name) or shipped_instructions().get(name)


def _draw_sizes(places: Sequence[PlaceOfSize]) -> None:
    """Say how large what each arm adds is, once the engine can tell."""
    offered = [info.id for info in engine().saes()]
    for place, arm in places:
        if not arm.edits:
            place.caption("The size of the steering vector is shown once latents are chosen.")
        elif missing_sae(arm, offered):
            place.empty()
        elif not _is_free(arm):
            place.caption("The size of the vector is measured once the model is loaded and free.")
        else:
            with place.container(), shown():
                size = _size(arm)
                st.caption(
                    arm_size_sentence(size) if size else "adds nothing to the residual stream"
                )


def _is_free(arm: Arm) -> bool:
    """Whether the size of an arm is known, or can be asked for without waiting for other work."""
    status = engine().status()
    return _unit(arm) in _sizes() or (status.model_loaded and not status.running)


def _size(arm: Arm) -> ArmSize | None:
    unit, sizes = _unit(arm), _sizes()
    if unit not in sizes:
        if len(sizes) >= MOST_SIZES:
            sizes.clear()
        sizes[unit] = engine().ask(SizeQuestion(replace(arm, name="", strength=1.0))).size
    size, strength = sizes[unit], abs(arm.strength)
    return size and ArmSize(size.norm * strength, size.resid_share * strength)


def _sizes() -> dict[str, ArmSize | None]:
    sizes: dict[str, ArmSize | None] = st.session_state.setdefault("compare_sizes", {})
    return sizes


def _unit(arm: Arm) -> str:
    """What the size of an arm depends on but for its strength, which it is in proportion to."""
    return repr((arm.kind, arm.edits, arm.seed))


def _draw_save(request: GenerationRequest, run: Run) -> None:
    opened: SteeringSession | None = st.session_state.get(OPENED)
    with (
        st.popover("Save as session", icon=":material/save:", key="compare_save"),
        st.form("compare_save_form", border=False),
    ):
        in_hand = work()
        suggested = default_session_name(
            request.instruction, in_hand.basket_latents(), in_hand.strength
        )
        name = st.text_input(
            "Name", opened.name if opened else suggested, max_chars=MAX_NAME, key="save_name"
        )
        notes = st.text_area(
            "Notes", opened.notes if opened else "", max_chars=MAX_NOTES, key="save_notes"
        )
        if run.result is None:
            st.caption("No finished texts yet: what is set on the page is saved without texts.")
        save = st.form_submit_button("Save as new", icon=":material/save:", type="primary")
        update = opened is not None and st.form_submit_button(
            "Save changes to the opened session", icon=":material/edit:"
        )
        if save or update:
            with shown():
                _save(name or suggested, notes or "", request, run, replaces=update)


def _save(name: str, notes: str, request: GenerationRequest, run: Run, *, replaces: bool) -> None:
    named = run.result.request.instruction if run.result else request.instruction
    session = session_of_work(
        name,
        notes,
        request=request,
        instruction=_instruction_of(named),
        ranking=work().ranking,
        result=run.result,
        model=engine().model_id,
    )
    opened: SteeringSession | None = st.session_state.get(OPENED)
    if replaces and opened is not None:
        current = store().sessions.get(opened.id)
        session = replace(
            session, id=current.id, created_at=current.created_at, share_id=current.share_id
        )
    saved = store().sessions.save(session)
    st.session_state[OPENED] = saved
    publish_parameter("open", saved.id)
    st.success(f"Saved as “{escape_markdown(saved.name)}”.", icon=":material/check:")
    st.page_link("views/sessions.py", label="All sessions", icon=":material/folder_open:")


draw_page()
