"""What the page shows of an answer: HTML with every text escaped, and files that hold no more than it."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from html import escape
from threading import Lock

from serein.evaluation.plots import emotion_colours
from serein.inference.plot import timeline_picture
from serein.inference.segments import Timeline
from serein.inference.writers import clock
from serein.server.schemas import PredictionResponse

_DRAWING = Lock()  # matplotlib's settings are the process's


def picture(timeline: Timeline, name: str) -> str:
    """Return the waveform with its emotions, as an image that says in words what it shows."""
    with _DRAWING:
        page = io.BytesIO()
        timeline_picture(timeline).savefig(page, format="png", dpi=110, facecolor="white", bbox_inches="tight")
    said = "; ".join(
        f"{clock(each.start_s)} to {clock(each.end_s)} {each.label_or_rejection}" for each in timeline.segments[:20]
    )
    alt = escape(f"Waveform of {name} with its emotions: {said}", quote=True)
    image = f'<img class="serein-picture" alt="{alt}" src="{_data("image/png", page.getvalue())}">'
    return f'<div class="serein-scroll" tabindex="0" role="group" aria-label="Emotions over time">{image}</div>'


def probabilities(reply: PredictionResponse) -> str:
    """Return the share of every class as bars, the largest first."""
    colours = emotion_colours(list(reply.probabilities))
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="serein-bar"><span style="width:{100 * probability:.1f}%;'
        f'background:{colours[name]}"></span></td><td class="serein-number">{100 * probability:.0f} %</td></tr>'
        for name, probability in sorted(reply.probabilities.items(), key=lambda each: -each[1])
    )
    answer = reply.rejected or reply.label or ""
    heading = f"{escape(answer)}, {100 * reply.confidence:.0f} %"
    return f'<h2>{heading}</h2><table class="serein"><caption>Class probabilities</caption>{rows}</table>'


def segments(reply: PredictionResponse) -> str:
    """Return the passages as a table; nothing for what was not heard over time."""
    rows = [
        (clock(each.start_s), clock(each.end_s), each.rejected or each.label or "", f"{100 * each.confidence:.0f} %")
        for each in reply.segments or ()
    ]
    return _table("Emotions over time", ("from", "to", "heard", "share"), rows)


def nearest(reply: PredictionResponse) -> str:
    """Return the nearest words and clips as tables."""
    words = [(each.word, f"{each.cosine:.2f}") for each in reply.words or ()]
    clips = [
        (each.label, each.id, each.speaker or "", each.corpus or "", f"{each.distance:.2f}")
        for each in reply.neighbours or ()
    ]
    return _table("Nearest words", ("word", "cosine"), words) + _table(
        "Nearest labelled clips", ("label", "clip", "speaker", "corpus", "distance"), clips
    )


def downloads(reply: PredictionResponse) -> str:
    """Return links that carry the answer as JSON and as CSV; nothing is kept on the server for them."""
    files = (
        ("serein.json", "application/json", reply.model_dump_json(indent=2)),
        ("serein.csv", "text/csv", _as_csv(reply)),
    )
    links = "".join(
        f'<a class="serein-download" download="{name}" href="{_data(kind, text.encode())}">Download {name}</a>'
        for name, kind, text in files
    )
    return f"<p>{links}</p>"


def complaint(text: str) -> str:
    """Return what went wrong, so that it is read aloud, too."""
    return f'<p role="alert" class="serein-complaint">{escape(text)}</p>'


def note(text: str) -> str:
    """Return a remark."""
    return f'<p role="status" class="serein-note">{escape(text)}</p>'


def _as_csv(reply: PredictionResponse) -> str:
    page = io.StringIO()
    writer = csv.writer(page)
    writer.writerow(["start_s", "end_s", "label", "confidence", *reply.probabilities])
    whole = (0.0, reply.duration_s, reply.rejected or reply.label, reply.confidence, *reply.probabilities.values())
    parts = [
        (each.start_s, each.end_s, each.rejected or each.label, each.confidence, *each.probabilities.values())
        for each in reply.segments or ()
    ]
    writer.writerows(parts or [whole])
    return page.getvalue()


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    return (
        f'<table class="serein"><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    )


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
