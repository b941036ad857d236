"""Which language a text is in: n-gram models (lingua), offline.

Portuguese, Italian, Dutch and Japanese are among the choices so that a text in one of these is not
taken for a neighbour.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lingua import LanguageDetector


def language_of(text: str, *, above: float) -> str:
    """ISO 639-1 code of the text's language, or nothing where it is not clear.

    Args:
        text: to look at; one without letters is in no language.
        above: confidence that has to be exceeded, from 0 to 1.
    """
    best = _detector().compute_language_confidence_values(text)[0]
    if best.value <= above:
        return ""
    return best.language.iso_code_639_1.name.lower()


@lru_cache(maxsize=1)
def _detector() -> "LanguageDetector":
    # Imported at the first use: the library with its models takes a second and 200 MB.
    from lingua import Language, LanguageDetectorBuilder

    return LanguageDetectorBuilder.from_languages(
        Language.ENGLISH,
        Language.FRENCH,
        Language.GERMAN,
        Language.SPANISH,
        Language.CHINESE,
        Language.PORTUGUESE,
        Language.ITALIAN,
        Language.DUTCH,
        Language.JAPANESE,
    ).build()
