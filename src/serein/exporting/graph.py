"""What an exported file computes: a padded batch of waveforms in, all that the model says of it out."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from serein.checkpoint import Checkpoint
from serein.errors import ModelError
from serein.inference.runtimes import CONDITION, EMBEDDING, NUM_SAMPLES, OUTPUT, PROBABILITIES, WAVEFORMS
from serein.models.conditioning import GENDERS
from serein.models.model import SpeechModel
from serein.recipe import MAIN


class ExportGraph(nn.Module):
    """A model whose inputs and outputs have names and places.

    Args:
        checkpoint: The model; it stays as it is, a copy is taken whose adapters are merged into the weights.

    Attributes:
        tasks: Those whose outputs are in the file.
        left_out: Those whose outputs cannot be, such as words, which are searched for and not computed.
        conditions: Attribute -> features, of what is given beside the audio.

    Raises:
        ModelError: The main task cannot be exported.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        of_tasks = {name: checkpoint.tasks[name] for name in checkpoint.answered}
        self.left_out = tuple(name for name, task in of_tasks.items() if task.spec.problem == "sequence")
        self.tasks = tuple(name for name in of_tasks if name not in self.left_out)
        if checkpoint.task in self.left_out:
            raise ModelError(
                f"predicts words by its task '{checkpoint.task}'; the search for them (CTC) is no part of a file",
                where=checkpoint.folder,
                remedy="Use the model folder.",
            )
        self.values = {name: of_tasks[name].values for name in self.tasks}
        sizes = {"gender": len(GENDERS), "text": checkpoint.options.text_size}
        self.conditions = {name: sizes[name] for name in checkpoint.options.tasks.conditions}
        self.model: SpeechModel = _plain(checkpoint.model)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in the order of `forward`'s arguments."""
        return (WAVEFORMS, NUM_SAMPLES, *(CONDITION + name for name in self.conditions))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs: of each task its probabilities or numbers, its head's output, its embedding."""
        return tuple(task + kind for task in self.tasks for kind in (PROBABILITIES, OUTPUT, EMBEDDING))

    def forward(
        self, waveforms: torch.Tensor, num_samples: torch.Tensor, *conditions: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Return the outputs.

        Args:
            waveforms: (batch, sample) float32 at 16 kHz; what lies past a clip's own length is not read.
            num_samples: (batch,) long, real samples of each clip.
            conditions: (batch, feature) of each attribute, in the order of `conditions`.
        """
        hidden_states = self.model.encode(waveforms, num_samples, self.model.branches_of(self.tasks))
        known = dict(zip(self.conditions, conditions, strict=True))
        heads = self.model.decode(hidden_states, known, self.tasks)
        found: list[torch.Tensor] = []
        for task in self.tasks:
            found += [self.values[task](heads[task].output), heads[task].output, heads[task].embedding]
        return tuple(each.clone() for each in found)  # one tensor under two names would be one output


def _plain(model: SpeechModel) -> SpeechModel:
    """Return a copy on the CPU in float32, whose adapters and weight norms have become weights."""
    copied = copy.deepcopy(model).cpu().float().eval()
    for name in (MAIN, *copied.branches):
        copied.backbone_of(name).merge_adapter()
    for module in copied.modules():
        if parametrize.is_parametrized(module):  # PyTorch's own way to remove them would change the original's class
            weights = {name: getattr(module, name).detach() for name in cast(nn.ModuleDict, module.parametrizations)}
            del module._modules["parametrizations"]
            module.__class__ = type(module).__mro__[1]
            for name, weight in weights.items():
                module.register_parameter(name, nn.Parameter(weight))
    return copied
