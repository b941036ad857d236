"""``saif generate``: prompts answered by the model as it is, steered, and by further arms."""

from dataclasses import replace

from app.cli.arm_specs import SOURCE, ArmSpec
from app.cli.arms import STEERED, ArmMaker
from app.cli.generate_options import Asked, Steered
from app.cli.groups import Pairs, Places, Reading, Selecting
from app.cli.options import JsonOption, checked
from app.cli.output import answering, wait_for
from app.cli.requests import (
    NO_PAIRS,
    GivenPairs,
    Opened,
    check_places,
    chosen_saes,
    opened,
    ranking_request,
    read_pairs,
    settings_for,
)
from app.cli.texts import generation_data, generation_text
from app.cli.values import named_values, whole_numbers
from app.installation import take_in_recipe
from app.presentation.recipes import recipe_sentence, usable_recipe
from saif_core.records.as_json import to_json
from saif_core.records.prompts import Turn
from saif_core.records.ranking import RankingRequest
from saif_core.records.recipes import Recipe
from saif_core.records.steering import UNSTEERED, Arm, GenerationRequest, Sampling, Schedule
from saif_core.records.texts import GenerationResult


def generate(
    asked: Asked,
    steered: Steered,
    pairs: Pairs,
    reading: Reading,
    selecting: Selecting,
    places: Places,
    sampling: Sampling = GenerationRequest.sampling,
    schedule: Schedule = Arm.schedule,
    as_json: JsonOption = False,
) -> None:
    """Answer prompts unsteered, steered, and by further arms beside.

    Steers with the latents or the vector that you name, or with what a source makes of an
    instruction. For a shipped instruction with nothing else said, that is what measured best, with
    its figures; --source saif is SAIF as published.

    A further arm is --arm NAME or --arm NAME:KEY=VALUE,KEY=VALUE. NAME is prompted (with name,
    instruction, position), a control of the steered arm (with name, of, strength, seed) or a
    source: then keys are its parameters, and name, strength, layers, method, method.PARAMETER and
    keep_norm. All but prompted take scope, first, prompt_first, prompt_last, decay and decay_power
    too, and with instruction they are prompted as well as steered. What is not given is as for the
    steered arm.
    """
    main, further = steered.specs(pairs.given)
    turns = asked.turns()
    named_values("--selector-parameter", selecting.selector_parameter)
    check_places(places)
    given = read_pairs(pairs) if pairs.given else NO_PAIRS
    with answering(as_json) as answer, opened(settings_for(places.model, places.sae or ())) as here:
        top = RankingRequest.top
        maker = ArmMaker(
            here,
            ranking_request(given, "", reading, selecting, chat=sampling.chat, top=top),
            chosen_saes(here, places),
            whole_numbers("--further-layers", places.further_layers),
            steered.strength,
            schedule,
            steered.keep_norm,
            sampling.seed,
            given.wording,
            pairs.position,
        )
        # Whoever says where or how latents are found wants that, and not what is shipped.
        is_open = (
            steered.leaves_the_choice
            and replace(places, model="") == Places()
            and (reading, selecting) == (Reading(), Selecting())
        )
        recipe = _recipe(here, given) if is_open else None
        known = _as_measured(recipe, steered, schedule) if recipe else None
        arms = _arms(maker, _uploaded(here, steered, main), further, known)
        request = _request(asked, turns, given, arms, sampling)
        result: GenerationResult = wait_for(here.engine.submit(request))
        data = generation_data(result)
        if asked.save:
            data["session"] = _save(here, asked.save, given, result)
        text = generation_text(result)
        if recipe is not None:
            data["measured"] = to_json(recipe)
            text = f"{recipe_sentence(recipe)}\n\n{text}"
        answer(data, text)


def _recipe(here: Opened, given: GivenPairs) -> Recipe | None:
    """What measured best for the instruction, taken in; None if that is not known here."""
    offered = [sae.id for sae in here.engine.saes()]
    recipe = usable_recipe(given.record, here.engine.model_id, offered)
    if recipe is not None:
        take_in_recipe(here.store, recipe)
    return recipe


def _as_measured(recipe: Recipe, steered: Steered, schedule: Schedule) -> Arm:
    """The recipe's arm, with what was said of its strength and its tokens."""
    arm = replace(recipe.arm, name=STEERED, strength=recipe.arm.strength * steered.strength)
    return arm if schedule == Arm.schedule else replace(arm, schedule=schedule)


def _request(
    asked: Asked,
    turns: tuple[Turn, ...],
    given: GivenPairs,
    arms: tuple[Arm, ...],
    sampling: Sampling,
) -> GenerationRequest:
    request: GenerationRequest = checked(
        GenerationRequest(
            prompts=tuple(asked.prompt),
            arms=arms,
            sampling=sampling,
            histories=(turns,) * len(arms) if turns else (),
            instruction=given.instruction,
            divergence=asked.divergence,
        )
    )
    return request


def _arms(
    maker: ArmMaker, main: ArmSpec | None, further: tuple[ArmSpec, ...], known: Arm | None
) -> tuple[Arm, ...]:
    arms = [UNSTEERED]
    if known is not None:
        arms.append(known)
    elif main is not None:
        arms.append(maker.steered(main, STEERED))
    for spec in further:
        arms.append(maker.arm(spec, arms))
    return tuple(arms)


def _uploaded(here: Opened, steered: Steered, main: ArmSpec | None) -> ArmSpec | None:
    """The arm with the vector of --vector in the store, under the hash that it names."""
    if steered.vector is None or main is None:
        return main
    from app.cli.vectors import upload_vector

    texts = {**main.texts, f"{SOURCE}tensors": upload_vector(here, steered.vector)}
    return ArmSpec(main.text, main.head, texts)


def _save(here: Opened, name: str, given: GivenPairs, result: GenerationResult) -> str:
    """Id of the session that the texts are kept in."""
    from saif_core.records.sessions import SteeringSession

    session = SteeringSession(name, instruction=given.record, recipe=result.recipe, result=result)
    return here.store.sessions.save(session).id
