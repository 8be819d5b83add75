// The page: a file, the example or the microphone goes in, the result comes out.
import { decode } from './decode.js';
import { Engine } from './engine.js';
import { NoMicrophone, Recorder } from './recorder.js';
import { Result } from './result.js';
import { BadFile } from './wav.js';

const find = (id) => document.getElementById(id);
const facts = JSON.parse(find('page-facts').textContent);
const rate = facts.metadata.sample_rate_hz;
const PANELS = ['drop', 'recording', 'working'];

const say = (text) => {
  if (find('status').textContent !== text) find('status').textContent = text;
};
const complain = (text) => {
  find('trouble').textContent = text;
  find('trouble').hidden = !text;
};
const progress = (share, text) => {
  if (share === null) find('progress').removeAttribute('value');
  else find('progress').value = share;
  find('progress-text').textContent = text;
};

const engine = new Engine(facts);
const result = new Result(facts, (mix) => engine.picture(mix), say);
let recorder = null;
let source = { name: '', note: '' }; // of the job at hand
let begun = 0; // counts what the user began, so that a file that decodes late is dropped

const show = (panel) => {
  const lost = PANELS.some((id) => id !== panel && find(id).contains(document.activeElement));
  for (const id of PANELS) find(id).hidden = id !== panel;
  // Whoever pressed a button that is gone goes on where they would look next.
  if (lost) ({ drop: find(result.sound ? 'play' : 'file'), recording: find('stop'), working: find('cancel') })[panel].focus();
};
const idle = (text) => {
  show('drop');
  say(text);
};
const begin = (name) => {
  engine.cancel();
  result.clear();
  complain('');
  source = { name, note: '' };
  return ++begun;
};

const openFile = async (file) => {
  if (recorder) return complain('Stop the recording first.');
  const mine = begin(file.name);
  show('working');
  progress(null, `Reading ${file.name}`);
  say(`Reading ${file.name}`);
  try {
    const sound = await decode(file, facts.maxSeconds);
    if (mine !== begun) return;
    source.note = sound.note + (sound.rate === rate ? '' : `Resampled from ${sound.rate / 1000} kHz.`);
    const text = engine.ready ? `Enhancing ${file.name}` : 'Loading the model';
    progress(0, text);
    say(text);
    engine.enhance(sound.channels, sound.rate);
  } catch (error) {
    if (mine !== begun) return;
    complain(error instanceof BadFile ? error.message : `${file.name} could not be read (${error.message}).`);
    idle('');
  }
};

const openExample = async () => {
  try {
    const response = await fetch(facts.example);
    if (!response.ok) throw new Error(`the server answers ${response.status}`);
    await openFile(new File([await response.blob()], facts.example));
  } catch (error) {
    complain(`The example could not be loaded (${error.message}).`);
  }
};

const record = async () => {
  if (recorder) return;
  begin('recording');
  const mine = new Recorder(rate, facts.holdSeconds, showLevel);
  recorder = mine;
  say('Asking for the microphone');
  try {
    const { rate: hz, port } = await mine.start(find('listen').checked);
    engine.live(port, hz, Math.floor(facts.maxSeconds * rate));
    mine.since = performance.now();
    find('recorded').textContent = '0 s';
    show('recording');
    say('Recording');
  } catch (error) {
    recorder = null;
    complain(error instanceof NoMicrophone ? error.message : `The microphone cannot be used (${error.message}).`);
    idle('');
  }
};

const stop = () => {
  recorder?.stop();
  recorder = null;
  show('working');
  progress(null, 'Finishing the recording');
};

const showLevel = ({ rms, peak }) => {
  if (!recorder?.since) return;
  const levelDb = Math.max(-60, 20 * Math.log10(rms + 1e-9));
  const loud = peak >= 0.99;
  const text = levelDb <= -60 ? 'No sound' : `Level ${Math.round(levelDb)} dB${loud ? ', too loud: it clips' : ''}`.replace('-', '−');
  find('meter-bar').style.transform = `scaleX(${1 + levelDb / 60})`;
  find('meter').classList.toggle('loud', loud);
  find('meter').setAttribute('aria-valuenow', levelDb.toFixed(0));
  find('meter').setAttribute('aria-valuetext', text);
  find('meter-text').textContent = text;
  find('recorded').textContent = `${Math.floor((performance.now() - recorder.since) / 1000)} s`;
};

const on = (name, act) => engine.addEventListener(name, ({ detail }) => act(detail));
on('loading', ({ share }) => {
  const text = `Loading the model, ${25 * Math.floor(4 * share)} %`; // spoken: a few times, not always
  if (!find('working').hidden) progress(share, text);
  say(text);
});
on('ready', () => !find('drop').hidden && say('Ready.'));
on('progress', ({ share }) => {
  progress(share, `Enhancing ${source.name}, ${Math.round(100 * share)} %`);
  say(`Enhancing, ${10 * Math.floor(10 * share)} %`);
});
on('done', ({ noisy, enhanced, realTimeFactor }) => {
  result.show(noisy, enhanced, source.name, source.note);
  find('speed').textContent = `${realTimeFactor.toFixed(3)} (${(1000 * realTimeFactor).toFixed(0)} ms a second)`;
  idle('Done. Press Play to hear it.');
});
on('picture', (data) => result.picture(data));
on('full', () => {
  if (!recorder) return;
  stop();
  complain(`The recording was stopped after ${facts.maxSeconds / 60} minutes.`);
});
on('failed', ({ id, message }) => {
  recorder?.stop();
  recorder = null;
  if (id === null) complain(`The model could not be loaded (${message}). Try a current browser, or load the page again.`);
  else complain(`The sound could not be enhanced (${message}).`);
  idle('');
});

find('file').addEventListener('change', ({ target }) => {
  const [file] = target.files;
  if (file) openFile(file);
  target.value = ''; // the same file again is a change too
});
find('record').addEventListener('click', record);
find('stop').addEventListener('click', stop);
find('listen').addEventListener('change', ({ target }) => recorder?.listen(target.checked));
find('example').addEventListener('click', openExample);
find('cancel').addEventListener('click', () => {
  begin('');
  idle('Cancelled.');
});
for (const name of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    find('drop').classList.toggle('over', name === 'dragover');
    const file = name === 'drop' ? event.dataTransfer?.files[0] : null;
    if (file) openFile(file);
  });
}

for (const [name, text] of [...facts.about, ['Real-time factor in this browser', 'measured with the first sound']]) {
  const [group, term, value] = ['div', 'dt', 'dd'].map((tag) => document.createElement(tag));
  term.textContent = name;
  value.textContent = text;
  if (name.startsWith('Real-time')) value.id = 'speed';
  group.append(term, value);
  find('model-facts').append(group);
}
find('example').hidden = !facts.example;
find('unserved').hidden = true;
for (const id of ['start', 'about']) find(id).hidden = false;
window.kdsePage = { engine, result }; // for the console and the tests
