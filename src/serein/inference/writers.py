"""Predictions in files: TextGrid (Praat, ELAN), label track (Audacity), picture, JSON lines that can be continued."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from serein.corpora.msp_podcast import EMOTIONS
from serein.data.files import lock, replacing
from serein.errors import AudioError, ModelError, RunError, SereinError
from serein.evaluation.plots import LINE, MUTED, PAGE_WIDTH_IN, emotion_colours, new_figure
from serein.inference.prediction import Prediction, Segment
from serein.inference.recording import PEAK_S
from serein.inference.sources import Source, id_of, utterance_of


def textgrid(prediction: Prediction) -> str:
    """Return a TextGrid of two interval tiers, label and confidence; where there is no speech both are empty.

    Source: the Praat manual, "TextGrid file formats", the long text format.
    """
    start, end = f"{prediction.start_s:.6f}", f"{prediction.end_s:.6f}"
    stretches: list[tuple[str, str, Segment | None]] = []  # they fill the recording without a gap, as TextGrids must
    place = start
    for segment in prediction.segments:
        low, high = f"{segment.start_s:.6f}", f"{min(segment.end_s, prediction.end_s):.6f}"
        if low != place:
            stretches.append((place, low, None))
        stretches.append((low, high, segment))
        place = high
    if place != end:
        stretches.append((place, end, None))
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        f"xmin = {start}",
        f"xmax = {end}",
        "tiers? <exists>",
        "size = 2",
        "item []:",
    ]
    for number, name in enumerate((prediction.task, "confidence"), start=1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += [f"        xmin = {start}", f"        xmax = {end}", f"        intervals: size = {len(stretches)}"]
        for interval, (low, high, stretch) in enumerate(stretches, start=1):
            text = "" if stretch is None else stretch.text if number == 1 else _confidence(stretch)
            lines += [f"        intervals [{interval}]:", f"            xmin = {low}", f"            xmax = {high}"]
            lines.append('            text = "{}"'.format(text.replace('"', '""')))
    return "\n".join(lines) + "\n"


def audacity(prediction: Prediction) -> str:
    """Return a label track: one line for each segment, with start, end, label and confidence.

    Source: the Audacity manual, "Importing and Exporting Labels".
    """
    return "".join(
        f"{segment.start_s:.6f}\t{segment.end_s:.6f}\t{segment.text} {_confidence(segment)}\n"
        for segment in prediction.segments
    )


def msp_challenge(predictions: Iterable[Prediction]) -> str:
    """Return the submission file of the MSP-Podcast challenges: a line for each file of Test3.

    Columns are those of the corpus's own tables: `FileName,EmoClass` for emotions, one letter each; for models of
    arousal, valence and dominance `FileName,EmoAct,EmoVal,EmoDom`, from 1 to 7. Source: the challenge's baseline
    (github.com/msplabresearch/MSP-Podcast_Challenge, eval_dim_ser_test3.py).

    Raises:
        ModelError: The model predicts a class that the challenge does not have.
        AudioError: A file has no answer, and the challenge wants one of each.
    """
    letters = {name: letter for letter, name in EMOTIONS.items()}
    lines: list[str] = []
    for prediction in predictions:
        name = Path(prediction.file).name
        values = {prediction.task: prediction.value} | {task: said.value for task, said in prediction.tasks.items()}
        attributes = [values.get(task) for task in ("arousal", "valence", "dominance")]
        if foreign := [label for label in prediction.probabilities if label not in letters]:
            raise ModelError(
                f"predicts the class '{foreign[0]}', and the challenge has {', '.join(letters)}",
                where=prediction.model.get("name"),
                remedy="Name a model of these classes, or merge others by labels.merge before training.",
            )
        if prediction.probabilities:
            most = max(prediction.probabilities, key=lambda label: prediction.probabilities[label])
            lines.append(f"{name},{letters[most]}")
        elif None not in attributes:
            lines.append(",".join([name, *(f"{min(max(value or 0.0, 1.0), 7.0):.4f}" for value in attributes)]))
        else:
            raise AudioError(
                f"has no answer ({prediction.rejected or 'no emotion is predicted'}), and the challenge wants one",
                where=prediction.file,
                remedy="Predict whole files: --segments never, and a model of emotions or of the three attributes.",
            )
    columns = "FileName,EmoClass" if not lines or lines[0].count(",") == 1 else "FileName,EmoAct,EmoVal,EmoDom"
    return "\n".join([columns, *lines]) + "\n"


def clock(seconds: float) -> str:
    """Return a time in a recording as minutes and seconds.

    Example:
        >>> clock(4.25), clock(75), clock(3725.5)
        ('0:04.2', '1:15.0', '1:02:05.5')
    """
    minutes, rest_s = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest_s:04.1f}" if hours else f"{minutes}:{rest_s:04.1f}"


def _confidence(segment: Segment) -> str:
    return "" if segment.confidence is None else f"{segment.confidence:.2f}"


WRITERS: dict[str, Callable[[Prediction], str]] = {"textgrid": textgrid, "audacity": audacity}
SUFFIXES = {"textgrid": ".TextGrid", "audacity": ".txt"}


_MOST_COLUMNS = 1800  # of a page


def save_picture(prediction: Prediction, path: str | Path) -> None:
    """Draw a recording on white paper, in the format that the suffix names (png, svg, pdf).

    Above, its waveform, coloured by label where there is speech; below, the confidence of each segment.
    """
    from matplotlib.patches import Patch

    classes, segments = list(prediction.probabilities), prediction.segments
    colours = emotion_colours(classes)
    peaks = np.asarray(prediction.peaks, np.float64)
    size = -(-len(peaks) // _MOST_COLUMNS)  # no more peaks than a page has columns
    columns = np.pad(peaks, (0, -len(peaks) % size)).reshape(-1, size).max(axis=1)
    times_s = prediction.start_s + (np.arange(len(columns), dtype=np.float64) + 0.5) * size * PEAK_S
    heights = (columns / max(float(columns.max()), 1e-6)) ** 0.6  # quiet speech is seen beside shouts
    with new_figure((PAGE_WIDTH_IN, 3.6)) as figure:
        wave, sure = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
        wave.fill_between(times_s, -heights, heights, color=LINE, linewidth=0)
        for segment in segments:
            colour = colours[segment.label] if segment.label else MUTED
            inside = (times_s >= segment.start_s) & (times_s <= segment.end_s)
            if inside.any():
                wave.fill_between(times_s[inside], -heights[inside], heights[inside], color=colour, linewidth=0)
            wave.axvspan(segment.start_s, segment.end_s, ymax=0.035, color=colour, linewidth=0)
            ends_s, percent = [segment.start_s, segment.end_s], 100 * (segment.confidence or 0.0)
            sure.fill_between(ends_s, 0, percent, color=colour, alpha=0.35, linewidth=0)
            sure.plot(ends_s, [percent, percent], color=colour, linewidth=1.6, solid_capstyle="butt")
        lengths = f"{clock(prediction.duration_s)}, speech {clock(prediction.speech_s)}"
        wave.set(ylim=(-1.08, 1.08), yticks=[], xlim=(prediction.start_s, prediction.end_s))
        wave.set_title(f"{Path(prediction.file).name}  {lengths}")
        wave.grid(visible=False)
        sure.set(ylim=(0, 100), ylabel="confidence, %")
        sure.xaxis.set_major_formatter(lambda seconds, _: clock(seconds).removesuffix(".0"))
        present = [name for name in classes if any(segment.label == name for segment in segments)]
        handles = [Patch(color=colours[name], label=name) for name in present]
        if any(segment.rejected for segment in segments):
            handles.append(Patch(color=MUTED, label="rejected"))
        handles.append(Patch(color=LINE, label="no speech"))
        wave.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=10, handlelength=1.0)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150, facecolor="white", bbox_inches="tight")


def error_dict(source: Source, error: SereinError) -> dict[str, Any]:
    """Return what stands in the place of a prediction for a recording that cannot be read, see docs/formats.md."""
    utterance = utterance_of(source)
    id = utterance.id if utterance.id != utterance.audio else None
    return {"file": utterance.audio, "id": id, "error": error.to_dict()}


_START = b'{"file": '


class PredictionFile(AbstractContextManager["PredictionFile"]):
    """A prediction file that can be continued.

    Each line is a prediction, or the error of a recording that could not be read; those are tried again.

    Args:
        path: Created when it does not exist.
        fingerprint: Identifies the model and the options; written into every line.

    Attributes:
        done: Utterances (by id) and recordings (by path) whose predictions are in the file.

    Raises:
        RunError: It is not a prediction file, it is of another model or other options, or another process writes to it.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: IO[bytes] = open(path, "a+b")  # noqa: SIM115  (closed by __exit__)
        self._errors: dict[str, dict[str, Any]] = {}
        try:
            lock(self.file, path, "another process writes to it")
            self.done = self._read()
        except BaseException:
            self.file.close()
            raise

    def write(self, prediction: Prediction) -> None:
        """Append a prediction; when this returns, other processes see it."""
        self._append(prediction.to_dict())

    def write_error(self, source: Source, error: SereinError) -> None:
        """Append why a recording cannot be read, unless the file says so already."""
        if self._errors.get(id_of(source)) != error.to_dict():
            self._append(error_dict(source, error))

    def _append(self, content: Mapping[str, Any]) -> None:
        line = {**content, "fingerprint": self.fingerprint}
        self.file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self.file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def _read(self) -> set[str]:
        """Return what is done; a last line that a killed process left half written is cut off."""
        done = set()
        self.file.seek(0)
        place = 0
        for number, line in enumerate(self.file, start=1):
            where, remedy = f"{self.path}:{number}", "Choose another --out."
            foreign = RunError("is not a prediction of serein", where=where, remedy=remedy)
            if not line.endswith(b"\n"):
                if not line.startswith(_START[: len(line)]):
                    raise foreign
                break
            try:
                content: Any = json.loads(line)
                key, fingerprint = str(content["id"] or content["file"]), content["fingerprint"]
            except (ValueError, KeyError, TypeError):
                raise foreign from None
            if fingerprint != self.fingerprint:
                raise RunError("was predicted by another model or with other options", where=where, remedy=remedy)
            if (error := content.get("error")) is None:
                done.add(key)
            else:
                self._errors[key] = error
            place += len(line)
        self.file.truncate(place)
        self.file.seek(0, os.SEEK_END)
        return done
