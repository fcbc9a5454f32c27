"""The report: whole, honest, safe to open, and written from the run folder alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cli_fixtures import Call
from serein.data.splits import NO_TEST_SET
from serein.errors import RunError
from serein.evaluation.intervals import SPEAKERS_UNKNOWN
from serein.evaluation.predictions import EvalPrediction, read_predictions, write_predictions
from serein.evaluation.report import read_curves, worst_mistakes, write_report
from serein.evaluation.scores import score_predictions
from serein.evaluation.tables import notices

MakeRun = Callable[..., Path]
HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example onerror=alert(1)>${{7*7}}$"


class Page(HTMLParser):
    """Collect tags, attributes and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="session")
def html(finished_run: Path) -> str:
    return write_report(finished_run).read_text()


@pytest.fixture
def small_run(tmp_path: Path, make_run: MakeRun) -> Path:
    return make_run(tmp_path, seeds=(0,), num_folds=3, with_embeddings=False)


def test_one_small_file_with_every_section(html: str, finished_run: Path) -> None:
    assert (finished_run / "report.html").stat().st_size < 2_000_000
    assert html.startswith("<!doctype html>")
    assert html.count("<svg") == 7
    for heading in ("Folds", "Emotions", "Confusion matrix", "Speakers", "Confidence", "Training", "Embeddings"):
        assert f"<h2>{heading}</h2>" in html


def test_nothing_is_loaded_from_elsewhere(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed", "audio", "video", "base", "form"} & set(page.tags)
    loading = [
        (tag, value) for tag, name, value in page.attributes if name in ("src", "srcset", "href", "xlink:href", "data")
    ]
    outside = [(tag, value) for tag, value in loading if not value.startswith(("#", "data:image/png;base64,"))]
    assert {tag for tag, _ in outside} <= {"a"}
    assert re.findall(r"url\((?!#)[^)]*\)|@import", html) == []
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "default-src 'none'" in html


@pytest.mark.slow
def test_numbers_of_the_page_are_those_of_the_scores(html: str, finished_run: Path) -> None:
    from serein.evaluation.scores import score_run

    scores = score_run(finished_run)
    low, high = scores.intervals["ua"] or (0.0, 0.0)
    page = Page(html)
    assert f"{scores.pooled['ua']:.1f}" in page.text
    assert f"95 % interval {low:.1f} to {high:.1f}" in page.text
    assert f"mean over folds {scores.mean['ua']:.1f} ± {scores.standard_deviation['ua']:.1f}" in page.text
    assert "Of 100 utterances of speakers unseen in training" in page.text


def test_how_it_was_made_is_said(html: str) -> None:
    text = Page(html).text
    for fact in (
        "serein train recipes/ravdess",
        "3b1f0c7a9f",
        "94e1a3d55c",
        "1 h 26 min",
        "CC BY-NC-SA 4.0",
        "Livingstone",
        "checkpoint: best",
    ):
        assert fact in text
    assert "Train and test share both sentences" in text
    assert "Checkpoint: the epoch with the best UA on dev (held-out training speakers)" in text


def test_a_scored_dev_set_is_a_warning_and_selected_the_checkpoint() -> None:
    recipe = {"protocol": {"dev": "official"}, "stages": [{"checkpoint": "best"}]}
    rows = [EvalPrediction(id=str(n), truth="sad", prediction="sad", speaker=str(n)) for n in range(12)]
    scores = score_predictions(rows, ["sad"], notes=[NO_TEST_SET])
    found = notices(scores, recipe, {}, {"notes": [NO_TEST_SET]})
    assert [each.level for each in found if each.text == NO_TEST_SET] == ["warning"]
    assert not any("nothing was selected on test data" in each.text for each in found)
    assert any("nothing was selected on test data" in each.text for each in notices(None, recipe, {}, {}))


def test_two_runs_are_compared_with_all_caveats(tmp_path: Path, make_run: MakeRun, serein: Call) -> None:
    runs = [make_run(tmp_path / name, seeds=(0,), num_folds=2, with_embeddings=False) for name in ("a", "b")]
    call = ("report", runs[0], "--against", runs[1])
    printed = serein(*call).out
    assert "Only 8 speakers: a bootstrap interval over so few is too narrow." in printed
    assert "95 % interval: 2000 resamples of 8 speakers." in printed
    for path in tmp_path.glob("*/fold-*/seed-0/predictions.jsonl"):
        write_predictions([replace(p, speaker=None) for p in read_predictions(path)], path)
    found = json.loads(serein(*call, "--json").out)["emotion"]["ua"]
    assert found["notes"] == [SPEAKERS_UNKNOWN]
    (runs[1] / "fold-2" / "seed-0" / "predictions.jsonl").unlink()
    outcome = serein(*call)
    assert outcome.status == 1
    assert "Unfinished: fold 2, seed 0 lacks" in outcome.complaint


@pytest.mark.slow
def test_the_same_run_gives_the_same_page(small_run: Path) -> None:
    first = write_report(small_run).read_bytes()
    assert write_report(small_run).read_bytes() == first
    assert [path.name for path in small_run.glob(".report*")] == []


@pytest.mark.slow
def test_hostile_names_stay_text(small_run: Path) -> None:
    path = small_run / "fold-1" / "seed-0" / "predictions.jsonl"
    predictions = [replace(p, speaker=HOSTILE, gender=HOSTILE, id=p.id + HOSTILE) for p in read_predictions(path)]
    write_predictions(predictions, path)
    change(small_run / "data.json", corpora=[HOSTILE], licences={HOSTILE: HOSTILE}, citations={HOSTILE: HOSTILE})
    change(small_run / "environment.json", command=HOSTILE, cpu=HOSTILE)
    change(small_run / "folds.json", notes=[HOSTILE], protocol=HOSTILE)
    (small_run / "recipe.yaml").write_text(json.dumps({"name": HOSTILE, "description": HOSTILE}))
    page = Page(write_report(small_run).read_text())
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) > 8


@pytest.mark.slow
def test_a_speaker_dependent_protocol_is_marked(small_run: Path) -> None:
    change(small_run / "folds.json", is_speaker_independent=False, protocol="random")
    html = write_report(small_run).read_text()
    assert re.search(r'<li class="warning">Speaker-dependent protocol \(&#39;random&#39;\)', html)
    assert "With other speakers, it might" not in html


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"corpora": ["synthetic"]}, {"licences": {"espeak": "CC0, synthetic voices"}}])
def test_a_synthetic_corpus_says_so(small_run: Path, changes: dict[str, Any]) -> None:
    change(small_run / "data.json", **changes)
    assert '<li class="warning">Synthetic corpus:' in write_report(small_run).read_text()


@pytest.mark.slow
def test_an_unfinished_run_says_so(small_run: Path) -> None:
    (small_run / "fold-2" / "seed-0" / "predictions.jsonl").unlink()
    html = write_report(small_run).read_text()
    assert '<li class="warning">Unfinished: fold 2, seed 0 lacks 240 of 240 test predictions.' in html


def test_predictions_alone_are_enough(tmp_path: Path) -> None:
    folder = tmp_path / "fold-a" / "seed-0"
    folder.mkdir(parents=True)
    lines = ['{"id": "u", "truth": "sad", "prediction": "sad"}', '{"id": "v", "truth": "calm", "prediction": "sad"}']
    (folder / "predictions.jsonl").write_text("\n".join(lines))
    text = Page(write_report(tmp_path).read_text()).text
    assert "speakers unknown" in text
    assert "No intervals: 2 utterances" in text


def test_without_predictions_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="contains no predictions"):
        write_report(tmp_path)


@pytest.mark.slow
def test_embeddings_of_the_middling_model_are_drawn(finished_run: Path, html: str) -> None:
    from serein.evaluation.scores import score_run

    scores = score_run(finished_run)
    middling = min(scores.folds, key=lambda fold: abs(fold.ua - scores.mean["ua"]))
    assert f"test embeddings of fold {middling.fold}, seed {middling.seed}" in Page(html).text


def test_embeddings_that_do_not_match_are_refused(small_run: Path) -> None:
    path = small_run / "fold-1" / "seed-0" / "embeddings.safetensors"
    save_file({"embeddings": np.zeros((3, 4), np.float32)}, path)
    with pytest.raises(RunError, match=r"embeddings of shape \(3, 4\) for 240 predictions"):
        write_report(small_run)


@pytest.mark.slow
@pytest.mark.parametrize("value", [1.0, np.nan])
def test_collapsed_or_broken_embeddings_are_not_drawn(small_run: Path, value: float) -> None:
    for path in small_run.glob("fold-*/seed-0"):
        save_file({"embeddings": np.full((240, 4), value, np.float32)}, path / "embeddings.safetensors")
    assert "<h2>Embeddings</h2>" not in write_report(small_run).read_text()


def test_curves_of_every_training_are_read(small_run: Path) -> None:
    path = small_run / "fold-1" / "seed-0" / "2-fine-tune" / "metrics.jsonl"
    path.parent.mkdir()
    path.write_text('{"epoch": 1, "train_loss": 3.0}\n{"epoch": 1, "train_loss": 2.0, "dev_ua": null}\n')
    curves = read_curves(small_run)
    assert [(c.run, c.stage) for c in curves[:2]] == [("fold 1, seed 0", "emotion"), ("fold 1, seed 0", "fine-tune")]
    assert curves[1].train_loss == (2.0,)
    assert np.isnan(curves[1].dev_score).all()
    path.write_text('{"epoch": 1}\n{"epo')
    with pytest.raises(RunError, match=r"metrics\.jsonl:2: not JSON"):
        read_curves(small_run)


def test_worst_mistakes_are_confident_and_each_utterance_comes_once(finished_run: Path) -> None:
    predictions = [
        p for seed in (0, 1) for p in read_predictions(finished_run / f"fold-1/seed-{seed}/predictions.jsonl")
    ]
    worst = worst_mistakes(predictions)
    assert len({p.id for p in worst}) == len(worst) == 10
    assert all(p.truth != p.prediction for p in worst)
    confidences = [p.confidence or 0.0 for p in worst]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences[0] == max(p.confidence or 0.0 for p in predictions if p.truth != p.prediction)
