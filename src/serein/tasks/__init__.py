"""The tasks: their common interface, and each task with its labels, loss, decoding and scores.

`TASKS` lists every task that a recipe can choose; a user's package adds its own with `serein.register("task", ...)`.
"""

from __future__ import annotations

from serein.tasks.classes import ClassTask, DomainTask, SpeakerTask
from serein.tasks.ctc import CtcTask
from serein.tasks.dimensions import DimensionsTask, DimensionTask
from serein.tasks.task import Task
from serein.tasks.word_vectors import WordVectorTask

TASKS: dict[str, type[Task]] = {
    "emotion": ClassTask,
    "words": WordVectorTask,
    "gender": ClassTask,
    "asr": CtcTask,
    "style": ClassTask,
    "speaker": SpeakerTask,
    "corpus": DomainTask,
    "language": DomainTask,
    "arousal": DimensionTask,
    "valence": DimensionTask,
    "dominance": DimensionTask,
    "dimensions": DimensionsTask,
}
