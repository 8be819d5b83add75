// The microphone: asks for it, taps it on the audio thread, and passes it to the worker.
const REASONS = {
  NotAllowedError: 'The microphone is blocked. Allow it for this page in the browser, then press Record again.',
  SecurityError: 'The microphone is blocked. Allow it for this page in the browser, then press Record again.',
  NotFoundError: 'No microphone was found. Connect one, or choose a file instead.',
  NotReadableError: 'The microphone cannot be used: another program may have it.',
};

export class NoMicrophone extends Error {}

export class Recorder {
  // holdSeconds: how much enhanced sound waits before it is played, against stutter.
  constructor(wantedHz, holdSeconds, onLevel) {
    this.wantedHz = wantedHz;
    this.holdSeconds = holdSeconds;
    this.onLevel = onLevel;
  }

  // Resolves to the sample rate and the port that carries the sound.
  async start(listening) {
    if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) {
      throw new NoMicrophone('This browser gives the microphone only to pages opened by https or from this computer (localhost).');
    }
    // What the browser would do to the sound itself would be heard in “before”.
    const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    try {
      this.stopped = false;
      this.stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      throw new NoMicrophone(REASONS[error.name] ?? `The microphone cannot be used (${error.message}).`);
    }
    if (this.stopped) {
      this.release();
      throw new NoMicrophone('The recording was ended before the microphone was allowed.');
    }
    try {
      return await this.connect(listening);
    } catch (error) {
      this.release();
      throw error;
    }
  }

  async connect(listening) {
    this.context = new AudioContext({ sampleRate: this.wantedHz, latencyHint: 'interactive' });
    let source;
    try {
      source = this.context.createMediaStreamSource(this.stream);
    } catch {
      // Firefox takes a microphone at its own rate only; the worker resamples then.
      await this.context.close();
      this.context = new AudioContext({ latencyHint: 'interactive' });
      source = this.context.createMediaStreamSource(this.stream);
    }
    await this.context.audioWorklet.addModule(new URL('tap.js', import.meta.url));
    await this.context.resume();
    this.tap = new AudioWorkletNode(this.context, 'tap', {
      outputChannelCount: [2],
      processorOptions: { holdSeconds: this.holdSeconds },
    });
    this.tap.port.onmessage = ({ data }) => this.onLevel(data);
    const { port1, port2 } = new MessageChannel();
    this.tap.port.postMessage({ worker: port1 }, [port1]);
    this.listen(listening);
    source.connect(this.tap).connect(this.context.destination);
    return { rate: this.context.sampleRate, port: port2 };
  }

  listen(on) {
    this.tap?.port.postMessage({ listening: on });
  }

  stop() {
    this.tap?.port.postMessage('end');
    this.stopped = true;
    this.release();
  }

  release() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    const { context } = this;
    if (context) setTimeout(() => context.close(), 500); // after the last block is out
    this.stream = this.context = null;
  }
}
