"""The model in the box: the one that ships inside the package and answers when none is named."""

from __future__ import annotations

from pathlib import Path

from serein.errors import ModelError
from serein.models.folder import is_model_folder

FOLDER = Path(__file__).parents[1] / "box"


def default_model_folder() -> Path:
    """Return the folder of the model that ships inside the package.

    Raises:
        ModelError: This installation has none.
    """
    if not is_model_folder(FOLDER):
        raise ModelError(
            "no model ships inside this installation",
            where="serein",
            remedy="Name a model folder, or make one: serein train --help.",
        )
    return FOLDER
