"""Robustness to changed recordings: scores under each condition compared with those of the unchanged recordings."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from serein.data.conditions import CONDITIONS
from serein.data.files import require_suffix, write_text
from serein.data.manifest import Utterance
from serein.errors import ManifestError, RunError
from serein.evaluation.intervals import (
    Bounds,
    bootstrap_intervals,
    interval_text,
    paired_difference,
    point_scores,
    resampling_units,
)
from serein.evaluation.plots import LINE, MUTED, PAGE_WIDTH_IN, RIGHT, WRONG, new_figure
from serein.evaluation.predictions import REJECTED, EvalPrediction, among, class_names, code
from serein.evaluation.scores import classes_of_corpus
from serein.evaluation.tables import markdown_table
from serein.metrics import mean_of_known

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

CLEAN = "clean"  # the unchanged recordings
_TITLES = ("condition", "UA", "vs clean, points", "changed", "mostly to", "rejected", "clips")


@dataclass(frozen=True)
class ConditionScore:
    """Scores under one condition, in per cent; intervals are 95 % bootstrap intervals over speakers.

    Attributes:
        kind: `level`, `noise`, `codec`, ...
        ua: Unweighted accuracy; a rejected recording counts as wrong.
        wa: Weighted accuracy.
        difference: UA minus that of the unchanged recordings, on the same clips, in points.
        difference_interval: Interval of the paired difference.
        changed: Share of the clips whose prediction differs from that for the unchanged recording.
        mostly_to: The most frequent new prediction of changed clips, and its count.
        rejected: Share of the clips that are rejected.
    """

    name: str
    kind: str
    ua: float
    ua_interval: Bounds | None
    wa: float
    wa_interval: Bounds | None
    difference: float
    difference_interval: Bounds | None
    changed: float
    changed_interval: Bounds | None
    mostly_to: tuple[str, int] | None
    rejected: float
    num_utterances: int

    def cells(self) -> tuple[str, ...]:
        """Return the cells of its row in a table, in the order of the titles."""
        mostly = "" if self.mostly_to is None else f"{self.mostly_to[0]} ({self.mostly_to[1]})"
        compared: tuple[str, ...] = (
            f"{self.difference:+.1f} {interval_text(self.difference_interval, '+.1f')}".rstrip(),
            f"{self.changed:.1f} % {interval_text(self.changed_interval)}".rstrip(),
            mostly,
        )
        if self.name == CLEAN:
            compared = ("", "", "")
        ua = f"{self.ua:.1f} {interval_text(self.ua_interval)}".rstrip()
        return (self.name, ua, *compared, f"{self.rejected:.1f} %", str(self.num_utterances))


@dataclass(frozen=True)
class Robustness:
    """A system's scores under every condition, the unchanged recordings first.

    Attributes:
        model: The system; empty if only its predictions are known.
        classes: The classes that may be predicted.
        resampled: The units that the bootstrap drew, for example "24 speakers".
        skipped: Condition -> its missing requirement.
        notes: Caveats for readers of the scores.
    """

    model: str
    classes: tuple[str, ...]
    resampled: str
    conditions: tuple[ConditionScore, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> ConditionScore:
        """Return the scores under a condition."""
        return next(each for each in self.conditions if each.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; scores in per cent, differences in points."""
        return {**asdict(self), "conditions": [asdict(each) for each in self.conditions]}

    @property
    def remarks(self) -> tuple[str, ...]:
        """The lines below a table: intervals, notes, skipped conditions."""
        which = "95 %" if any(each.ua_interval is not None for each in self.conditions) else "No"
        kept = [f"{which} intervals over {self.resampled}; 'changed' counts a rejection as a prediction."]
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.skipped.items():
            by_reason.setdefault(reason, []).append(name)
        skipped = [f"Skipped for lack of {reason}: {', '.join(names)}." for reason, names in by_reason.items()]
        return (*kept, *self.notes, *skipped)

    def table(self) -> Table:
        """Return a table to print."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title="Robustness", caption=Text("\n".join(self.remarks)), caption_justify="left")
        for number, title in enumerate(_TITLES):
            table.add_column(title, justify="right" if number in (1, 2, 3, 5, 6) else "left", no_wrap=True)
        for before, each in zip((None, *self.conditions), self.conditions, strict=False):
            if before is not None and before.kind != each.kind:
                table.add_section()
            table.add_row(*map(Text, each.cells()))
        return table

    def markdown(self) -> str:
        """Return the table as Markdown, followed by its remarks."""
        table = markdown_table(_TITLES, (each.cells() for each in self.conditions))
        return "\n".join([table, "", *(f"- {remark}" for remark in self.remarks), ""])

    def csv(self) -> str:
        """Return the numbers as CSV, with a row for each condition."""
        text = io.StringIO()
        names = ("ua", "wa", "difference", "changed")
        bounds = [f"{name}_{end}" for name in names for end in ("low", "high")]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["condition", "kind", *names, *bounds, "rejected", "num_utterances"])
        for each in self.conditions:
            values = [getattr(each, name) for name in names]
            values += [bound for name in names for bound in getattr(each, f"{name}_interval") or ("", "")]
            cells = [f"{value:.3f}" if isinstance(value, float) else value for value in (*values, each.rejected)]
            writer.writerow([each.name, each.kind, *cells, each.num_utterances])
        return text.getvalue()

    def write(self, path: str | Path) -> None:
        """Write it in the format of the suffix: .json, .md or .csv.

        Raises:
            RunError: The suffix is none of these.
        """
        write: dict[str, Callable[[], str]] = {
            ".json": lambda: json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n",
            ".md": self.markdown,
            ".csv": self.csv,
        }
        require_suffix(path, tuple(write))
        write_text(Path(path), write[Path(path).suffix.lower()]())

    def picture(self) -> Figure:
        """Draw UA under each condition with its interval, a line at that of the unchanged recordings, and changes."""
        changed = [each for each in self.conditions if each.name != CLEAN]
        rows, clean = range(len(changed)), self[CLEAN]
        with new_figure((PAGE_WIDTH_IN, 1.0 + 0.22 * max(len(changed), 2))) as figure:
            left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
            if clean.ua_interval is not None:
                left.axvspan(*clean.ua_interval, color=LINE, alpha=0.6, linewidth=0)
            left.axvline(clean.ua, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
            for row, each in enumerate(changed):
                is_lower = each.difference_interval is not None and each.difference_interval[1] < 0
                colour = WRONG if is_lower else RIGHT
                if each.ua_interval is not None:
                    left.hlines(row, *each.ua_interval, color=colour, linewidth=1.2, alpha=0.6)
                left.plot(each.ua, row, marker="o", markersize=4.5, color=colour)
            left.set_title(f"UA, per cent; unchanged {clean.ua:.1f}")
            right.barh(rows, [each.changed for each in changed], color=RIGHT, alpha=0.5, linewidth=0, label="changed")
            right.barh(rows, [each.rejected for each in changed], color=WRONG, height=0.35, label="rejected")
            right.set(xlim=(0, 100))
            right.set_title("Changed predictions, per cent")
            right.legend(loc="lower right")
            left.set_yticks(rows, [each.name for each in changed])
            left.set_ylim(len(changed) - 0.4, -0.6)
            for axes in (left, right):
                axes.tick_params(length=0)
        return figure


def score_conditions(
    predictions: Mapping[str, Sequence[EvalPrediction]],
    classes: Sequence[str],
    *,
    model: str = "",
    skipped: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Robustness:
    """Score a system's predictions under each condition, and compare them with those for the unchanged recordings.

    Args:
        predictions: Condition -> a prediction for each clip; `clean` contains those for the unchanged recordings, for
            all clips. `REJECTED` stands for a rejected clip.
        classes: The classes that may be predicted.

    Raises:
        RunError: There is no `clean`, or a condition has a clip that `clean` lacks.
    """
    if CLEAN not in predictions:
        raise RunError(
            f"no predictions for the unchanged recordings; the conditions are: {', '.join(predictions)}",
            where="predictions",
            remedy=f"Add them as '{CLEAN}': --predictions {CLEAN}=FILE.",
        )
    names = [*classes, REJECTED]
    clean = {p.id: p for p in predictions[CLEAN]}
    scores, resampled = [], []
    interval_notes: dict[str, None] = {}
    for name in (CLEAN, *(name for name in predictions if name != CLEAN)):
        own = list(predictions[name])
        if strange := [p.id for p in own if p.id not in clean]:
            raise RunError(f"'{CLEAN}' has no {strange[0]}", where=name, remedy="Predict the same recordings.")
        base = [clean[p.id] for p in own]
        # the share of equal predictions is the accuracy with the clean prediction as truth
        agreeing = [replace(p, truth=before.prediction) for p, before in zip(own, base, strict=True)]
        values, bounds = [], []
        for rows in (own, agreeing):
            units = resampling_units(code(rows, names))
            values.append({key: 100 * float(mean_of_known(found)) for key, found in point_scores(units).items()})
            found_bounds, caveats = bootstrap_intervals(units, np.random.default_rng(0), classes=names)
            bounds.append(found_bounds)
            interval_notes |= dict.fromkeys(caveats if rows is own else ())
        found = paired_difference(own, base, names, rng=np.random.default_rng(0))["ua"]
        ua, wa, same = bounds[0]["ua"], bounds[0]["wa"], bounds[1]["wa"]
        became = Counter(p.prediction for p, before in zip(own, base, strict=True) if p.prediction != before.prediction)
        scores.append(
            ConditionScore(
                name=name,
                kind=CONDITIONS[name].kind if name in CONDITIONS else name,
                ua=values[0]["ua"],
                ua_interval=ua and (100 * ua[0], 100 * ua[1]),
                wa=values[0]["wa"],
                wa_interval=wa and (100 * wa[0], 100 * wa[1]),
                difference=100 * found.difference,
                difference_interval=found.interval and (100 * found.interval[0], 100 * found.interval[1]),
                changed=100 - values[1]["wa"],
                changed_interval=same and (100 - 100 * same[1], 100 - 100 * same[0]),
                mostly_to=became.most_common(1)[0] if became else None,
                rejected=100 * sum(p.prediction == REJECTED for p in own) / len(own),
                num_utterances=len(own),
            )
        )
        resampled.append(found.resampled)
    return Robustness(
        model, tuple(classes), resampled[0], tuple(scores), dict(skipped or {}), (*notes, *interval_notes)
    )


def read_system_predictions(path: str | Path, utterances: Sequence[Utterance]) -> list[EvalPrediction]:
    """Read the predictions of any system for the recordings of a manifest; truth and speakers come from the manifest.

    Args:
        path: JSON Lines: `id`, and `prediction` or `label`, which is null for a rejected recording; `probabilities` if
            there are any. The output of `serein predict MANIFEST` has this form.
        utterances: Those that must have a prediction; predictions for others are ignored.

    Raises:
        RunError: The file cannot be read, a line does not have this form, or an utterance has no prediction.
    """
    remedy = 'Write one JSON object per line, such as {"id": "a1", "prediction": "calm"}.'
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot be read ({error})", where=path, remedy="Check the path.") from None
    rows: dict[str, tuple[str | None, dict[str, float] | None]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            label = row["prediction"] if "prediction" in row else row["label"]
            probabilities = {str(key): float(value) for key, value in (row.get("probabilities") or {}).items()}
            rows[str(row["id"])] = (None if label is None else str(label), probabilities or None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"is not a prediction ({error!r})", where=f"{path}:{number}", remedy=remedy) from None
    if lacking := [u.id for u in utterances if u.id not in rows]:
        what = f"{len(lacking)} of {len(utterances)} utterances have no prediction, for example {lacking[0]}"
        raise RunError(what, where=path, remedy="Add a prediction for every utterance of the manifest, by its id.")
    return [
        EvalPrediction.of(
            u,
            u.emotion,
            REJECTED if rows[u.id][0] is None else str(rows[u.id][0]),
            None if rows[u.id][0] is None else rows[u.id][1],
        )
        for u in utterances
    ]


def score_system_predictions(
    files: Mapping[str, str | Path],
    utterances: Sequence[Utterance],
    classes: Literal["model", "corpus"] = "model",
) -> Robustness:
    """Score another system's predictions for the recordings that `serein robustness --write-audio` wrote.

    Utterances without an emotion, or with a class that no probabilities contain, are left out.

    Args:
        files: Condition -> see `read_system_predictions`; `clean` for the unchanged recordings.
        classes: The classes that may be predicted: all of the system's, or only those of the utterances, chosen by the
            probabilities.

    Raises:
        ManifestError: No utterance has an emotion.
        RunError: A file is wrong, there is no `clean`, it predicts none of the manifest's classes, or there are no
            probabilities to choose by.
    """
    labelled = [u for u in utterances if u.emotion is not None and u.copy_of is None]
    if not labelled:
        raise ManifestError(
            "no utterance has an emotion", where="--data", remedy="Specify the manifest of the recordings."
        )
    predictions = {name: read_system_predictions(path, labelled) for name, path in files.items()}
    everything = [p for own in predictions.values() for p in own]
    known = {name for p in everything for name in p.probabilities or ()}
    truths, clean = {u.emotion for u in labelled}, {p.prediction for p in predictions.get(CLEAN, ())}
    if clean and truths.isdisjoint(clean | known):
        there = f"such as '{max(found, key=len)}'" if (found := clean - {REJECTED}) else "as every label is null"
        raise RunError(
            f"predicts none of the manifest's classes ({', '.join(sorted(map(str, truths)))}), {there}",
            where=files[CLEAN],
            remedy="Name the predictions of a system of these classes, or rename the manifest's labels with --map.",
        )
    left_out = Counter(p.truth for p in predictions.get(CLEAN, ()) if known and p.truth not in known)
    predictions = {name: [p for p in own if p.truth not in left_out] for name, own in predictions.items()}
    names = sorted({*class_names(p for own in predictions.values() for p in own), *known} - {REJECTED})
    if classes == "corpus":
        names = list(classes_of_corpus(predictions.get(CLEAN, ()), names, where="--data"))
        predictions = {name: among(own, names) for name, own in predictions.items()}
    notes = [f"Left out because the system has no such class: {count} {name}." for name, count in left_out.items()]
    return score_conditions(predictions, names, notes=notes)
