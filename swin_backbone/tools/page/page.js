// Sends an image to the page's server, and draws the model's prediction.

const at = (id) => document.getElementById(id);
const canvas = at('canvas');
const context = canvas.getContext('2d');

let model = null; // the response of GET /model
let megabytes = 0; // the server's limit of the size of a file, in MiB
let shown = null; // {name, picture, answer, layers, hidden}: the image on the canvas
let pointed = null; // index of the detection under the pointer in the list
let running = null; // AbortController of the current request

start();

async function start() {
  try {
    model = await (await fetch('model')).json();
  } catch {
    return fail('The server does not answer. Is it still running?');
  }
  megabytes = +(model.max_upload / 2 ** 20).toPrecision(3);
  const classes = `${model.classes.length} class${model.classes.length === 1 ? '' : 'es'}`;
  document.title = `${model.title} · swin_backbone`;
  at('title').textContent = model.title;
  at('about').textContent = `${model.task} · ${classes} · on ${model.device}`;
  at('limits').textContent = `Up to ${megabytes} MiB. It stays on the machine that serves this page.`;
  at('score').value = model.task === 'classification' ? 0.01 : 0.3;
  at('score-control').hidden = model.task === 'segmentation';
  at('opacity-control').hidden = model.task === 'classification';
  at('classes-box').hidden = model.task === 'classification';
  at('found-box').hidden = model.task === 'segmentation';
  at('found-title').textContent = model.task === 'classification' ? 'Likeliest' : 'Found';

  at('file').addEventListener('change', () => {
    if (at('file').files[0]) look(at('file').files[0]);
    at('file').value = ''; // so that the same file can be chosen again
  });
  at('score').addEventListener('input', update);
  at('opacity').addEventListener('input', update);
  at('save').addEventListener('click', save);
  document.addEventListener('paste', take);
  for (const kind of ['dragenter', 'dragover', 'dragleave', 'drop']) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      const inside = kind !== 'drop' && !(kind === 'dragleave' && !event.relatedTarget);
      document.body.classList.toggle('over', inside);
      if (kind === 'drop') take(event);
    });
  }
  new ResizeObserver(() => shown && draw()).observe(canvas);
}

// A dropped or pasted file.
function take(event) {
  const files = (event.dataTransfer ?? event.clipboardData).files;
  if (files.length) {
    event.preventDefault();
    look(files[0]);
  } else if (event.type === 'drop') {
    fail('That is no file. Save the image first, and drop the file.');
  }
}

async function look(file) {
  running?.abort();
  const mine = (running = new AbortController());
  at('error').hidden = true;
  if (file.size > model.max_upload) {
    if (!shown?.answer) clear();
    return fail(`The file is too large: ${megabytes} MiB are allowed.`);
  }
  busy(true);
  const { signal } = mine;
  try {
    const preview = await createImageBitmap(file).catch(() => null);
    if (signal.aborted) return;
    if (preview) show({ name: file.name, picture: preview, answer: null });
    const headers = { 'Content-Type': file.type || 'application/octet-stream' };
    const response = await fetch('predict', { method: 'POST', body: file, headers, signal });
    const answer = await response.json();
    if (!response.ok) throw new Refusal(answer.error);
    const picture = new Image();
    picture.src = answer.picture;
    await picture.decode();
    if (signal.aborted) return;
    show({ name: file.name, picture, answer, layers: layersOf(answer), hidden: new Set() });
    at('panel').hidden = false;
    listClasses();
    update();
  } catch (error) {
    if (signal.aborted) return;
    clear();
    fail(error instanceof Refusal ? error.message : 'The server does not answer. Is it still running?');
  } finally {
    if (running === mine) busy(false);
  }
}

class Refusal extends Error {}

function busy(yes) {
  at('progress').hidden = !yes;
  at('stage').setAttribute('aria-busy', yes);
  at('panel').inert = yes;
  if (yes) at('status').textContent = 'The model is looking …';
}

function fail(sentence) {
  at('error').textContent = sentence;
  at('error').hidden = false;
  at('status').textContent = '';
  busy(false);
}

function clear() {
  shown = null;
  at('frame').hidden = at('panel').hidden = true;
  at('drop').hidden = false;
}

function show(next) {
  shown = next;
  pointed = null;
  const { width, height } = shown.answer ?? shown.picture;
  const longest = Math.max(width, height);
  shown.size = [width, height];
  // Small pictures are enlarged, so that lines and text on them are sharp.
  shown.scale = Math.max(1, Math.ceil(1000 / longest));
  if (!shown.answer) shown.scale = Math.min(shown.scale, 2000 / longest); // previews have any size
  canvas.width = Math.max(1, Math.round(width * shown.scale));
  canvas.height = Math.max(1, Math.round(height * shown.scale));
  at('drop').hidden = true;
  at('frame').hidden = false;
  draw();
}

// --- the response as coloured layers ---

function layersOf(answer) {
  if (answer.segments) return [segmentsLayer(answer, new Set())];
  return (answer.masks ?? []).map((mask, i) => maskLayer(mask, colour(answer.labels[i])));
}

function maskLayer({ width, height, lengths }, [red, green, blue]) {
  if (!width) return null;
  return layer(width, height, (pixels) => {
    let place = 0;
    lengths.forEach((length, i) => {
      if (i % 2) pixels.fill(packed(red, green, blue), place, place + length);
      place += length;
    });
  });
}

function segmentsLayer({ width, height, segments }, hidden) {
  return layer(width, height, (pixels) => {
    let place = 0;
    segments.lengths.forEach((length, i) => {
      const label = segments.labels[i];
      if (!hidden.has(label)) pixels.fill(packed(...colour(label)), place, place + length);
      place += length;
    });
  });
}

function layer(width, height, paint) {
  const made = new OffscreenCanvas(width, height);
  const image = new ImageData(width, height);
  paint(new Uint32Array(image.data.buffer));
  made.getContext('2d').putImageData(image, 0, 0);
  return made;
}

// RGBA of an opaque pixel as an integer in the machine's byte order.
function packed(...rgb) {
  return new Uint32Array(new Uint8ClampedArray([...rgb, 255]).buffer)[0];
}

const GREY = [128, 128, 128];
const colour = (label) => model.palette[label] ?? GREY;
const css = (label) => `rgb(${colour(label).join(' ')})`;
const nameOf = (label) => model.classes[label] ?? `class ${label}`;

function percent(part) {
  if (part > 0 && part < 0.0005) return '<0.1%';
  return `${(100 * part).toFixed(part > 0 && part < 0.0995 ? 1 : 0)}%`;
}

// --- selection by score and class ---

function threshold() {
  return Number(at('score').value);
}

// Indices of the detections that are shown, best first.
function kept() {
  const { scores, labels } = shown.answer;
  return [...scores.keys()].filter((i) => scores[i] >= threshold() && !shown.hidden.has(labels[i]));
}

// [label, score] of the classes that are shown, best first.
function likely() {
  const all = shown.answer.scores.map((score, label) => [label, score]);
  return all.filter(([, score]) => score >= threshold()).sort((a, b) => b[1] - a[1]).slice(0, 10);
}

function shares() {
  const { labels, lengths } = shown.answer.segments;
  const sums = new Map();
  labels.forEach((label, i) => sums.set(label, (sums.get(label) ?? 0) + lengths[i]));
  const [width, height] = shown.size;
  return [...sums].map(([label, sum]) => [label, sum / (width * height)]).sort((a, b) => b[1] - a[1]);
}

// Redraws everything that depends on sliders and checkboxes; sends no request.
function update() {
  at('score-value').textContent = threshold().toFixed(2);
  at('opacity-value').textContent = percent(Number(at('opacity').value));
  if (!shown?.answer) return;
  pointed = null;
  draw();
  const took = shown.answer.seconds;
  const time = took < 1 ? `${Math.max(1, Math.round(1000 * took))} ms` : `${took.toFixed(1)} s`;
  const sentence = { detection: listDetections, segmentation: listSegments, classification: listLikely };
  const summary = sentence[model.task]();
  canvas.setAttribute('aria-label', `${shown.name}: ${summary}`);
  at('status').textContent = `${summary} · ${shown.size.join(' × ')} pixels · ${time}`;
}

function listDetections() {
  const indices = kept();
  const { labels, scores } = shown.answer;
  const items = indices.map((i) => {
    const item = row('li', labels[i], scores[i].toFixed(2));
    item.dataset.index = i;
    item.tabIndex = 0;
    item.append(meter(scores[i]));
    for (const [event, index] of [['mouseenter', i], ['focus', i], ['mouseleave', null], ['blur', null]]) {
      item.addEventListener(event, () => { pointed = index; draw(); });
    }
    return item;
  });
  fill('found', items, 'Nothing with such a score');
  for (const box of at('classes').querySelectorAll('input')) {
    const label = Number(box.value);
    const count = [...scores.keys()].filter((i) => labels[i] === label && scores[i] >= threshold()).length;
    box.parentElement.querySelector('.number').textContent = count;
  }
  return indices.length === 1 ? '1 object' : `${indices.length} objects`;
}

function listSegments() {
  const count = shares().length;
  return count === 1 ? '1 class' : `${count} classes`;
}

function listLikely() {
  const found = likely();
  const items = found.map(([label, score]) => {
    const item = row('li', label, percent(score));
    item.append(meter(score));
    return item;
  });
  fill('found', items, 'No class with such a score');
  return found.length ? `${nameOf(found[0][0])}, ${percent(found[0][1])}` : 'nothing certain';
}

// Checkboxes for the classes in the response.
function listClasses() {
  const { labels, segments } = shown.answer;
  if (model.task === 'classification') return;
  const there = segments ? shares() : [...new Set(labels)].sort((a, b) => a - b).map((label) => [label]);
  at('classes').replaceChildren(...there.map(([label, share]) => {
    const line = row('label', label, segments ? percent(share) : '');
    const box = document.createElement('input');
    Object.assign(box, { type: 'checkbox', value: label, checked: true });
    box.addEventListener('change', () => {
      shown.hidden[box.checked ? 'delete' : 'add'](label);
      if (segments) shown.layers = [segmentsLayer(shown.answer, shown.hidden)];
      update();
    });
    line.prepend(box);
    const item = document.createElement('li');
    item.append(line);
    return item;
  }));
}

function fill(id, items, otherwise) {
  const empty = document.createElement('li');
  empty.className = 'empty';
  empty.textContent = otherwise;
  at(id).classList.toggle('bars', items.length > 0);
  at(id).replaceChildren(...(items.length ? items : [empty]));
}

function row(tag, label, number) {
  const line = document.createElement(tag);
  const parts = ['swatch', 'name', 'number'].map((kind) => {
    const part = document.createElement('span');
    part.className = kind;
    return part;
  });
  parts[0].style.background = css(label);
  parts[1].textContent = nameOf(label);
  parts[2].textContent = number;
  line.append(...parts);
  return line;
}

function meter(value) {
  const made = document.createElement('meter');
  made.value = value;
  made.setAttribute('aria-hidden', 'true');
  return made;
}

// --- the canvas ---

function draw() {
  const { picture, answer, layers, size, scale } = shown;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.imageSmoothingQuality = 'high';
  context.globalAlpha = answer ? 1 : 0.6;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
  if (!answer) return;
  context.scale(scale, scale);
  const opacity = Number(at('opacity').value);
  // Lines and text have the same size on the screen for every picture: a screen pixel in the image's.
  const unit = canvas.clientWidth ? size[0] / canvas.clientWidth : 1 / scale;
  if (answer.segments) {
    context.globalAlpha = opacity;
    context.drawImage(layers[0], 0, 0);
    context.globalAlpha = 1;
  } else if (answer.boxes) {
    drawDetections(opacity, unit);
  } else if (likely().length) {
    const [label, score] = likely()[0];
    tag(`${nameOf(label)} ${percent(score)}`, label, 8 * unit, 8 * unit, 1.15 * unit);
  }
}

function drawDetections(opacity, unit) {
  const { boxes, labels, scores, masks } = shown.answer;
  const indices = kept().reverse(); // the best on top
  const faint = (i) => (pointed === null || pointed === i ? 1 : 0.25);
  if (masks) {
    context.globalAlpha = opacity;
    context.drawImage(together(indices, faint), 0, 0);
  }
  for (const i of indices) {
    const [left, top, right, bottom] = boxes[i];
    context.globalAlpha = faint(i);
    context.lineWidth = (pointed === i ? 4 : 2) * unit;
    context.strokeStyle = css(labels[i]);
    context.strokeRect(left, top, right - left, bottom - top);
  }
  for (const i of indices) {
    context.globalAlpha = faint(i);
    const [left, top] = boxes[i];
    tag(`${nameOf(labels[i])} ${scores[i].toFixed(2)}`, labels[i], left - unit, top - 19 * unit, unit);
  }
  context.globalAlpha = 1;
}

// The masks as one layer, so that overlapping masks show the colour of the best one.
function together(indices, faint) {
  const { layers, size, answer } = shown;
  const whole = new OffscreenCanvas(...size);
  const paint = whole.getContext('2d');
  for (const i of indices) {
    if (!layers[i]) continue;
    paint.globalAlpha = faint(i);
    paint.drawImage(layers[i], answer.masks[i].left, answer.masks[i].top);
  }
  return whole;
}

// Draws a name on its class's colour, within the picture.
function tag(text, label, left, top, unit) {
  const [width, height] = shown.size;
  context.font = `600 ${12 * unit}px system-ui, 'DejaVu Sans', sans-serif`;
  context.textBaseline = 'middle';
  const [wide, high] = [context.measureText(text).width + 10 * unit, 18 * unit];
  const x = Math.max(0, Math.min(left, width - wide));
  const y = Math.max(0, Math.min(top, height - high));
  context.fillStyle = css(label);
  context.fillRect(x, y, wide, high);
  const [red, green, blue] = colour(label);
  context.fillStyle = 0.299 * red + 0.587 * green + 0.114 * blue > 140 ? '#10131a' : '#ffffff';
  context.fillText(text, x + 5 * unit, y + high / 2 + 0.5 * unit);
}

function save() {
  pointed = null;
  draw();
  canvas.toBlob((blob) => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(blob);
    link.download = `${(shown.name || 'image').replace(/\.[^.]*$/, '')}_${model.title}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }, 'image/png');
}
