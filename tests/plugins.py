"""Plug-ins that tests write into a folder of their own."""

from pathlib import Path
from textwrap import dedent

from saif_core.registry import use_plugins

# A source that writes its edits itself, by more where the residual stream is larger.
OWN_WRITE = """
    def swell(study, *, amount: float = 0.2):
        '''The mean difference, written as a share of each position's norm.

        Args:
            amount: the share.
        '''
        for layer in study.layers:
            push = amount * study.mean_difference(layer)
            yield study.edit(layer, method="swell", push=push)


    def write(resid, target, sae):
        return target.tensors["push"].to(resid) * resid.norm(dim=-1, keepdim=True)
"""


def take_up(folder: Path, **files: str) -> None:
    """Write plug-ins and offer them beside the shipped ones.

    Args:
        files: source by kind and name, such as ``sources__swell``.
    """
    for name, source in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source))
    use_plugins([folder])
