// Files for other programs, as `serein predict --format` writes them; made here, so that the server keeps nothing.

import { element } from "./elements.js";
import { momentsOf } from "./picture.js";

/** Return links to files of one prediction. */
export function linksOf(prediction) {
  const stem = prediction.file.replace(/\.[^.]*$/, "") || "prediction";
  return [
    link(`${stem}.json`, "application/json", () => JSON.stringify(prediction, null, 2) + "\n"),
    link(`${stem}.csv`, "text/csv", () => csv([prediction])),
    link(`${stem}.TextGrid`, "text/plain", () => textGrid(prediction)),
  ];
}

/** Return links to files of several predictions. */
export function linksOfAll(predictions) {
  return [
    link("predictions.jsonl", "application/x-ndjson", () => predictions.map((each) => JSON.stringify(each) + "\n").join("")),
    link("predictions.csv", "text/csv", () => csv(predictions)),
  ];
}

/** Return a row for each segment, or one row for a recording without segments. */
export function csv(predictions) {
  const classes = [...new Set(predictions.flatMap((each) => Object.keys(each.probabilities)))];
  const dimensions = [...new Set(predictions.flatMap((each) => Object.keys(each.dimensions ?? {})))];
  const header = ["file", "id", "start_s", "end_s", "label", "confidence", "rejected", ...classes, ...dimensions];
  const rows = predictions.flatMap((prediction) =>
    (prediction.segments.length ? prediction.segments : [prediction]).map((part) => [
      prediction.file,
      prediction.id,
      part.start_s.toFixed(3),
      part.end_s.toFixed(3),
      part.value?.toFixed(6) ?? part.label,
      part.confidence?.toFixed(6),
      part.rejected,
      ...classes.map((name) => part.probabilities[name]?.toFixed(6)),
      ...dimensions.map((name) => part.dimensions?.[name]?.toFixed(6)),
    ]),
  );
  return [header, ...rows].map((row) => row.map(cell).join(",") + "\r\n").join("");
}

/** Return a TextGrid of interval tiers, label, probability and each dimension; all are empty where there is no speech.
 *
 * Source: the Praat manual, "TextGrid file formats", the long text format.
 */
export function textGrid(prediction) {
  const start = prediction.start_s;
  const end = prediction.end_s;
  const tiers = [
    [prediction.task, tiled(prediction, (part) => part.rejected ?? part.label ?? part.value?.toFixed(2) ?? "")],
    ["confidence", tiled(prediction, (part) => part.confidence?.toFixed(2) ?? "")],
    ...Object.keys(prediction.dimensions ?? {}).map((name) => [name, tiled(prediction, (part) => part[name].toFixed(2), momentsOf(prediction))]),
  ];
  const lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", `xmin = ${start.toFixed(6)}`, `xmax = ${end.toFixed(6)}`];
  lines.push("tiers? <exists>", `size = ${tiers.length}`, "item []:");
  tiers.forEach(([name, intervals], tier) => {
    lines.push(`    item [${tier + 1}]:`, '        class = "IntervalTier"', `        name = "${quoted(name)}"`);
    lines.push(`        xmin = ${start.toFixed(6)}`, `        xmax = ${end.toFixed(6)}`, `        intervals: size = ${intervals.length}`);
    intervals.forEach(([from, to, text], place) => {
      lines.push(`        intervals [${place + 1}]:`, `            xmin = ${from}`, `            xmax = ${to}`);
      lines.push(`            text = "${quoted(text)}"`);
    });
  });
  return lines.join("\n") + "\n";
}

/** Return intervals that fill the recording without a gap, as TextGrids must. */
function tiled(prediction, textOf, parts = prediction.segments) {
  const intervals = [];
  let place = (0).toFixed(6);
  for (const part of parts) {
    const start = part.start_s.toFixed(6);
    const end = Math.min(part.end_s, prediction.end_s).toFixed(6);
    if (start !== place) intervals.push([place, start, ""]);
    intervals.push([start, end, textOf(part)]);
    place = end;
  }
  const end = prediction.end_s.toFixed(6);
  return place === end ? intervals : [...intervals, [place, end, ""]];
}

function quoted(text) {
  return text.replaceAll('"', '""');
}

function cell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function link(name, type, contentOf) {
  const anchor = element("a", { href: "#", download: name }, name);
  anchor.addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([contentOf()], { type: `${type};charset=utf-8` }));
    anchor.href = url;
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  });
  return anchor;
}
