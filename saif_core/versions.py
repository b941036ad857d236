"""Versions of the libraries that decide a result, for the recipe."""

from importlib import metadata

_LIBRARIES = ("saif", "torch", "transformers", "sae-lens")


def library_versions() -> dict[str, str]:
    """{library: installed version}, "unknown" for one that is not installed as a package."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
