// Before and after start together on one clock; switching and mixing move gains, never sources.
const RAMP_S = 0.01;
const AHEAD_S = 0.02;

export class Player extends EventTarget {
  constructor(rate) {
    super();
    this.rate = rate;
    this.sounds = null; // {noisy, enhanced}: [Float32Array]
    this.duration = 0;
    this.chosen = 'enhanced';
    this.mix = 0;
    this.loop = false;
    this.playing = false;
    this.context = null;
    this.voices = null; // what sounds now: {out, gains, sources}
    this.offset = 0; // position in seconds at this.since on the context's clock
    this.since = 0;
    this.turn = 0; // so that what was asked for earlier and comes late is dropped
  }

  load(noisy, enhanced) {
    this.unload();
    this.sounds = { noisy, enhanced };
    this.duration = noisy[0].length / this.rate;
    this.report();
  }

  unload() {
    this.turn++;
    this.halt();
    this.playing = false;
    this.sounds = null;
    this.duration = this.offset = 0;
    this.report();
  }

  get position() {
    if (!this.playing) return this.offset;
    const raw = this.offset + Math.max(0, this.context.currentTime - this.since);
    return this.loop ? raw % this.duration : Math.min(raw, this.duration);
  }

  // Gain of each signal: before, or (1 - mix) enhanced + mix noisy.
  get gains() {
    return this.chosen === 'noisy' ? { noisy: 1, enhanced: 0 } : { noisy: this.mix, enhanced: 1 - this.mix };
  }

  async play() {
    if (this.playing || !this.sounds) return;
    const turn = ++this.turn;
    if (!this.context) this.context = this.open();
    if (this.context.state !== 'running') await this.context.resume();
    if (turn !== this.turn) return;
    if (this.offset >= this.duration - 0.5 / this.rate) this.offset = 0;
    this.playing = true;
    this.start();
    this.report();
  }

  pause() {
    this.turn++;
    if (!this.playing) return;
    this.offset = this.position;
    this.playing = false;
    this.halt();
    this.report();
  }

  seek(seconds) {
    const target = Math.min(Math.max(seconds, 0), this.duration);
    this.offset = Math.round(target * this.rate) / this.rate; // whole samples: nothing is interpolated
    if (this.playing) {
      this.halt();
      if (this.offset >= this.duration && !this.loop) this.playing = false;
      else this.start();
    }
    this.report();
  }

  choose(name) {
    this.chosen = name;
    this.balance();
  }

  setMix(mix) {
    this.mix = mix;
    this.balance();
  }

  setLoop(on) {
    if (this.playing) {
      this.offset = this.position;
      this.since = Math.max(this.since, this.context.currentTime);
      for (const source of this.voices.sources) source.loop = on;
    }
    this.loop = on;
  }

  open() {
    try {
      return new AudioContext({ sampleRate: this.rate, latencyHint: 'interactive' });
    } catch {
      return new AudioContext(); // a rate that the browser cannot run at: it resamples
    }
  }

  start() {
    const { context } = this;
    const at = context.currentTime + AHEAD_S;
    const out = context.createGain();
    out.connect(context.destination);
    if (this.offset > 0) {
      out.gain.setValueAtTime(0, at);
      out.gain.linearRampToValueAtTime(1, at + RAMP_S);
    }
    const voices = { out, gains: {}, sources: [] };
    for (const [name, channels] of Object.entries(this.sounds)) {
      const buffer = context.createBuffer(channels.length, channels[0].length, this.rate);
      channels.forEach((samples, i) => buffer.copyToChannel(samples, i));
      const source = new AudioBufferSourceNode(context, { buffer, loop: this.loop });
      const gain = new GainNode(context, { gain: this.gains[name] });
      source.connect(gain).connect(out);
      source.start(at, this.offset);
      voices.gains[name] = gain;
      voices.sources.push(source);
    }
    voices.sources[0].onended = () => {
      if (this.voices !== voices || !this.playing) return;
      this.playing = false;
      this.offset = this.duration;
      this.halt();
      this.report();
    };
    this.voices = voices;
    this.since = at;
  }

  halt() {
    const { voices, context } = this;
    this.voices = null;
    if (!voices) return;
    this.ramp(voices.out, 0);
    for (const source of voices.sources) source.stop(context.currentTime + 2 * RAMP_S);
    setTimeout(() => voices.out.disconnect(), 200);
  }

  balance() {
    if (this.voices) for (const [name, gain] of Object.entries(this.gains)) this.ramp(this.voices.gains[name], gain);
  }

  ramp(node, target) {
    const now = this.context.currentTime;
    node.gain.cancelScheduledValues(now);
    node.gain.setValueAtTime(node.gain.value, now);
    node.gain.linearRampToValueAtTime(target, now + RAMP_S);
  }

  report() {
    this.dispatchEvent(new Event('change'));
  }
}
