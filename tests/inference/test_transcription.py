"""Speech to text: as Transformers hears each clip alone, whatever it is batched with."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from asr_models import LETTERS, write_ctc, write_whisper
from serein import cache, hub
from serein.data.manifest import Utterance
from serein.errors import AudioError, ModelError, RunError
from serein.inference.prediction import Prediction, Segment
from serein.inference.transcription import (
    Transcriber,
    TranscriptCache,
    WhisperTranscriber,
    complete_whisper,
    load_transcriber,
    transcribe_each,
    windows,
    with_transcripts,
)

RATE_HZ = 16_000
Record = Callable[..., Utterance]


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Return noise whose loudness changes, so that frames differ."""
    rng = np.random.default_rng(seed)
    num_samples = round(seconds * RATE_HZ)
    loudness = np.interp(np.linspace(0, 1, num_samples), np.linspace(0, 1, 20), rng.uniform(0, 0.3, 20))
    return (loudness * rng.standard_normal(num_samples)).astype(np.float32)


CLIPS = [noise(seconds, seed) for seed, seconds in enumerate((1.0, 2.3, 0.2, 1.7))]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def english_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("english"), languages=("en",))


@pytest.fixture(scope="module")
def ctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ctc(tmp_path_factory.mktemp("ctc"))


def ctc_alone(folder: Path, waveform: np.ndarray) -> str:
    """Return what Transformers' own pipeline hears in a clip."""
    from transformers import pipeline

    hear = pipeline("automatic-speech-recognition", model=str(folder), device="cpu", dtype=torch.float32)
    return letters(hear({"raw": waveform, "sampling_rate": RATE_HZ})["text"])


def letters(text: str) -> str:
    """Return a text without the symbols that are no letters."""
    for symbol in ("<s>", "</s>", "<unk>"):
        text = text.replace(symbol, "")
    return " ".join(text.split())


def whisper_alone(folder: Path, waveform: np.ndarray, **options: Any) -> str | None:
    """Return what Whisper hears in one clip, with Transformers' own processor; `None` for no words."""
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

    processor, model = AutoProcessor.from_pretrained(folder), AutoModelForSpeechSeq2Seq.from_pretrained(folder).eval()
    is_long = len(waveform) > 30 * RATE_HZ
    whole = {"truncation": False, "padding": "longest", "return_attention_mask": True} if is_long else {}
    heard = processor(waveform, sampling_rate=RATE_HZ, return_tensors="pt", **whole)
    tokens = model.generate(**heard, return_timestamps=is_long, task="transcribe", **options)
    return " ".join(processor.batch_decode(tokens, skip_special_tokens=True)[0].split()) or None


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Wav2Vec2", {}),  # group normalisation over time: what Transformers hears changes with the padding
        ("Wav2Vec2", {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}),
        ("Hubert", {}),
        ("WavLM", {}),
        ("Data2VecAudio", {"conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2}),
    ],
)
def test_ctc_models_hear_as_alone(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    folder = write_ctc(tmp_path, family, **changes)
    expected = [ctc_alone(folder, clip) for clip in CLIPS]
    assert len(set(expected)) == len(CLIPS)
    assert load_transcriber(str(folder)).transcribe(CLIPS) == expected


@pytest.mark.slow
def test_whisper_hears_as_alone(whisper: Path) -> None:
    expected = [whisper_alone(whisper, clip) for clip in CLIPS]
    assert len(set(expected)) > 1
    assert load_transcriber(str(whisper)).transcribe(CLIPS) == expected


@pytest.mark.slow
def test_whisper_hears_a_long_clip_to_its_end(whisper: Path) -> None:
    long = noise(50.0)
    text, _ = load_transcriber(str(whisper)).transcribe([long, CLIPS[0]])
    assert text == whisper_alone(whisper, long)
    assert text != load_transcriber(str(whisper)).transcribe([long[: 30 * RATE_HZ]])[0]


def test_a_ctc_model_hears_a_long_clip_in_windows(ctc: Path) -> None:
    from transformers import AutoModelForCTC, AutoProcessor

    long = noise(50.0)
    processor, model = AutoProcessor.from_pretrained(ctc), AutoModelForCTC.from_pretrained(ctc).eval()
    symbols: list[int] = []
    for start_s, stop_s, kept in ((0, 30, slice(0, 1250)), (20, 50, slice(250, None))):
        window = long[start_s * RATE_HZ : stop_s * RATE_HZ]
        with torch.no_grad():
            logits = model(**processor(window, sampling_rate=RATE_HZ, return_tensors="pt")).logits
        symbols += logits.argmax(dim=2)[0, kept].tolist()
    expected = letters(processor.decode(symbols))
    assert load_transcriber(str(ctc)).transcribe([CLIPS[0], long, CLIPS[1]])[1] == expected


@pytest.mark.parametrize("seconds", [0.1, 29.9, 30.0, 30.01, 49.99, 50.0, 50.01, 137.7, 600.0])
def test_kept_frames_follow_each_other(seconds: float) -> None:
    num_samples, hop, field = round(seconds * RATE_HZ), 320, 400
    whole = list(range((num_samples - field) // hop + 1))
    kept: list[int] = []
    for part in windows(0, num_samples, hop):
        assert part.stop - part.start <= 30 * RATE_HZ
        num_frames = (part.stop - part.start - field) // hop + 1
        kept += [part.start // hop + frame for frame in range(num_frames)][part.first_frame : part.end_frame]
    assert kept == whole


def test_a_letter_twice_stays_twice(ctc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transcriber = load_transcriber(str(ctc))
    symbols = [LETTERS.index(symbol) for symbol in ["H", "H", "<pad>", "H", "|", "|", "<s>", "A", "<pad>", "|"]]
    scores = torch.nn.functional.one_hot(torch.tensor([symbols]), len(LETTERS))
    hidden = SimpleNamespace(last=scores, num_frames=torch.tensor([len(symbols)]))
    monkeypatch.setattr(transcriber, "backbone", lambda padded, num_samples: hidden)
    monkeypatch.setattr(transcriber.model, "lm_head", torch.nn.Identity())
    assert transcriber.transcribe(CLIPS[:1]) == ["HH A"]


def test_no_words_are_no_text(ctc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transcriber = load_transcriber(str(ctc))
    monkeypatch.setattr(transcriber, "transcribe_batch", lambda waveforms, language: [" ", "well\n then "])
    assert transcriber.transcribe(CLIPS[:2]) == ["well then", None]  # the longer clip is heard first
    assert transcriber.transcribe([]) == []


def test_a_batch_beyond_the_memory_is_transcribed_in_halves(ctc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transcriber = load_transcriber(str(ctc))
    most = 1

    def scarce(waveforms: list[np.ndarray], language: str | None) -> list[str]:
        if len(waveforms) > most:
            raise torch.OutOfMemoryError("no memory")
        return [str(len(each)) for each in waveforms]

    monkeypatch.setattr(transcriber, "transcribe_batch", scarce)
    assert transcriber.transcribe(CLIPS) == [str(len(each)) for each in CLIPS]
    most = 0
    with pytest.raises(RunError, match="cpu: the device has too little memory for a clip of"):
        transcriber.transcribe(CLIPS[:1])


def test_batches_hold_clips_of_like_duration(whisper: Path, ctc: Path) -> None:
    durations_s = [1.0, 25.0, 2.0, 100.0, 30.0]
    assert load_transcriber(str(ctc)).batches(durations_s) == [[3], [4, 1], [2, 0]]
    assert load_transcriber(str(whisper)).batches(durations_s) == [[3], [4, 1], [2, 0]]  # each fills 30 s
    assert len(load_transcriber(str(whisper)).batches([1.0] * 10)) == 5


@pytest.mark.slow
def test_whisper_is_told_the_language(whisper: Path, english_whisper: Path, ctc: Path) -> None:
    transcriber = load_transcriber(str(whisper))
    assert transcriber.language_code("de") == "de"
    assert transcriber.language_code("German") == "de"
    assert transcriber.language_code("fr") is None
    german = transcriber.transcribe(CLIPS, language="german")
    assert german == [whisper_alone(whisper, clip, language="de") for clip in CLIPS]
    assert german != transcriber.transcribe(CLIPS, language="en")
    assert transcriber.transcribe(CLIPS, language="fr") == transcriber.transcribe(CLIPS)  # finds out by itself
    assert load_transcriber(str(english_whisper)).language_code("en") is None
    assert load_transcriber(str(english_whisper)).transcribe(CLIPS[:1], language="en")
    assert load_transcriber(str(ctc)).language_code("en") is None


def test_whisper_without_its_languages_finds_them_in_its_tokenizer(whisper: Path) -> None:
    """Models that were converted or fine-tuned long ago have a generation_config.json without them."""
    vocabulary = load_transcriber(str(whisper)).tokenizer.get_vocab()
    complete = load_transcriber(str(whisper)).model.generation_config
    completed = copy.deepcopy(complete)
    completed.lang_to_id = completed.task_to_id = completed.decoder_start_token_id = None
    complete_whisper(completed, vocabulary, is_multilingual=True)
    for key in ("lang_to_id", "decoder_start_token_id", "no_timestamps_token_id", "is_multilingual"):
        assert getattr(completed, key) == getattr(complete, key), key
    assert completed.task_to_id["transcribe"] == complete.task_to_id["transcribe"]


@pytest.mark.slow
def test_what_was_heard_once_is_not_heard_again(whisper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path))
    first = TranscriptCache(load_transcriber(str(whisper)), "de")
    texts = first.transcribe(CLIPS)
    assert texts == load_transcriber(str(whisper)).transcribe(CLIPS, language="de")
    with open(first.path, "a") as file:
        file.write('\n{"samples": "unfini')
    again = TranscriptCache(load_transcriber(str(whisper)), "de")
    monkeypatch.setattr(again.transcriber, "transcribe", None)  # it is not called
    assert again.transcribe(CLIPS[::-1]) == texts[::-1]
    other = TranscriptCache(load_transcriber(str(whisper)), "en")
    assert not other.known
    (entry,) = (each for each in cache.entries() if each.kind == "transcripts")
    assert entry.path == first.path.parent
    assert not cache.remove(entry)  # it is used
    for each in (first, again):
        assert each.use is not None
        each.use.close()
    assert cache.remove(entry)


class Counting(Transcriber):
    """Names each clip by its language, length and mean; fails on those that a GPU cannot hold."""

    batch_s = 20.0

    def __init__(self, folder: Path, most_s: float = 100.0) -> None:
        self.folder, self.most_s = folder, most_s
        self.batches_s: list[float] = []

    def language_code(self, language: str) -> str | None:
        return language if language in ("de", "en") else None

    def transcribe_batch(self, waveforms: Sequence[np.ndarray], language: str | None) -> list[str]:
        raise NotImplementedError

    def transcribe(self, waveforms: Sequence[np.ndarray], *, language: str | None = None) -> list[str | None]:
        lengths_s = [len(waveform) / RATE_HZ for waveform in waveforms]
        self.batches_s.append(sum(lengths_s))
        if max(lengths_s) > self.most_s:
            raise RunError("too little memory", where="cuda")
        return [
            f"{language} {length_s:g} {waveform.mean():.3f}"
            for waveform, length_s in zip(waveforms, lengths_s, strict=True)
        ]


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "asr").mkdir()
    (tmp_path / "asr" / "config.json").write_text("{}")
    return Counting(tmp_path / "asr")


def predicted(source: Utterance, duration_s: float, *segments: tuple[float, float]) -> tuple[Utterance, Prediction]:
    spoken = tuple(Segment("sad", 1.0, start_s=start_s, end_s=end_s) for start_s, end_s in segments)
    place: Any = {"start_s": source.start_s, "duration_s": duration_s}
    return source, Prediction("sad", 1.0, file=source.audio, segments=spoken, **place)


def transcripts(results: Iterable[tuple[Any, Any]], counting: Counting, **how: Any) -> tuple[list[Any], list[Any]]:
    errors: list[Any] = []
    results = list(with_transcripts(results, counting, errors, **how))
    return [r.tasks["asr"].label if "asr" in r.tasks else None for _, r in results if isinstance(r, Prediction)], errors


def test_a_long_recording_is_transcribed_by_its_speech_and_a_short_one_whole(
    counting: Counting, record: Record
) -> None:
    """Its parts are read once, in order, and never more than a batch is kept."""
    seconds = np.repeat(np.arange(70) / 100, RATE_HZ).astype(np.float32)  # second n is n / 100
    long, short = record("long", seconds), record("short", seconds[: 12 * RATE_HZ], language="de")
    half = long.model_copy(update={"id": "half", "start_s": 10.0, "end_s": 30.0})
    results = [
        predicted(long, 70.0, (1.0, 11.0), (12.0, 20.0), (20.0, 21.0), (33.0, 69.0)),
        predicted(short, 12.0, (2.0, 4.0), (5.0, 6.0)),
        predicted(half, 20.0, (11.0, 12.0)),
        predicted(short.model_copy(update={"id": "silent"}), 12.0),
    ]
    texts, errors = transcripts(results, counting)
    assert texts == ["None 20 0.105 None 36 0.505", "de 12 0.055", "None 20 0.195", ""]
    assert not errors
    assert counting.batches_s == [20.0, 36.0, 12.0, 20.0]
    assert transcripts(results[1:2], counting, language="en")[0] == ["en 12 0.055"]


def test_what_is_not_transcribed_keeps_its_prediction(counting: Counting, record: Record) -> None:
    counting.most_s = 5.0
    first, long, last = record("a", CLIPS[0]), record("b", noise(6.0)), record("c", CLIPS[1])
    unreadable = ("x.wav", AudioError("is empty", where="x.wav"))
    gone = Utterance(id="gone", audio="gone.wav")
    some = [predicted(long, 6.0, (0.0, 6.0)), predicted(gone, 1.0, (0.0, 1.0)), unreadable]
    counting.batch_s = 6.0
    texts, errors = transcripts([*some, predicted(first, 1.0, (0.0, 1.0)), predicted(last, 2.3, (0.0, 2.3))], counting)
    assert [text is not None for text in texts] == [False, False, True, True]
    assert [error.what for error in errors] == [
        "is not transcribed: too little memory",
        "is not transcribed: no such file",
    ]


@pytest.mark.slow
def test_recordings_are_transcribed_once(
    whisper: Path, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEREIN_CACHE", str(tmp_path / "cache"))
    utterances = [record(str(number), clip, language="de") for number, clip in enumerate(CLIPS)]
    found = dict(transcribe_each(load_transcriber(str(whisper)), utterances))
    again = load_transcriber(str(whisper))
    monkeypatch.setattr(again, "transcribe", None)  # it is not called
    assert dict(transcribe_each(again, utterances, language="de")) == found


def test_utterances_are_transcribed_each_in_its_language(whisper: Path, record: Record) -> None:
    transcriber = load_transcriber(str(whisper))
    utterances = [record(f"{i}", clip, language=("de", "en")[i % 2]) for i, clip in enumerate(CLIPS)]
    found = {u.id: text for u, text in transcribe_each(transcriber, utterances)}
    expected = {
        u.id: transcriber.transcribe([c], language=u.language)[0] for u, c in zip(utterances, CLIPS, strict=True)
    }
    assert found == expected
    english = {u.id: text for u, text in transcribe_each(transcriber, utterances, language="en")}
    assert [english[name] for name in "0123"] == transcriber.transcribe(CLIPS, language="en")


def test_what_cannot_be_heard_is_said(ctc: Path, record: Record, tmp_path: Path) -> None:
    utterances = [record("a", CLIPS[0]), Utterance(id="gone", audio="gone.wav"), record("still", np.zeros(RATE_HZ))]
    found = {u.id: outcome for u, outcome in transcribe_each(load_transcriber(str(ctc)), utterances)}
    assert isinstance(found["a"], str)
    assert isinstance(found["gone"], AudioError)
    assert isinstance(found["still"], AudioError)


def test_offline_and_absent_fails_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "is_reachable", lambda library: False)
    with pytest.raises(ModelError, match=r"openai/whisper-nano: .* hf download openai/whisper-nano"):
        load_transcriber("openai/whisper-nano")


def test_what_is_no_recogniser_is_refused(ctc: Path, whisper: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, Wav2Vec2Config, Wav2Vec2Model

    with pytest.raises(ModelError, match=r"config.json cannot be read"):
        load_transcriber(str(tmp_path))
    with pytest.raises(ModelError, match="default: is a model of emotions"):
        load_transcriber("default")
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="unknown family of models 'bert', expected one of: whisper, wav2vec2"):
        load_transcriber(str(tmp_path))
    encoder = write_ctc(tmp_path / "encoder")
    Wav2Vec2Model(Wav2Vec2Config.from_pretrained(encoder)).save_pretrained(encoder)
    with pytest.raises(ModelError, match="weights are missing, such as lm_head"):
        load_transcriber(str(encoder))
    damaged = write_whisper(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((whisper / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(ModelError, match="weights cannot be loaded"):
        load_transcriber(str(damaged))


def test_another_rate_is_refused(ctc: Path, tmp_path: Path) -> None:
    folder = write_ctc(tmp_path)
    path = next(path for path in folder.glob("p*r_config.json") if "feature_extractor" in path.read_text())
    path.write_text(path.read_text().replace("16000", "8000"))
    with pytest.raises(ModelError, match="8000 Hz"):
        load_transcriber(str(folder))


@pytest.mark.slow
def test_whisper_hears_with_half_precision_only_on_a_gpu(whisper: Path) -> None:
    transcriber = load_transcriber(str(whisper))
    assert isinstance(transcriber, WhisperTranscriber)
    assert transcriber.model.dtype == (torch.float16 if torch.cuda.is_available() else torch.float32)
    assert json.loads((whisper / "config.json").read_text())["model_type"] == "whisper"
