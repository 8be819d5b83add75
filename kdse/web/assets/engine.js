// The page's side of the worker: events in, methods out.
const absolute = (path) => new URL(path, document.baseURI).href;

export class Engine extends EventTarget {
  constructor(facts) {
    super();
    this.id = 0; // of the job that counts
    this.ready = false;
    // A worker with an address of its own would not have this page's content policy; one made from a blob inherits it.
    const source = `import ${JSON.stringify(new URL('worker.js', import.meta.url).href)};`;
    const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
    this.worker = new Worker(url, { type: 'module' });
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = (event) => this.emit('failed', { message: event.message || 'its worker did not start', id: null });
    this.send({
      type: 'load',
      urls: { script: absolute(facts.runtime.script), wasm: absolute(facts.runtime.wasm), model: absolute(facts.model) },
      bytes: { wasm: facts.runtime.bytes, model: facts.modelBytes },
      metadata: facts.metadata,
    });
  }

  enhance(channels, rate) {
    this.send({ type: 'enhance', id: ++this.id, channels, rate });
  }

  live(port, rate, maxSamples) {
    this.send({ type: 'live', id: ++this.id, port, rate, maxSamples }, [port]);
  }

  cancel() {
    this.id++; // what still comes from the job is not heard
    this.send({ type: 'cancel' });
  }

  // Spectrogram of the noisy signal (mix null) or of the result at a mix.
  picture(mix) {
    this.send({ type: 'picture', id: this.id, mix });
  }

  send(message, transfer = []) {
    this.worker.postMessage(message, transfer);
  }

  receive(data) {
    if (data.type === 'ready') this.ready = true;
    if (data.id != null && data.id !== this.id) return;
    this.emit(data.type, data);
  }

  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
