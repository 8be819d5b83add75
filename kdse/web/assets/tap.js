// On the audio thread: the microphone goes out in blocks, the enhanced signal comes back and is played if asked for.
const BLOCK = 512;
const LEVEL_SECONDS = 0.05;

class Tap extends AudioWorkletProcessor {
  constructor({ processorOptions: { holdSeconds } }) {
    super();
    this.hold = Math.round(holdSeconds * sampleRate); // played only once so much is there, so that it never stutters
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
    this.queue = [];
    this.queued = 0;
    this.at = 0; // in the first piece of the queue
    this.sounding = false;
    this.listening = false;
    this.ended = false;
    this.square = 0;
    this.peak = 0;
    this.measured = 0;
    this.port.onmessage = ({ data }) => this.obey(data);
  }

  obey(data) {
    if (data.worker) {
      this.worker = data.worker;
      this.worker.onmessage = (message) => this.enqueue(message.data);
    } else if (data === 'end') {
      if (this.filled) this.worker.postMessage(this.block.slice(0, this.filled));
      this.worker.postMessage('end');
      this.ended = true;
    } else {
      this.listening = data.listening;
    }
  }

  enqueue(piece) {
    this.queue.push(piece);
    this.queued += piece.length;
    while (this.queued > 4 * this.hold && this.queue.length > 1) this.queued -= this.queue.shift().length; // late: catch up
  }

  process([input], [output]) {
    if (this.ended) return false;
    const frames = output[0].length;
    const channels = input.length;
    for (let i = 0; i < frames; i++) {
      let value = 0;
      for (let c = 0; c < channels; c++) value += input[c][i] / channels;
      this.block[this.filled++] = value;
      this.square += value * value;
      this.peak = Math.max(this.peak, Math.abs(value));
      if (this.filled === BLOCK) {
        this.worker?.postMessage(this.block.slice());
        this.filled = 0;
      }
    }
    this.measured += frames;
    if (this.measured >= LEVEL_SECONDS * sampleRate) {
      this.port.postMessage({ rms: Math.sqrt(this.square / this.measured), peak: this.peak });
      this.square = this.peak = this.measured = 0;
    }
    this.play(output);
    return true;
  }

  play(output) {
    const frames = output[0].length;
    if (this.queued >= this.hold) this.sounding = true;
    if (this.queued < frames) this.sounding = false;
    if (!this.sounding) return;
    for (let i = 0; i < frames; i++) {
      const value = this.queue[0][this.at++];
      if (this.listening) for (const channel of output) channel[i] = value;
      if (this.at === this.queue[0].length) {
        this.queue.shift();
        this.at = 0;
      }
    }
    this.queued -= frames;
  }
}

registerProcessor('tap', Tap);
