// Player: all systems of one file start together on one clock; switching moves gains, never sources.
const RAMP_S = 0.01;
const AHEAD_S = 0.02;

class Player extends EventTarget {
  constructor(sampleRate) {
    super();
    this.sampleRate = sampleRate;
    this.buffers = new Map();
    this.duration = 0;
    this.chosen = null; // the system that sounds
    this.wanted = null; // the one asked for last, which this file may not have
    this.loop = false;
    this.playing = false;
    this.context = null;
    this.voices = null; // what sounds now: {out, gains, sources}
    this.offset = 0; // position in seconds at this.since on the context's clock
    this.since = 0;
    this.turn = 0; // so that what was asked for earlier and comes late is dropped
  }

  static async decode(base64, sampleRate) {
    const text = atob(base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    let decoder;
    try {
      decoder = new OfflineAudioContext(1, 1, sampleRate); // decodes at this rate: no resampling
    } catch {
      decoder = new OfflineAudioContext(1, 1, 48000);
    }
    return decoder.decodeAudioData(bytes.buffer);
  }

  load(buffers, duration) {
    this.turn++;
    this.halt();
    this.playing = false;
    this.buffers = buffers;
    this.duration = duration;
    this.offset = 0;
    if (buffers.size) this.chosen = buffers.has(this.wanted) ? this.wanted : buffers.keys().next().value;
    this.report('load');
  }

  get position() {
    if (!this.playing) return this.offset;
    const raw = this.offset + Math.max(0, this.context.currentTime - this.since);
    return this.loop ? raw % this.duration : Math.min(raw, this.duration);
  }

  async play() {
    if (this.playing || !this.buffers.size) return;
    const turn = ++this.turn;
    if (!this.context) this.context = this.open();
    if (this.context.state !== 'running') await this.context.resume();
    if (turn !== this.turn) return;
    if (this.offset >= this.duration - 0.5 / this.sampleRate) this.offset = 0;
    this.playing = true;
    this.start();
    this.report('play');
  }

  pause() {
    this.turn++;
    if (!this.playing) return;
    this.offset = this.position;
    this.playing = false;
    this.halt();
    this.report('pause');
  }

  seek(seconds) {
    const target = Math.min(Math.max(seconds, 0), this.duration);
    this.offset = Math.round(target * this.sampleRate) / this.sampleRate; // whole samples: nothing is interpolated
    if (this.playing) {
      this.halt();
      if (this.offset >= this.duration && !this.loop) this.playing = false;
      else this.start();
    }
    this.report('seek');
  }

  choose(system) {
    if (!this.buffers.has(system)) return;
    this.wanted = system;
    if (system === this.chosen) return;
    this.chosen = system;
    if (this.voices) for (const [name, gain] of this.voices.gains) this.ramp(gain, name === system ? 1 : 0);
    this.report('choose');
  }

  setLoop(on) {
    if (this.playing) {
      this.offset = this.position;
      this.since = Math.max(this.since, this.context.currentTime);
      for (const source of this.voices.sources) source.loop = on;
    }
    this.loop = on;
    this.report('loop');
  }

  open() {
    const Context = window.AudioContext;
    if (!Context) throw new Error('this browser has no Web Audio');
    try {
      return new Context({ sampleRate: this.sampleRate, latencyHint: 'interactive' });
    } catch {
      return new Context(); // a rate that the browser cannot run at: it resamples
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
    const voices = { out, gains: new Map(), sources: [] };
    for (const [name, buffer] of this.buffers) {
      const source = context.createBufferSource();
      const gain = context.createGain();
      source.buffer = buffer;
      source.loop = this.loop;
      gain.gain.value = name === this.chosen ? 1 : 0;
      source.connect(gain).connect(out);
      source.start(at, this.offset);
      voices.gains.set(name, gain);
      voices.sources.push(source);
    }
    voices.sources[0].onended = () => {
      if (this.voices !== voices || !this.playing) return;
      this.playing = false;
      this.offset = this.duration;
      this.halt();
      this.report('end');
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

  ramp(node, target) {
    const now = this.context.currentTime;
    node.gain.cancelScheduledValues(now);
    node.gain.setValueAtTime(node.gain.value, now);
    node.gain.linearRampToValueAtTime(target, now + RAMP_S);
  }

  report(what) {
    this.dispatchEvent(new CustomEvent('change', { detail: what }));
  }
}
