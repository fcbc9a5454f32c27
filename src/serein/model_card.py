"""The card of a model folder: predictions, training data, scores and limits of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serein.metrics.titles import metric_of
from serein.tasks.task import Task


def card(name: str, tasks: Sequence[Task], training: Mapping[str, Any]) -> str:
    """Return the card as Markdown.

    Args:
        name: The recipe's name.
        tasks: The model's tasks, its main task first.
        training: Description of its training, as stored in `model.json`.
    """
    licences = "\n".join(f"- {corpus}: {text}" for corpus, text in training.get("licences", {}).items())
    score, monitor = training.get("dev_score"), training.get("monitor", "ua")
    languages = ", ".join(training.get("languages", [])) or "not stated"
    metric = metric_of(monitor)
    meaning = metric.meaning or metric.title
    title = f"{meaning[0].upper()}{meaning[1:]}"
    predicts = "\n\nIt also predicts ".join(task.describe() for task in tasks)
    probabilities = f"## Probabilities\n\n{training['calibration']}\n\n" if "calibration" in training else ""
    return f"""# {name}

A model of [serein](https://pypi.org/project/serein/) for recordings of speech. It predicts {predicts}

    import serein
    model = serein.load("<this folder>")
    print(model.predict("clip.wav").label)

## Training data

{training.get("num_utterances", "?")} utterances of {training.get("num_speakers", "?")} speakers; corpora and licences:

{licences or "- not stated"}

Languages: {languages}.

A model inherits the conditions of its training data.

## Scores

{
        "No dev set; the score on unseen speakers is in the report of the run."
        if score is None
        else f"{title} on its dev speakers, which its weights were selected on: {metric.shown(score)}."
    }

{probabilities}## Limits

It was evaluated on the corpus that it was trained on. Scores will be lower for other languages, rooms, microphones and
ways of speaking, above all for spontaneous speech. It recognises how speech sounds, not what a person feels: no
decision about a person should be based on it.
"""
