// The classifier, beside the page's own thread: a waveform in, the probabilities and features of its windows out.

const LARGEST_PERIOD = 2000; // samples after which resampling repeats
const ZEROS = 64; // of the resampling filter, on each side
const ROLLOFF = 0.956; // of the lower Nyquist frequency

let ort, frontend, model, settings;
let newest = 0; // number of the waveform asked for last: the windows of older ones are left
let work = Promise.resolve(); // one run of the network at a time

onmessage = ({ data }) => {
  newest = data.id ?? newest;
  work = work.then(() => (data.runtime ? load(data) : classify(data))).catch((error) => {
    postMessage({ id: data.id, error: String(error.message || error) });
  });
};

async function load(files) {
  ort = await import(URL.createObjectURL(new Blob([files.runtime], { type: "text/javascript" })));
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1; // more need headers that only a server can send
  ort.env.wasm.wasmBinary = files.wasm;
  settings = files.settings;
  frontend = await ort.InferenceSession.create(files.frontend);
  model = await ort.InferenceSession.create(files.model);
  postMessage({ ready: true });
}

// Windows of the training length without overlap, the last one aligned with the end; a shorter waveform is repeated.
async function classify({ id, wave, rate }) {
  const { sample_rate: modelRate, clip_samples: samples, min_samples: shortest } = settings;
  const [orig, next] = rateRatio(rate, modelRate);
  const total = Math.ceil((wave.length * next) / orig);
  if (total < shortest) {
    postMessage({ id, tooShort: shortest / modelRate });
    return;
  }
  const last = Math.max(total - samples, 0);
  const count = Math.ceil(last / samples) + 1;
  for (let index = 0; index < count && id === newest; index++) {
    const start = Math.min(index * samples, last);
    const piece = resampled(wave, orig, next, start, Math.min(samples, total));
    const [probabilities, features] = await run(repeated(piece, samples));
    const times = { start: start / modelRate, end: (start + piece.length) / modelRate };
    postMessage({ id, index, count, ...times, probabilities, features: features.data, shape: features.dims.slice(2) });
    await new Promise((resolve) => setTimeout(resolve)); // a newer waveform may have come
  }
}

async function run(wave) {
  const { features } = await frontend.run({ wave: new ort.Tensor("float32", wave, [1, wave.length]) });
  const { probabilities } = await model.run({ features });
  return [Array.from(probabilities.data), features];
}

function repeated(wave, samples) {
  return wave.length === samples ? wave : Float32Array.from({ length: samples }, (_, i) => wave[i % wave.length]);
}

// [orig, next]: so many samples become so many; the fraction next / orig nearest to the rates' with a small denominator.
function rateRatio(origRate, nextRate) {
  const divisor = gcd(origRate, nextRate);
  const [numerator, denominator] = [nextRate / divisor, origRate / divisor];
  if (denominator <= LARGEST_PERIOD) return [denominator, numerator];
  let [p0, q0, p1, q1, n, d] = [0, 1, 1, 0, numerator, denominator]; // continued fraction
  for (;;) {
    const a = Math.floor(n / d);
    if (q0 + a * q1 > LARGEST_PERIOD) break;
    [p0, q0, p1, q1, n, d] = [p1, q1, p0 + a * p1, q0 + a * q1, d, n - a * d];
  }
  const k = Math.floor((LARGEST_PERIOD - q0) / q1);
  return 2 * d * (q0 + k * q1) <= denominator ? [q1, p1] : [q0 + k * q1, p0 + k * p1];
}

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}

// `samples` from `start` on at the new rate: a sinc under a Hann window, close to soxr, the resampler of training.
function resampled(wave, orig, next, start, samples) {
  if (orig === next) return wave.slice(start, start + samples);
  const filters = sincFilters(orig, next);
  const result = new Float32Array(samples);
  for (let i = 0; i < samples; i++) {
    const phase = (start + i) % next;
    const { first, taps } = filters[phase];
    const begin = ((start + i - phase) / next) * orig + first;
    let sum = 0;
    for (let k = Math.max(0, -begin); k < taps.length && begin + k < wave.length; k++) sum += taps[k] * wave[begin + k];
    result[i] = sum;
  }
  return result;
}

// For each of the `next` phases, the taps that are not zero, and the first one's place from the block's beginning.
function sincFilters(orig, next) {
  const cutoff = ROLLOFF * Math.min(orig, next);
  const reach = (ZEROS * orig) / cutoff;
  return Array.from({ length: next }, (_, phase) => {
    const centre = (phase * orig) / next;
    const first = Math.floor(centre - reach) + 1;
    const taps = Float32Array.from({ length: Math.ceil(centre + reach) - first }, (_, k) => {
      const distance = ((first + k) / orig - phase / next) * cutoff; // in zero crossings
      const sinc = distance ? Math.sin(Math.PI * distance) / (Math.PI * distance) : 1;
      return (sinc * Math.cos((Math.PI * distance) / (2 * ZEROS)) ** 2 * cutoff) / orig;
    });
    return { first, taps };
  });
}
