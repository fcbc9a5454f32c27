"""The card of a model folder: what it predicts, what it learned from, how good it is, what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serein.tasks.task import Task


def card(name: str, tasks: Sequence[Task], training: Mapping[str, Any]) -> str:
    """Return the card as Markdown.

    Args:
        name: The recipe's name.
        tasks: What the model predicts, its main task first.
        training: What it learned from, as stored in `model.json`.
    """
    licences = "\n".join(f"- {corpus}: {text}" for corpus, text in training.get("licences", {}).items())
    score, monitor = training.get("dev_score"), training.get("monitor", "ua")
    languages = ", ".join(training.get("languages", [])) or "not stated"
    title = {"ua": "Unweighted accuracy", "wa": "Weighted accuracy", "macro_f1": "Macro-F1"}.get(monitor, monitor)
    is_share = monitor in ("ua", "wa", "macro_f1") or "accuracy" in monitor
    reached = "" if score is None else f"{100 * score:.1f} %" if is_share else f"{score:.3f}"
    predicts = "\n\nIt also predicts ".join(task.describe() for task in tasks)
    probabilities = f"## Probabilities\n\n{training['calibration']}\n\n" if "calibration" in training else ""
    return f"""# {name}

A model of [serein](https://pypi.org/project/serein/): it hears speech and predicts {predicts}

    import serein
    model = serein.load("<this folder>")
    print(model.predict("clip.wav").label)

## Learned from

{training.get("num_utterances", "?")} utterances of {training.get("num_speakers", "?")} speakers; corpora and licences:

{licences or "- not stated"}

Languages: {languages}.

A model inherits the conditions of the data that it learned from.

## Scores

{
        "No dev set: its score on unseen speakers stands in the report of the run."
        if score is None
        else f"{title} on its dev speakers, by which its weights were chosen: {reached}."
    }

{probabilities}## Limits

It was evaluated on the corpus that it learned from. Other languages, rooms, microphones and ways of speaking, above all
spontaneous ones, will score lower. It hears how speech sounds, not what a person feels: no decision about a person
should rest on it.
"""
