"""Raters as the truth: distributions, rater dropout, and a vector for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from serein import recipe as recipes
from serein.data.manifest import Rating, Utterance
from serein.errors import RecipeError
from serein.models.heads import RaterOutput
from serein.recipe import Category, Labels, Recipe
from serein.tasks.classes import ClassLabels, ClassTask, RatedCategory, drawn_raters
from serein.tasks.task import keep_labelled

STAGES = {"name": "r", "stages": [{"name": "a"}]}
TAUGHT = {"emotion": {"distillation": {"teacher": "default"}}}
CLASSES = ClassLabels(("angry", "happy", "sad"), {"excited": "happy"})


def rated(name: str, emotion: str | None, *ratings: tuple[str, ...], raters: bool = True) -> Utterance:
    given = tuple(Rating(labels=labels, rater=f"r{i}" if raters else None) for i, labels in enumerate(ratings))
    return Utterance(id=name, audio=f"{name}.wav", emotion=emotion, ratings=given)


AGREED = rated("agreed", "happy", ("happy",), ("excited", "other"), ("sad", "happy"))
SPLIT = rated("split", None, ("sad",), ("angry",))
BARE = rated("bare", "sad")
OTHER = rated("other", "other", ("other",))
ALL = [AGREED, SPLIT, BARE, OTHER]


def task(options: dict[str, Any] | None = None, raters: tuple[str, ...] = (), **labels: Any) -> ClassTask:
    return ClassTask(Category(**(options or {})), CLASSES, Labels(target="distribution", **labels), raters)


def test_every_label_of_every_rater_counts_as_often_as_it_was_given() -> None:
    targets = task().targets(ALL)
    assert targets.values[:, :3].tolist() == [[0, 0.75, 0.25], [0.5, 0, 0.5], [0, 0, 1], [0, 0, 0]]
    assert targets.values[:, 3:].tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert targets.is_known.tolist() == [True, False, True, False]


def test_utterances_without_a_majority_are_kept_when_the_recipe_says_so() -> None:
    assert keep_labelled(ALL, task())[0] == [AGREED, BARE]
    keeping = task(unlabelled="keep")
    assert keep_labelled(ALL, keeping)[0] == [AGREED, SPLIT, BARE]
    assert keeping.targets(ALL).is_known.tolist() == [True, True, True, False]
    assert keeping.truth(SPLIT) is None
    assert keeping.ratings(AGREED) == (("happy",), ("happy",), ("sad", "happy"))


def test_the_class_may_be_that_of_most_raters() -> None:
    heard = ClassTask(Category(), CLASSES, Labels(consensus="raters"))
    meant = AGREED.model_copy(update={"emotion": "angry"})
    assert [heard.truth(u) for u in (meant, SPLIT, BARE)] == ["happy", None, None]
    assert heard.targets([meant, SPLIT]).values.tolist() == [[0, 1, 0], [0, 0, 0]]
    assert ClassTask.from_json("emotion", Category(), heard.to_json()).truth(meant) == "happy"


def test_raters_may_smooth_the_class() -> None:
    values = task(rater_weight=0.4, unlabelled="keep").targets(ALL).values
    assert values[0, :3].tolist() == pytest.approx([0.0, 0.6 + 0.4 * 0.75, 0.4 * 0.25])
    assert values[1, :3].tolist() == [0.5, 0.0, 0.5]
    assert values[2, :3].tolist() == [0.0, 0.0, 1.0]


def test_the_kl_divergence_is_torchs_and_its_gradient_that_of_the_cross_entropy() -> None:
    truth = torch.from_numpy(task().targets([AGREED, BARE]).values)
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    expected = F.kl_div(logits.log_softmax(1), truth[:, :3], reduction="batchmean")
    loss = task({"loss": "kl-divergence"}).loss(truth, logits)
    torch.testing.assert_close(loss, expected)
    one, other = (torch.autograd.grad(each, logits)[0] for each in (loss, task().loss(truth, logits)))
    torch.testing.assert_close(one, other)


def test_scores_are_of_distributions_and_of_those_with_a_class() -> None:
    keeping = task(unlabelled="keep")
    truth = torch.from_numpy(keeping.targets(ALL[:3]).values)
    logits = torch.log(torch.tensor([[0.01, 0.74, 0.25], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1]]))
    scores = keeping.scores(truth, logits)
    assert scores["ua"] == 0.5  # happy is right, sad is not, and the split one has no class
    brier = [0.01**2 + 0.01**2, 0.4**2 + 0.8**2 + 0.4**2, 0.8**2 + 0.1**2 + 0.9**2]
    assert scores["brier"] == pytest.approx(np.mean(brier), rel=1e-5)
    assert scores["js_similarity"] == pytest.approx(1 - scores["js"])
    assert keeping.classes(truth).tolist() == [1, 0, 2]


# -- dropout -----------------------------------------------------------------------------------------------------------


def test_a_rater_stays_with_the_promised_probability_and_one_always_stays() -> None:
    torch.manual_seed(0)
    is_rater = torch.tensor([[True, True, True, False], [True, False, False, False]]).repeat(4000, 1)
    stays = drawn_raters(is_rater, 0.5)
    assert not stays[~is_rater].any()
    assert stays.any(dim=1).all()
    assert float(stays[::2, :3].float().mean()) == pytest.approx(0.5 + 0.125 / 3, abs=0.01)  # of 3, one comes back
    assert torch.equal(drawn_raters(is_rater, 0.0), is_rater)


def test_rater_dropout_changes_the_training_loss_alone_and_is_right_on_average() -> None:
    dropping, plain = task(rater_dropout=0.5), task()
    truth = torch.from_numpy(dropping.targets([AGREED]).values)
    assert truth.shape == (1, 3 + 3 + 3 * 3 + 3)
    logits = torch.tensor([[0.1, 2.0, -1.0]])
    torch.manual_seed(0)
    drawn = {round(float(dropping.loss(truth, logits)), 4) for _ in range(60)}
    assert len(drawn) > 2
    expected = float(plain.loss(truth[:, :6], logits))
    assert dropping.scores(truth, logits)["loss"] == pytest.approx(expected, rel=1e-6)


# -- each rater --------------------------------------------------------------------------------------------------------


def test_each_rater_is_learned_by_its_own_logits() -> None:
    each = ClassTask(Category(), CLASSES, Labels(target="distribution", raters="each"), ("r0", "r1"))
    truth = torch.from_numpy(each.targets([AGREED, BARE]).values)  # of three raters, the third has no vector
    average = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.0]])
    leaning = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    output = torch.cat([average, (average[:, None] + leaning).flatten(1)], dim=1)
    happy, mixed = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 0.5, 0.5])
    raters = [
        F.cross_entropy(average[0] + leaning[0], happy),
        F.cross_entropy(average[0] + leaning[1], happy),
        F.cross_entropy(average[0], mixed),
    ]
    expected = (torch.stack(raters).mean() + F.cross_entropy(average[1], torch.tensor([0.0, 0.0, 1.0]))) / 2
    torch.testing.assert_close(each.loss(truth, output), expected)


def test_a_model_of_raters_predicts_for_the_average_one() -> None:
    layer = RaterOutput(4, 3, num_raters=5)
    torch.nn.init.normal_(layer.raters)
    vectors = torch.randn(2, 4)
    trained = layer(vectors)
    average, each = trained[:, :3], trained[:, 3:].reshape(2, 5, 3)
    torch.testing.assert_close(each.mean(dim=1), average)
    torch.testing.assert_close(layer.eval()(vectors), average)


def test_the_raters_are_those_of_the_data_and_saved() -> None:
    recipe = Recipe.model_validate(
        {
            **STAGES,
            "labels": {"target": "distribution", "raters": "each", "classes": CLASSES.classes, "merge": CLASSES.merge},
        }
    )
    angry = rated("d", "angry", ("angry",)).model_copy(update={"corpus": "mine"})
    fitted = ClassTask.fit("emotion", Category(), recipe, [AGREED, SPLIT, BARE, angry])
    assert list(fitted.raters) == ["mine/r0", "r0", "r1", "r2"]
    assert isinstance(fitted.options, RatedCategory)
    assert fitted.options.num_raters == 4
    again = ClassTask.from_json("emotion", Category(), fitted.to_json())
    assert (again.raters, again.labels.raters, again.labels.target) == (fitted.raters, "each", "distribution")
    assert "labels" not in ClassTask(Category(), CLASSES).to_json()


def test_raters_without_names_cannot_be_told_apart() -> None:
    labels = {"target": "distribution", "raters": "each", "classes": ("happy", "sad")}
    unnamed = [rated("a", "happy", ("happy",), raters=False), rated("b", "sad", ("sad",), raters=False)]
    with pytest.raises(RecipeError, match="no rating names its rater"):
        ClassTask.fit("emotion", Category(), Recipe.model_validate({**STAGES, "labels": labels}), unnamed)


def test_a_distribution_needs_ratings() -> None:
    recipe = Recipe.model_validate({**STAGES, "labels": {"target": "distribution"}})
    bare = [Utterance(id="a", audio="a", emotion="happy"), Utterance(id="b", audio="b", emotion="sad")]
    with pytest.raises(
        RecipeError, match=r"labels.target: no utterance has labels of raters. Choose labels.target=class"
    ):
        ClassTask.fit("emotion", Category(), recipe, bare)
    ClassTask.fit("emotion", Category(), recipe, [*bare, rated("c", "sad", ("sad", "happy"))])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"rater_dropout": 0.1}}, "'rater_dropout' needs 'target: distribution'"),
        ({"labels": {"unlabelled": "keep"}}, "'unlabelled: keep' needs"),
        ({"labels": {"target": "distribution", "raters": "each", "rater_dropout": 0.1}}, "leave out rater_weight"),
        ({"stages": [{"name": "a", "monitor": "js_similarity"}]}, "needs labels.target 'distribution'"),
        (
            {
                "labels": {"target": "distribution", "raters": "each"},
                "stages": [{"name": "a", "spectrogram_augmentation": {"mixup": 0.2}}],
            },
            "raters cannot be averaged",
        ),
        (
            {
                "labels": {"target": "distribution", "rater_dropout": 0.2},
                "stages": [{"name": "a", "spectrogram_augmentation": {"mixup": 0.2}}],
            },
            "labels has 'rater_dropout', and raters cannot be averaged",
        ),
        *(
            ({"labels": {"target": "distribution"} | option, "tasks": TAUGHT}, "leave it out, or tasks.emotion.distil")
            for option in ({"raters": "each"}, {"rater_dropout": 0.2})
        ),
    ],
)
def test_recipes_that_ask_raters_for_what_they_do_not_say(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipes.validate({**STAGES, **changes}, where="r.yaml")
