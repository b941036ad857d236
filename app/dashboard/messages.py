"""The one place where an exception becomes a sentence on the screen."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from app.presentation.escaping import escape_markdown
from saif_core.errors import SaifError, UnknownNameError

logger = logging.getLogger("saif")

_NOT_LISTED = ("session", "evaluation", "index")
UNEXPECTED = (
    "Something went wrong that SAIF did not expect; nothing was lost, and the log of the server "
    "says what it was."
)


@contextmanager
def shown() -> Iterator[None]:
    """Show what goes wrong inside as one sentence: a SaifError says its own.

    ``main.py`` wraps every page in it; a fragment wraps its own body, because Streamlit reruns
    fragments without ``main.py``. A form that must survive a bad upload wraps only the reading.
    """
    try:
        yield
    except UnknownNameError as error:
        # Whoever knows no id of what others made must not learn one here.
        known = error.kind in _NOT_LISTED
        said = f"There is no {error.kind} called {error.name!r} here." if known else str(error)
        st.error(escape_markdown(said), icon=":material/error:")
    except SaifError as error:
        # Messages quote file names and typed text, which must not act as Markdown.
        st.error(escape_markdown(str(error)), icon=":material/error:")
    except Exception:
        logger.exception("Unexpected error in a page")
        st.error(UNEXPECTED, icon=":material/error:")
