// Resampling of a signal that arrives in pieces, the same in every browser: the polyphase filter of `kdse enhance`
// (scipy.signal.resample_poly: windowed sinc, Kaiser window with beta 5, ten zero crossings to either side).
const ZERO_CROSSINGS = 10;
const BETA = 5;

const gcd = (a, b) => (b ? gcd(b, a % b) : a);

// Modified Bessel function of order zero, by its series.
const bessel = (x) => {
  let sum = 1;
  for (let k = 1, term = 1; term > 1e-17 * sum; k++) sum += term *= (x / (2 * k)) ** 2;
  return sum;
};

const filter = (up, half) => {
  const cutoff = ZERO_CROSSINGS / half;
  const taps = Float64Array.from({ length: 2 * half + 1 }, (_, i) => {
    const x = Math.PI * cutoff * (i - half);
    return (x ? Math.sin(x) / x : 1) * bessel(BETA * Math.sqrt(1 - ((i - half) / half) ** 2));
  });
  const sum = taps.reduce((a, b) => a + b, 0);
  return taps.map((tap) => (tap * up) / sum);
};

// N samples become ceil(N * toHz / fromHz); the pieces of push and flush, joined, do not depend on the chunking.
export class Resampler {
  constructor(fromHz, toHz) {
    const divisor = gcd(fromHz, toHz);
    [this.up, this.down] = [toHz / divisor, fromHz / divisor];
    this.half = ZERO_CROSSINGS * Math.max(this.up, this.down);
    this.taps = this.up === this.down ? null : filter(this.up, this.half);
    this.waiting = new Float32Array(0); // input from sample `first` on
    this.first = 0;
    this.received = 0;
    this.emitted = 0;
  }

  push(samples) {
    if (!this.taps) return samples;
    const joined = new Float32Array(this.waiting.length + samples.length);
    joined.set(this.waiting);
    joined.set(samples, this.waiting.length);
    this.waiting = joined;
    this.received += samples.length;
    // Output k needs input up to floor((k down + half) / up).
    return this.produce(Math.max(this.emitted, Math.floor((this.received * this.up - 1 - this.half) / this.down) + 1));
  }

  flush() {
    return this.taps ? this.produce(Math.ceil((this.received * this.up) / this.down)) : new Float32Array(0);
  }

  // Outputs `emitted` to `end`; samples outside the signal are zero.
  produce(end) {
    const { up, down, half, taps, waiting, first } = this;
    const out = new Float32Array(end - this.emitted);
    for (let k = this.emitted; k < end; k++) {
      const centre = k * down;
      const low = Math.max(Math.ceil((centre - half) / up), first);
      const high = Math.min(Math.floor((centre + half) / up), first + waiting.length - 1);
      let sum = 0;
      for (let j = low, tap = half + centre - low * up; j <= high; j++, tap -= up) sum += taps[tap] * waiting[j - first];
      out[k - this.emitted] = sum;
    }
    this.emitted = end;
    const keep = Math.min(Math.max(0, Math.ceil((end * down - half) / up) - first), waiting.length);
    this.waiting = waiting.slice(keep);
    this.first += keep;
    return out;
  }
}

export const resample = (samples, fromHz, toHz) => {
  const stream = new Resampler(fromHz, toHz);
  return join([stream.push(samples), stream.flush()]);
};

export const join = (pieces) => {
  const filled = pieces.filter((piece) => piece.length);
  if (filled.length === 1) return filled[0];
  const out = new Float32Array(filled.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of filled) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
};
