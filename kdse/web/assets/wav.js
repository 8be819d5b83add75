// WAV files read and written sample for sample: what decodeAudioData would resample or clip stays exact.

export class BadFile extends Error {}

const text = (view, at) => String.fromCharCode(...[0, 1, 2, 3].map((i) => view.getUint8(at + i)));

// One sample at a byte offset as a number, full scale is 1; by format tag and bits.
const READERS = {
  '1/8': (view, at) => (view.getUint8(at) - 128) / 128,
  '1/16': (view, at) => view.getInt16(at, true) / 32768,
  '1/24': (view, at) => ((view.getInt8(at + 2) << 16) | view.getUint16(at, true)) / 8388608,
  '1/32': (view, at) => view.getInt32(at, true) / 2147483648,
  '3/32': (view, at) => view.getFloat32(at, true),
  '3/64': (view, at) => view.getFloat64(at, true),
};

// Layout of a WAV file from its header, or null if it is none that is read here (the browser may know it).
// {rate, channels, frames, start, width, stride, read}
export const wavLayout = (buffer) => {
  const view = new DataView(buffer);
  if (view.byteLength < 12 || text(view, 0) !== 'RIFF' || text(view, 8) !== 'WAVE') return null;
  let format = null;
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const name = text(view, at);
    const size = view.getUint32(at + 4, true);
    const body = at + 8;
    if (name === 'fmt ' && body + 16 <= view.byteLength) {
      let tag = view.getUint16(body, true);
      if (tag === 0xfffe && size >= 26 && body + 26 <= view.byteLength) tag = view.getUint16(body + 24, true); // extensible
      const [channels, rate, stride, bits] = [view.getUint16(body + 2, true), view.getUint32(body + 4, true), view.getUint16(body + 12, true), view.getUint16(body + 14, true)];
      const read = READERS[`${tag}/${bits}`];
      if (!read || !channels || !rate || stride !== (channels * bits) / 8) return null;
      format = { rate, channels, stride, width: bits / 8, read };
    } else if (name === 'data') {
      if (!format) return null;
      // Writers to a pipe put 0 or the largest number there instead of a length.
      const whole = view.getUint32(4, true);
      const unknown = size >= 0x7fff0000 || (size === 0 && (whole === 0 || whole >= 0x7fff0000));
      const bytes = unknown ? view.byteLength - body : size;
      if (body + bytes > view.byteLength) {
        throw new BadFile(`This WAV file is cut short: its header promises ${bytes} bytes of audio, ${view.byteLength - body} are there.`);
      }
      return { ...format, start: body, frames: Math.floor(bytes / format.stride) };
    }
    at = body + size + (size % 2);
  }
  return null;
};

// Samples of every channel as Float32Array.
export const readWav = (buffer, { channels, frames, start, stride, width, read }) => {
  const view = new DataView(buffer);
  return Array.from({ length: channels }, (_, channel) => {
    const samples = new Float32Array(frames);
    for (let i = 0, at = start + channel * width; i < frames; i++, at += stride) samples[i] = read(view, at);
    return samples;
  });
};

// A WAV file of 16 bits, rounded to the nearest step, without dither; and how many samples were clipped.
export const writeWav = (channels, rate) => {
  const frames = channels[0].length;
  const bytes = frames * channels.length * 2;
  const view = new DataView(new ArrayBuffer(44 + bytes));
  const put = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  put(0, 'RIFF');
  view.setUint32(4, 36 + bytes, true);
  put(8, 'WAVEfmt ');
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, channels.length, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * channels.length * 2, true);
  view.setUint16(32, channels.length * 2, true);
  view.setUint16(34, 16, true);
  put(36, 'data');
  view.setUint32(40, bytes, true);
  let clipped = 0;
  let at = 44;
  for (let i = 0; i < frames; i++) {
    for (const samples of channels) {
      const step = Math.round(samples[i] * 32768);
      if (step > 32767 || step < -32768) clipped++;
      view.setInt16(at, Math.min(32767, Math.max(-32768, step)), true);
      at += 2;
    }
  }
  return { blob: new Blob([view.buffer], { type: 'audio/wav' }), clipped };
};
