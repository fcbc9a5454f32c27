"""The heads, one for each task: layer selection, projection, pooling and output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from serein.choices import choose
from serein.errors import RecipeError
from serein.models.blocks import AttentionBlock, CosineClassifier, GradientReversal, MeanPooling, Pooling, TensorFusion
from serein.models.conditioning import NO_CONDITIONS, ConditionedVector, Conditions
from serein.models.hidden_states import HiddenStates
from serein.recipe import Head, LayerChoice, Pooled


@dataclass(frozen=True)
class HeadOutput:
    """The output of a task's head for a batch of clips.

    Attributes:
        outputs: (member, batch, class) unnormalised scores, or (member, batch, feature), of every member.
        embedding: (batch, feature), the input vector of the output layer, concatenated over all members. For word
            vectors, the output itself.
        puts_out: The kind of the outputs: `scores` of classes, a `vector`, or plain `numbers`.
    """

    outputs: torch.Tensor
    embedding: torch.Tensor
    puts_out: str = "scores"

    @property
    def output(self) -> torch.Tensor:
        """(batch, class) scores whose softmax is the mean of the members' probabilities (Lakshminarayanan 2017).

        For vectors and numbers, the mean, (batch, feature).
        """
        if len(self.outputs) == 1:
            return self.outputs[0]
        if self.puts_out != "scores":
            return self.outputs.mean(dim=0)
        return self.outputs.log_softmax(dim=-1).logsumexp(dim=0)


def combine_members(head_outputs: Sequence[HeadOutput]) -> HeadOutput:
    """Combine the outputs of ensemble members."""
    if len(head_outputs) == 1:
        return head_outputs[0]
    outputs, puts_out = torch.cat([r.outputs for r in head_outputs]), head_outputs[0].puts_out
    if puts_out == "vector":
        return HeadOutput(outputs, outputs.mean(dim=0), puts_out)
    return HeadOutput(outputs, torch.cat([r.embedding for r in head_outputs], dim=1), puts_out)


class LayerSelection(nn.Module):
    """Select a hidden layer, concatenate several, or learn a weighted sum of all (Yang 2021, SUPERB).

    Args:
        selection: `last`: the final output of the model; the number of a layer (0 is the input of the first transformer
            layer); several of these, whose features are concatenated (gao2023's skip connection); `weighted`: weighted
            by a softmax; or `weighted-free`: weighted by any weights, initially the mean (diatlova2024, as printed).
        sizes: Feature size of each layer.

    Attributes:
        size: Features of a frame.
        layers: Names of the layers that are read: `last`, or numbers; `None` for all.

    Raises:
        RecipeError: There is no such layer, or the layers to sum differ in size.
    """

    def __init__(self, selection: LayerChoice, sizes: tuple[int, ...]) -> None:
        super().__init__()
        last = len(sizes) - 1
        chosen: tuple[str | int, ...] = selection if isinstance(selection, tuple) else (selection,)
        for layer in chosen:
            if isinstance(layer, int) and not 0 <= layer <= last:
                raise RecipeError(
                    f"there is no hidden layer {layer}, the model has 0 to {last}",
                    where="layer",
                    remedy="Choose among these.",
                )
        is_sum = selection in ("weighted", "weighted-free")
        if is_sum and len(set(sizes)) > 1:
            raise RecipeError(f"layers of sizes {sizes} cannot be summed", where="layer", remedy="Select one layer.")
        self.chosen = chosen
        self.layers = None if is_sum else tuple(str(layer) for layer in chosen)
        self.size = sum(sizes[layer] if isinstance(layer, int) else sizes[last] for layer in chosen)
        self.is_free = selection == "weighted-free"
        start = torch.full((len(sizes),), 1 / len(sizes)) if self.is_free else torch.zeros(len(sizes))
        self.weights = nn.Parameter(start) if is_sum else None

    def forward(self, hidden: HiddenStates) -> torch.Tensor:
        """Return (batch, frame, feature)."""
        if self.weights is None:
            layers = [hidden.layers[layer] if isinstance(layer, int) else hidden.last for layer in self.chosen]
            return layers[0] if len(layers) == 1 else torch.cat(layers, dim=-1)
        weights = self.weights if self.is_free else self.weights.softmax(dim=0)
        return sum(
            (weight * layer for weight, layer in zip(weights, hidden.layers, strict=True)), start=torch.zeros(())
        )


class VectorNorm(nn.BatchNorm1d):
    """Batch norm that normalises a single vector by the running statistics, since it has no deviation of its own."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Normalise (batch, feature) or (batch, feature, frame)."""
        if vectors.numel() > self.num_features:
            return super().forward(vectors)
        return F.batch_norm(vectors, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class PooledHead(nn.Module):
    """Layer -> (projection) -> (attention) -> pooling -> (fusion) -> (projection) -> (conditioning) -> output.

    Args:
        options: The task's part of a recipe.
        sizes: Feature size of each hidden layer.
        num_outputs: Number of classes, or of features of a word vector.
        text_size: Features of a sentence vector, for conditioning on the text.
        input_sizes: Task -> features of its vector, for the inputs of the fusion.

    Raises:
        RecipeError: The parts do not fit.
    """

    def __init__(
        self,
        options: Pooled,
        sizes: tuple[int, ...],
        num_outputs: int,
        text_size: int = 0,
        input_sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.layer_selection = LayerSelection(options.layer, sizes)
        reversal = options.gradient_reversal
        self.gradient_reversal = nn.Identity() if reversal is None else GradientReversal(reversal)
        projections = {options.projection_at: options.projection}
        self.frame_projection, size = _projection(self.layer_selection.size, projections.get("frames"), options)
        attention = options.attention
        self.blocks = nn.ModuleList(
            [AttentionBlock(size, attention.heads, attention.dropout) for _ in range(attention.blocks)]
            if attention is not None
            else []
        )
        self.pooling: Pooling = choose("pooling", options.pooling)(size)
        self.branch, self.fusion_inputs = options.branch, options.fusion_inputs
        self.fusion = None
        if options.fusion is not None:
            for name in options.fusion.inputs:
                if (joined := (input_sizes or {})[name]) != self.pooling.size:
                    raise RecipeError(
                        f"the vector of '{name}' has {joined} features, but the fusion needs {self.pooling.size}",
                        where="fusion.inputs",
                        remedy="Give both the same size, by encoder.size or a projection.",
                    )
            num_own, num_inputs = len(self.blocks) or 1, len(options.fusion.inputs)
            self.fusion = TensorFusion(num_own, self.pooling.size, num_inputs, options.fusion.init)
        norms = [VectorNorm(self.pooling.size)] if options.batch_norm else []
        projection, size = _projection(self.pooling.size, projections.get("pooled"), options)
        self.projection = nn.Sequential(*norms, *projection)
        conditioning = options.conditioning
        self.conditioning = None if conditioning is None else ConditionedVector(conditioning, size, text_size)
        layers: list[nn.Module] = []
        for width in options.hidden:
            own = [nn.Linear(size, width), nn.ReLU()]
            dropout = [nn.Dropout(options.dropout)]
            layers += [*own, *dropout] if options.dropout_at == "hidden" else [*dropout, *own]
            size = width
        self.layers = nn.Sequential(*layers)
        self.size = size
        self.dropout = nn.Dropout(0.0 if options.dropout_at == "hidden" else options.dropout)
        scale = options.cosine_scale
        self.output = nn.Linear(size, num_outputs) if scale is None else CosineClassifier(size, num_outputs, scale)
        if num_raters := getattr(options, "num_raters", 0):
            self.output = RaterOutput(size, num_outputs, num_raters)
        self.puts_out = options.puts_out

    @property
    def reads_means(self) -> bool:
        """Whether it reads only a clip's mean over time, so that a single frame with that mean gives the same."""
        return isinstance(self.pooling, MeanPooling) and not len(self.frame_projection) and not len(self.blocks)

    def forward(
        self, hidden: HiddenStates, conditions: Conditions = NO_CONDITIONS, inputs: Sequence[torch.Tensor] = ()
    ) -> HeadOutput:
        """Read hidden layers.

        Args:
            conditions: Conditions of the clips; missing ones are unknown.
            inputs: (batch, feature) vectors of the tasks in `fusion_inputs`, in their order; or none.
        """
        frames, is_frame = self.frame_projection(self.gradient_reversal(self.layer_selection(hidden))), hidden.is_frame
        own = [self.pooling(block(frames, is_frame), is_frame) for block in self.blocks]
        own = own or [self.pooling(frames, is_frame)]
        vector = self.projection(own[0] if self.fusion is None else self.fusion(own, inputs))
        if self.conditioning is not None:
            vector = self.conditioning(vector, conditions)
        embedding = self.layers(vector)
        output = self.output(self.dropout(embedding)).float()
        return HeadOutput(output[None], output if self.puts_out == "vector" else embedding.float(), self.puts_out)


class RaterOutput(nn.Linear):
    """A linear layer for the average rater, and a vector of logits for each rater, which is added to its output.

    AART (Mokhberian et al. 2024, arXiv 2311.09743) adds an annotator embedding to that of the text, then normalises and
    classifies; without the norm in between, the embedding is equivalent to a vector of logits.
    """

    def __init__(self, size: int, num_outputs: int, num_raters: int) -> None:
        super().__init__(size, num_outputs)
        self.raters = nn.Parameter(torch.zeros(num_raters, num_outputs))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return (batch, class) logits of the average rater; in training, followed by those of every rater."""
        logits = super().forward(vectors)
        if not self.training:
            return logits
        leaning = logits[:, None] + (self.raters - self.raters.mean(dim=0))
        return torch.cat([logits, leaning.flatten(1)], dim=1)


class FrameHead(nn.Module):
    """Layer -> one linear layer on every frame (gao2023, section 2.2).

    Args:
        options: The task's part of a recipe.
        sizes: Feature size of each hidden layer.
        num_outputs: Number of symbols.
    """

    def __init__(
        self,
        options: Head,
        sizes: tuple[int, ...],
        num_outputs: int,
        text_size: int = 0,
        input_sizes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.branch, self.fusion_inputs = options.branch, options.fusion_inputs
        self.layer_selection = LayerSelection(options.layer, sizes)
        reversal = options.gradient_reversal
        self.gradient_reversal = nn.Identity() if reversal is None else GradientReversal(reversal)
        self.dropout = nn.Dropout(options.dropout)
        self.size = self.layer_selection.size
        self.output = nn.Linear(self.size, num_outputs)

    def forward(
        self, hidden: HiddenStates, conditions: Conditions = NO_CONDITIONS, inputs: Sequence[torch.Tensor] = ()
    ) -> HeadOutput:
        """Read hidden layers; a frame head ignores conditions and fusion inputs.

        Returns:
            Outputs (1, batch, frame, symbol + 1): the scores, followed by 1 for real frames and 0 for padding; the
            embedding is the mean frame.
        """
        frames = self.gradient_reversal(self.layer_selection(hidden))
        is_frame = hidden.is_frame[..., None].float()
        scores = self.output(self.dropout(frames)).float()
        embedding = (frames.float() * is_frame).sum(dim=1) / is_frame.sum(dim=1)
        return HeadOutput(torch.cat([scores, is_frame], dim=-1)[None], embedding)


TaskHead = PooledHead | FrameHead


def _projection(size: int, projected: int | None, options: Pooled) -> tuple[nn.Sequential, int]:
    """Return the layers of a projection, none if `projected` is `None`, and the features of their output."""
    if projected is None:
        return nn.Sequential(), size
    layers: list[nn.Module] = [nn.Linear(size, projected)]
    if options.projection_kind == "relu-linear":
        layers.insert(0, nn.ReLU())
    if options.projection_kind == "block":
        layers += [nn.LayerNorm(projected), nn.ReLU(), nn.Dropout(options.dropout)]
    return nn.Sequential(*layers), projected


HEADS: dict[str, type[Any]] = {"clips": PooledHead, "frames": FrameHead}
