// The microphone: plain samples, as WAV, which every server reads; none of the browser's filters changes the voice.

const RATE_HZ = 16_000; // the rate of the models; a higher rate would be sent for nothing
const HEADER_BYTES = 44;

/** Recording from the microphone, from `start` to `stop`. */
export class Recorder {
  /** @param onSamples Called with each piece of samples (float, -1 to 1) and the seconds recorded so far. */
  constructor(onSamples) {
    this.onSamples = onSamples;
    this.pieces = [];
    this.length = 0;
  }

  /** Request the microphone and begin; throws an error in plain words if there is none. */
  async start() {
    if (!navigator.mediaDevices || !window.AudioWorkletNode)
      throw new Error("Browsers record only on pages from https:// or localhost. Choose a file instead.");
    try {
      const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
      this.stream = await navigator.mediaDevices.getUserMedia({ audio });
      await this.#listen();
    } catch (error) {
      this.#close();
      throw new Error(REASONS[error.name] ?? `The microphone cannot be used (${error.message}).`);
    }
  }

  /** End, and return the recording as a WAV file. */
  stop(name) {
    const rate = this.context.sampleRate;
    this.#close();
    return new File([wav(this.pieces, this.length, rate)], name, { type: "audio/wav" });
  }

  /** End, and keep nothing. */
  discard() {
    this.#close();
    this.pieces = [];
  }

  get bytes() {
    return HEADER_BYTES + 2 * this.length;
  }

  async #listen() {
    try {
      this.#connect(new AudioContext({ sampleRate: RATE_HZ }));
    } catch (error) {
      if (error.name !== "NotSupportedError") throw error;
      this.#connect(new AudioContext()); // Firefox connects a microphone only to a context of the same rate
    }
    await this.context.audioWorklet.addModule(new URL("recorder-worklet.js", import.meta.url));
    const node = new AudioWorkletNode(this.context, "samples", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = ({ data }) => {
      this.pieces.push(data);
      this.length += data.length;
      this.onSamples(data, this.length / this.context.sampleRate);
    };
    this.source.connect(node);
    await this.context.resume();
  }

  #connect(context) {
    this.context = context;
    this.source = context.createMediaStreamSource(this.stream);
  }

  #close() {
    this.stream?.getTracks().forEach((track) => track.stop());
    if (this.context && this.context.state !== "closed") this.context.close();
  }
}

const REASONS = {
  NotAllowedError: "The browser did not allow the microphone. Allow it for this page in the browser's settings, or choose a file.",
  NotFoundError: "No microphone was found. Connect one, or choose a file.",
  NotReadableError: "The microphone is used by another program. Close that, or choose a file.",
};

/** Return samples as a WAV file of 16-bit integers, mono. */
export function wav(pieces, length, rate) {
  const view = new DataView(new ArrayBuffer(HEADER_BYTES + 2 * length));
  const word = (place, text) => [...text].forEach((letter, i) => view.setUint8(place + i, letter.charCodeAt(0)));
  word(0, "RIFF");
  view.setUint32(4, HEADER_BYTES - 8 + 2 * length, true);
  word(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // integers
  view.setUint16(22, 1, true); // channel
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  word(36, "data");
  view.setUint32(40, 2 * length, true);
  let place = HEADER_BYTES;
  for (const piece of pieces) {
    for (const sample of piece) {
      view.setInt16(place, Math.round(Math.max(-1, Math.min(1, sample)) * 32767), true);
      place += 2;
    }
  }
  return view;
}
