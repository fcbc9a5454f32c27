"""Speech to text with models of Transformers: Whisper, and CTC models of the wav2vec 2.0 kind.

A clip of 30 s or less gets the same text alone and in any batch. A longer clip is transcribed in parts: by Whisper as
its authors do (one part after the other, cut where it ends a segment), by a CTC model in overlapping windows, of which
the middle is kept.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from serein import audio, hub
from serein import checkpoint as checkpoints
from serein.audio import SAMPLE_RATE_HZ, Upload, Waveform
from serein.cache import cache_folder, claim
from serein.checkpoint import is_model_folder
from serein.data.manifest import Utterance
from serein.device import device_of, memory_errors, release_memory
from serein.errors import AudioError, ModelError, RunError, SereinError, expected_one_of
from serein.inference.batching import batches_by_length
from serein.inference.prediction import Prediction, Segment
from serein.inference.predictor import Predictor, shipped_models
from serein.inference.runtimes import log_runtime
from serein.inference.sources import Source, utterance_of, without_pipe
from serein.models.backbones import HuggingFaceBackbone
from serein.models.pretrained import FAMILIES, HAVE_FEATURES
from serein.tasks.task import TaskPrediction

WINDOW_S = 30.0  # Whisper's input; the memory of a CTC model grows with the square of the length
MARGIN_S = 5.0  # at either end of a CTC window, used only as context
LONGEST_PART_S = 600.0  # of speech without a pause in a long recording, 38 MB
BATCH_S = {"cpu": 60.0, "cuda": 960.0}  # seconds of padded audio in one batch

CTC_FAMILIES = [family for family in FAMILIES if family not in HAVE_FEATURES]  # they take the waveform itself
A_MODEL = (
    f"a folder with a model of Transformers for speech recognition: whisper, or with CTC {', '.join(CTC_FAMILIES)}"
)


class Transcriber(ABC):
    """A loaded speech recognition model.

    Args:
        folder: Folder of the model, its feature extractor and tokenizer.
        model: A model of Transformers.
        device: Device of the model.

    Attributes:
        min_s: Shorter clips count as this long in a batch.
    """

    min_s = 0.0

    def __init__(self, folder: Path, model: Any, device: torch.device) -> None:
        self.folder, self.device = folder, device
        self.model = model.eval().to(self.device)
        with _errors("feature extractor or tokenizer cannot be loaded", folder):
            transformers: Any = importlib.import_module("transformers")
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        if self.extractor.sampling_rate != SAMPLE_RATE_HZ:
            what = f"expects {self.extractor.sampling_rate} Hz, not {SAMPLE_RATE_HZ} Hz"
            raise ModelError(what, where=folder, remedy="Choose a model for 16 kHz.")

    @property
    def batch_s(self) -> float:
        """Seconds of padded audio in one batch."""
        return BATCH_S.get(self.device.type, BATCH_S["cpu"])

    def language_code(self, language: str) -> str | None:
        """Return the code ("de") of a language by its code or name ("german"); `None`: the model does not accept it.

        A CTC model accepts no language: it has only one, or detects it.
        """
        return None

    @abstractmethod
    def transcribe_batch(self, waveforms: Sequence[Waveform], language: str | None) -> list[str]:
        """Return the text of each clip of one batch; `language` is a code of the model's, see `transcribe`."""

    @torch.inference_mode()
    def transcribe(self, waveforms: Sequence[Waveform], *, language: str | None = None) -> list[str | None]:
        """Return the transcript of each clip, in order; `None` where the model finds no words.

        Args:
            waveforms: Each (sample,) float32 mono at 16 kHz, of any length.
            language: Spoken language; with `None`, or one that the model does not support, the model decides.
        """
        texts: list[str | None] = [None] * len(waveforms)
        code = self.language_code(language) if language else None
        for batch in self.batches([len(waveform) / SAMPLE_RATE_HZ for waveform in waveforms]):
            texts_of_batch = self._texts([waveforms[i] for i in batch], code)
            for position, text in zip(batch, texts_of_batch, strict=True):
                texts[position] = " ".join(text.split()) or None
        return texts

    def _texts(self, waveforms: Sequence[Waveform], language: str | None) -> list[str]:
        """Return the text of each clip of a batch; if the device has too little memory, of one half and then the other.

        Raises:
            RunError: It has too little memory for a single clip.
        """
        try:
            with memory_errors():
                return self.transcribe_batch(waveforms, language)
        except torch.OutOfMemoryError:
            pass  # within this block, the error would keep all tensors in memory
        release_memory(self.device)
        if (middle := len(waveforms) // 2) == 0:
            what = f"the device has too little memory for a clip of {len(waveforms[0]) / SAMPLE_RATE_HZ:.1f} s"
            raise RunError(what, where=str(self.device), remedy="Choose a smaller model, or --device cpu.")
        return self._texts(waveforms[:middle], language) + self._texts(waveforms[middle:], language)

    def batches(self, durations_s: Sequence[float]) -> list[list[int]]:
        """Divide clips into batches of similar duration, longest first."""
        return batches_by_length(durations_s, self.batch_s, max(self.min_s, 1e-3))


class WhisperTranscriber(Transcriber):
    """Whisper (Radford 2022), decoded greedily. Every clip is padded to 30 s, so that batching changes nothing."""

    min_s = WINDOW_S

    def __init__(self, folder: Path, device: torch.device) -> None:
        super().__init__(folder, _pretrained("AutoModelForSpeechSeq2Seq", folder), device)
        if self.device.type == "cuda":
            self.model.half()  # the precision that its authors use
        config = self.model.generation_config
        vocabulary = self.tokenizer.get_vocab()
        if getattr(config, "lang_to_id", None) is None and START in vocabulary:
            complete_whisper(config, vocabulary, self.model.config.vocab_size >= MULTILINGUAL_SIZE)
            config.max_length = self.model.config.max_target_positions
        is_multilingual = getattr(config, "is_multilingual", False)
        self._languages: dict[str, int] = (getattr(config, "lang_to_id", None) or {}) if is_multilingual else {}

    def language_code(self, language: str) -> str | None:
        """Return the code of a language that a multilingual model supports."""
        names = importlib.import_module("transformers.models.whisper.tokenization_whisper").TO_LANGUAGE_CODE
        code: str = names.get(language.lower(), language.lower())
        return code if f"<|{code}|>" in self._languages else None

    def transcribe_batch(self, waveforms: Sequence[Waveform], language: str | None) -> list[str]:
        """Return the texts of clips; those longer than 30 s are transcribed one by one."""
        is_long = [len(waveform) > WINDOW_S * SAMPLE_RATE_HZ for waveform in waveforms]
        short = iter(self._generate([w for w, long in zip(waveforms, is_long, strict=True) if not long], language))
        return [
            self._generate([waveform], language, truncation=False, padding="longest")[0] if long else next(short)
            for waveform, long in zip(waveforms, is_long, strict=True)
        ]

    def _generate(self, waveforms: Sequence[Waveform], language: str | None, **padding: Any) -> list[str]:
        if not waveforms:
            return []
        features = self.extractor(
            list(waveforms), sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt", return_attention_mask=True, **padding
        )
        options = {"language": language, "task": "transcribe"} if self._languages else {}
        with hub.quiet_transformers():
            tokens = self.model.generate(
                features["input_features"].to(self.device, self.model.dtype),
                attention_mask=features["attention_mask"].to(self.device),
                return_timestamps=bool(padding),  # a long clip is cut at them
                do_sample=False,
                num_beams=1,
                **options,
            )
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts


START = "<|startoftranscript|>"
MULTILINGUAL_SIZE = (
    51_865  # Whisper's multilingual vocabularies have at least this many tokens, the English one has fewer
)


def complete_whisper(config: Any, vocabulary: Mapping[str, int], is_multilingual: bool) -> None:
    """Set the tokens that start a transcript of a Whisper model, from its tokenizer.

    Models that were fine-tuned or converted long ago lack `lang_to_id` and the tokens of languages and tasks in their
    generation_config.json; Transformers then returns no text at all, or refuses a language.

    Args:
        config: The model's generation configuration, modified in place.
    """
    config.decoder_start_token_id = vocabulary[START]
    config.eos_token_id = config.pad_token_id = config.bos_token_id = vocabulary["<|endoftext|>"]
    config.no_timestamps_token_id = vocabulary["<|notimestamps|>"]
    config.prev_sot_token_id = vocabulary.get("<|startofprev|>")
    config.begin_suppress_tokens = [220, config.eos_token_id]  # no transcript begins with a space, or ends at once
    config.return_timestamps = False
    config.is_multilingual = is_multilingual
    if is_multilingual:
        config.lang_to_id = {token: number for token, number in vocabulary.items() if re.fullmatch(LANGUAGE, token)}
        config.task_to_id = {name: vocabulary[f"<|{name}|>"] for name in ("transcribe", "translate")}


LANGUAGE = r"<\|[a-z]{2,3}\|>"


class Part(NamedTuple):
    """A window of a clip: its samples, and which of its frames are kept."""

    clip: int
    start: int
    stop: int
    first_frame: int
    end_frame: int | None


class CtcTranscriber(Transcriber):
    """A model of the wav2vec 2.0 kind with CTC (Graves 2006): the best symbol per frame, without repeats and blanks."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        model = _pretrained("AutoModelForCTC", folder)
        if getattr(model.config, "add_adapter", False):
            raise ModelError("has an adapter after its layers", where=folder, remedy=f"Name {A_MODEL}.")
        super().__init__(folder, model, device)
        do_normalize = bool(getattr(self.extractor, "do_normalize", True))
        # gives a clip the same output alone and in a batch, unlike a model with group normalisation by itself
        self.backbone = HuggingFaceBackbone(getattr(model, model.base_model_prefix), do_normalize=do_normalize).eval()
        self._hop = round(SAMPLE_RATE_HZ / self.backbone.frame_rate_hz)

    def transcribe_batch(self, waveforms: Sequence[Waveform], language: str | None) -> list[str]:
        """Return the texts of clips; those longer than 30 s are transcribed in windows of 30 s."""
        symbols: list[list[int]] = [[] for _ in waveforms]
        parts = [part for clip, waveform in enumerate(waveforms) for part in windows(clip, len(waveform), self._hop)]
        size = max(1, int(self.batch_s * SAMPLE_RATE_HZ) // max(part.stop - part.start for part in parts))
        for start in range(0, len(parts), size):
            some = parts[start : start + size]
            rows = [torch.from_numpy(waveforms[part.clip][part.start : part.stop]) for part in some]
            num_samples = torch.tensor([len(row) for row in rows])
            padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                hidden = self.backbone(padded, num_samples)
                best = self.model.lm_head(hidden.last).argmax(dim=2).tolist()  # of each frame
            for part, row, num_frames in zip(some, best, hidden.num_frames.tolist(), strict=True):
                symbols[part.clip] += row[:num_frames][part.first_frame : part.end_frame]
        read = self.tokenizer
        no_letters = {read.pad_token_id, read.bos_token_id, read.eos_token_id, read.unk_token_id}  # pad is the blank
        # blanks are removed after repeats, so that double letters stay double
        once = [[symbol for symbol, _ in groupby(row) if symbol not in no_letters] for row in symbols]
        return [read.decode(letters, group_tokens=False) for letters in once]


def load_transcriber(name: str, device: str = "auto", language: str | None = None) -> Transcriber:
    """Load a speech recognition model.

    Args:
        name: Local folder, or a name on the Hub such as `openai/whisper-small`.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        language: A language that it must support.

    Raises:
        ModelError: There is no such model or device, its family is not supported, it does not support the language, or
            it is damaged.
    """
    if name in shipped_models():
        raise ModelError("is a model of emotions and does not transcribe", where=name, remedy=f"Name {A_MODEL}.")
    folder = hub.folder_of(name, expected=A_MODEL)
    with _errors("config.json cannot be read", folder):
        family = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    if family not in TRANSCRIBERS:
        what = expected_one_of(family, TRANSCRIBERS, kind="family of models")
        raise ModelError(what, where=name, remedy=f"Name {A_MODEL}.")
    transcriber = TRANSCRIBERS[family](folder, device_of(device))
    if language is not None and transcriber.language_code(language) is None:
        raise ModelError(
            f"does not support the language '{language}'",
            where=name,
            remedy="Leave out --language, or name a multilingual Whisper and a language that it supports.",
        )
    on_gpu = "float16" if family == "whisper" else "bfloat16"
    precision = on_gpu if transcriber.device.type == "cuda" else "float32"
    log_runtime(folder.name, f"torch on {transcriber.device}, {precision}")
    return transcriber


class TranscriptCache:
    """Cache of a speech recogniser's transcripts by the hash of the samples: no clip is transcribed twice.

    `$SEREIN_CACHE/transcripts` contains a folder for each model and language, with a line for each clip.

    Args:
        transcriber: The recogniser.
        language: Spoken language, see `Transcriber.transcribe`.
    """

    def __init__(self, transcriber: Transcriber, language: str | None = None) -> None:
        self.transcriber, self.language = transcriber, transcriber.language_code(language) if language else None
        of_model = f"{hub.folder_digest(transcriber.folder)[:24]}-{self.language or 'any'}"
        folder = cache_folder() / "transcripts" / of_model
        self.path = folder / "texts.jsonl"
        self.use = claim(folder)  # it is not removed while this process uses it
        self.known: dict[str, str | None] = {}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                self.known[entry["samples"]] = entry["text"]
            except (ValueError, TypeError, KeyError):  # a line that a killed process left unfinished
                continue

    def transcribe(self, waveforms: Sequence[Waveform]) -> list[str | None]:
        """Return the transcript of each clip, (sample,) float32 at 16 kHz; `None` if there are no words."""
        keys = [hashlib.blake2b(waveform.tobytes(), digest_size=16).hexdigest() for waveform in waveforms]
        missing = {key: waveform for key, waveform in zip(keys, waveforms, strict=True) if key not in self.known}
        if missing:
            texts = self.transcriber.transcribe(list(missing.values()), language=self.language)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                for key, text in zip(missing, texts, strict=True):
                    self.known[key] = text
                    file.write("\n" * (file.tell() > 0) + json.dumps({"samples": key, "text": text}))
        return [self.known[key] for key in keys]


@dataclass(eq=False)
class _Recording:
    """A recording whose prediction waits for its transcript."""

    source: Source
    result: Prediction | SereinError
    texts: list[str | None] = field(default_factory=list)
    error: SereinError | None = None

    def finished(self, errors: list[SereinError]) -> tuple[Source, Prediction | SereinError]:
        """Return the prediction with its transcript; without one, add the reason to the errors."""
        if not isinstance(self.result, Prediction):
            return self.source, self.result
        if self.error is not None:
            what = f"is not transcribed: {self.error.what}"
            errors.append(type(self.error)(what, where=self.result.file, remedy=self.error.remedy))
            return self.source, self.result
        asr = TaskPrediction(" ".join(filter(None, self.texts)))
        return self.source, replace(self.result, tasks={**self.result.tasks, "asr": asr})


def with_transcripts(
    results: Iterable[tuple[Source, Prediction | SereinError]],
    transcriber: Transcriber,
    errors: list[SereinError],
    *,
    language: str | None = None,
    raw_rate_hz: int | None = None,
) -> Iterator[tuple[Source, Prediction | SereinError]]:
    """Add the transcripts of recordings to their predictions, as the task `asr`; empty if no speech was found.

    A recording of at most 30 s is transcribed whole, a longer one by its stretches of speech (`speech_parts`): each
    recording is read once more, and only one batch of parts is in memory, whatever its length.

    Args:
        results: Recordings with their predictions, or the errors of those that could not be read.
        transcriber: The recogniser; its transcripts are cached, see `TranscriptCache`.
        errors: Collects why recordings have no transcript; they keep their predictions.
        language: Spoken language; `None` uses each utterance's own.
        raw_rate_hz: As in `audio.open`.

    Yields:
        The results in order, after each batch.
    """
    caches: dict[str | None, TranscriptCache] = {}
    waiting: list[_Recording] = []
    batch: list[tuple[_Recording, Waveform]] = []

    def transcribe_batch() -> None:
        spoken = [language or utterance_of(recording.source).language for recording, _ in batch]
        for each in dict.fromkeys(spoken):
            own = [part for part, of_part in zip(batch, spoken, strict=True) if of_part == each]
            cache = caches.setdefault(each, caches.get(each) or TranscriptCache(transcriber, each))
            try:
                texts = cache.transcribe([waveform for _, waveform in own])
            except RunError as error:
                for recording, _ in own:
                    recording.error = error
            else:
                for (recording, _), text in zip(own, texts, strict=True):
                    recording.texts.append(text)
        batch.clear()

    for source, result in results:
        waiting.append(recording := _Recording(source, result))
        try:
            for waveform in _speech(source, result, raw_rate_hz) if isinstance(result, Prediction) else ():
                batch.append((recording, waveform))
                lengths_s = (len(waveform) / SAMPLE_RATE_HZ for _, waveform in batch)
                if sum(max(length_s, transcriber.min_s) for length_s in lengths_s) >= transcriber.batch_s:
                    transcribe_batch()
        except AudioError as error:
            recording.error = error
        if not batch:
            yield from [each.finished(errors) for each in waiting]
            waiting.clear()
    transcribe_batch()
    yield from [each.finished(errors) for each in waiting]


def speech_parts(segments: Sequence[Segment]) -> list[tuple[float, float]]:
    """Return start and end of the parts by which a long recording is transcribed, in seconds.

    They begin and end at pauses. Short ones are joined up to 30 s; speech without a pause is cut after 10 minutes.

    Example:
        >>> times = [(0.0, 4.0), (4.0, 20.0), (21.0, 29.0), (31.0, 40.0)]
        >>> speech_parts([Segment("sad", start_s=start_s, end_s=end_s) for start_s, end_s in times])
        [(0.0, 29.0), (31.0, 40.0)]
    """
    stretches: list[tuple[float, float]] = []
    for segment in segments:
        is_next = bool(stretches) and segment.start_s - stretches[-1][1] < 1e-3  # another label, but no pause
        stretches.append((stretches.pop()[0] if is_next else segment.start_s, segment.end_s))
    parts: list[tuple[float, float]] = []
    for start_s, end_s in stretches:
        if parts and end_s - parts[-1][0] <= WINDOW_S:
            parts.append((parts.pop()[0], end_s))
            continue
        num = math.ceil((end_s - start_s) / LONGEST_PART_S)
        places = [start_s + number * (end_s - start_s) / num for number in range(num)]
        parts += pairwise([*places, end_s])
    return parts


def _speech(source: Source, prediction: Prediction, raw_rate_hz: int | None) -> Iterator[Waveform]:
    """Yield the parts of a recording that are transcribed, (sample,) each, reading it once, block by block."""
    utterance, start_s = utterance_of(source), prediction.start_s
    parts = speech_parts(prediction.segments)
    if not parts:
        return
    if prediction.duration_s <= WINDOW_S:
        parts = [(start_s, start_s + prediction.duration_s)]
    content = source if isinstance(source, Upload) else utterance.audio
    blocks = audio.blocks(content, utterance.start_s, utterance.end_s, raw_rate_hz=raw_rate_hz)
    samples, place = np.zeros(0, np.float32), 0  # those in memory, and the number of the first one
    for part in parts:
        start, end = (round((time_s - start_s) * SAMPLE_RATE_HZ) for time_s in part)
        while place + len(samples) < end and (block := next(blocks, None)) is not None:
            samples = np.concatenate([samples, block])
            passed = min(max(start - place, 0), len(samples))
            samples, place = samples[passed:], place + passed
        yield samples[max(start - place, 0) : end - place]


def transcribe_each(
    transcriber: Transcriber, sources: Sequence[Source], *, language: str | None = None
) -> Iterator[tuple[Utterance, str | AudioError | None]]:
    """Yield the transcript, or the error, of each of many recordings; only one batch and pipes are in memory at a time.

    Transcripts are cached, see `TranscriptCache`.

    Args:
        sources: Their ids, or paths, must be distinct.
        language: Spoken language; `None` uses each utterance's own.

    Yields:
        Utterance and text (`None`: no words), language by language, longest first.
    """
    utterances = [utterance_of(source) for source in sources]
    uploads = {str(each): each for each in map(without_pipe, sources) if isinstance(each, Upload)}
    languages = {u.id: language or u.language for u in utterances}
    for spoken in dict.fromkeys(languages.values()):
        cache = TranscriptCache(transcriber, spoken)
        audible, durations_s = [], []
        for utterance in (u for u in utterances if languages[u.id] == spoken):
            try:
                sound = uploads.get(utterance.id, utterance.audio)
                durations_s.append(audio.info(sound, utterance.start_s, utterance.end_s).duration_s)
                audible.append(utterance)
            except AudioError as error:
                yield utterance, error
        for batch in transcriber.batches(durations_s):
            loaded = []
            for utterance in (audible[i] for i in batch):
                try:
                    sound = uploads.get(utterance.id, utterance.audio)
                    loaded.append((utterance, audio.load(sound, utterance.start_s, utterance.end_s)))
                except audio.TooLongAudioError as error:
                    remedy = "Use serein predict --transcribe, which cuts it at pauses."
                    yield utterance, AudioError(error.what, where=error.where, remedy=remedy)
                except AudioError as error:
                    yield utterance, error
            texts = cache.transcribe([waveform for _, waveform in loaded])
            yield from zip([utterance for utterance, _ in loaded], texts, strict=True)


def windows(clip: int, num_samples: int, hop: int) -> list[Part]:
    """Cut a clip into windows of at most 30 s, whose kept frames follow each other without gap or overlap.

    Args:
        clip: Number of the clip, for the parts.
        num_samples: Length of the clip.
        hop: Samples from frame to frame.

    Example:
        >>> windows(0, 50 * 16_000, 320)
        [Part(clip=0, start=0, stop=480000, first_frame=0, end_frame=1250),
         Part(clip=0, start=320000, stop=800000, first_frame=250, end_frame=None)]
    """
    length, margin = (round(seconds * SAMPLE_RATE_HZ / hop) for seconds in (WINDOW_S, MARGIN_S))
    step = length - 2 * margin
    num_windows = 1 + max(0, math.ceil((num_samples / hop - length) / step))
    return [
        Part(
            clip,
            number * step * hop,
            min((number * step + length) * hop, num_samples),
            margin if number else 0,
            length - margin if number < num_windows - 1 else None,
        )
        for number in range(num_windows)
    ]


def _pretrained(reader: str, folder: Path) -> Any:
    """Return a model whose weights are all in its folder, as safetensors."""
    with _errors("the weights cannot be loaded", folder), hub.quiet_transformers():
        model, report = getattr(importlib.import_module("transformers"), reader).from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, use_safetensors=True
        )
    missing = {key for key in report["missing_keys"] if not key.endswith("masked_spec_embed")}  # only for training
    if missing:
        what = f"{len(missing)} weights are missing, such as {min(missing)}: it was not trained to transcribe"
        raise ModelError(what, where=folder, remedy=f"Name {A_MODEL}.")
    return model


@contextmanager
def _errors(what: str, folder: Path) -> Iterator[None]:
    """Turn any error of the library with a foreign model into one sentence, and keep its cause."""
    try:
        yield
    except Exception as error:
        detail = " ".join(str(error).split())[:200]
        raise ModelError(f"{what} ({type(error).__name__}: {detail})", where=folder, remedy=hub.COPY) from error


TRANSCRIBERS: dict[str, type[WhisperTranscriber] | type[CtcTranscriber]] = {
    "whisper": WhisperTranscriber,
    **dict.fromkeys(CTC_FAMILIES, CtcTranscriber),
}


def transcribe_with(
    model: str | Path,
    sources: Sequence[Source],
    *,
    language: str | None = None,
    device: str = "auto",
    backbone: Path | None = None,
) -> Iterator[tuple[Utterance, str | AudioError]]:
    """Yield the transcript, or the error, of each recording.

    Args:
        model: A model folder whose last stage was trained on transcription, which keeps the order; or a speech
            recogniser (Whisper or CTC), by folder or Hub name, which starts with the longest.
        language: Spoken language, for Whisper; `None` uses each utterance's own.
        device: Device of the model, see `serein.load`.
        backbone: Current folder of the model's pretrained backbone, if it has moved.

    Raises:
        ModelError: The model cannot be loaded, was not trained on transcription, or does not support the language.
    """
    if not is_model_folder(model):
        transcriber = load_transcriber(str(model), device, language)
        for utterance, text in transcribe_each(transcriber, sources, language=language):
            yield utterance, "" if text is None else text
        return
    if language is not None:
        what, remedy = f"does not support the language '{language}'", "Leave out --language."
        raise ModelError(what, where=model, remedy=remedy)
    checkpoint = checkpoints.load(model, backbone=backbone)
    transcripts = [name for name in checkpoint.answered if checkpoint.tasks[name].spec.has_transcript]
    if not transcripts:
        raise ModelError(
            f"predicts {', '.join(checkpoint.answered)}, not transcripts",
            where=model,
            remedy="Name the model of a stage trained on 'asr'; it is below the stage's folder if it is not the last.",
        )
    predictor, task = Predictor(checkpoint, device), transcripts[0]
    log_runtime(checkpoint.name, predictor.runtime)
    results = predictor.predict_files(sources, segments="never", on_error="return")
    for utterance, result in zip(map(utterance_of, sources), results, strict=True):
        if isinstance(result, Prediction):
            said = result if predictor.task == task else result.tasks[task]
            yield utterance, said.label or ""
        else:
            yield utterance, result
