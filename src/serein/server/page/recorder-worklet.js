// Runs in the audio thread: passes samples on, a twentieth of a second at a time.

class Samples extends AudioWorkletProcessor {
  constructor() {
    super();
    this.waiting = new Float32Array(Math.round(sampleRate / 20));
    this.size = 0;
  }

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.waiting[this.size++] = sample;
      if (this.size === this.waiting.length) {
        this.port.postMessage(this.waiting.slice());
        this.size = 0;
      }
    }
    return true;
  }
}

registerProcessor("samples", Samples);
