// The page: takes recordings, sends them one after the other, and shows the predictions.

import { linksOfAll } from "./downloads.js";
import { clock, element, megabytes, percent, swatch } from "./elements.js";
import { Recorder } from "./recorder.js";
import { showResult } from "./result.js";
import { hasKey, models, predict, useKey } from "./service.js";

const $ = (id) => document.getElementById(id);
const WRONG_KEY = "The server does not accept this key.";
const items = []; // {file, state, progress, prediction, problem}, in their order
let shown = null; // the item whose result is shown
let sending = null; // the request in progress
let recorder = null;
let numRecorded = 0;
let service = { colours: {}, limits: null };

// The model and its limits

async function introduce() {
  try {
    const said = await models();
    const [model] = said.models;
    service = { colours: model.colours ?? {}, limits: said.limits ?? null };
    $("model").textContent = `Model ${model.name}: ${listed([...model.classes, ...(model.dimensions ?? [])]) || model.task}`;
    if (service.limits) {
      const { max_upload_bytes: bytes, max_recording_s: seconds } = service.limits;
      $("hint").textContent = `or drop recordings here, up to ${megabytes(bytes)} and ${lasting(seconds)} each`;
    }
    if (!model.is_calibrated) $("calibration").textContent += " This model's probabilities are not calibrated.";
    $("key-form").hidden = true;
    $("capture").hidden = false;
    return true;
  } catch (problem) {
    if (problem.status === 401) askForKey(hasKey() ? WRONG_KEY : null);
    else complain(problem.message);
    return false;
  }
}

function listed(names) {
  const most = 8;
  return names.length > most ? `${names.slice(0, most).join(", ")} and ${names.length - most} more` : names.join(", ");
}

function lasting(seconds) {
  return seconds < 120 ? `${Math.round(seconds)}\u00a0s` : `${Math.round(seconds / 60)}\u00a0minutes`;
}

function askForKey(problem) {
  $("key-form").hidden = false;
  $("capture").hidden = true;
  $("key-problem").hidden = problem === null;
  $("key-problem").textContent = problem ?? "";
  $("key").focus();
}

$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = $("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) return askForKey("A key consists of letters, digits and symbols, without spaces.");
  useKey(given);
  if (!(await introduce())) return;
  $("key").value = "";
  $("record").focus();
  work();
});

// Taking recordings in

function add(files) {
  complain(null);
  const added = [...files].map((file) => ({ file, state: "waiting" }));
  if (!added.length) return;
  items.push(...added);
  show(added[0]);
  work();
}

$("choose").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => {
  add($("files").files);
  $("files").value = ""; // so that the same file can be chosen again
});

// Anywhere on the page: a browser would open a file dropped outside the panel.
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("capture").classList.add("over");
});
addEventListener("dragleave", (event) => event.relatedTarget === null && $("capture").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("capture").classList.remove("over");
  if ($("capture").hidden || recorder) return;
  const files = [...event.dataTransfer.files];
  if (files.length) add(files);
  else complain("The dropped item is not a file. Save it first, then drop the file.");
});

$("record").addEventListener("click", async () => {
  complain(null);
  const level = new Level($("level"));
  const starting = new Recorder((samples, seconds) => {
    level.add(samples);
    $("elapsed").textContent = clock(seconds, 0);
    const { max_upload_bytes: bytes, max_recording_s: most } = service.limits ?? {};
    if (recorder && (seconds + 0.2 > most || starting.bytes + 10_000 > bytes)) finish();
  });
  $("record").disabled = true;
  try {
    await starting.start();
  } catch (error) {
    return complain(error.message);
  } finally {
    $("record").disabled = false;
  }
  recorder = starting;
  $("elapsed").textContent = "0:00";
  $("idle").hidden = true;
  $("recording").hidden = false;
  level.fit();
  $("stop").focus();
  announce("Recording.");
});

$("stop").addEventListener("click", finish);
$("discard").addEventListener("click", () => {
  recorder.discard();
  listened();
  announce("Discarded.");
});

function finish() {
  const file = recorder.stop(`recording-${++numRecorded}.wav`);
  listened();
  add([file]);
}

function listened() {
  recorder = null;
  $("idle").hidden = false;
  $("recording").hidden = true;
  $("record").focus();
}

/** The last seconds of the microphone's level. */
class Level {
  constructor(canvas) {
    this.canvas = canvas;
    this.levels = [];
  }

  fit() {
    const { width, height } = this.canvas.getBoundingClientRect();
    this.canvas.width = Math.round(width * devicePixelRatio);
    this.canvas.height = Math.round(height * devicePixelRatio);
  }

  add(samples) {
    const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length;
    this.levels.push(Math.min(1, Math.max(0, (10 * Math.log10(power + 1e-9) + 60) / 55))); // -60 to -5 dB
    const { width, height } = this.canvas;
    const column = 4 * devicePixelRatio;
    this.levels = this.levels.slice(-Math.ceil(width / column));
    const paper = this.canvas.getContext("2d");
    paper.clearRect(0, 0, width, height);
    paper.fillStyle = getComputedStyle(this.canvas).color;
    this.levels.forEach((level, place) => {
      const tall = Math.max(2 * devicePixelRatio, level * height);
      paper.fillRect(width - (this.levels.length - place) * column, (height - tall) / 2, column / 2, tall);
    });
  }
}

// Sending, one after the other

async function work() {
  if (sending) return;
  for (let item; (item = items.find((each) => each.state === "waiting")); ) {
    await answer(item);
    if (item.state === "waiting") return; // for a key
  }
}

async function answer(item) {
  change(item, { state: "sending", progress: 0, problem: null });
  const most = service.limits?.max_upload_bytes;
  try {
    if (item.file.size > 2 * most) {
      throw new Error(`The file has ${megabytes(item.file.size)}; this server accepts at most ${megabytes(most)}. It was not sent. Send a part of it, or FLAC instead of WAV.`);
    }
    sending = predict(item.file, $("find-speech").checked, (progress) => change(item, { progress }));
    const prediction = await sending.answer;
    change(item, { state: "done", prediction });
    announce(`${prediction.file}: ${prediction.label ?? `no label, ${prediction.rejected}`}${prediction.confidence === null || prediction.label === null ? "" : `, ${percent(prediction.confidence)}`}.`);
  } catch (problem) {
    if (problem.status === 401) {
      change(item, { state: "waiting" });
      askForKey(hasKey() ? WRONG_KEY : null);
    } else change(item, { state: "refused", problem });
  } finally {
    sending = null;
  }
}

function change(item, news) {
  Object.assign(item, news);
  list();
  if (item === shown) show(item);
}

// Showing

function show(item) {
  const isNew = item !== shown;
  shown = item;
  if (isNew) list();
  const place = $("result");
  if (item.state === "done") return showResult(place, item, service.colours);
  place.hidden = false;
  const title = element("h2", { id: "result-title" }, item.file.name);
  if (item.state === "refused") return place.replaceChildren(title, refusal(item));
  const drawn = place.querySelector("progress");
  if (drawn?.dataset.state === item.state && !isNew) return advance(drawn, item);
  const bar = element("progress", { max: 1, "aria-label": "Sent", "data-state": item.state });
  const stop = element("button", { type: "button", onclick: () => sending?.stop() }, "Stop");
  place.replaceChildren(title, bar, element("p", { class: "under" }), item.state === "sending" ? stop : "");
  advance(bar, item);
}

function advance(bar, item) {
  const isSent = item.state === "sending" && item.progress === 1;
  if (isSent) bar.removeAttribute("value");
  else bar.value = item.progress ?? 0;
  const words = isSent ? "Predicting…" : item.state === "sending" ? `Sending ${megabytes(item.file.size)}…` : "Waiting…";
  bar.nextElementSibling.textContent = words;
}

function refusal(item) {
  const { message, retryAfterS, status } = item.problem;
  const again = element("button", { type: "button", onclick: () => retry(item) }, "Try again");
  const canRetry = status === 0 || status === 408 || status === 429 || status >= 500;
  const wait = retryAfterS ? ` The server asks you to wait ${retryAfterS}\u00a0s.` : "";
  const alert = element("p", { class: "problem", role: "alert" }, message + wait);
  return canRetry ? element("div", {}, alert, again) : alert;
}

function retry(item) {
  change(item, { state: "waiting" });
  work();
}

function list() {
  $("list").hidden = items.length < 2;
  if (items.length < 2) return;
  const rows = items.map((item) => {
    const name = element("button", { type: "button", class: "link", onclick: () => show(item) }, item.file.name);
    return element("tr", { "aria-current": item === shown ? "true" : null }, element("td", {}, name), ...brief(item));
  });
  const focused = [...$("items").querySelectorAll("button")].indexOf(document.activeElement);
  $("items").replaceChildren(...rows);
  if (focused >= 0) $("items").querySelectorAll("button")[focused].focus();
  const predictions = items.filter((item) => item.state === "done").map((item) => item.prediction);
  $("list-downloads").hidden = predictions.length < 2;
  $("list-downloads").replaceChildren(element("span", {}, "Download all"), ...linksOfAll(predictions));
}

function brief(item) {
  const states = { waiting: "waiting", sending: item.progress === 1 ? "predicting…" : "sending…" };
  if (item.state === "refused") return [element("td", { class: "text refused", colspan: 2 }, "refused: " + item.problem.message)];
  if (item.state !== "done") return [element("td", { class: "text" }, states[item.state]), element("td")];
  const { label, rejected, confidence } = item.prediction;
  const numbers = Object.entries(item.prediction.dimensions ?? {}).map(([name, number]) => `${name} ${number.toFixed(2)}`);
  const answer = label === null ? [numbers.join(", ")] : [swatch(service.colours[label] ?? "var(--muted)"), label];
  const said = rejected === null ? answer : [`no label: ${rejected}`];
  return [element("td", { class: "text" }, ...said), element("td", { class: "number" }, confidence === null ? "–" : percent(confidence))];
}

function complain(message) {
  $("capture-problem").hidden = message === null;
  $("capture-problem").textContent = message ?? "";
}

function announce(message) {
  $("announcer").textContent = message;
}

introduce();
