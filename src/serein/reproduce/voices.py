"""Speaker verification of a table's rows: equal error rates next to the identification scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serein.evaluation.run_voices import FoldVerification, RunVerification, run_verification
from serein.reproduce.comparison import ExtraTable
from serein.reproduce.table import Row

_HEADINGS = ["equal error rate", "over folds", "misses at dev's threshold", "false alarms there"]


def verification_tables(rows: Sequence[tuple[Row, Sequence[Path]]]) -> list[ExtraTable]:
    """Return a table of the rows whose main task is `speaker`, or no table.

    Args:
        rows: Each with its run folders, one per seed.
    """
    measured = [(row, [found for place in places if (found := run_verification(place))]) for row, places in rows]
    measured = [(row, runs) for row, runs in measured if runs]
    if not measured:
        return []
    pairs = sorted({unit.num_same + unit.num_different for _, runs in measured for run in runs for unit in run.units})
    title = f"Speaker verification, in per cent: {' or '.join(map(str, pairs))} pairs of test clips in a fold"
    return [ExtraTable(title, ["row", *_HEADINGS], [[row.title, *_cells(runs)] for row, runs in measured])]


def _cells(runs: Sequence[RunVerification]) -> list[str]:
    """Return means over folds and seeds; the deviation is over folds, of the mean over seeds."""
    units = [unit for run in runs for unit in run.units]
    folds = [[unit.equal_error_rate for unit in units if unit.fold == name] for name in {unit.fold for unit in units}]
    means = [float(np.mean(rates)) for rates in folds]
    spread = f"± {np.std(means, ddof=1):.1f}" if len(means) > 1 else "–"
    return [f"{np.mean(means):.1f}", spread, _mean(units, "misses"), _mean(units, "false_alarms")]


def _mean(units: Sequence[FoldVerification], name: str) -> str:
    values = [value for unit in units if (value := getattr(unit, name)) is not None]
    return f"{np.mean(values):.1f}" if values else "–"
