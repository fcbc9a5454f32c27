// Emotions over time: the waveform in the colours of its segments, and below it the probability of every class and the
// curve of every dimension; and the position of a recording in the plane of valence and arousal.

import { clock, drawn, percent } from "./elements.js";

const COLUMN = 3; // px, of the waveform
const LANE = 22; // px
const MOST_LANES = 8;
const CURVE = 40; // px, of a dimension
const PLANE = 150; // px
const LETTER = 6.6; // px, about
const WIDE_LETTER = 8; // px, average width of a letter in the widest fonts
const STEPS_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];

/** Return the picture in the width that it is shown in, so that its text is never scaled.
 *
 * @param prediction The server's prediction.
 * @param colourOf Returns the colour of a class.
 * @param peaks Largest amplitudes, 0 to 1, evenly spread over the recording; null if the browser cannot decode it.
 * @param width Width in CSS pixels.
 * @returns The `svg`; its `timeAt(clientX)` returns seconds, and `showPlace(seconds)` moves the playback line.
 */
export function overTime(prediction, colourOf, peaks, width) {
  const length = prediction.end_s - prediction.start_s;
  const lanes = lanesOf(prediction);
  const dimensions = Object.keys(prediction.dimensions ?? {});
  const left = Math.min(0.3 * width, LETTER * Math.max(0, ...[...lanes, ...dimensions].map((name) => name.length)) + 12);
  const x = (seconds) => left + ((seconds - prediction.start_s) / length) * (width - left - 1);
  const waveHeight = peaks ? (width < 480 ? 84 : 112) : 26;
  const top = waveHeight + 12;
  const curves = top + lanes.length * LANE;
  const height = curves + dimensions.length * CURVE + 24;
  const picture = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": inWords(prediction) });
  picture.append(...ticks(length, width - left, prediction.start_s).flatMap((seconds) => tick(x(seconds), seconds, top, height)));
  if (peaks) picture.append(...waveform(prediction, colourOf, peaks, left, width, waveHeight));
  else picture.append(...blocks(prediction, colourOf, x));
  lanes.forEach((name, row) => picture.append(...lane(prediction, name, colourOf(name), x, top + row * LANE)));
  dimensions.forEach((name, row) => picture.append(...curve(prediction, name, x, curves + row * CURVE)));
  const head = drawn("line", { class: "head", y1: 0, y2: height - 22, visibility: "hidden" });
  picture.append(head);
  picture.timeAt = (clientX) => {
    const inside = ((clientX - picture.getBoundingClientRect().left) / picture.getBoundingClientRect().width) * width;
    return inside < left ? null : Math.min(length, ((inside - left) / (width - left - 1)) * length);
  };
  picture.showPlace = (seconds) => {
    const place = x(prediction.start_s + Math.min(seconds, length));
    head.setAttribute("x1", place);
    head.setAttribute("x2", place);
    head.setAttribute("visibility", "visible");
  };
  return picture;
}

/** Return the dimensions from moment to moment: `{start_s, end_s, arousal, ...}`. */
export function momentsOf(prediction) {
  return prediction.curve ?? prediction.segments.map(({ start_s, end_s, dimensions }) => ({ start_s, end_s, ...dimensions }));
}

/** Return the plane of valence and arousal with the path of a recording through it; null if it has no such point. */
export function plane(prediction) {
  const { valence, arousal } = prediction.dimensions ?? {};
  if (valence === undefined || arousal === undefined) return null;
  const at = (number) => (number * PLANE).toFixed(1);
  const way = momentsOf(prediction).map((each) => `${at(each.valence)},${at(1 - each.arousal)}`);
  const side = WIDE_LETTER * "unpleasant".length + 6;
  const box = `${-side} -18 ${PLANE + 2 * side} ${PLANE + 36}`;
  const text = (x, y, anchor, words) => drawn("text", { x, y, "text-anchor": anchor }, words);
  return drawn(
    "svg",
    { viewBox: box, width: PLANE + 2 * side, height: PLANE + 36, class: "plane", role: "img", "aria-label": `Valence ${valence.toFixed(2)}, arousal ${arousal.toFixed(2)}, each from 0 to 1` },
    drawn("rect", { width: PLANE, height: PLANE, class: "grid", fill: "none" }),
    drawn("line", { x1: PLANE / 2, x2: PLANE / 2, y1: 0, y2: PLANE, class: "grid" }),
    drawn("line", { x1: 0, x2: PLANE, y1: PLANE / 2, y2: PLANE / 2, class: "grid" }),
    drawn("polyline", { points: way.join(" "), class: "way" }),
    drawn("circle", { cx: at(valence), cy: at(1 - arousal), r: 5, class: "point" }),
    text(PLANE / 2, -6, "middle", "excited"),
    text(PLANE / 2, PLANE + 14, "middle", "calm"),
    text(-6, PLANE / 2 + 4, "end", "unpleasant"),
    text(PLANE + 6, PLANE / 2 + 4, "start", "pleasant"),
  );
}

/** Return the segment at a place of the recording. */
export function segmentAt(prediction, seconds) {
  return prediction.segments.findIndex((each) => each.start_s <= seconds && seconds < each.end_s);
}

/** Return the largest amplitude in each of `count` equal parts of some samples, as heights from 0 to 1. */
export function peaksOf(samples, count) {
  const peaks = new Float32Array(count);
  for (let part = 0; part < count; part++) {
    const end = Math.floor(((part + 1) * samples.length) / count);
    for (let i = Math.floor((part * samples.length) / count); i < end; i++) peaks[part] = Math.max(peaks[part], Math.abs(samples[i]));
  }
  const most = Math.max(1e-6, ...peaks);
  return peaks.map((peak) => (peak / most) ** 0.6); // quiet speech is visible next to shouts
}

/** Return the classes that have a row: those that are the label of a segment, then the most probable others. */
function lanesOf(prediction) {
  const totals = new Map();
  for (const each of prediction.segments) {
    for (const [name, probability] of Object.entries(each.probabilities)) {
      const total = totals.get(name) ?? 0;
      const weight = probability + (each.label === name ? 1e6 : 0);
      totals.set(name, total + weight * (each.end_s - each.start_s));
    }
  }
  return [...totals.keys()].sort((a, b) => totals.get(b) - totals.get(a)).slice(0, MOST_LANES);
}

function waveform(prediction, colourOf, peaks, left, width, height) {
  const paths = new Map(); // one path for each look
  const columns = Math.floor((width - left - 1) / COLUMN);
  const middle = height / 2;
  for (let column = 0; column < columns; column++) {
    const seconds = prediction.start_s + ((column + 0.5) / columns) * (prediction.end_s - prediction.start_s);
    const first = Math.floor((column * peaks.length) / columns);
    const last = Math.max(first + 1, Math.floor(((column + 1) * peaks.length) / columns));
    const half = Math.max(0.75, Math.max(...peaks.slice(first, last)) * (middle - 3));
    const segment = prediction.segments[segmentAt(prediction, seconds)];
    const look = segment ? segment.label ?? (segment.rejected === null ? "spoken" : "rejected") : "quiet";
    const place = (left + (column + 0.5) * COLUMN).toFixed(1);
    paths.set(look, `${paths.get(look) ?? ""}M${place} ${(middle - half).toFixed(1)}V${(middle + half).toFixed(1)}`);
  }
  return [...paths].map(([look, d]) => {
    const isClass = !["quiet", "rejected", "spoken"].includes(look);
    const line = { d, fill: "none", "stroke-width": COLUMN - 1, "stroke-linecap": "round" };
    return drawn("path", isClass ? { ...line, stroke: colourOf(look) } : { ...line, class: look });
  });
}

/** Return plain blocks instead of a waveform. */
function blocks(prediction, colourOf, x) {
  return prediction.segments.map((each) => {
    const box = { x: x(each.start_s), y: 4, width: Math.max(1, x(each.end_s) - x(each.start_s) - 1), height: 18, rx: 3 };
    return drawn("rect", each.label === null ? { ...box, class: "rejected-block" } : { ...box, fill: colourOf(each.label) });
  });
}

function lane(prediction, name, colour, x, top) {
  const base = top + LANE - 3;
  const bars = prediction.segments.map((each) => {
    const probability = each.probabilities[name] ?? 0;
    const tall = Math.max(0.5, probability * (LANE - 5));
    const start = x(each.start_s);
    const bar = { x: start, y: base - tall, width: Math.max(1, x(each.end_s) - start - 1), height: tall, fill: colour };
    const title = drawn("title", {}, `${name} ${percent(probability)}, ${clock(each.start_s)} to ${clock(each.end_s)}`);
    return drawn("rect", { ...bar, "fill-opacity": each.label === name ? 1 : 0.4 }, title);
  });
  const line = drawn("line", { class: "grid", x1: x(prediction.start_s), x2: x(prediction.end_s), y1: base + 0.5, y2: base + 0.5 });
  const most = Math.floor((x(prediction.start_s) - 6) / LETTER); // letters that fit
  const shown = name.length > most ? `${name.slice(0, most - 1)}…` : name;
  return [line, ...bars, drawn("text", { class: "lane", x: 0, y: base }, shown)];
}

/** Return a dimension over time: a step for every moment, and a gap where there is no speech. */
function curve(prediction, name, x, top) {
  const base = top + CURVE - 3;
  const y = (number) => (base - Math.min(1, Math.max(0, number)) * (CURVE - 8)).toFixed(1);
  let end = null;
  const d = momentsOf(prediction).map((each) => {
    const step = `${each.start_s === end ? "L" : "M"}${x(each.start_s).toFixed(1)} ${y(each[name])}H${x(each.end_s).toFixed(1)}`;
    end = each.end_s;
    return step;
  });
  const title = drawn("title", {}, `${name} ${prediction.dimensions[name].toFixed(2)}`);
  const line = (height) => drawn("line", { class: "grid", x1: x(prediction.start_s), x2: x(prediction.end_s), y1: height, y2: height });
  return [line(y(0)), line(y(0.5)), drawn("path", { d: d.join(""), class: "curve" }, title), drawn("text", { class: "lane", x: 0, y: base - CURVE / 2 + 8 }, name)];
}

function ticks(length, width, start) {
  const step = STEPS_S.find((each) => (each / length) * width >= 56) ?? STEPS_S.at(-1);
  const places = [];
  const last = start + length * (1 - 40 / width); // beyond it a time would not fit
  for (let number = Math.ceil(start / step - 1e-9); number * step <= last; number++) places.push(number * step);
  return places;
}

function tick(place, seconds, top, height) {
  const text = clock(seconds, seconds % 1 > 1e-6 && seconds % 1 < 1 - 1e-6 ? 1 : 0);
  return [
    drawn("line", { class: "grid", x1: place, x2: place, y1: top, y2: height - 22 }),
    drawn("text", { x: place, y: height - 6, "text-anchor": "start" }, text),
  ];
}

function inWords(prediction) {
  const said = prediction.segments.slice(0, 20).map((each) => `${clock(each.start_s)} to ${clock(each.end_s)} ${each.label ?? each.rejected}`);
  const rest = prediction.segments.length > 20 ? `; and ${prediction.segments.length - 20} more` : "";
  return `Emotions over time: ${said.join("; ")}${rest}. The table of segments shows the same.`;
}
