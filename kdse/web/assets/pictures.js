// Both spectrograms, one above the other on one colour scale and one time axis, with a playhead over them.
import { BINS } from './spectrogram.js';

const FLOOR_DB = -80;

const niceStep = (span, most) => {
  const rough = span / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough * 0.999);
};

const span = (text) => Object.assign(document.createElement('span'), { textContent: text });

export class Pictures {
  constructor(palette, rate, onPoint) {
    this.colours = palette.match(/.{6}/g).map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
    this.rate = rate;
    this.stack = document.getElementById('stack');
    this.axis = this.stack.querySelector('.time-axis');
    this.lane = this.stack.querySelector('.head-lane');
    this.playhead = document.getElementById('playhead');
    this.canvases = { noisy: document.getElementById('picture-noisy'), enhanced: document.getElementById('picture-enhanced') };
    this.seconds = 0;
    for (const [name, canvas] of Object.entries(this.canvases)) {
      const plot = canvas.parentElement;
      plot.append(this.frequencyAxis());
      plot.addEventListener('click', (event) => {
        const box = plot.getBoundingClientRect();
        onPoint(name, ((event.clientX - box.left) / box.width) * this.seconds);
      });
    }
    this.drawScale();
    new ResizeObserver(() => this.drawTimeAxis()).observe(this.axis);
  }

  clear(seconds) {
    this.seconds = seconds;
    this.reference = 0;
    for (const canvas of Object.values(this.canvases)) {
      canvas.width = canvas.height = 1;
      canvas.removeAttribute('aria-label');
    }
    this.drawTimeAxis();
  }

  // The noisy picture comes first: its loudest point is 0 dB in both.
  draw(name, { columns, power }) {
    if (name === 'noisy') this.reference = power.reduce((a, b) => Math.max(a, b), 0);
    const canvas = this.canvases[name];
    canvas.width = columns;
    canvas.height = BINS;
    const context = canvas.getContext('2d');
    const image = context.createImageData(columns, BINS);
    for (let column = 0; column < columns; column++) {
      for (let bin = 0; bin < BINS; bin++) {
        const ratio = this.reference ? power[column * BINS + bin] / this.reference : 0;
        image.data.set([...this.colour(10 * Math.log10(Math.max(ratio, 1e-9))), 255], 4 * ((BINS - 1 - bin) * columns + column));
      }
    }
    context.putImageData(image, 0, 0);
    const what = { noisy: 'Before', enhanced: 'After' }[name];
    canvas.setAttribute('aria-label', `${what}: spectrogram, 0 to ${this.rate / 2000} kHz, 0 to ${this.seconds.toFixed(2)} s`);
  }

  colour(levelDb) {
    const share = 1 - Math.max(FLOOR_DB, Math.min(0, levelDb)) / FLOOR_DB;
    return this.colours[Math.round(share * (this.colours.length - 1))];
  }

  drawScale() {
    const canvas = document.getElementById('scale');
    canvas.width = this.colours.length;
    canvas.height = 1;
    const context = canvas.getContext('2d');
    const image = context.createImageData(canvas.width, 1);
    this.colours.forEach((colour, i) => image.data.set([...colour, 255], 4 * i));
    context.putImageData(image, 0, 0);
    const labels = document.getElementById('scale-labels');
    for (let level = FLOOR_DB; level <= 0; level += 20) labels.append(span(`${level ? '−' : ''}${Math.abs(level)}${level ? '' : ' dB'}`));
  }

  // A picture of B rows shows bins 0 to B - 1, each half a row below and above its frequency.
  frequencyAxis() {
    const axis = document.createElement('div');
    axis.className = 'frequency-axis';
    axis.setAttribute('aria-hidden', 'true');
    const top = this.rate / 2000;
    const step = niceStep(top, 4);
    for (let kilohertz = 0; kilohertz <= top + 1e-9; kilohertz += step) {
      const tick = span(String(Number(kilohertz.toFixed(3))));
      tick.style.bottom = `${(100 * ((kilohertz / top) * (BINS - 1) + 0.5)) / BINS}%`;
      axis.append(tick);
    }
    return axis;
  }

  drawTimeAxis() {
    const width = this.axis.clientWidth;
    if (!this.seconds || !width) return this.axis.replaceChildren();
    const step = niceStep(this.seconds, Math.min(12, width / 60));
    const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const ticks = [];
    for (let i = 0; i * step <= this.seconds * 0.97; i++) {
      const tick = span((i * step).toFixed(decimals) + (i ? '' : ' s'));
      tick.style.left = `${(100 * i * step) / this.seconds}%`;
      ticks.push(tick);
    }
    this.axis.replaceChildren(...ticks);
  }

  choose(name) {
    for (const row of this.stack.querySelectorAll('.row')) row.classList.toggle('chosen', row.dataset.sound === name);
  }

  moveTo(seconds) {
    const share = this.seconds ? Math.min(1, seconds / this.seconds) : 0;
    this.playhead.style.transform = `translateX(${share * this.lane.clientWidth}px)`;
  }
}
