"""Where models come from: the package, or the Hugging Face Hub (one request with a short timeout, then the cache)."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serein.data.files import cached_sha256
from serein.errors import ModelError

SHIPPED_MODELS = Path(__file__).parent / "shipped_models"
NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
COPY = "Copy or download the model again."
TIMEOUT_S = 3.0
MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")  # never a pickle


def folder_of(name: str, *, expected: str) -> Path:
    """Return the folder of a model: a local one, or one from the Hub, downloaded now or earlier.

    Args:
        name: Local folder, or a name on the Hub such as `openai/whisper-small`.
        expected: What it must be, for the error message: "a folder with a Whisper model".

    Raises:
        ModelError: There is no such folder or Hub model, or it is not in the cache and the Hub cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    check_name(name, expected=expected)
    hub = importlib.import_module("huggingface_hub")
    is_online = is_reachable(hub)
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(MODEL_FILES), local_files_only=not is_online))
    except Exception as error:  # of whichever HTTP library the client uses, or its own
        if is_online:
            what = "no such folder, and no such model on the Hub"
            remedy = f"Name {expected}, or its name on the Hub."
        else:
            what = "no such folder, not in the cache, and the Hugging Face Hub cannot be reached"
            remedy = f"With a network, run: hf download {name} --local-dir FOLDER. Copy the folder here and name it."
        raise ModelError(what, where=name, remedy=remedy) from error


def check_name(name: str, *, expected: str) -> None:
    """Check that what is no local folder can be a name on the Hub.

    Args:
        expected: See `folder_of`.

    Raises:
        ModelError: It is a file, or no such name.
    """
    if Path(name).expanduser().exists() or not NAME.fullmatch(name):
        raise ModelError("no such folder", where=name, remedy=f"Name {expected}, or its name on the Hub.")


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of a model's files: weights, tokenizer and configuration."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in MODEL_FILES for path in folder.rglob(pattern)}):
        digest.update(f"{path.relative_to(folder).as_posix()} {cached_sha256(path)}\n".encode())
    return digest.hexdigest()


def is_reachable(hub: Any) -> bool:
    """Return whether the Hub responds to a single brief request; its own client would retry several times."""
    try:
        hub.get_session().head(hub.constants.ENDPOINT, timeout=TIMEOUT_S)
    except Exception:  # of whichever HTTP library the client uses, or its own for HF_HUB_OFFLINE=1
        return False
    return True


@contextmanager
def quiet_transformers(*, bars: bool = False) -> Iterator[None]:
    """Keep Transformers from listing missing or unused weights, and from showing progress bars unless `bars` is set."""
    logging = importlib.import_module("transformers.utils.logging")
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()
