import pytest

from saif_core.errors import SaifError
from saif_core.judging.quality import Ratings, rate_text
from saif_core.models.language_endpoint import LanguageEndpoint
from tests.test_language_endpoint import FakeServer, chat
from tests.test_language_endpoint import server as server


def rate(server: FakeServer) -> Ratings:
    endpoint = LanguageEndpoint(server.url, "tiny-judge")
    return rate_text(endpoint, concept="rivers", prompt="Where do you live?", text="By the Nile.")


def test_each_rating_is_asked_with_what_it_needs(server: FakeServer) -> None:
    server.answer_in_turn(chat("A river.\n2"), chat("Rating: 1"), chat("It reads well. [[2]]"))
    assert rate(server) == Ratings(concept=2, instruct=1, fluency=2)
    shown = [request["messages"][1]["content"] for request in server.requests]
    assert ["rivers" in text for text in shown] == [True, False, False]
    assert ["Where do you live?" in text for text in shown] == [False, True, False]
    assert all("By the Nile." in text for text in shown)
    assert len({request["messages"][0]["content"] for request in server.requests}) == 3


@pytest.mark.parametrize("answer", ["3", "-1", "1.5", "2/2", "1\n2", "1. It is fluent", "Good."])
def test_an_answer_off_the_scale_is_no_rating(server: FakeServer, answer: str) -> None:
    server.answer_in_turn(chat("2"), chat(answer), chat("2"))
    assert rate(server) == Ratings(concept=2, instruct=None, fluency=2)


@pytest.mark.parametrize(
    ("ratings", "overall"),
    [
        (Ratings(2, 2, 2), 2.0),
        (Ratings(1, 2, 2), 1.5),
        (Ratings(1, 1, 2), 1.2),
        (Ratings(2, 0, 2), 0.0),
        (Ratings(0, 0, 0), 0.0),
        (Ratings(2, None, 2), None),
        (Ratings(0, None, 2), None),
    ],
)
def test_overall_is_the_harmonic_mean(ratings: Ratings, overall: float | None) -> None:
    assert ratings.overall == (None if overall is None else pytest.approx(overall))


def test_an_endpoint_that_is_down_is_an_error(server: FakeServer) -> None:
    server.close()
    with pytest.raises(SaifError, match="could not be reached"):
        rate(server)
