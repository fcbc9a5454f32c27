"""Arousal, valence, dominance: scales, targets, losses and scores of whole sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchmetrics.functional import concordance_corrcoef

from serein import losses, metrics
from serein import recipe as recipes
from serein.data.manifest import Utterance
from serein.errors import ManifestError, RecipeError
from serein.recipe import Dimension, Dimensions, Recipe
from serein.tasks.dimensions import SCALES, DimensionsTask, DimensionTask
from serein.tasks.task import Decoded

STAGES = {"name": "r", "stages": [{"name": "a"}]}
RECIPE = Recipe.model_validate({**STAGES, "tasks": {"emotion": None, "arousal": {}}})


def rated(name: str, corpus: str | None = "msp-podcast", **ratings: float | None) -> Utterance:
    return Utterance(id=name, audio=f"{name}.wav", corpus=corpus, **ratings)  # type: ignore[arg-type]


def several(**options: Any) -> DimensionsTask:
    utterances = [rated("a", arousal=1.0, valence=7.0, dominance=4.0)]
    return DimensionsTask.fit("dimensions", Dimensions(**options), RECIPE, utterances)


# -- scales ------------------------------------------------------------------------------------------------------------


def test_each_corpus_is_brought_to_0_and_1_by_its_own_scale() -> None:
    utterances = [rated("a", arousal=1.0), rated("b", arousal=7.0), rated("c", "iemocap", arousal=3.0), rated("d")]
    task = DimensionTask.fit("arousal", Dimension(), RECIPE, utterances)
    assert task.scales == {"msp-podcast": (1.0, 7.0), "iemocap": (1.0, 5.0)}
    assert [task.truth(u) for u in utterances] == [0.0, 1.0, 0.5, None]
    targets = task.targets(utterances)
    assert targets.is_known.tolist() == [True, True, True, False]
    assert targets.values[:3].tolist() == [[0.0], [1.0], [0.5]]


def test_of_a_corpus_without_a_published_scale_the_recipe_says_it_or_ratings_lie_between_0_and_1() -> None:
    own = [rated("a", None, arousal=0.25), rated("b", None, arousal=0.5)]
    assert DimensionTask.fit("arousal", Dimension(), RECIPE, own).truth(own[0]) == 0.25
    percent = [rated("a", "mine", arousal=-100.0), rated("b", "mine", arousal=50.0)]
    task = DimensionTask.fit("arousal", Dimension(scale=(-100, 100)), RECIPE, percent)
    assert [task.truth(u) for u in percent] == [0.0, 0.75]
    with pytest.raises(RecipeError, match=r"'mine' range from -100 to 50, the scale from 0 to 1"):
        DimensionTask.fit("arousal", Dimension(), RECIPE, percent)
    with pytest.raises(RecipeError, match="no utterance has arousal"):
        DimensionTask.fit("arousal", Dimension(), RECIPE, [rated("a", valence=1.0)])


def test_the_scale_is_kept_and_stated() -> None:
    task = several()
    again = DimensionsTask.from_json("dimensions", Dimensions(), task.to_json())
    assert again.scales == task.scales == {"msp-podcast": SCALES["msp-podcast"]}
    assert again.dimensions == ("arousal", "valence", "dominance")
    assert task.describe() == "arousal, valence, dominance as numbers from 0 to 1 (1 to 7 in msp-podcast)."


def test_scores_state_the_scale_of_each_corpus_and_which_one_is_assumed() -> None:
    task = DimensionTask.fit("arousal", Dimension(), RECIPE, [rated("a", arousal=1.0), rated("b", arousal=7.0)])
    known = [rated("c", arousal=7.5), rated("d", "iemocap", arousal=5.5), rated("e", "silent")]
    assert task.spec_of(known).scale == "0 to 1 (1 to 7 in msp-podcast; 1 to 5 in iemocap)"
    mine = [rated("c", "mine", arousal=1.0), rated("d", "mine", arousal=7.0)]
    assert task.spec_of(mine).scale == "0 to 1 (1 to 7 in mine, assumed as in msp-podcast)"
    assert task.spec_of([rated("e", "silent")]) == task.spec
    own = DimensionTask.fit("arousal", Dimension(scale=(1, 9)), RECIPE, mine)
    assert own.spec_of([rated("c", "other", arousal=9.0)]).scale == "0 to 1 (1 to 9 in other)"


@pytest.mark.parametrize(("corpus", "rating"), [("mine", 0.5), ("mine", 9.0), ("msp-podcast", 9.0)])
def test_ratings_on_another_scale_are_not_scored(corpus: str, rating: float) -> None:
    task = DimensionTask.fit("arousal", Dimension(), RECIPE, [rated("a", arousal=1.0)])
    with pytest.raises(ManifestError, match=f"'{corpus}' range from .* the scale from 1 to 7. Convert the ratings"):
        task.spec_of([rated("c", corpus, arousal=4.0), rated("d", corpus, arousal=rating)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": [5, 1]}, "5 is not below 1"),
        ({"loss": "cc"}, "cc"),
        ({"names": ["arousal"]}, "names"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipes.validate({**STAGES, "tasks": {"emotion": None, "arousal": options}}, where="r.yaml")


def test_a_dimension_is_named_once() -> None:
    with pytest.raises(RecipeError, match="twice"):
        recipes.validate(
            {**STAGES, "tasks": {"emotion": None, "dimensions": {"names": ["arousal", "arousal"]}}}, where="r.yaml"
        )


# -- what it says ------------------------------------------------------------------------------------------------------


def test_predictions_stay_on_the_scale() -> None:
    one = DimensionTask("valence", Dimension(), {})
    assert [p.value for p in one.predictions(one.decode(torch.tensor([[-0.5], [0.25], [2.0]])))] == [0.0, 0.25, 1.0]
    many = several(names=("arousal", "valence"))
    (said,) = many.predictions(Decoded(np.array([[0.5, 0.25]], np.float32)))
    assert (said.label, said.value, said.dimensions) == (None, None, {"arousal": 0.5, "valence": 0.25})
    assert said.written == "0.5 0.25"
    assert said.to_dict() == {
        "label": None,
        "confidence": None,
        "probabilities": {},
        "dimensions": {"arousal": 0.5, "valence": 0.25},
    }


def test_a_missing_rating_is_nan_in_a_row_of_others() -> None:
    task = several(names=("arousal", "valence"))
    utterances = [rated("a", arousal=4.0), rated("b"), rated("c", arousal=1.0, valence=7.0)]
    assert [task.truth(u) for u in utterances] == ["0.5 nan", None, "0 1"]
    targets = task.targets(utterances)
    assert targets.is_known.tolist() == [True, False, True]
    assert np.isnan(targets.values).tolist() == [[False, True], [True, True], [False, False]]


# -- the loss ----------------------------------------------------------------------------------------------------------


def double(size: int, seed: int = 0, dimensions: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(size, dimensions, generator=generator, dtype=torch.float64)
    noise = torch.randn(size, dimensions, generator=generator, dtype=torch.float64)
    return truth, (0.3 + truth + 0.4 * noise).requires_grad_()


@pytest.mark.parametrize("size", [2, 3, 17, 256])
def test_concordance_is_torchmetrics_but_for_n(size: int) -> None:
    """torchmetrics takes n - 1 in the variances and all else alike: the two agree when truth is shifted by nothing.

    Their ratio is exact: with the mean difference m, ours is 2 c / (s + m^2) and theirs 2 c' / (s' + m^2), where
    c' = c n / (n - 1) and s' = s n / (n - 1).
    """
    truth, output = double(size)
    output = output.detach()
    ours = 1 - losses.concordance(truth, output)[0]
    level = (truth - output).mean() ** 2
    spread = truth.var(correction=0) + output.var(correction=0)
    theirs = concordance_corrcoef(output[:, 0], truth[:, 0]) * (spread * size / (size - 1) + level)
    assert float(ours) == pytest.approx(float(theirs * (size - 1) / size / (spread + level)), rel=1e-9)
    assert float(ours) == pytest.approx(metrics.concordance(truth[:, 0], output.detach()[:, 0]), rel=1e-9)


def test_value_and_gradient_are_torchmetrics_where_the_means_agree() -> None:
    """Then n - 1 stands above and below the fraction, and cancels out."""
    truth, output = double(40)

    def centred() -> torch.Tensor:
        return output - output.mean() + truth.mean()

    ours = losses.concordance(truth, centred())[0]
    theirs = 1 - concordance_corrcoef(centred()[:, 0], truth[:, 0])
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-12)
    gradients = [torch.autograd.grad(loss, output)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-15)


def test_the_gradient_is_autograds_in_float64() -> None:
    for size in (2, 5, 40):
        truth, output = double(size, dimensions=3)
        assert torch.autograd.gradcheck(lambda out, t=truth: losses.concordance(t, out), (output,))
        (own,) = torch.autograd.grad(losses.concordance(truth, output).sum(), output)
        t, p = truth - truth.mean(0), output - output.mean(0)
        spread = (t**2).mean(0) + (p**2).mean(0) + (truth - output).mean(0) ** 2
        ccc = 2 * (t * p).mean(0) / spread
        by_hand = -2 / (size * spread) * (t - ccc * (p + (output - truth).mean(0)))
        torch.testing.assert_close(own, by_hand, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("truth", "output"),
    [
        ([0.5, 0.5, 0.5], [0.1, 0.4, 0.9]),
        ([0.1, 0.4, 0.9], [0.5, 0.5, 0.5]),
        ([0.5, 0.5], [0.5, 0.5]),
        ([0.5], [0.2]),
        ([0.5], [0.5]),
    ],
)
def test_constants_and_a_batch_of_one_correlate_with_nothing(truth: list[float], output: list[float]) -> None:
    outputs = torch.tensor(output)[:, None].requires_grad_()
    loss = losses.concordance(torch.tensor(truth)[:, None], outputs)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([1.0])
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()
    if len(set(truth)) == 1:
        assert outputs.grad.abs().max() < 1e-6


def test_utterances_without_a_rating_change_nothing() -> None:
    """Rows of padding, of which nothing is known, and single ratings that are missing."""
    task = several()
    truth, output = (tensor.detach().float() for tensor in double(8, dimensions=3))
    padded = torch.cat([truth, torch.full((3, 3), torch.nan)])
    outputs = torch.cat([output, torch.randn(3, 3)]).requires_grad_()
    torch.testing.assert_close(task.loss(padded, outputs), task.loss(truth, output))
    task.loss(padded, outputs).backward()
    assert outputs.grad is not None
    assert outputs.grad[8:].abs().sum() == 0
    truth[:3, 1] = torch.nan
    columns = [
        losses.concordance(truth[k, c : c + 1], output[k, c : c + 1])
        for c, k in ((0, ...), (1, slice(3, None)), (2, ...))
    ]
    torch.testing.assert_close(task.loss(truth, output), torch.stack(columns).mean())


@pytest.mark.parametrize("name", ["ccc", "mse", "mae"])
def test_a_batch_of_mixed_clips_that_lacked_different_ratings_has_no_loss(name: str) -> None:
    output = torch.randn(2, 3).requires_grad_()
    loss = several(loss=name).loss(torch.full((2, 3), torch.nan), output)
    loss.backward()
    assert loss.item() == 0.0
    assert output.grad is not None
    assert output.grad.tolist() == [[0.0] * 3] * 2


def test_in_bfloat16_the_loss_is_that_of_rounded_outputs_in_float32() -> None:
    truth, output = (tensor.detach().float() for tensor in double(64))
    rounded = output.bfloat16().requires_grad_()
    exact = rounded.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = losses.concordance(truth, rounded)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, losses.concordance(truth, exact))
    loss.sum().backward()
    losses.concordance(truth, exact).sum().backward()
    assert rounded.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(rounded.grad, exact.grad.bfloat16())


@pytest.mark.parametrize(("name", "expected"), [("mse", F.mse_loss), ("mae", F.l1_loss)])
def test_errors_as_losses_are_torchs(name: str, expected: Any) -> None:
    truth, output = (tensor.detach().float() for tensor in double(16, dimensions=3))
    torch.testing.assert_close(several(loss=name).loss(truth, output), expected(output, truth))


# -- scores ------------------------------------------------------------------------------------------------------------


def test_scores_are_of_the_whole_set_and_of_each_dimension() -> None:
    task = several(names=("arousal", "valence"))
    truth, output = (tensor.detach() for tensor in double(50, dimensions=2))
    truth[:10, 1] = torch.nan
    scores = task.scores(truth, output)
    cut = output.clamp(0, 1)
    arousal = metrics.concordance(truth[:, 0], cut[:, 0])
    valence = metrics.concordance(truth[10:, 1], cut[10:, 1])
    assert scores["ccc_arousal"] == pytest.approx(arousal)
    assert scores["ccc_valence"] == pytest.approx(valence)
    assert scores["ccc"] == pytest.approx((arousal + valence) / 2)
    assert next(iter(scores)) == task.spec.monitor == "ccc"


def test_the_mean_of_batches_would_be_another_score() -> None:
    task = DimensionTask("arousal", Dimension(), {})
    truth = torch.tensor([[0.0], [0.1], [0.9], [1.0]])
    output = torch.tensor([[0.1], [0.0], [1.0], [0.9]])
    halves = [task.scores(truth[k], output[k])["ccc"] for k in (slice(2), slice(2, 4))]
    assert halves == pytest.approx([-1.0, -1.0])
    assert task.scores(truth, output)["ccc"] > 0.95
