"""The README of a model folder: what it is, what it learned from, how well it does, where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def card(name: str, task: str, classes: Sequence[str], training: Mapping[str, Any]) -> str:
    """Return the card as Markdown.

    Args:
        name: The recipe's name.
        task: What the classes are of.
        classes: What the model tells apart.
        training: What it learned from, as stored in `model.json`.
    """
    licences = "\n".join(f"- {corpus}: {text}" for corpus, text in training.get("licences", {}).items())
    scores = training.get("dev_ua")
    return f"""# {name}

A model of [serein](https://pypi.org/project/serein/): it hears speech and answers with probabilities of {
        len(classes)
    } classes of {task}:
{", ".join(classes)}.

    import serein
    model = serein.load("<this folder>")
    print(model.predict("clip.wav").label)

## Learned from

{training.get("num_utterances", "?")} utterances of {training.get("num_speakers", "?")} speakers; corpora and licences:

{licences or "- not stated"}

A model inherits the conditions of the data that it learned from.

## Scores

{
        "No dev set: its score on unseen speakers stands in the report of the run."
        if scores is None
        else f"Unweighted accuracy on its dev speakers, by which its weights were chosen: {100 * scores:.1f} %."
    }

## Limits

It was evaluated on the corpus that it learned from. Other languages, rooms, microphones and ways of speaking, above all
spontaneous ones, will score lower. It hears how speech sounds, not what a person feels: no decision about a person
should rest on it.
"""
