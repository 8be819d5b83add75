// Everything that takes time, away from the page: loads the runtime and the model, enhances, computes spectrograms.
import { mean } from './mean.js';
import { Resampler, join, resample } from './resample.js';
import { power } from './spectrogram.js';
import { Streamer } from './streamer.js';

const PIECE_HOPS = 16;
const TURN_MS = 60; // how long it works before it looks for messages (cancel)

let about; // metadata of the model
let ort;
let session;
let current = 0; // the job that counts; all others are cancelled
let loaded; // promise of the model
let kept = null; // {noisy, enhanced}, each [Float32Array], for the pictures

const WARM_UP_HOPS = 60;

const breathe = () => new Promise((done) => setTimeout(done));

const load = async ({ urls, bytes, metadata }) => {
  about = metadata;
  const total = bytes.wasm + bytes.model;
  let done = 0;
  const get = async (url) => {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url.split('/').pop()}: the server answers ${response.status}`);
    const parts = [];
    for (const reader = response.body.getReader(); ; ) {
      const { value, done: end } = await reader.read();
      if (end) break;
      parts.push(value);
      done += value.length;
      postMessage({ type: 'loading', share: Math.min(1, done / total) });
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  };
  ort = await import(urls.script);
  const [wasm, model] = [await get(urls.wasm), await get(urls.model)];
  ort.env.wasm.numThreads = 1; // threads would need headers (COOP, COEP) that a plain host does not send
  ort.env.wasm.wasmBinary = wasm.buffer;
  ort.env.logLevel = 'error';
  session = await ort.InferenceSession.create(model, { executionProviders: ['wasm'] });
  postMessage({ type: 'ready' });
  warmUp();
};

// Browsers compile WebAssembly in haste first and well once it is used: it is used a little before the first file comes.
const warmUp = async () => {
  const streamer = new Streamer(ort, session, about);
  for (let i = 0; i < WARM_UP_HOPS && !current; i++) {
    await streamer.push(new Float32Array(about.hop_samples));
    await breathe();
  }
};

// One file: every channel through its own stream, in turn.
const enhance = async ({ id, channels, rate }) => {
  const hz = about.sample_rate_hz;
  const noisy = channels.map((samples) => resample(samples, rate, hz));
  const size = PIECE_HOPS * about.hop_samples;
  const total = noisy.length * noisy[0].length;
  const enhanced = [];
  let done = 0;
  let spent = 0;
  let turn = performance.now();
  for (const samples of noisy) {
    const streamer = new Streamer(ort, session, about);
    const pieces = [];
    for (let at = 0; at < samples.length; at += size) {
      const started = performance.now();
      const piece = samples.subarray(at, at + size);
      pieces.push(await streamer.push(piece));
      done += piece.length;
      const now = performance.now();
      spent += now - started;
      if (now - turn > TURN_MS) {
        postMessage({ type: 'progress', id, share: done / total });
        await breathe();
        if (id !== current) return;
        turn = performance.now();
      }
    }
    const started = performance.now();
    pieces.push(await streamer.flush());
    spent += performance.now() - started;
    enhanced.push(join(pieces));
  }
  finish(id, noisy, enhanced, spent / 1000 / (total / hz));
};

const finish = (id, noisy, enhanced, realTimeFactor) => {
  if (id !== current) return;
  if (!enhanced.every((samples) => samples.every(Number.isFinite))) throw new Error('the model returned NaN or infinite samples');
  kept = { noisy, enhanced };
  postMessage({ type: 'done', id, noisy, enhanced, realTimeFactor });
};

// The microphone: pieces come from the audio thread by a port of their own, enhanced ones go back for the headphones.
const live = ({ id, port, rate, maxSamples }) => {
  const hz = about.sample_rate_hz;
  const [down, up] = [new Resampler(rate, hz), new Resampler(hz, rate)];
  const streamer = new Streamer(ort, session, about);
  const [noisy, enhanced] = [[], []];
  let spent = 0;
  let samples = 0;
  let queue = Promise.resolve();
  const take = async (piece) => {
    if (samples >= maxSamples) return;
    const started = performance.now();
    const part = piece.subarray(0, maxSamples - samples);
    noisy.push(part.slice());
    samples += part.length;
    const out = await streamer.push(part);
    enhanced.push(out);
    if (out.length) port.postMessage(up.push(out));
    spent += performance.now() - started;
    if (samples >= maxSamples) postMessage({ type: 'full', id });
  };
  const end = async () => {
    await take(down.flush());
    enhanced.push(await streamer.flush());
    port.close();
    if (!samples) throw new Error('the microphone gave no sound');
    finish(id, [join(noisy)], [join(enhanced)], spent / 1000 / (samples / hz));
  };
  port.onmessage = ({ data }) => {
    queue = queue.then(() => (data === 'end' ? end() : take(down.push(data)))).catch((error) => fail(id, error));
  };
};

// Spectrogram of the noisy signal, or of (1 - mix) enhanced + mix noisy; channels are averaged.
const picture = ({ id, mix }) => {
  if (!kept) return;
  const noisy = mean(kept.noisy);
  let samples = noisy;
  if (mix !== null) samples = mean(kept.enhanced).map((value, i) => (1 - mix) * value + mix * noisy[i]);
  postMessage({ type: 'picture', id, mix, ...power(samples) });
};

const fail = (id, error) => postMessage({ type: 'failed', id, message: error?.message ?? String(error) });

const TASKS = { enhance, live, picture };

onmessage = async ({ data }) => {
  if (data.type === 'cancel') current = 0;
  if (data.type === 'enhance' || data.type === 'live') current = data.id;
  try {
    if (data.type === 'load') loaded = load(data);
    await loaded;
  } catch (error) {
    return fail(null, error);
  }
  try {
    if (data.type === 'picture' || data.id === current) await TASKS[data.type]?.(data);
  } catch (error) {
    fail(data.id, error);
  }
};
