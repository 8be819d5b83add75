// The list of files: which are shown, in which order, with which score.
const MINUS = '−';
const NONE = '–';

const element = (tag, settings = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), settings);
  made.append(...children);
  return made;
};

const signed = (value, decimals) => {
  const text = Math.abs(value).toFixed(decimals);
  return (Number(text) === 0 ? '±' : value < 0 ? MINUS : '+') + text;
};

const plain = (value, decimals) => {
  const text = value.toFixed(decimals);
  return Number(text) === 0 ? text.replace('-', '') : text.replace('-', MINUS);
};

// Value of a metric as shown; undefined: was not asked for; null: failed.
const scoreOf = (file, system, metric) => {
  const raw = file.systems.find((one) => one.name === system)?.scores[metric.key];
  return typeof raw === 'number' ? raw * metric.factor : raw;
};

const gainOf = (file, system, metric) => {
  const [ours, noisy] = [scoreOf(file, system, metric), scoreOf(file, 'noisy', metric)];
  return typeof ours === 'number' && typeof noisy === 'number' ? ours - noisy : null;
};

class FileList {
  constructor(catalogue, onPick) {
    this.catalogue = catalogue;
    this.onPick = onPick;
    this.current = -1;
    this.shown = [];
    this.body = document.querySelector('#files tbody');
    this.pick = Object.fromEntries(['group', 'system', 'metric', 'order'].map((key) => [key, document.getElementById(`pick-${key}`)]));
    this.fillPicks();
    for (const select of Object.values(this.pick)) select.addEventListener('change', () => this.show());
    this.show();
  }

  fillPicks() {
    const { files, metrics, systems } = this.catalogue;
    const fill = (select, pairs) => select.append(...pairs.map(([value, text]) => element('option', { value, textContent: text })));
    const groups = [...new Set(files.map((file) => file.group))];
    fill(this.pick.group, [['all', 'all'], ...groups.map((group, i) => [String(i), group || '(no name)'])]);
    this.groups = groups;
    document.getElementById('pick-group-label').hidden = groups.length < 2;
    const scored = systems.filter((name) => files.some((file) => file.systems.some((one) => one.name === name && Object.keys(one.scores).length)));
    fill(this.pick.system, scored.map((name) => [name, name]));
    fill(this.pick.metric, metrics.map((metric, i) => [String(i), metric.title]));
    fill(this.pick.order, [['given', 'as listed'], ...(scored.length && metrics.length ? [['worst', 'worst first'], ['least', 'least improved first']] : []), ['snr', 'lowest SNR first']]);
    const isEstimate = (name) => name !== 'noisy' && name !== 'clean';
    this.pick.system.value = scored.filter(isEstimate).pop() ?? scored[0] ?? '';
    this.hasScores = scored.length > 0 && metrics.length > 0;
    for (const key of ['system', 'metric']) this.pick[key].parentElement.hidden = !this.hasScores;
  }

  // Indices of files to show, sorted; what has no value comes last, ties stay as listed.
  order() {
    const { files } = this.catalogue;
    const group = this.pick.group.value;
    const shown = files.map((_, i) => i).filter((i) => group === 'all' || files[i].group === this.groups[Number(group)]);
    const metric = this.metric;
    const key = {
      given: null,
      worst: (file) => scoreOf(file, this.pick.system.value, metric) ?? null,
      least: (file) => gainOf(file, this.pick.system.value, metric),
      snr: (file) => file.snrDb,
    }[this.pick.order.value];
    if (!key) return shown;
    const sign = this.pick.order.value === 'snr' || metric.higher ? 1 : -1;
    const values = new Map(shown.map((i) => [i, key(files[i])]));
    return shown.sort((a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return sign * (x - y) || a - b;
    });
  }

  get metric() {
    return this.catalogue.metrics[Number(this.pick.metric.value)];
  }

  show() {
    this.shown = this.order();
    const { files } = this.catalogue;
    const head = document.querySelector('#files thead tr');
    const names = ['File', 'SNR dB', ...(this.hasScores ? [this.metric.title] : [])];
    head.replaceChildren(...names.map((name, i) => element('th', { scope: 'col', textContent: name, className: i ? 'number' : '' })));
    this.body.replaceChildren(...this.shown.map((i) => this.row(i, files[i])));
    this.mark();
  }

  row(index, file) {
    const button = element('button', { type: 'button', title: file.name }, element('span', { textContent: file.name }));
    button.dataset.file = index;
    button.addEventListener('click', () => this.onPick(index));
    const name = element('th', { scope: 'row' }, button);
    if (file.group && this.groups.length > 1 && this.pick.group.value === 'all') button.append(element('small', { textContent: file.group }));
    const row = element('tr', {}, name, element('td', { className: 'number', textContent: file.snrDb === null ? NONE : plain(file.snrDb, 1) }));
    if (this.hasScores) row.append(scoreCell(file, this.pick.system.value, this.metric));
    return row;
  }

  mark() {
    for (const button of this.body.querySelectorAll('button')) {
      const isCurrent = Number(button.dataset.file) === this.current;
      if (isCurrent) button.setAttribute('aria-current', 'true');
      else button.removeAttribute('aria-current');
      button.closest('tr').classList.toggle('current', isCurrent);
    }
  }

  setCurrent(index) {
    this.current = index;
    this.mark();
    const row = this.body.querySelector('tr.current');
    const box = document.getElementById('files-scroll');
    if (!row) return;
    const [top, bottom] = [row.offsetTop - box.querySelector('thead').offsetHeight, row.offsetTop + row.offsetHeight];
    if (top < box.scrollTop) box.scrollTop = top; // not scrollIntoView: that would move the page too
    else if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
  }

  // The file `steps` further in the list as shown.
  neighbour(steps) {
    const place = this.shown.indexOf(this.current);
    if (place < 0) return this.shown[0] ?? null;
    return this.shown[place + steps] ?? null;
  }

  focusCurrent() {
    this.body.querySelector('button[aria-current]')?.focus({ preventScroll: true });
  }
}

// A score with its improvement over noisy; worse than noisy is marked by colour and by its sign.
const scoreCell = (file, system, metric) => {
  const value = scoreOf(file, system, metric);
  const cell = element('td', { className: 'number' });
  if (typeof value !== 'number') {
    cell.textContent = value === null ? 'failed' : NONE;
    cell.classList.add('rest');
    return cell;
  }
  cell.append(plain(value, metric.decimals));
  const gain = system === 'noisy' ? null : gainOf(file, system, metric);
  if (gain !== null) {
    const isWorse = metric.higher ? gain < 0 : gain > 0;
    cell.append(' ', element('span', { className: isWorse ? 'rest worse' : 'rest', textContent: `(${signed(gain, metric.decimals)})` }));
  }
  return cell;
};
