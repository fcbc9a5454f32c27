// The service's own API: the client's key, requests, and the server's reasons for refusals.

const KEY = "serein-api-key";
let key = remembered();

/** Why there is no prediction, in the server's own words if it gave any. */
export class Problem extends Error {
  constructor(message, { status = 0, retryAfterS = null } = {}) {
    super(message);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

/** Keep a key until the tab is closed. */
export function useKey(given) {
  key = given;
  try {
    sessionStorage.setItem(KEY, given);
  } catch {
    // Storage is off: the key is kept until the page is left.
  }
}

export function hasKey() {
  return key !== "";
}

/** Return the models and the limits of the service. */
export function models() {
  return new Sending("GET", "v1/models").answer;
}

/** Send a recording; of the returned object, `answer` is its prediction, and `stop()` cancels the request. */
export function predict(file, findsSpeech, onProgress) {
  const form = new FormData();
  form.append("file", file, file.name);
  return new Sending("POST", `v1/predict?segments=${findsSpeech ? "auto" : "never"}`, form, onProgress);
}

class Sending {
  constructor(method, place, body = null, onProgress = () => {}) {
    const request = (this.request = new XMLHttpRequest()); // fetch does not report how much has been sent
    this.answer = new Promise((resolve, reject) => {
      request.open(method, place);
      if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
      request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
      request.upload.onload = () => onProgress(1);
      request.onload = () => {
        const said = parsed(request.responseText);
        if (request.status === 200 && said) resolve(said);
        else reject(problemOf(request, said));
      };
      request.onabort = () => reject(new Problem("Stopped."));
      request.onerror = () =>
        reject(new Problem("The connection to the server failed before it answered. Is the server still running and reachable?"));
      request.send(body);
    });
  }

  stop() {
    this.request.abort();
  }
}

function problemOf(request, said) {
  const wait = Number(request.getResponseHeader("Retry-After"));
  const options = { status: request.status, retryAfterS: wait > 0 ? wait : null };
  if (typeof said?.detail === "string") return new Problem(said.detail, options);
  // A proxy may answer in the server's place, with a page of its own.
  const status = [request.status, request.statusText].filter(Boolean).join(" ");
  const size = request.status === 413 ? " The recording is too large for a proxy in front of the server." : "";
  return new Problem(`The response was ${status}, without a reason.${size}`, options);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function remembered() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}
