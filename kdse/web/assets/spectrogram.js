// Power spectrograms: squared magnitude of a 512-point Hann STFT, frames spread evenly over the signal, as the pictures
// of `kdse report` (kdse.report.page.spectrogram).
export const POINTS = 512;
export const BINS = POINTS / 2 + 1;
const MAX_COLUMNS = 640;
const COLUMN_SAMPLES = POINTS / 4;
const MAX_HOP_SAMPLES = POINTS / 2;

const HANN = Float64Array.from({ length: POINTS }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / POINTS));
const COS = Float64Array.from({ length: POINTS / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / POINTS));
const SIN = Float64Array.from({ length: POINTS / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / POINTS));
const REVERSED = Uint16Array.from({ length: POINTS }, (_, i) => {
  let out = 0;
  for (let bit = 1; bit < POINTS; bit *= 2) out = out * 2 + (i & bit ? 1 : 0);
  return out;
});

// Fourier transform in place, radix 2, of input in bit-reversed order.
const transform = (re, im) => {
  for (let size = 2; size <= POINTS; size *= 2) {
    const half = size / 2;
    const stride = POINTS / size;
    for (let start = 0; start < POINTS; start += size) {
      for (let i = 0; i < half; i++) {
        const [a, b, c, s] = [start + i, start + i + half, COS[i * stride], SIN[i * stride]];
        const x = re[b] * c + im[b] * s;
        const y = im[b] * c - re[b] * s;
        re[b] = re[a] - x;
        im[b] = im[a] - y;
        re[a] += x;
        im[a] += y;
      }
    }
  }
};

// {columns, power: Float32Array [columns x BINS]} of a signal; a long column is the mean power of several frames.
export const power = (samples) => {
  const columns = Math.max(1, Math.min(MAX_COLUMNS, Math.ceil(samples.length / COLUMN_SAMPLES)));
  const pooled = Math.max(1, Math.ceil(samples.length / (columns * MAX_HOP_SAMPLES)));
  const frames = columns * pooled;
  const out = new Float32Array(columns * BINS);
  const re = new Float64Array(POINTS);
  const im = new Float64Array(POINTS);
  for (let frame = 0; frame < frames; frame++) {
    const start = Math.floor(((frame + 0.5) * samples.length) / frames) - POINTS / 2;
    for (let i = 0; i < POINTS; i++) re[REVERSED[i]] = HANN[i] * (samples[start + i] ?? 0);
    im.fill(0);
    transform(re, im);
    const row = Math.floor(frame / pooled) * BINS;
    for (let bin = 0; bin < BINS; bin++) out[row + bin] += (re[bin] ** 2 + im[bin] ** 2) / pooled;
  }
  return { columns, power: out };
};
