"""Pictures of several systems side by side: what stands in them, not how they look."""

from __future__ import annotations

import io

import numpy as np
import pytest

from serein.reproduce.figures import (
    Line,
    Map,
    confusion_panels,
    lines_picture,
    map_panels,
)


def test_every_confusion_has_its_panel_and_counts() -> None:
    first, second = np.array([[3, 1], [0, 4]]), np.array([[2, 2], [4, 0]])
    figure = confusion_panels([("one", first), ("two", second), ("three", first), ("four", second)], ["sad", "happy"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["one", "two", "three", "four"]
    for axes, counts in zip(figure.axes, (first, second, first, second), strict=True):
        said = [text.get_text() for text in axes.texts]
        assert [text for text in said if text in {"3", "1", "4", "2"}] == [str(n) for n in counts.flat if n]


def test_maps_keep_clusters_together_and_apart() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0] * 8, [20.0] * 8])
    names = ["sad"] * 20 + ["angry"] * 20
    vectors = np.concatenate([centre + rng.normal(size=(20, 8)) for centre in centres])
    figure = map_panels([Map("apart", vectors, names)], {"sad": "#0000ff", "angry": "#ff0000"})
    (axes,) = figure.axes
    places = np.asarray(axes.collections[0].get_offsets())
    colours = np.asarray(axes.collections[0].get_facecolors())[:, :3]
    assert colours[:20].tolist() == [[0, 0, 1]] * 20
    within = np.linalg.norm(places[:20] - places[:20].mean(axis=0), axis=1).max()
    assert np.linalg.norm(places[:20].mean(axis=0) - places[20:].mean(axis=0)) > within


def test_lines_are_drawn_in_the_order_of_their_axis() -> None:
    line = Line("one", [0.5, 0.1], [60.0, 70.0], [(55.0, 65.0), None])
    figure = lines_picture([line], ("l", "UA"), level=("alone", 50.0, "#000000"))
    (axes,) = figure.axes
    x, y = axes.lines[0].get_data()
    assert (list(x), list(y)) == ([0.1, 0.5], [70.0, 60.0])
    (bar,) = axes.collections
    assert np.ravel(bar.get_paths()[0].vertices).tolist() == pytest.approx([0.5, 55.0, 0.5, 65.0])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "alone"]
    assert list(axes.lines[1].get_ydata()) == [50.0, 50.0]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_any_number_of_panels_can_be_saved(count: int) -> None:
    figure = confusion_panels([("a", np.eye(3, dtype=int))] * count, ["a", "b", "c"])
    figure.savefig(page := io.BytesIO(), format="png")
    assert page.getvalue().startswith(b"\x89PNG")
