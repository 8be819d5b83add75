// The listening part: before and after with switch, mix, pictures, keys and download.
import { Pictures } from './pictures.js';
import { Player } from './player.js';
import { writeWav } from './wav.js';

const find = (id) => document.getElementById(id);
const radios = () => [...document.querySelectorAll('input[name=sound]')];

export class Result {
  // askPicture(mix): asks for the spectrogram of the noisy signal (null) or of the result at a mix; `picture` takes it.
  constructor(facts, askPicture, say) {
    this.rate = facts.metadata.sample_rate_hz;
    this.askPicture = askPicture;
    this.say = say;
    this.sound = null; // {noisy, enhanced, name}
    this.drawing = false; // one picture at a time is asked for
    this.wantedMix = null;
    this.player = new Player(this.rate);
    this.pictures = new Pictures(facts.palette, this.rate, (name, seconds) => {
      this.choose(name);
      this.player.seek(seconds);
    });
    this.connect();
    this.choose('enhanced');
    this.setMix();
  }

  connect() {
    const { player } = this;
    find('play').addEventListener('click', () => (player.playing ? player.pause() : player.play()));
    find('seek').addEventListener('input', ({ target }) => player.seek(Number(target.value) * player.duration));
    find('loop').addEventListener('change', ({ target }) => player.setLoop(target.checked));
    find('mix').addEventListener('input', () => this.setMix());
    for (const input of radios()) input.addEventListener('change', () => this.choose(input.value));
    find('save').addEventListener('click', () => this.save(this.mixed(), 'enhanced'));
    find('save-noisy').addEventListener('click', () => this.save(this.sound.noisy, 'noisy'));
    document.addEventListener('keydown', (event) => this.onKey(event));
    player.addEventListener('change', () => {
      find('play').classList.toggle('playing', player.playing);
      find('play').setAttribute('aria-label', player.playing ? 'Pause' : 'Play');
      requestAnimationFrame(() => this.follow());
    });
  }

  show(noisy, enhanced, name, note) {
    this.sound = { noisy, enhanced, name };
    this.player.load(noisy, enhanced);
    const channels = noisy.length > 1 ? ', two channels, each on its own' : '';
    find('result-facts').textContent = `${name}: ${this.player.duration.toFixed(1)} s${channels}. ${note}`;
    find('result').hidden = false;
    this.pictures.clear(this.player.duration);
    this.drawing = false;
    this.askPicture(null);
    this.draw();
  }

  clear() {
    this.player.unload();
    this.sound = null;
    find('result').hidden = true;
  }

  choose(name) {
    this.player.choose(name);
    for (const input of radios()) input.checked = input.value === name;
    this.pictures.choose(name);
  }

  setMix() {
    const mix = Number(find('mix').value);
    this.player.setMix(mix);
    // What the model multiplies by a gain of 0 to 1 is multiplied by at least the mix.
    const limit = mix > 0 && mix < 1 ? `, noise at most ${Math.round(-20 * Math.log10(mix))} dB lower` : '';
    find('mix-text').textContent = `${Math.round(100 * mix)} %${limit}`;
    find('mix').setAttribute('aria-valuetext', find('mix-text').textContent);
    if (this.sound) this.draw();
  }

  // Asks for the picture of the mix now set; while one is under way only the last wish counts.
  draw() {
    this.wantedMix = this.player.mix;
    if (this.drawing) return;
    this.drawing = true;
    this.askPicture(this.wantedMix);
  }

  picture(data) {
    if (data.mix === null) return this.pictures.draw('noisy', data);
    this.pictures.draw('enhanced', data);
    this.drawing = false;
    if (this.wantedMix !== data.mix) this.draw();
  }

  mixed() {
    const { noisy, enhanced } = this.sound;
    const { mix } = this.player;
    return enhanced.map((samples, c) => samples.map((value, i) => (1 - mix) * value + mix * noisy[c][i]));
  }

  save(channels, ending) {
    const { blob, clipped } = writeWav(channels, this.rate);
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = `${this.sound.name.replace(/\.[^.]*$/, '') || 'sound'}_${ending}.wav`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    this.say(clipped ? `Saved. ${clipped} samples were above full scale and were clipped.` : 'Saved.');
  }

  onKey(event) {
    if (!this.sound || !find('keys-on').checked || event.ctrlKey || event.altKey || event.metaKey) return;
    const keys = {
      ' ': () => find('play').click(),
      1: () => this.choose('noisy'),
      2: () => this.choose('enhanced'),
      ArrowLeft: () => this.player.seek(this.player.position - 1),
      ArrowRight: () => this.player.seek(this.player.position + 1),
      l: () => find('loop').click(),
    };
    const needs = event.key === ' ' || event.key.startsWith('Arrow'); // keys that a focused control has a use for
    const own = event.target.closest?.('button, input, summary');
    if (!keys[event.key] || (needs && own && !(own.name === 'sound' && event.key === ' '))) return;
    event.preventDefault();
    keys[event.key]();
  }

  // Position on the slider, in figures and over the pictures, for as long as it moves.
  follow() {
    const { player } = this;
    if (!player.sounds) return;
    const { position, duration } = player;
    find('seek').value = duration ? position / duration : 0;
    find('seek').setAttribute('aria-valuetext', `${position.toFixed(1)} of ${duration.toFixed(1)} seconds`);
    find('time').textContent = `${position.toFixed(1)} / ${duration.toFixed(1)} s`;
    this.pictures.moveTo(position);
    if (player.playing) requestAnimationFrame(() => this.follow());
  }
}
