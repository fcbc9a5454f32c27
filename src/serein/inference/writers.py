"""Write predictions to files: label tracks, databases, embeddings, and JSON lines that can be continued."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import yaml

from serein.audio import Upload
from serein.data.files import lock, replacing, require_suffix, write_text
from serein.data.manifest import Utterance
from serein.errors import AudioError, ManifestError, ModelError, RunError, SereinError, imported
from serein.inference.prediction import Prediction, Segment
from serein.inference.sources import Source, utterance_of
from serein.tasks.task import numbers_text


def textgrid(prediction: Prediction) -> str:
    """Return a TextGrid of interval tiers: label, confidence and each dimension; without speech all are empty.

    Each other task, such as a transcript, has a tier with one interval: its label belongs to the whole recording.

    Source: the Praat manual, "TextGrid file formats", the long text format.
    """
    start, end = f"{prediction.start_s:.6f}", f"{prediction.end_s:.6f}"
    tiers: list[tuple[str, Sequence[Segment], list[str]]] = [
        (prediction.task, prediction.segments, [segment.text for segment in prediction.segments]),
        ("confidence", prediction.segments, [_confidence(segment) for segment in prediction.segments]),
    ]
    for name in prediction.dimensions:
        tiers.append((name, prediction.curve, [f"{moment.dimensions[name]:.2f}" for moment in prediction.curve]))
    if prediction.task in prediction.dimensions:
        del tiers[0]  # the tier of that dimension has the same name
    whole = Segment(None, start_s=prediction.start_s, end_s=prediction.end_s)
    tiers += [(name, [whole], [each.label]) for name, each in prediction.tasks.items() if each.label]
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        f"xmin = {start}",
        f"xmax = {end}",
        "tiers? <exists>",
        f"size = {len(tiers)}",
        "item []:",
    ]
    for number, (name, segments, texts) in enumerate(tiers, start=1):
        stretches: list[tuple[str, str, str]] = []  # they fill the recording without a gap, as TextGrids must
        place = start
        for segment, text in zip(segments, texts, strict=True):
            low, high = f"{segment.start_s:.6f}", f"{min(segment.end_s, prediction.end_s):.6f}"
            if low != place:
                stretches.append((place, low, ""))
            stretches.append((low, high, text))
            place = high
        if place != end:
            stretches.append((place, end, ""))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += [f"        xmin = {start}", f"        xmax = {end}", f"        intervals: size = {len(stretches)}"]
        for interval, (low, high, text) in enumerate(stretches, start=1):
            lines += [f"        intervals [{interval}]:", f"            xmin = {low}", f"            xmax = {high}"]
            lines.append('            text = "{}"'.format(text.replace('"', '""')))
    return "\n".join(lines) + "\n"


def audacity(prediction: Prediction) -> str:
    """Return a label track: one line for each segment, with start, end, label, confidence and dimensions.

    Source: the Audacity manual, "Importing and Exporting Labels".
    """
    lines = []
    for segment in prediction.segments:
        lines.append(f"{segment.start_s:.6f}\t{segment.end_s:.6f}\t{_shown(segment)}\n")
    return "".join(lines)


def srt(prediction: Prediction) -> str:
    """Return subtitles (SubRip): one for each segment, with label, confidence and dimensions, for any video player."""

    def clock_ms(seconds: float) -> str:
        minutes, rest_ms = divmod(round(1000 * seconds), 60_000)
        return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest_ms // 1000:02d},{rest_ms % 1000:03d}"

    return "".join(
        f"{number}\n{clock_ms(segment.start_s)} --> {clock_ms(segment.end_s)}\n{_shown(segment)}\n\n"
        for number, segment in enumerate(prediction.segments, start=1)
    )


def _timedelta(seconds: float) -> str:
    """Return a time as pandas writes it, `0 days 00:00:01.500000`."""
    whole, millionths = divmod(round(1e6 * seconds), 1_000_000)
    return f"{whole // 86_400} days {time.strftime('%H:%M:%S', time.gmtime(whole))}.{millionths:06d}"


def audformat(
    predictions: Iterable[Prediction],
    folder: Path,
    classes: Sequence[str],
    dimensions: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> None:
    """Write predictions as an audformat database: `db.yaml` and `db.predictions.csv`, a row for each segment.

    A recording without segments has one row, with the reason why it was rejected. Files are absolute paths.
    Source: audEERING, "audformat" (audeering.github.io/audformat), header and segmented tables.

    Args:
        classes: The classes of the main task, of which a recording without speech has no probabilities.
        dimensions: The numbers that the tasks predict.
        tasks: The other tasks, whose labels of the recording each of its rows repeats.

    Raises:
        ManifestError: There are no predictions, or the folder contains another database.
    """
    header = folder / "db.yaml"
    if header.exists() and not header.read_text(encoding="utf-8", errors="replace").startswith(_DATABASE):
        raise ManifestError("contains another database", where=folder, remedy="Name a new folder.")
    rows: dict[tuple[str, ...], list[object]] = {}
    first: Prediction | None = None
    for prediction in predictions:
        first = first or prediction
        for segment in prediction.segments or (prediction,):
            start, end = _timedelta(segment.start_s), _timedelta(segment.end_s)
            label = segment.label if segment.value is None else segment.value
            numbers = [segment.probabilities.get(name) for name in classes]
            numbers += [segment.dimensions.get(name) for name in dimensions]
            others = [prediction.tasks[name].label if name in prediction.tasks else None for name in tasks]
            rows.setdefault(
                (os.path.abspath(prediction.file), start, end),
                [label, segment.confidence, segment.rejected, *numbers, *others],
            )
    if first is None:
        raise ManifestError("nothing was predicted", where=folder, remedy="Check the recordings.")
    share = {"dtype": "float", "minimum": 0.0, "maximum": 1.0}
    labels = {"dtype": "str", "labels": list(classes)}
    schemes: dict[str, object] = {
        first.task: labels if classes else {"dtype": "float" if first.task in dimensions else "str"}
    }
    schemes |= {"confidence": share, "rejected": {"dtype": "str"}, "number": {"dtype": "float"}}
    schemes |= {name: {"dtype": "str"} for name in tasks}
    scheme_of = {first.task: first.task, "confidence": "confidence", "rejected": "rejected"}
    scheme_of |= {f"probability of {name}": "confidence" for name in classes}
    scheme_of |= {f"{name} (number)": "number" for name in dimensions}
    scheme_of |= {name: name for name in tasks}
    columns = {name: {"scheme_id": scheme} for name, scheme in scheme_of.items()}
    about = {
        "description": f"Predictions of the model {first.model.get('name')} ({first.model.get('sha256')}).",
        "source": "serein",
        "usage": "other",
        "schemes": schemes,
        "tables": {"predictions": {"type": "segmented", "columns": columns}},
    }
    page = io.StringIO(newline="")
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(["file", "start", "end", *columns])
    writer.writerows([*place, *("" if value is None else value for value in values)] for place, values in rows.items())
    write_text(folder / "db.predictions.csv", page.getvalue())
    write_text(header, _DATABASE + yaml.safe_dump(about, sort_keys=False, allow_unicode=True))


def msp_challenge(predictions: Iterable[Prediction]) -> str:
    """Return the submission file of the MSP-Podcast challenges: a line for each file of Test3.

    Columns are those of the corpus's own tables: `FileName,EmoClass` for emotions, one letter each; for models of
    arousal, valence and dominance `FileName,EmoAct,EmoVal,EmoDom`, from 1 to 7. Source: the challenge's baseline
    (github.com/msplabresearch/MSP-Podcast_Challenge, eval_dim_ser_test3.py).

    Raises:
        ModelError: The model predicts a class that the challenge does not have, or only some of the attributes.
        AudioError: A file has no prediction, and the challenge requires one for each.
    """
    from serein.corpora.msp_podcast import EMOTIONS

    letters = {name: letter for letter, name in EMOTIONS.items()}
    lines: list[str] = []
    for prediction in predictions:
        name = Path(prediction.file).name
        found = prediction.dimensions  # from 0 to 1
        attributes = [1 + 6 * found[name] for name in ("arousal", "valence", "dominance") if name in found]
        if foreign := [label for label in prediction.probabilities if label not in letters]:
            raise ModelError(
                f"predicts the class '{foreign[0]}', but the challenge has {', '.join(letters)}",
                where=prediction.model.get("name"),
                remedy="Name a model of these classes, or merge the others with labels.merge before training.",
            )
        if prediction.probabilities:
            most = max(prediction.probabilities, key=lambda label: prediction.probabilities[label])
            lines.append(f"{name},{letters[most]}")
        elif len(attributes) == 3:
            lines.append(",".join([name, *(f"{value:.4f}" for value in attributes)]))
        elif not prediction.rejected:
            raise ModelError(
                f"predicts {prediction.task}, but the challenge has emotions, or the three attributes together",
                where=prediction.model.get("name"),
                remedy="Name a model of emotions, or of arousal, valence and dominance.",
            )
        else:
            raise AudioError(
                f"has no prediction ({prediction.rejected}), and the challenge needs one",
                where=prediction.file,
                remedy="Predict whole files: --segments never.",
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


def _shown(segment: Segment) -> str:
    """Return a segment's prediction on one line: label, confidence and dimensions."""
    numbers = numbers_text(segment.dimensions) if segment.label else ""  # without a label, they are its text
    return " ".join(filter(None, (segment.text, _confidence(segment), numbers)))


def _confidence(segment: Segment) -> str:
    return "" if segment.confidence is None else f"{segment.confidence:.2f}"


WRITERS: dict[str, Callable[[Prediction], str]] = {"textgrid": textgrid, "audacity": audacity, "srt": srt}
SUFFIXES = {"textgrid": ".TextGrid", "audacity": ".txt", "srt": ".srt"}
_DATABASE = "name: serein-predictions\n"


EMBEDDING_SUFFIXES = (".safetensors", ".npz", ".npy", ".parquet", ".csv")


def write_embeddings(predictions: Sequence[Prediction], path: Path, about: Mapping[str, str]) -> None:
    """Write the embeddings of predictions, at least one, with ids and times, in the format of the suffix.

    Args:
        about: Additional metadata: task and model; stored in safetensors, `.npz` and Parquet.

    Raises:
        RunError: The suffix is not that of a format.
        MissingExtraError: The format is Parquet, and pyarrow is not installed.
    """
    require_suffix(path, EMBEDDING_SUFFIXES)
    columns = {
        "id": np.array([each.id or each.file for each in predictions]),
        "file": np.array([each.file for each in predictions]),
        "start_s": np.array([each.start_s for each in predictions], np.float64),
        "end_s": np.array([each.end_s for each in predictions], np.float64),
    }
    times_s: dict[str, Any] = {key: columns[key] for key in ("start_s", "end_s")}
    vectors = np.stack([each.embedding for each in predictions])
    with replacing(path) as partial:
        match path.suffix.lower():
            case ".safetensors":
                from safetensors.numpy import save_file

                names = {f"{key}s": json.dumps(columns[key].tolist(), ensure_ascii=False) for key in ("id", "file")}
                save_file({"embeddings": vectors, **times_s}, partial, metadata={**about, **names})
            case ".npz":
                arrays: dict[str, Any] = {f"{key}s": columns[key] for key in ("id", "file")}  # `file` is savez's own
                arrays |= {key: np.array(value) for key, value in about.items()}
                with open(partial, "wb") as file:  # given a name, savez would change the suffix
                    np.savez(file, embeddings=vectors, **times_s, **arrays)
            case ".npy":
                kinds = [(key, values.dtype) for key, values in columns.items()]
                table = np.empty(len(vectors), np.dtype([*kinds, ("embedding", vectors.dtype, vectors.shape[1:])]))
                for key, values in {**columns, "embedding": vectors}.items():
                    table[key] = values
                with open(partial, "wb") as file:
                    np.save(file, table, allow_pickle=False)
            case ".csv":
                with open(partial, "w", encoding="utf-8", newline="") as page:
                    writer = csv.writer(page)
                    writer.writerow([*columns, *(str(number) for number in range(vectors.shape[1]))])
                    rows = zip(*(values.tolist() for values in columns.values()), vectors, strict=True)
                    for *known, vector in rows:
                        writer.writerow([*known, *(f"{value:.9g}" for value in vector)])  # nine digits: a float32
            case ".parquet":
                pyarrow = imported("pyarrow", "hub")
                from pyarrow import parquet

                lists = {key: values.tolist() for key, values in columns.items()}
                written = pyarrow.table({**lists, "embedding": list(vectors)})
                parquet.write_table(written.replace_schema_metadata(dict(about)), partial)


def error_dict(source: Source, error: SereinError) -> dict[str, Any]:
    """Return the JSON in place of a prediction for a recording that cannot be read, see docs/formats.md."""
    utterance = utterance_of(source)
    id = utterance.id if utterance.id != utterance.audio else None
    return {"file": utterance.audio, "id": id, "error": error.to_dict()}


_START = b'{"file": '


class PredictionFile(AbstractContextManager["PredictionFile"]):
    """A prediction file that can be continued.

    Each line is a prediction, or the error of a recording that could not be read; those are tried again.

    Args:
        path: Created if it does not exist.
        fingerprint: Identifies the model and the options; written into every line.

    Raises:
        RunError: It is not a prediction file, it is of another model or other options, or another process writes to it.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file: IO[bytes] = open(path, "a+b")  # noqa: SIM115  (closed by __exit__)
        self._done: set[tuple[Any, ...]] = set()  # id (or path), absolute path and start
        self._errors: dict[tuple[Any, ...], dict[str, Any]] = {}  # of id (or path) and absolute path
        try:
            lock(self.file, path, "another process writes to it")
            # read what is done; cut off an incomplete last line, left by a killed process
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
                    location = content.get("path") or os.path.abspath(content["file"])
                    name, fingerprint = (content["id"] or location, location), content["fingerprint"]
                    error = content.get("error")
                    if error is None:
                        self._done.add((*name, content["start_s"]))
                    else:
                        self._errors[name] = error
                except (ValueError, KeyError, TypeError):
                    raise foreign from None
                if fingerprint != self.fingerprint:
                    raise RunError("was predicted by another model or with other options", where=where, remedy=remedy)
                place += len(line)
            self.file.truncate(place)
            self.file.seek(0, os.SEEK_END)
        except BaseException:
            self.file.close()
            raise

    def has(self, source: Source) -> bool:
        """Return whether the file has a prediction of a recording; never for a pipe, which may bring another one."""
        utterance = utterance_of(source)
        if isinstance(source, Upload) or Path(utterance.audio).is_fifo():
            return False
        return (*_known_by(utterance), round(utterance.start_s, 3)) in self._done

    def write(self, source: Source, result: Prediction | SereinError) -> None:
        """Append a prediction, or an error unless the file already contains the same one.

        Once this returns, other processes can read it.
        """
        name = _known_by(utterance_of(source))
        if isinstance(result, SereinError) and result.to_dict() == self._errors.get(name):
            return
        content = result.to_dict() if isinstance(result, Prediction) else error_dict(source, result)
        location = {} if isinstance(source, Upload) else {"path": name[1]}
        line = {**content, **location, "fingerprint": self.fingerprint}
        self.file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self.file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


def _known_by(utterance: Utterance) -> tuple[str, str]:
    """Return the id of an utterance, or the path of a recording, and the path; both paths are absolute."""
    path = os.path.abspath(utterance.audio)
    return (path if utterance.id == utterance.audio else utterance.id), path
