from app.dashboard.compare.measured_strength import band_chart, best_strength, measured_sentence
from saif_core.records.evaluation import Cell, CellSetting, Rates


def rates(strict: float, disorder: float, n: int = 50) -> Rates:
    return Rates(
        n=n,
        strict=strict,
        strict_ci=(0.0, 1.0),
        loose=strict,
        loose_ci=(0.0, 1.0),
        unjudged=0,
        success=strict,
        retained=1 - strict - disorder,
        disorder=disorder,
        disorder_ci=(0.0, 1.0),
        perplexity=None,
        distinct_2=1.0,
    )


def cell(
    strength: float,
    strict: float,
    disorder: float,
    *,
    arm: str = "saif",
    k: int = 15,
    layers: tuple[int, ...] = (29,),
    reported: float | None = None,
) -> Cell:
    setting = CellSetting(arm, layers=layers, k=k, beta=0.0, strength=strength)
    reporting = rates(strict if reported is None else reported, disorder)
    return Cell(setting, rates(strict, disorder, 100), rates(strict, disorder), reporting)


def test_the_best_strength_is_chosen_on_one_half_and_told_on_the_other() -> None:
    cells = [cell(0.4, 0.2, 0.0), cell(0.8, 0.5, 0.02, reported=0.46), cell(1.2, 0.4, 0.2)]
    measured = best_strength(cells, layer=29, n_latents=15)
    assert measured is not None
    assert (measured.strength, measured.strict, measured.n) == (0.8, 0.46, 50)
    assert measured_sentence(measured) == (
        "Measured with the best 15 latents, n = 50: strict 46% at 0.8, 2% disorder; at most 20% "
        "disorder up to 1.2 (the band)."
    )


def test_the_band_goes_from_the_least_to_the_last_safe_strength_on_the_dials_scale() -> None:
    cells = [cell(0.4, 0.2, 0.0), cell(0.8, 0.5, 0.02), cell(1.2, 0.4, 0.2), cell(2.0, 0.9, 0.6)]
    measured = best_strength(cells, layer=29, n_latents=15)
    assert measured is not None
    spec = band_chart(measured, -1.0, 3.0).to_dict()
    (rows,) = spec["datasets"].values()
    assert rows == [{"from": 0.4, "to": 1.2, "best": 0.8}]
    band, best = (layer["encoding"] for layer in spec["layer"])
    assert (band["x"]["field"], band["x2"]["field"], best["x"]["field"]) == ("from", "to", "best")
    for x in (band["x"], best["x"]):
        assert x["scale"] == {"domain": [-1.0, 3.0], "nice": False}


def test_beyond_the_first_disorder_nothing_is_safe_however_good() -> None:
    cells = [cell(2.0, 0.9, 0.1), cell(0.5, 0.3, 0.0), cell(1.0, 0.8, 0.21)]
    measured = best_strength(cells, layer=29, n_latents=15)
    assert measured is not None
    assert (measured.strength, measured.safe_up_to) == (0.5, 0.5)


def test_disorder_at_every_strength_leaves_none_to_take() -> None:
    measured = best_strength([cell(0.5, 0.9, 0.5)], layer=29, n_latents=1)
    assert measured is not None
    assert measured.strength is None
    assert "at every strength more than 20%" in measured_sentence(measured)


def test_the_number_of_latents_nearest_to_the_basket_is_taken() -> None:
    cells = [cell(0.5, 0.1, 0.0, k=1), cell(0.7, 0.2, 0.0, k=15), cell(0.9, 0.3, 0.0, k=60)]
    found = [best_strength(cells, layer=29, n_latents=n) for n in (2, 20, 100)]
    assert [one.k for one in found if one] == [1, 15, 60]
    assert "the best latent, n" in measured_sentence(found[0])  # type: ignore[arg-type]


def test_other_arms_and_layers_say_nothing_of_it() -> None:
    cells = [cell(0.5, 0.9, 0.0, arm="random"), cell(0.5, 0.9, 0.0, layers=(14, 29))]
    assert best_strength(cells, layer=29, n_latents=15) is None
