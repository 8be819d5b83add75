// A file to samples: WAV and FLAC at their own rate and unchanged, all else as the browser decodes it.
import { mean } from './mean.js';
import { BadFile, readWav, wavLayout } from './wav.js';

// Rate at which other formats are decoded: the usual one, so that mostly nothing is resampled by the browser.
const USUAL_HZ = 48000;
const MAX_BYTES = 500e6;
// Largest sample, as in kdse.models.streaming: 120 dB above full scale.
const LARGEST = 1e6;

// {rate, channels: [Float32Array], note}; throws BadFile with a message for people.
export const decode = async (file, maxSeconds) => {
  if (file.size === 0) throw new BadFile(`${file.name} is empty.`);
  if (file.size > MAX_BYTES) throw new BadFile(`${file.name} is too large (${Math.round(file.size / 1e6)} MB). ${advice(maxSeconds)}`);
  const buffer = await file.arrayBuffer();
  const layout = wavLayout(buffer);
  let sound;
  if (layout) {
    tooLong(file, layout.frames / layout.rate, maxSeconds);
    sound = { rate: layout.rate, channels: readWav(buffer, layout), note: '' };
  } else {
    const seconds = await lengthOf(file);
    if (seconds !== null) tooLong(file, seconds, maxSeconds);
    sound = await byBrowser(file, buffer);
    tooLong(file, sound.channels[0].length / sound.rate, maxSeconds);
  }
  if (!sound.channels[0].length) throw new BadFile(`${file.name} holds no samples.`);
  sound.channels.forEach((samples) => check(samples, sound.rate, file));
  if (sound.channels.length > 2) {
    const count = sound.channels.length;
    sound = { ...sound, channels: [mean(sound.channels)], note: `${count} channels mixed to one. ` };
  }
  return sound;
};

const advice = (maxSeconds) => `This page takes up to ${maxSeconds / 60} minutes; “kdse enhance” takes any length.`;

const tooLong = (file, seconds, maxSeconds) => {
  if (seconds > maxSeconds) throw new BadFile(`${file.name} is too long (${(seconds / 60).toFixed(1)} minutes). ${advice(maxSeconds)}`);
};

// Seconds as the header says, before hours of a compressed file fill the memory; null where it does not say.
const lengthOf = (file) =>
  new Promise((done) => {
    const media = document.createElement('audio');
    const url = URL.createObjectURL(file);
    const end = (seconds) => {
      clearTimeout(timer);
      media.removeAttribute('src');
      URL.revokeObjectURL(url);
      done(Number.isFinite(seconds) ? seconds : null);
    };
    const timer = setTimeout(() => end(null), 3000);
    media.preload = 'metadata';
    media.onloadedmetadata = () => end(media.duration);
    media.onerror = () => end(null);
    media.src = url;
  });

const byBrowser = async (file, buffer) => {
  try {
    const context = new OfflineAudioContext(1, 1, flacRate(buffer) ?? USUAL_HZ); // decodes at this rate
    const decoded = await context.decodeAudioData(buffer);
    const channels = Array.from({ length: decoded.numberOfChannels }, (_, i) => decoded.getChannelData(i));
    return { rate: decoded.sampleRate, channels, note: '' };
  } catch {
    throw new BadFile(`${file.name} cannot be read as audio by this browser. Try a WAV, FLAC or MP3 file.`);
  }
};

// A FLAC file's own rate (first block, 20 bits), where a browser can decode at it; else null.
const flacRate = (buffer) => {
  const bytes = new Uint8Array(buffer, 0, Math.min(22, buffer.byteLength));
  if (bytes.length < 22 || String.fromCharCode(...bytes.slice(0, 4)) !== 'fLaC') return null;
  const rate = (bytes[18] << 12) | (bytes[19] << 4) | (bytes[20] >> 4);
  return rate >= 8000 && rate <= 96000 ? rate : null; // every browser must support these (Web Audio, 1.1)
};

const check = (samples, rate, file) => {
  const first = samples.findIndex((value) => !(Math.abs(value) <= LARGEST));
  if (first < 0) return;
  const what = Number.isFinite(samples[first]) ? `samples larger than ${LARGEST}, where full scale is 1` : 'NaN or infinite samples';
  throw new BadFile(`${file.name} holds ${what} (the first at ${(first / rate).toFixed(2)} s).`);
};
