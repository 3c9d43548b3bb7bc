const LARGEST_FILE = 1e9; // bytes: the browser decodes the whole of it
const UPDATE_SECONDS = 0.25; // between looks at the microphone, at the least
const HISTORY = 120; // looks at the microphone in the strips
const STRIP_HEIGHT = 24; // pixels

const at = (id) => document.getElementById(id);
const settings = JSON.parse(at("settings").textContent);
const { labels } = settings;
const worker = new Worker(blobUrl(at("worker").textContent));

let job = 0; // number of the waveform that the worker is asked for; messages about older ones are dropped
let windows = []; // of the recording shown: {start, end, probabilities, image}
let microphone = null; // while it is open: {context, stream, held, ...}
let drawn = [[], 0]; // what the strips show
let spoken = ""; // the scene that the status tells of the microphone

// Start: unpack what the page carries, and build a row for each label.

const rows = labels.map((label) => {
  const item = at("scores").appendChild(document.createElement("li"));
  const [name, value] = ["name", "value"].map((kind) => element(item, "span", kind));
  const fill = element(element(item, "div", "bar"), "div");
  const strip = element(item, "canvas", "strip");
  strip.setAttribute("aria-hidden", "true"); // the table says the same
  strip.hidden = true;
  name.textContent = label;
  return { name, value, fill, strip };
});

try {
  const [runtime, wasm, frontend, model] = await Promise.all(["runtime", "wasm", "frontend", "model"].map(unpacked));
  worker.postMessage({ runtime, wasm, frontend: new Uint8Array(frontend), model: new Uint8Array(model), settings });
} catch (error) {
  cannotRun(error);
}
worker.onerror = cannotRun;
worker.onmessage = ({ data }) => {
  if (data.ready) {
    at("listen").disabled = false;
    say("Ready.");
    document.documentElement.dataset.ready = "";
  } else if (data.error && !data.id) cannotRun(data.error);
  else if (data.id !== job) return;
  else if (data.error) fail(`The network failed (${data.error}): reload the page.`);
  else if (microphone) heard(data);
  else if (data.tooShort) fail(`The recording is shorter than one window: give at least ${data.tooShort.toFixed(3)} s.`);
  else computed(data);
};

function element(parent, tag, kind = "") {
  const child = parent.appendChild(document.createElement(tag));
  child.className = kind;
  return child;
}

function blobUrl(script) {
  return URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
}

async function unpacked(id) {
  const packed = Uint8Array.from(atob(at(id).textContent), (character) => character.charCodeAt(0));
  at(id).remove();
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

function cannotRun(error) {
  const why = error.message || error;
  fail(`This browser cannot run the network (${why}): use a current Chrome, Edge, Firefox or Safari.`);
}

function fail(sentence) {
  at("progress").hidden = true;
  say("");
  at("error").textContent = sentence;
}

// To all, or only to a screen reader where the page shows it larger.
function say(sentence, isShown = false) {
  at("status").textContent = sentence;
  at("status").classList.toggle("unseen", isShown);
}

function begin(sentence) {
  job += 1;
  windows = [];
  at("player").pause();
  at("error").textContent = "";
  say(sentence);
  at("rows").replaceChildren();
  for (const id of ["result", "choice", "windows", "player", "playhead", "strip-hint", "progress"]) at(id).hidden = true;
  for (const { strip } of rows) strip.hidden = true;
}

// A recording from a file.

at("file").onchange = ({ target }) => {
  if (target.files.length) open(target.files[0]);
  target.value = ""; // so that the same file may be chosen again
};
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
  });
}

async function open(file) {
  stopListening();
  begin(`Reading ${file.name} …`);
  const mine = job;
  try {
    if (file.size > LARGEST_FILE) throw new Error(`${file.name} is larger than 1 GB: cut it, or use example.py.`);
    const { wave, rate } = await decoded(file);
    if (mine !== job) return;
    at("source").textContent = file.name;
    URL.revokeObjectURL(at("player").src);
    at("player").src = URL.createObjectURL(file);
    at("player").hidden = false;
    worker.postMessage({ id: job, wave, rate }, [wave.buffer]);
  } catch (error) {
    if (mine === job) fail(error.message);
  }
}

// One channel at the file's own rate where its header tells it, else at the model's rate by the browser's resampler.
async function decoded(file) {
  const bytes = await file.arrayBuffer();
  const rate = headerRate(new DataView(bytes)) ?? settings.sample_rate;
  let context;
  try {
    context = new OfflineAudioContext(1, 1, rate);
  } catch {
    context = new OfflineAudioContext(1, 1, settings.sample_rate); // a rate that the browser does not know
  }
  let sound;
  try {
    sound = await context.decodeAudioData(bytes);
  } catch {
    throw new Error(`${file.name} is not a sound file that this browser reads: give WAV, FLAC, MP3, Ogg or M4A.`);
  }
  return { wave: oneChannel(sound, file.name), rate: sound.sampleRate };
}

function oneChannel(sound, name) {
  const count = sound.numberOfChannels;
  const { channel } = settings;
  if (count === 1) return sound.getChannelData(0).slice();
  if (channel !== "mean") {
    if (channel >= count) throw new Error(`${name} has no channel ${channel}: give one with more channels, or a mono file.`);
    return sound.getChannelData(channel).slice();
  }
  const channels = Array.from({ length: count }, (_, index) => sound.getChannelData(index));
  return channels[0].map((_, i) => channels.reduce((sum, values) => sum + values[i], 0) / count);
}

// Hz in the header of a WAV, FLAC, Ogg or MP3 file; undefined for others.
function headerRate(view) {
  const text = (offset, length) =>
    offset + length <= view.byteLength ? String.fromCharCode(...new Uint8Array(view.buffer, offset, length)) : "";
  const kind = text(0, 4);
  if (["RIFF", "RF64"].includes(kind)) {
    for (let chunk = 12; chunk + 16 <= view.byteLength; chunk += 8 + view.getUint32(chunk + 4, true)) {
      if (text(chunk, 4) === "fmt ") return view.getUint32(chunk + 12, true);
    }
  }
  if (kind === "fLaC" && view.byteLength > 21) return (view.getUint16(18) << 4) | (view.getUint8(20) >> 4);
  if (kind === "OggS" && text(28, 8) === "OpusHead") return 48000; // at which Opus decodes
  if (kind === "OggS" && text(28, 7) === "\x01vorbis") return view.getUint32(40, true);
  return mp3Rate(view, kind.startsWith("ID3") ? 10 + synchsafe(view, 6) : 0);
}

function synchsafe(view, offset) {
  return [0, 1, 2, 3].reduce((size, index) => (size << 7) | view.getUint8(offset + index), 0);
}

// Hz of the MPEG audio frame at `offset`; undefined where there is none.
function mp3Rate(view, offset) {
  if (offset + 4 > view.byteLength) return undefined;
  const header = view.getUint32(offset);
  const halvings = { 3: 0, 2: 1, 0: 2 }[(header >>> 19) & 3]; // of MPEG 1, 2 and 2.5
  return header >>> 21 === 0x7ff && halvings !== undefined ? [44100, 48000, 32000][(header >>> 10) & 3] >> halvings : undefined;
}

function computed({ index, count, start, end, probabilities, features, shape }) {
  windows.push({ start, end, probabilities, image: levels(features), shape });
  const row = element(at("rows"), "tr");
  const best = indexOfLargest(probabilities);
  for (const text of [clock(start), clock(end), labels[best], percent(probabilities[best])]) {
    element(row, "td").textContent = text;
  }
  const mean = labels.map((_, label) => windows.reduce((sum, one) => sum + one.probabilities[label], 0) / windows.length);
  show(mean);
  const several = count > 1;
  at("choice").hidden = at("windows").hidden = at("strip-hint").hidden = !several;
  at("progress").hidden = index + 1 === count;
  at("progress").max = count;
  at("progress").value = index + 1;
  at("position").max = windows.length - 1;
  if (several) strips(windows.map((one) => one.probabilities), count);
  choose(windows.length - 1);
  if (index + 1 < count) return;
  choose(0);
  const of = several ? `, mean of ${count} windows of ${clock(windows[0].end)}` : "";
  say(`${summary(mean)}${of}.`, true);
}

// The window whose spectrogram is shown: the one chosen, or the one that plays.

at("position").oninput = ({ target }) => {
  choose(Number(target.value));
  at("player").currentTime = windows[target.value].start;
};
at("player").ontimeupdate = at("player").onseeked = () => follow();
at("player").onplay = function frame() {
  follow();
  if (!at("player").paused) requestAnimationFrame(frame);
};

function follow() {
  if (microphone || !windows.length) return;
  const time = at("player").currentTime;
  const index = windows.findIndex((one) => time < one.end);
  const playing = index < 0 ? windows.length - 1 : index;
  if (playing !== Number(at("position").value)) choose(playing);
  const { start, end } = windows[playing];
  at("playhead").hidden = time === 0;
  at("playhead").style.left = `${Math.min(100, (100 * (time - start)) / (end - start))}%`;
}

function choose(index) {
  const { start, end, probabilities, image, shape } = windows[index];
  at("position").value = index;
  const what = `${clock(start)} to ${clock(end)}: ${summary(probabilities)}`;
  at("position").setAttribute("aria-valuetext", what);
  draw(image, shape, 1);
  at("from").textContent = clock(start);
  at("to").textContent = clock(end);
  at("caption").textContent = windows.length > 1 ? `Spectrogram of window ${index + 1}, ${what}` : "Spectrogram, as the network sees it";
}

// The microphone: the newest seconds again and again, as many as the network was trained on.

at("listen").onclick = () => (microphone ? stopListening("Stopped.") : listen());

async function listen() {
  begin("Waiting for the microphone …");
  const mine = job;
  if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) {
    fail("No microphone at this address: browsers allow it on https, on localhost and in a page opened from disk.");
    return;
  }
  let stream;
  try {
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    const context = new AudioContext();
    await context.audioWorklet.addModule(RECORDER);
    const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    const seconds = settings.clip_samples / settings.sample_rate;
    if (mine !== job) throw new Error("another recording was chosen");
    const samples = Math.floor(seconds * context.sampleRate);
    microphone = { context, stream, held: 0, wave: new Float32Array(samples), seconds, history: [], asked: 0, busy: false };
    recorder.port.onmessage = ({ data }) => receive(data);
    context.createMediaStreamSource(stream).connect(recorder);
    stream.getAudioTracks()[0].onended = () => stopListening("The microphone was unplugged or taken away.");
    await context.resume();
  } catch (error) {
    stream?.getTracks().forEach((track) => track.stop());
    if (mine === job) fail(microphoneFault(error));
    return;
  }
  at("listen").textContent = "Stop listening";
  at("listen").setAttribute("aria-pressed", "true");
  at("source").textContent = "";
  say("Listening.");
  spoken = "";
}

// An AudioWorklet of a page from disk may not come from a blob.
const RECORDER = `data:text/javascript,${encodeURIComponent(`
registerProcessor("recorder", class extends AudioWorkletProcessor {
  block = new Float32Array(2048); held = 0;
  process([[samples]]) {
    if (!samples) return true;
    this.block.set(samples, this.held);
    this.held += samples.length;
    if (this.held + samples.length > this.block.length) {
      this.port.postMessage(this.block.slice(0, this.held));
      this.held = 0;
    }
    return true;
  }
});`)}`;

function microphoneFault(error) {
  if (error.name === "NotAllowedError") return "The microphone was refused: allow it for this page in the browser's settings.";
  if (error.name === "NotFoundError") return "No microphone was found: connect one.";
  return `The microphone cannot be used (${error.message}): close other programs that use it.`;
}

function stopListening(sentence) {
  if (!microphone) return;
  microphone.stream.getTracks().forEach((track) => track.stop());
  microphone.context.close();
  microphone = null;
  job += 1;
  at("listen").textContent = "Listen to the microphone";
  at("listen").setAttribute("aria-pressed", "false");
  if (sentence) say(sentence);
}

function receive(block) {
  if (!microphone) return;
  const { wave, context } = microphone;
  wave.copyWithin(0, block.length);
  wave.set(block, wave.length - block.length);
  microphone.held = Math.min(microphone.held + block.length, wave.length);
  const waited = context.currentTime - microphone.asked;
  const enough = microphone.held * (settings.sample_rate / context.sampleRate) > settings.min_samples;
  if (microphone.busy || waited < UPDATE_SECONDS || !enough) return;
  microphone.busy = true;
  microphone.asked = context.currentTime;
  const newest = wave.slice(wave.length - microphone.held);
  worker.postMessage({ id: job, wave: newest, rate: context.sampleRate }, [newest.buffer]);
}

function heard({ probabilities, features, shape, end, index, count }) {
  if (index + 1 === count || !probabilities) microphone.busy = false;
  if (!probabilities) return;
  const { history, seconds } = microphone;
  history.push(probabilities);
  if (history.length > HISTORY) history.shift();
  show(probabilities);
  strips(history, HISTORY);
  at("strip-hint").hidden = false;
  at("source").textContent =
    end < seconds - 0.5 ? `the first ${end.toFixed(0)} s of ${seconds.toFixed(0)}` : `the last ${seconds.toFixed(0)} s`;
  draw(levels(features), shape, Math.min(1, end / seconds));
  at("from").textContent = `${seconds.toFixed(0)} s ago`;
  at("to").textContent = "now";
  at("caption").textContent = "Spectrogram of the microphone, as the network sees it";
  const best = labels[indexOfLargest(probabilities)];
  if (best === spoken) return; // a screen reader would never come to rest
  spoken = best;
  say(`Listening: ${summary(probabilities)}.`, true);
}

// What both show.

function show(probabilities) {
  const best = indexOfLargest(probabilities);
  at("answer").textContent = `${labels[best]}, ${percent(probabilities[best])}`;
  rows.forEach(({ name, value, fill }, label) => {
    value.textContent = percent(probabilities[label]);
    value.dataset.probability = probabilities[label];
    fill.style.width = `${100 * probabilities[label]}%`;
    name.className = label === best ? "name best" : "name";
  });
  at("result").hidden = false;
}

// Each label's probability over time, as an area.
function strips(history, length) {
  drawn = [history, length];
  const color = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  rows.forEach(({ strip }, label) => {
    strip.hidden = false;
    strip.width = length;
    strip.height = STRIP_HEIGHT;
    const context = strip.getContext("2d");
    context.fillStyle = color;
    history.forEach((probabilities, index) => {
      const height = probabilities[label] * STRIP_HEIGHT;
      context.fillRect(index, STRIP_HEIGHT - height, 1, height);
    });
  });
}

matchMedia("(prefers-color-scheme: dark)").onchange = () => strips(...drawn);

const MAGMA = ["000004", "140e36", "3b0f70", "641a80", "8c2981", "b73779", "de4968", "f7705c", "fe9f6d", "fecf92", "fcfdbf"].map(
  (hex) => [0, 2, 4].map((place) => parseInt(hex.slice(place, place + 2), 16)),
);
const COLORS = Array.from({ length: 256 }, (_, level) => {
  const place = (level / 255) * (MAGMA.length - 1);
  const [low, high] = [MAGMA[Math.floor(place)], MAGMA[Math.ceil(place)]];
  return low.map((value, channel) => value + (place % 1) * (high[channel] - value));
});

// Features as brightness 0 to 255, from their 2nd to their 99.8th percentile.
function levels(features) {
  const sorted = features.slice().sort();
  const [low, high] = [0.02, 0.998].map((part) => sorted[Math.floor(part * (sorted.length - 1))]);
  return Uint8ClampedArray.from(features, (value) => (255 * (value - low)) / (high - low || 1));
}

// The first `part` of the frames, at the right end; low bands below.
function draw(image, [bands, frames], part) {
  const canvas = at("spectrogram");
  const kept = Math.max(1, Math.round(part * frames));
  canvas.width = frames;
  canvas.height = bands;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(kept, bands);
  for (let band = 0; band < bands; band++) {
    for (let frame = 0; frame < kept; frame++) {
      const color = COLORS[image[band * frames + frame]];
      pixels.data.set([...color, 255], 4 * ((bands - 1 - band) * kept + frame));
    }
  }
  context.putImageData(pixels, frames - kept, 0);
}

function indexOfLargest(values) {
  return values.indexOf(Math.max(...values));
}

function summary(probabilities) {
  const best = indexOfLargest(probabilities);
  return `${labels[best]}, ${percent(probabilities[best])}`;
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

function clock(seconds) {
  const [minutes, rest] = [Math.floor(seconds / 60), (seconds % 60).toFixed(1).replace(/\.0$/, "")];
  return minutes ? `${minutes}:${rest.padStart(rest.includes(".") ? 4 : 2, "0")} min` : `${rest} s`;
}
