import pytest

from app.presentation.figures import counted, shown_at


def test_a_noun_takes_an_s_unless_there_is_one() -> None:
    assert [counted(n, "latent") for n in (0, 1, 2, 1200)] == [
        "0 latents",
        "1 latent",
        "2 latents",
        "1,200 latents",
    ]


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.0004, 0.0), (-0.0, 0.0), (-0.0006, -0.0006), (0.0004, 0.0004), (2, 2)]
)
def test_no_value_is_shown_as_minus_nothing(value: float, shown: float) -> None:
    assert str(shown_at(value, 3)) == str(shown)
