"""Classification tasks: their classes, and the mapping from utterance labels to classes."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from serein import losses, metrics
from serein.choices import choose
from serein.data.dataset import Targets
from serein.data.manifest import Rating, Utterance, is_self_evaluation, plain_label
from serein.device import sent
from serein.errors import RecipeError
from serein.metrics import DISTRIBUTION_SCORES
from serein.recipe import Category, Head, Labels, Recipe
from serein.tasks.task import Task, TaskSpec, label_of


@dataclass(frozen=True)
class ClassLabels:
    """The classes in their order, and the corpus labels that are merged into them; case and spaces are ignored.

    Attributes:
        field: The utterance field that contains the label.

    Example:
        >>> class_labels = ClassLabels(("happy", "sad"), {"excited": "happy"})
        >>> class_labels.of("excited"), class_labels.of("bored"), class_labels.of("Sad ")
        ('happy', None, 'sad')
    """

    classes: tuple[str, ...]
    merge: dict[str, str]
    field: str = "emotion"

    def of(self, word: str | None) -> str | None:
        """Return the class of a corpus label, or `None` if it has none."""
        name = self.merge.get(word or "", word)
        return name if name is None or name in self.classes else self._by_plain.get(plain_label(name))

    @cached_property
    def _by_plain(self) -> dict[str, str | None]:
        """Label in lower case -> its class; empty for speakers, whose names are case-sensitive."""
        if self.field == "speaker":
            return {}
        classes = {plain_label(name): name for name in self.classes}
        merged = {plain_label(word): classes.get(plain_label(name)) for word, name in self.merge.items()}
        return {**classes, **merged}

    def label(self, utterance: Utterance) -> str | None:
        """Return the class of an utterance, or `None` if it has none."""
        return self.of(label_of(utterance, self.field))

    def probabilities(self, utterance: Utterance) -> NDArray[np.float32]:
        """Return (class,) with 1 at the utterance's class; all zeros if it has none."""
        label = self.label(utterance)
        return np.array([name == label for name in self.classes], np.float32)


def class_labels_of(utterances: Sequence[Utterance], labels: Labels, task: str = "emotion") -> ClassLabels:
    """Return the classes of a task; for emotions, those that the recipe names, or those that occur in the utterances.

    Raises:
        RecipeError: There are fewer than two classes, or no utterance has one of them.
    """
    if task in FIXED_CLASSES or task in FOUND_CLASSES:
        found_classes = sorted({value for u in utterances if (value := label_of(u, task)) is not None})
        remedy = f"Fill in the field '{task}', or leave the task out."
        fixed = FIXED_CLASSES.get(task)
        if fixed is not None and not set(fixed) <= set(found_classes):
            what = f"the data does not have utterances of each {task}: {', '.join(fixed)}"
            raise RecipeError(what, where=f"tasks.{task}", remedy=remedy)
        if len(found_classes) < 2:
            shown = f"only '{found_classes[0]}'" if found_classes else "nothing"
            what = f"the data to learn from has {shown} in the field '{task}'"
            raise RecipeError(what, where=f"tasks.{task}", remedy=f"Two are needed: {remedy[0].lower()}{remedy[1:]}")
        return ClassLabels(fixed or tuple(found_classes), {}, task)
    merge = dict(labels.merge)
    words = [u.emotion for u in utterances if u.emotion]
    if labels.consensus == "raters":
        words = [label for u in utterances for rating in u.ratings for label in rating.labels]
    targets = {plain_label(word): name for word, name in merge.items()}
    spelt = Counter(targets.get(plain_label(word), word) for word in words)
    found: dict[str, str] = {}  # the most frequent spelling of each; in case of a tie, the one in lower case
    for name in sorted(spelt, key=lambda name: (-spelt[name], name != plain_label(name), name)):
        found.setdefault(plain_label(name), name)
    classes = labels.classes or tuple(sorted(found.values()))
    if len(classes) < 2:
        raise RecipeError(
            f"{len(classes)} emotion classes in the data",
            where="labels.classes",
            remedy="Provide at least two.",
        )
    if len({plain_label(name) for name in classes}) < len(classes):
        raise RecipeError("a class is named twice", where="labels.classes", remedy="Name each once, in one spelling.")
    absent = [name for name in classes if plain_label(name) not in found]
    if absent:
        known = ", ".join(sorted(found.values())) or "no emotion"
        raise RecipeError(
            f"no utterance is labelled {', '.join(absent)}; the data has: {known}",
            where="labels.classes",
            remedy="Name the data's own labels, or merge them with labels.merge.",
        )
    return ClassLabels(tuple(classes), merge)


SMALLEST_SUM = 1e-8
ALL_ABSENT = 0.999  # a mean of ones may round below 1
NOBODY = -1  # in place of a rater's number
RATED = (
    "consensus",
    "target",
    "raters",
    "rater_dropout",
    "rater_weight",
    "unlabelled",
)  # the options of `labels` that concern raters
FIXED_CLASSES = {"gender": ("female", "male")}
FOUND_CLASSES = ("style", "speaker", "corpus", "language")


class RatedCategory(Category):
    """A classification task with a vector of logits for each training rater.

    Attributes:
        num_raters: Number of raters; determined from the data.
    """

    num_raters: int = 0


class ClassTask(Task):
    """A classification task (emotion, gender, style, speaker, corpus, language), trained with any of `LOSSES`.

    Targets are (utterance, class): probabilities. If absent classes are masked, (utterance, class) follow with 1 at the
    classes that the utterance's corpus lacks. If `labels.target` is `distribution`, they are followed by the
    one-hot class, which is used for evaluation. If individual raters matter, the labels and number of each rater follow
    as well: (utterance, class + class + rater * class + rater), see `rated`.

    Attributes:
        class_labels: The classes, and the corpus labels that are merged into them.
        labels: The recipe's options for raters; the defaults for tasks without raters.
        raters: The raters that have a vector of logits; empty unless `labels.raters` is `each`.
    """

    Options = Category
    monitors = ("ua", "wa", "macro_f1", "js_similarity")

    def __init__(
        self, options: Category, class_labels: ClassLabels, labels: Labels | None = None, raters: Sequence[str] = ()
    ) -> None:
        self.spec = TaskSpec(class_labels.field, class_labels.field, self.problem, class_labels.classes)
        self.labels = labels if labels is not None and class_labels.field == "emotion" else Labels()
        self.raters = {name: number for number, name in enumerate(raters)}
        self.options: Category = options
        if raters:
            if options.loss == "arcface":
                remedy = "Choose another loss, or labels.raters=together."
                raise RecipeError("does not support single raters", where="tasks.emotion.loss", remedy=remedy)
            self.options = RatedCategory(**dict(options), num_raters=len(raters))
        if options.absent_classes == "mask":
            where = f"tasks.{class_labels.field}.absent_classes"
            if self.labels.target != "class":
                remedy = "Choose labels.target=class, or absent_classes=count."
                raise RecipeError("cannot mask classes in the distributions of raters", where=where, remedy=remedy)
            if "is_absent" not in inspect.signature(choose("loss", options.loss)).parameters:
                remedy = "Choose another loss, or give the function the argument 'is_absent'."
                raise RecipeError(f"the loss '{options.loss}' cannot mask classes", where=where, remedy=remedy)
        self.class_labels = class_labels
        self.num_outputs = len(class_labels.classes)
        self.class_weights: torch.Tensor | None = None

    @classmethod
    def fit(cls, name: str, options: Head, recipe: Recipe, utterances: Sequence[Utterance]) -> Self:
        """Return the task with the classes that occur in the utterances.

        Raises:
            RecipeError: There are too few classes, or the target is the raters' labels and there are none, or raters
                are to be modelled but none has a name.
        """
        class_labels = class_labels_of(utterances, recipe.labels, name)
        raters: set[str] = set()
        is_distribution = recipe.labels.target == "distribution" and class_labels.field == "emotion"
        if is_distribution and not any(rating.labels for u in utterances for rating in u.ratings):
            remedy = "Choose labels.target=class, or fill in the field 'ratings'."
            raise RecipeError("no utterance has labels of raters", where="labels.target", remedy=remedy)
        if recipe.labels.raters == "each" and class_labels.field == "emotion":
            raters = {rater_of(u, rating) for u in utterances for rating in u.ratings if rating.rater}
            if not raters:
                remedy = "Choose labels.raters=together, or fill in the field 'rater'."
                raise RecipeError("no rating names its rater", where="labels.raters", remedy=remedy)
        return cls(cast(Category, options), class_labels, recipe.labels, sorted(raters))

    @classmethod
    def from_json(cls, name: str, options: Head, description: Mapping[str, Any]) -> Self:
        """Return the task that `to_json` described."""
        class_labels = ClassLabels(tuple(description["classes"]), dict(description["merge"]), name)
        labels = Labels.model_validate(description.get("labels", {}))
        return cls(cast(Category, options), class_labels, labels, description.get("raters", ()))

    def to_json(self) -> dict[str, Any]:
        """Return the classes, the labels merged into them, and the options and names of raters."""
        rated = self.labels.model_dump(mode="json", exclude_defaults=True, include=set(RATED))
        return {
            "classes": self.class_labels.classes,
            "merge": self.class_labels.merge,
            **({"labels": rated} if rated else {}),
            **({"raters": list(self.raters)} if self.raters else {}),
        }

    def truth(self, utterance: Utterance) -> str | None:
        """Return the class of an utterance, or the most frequent class among its raters' labels."""
        if self.labels.consensus == "corpus":
            return self.class_labels.label(utterance)
        counts = self._votes(utterance).sum(axis=0)
        is_most = counts == counts.max()
        return self.spec.classes[int(is_most.argmax())] if counts.any() and is_most.sum() == 1 else None

    def has_target(self, utterance: Utterance) -> bool:
        """Return whether an utterance has a class, or has raters if `labels.unlabelled` is `keep`."""
        is_kept = self.labels.unlabelled == "keep" and len(self._votes(utterance)) > 0
        return is_kept or self.truth(utterance) is not None

    def ratings(self, utterance: Utterance) -> tuple[tuple[str, ...], ...]:
        """Return the classes that each rater gave an utterance."""
        if self.class_labels.field != "emotion":
            return ()
        return tuple(labels for _, labels in rater_labels(utterance, self.class_labels))

    def _votes(self, utterance: Utterance) -> NDArray[np.float32]:
        """Return (rater, class): how often each rater gave each class."""
        rows = [[labels.count(name) for name in self.spec.classes] for labels in self.ratings(utterance)]
        return np.array(rows, np.float32).reshape(-1, self.num_outputs)

    def targets(self, utterances: Sequence[Utterance]) -> Targets:
        """Return class probabilities, (utterance, class) or wider with raters, and which utterances have some."""
        numbers_of = {name: number for number, name in enumerate(self.spec.classes)}
        true = np.array([numbers_of.get(self.truth(u) or "", -1) for u in utterances], np.int64)
        values = np.zeros((len(true), len(numbers_of)), np.float32)
        values[np.flatnonzero(true >= 0), true[true >= 0]] = 1.0
        if self.labels.target == "class":
            is_known = values.sum(axis=1) > 0
            if self.options.absent_classes == "mask":
                values = np.concatenate([values, absent_classes(utterances, values)], axis=1)
            return Targets(values, is_known)
        votes = [self._votes(u) for u in utterances]
        targets = blended(np.stack([each.sum(axis=0) for each in votes]), values, self.labels.rater_weight)
        is_known = np.array([self.has_target(u) for u in utterances])
        parts = [targets, values]
        if self.labels.rater_dropout or self.raters:
            most = max(1, *map(len, votes))
            parts.append(np.stack([np.pad(each, ((0, most - len(each)), (0, 0))).ravel() for each in votes]))
            names = [[name for name, _ in rater_labels(u, self.class_labels)] for u in utterances]
            numbers = [[self.raters.get(name, NOBODY) for name in some] for some in names]
            parts.append(np.array([some + [NOBODY] * (most - len(some)) for some in numbers], np.float32))
        return Targets(np.concatenate(parts, axis=1).astype(np.float32), is_known)

    def rated(self, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (batch, rater, class) labels and (batch, rater) numbers from targets that contain them."""
        num_classes = self.num_outputs
        most = (truth.shape[1] - 2 * num_classes) // (num_classes + 1)
        votes = truth[:, 2 * num_classes : (2 + most) * num_classes].reshape(-1, most, num_classes)
        return votes, truth[:, (2 + most) * num_classes :]

    def prepare(self, truth: torch.Tensor) -> None:
        """Compute the class weights of the loss from the training targets, (utterance, class)."""
        if self.options.class_weights == "balanced":
            self.class_weights = losses.balanced_class_weights(truth[:, : self.num_outputs].sum(dim=0))

    def loss(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch of probabilities and logits, both (batch, class).

        Rater dropout draws from torch's generator, like any dropout.

        Args:
            output: In training, a model of single raters appends the logits of every rater: (batch, class + rater *
                class).
        """
        target = truth[:, : self.num_outputs]
        if output.shape[1] > self.num_outputs:
            return self._loss_of_raters(truth, output)
        if self.labels.rater_dropout:
            votes, _ = self.rated(truth)
            kept = votes * drawn_raters(votes.sum(dim=2) > 0, self.labels.rater_dropout)[..., None]
            classes = truth[:, self.num_outputs : 2 * self.num_outputs]
            target = blended(kept.sum(dim=1), classes, self.labels.rater_weight)
        return self._mean_loss(target, output, self._is_absent(truth))

    def _is_absent(self, truth: torch.Tensor) -> torch.Tensor | None:
        """Return (batch, class) bool: the classes to mask; of a mixed clip, those that both corpora lack."""
        return truth[:, self.num_outputs :] > ALL_ABSENT if self.options.absent_classes == "mask" else None

    def _mean_loss(
        self, target: torch.Tensor, logits: torch.Tensor, is_absent: torch.Tensor | None = None
    ) -> torch.Tensor:
        weights = None if self.class_weights is None else sent(self.class_weights, logits.device)
        own: dict[str, Any] = self.options.arcface.model_dump() if self.options.loss == "arcface" else {}
        if is_absent is not None:
            own["is_absent"] = is_absent
            target = target.masked_fill(is_absent, 0.0)  # which a teacher may have given some probability
            target = target / target.sum(dim=1, keepdim=True).clamp_min(SMALLEST_SUM)
        return losses.weighted_mean(self._losses(target, logits, weights, **own), target, weights)

    def _losses(
        self, target: torch.Tensor, logits: torch.Tensor, class_weights: torch.Tensor | None, **own: Any
    ) -> torch.Tensor:
        """Return the loss of each row of `target` and `logits`: (batch,)."""
        name = self.options.loss
        each: torch.Tensor = choose("loss", name)(target, logits, class_weights, self.options.label_smoothing, **own)
        if each.shape != target.shape[:1]:
            raise RecipeError(
                f"'{name}' returned a tensor of shape {tuple(each.shape)} for {len(target)} clips",
                where=f"tasks.{self.name}.loss",
                remedy="Return one value per clip, not their mean; see docs/extending.md.",
            )
        return each

    def _loss_of_raters(self, truth: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """Return the mean over clips of the mean loss of their raters, each with its own labels and logits.

        A rater without a vector counts as the average rater; the target of a clip without raters is its class.
        """
        logits = output[:, : self.num_outputs]
        by_rater = output[:, self.num_outputs :].reshape(len(output), len(self.raters), -1)
        votes, numbers = self.rated(truth)
        place = numbers.long().clamp_min(0)[..., None].expand(-1, -1, self.num_outputs)
        own = torch.where((numbers >= 0)[..., None], by_rater.gather(1, place), logits[:, None])
        weights = votes.sum(dim=2)
        is_rater = weights > 0
        shares = votes / (weights + ~is_rater)[..., None]
        weights = is_rater / is_rater.sum(dim=1, keepdim=True).clamp_min(1)  # clips have equal weight
        is_bare = (~is_rater.any(dim=1)).to(weights.dtype)
        targets = torch.cat([shares.flatten(0, 1), truth[:, : self.num_outputs]])  # including those of weight 0
        each_logits = torch.cat([own.flatten(0, 1), logits])
        weights = torch.cat([weights.flatten(), is_bare])
        class_weights = None if self.class_weights is None else sent(self.class_weights, logits.device)
        each = self._losses(targets, each_logits, class_weights)
        by_class = 1.0 if class_weights is None else (targets * class_weights).sum(dim=1)
        mean: torch.Tensor = (weights * each).sum() / (weights * by_class).sum()
        return mean

    def classes(self, truth: torch.Tensor) -> torch.Tensor:
        """Return the class numbers of targets, (batch,); for utterances without a class, the most probable one."""
        if self.labels.target == "class":
            return truth[:, : self.num_outputs].argmax(dim=1)
        own = truth[:, self.num_outputs : 2 * self.num_outputs]
        return torch.where(own.any(dim=1), own.argmax(dim=1), truth[:, : self.num_outputs].argmax(dim=1))

    def scores(self, truth: torch.Tensor, output: torch.Tensor) -> dict[str, float]:
        """Return the scores of a whole set, 0 to 1, and its loss, by name, from targets and logits.

        For distributions, accuracies are computed over the utterances that have a class; `js_similarity` is 1 minus the
        mean Jensen-Shannon divergence.
        """
        target, distribution = truth[:, : self.num_outputs], {}
        has_class = torch.ones(len(truth), dtype=torch.bool)
        if self.labels.target == "distribution":
            has_class = truth[:, self.num_outputs : 2 * self.num_outputs].any(dim=1)
            probabilities = output.double().softmax(dim=1)
            means = {name: float(score(target, probabilities).mean()) for name, score in DISTRIBUTION_SCORES.items()}
            distribution = {"js_similarity": 1 - means["js"], **means}
        classes, predicted = self.classes(truth)[has_class], output.argmax(dim=1)[has_class]
        scores = class_scores(classes.numpy(), predicted.numpy(), self.num_outputs)
        return {**scores, **distribution, "loss": float(self._mean_loss(target, output, self._is_absent(truth)))}

    def values(self, output: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of (batch, class) logits."""
        return output.softmax(dim=1)


class DomainTask(ClassTask):
    """The corpora or the languages of the training set; test clips may come from others.

    With `gradient_reversal`, the layers below learn to hide the domain (Ganin 2016): an adversary.
    """

    fits_on = "train"


class SpeakerTask(ClassTask):
    """The speakers of the training set (park2023)."""

    fits_on = "train"
    needs_shared_speakers = True


def class_scores(truth: np.ndarray, predictions: np.ndarray, num_classes: int) -> dict[str, float]:
    """Return every score, 0 to 1, of true and predicted class numbers, both (utterance,)."""
    confusion = metrics.confusion_matrix(truth, predictions, num_classes)
    return {name: float(score(confusion)) for name, score in metrics.SCORES.items()}


def rater_of(utterance: Utterance, rating: Rating) -> str:
    """Return the rater's name, made distinct from the same name in another corpus; empty if there is none."""
    return f"{utterance.corpus or ''}/{rating.rater}".removeprefix("/") if rating.rater else ""


def rater_labels(utterance: Utterance, class_labels: ClassLabels) -> list[tuple[str, tuple[str, ...]]]:
    """Return the name of each rater and the classes that they gave, every label as often as it was given.

    Labels that belong to no class are left out, and so are raters who gave no other labels and actors who rated
    themselves.

    Example:
        >>> ratings = (Rating(labels=("sad", "angry"), rater="r1"), Rating(labels=("bored",)), Rating(labels=("sad",)))
        >>> rated = Utterance(id="a", audio="a.wav", ratings=ratings)
        >>> rater_labels(rated, ClassLabels(("angry", "sad"), {}))
        [('r1', ('sad', 'angry')), ('', ('sad',))]
    """
    found = []
    for rating in utterance.ratings:
        if not is_self_evaluation(rating):
            classes = tuple(name for label in rating.labels if (name := class_labels.of(label)))
            if classes:
                found.append((rater_of(utterance, rating), classes))
    return found


def absent_classes(utterances: Sequence[Utterance], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (utterance, class) with 1 at the classes that no utterance of the same corpus has.

    A corpus with a single class, such as neutral read speech, lacks none: it would teach nothing otherwise.

    Args:
        values: (utterance, class) with 1 at the utterance's class.
    """
    names, corpus = np.unique([utterance.corpus or "" for utterance in utterances], return_inverse=True)
    counts = np.zeros((len(names), values.shape[1]), np.float32)
    np.add.at(counts, corpus, values)
    is_absent: NDArray[np.bool_] = (counts == 0) & ((counts > 0).sum(axis=1, keepdims=True) > 1)
    return is_absent[corpus].astype(np.float32)


Values = TypeVar("Values", NDArray[np.float32], torch.Tensor)


def blended(counts: Values, classes: Values, rater_weight: float) -> Values:
    """Return targets that sum to 1: a weighted mean of the distribution of the raters' labels and the class.

    Args:
        counts: (utterance, class) label counts of all raters; if there are none, the target is the class.
        classes: (utterance, class) with 1 at the class; if there is none, the target is the raters' distribution.
        rater_weight: Weight of the raters' distribution; the class has the rest.

    Example:
        >>> counts, classes = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> blended(counts, classes, 0.4).round(decimals=3)
        tensor([[0.1000, 0.9000],
                [1.0000, 0.0000]])
    """
    own, given = classes.sum(1)[:, None], counts.sum(1)[:, None]
    weight = (given > 0) * (1 - own * (1 - rater_weight))
    target: Values = weight * counts / (given + (given == 0)) + (1 - weight) * classes
    return target


def drawn_raters(is_rater: torch.Tensor, dropout: float) -> torch.Tensor:
    """Return (batch, rater) bool, True for raters that are kept: each with probability 1 - dropout, and at least one.

    Args:
        is_rater: (batch, rater) bool, False on padding.
    """
    draws = torch.rand(is_rater.shape, device=is_rater.device).masked_fill(~is_rater, -1.0)
    is_luckiest = draws == draws.max(dim=1, keepdim=True).values
    return is_rater & ((draws >= dropout) | is_luckiest)
