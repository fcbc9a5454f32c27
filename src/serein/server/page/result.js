// The part of the page that shows one prediction.

import { linksOf } from "./downloads.js";
import { clock, element, drawn, percent, swatch } from "./elements.js";
import { overTime, peaksOf, plane, segmentAt } from "./picture.js";

const MOST_BARS = 10;
const MOST_OPEN_ROWS = 24;
const MOST_CLASSES_READ = 5;
const PEAKS = 2000;
const DECODED_HZ = 8000; // enough for a picture, and little memory
const REJECTED = {
  "no speech": "No speech was found in it.",
  "too short": "It contains too little speech for a prediction.",
  "low confidence": "The model is not confident enough: its largest probability is below the server's limit.",
};

/** Show a predicted recording in an element, with its audio if the browser can play it. */
export function showResult(place, item, colours) {
  const { prediction, file } = item;
  const colourOf = (name) => colours[name] ?? "var(--muted)";
  const player = playerOf(item, file);
  const overTimeSection = prediction.segments.length ? element("figure", { class: "playable" }) : null;
  place.replaceChildren(
    ...[
      element("h2", { id: "result-title" }, prediction.file),
      headlines(prediction, colourOf),
      reading(prediction),
      ...transcripts(prediction),
      player,
      overTimeSection && element("h3", {}, "Emotions over time"),
      overTimeSection,
      plane(prediction) && element("section", {}, element("h3", {}, "Valence and arousal"), plane(prediction)),
      element("div", { class: prediction.dimensions ? "columns stacked" : "columns" }, bars(prediction, colourOf), segments(prediction, colourOf, player)),
      nearest("Nearest words", prediction.words, ["word", "cosine"]),
      nearest("Nearest labelled clips", prediction.neighbours, ["id", "label", "speaker", "distance"]),
      element("p", { class: "links" }, element("span", {}, "Download"), ...linksOf(prediction)),
      element("p", { class: "under" }, `Model ${prediction.model.name}, SHA-256 ${prediction.model.sha256.slice(0, 12)}…`),
    ].filter(Boolean),
  );
  place.hidden = false;
  if (overTimeSection) keepDrawn(overTimeSection, item, colourOf, player);
}

function playerOf(item, file) {
  item.url ??= URL.createObjectURL(file);
  const player = element("audio", { controls: true, preload: "metadata", src: item.url, "aria-label": `Play ${file.name}` });
  player.addEventListener("error", () => {
    player.hidden = true; // the server reads more formats than browsers play
    player.parentElement?.querySelectorAll(".play-cell").forEach((cell) => (cell.hidden = true));
    player.parentElement?.querySelector("figure")?.classList.remove("playable");
  });
  return player;
}

function headlines(prediction, colourOf) {
  const { label, rejected, confidence } = prediction;
  const said = label === null ? [] : [swatch(colourOf(label))];
  const reason = label === null ? REJECTED[rejected] ?? rejected : confidence === null ? "" : `probability ${percent(confidence)}`;
  const main = isNumber(prediction) ? numbers(prediction.task, prediction) : [headline(prediction.task, [...said, label ?? "No label"], reason)];
  const others = Object.entries(prediction.tasks)
    .filter(([, other]) => !isTranscript(other))
    .flatMap(([name, other]) => {
      if (isNumber(other)) return numbers(name, other);
      return [headline(name, [other.label ?? "No label"], other.confidence === null ? "" : `probability ${percent(other.confidence)}`)];
    });
  const speechS = total(prediction.segments);
  const num = prediction.segments.length;
  const parts = num ? `${clock(speechS)} of speech in ${num} segment${num === 1 ? "" : "s"}` : "no segments";
  const length = headline("Length", [clock(prediction.end_s - prediction.start_s)], parts);
  return element("div", { class: "headlines" }, ...main, ...others, length);
}

function headline(name, answer, small) {
  return element("div", {}, element("span", { class: "title" }, titled(name)), element("b", {}, ...answer), element("small", {}, small));
}

/** Return a headline for each number that a task predicts. */
function numbers(name, part) {
  const found = typeof part.value === "number" ? { [name]: part.value } : part.dimensions;
  return Object.entries(found).map(([own, number]) => headline(own, [number.toFixed(2)], "from 0 to 1"));
}

/** Return a sentence that states how long each emotion lasts. */
function reading(prediction) {
  if (prediction.segments.length < 2 || isNumber(prediction)) return null;
  const lengths = new Map();
  for (const each of prediction.segments) {
    const name = each.label ?? "without a label";
    lengths.set(name, (lengths.get(name) ?? 0) + each.end_s - each.start_s);
  }
  const sorted = [...lengths].sort((a, b) => b[1] - a[1]);
  const read = sorted.length > MOST_CLASSES_READ ? MOST_CLASSES_READ - 1 : sorted.length;
  const parts = sorted.slice(0, read).map(([name, seconds]) => `${seconds.toFixed(1)}\u00a0s ${name}`);
  const rest = sorted.slice(read).reduce((sum, [, seconds]) => sum + seconds, 0);
  if (rest) parts.push(`${rest.toFixed(1)}\u00a0s other`);
  const list = parts.length === 1 ? parts[0] : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
  return element("p", { class: "reading" }, `Of ${total(prediction.segments).toFixed(1)}\u00a0s of speech: ${list}.`);
}

function transcripts(prediction) {
  return Object.values(prediction.tasks)
    .filter((other) => isTranscript(other) && other.label)
    .map((other) => element("blockquote", {}, element("p", {}, other.label)));
}

function isTranscript(other) {
  return Object.keys(other.probabilities).length === 0 && other.confidence === null && !isNumber(other);
}

/** Return whether a part was predicted by a regression task: a number, or several. */
function isNumber(part) {
  return part.label === null && (typeof part.value === "number" || part.dimensions !== undefined) && !Object.keys(part.probabilities).length;
}

function bars(prediction, colourOf) {
  const sorted = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  if (!sorted.length) return null;
  const rows = sorted.slice(0, MOST_BARS).map(([name, probability]) => {
    const bar = element("span");
    bar.style.width = `${100 * probability}%`;
    bar.style.background = colourOf(name);
    return element(
      "tr",
      {},
      element("th", { scope: "row", title: name }, name),
      element("td", { class: "bar", "aria-hidden": "true" }, bar),
      element("td", { class: "number" }, percent(probability)),
    );
  });
  const more = sorted.length - rows.length;
  return element(
    "section",
    {},
    element("h3", { id: "bars-title" }, "Probabilities"),
    element("table", { class: "wide bars", "aria-labelledby": "bars-title" }, element("tbody", {}, ...rows)),
    more > 0 && element("p", { class: "under" }, `The ${MOST_BARS} most probable of ${sorted.length} classes; the JSON file contains all of them.`),
  );
}

function segments(prediction, colourOf, player) {
  if (!prediction.segments.length) return null;
  const shortened = (title, short) => [element("span", { class: "wide-only" }, title), element("span", { class: "narrow-only" }, short)];
  const dimensions = Object.keys(prediction.dimensions ?? {});
  const hasLabels = !isNumber(prediction);
  const label = hasLabels ? [[titled(prediction.task), "text"], [shortened("Probability", "Prob.")]] : [];
  const heads = [["From"], ["To"], ...label, ...dimensions.map((name) => [shortened(titled(name), `${titled(name).slice(0, 3)}.`)])];
  const rows = prediction.segments.map((each, place) => {
    const times = `${clock(each.start_s)} to ${clock(each.end_s)}`;
    const icon = drawn("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, drawn("path", { d: "M2 1v10l9-5z" }));
    const play = element("button", { type: "button", class: "play", "aria-label": `Play ${times}`, onclick: () => playFrom(player, prediction, each.start_s) }, icon);
    return element(
      "tr",
      { "data-place": place },
      element("td", { class: "play-cell" }, play),
      element("td", { class: "time" }, clock(each.start_s)),
      element("td", { class: "time" }, clock(each.end_s)),
      hasLabels && element("td", { class: "text" }, ...(each.label === null ? [each.rejected] : [swatch(colourOf(each.label)), each.label])),
      hasLabels && element("td", { class: "number" }, each.confidence === null ? "–" : percent(each.confidence)),
      ...dimensions.map((name) => element("td", { class: "number" }, each.dimensions[name].toFixed(2))),
    );
  });
  const head = heads.map(([name, kind]) => element("th", { scope: "col", class: kind ?? null }, ...[name].flat()));
  const table = element(
    "table",
    { class: "wide", id: "segments", "aria-labelledby": "segments-title" },
    element("thead", {}, element("tr", {}, element("td", { class: "play-cell" }), ...head)),
    element("tbody", {}, ...rows),
  );
  const title = element("h3", { id: "segments-title" }, "Segments");
  if (rows.length <= MOST_OPEN_ROWS) return element("section", { class: "scroll" }, title, table);
  const folded = element("details", {}, element("summary", {}, `All ${rows.length} segments`), table);
  return element("section", { class: "scroll" }, title, folded);
}

/** Return a table of the nearest neighbours of the recording, if the service searches for them. */
function nearest(title, found, columns) {
  if (!found?.length) return null;
  const kinds = columns.map((column) => (typeof found[0][column] === "number" ? "number" : "text"));
  const cell = (value) => (typeof value === "number" ? value.toFixed(2) : value ?? "–");
  const heads = columns.map((column, i) => element("th", { scope: "col", class: kinds[i] }, titled(column)));
  const rows = found.map((each) =>
    element("tr", {}, ...columns.map((column, i) => element("td", { class: kinds[i] }, cell(each[column])))),
  );
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
  return element("section", { class: "scroll" }, element("h3", {}, title), table);
}

/** Draw the picture in the available width, again whenever that changes, and with the waveform once it is decoded. */
function keepDrawn(figure, item, colourOf, player) {
  let picture;
  const draw = () => {
    if (!figure.isConnected || !figure.clientWidth) return;
    picture = overTime(item.prediction, colourOf, item.peaks ?? null, figure.clientWidth);
    figure.replaceChildren(picture);
  };
  new ResizeObserver(draw).observe(figure);
  decoded(item).then(draw);
  figure.addEventListener("click", (event) => {
    const seconds = picture.timeAt(event.clientX);
    if (seconds !== null && !player.hidden) playFrom(player, item.prediction, item.prediction.start_s + seconds);
  });
  const follow = () => {
    if (!figure.isConnected) return;
    picture.showPlace(player.currentTime);
    const current = segmentAt(item.prediction, item.prediction.start_s + player.currentTime);
    figure.parentElement.querySelectorAll("#segments tbody tr").forEach((row, place) => {
      if (place === current) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    });
    if (!player.paused) requestAnimationFrame(follow);
  };
  player.addEventListener("play", follow);
  player.addEventListener("seeked", follow);
}

/** Store the peaks of a recording with it; none if the browser cannot decode it. */
async function decoded(item) {
  if (item.peaks !== undefined) return;
  try {
    const buffer = await new OfflineAudioContext(1, 1, DECODED_HZ).decodeAudioData(await item.file.arrayBuffer());
    item.peaks = peaksOf(buffer.getChannelData(0), PEAKS);
  } catch {
    item.peaks = null;
  }
}

function playFrom(player, prediction, seconds) {
  player.currentTime = seconds - prediction.start_s;
  player.play();
}

function total(segments) {
  return segments.reduce((sum, each) => sum + each.end_s - each.start_s, 0);
}

function titled(name) {
  return name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
}
