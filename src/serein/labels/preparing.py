"""Vocabularies are prepared once: a file of word vectors, or a Sentence-Transformers model, becomes a folder."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from serein.errors import VocabularyError
from serein.labels.vocabulary_files import DType, Header, Writer, digest_of, new_folder, write_header
from serein.labels.word_vectors import Broken, WordVectors, whole_words
from serein.text.sentences import DEFAULT_ENCODER, SentenceEncoder

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


def prepare(
    source: str | Path,
    out: str | Path,
    on_progress: Progress | None = None,
    *,
    dtype: DType = "float32",
    broken: Broken = "stop",
) -> Header:
    """Read a file of word vectors once and write it as a vocabulary; memory does not grow with the vectors.

    Args:
        source: Text of GloVe or word2vec, or word2vec's binary, also compressed with gzip.
        out: A new folder; whole or not there.
        on_progress: Told of "reading" (bytes) and "indexing" (words).
        dtype: Of the stored vectors.
        broken: `stop`: a wrong line is an error; `skip`: it is left out and counted (`num_skipped`).

    Raises:
        VocabularyError: The file is none, a line is wrong, or `out` is there already.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise VocabularyError("no such file", where=source, remedy="Name a file of GloVe or word2vec.")
    file = WordVectors(path, broken, _told(on_progress, "reading"))
    with new_folder(Path(out).expanduser()) as partial:
        writer = Writer(partial, dtype)
        for words, vectors in file.portions():
            writer.add(words, vectors)
        num_duplicates = writer.finish(_told(on_progress, "indexing"))
        header = Header(
            name=path.name,
            digest=digest_of(file.sha256, dtype, broken),
            num_words=writer.num_words,
            size=writer.size,
            dtype=dtype,
            source_sha256=file.sha256,
            num_duplicates=num_duplicates,
            num_skipped=file.num["skipped"],
            num_mended=file.num["mended"],
        )
        write_header(partial, header)
    return header


def prepare_encoder(encoder: str | SentenceEncoder, out: str | Path, on_progress: Progress | None = None) -> Header:
    """Write the words of a Sentence-Transformers model's tokenizer, encoded by the model, as a vocabulary.

    Raises:
        VocabularyError: `out` is there already, or the tokenizer has no whole words.
        ModelError: There is no such model.
        MissingExtraError: The extra `text` is not installed.
    """
    encoder = SentenceEncoder(encoder) if isinstance(encoder, str) else encoder
    with new_folder(Path(out).expanduser()) as partial:
        words = whole_words(_tokens(encoder))
        writer = Writer(partial)
        writer.add(
            [word.encode() for word in words], encoder.vectors(words, on_progress=_told(on_progress, "encoding"))
        )
        writer.finish()
        header = Header(
            name=encoder.name,
            digest=encoder_digest(encoder),
            num_words=writer.num_words,
            size=writer.size,
            dtype="float32",
            source_sha256=encoder.digest,
            encoder=encoder.name if encoder.name == DEFAULT_ENCODER else str(encoder.folder.resolve()),
        )
        write_header(partial, header)
    return header


def encoder_digest(encoder: SentenceEncoder) -> str:
    """Return the digest of a model's vocabulary, which its words need not be encoded for."""
    return digest_of(encoder.digest)


def _tokens(encoder: SentenceEncoder) -> list[str]:
    """Return a model's tokens in the order of their numbers, which is often that of their frequency."""
    folders = sorted(path.parent for path in encoder.folder.rglob("tokenizer_config.json"))
    if not folders:
        raise VocabularyError("has no tokenizer_config.json", where=encoder.folder, remedy="Choose another model.")
    transformers = importlib.import_module("transformers")
    numbers = transformers.AutoTokenizer.from_pretrained(folders[0], local_files_only=True).get_vocab()
    return sorted(numbers, key=numbers.__getitem__)


def _told(on_progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if on_progress is None else lambda done, total: on_progress(what, done, total)
