// Spectrograms of all systems of a file, one above the other on one time axis, with a playhead over them.
const niceStep = (span, most) => {
  const rough = span / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough * 0.999);
};

class Spectrograms {
  constructor(catalogue, onPoint) {
    this.catalogue = catalogue;
    this.onPoint = onPoint;
    this.stack = document.getElementById('stack');
    this.rows = this.stack.querySelector('.rows');
    this.axis = this.stack.querySelector('.time-axis');
    this.lane = this.stack.querySelector('.head-lane');
    this.playhead = document.getElementById('playhead');
    this.seconds = 0;
    const labels = document.getElementById('scale-labels');
    for (let level = catalogue.floorDb; level <= 0; level += 20) labels.append(element('span', { textContent: plain(level, 0) + (level ? '' : ' dB') }));
    new ResizeObserver(() => this.drawTimeAxis()).observe(this.axis);
  }

  show(file) {
    this.seconds = file.seconds;
    const halfRate = this.catalogue.rate / 2;
    this.rows.replaceChildren(...file.systems.map((system) => this.row(file, system, halfRate)));
    this.rows.classList.toggle('many', file.systems.length > 5);
    document.getElementById('scale-text').textContent = `Level of a bin below the loudest of ${file.scale}`;
    this.drawTimeAxis();
  }

  row(file, system, halfRate) {
    const label = element('div', { className: 'label' }, element('span', { textContent: system.name }));
    const metric = this.catalogue.metrics[0];
    const value = metric && scoreOf(file, system.name, metric);
    if (typeof value === 'number') label.append(element('small', { textContent: `${metric.title} ${plain(value, metric.decimals)}` }));
    const plot = element('div', { className: 'plot' });
    if (system.block) {
      const level = system.levelDb === null ? '' : `, level ${signed(system.levelDb, 1)} dB relative to noisy`;
      const alt = `Spectrogram of ${system.name}: 0 to ${halfRate / 1000} kHz, 0 to ${file.seconds.toFixed(2)} s${level}`;
      const image = element('img', { alt, draggable: false });
      image.src = `data:image/png;base64,${document.getElementById(`picture-${system.block}`).textContent}`;
      plot.append(image, this.frequencyAxis(halfRate));
      plot.addEventListener('click', (event) => {
        const box = plot.getBoundingClientRect();
        this.onPoint(system.name, ((event.clientX - box.left) / box.width) * this.seconds);
      });
    }
    if (system.note) plot.append(element('p', { className: 'note', textContent: `${system.name} ${system.note === 'silent' ? 'is silent' : `${system.note}: it cannot be played`}` }));
    const row = element('div', { className: 'row' }, label, plot);
    row.dataset.system = system.name;
    return row;
  }

  // A picture of B rows shows bins 0 to B - 1, each half a row below and above its frequency.
  frequencyAxis(halfRate) {
    const { bins } = this.catalogue;
    const axis = element('div', { className: 'frequency-axis' });
    axis.setAttribute('aria-hidden', 'true');
    const step = niceStep(halfRate / 1000, 4);
    for (let kilohertz = 0; kilohertz <= halfRate / 1000 + 1e-9; kilohertz += step) {
      const tick = element('span', { textContent: String(Number(kilohertz.toFixed(3))) });
      tick.style.bottom = `${(100 * (((kilohertz * 1000) / halfRate) * (bins - 1) + 0.5)) / bins}%`;
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
      const tick = element('span', { textContent: (i * step).toFixed(decimals) + (i ? '' : ' s') });
      tick.style.left = `${(100 * i * step) / this.seconds}%`;
      ticks.push(tick);
    }
    this.axis.replaceChildren(...ticks);
  }

  choose(system) {
    for (const row of this.rows.children) row.classList.toggle('chosen', row.dataset.system === system);
  }

  moveTo(seconds) {
    const share = this.seconds ? Math.min(1, seconds / this.seconds) : 0;
    this.playhead.style.transform = `translateX(${share * this.lane.clientWidth}px)`;
  }
}
