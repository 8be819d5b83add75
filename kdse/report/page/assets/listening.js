// The listening part: files, player, spectrograms and keys wired together.
const listening = (catalogue) => {
  const at = (id) => document.getElementById(id);
  const [play, seek, time, loop, status, trouble, help, keysOn] = ['play', 'seek', 'time', 'loop', 'status', 'trouble', 'help', 'keys-on'].map(at);
  const player = new Player(catalogue.rate);
  const spectrograms = new Spectrograms(catalogue, (system, seconds) => {
    player.choose(system);
    player.seek(seconds);
  });
  const list = new FileList(catalogue, (index) => (index === list.current ? toggle() : open(index, player.playing)));
  let opened = 0; // counts, so that a file decoded too late is dropped
  let ready = Promise.resolve();

  const say = (text) => {
    trouble.textContent = text;
    trouble.hidden = !text;
  };

  const seconds = (value) => (player.duration < 60 ? value.toFixed(1) : `${Math.floor(value / 60)}:${(value % 60).toFixed(1).padStart(4, '0')}`);

  const open = (index, andPlay = false) => {
    const file = catalogue.files[index];
    const turn = ++opened;
    list.setCurrent(index);
    at('file-name').textContent = file.name;
    at('file-facts').textContent = factsOf(file);
    showChips(file);
    spectrograms.show(file);
    showScores(file);
    say('');
    player.load(new Map(), file.seconds);
    play.disabled = seek.disabled = true;
    ready = decodeAll(file).then(({ buffers, failed }) => {
      if (turn !== opened) return;
      if (failed.length) say(`This browser could not decode ${failed.join(', ')}. The tables and pictures are not affected.`);
      player.load(buffers, file.seconds);
      play.disabled = seek.disabled = !buffers.size;
      if (andPlay) start();
    });
    return ready;
  };

  const decodeAll = async (file) => {
    const buffers = new Map();
    const failed = [];
    await Promise.all(
      file.systems.map(async (system) => {
        if (!system.block) return;
        buffers.set(system.name, null); // keeps the order of systems
        try {
          buffers.set(system.name, await Player.decode(at(`audio-${system.block}`).textContent, catalogue.rate));
        } catch (error) {
          buffers.delete(system.name);
          failed.push(`${system.name} (${error.message || error.name})`);
        }
      }),
    );
    return { buffers, failed };
  };

  const factsOf = (file) => {
    const facts = [file.group, file.snrDb === null ? 'input SNR unknown' : `input SNR ${plain(file.snrDb, 1)} dB`, `${file.seconds.toFixed(2)} s`];
    if (file.loudest) facts.push(`played with ${signed(file.gainDb, 1)} dB: the loudest peak (${file.loudest}) is at ${MINUS}1 dBFS`);
    return facts.filter(Boolean).join(' · ');
  };

  const showChips = (file) => {
    const kept = player.chosen;
    at('systems').querySelector('.chips').replaceChildren(
      ...file.systems.map((system, place) => {
        const radio = element('input', { type: 'radio', name: 'system', value: system.name, disabled: !system.block, checked: system.name === kept });
        const key = element('kbd', { textContent: place < 9 ? String(place + 1) : '' });
        key.setAttribute('aria-hidden', 'true');
        return element('label', { title: system.block ? system.name : `${system.name} ${system.note}` }, radio, key, element('span', { textContent: system.name }));
      }),
    );
  };

  const showScores = (file) => {
    const metrics = catalogue.metrics;
    const heads = ['System', ...metrics.map((metric) => metric.title), 'Level dB'];
    const arrow = (i) => (i && metrics[i - 1] ? (metrics[i - 1].higher ? '\u00a0↑' : '\u00a0↓') : '');
    const cells = heads.map((text, i) => element('th', { scope: 'col', className: i ? 'number' : '' }, text, element('span', { className: 'better', ariaHidden: 'true', textContent: arrow(i) })));
    document.querySelector('#scores thead tr').replaceChildren(...cells);
    document.querySelector('#scores tbody').replaceChildren(
      ...file.systems.map((system) => {
        const level = element('td', { className: 'number', textContent: system.levelDb === null ? NONE : signed(system.levelDb, 1) });
        const row = element('tr', {}, element('th', { scope: 'row', textContent: system.name }), ...metrics.map((metric) => scoreCell(file, system.name, metric)), level);
        row.dataset.system = system.name;
        return row;
      }),
    );
  };

  const start = () =>
    player.play().catch((error) => say(`Sound could not be started: ${error.message || error.name}. Tables and pictures are not affected.`));
  const toggle = () => (player.playing ? player.pause() : ready.then(start));

  let spoken = -1;
  const tick = () => {
    const position = player.position;
    seek.value = String(position);
    time.textContent = `${seconds(position)} / ${seconds(player.duration)} s`;
    const whole = Math.floor(position);
    if (!player.playing || whole !== spoken) seek.setAttribute('aria-valuetext', `${seconds(position)} of ${seconds(player.duration)} seconds`);
    spoken = whole;
    spectrograms.moveTo(position);
    if (player.playing) requestAnimationFrame(tick);
  };

  player.addEventListener('change', ({ detail }) => {
    seek.max = String(player.duration || 1);
    play.setAttribute('aria-label', player.playing ? 'Pause' : 'Play');
    play.classList.toggle('playing', player.playing);
    loop.checked = player.loop;
    for (const radio of at('systems').querySelectorAll('input')) radio.checked = radio.value === player.chosen;
    spectrograms.choose(player.chosen);
    for (const row of document.querySelectorAll('#scores tbody tr')) row.classList.toggle('chosen', row.dataset.system === player.chosen);
    const doing = player.playing ? 'playing' : detail === 'end' ? 'end of' : 'paused at';
    if (detail === 'load') status.textContent = player.buffers.size ? `${catalogue.files[list.current].name} ready` : '';
    else if (detail === 'loop') status.textContent = player.loop ? 'loop on' : 'loop off';
    else status.textContent = `${doing} ${player.chosen}, ${seconds(player.position)} s`;
    tick();
  });

  play.addEventListener('click', toggle);
  seek.addEventListener('input', () => player.seek(Number(seek.value)));
  loop.addEventListener('change', () => player.setLoop(loop.checked));
  at('systems').addEventListener('change', (event) => player.choose(event.target.value));
  at('help-open').addEventListener('click', () => help.showModal());

  const move = (steps) => {
    const next = list.neighbour(steps);
    if (next !== null && next !== list.current) open(next, player.playing);
  };

  const chooseByNumber = (number) => {
    const system = catalogue.files[list.current].systems[number - 1];
    if (system) player.choose(system.name);
  };

  const actions = {
    ' ': toggle,
    ArrowLeft: () => player.seek(player.position - 1),
    ArrowRight: () => player.seek(player.position + 1),
    ArrowDown: () => (move(1), list.focusCurrent()),
    ArrowUp: () => (move(-1), list.focusCurrent()),
    j: () => move(1),
    k: () => move(-1),
    l: () => player.setLoop(!player.loop),
    '?': () => help.showModal(),
  };
  for (let number = 1; number <= 9; number++) actions[number] = () => chooseByNumber(number);

  // A focused control keeps every key that it uses itself: all keys in menus and text, arrows in radios and sliders.
  const isTaken = (key, target) => {
    const tag = target.tagName;
    const kind = tag === 'INPUT' ? target.type : '';
    if (tag === 'SELECT' || tag === 'TEXTAREA' || target.isContentEditable) return true;
    if (kind === 'range' || kind === 'radio') return key.startsWith('Arrow');
    if (kind === 'checkbox' || tag === 'BUTTON' || tag === 'A') return key === ' ';
    if (tag === 'INPUT') return true;
    return target.classList.contains('scroll') && key.startsWith('Arrow') && !inList(target);
  };
  const inList = (target) => Boolean(target.closest('#files-scroll'));

  let inView = false;
  new IntersectionObserver((entries) => (inView = entries[entries.length - 1].isIntersecting)).observe(document.querySelector('.desk'));

  document.addEventListener('keydown', (event) => {
    const { key, target } = event;
    const action = Object.hasOwn(actions, key) ? actions[key] : null;
    if (!action || event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || help.open) return;
    if (event.shiftKey && key !== '?') return;
    if (!keysOn.checked || !(inView || player.playing) || isTaken(key, target)) return;
    if ((key === 'ArrowUp' || key === 'ArrowDown') && !inList(target)) return; // they scroll the page
    event.preventDefault();
    if (!event.repeat || key.startsWith('Arrow') || key === 'j' || key === 'k') action();
  });

  if (catalogue.files.length) {
    at('size').textContent = ` (${catalogue.megabytes} MB of sound and pictures)`;
    open(list.shown[0]);
  }
  return { player, list, spectrograms, open, ready: () => ready };
};

const catalogue = document.getElementById('catalogue');
if (catalogue) {
  try {
    window.kdsePage = listening(JSON.parse(catalogue.textContent)); // for the console and for tests
  } catch (error) {
    const trouble = document.getElementById('trouble');
    trouble.textContent = `The listening part does not work in this browser: ${error.message}. The rest of the page does.`;
    trouble.hidden = false;
  }
}
