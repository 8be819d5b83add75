// The student hop by hop: states carried from call to call, its delay taken out, as kdse.models.streaming.Streamer.
import { join } from './resample.js';

const ARRAYS = { float32: Float32Array, float64: Float64Array };

export class Streamer {
  constructor(ort, session, about) {
    this.ort = ort;
    this.session = session;
    this.states = about.states;
    this.hop = about.hop_samples;
    this.delay = about.latency_samples - about.hop_samples;
    this.reset();
  }

  reset() {
    this.feeds = {};
    for (const { name, shape, dtype } of this.states) this.feeds[`state.${name}`] = this.filled(shape, dtype, 0);
    this.waiting = new Float32Array(this.hop);
    this.filledTo = 0;
    this.received = 0;
    this.emitted = 0;
    this.toDrop = this.delay;
  }

  // Takes samples, returns those that are ready.
  async push(samples) {
    this.received += samples.length;
    return this.advance(samples);
  }

  // Ends the signal: the rest, so that as much came out as went in.
  async flush() {
    const missing = this.received - this.emitted;
    const zeros = (count) => new Float32Array(count);
    const pieces = [];
    if (missing) {
      if (this.filledTo) pieces.push(await this.advance(zeros(this.hop - this.filledTo)));
      const ended = this.states.find(({ name }) => name === 'ended'); // a model that must know where the signal ends
      if (ended) this.feeds['state.ended'] = this.filled(ended.shape, ended.dtype, 1);
      while (this.received > this.emitted) pieces.push(await this.advance(zeros(this.hop)));
    }
    this.reset();
    return join(pieces).slice(0, missing);
  }

  async advance(samples) {
    const pieces = [];
    for (let at = 0; at < samples.length; ) {
      const count = Math.min(this.hop - this.filledTo, samples.length - at);
      this.waiting.set(samples.subarray(at, at + count), this.filledTo);
      this.filledTo += count;
      at += count;
      if (this.filledTo === this.hop) pieces.push(await this.step());
    }
    const ready = join(pieces);
    const dropped = Math.min(this.toDrop, ready.length);
    this.toDrop -= dropped;
    this.emitted += ready.length - dropped;
    return dropped ? ready.slice(dropped) : ready;
  }

  async step() {
    this.filledTo = 0;
    const audio = new this.ort.Tensor('float32', this.waiting, [1, this.hop]);
    const results = await this.session.run({ audio, ...this.feeds });
    for (const { name } of this.states) this.feeds[`state.${name}`] = results[`next.${name}`];
    return results.enhanced.data;
  }

  filled(shape, dtype, value) {
    const size = shape.reduce((product, length) => product * length, 1);
    return new this.ort.Tensor(dtype, new ARRAYS[dtype](size).fill(value), shape);
  }
}
