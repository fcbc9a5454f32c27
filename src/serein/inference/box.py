"""The default model, which ships inside the package and is used when no model is named."""

from __future__ import annotations

from pathlib import Path

from serein.errors import ModelError
from serein.models.folder import is_model_folder

FOLDER = Path(__file__).parents[1] / "box"


def default_model_folder() -> Path:
    """Return the folder of the default model.

    Raises:
        ModelError: This installation has no default model.
    """
    if not is_model_folder(FOLDER):
        raise ModelError(
            "this installation has no default model",
            where="serein",
            remedy="Name a model folder, or train one: serein train --help.",
        )
    return FOLDER
