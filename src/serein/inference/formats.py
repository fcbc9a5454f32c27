"""Emotions over time as other programs read them: Praat and ELAN (TextGrid), Audacity (label track)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serein.inference.timeline import Segment, Timeline


def textgrid(timeline: Timeline) -> str:
    """Return a TextGrid of two interval tiers, label and confidence; where there is no speech both are empty.

    Source: the Praat manual, "TextGrid file formats", the long text format.
    """
    tiers = [
        (timeline.task, _tiled(timeline, lambda segment: segment.label_or_rejection)),
        ("confidence", _tiled(timeline, lambda segment: f"{segment.confidence:.2f}")),
    ]
    end = f"{timeline.duration_s:.6f}"
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end}",
        "tiers? <exists>",
    ]
    lines += [f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers, start=1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {end}", f"        intervals: size = {len(intervals)}"]
        for place, (start_s, end_s, text) in enumerate(intervals, start=1):
            lines += [f"        intervals [{place}]:", f"            xmin = {start_s}", f"            xmax = {end_s}"]
            lines.append(f'            text = "{_quoted(text)}"')
    return "\n".join(lines) + "\n"


def audacity(timeline: Timeline) -> str:
    """Return a label track: one line for each segment, with start, end, label and confidence.

    Source: the Audacity manual, "Importing and Exporting Labels".
    """
    return "".join(
        f"{segment.start_s:.6f}\t{segment.end_s:.6f}\t{segment.label_or_rejection} {segment.confidence:.2f}\n"
        for segment in timeline.segments
    )


def clock(seconds: float) -> str:
    """Return a time in a recording as minutes and seconds.

    Example:
        >>> clock(4.25), clock(75), clock(3725.5)
        ('0:04.2', '1:15.0', '1:02:05.5')
    """
    minutes, rest_s = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest_s:04.1f}" if hours else f"{minutes}:{rest_s:04.1f}"


def _tiled(timeline: Timeline, text_of: Callable[[Segment], str]) -> Sequence[tuple[str, str, str]]:
    """Return intervals that fill the recording without a gap, as TextGrids must."""
    intervals: list[tuple[str, str, str]] = []
    place = f"{0:.6f}"
    for segment in timeline.segments:
        start, end = f"{segment.start_s:.6f}", f"{min(segment.end_s, timeline.duration_s):.6f}"
        if start != place:
            intervals.append((place, start, ""))
        intervals.append((start, end, text_of(segment)))
        place = end
    end = f"{timeline.duration_s:.6f}"
    return intervals if place == end else [*intervals, (place, end, "")]


def _quoted(text: str) -> str:
    return text.replace('"', '""')


WRITERS: dict[str, Callable[[Timeline], str]] = {"textgrid": textgrid, "audacity": audacity}
SUFFIXES = {"textgrid": ".TextGrid", "audacity": ".txt"}
