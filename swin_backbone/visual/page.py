"""The text of a report's page: its frame, the attention that follows clicks, and their script."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1d1d1f; --faint: #5f6368;
  --line: #d5d7da; --card: #f5f6f7; --warn: #b00020; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e7e9ea; --faint: #a3a9ae;
  --line: #3a3f44; --card: #212529; --warn: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; }
dt, .note, footer { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
.warn { color: var(--warn); font-weight: 600; }
figure { margin: 1rem 0; padding: .5rem; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; }
figure img { display: block; max-width: 100%; height: auto; margin: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; }
th, td { text-align: right; padding: .2rem .8rem; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
.bar { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin: .5rem 0; }
button { font: inherit; color: var(--ink); background: var(--card); padding: .25rem .8rem;
  border: 1px solid var(--line); border-radius: 5px; cursor: pointer; }
button[aria-pressed=true] { background: var(--ink); color: var(--paper); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr));
  gap: 1rem; }
.pair > div { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: .6rem; }
.pair h3 { font-size: 1rem; margin: 0 0 .4rem; }
.pair p { margin: .4rem 0 0; min-height: 3em; }
canvas { display: block; width: 100%; height: auto; cursor: crosshair; border-radius: 3px; }
canvas:focus-visible { outline: 3px solid #2f9be0; }
</style>
</head>
<body>
<h1>{title}</h1>
<dl>{facts}</dl>
{parts}
<footer><p>Made by swin_backbone {version}.</p></footer>
</body>
</html>
"""

ATTENTION = """<p>Click on the picture, or move the token with the arrow keys: what it attends to in
its window, and in its shifted window, as a mean over the heads. Colours go from black, no
attention, to pale yellow, the largest.</p>
<div class="bar" id="stages" role="group" aria-label="stage"></div>
<div class="pair" id="attention"></div>
<script type="application/json" id="attention-data">{data}</script>
<script>{script}</script>
"""

SCRIPT = """
'use strict';
(() => {
  const data = JSON.parse(document.getElementById('attention-data').textContent);
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const floats = text => new Float32Array(bytes(text).buffer);
  const heat = bytes(data.heat);
  const [width, height] = data.size;
  for (const stage of data.stages) for (const block of stage.blocks) {
    block.weights = bytes(block.weights);
    block.most = floats(block.most);
    block.padded = floats(block.padded);
  }
  const asked = new URLSearchParams(location.hash.slice(1));
  const number = (name, otherwise) => asked.has(name) ? Number(asked.get(name)) : otherwise;
  let stage = data.stages.find(s => s.stage === number('stage', data.stage)) || data.stages[0];
  let point = [number('x', data.point[0]), number('y', data.point[1])];
  const picture = new Image();
  const percent = share => (100 * share).toFixed(share >= 0.1 ? 0 : 1) + ' %';
  const toImage = (x, y) => [(x + data.offset[0]) / data.scale[0],
    (y + data.offset[1]) / data.scale[1]];
  const clamp = (value, most) => Math.min(Math.max(value, 0), most);

  // The token at the point, of those whose attention is here.
  function query() {
    const across = point[0] * data.scale[0] - data.offset[0];
    const down = point[1] * data.scale[1] - data.offset[1];
    const row = clamp(Math.floor(down / stage.side[0]), stage.grid[0] - 1);
    const column = clamp(Math.floor(across / stage.side[1]), stage.grid[1] - 1);
    return [row - row % stage.step, column - column % stage.step];
  }

  // Where the window's rows, or columns, lie on the padded map.
  function places(place, block, axis) {
    const length = block.padded_grid[axis], size = block.window;
    const shifted = (place - block.shift + length) % length;
    const first = Math.floor(shifted / size) * size;
    return Array.from({length: size}, (_, i) => (first + i + block.shift) % length);
  }

  function runs(numbers) {
    const found = [];
    for (const n of numbers) {
      const last = found[found.length - 1];
      if (last && last[1] === n) last[1] = n + 1; else found.push([n, n + 1]);
    }
    return found;
  }

  function draw(block, canvas, text) {
    const [row, column] = query();
    const per = Math.ceil(stage.grid[1] / stage.step);
    const index = row / stage.step * per + column / stage.step;
    const size = block.window, rows = places(row, block, 0), columns = places(column, block, 1);
    const most = block.most[index], start = index * size * size;
    const context = canvas.getContext('2d');
    const factor = canvas.width / width;
    const corner = (r, c) => toImage(c * stage.side[1], r * stage.side[0]).map(v => v * factor);
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    context.fillStyle = 'rgba(255, 255, 255, 0.45)';
    context.fillRect(0, 0, canvas.width, canvas.height);
    const own = piece => piece[0] <= row && row < piece[1];
    const downs = runs(rows), acrosses = runs(columns);
    context.globalAlpha = 0.85;
    rows.forEach((r, i) => columns.forEach((c, j) => {
      const level = block.weights[start + i * size + j];
      const [x0, y0] = corner(r, c), [x1, y1] = corner(r + 1, c + 1);
      const inside = downs.find(d => d[0] <= r && r < d[1]) === downs.find(own) &&
        acrosses.find(a => a[0] <= c && c < a[1]) ===
        acrosses.find(a => a[0] <= column && column < a[1]);
      if (!inside) return;
      context.fillStyle = `rgb(${heat.slice(3 * level, 3 * level + 3).join(',')})`;
      context.fillRect(x0, y0, x1 - x0 + 0.5, y1 - y0 + 0.5);
    }));
    context.globalAlpha = 1;
    for (const [top, bottom] of downs) for (const [left, right] of acrosses) {
      const mine = top <= row && row < bottom && left <= column && column < right;
      const [x0, y0] = corner(top, left), [x1, y1] = corner(bottom, right);
      context.setLineDash(mine ? [] : [3, 4]);
      for (const [colour, line] of [['rgba(0, 0, 0, 0.6)', 5], [canvas.dataset.colour, 3]]) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      }
    }
    context.setLineDash([]);
    const [x0, y0] = corner(row, column), [x1, y1] = corner(row + 1, column + 1);
    const x = (x0 + x1) / 2, y = (y0 + y1) / 2;
    for (const [colour, line] of [['#fff', 5], ['#000', 2.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.beginPath();
      context.moveTo(x - 9, y); context.lineTo(x + 9, y);
      context.moveTo(x, y - 9); context.lineTo(x, y + 9);
      context.stroke();
    }
    const padded = block.padded[index];
    text.textContent = `Token (${row}, ${column}): up to ${percent(most)} on a token` +
      (padded > 0 ? `, ${percent(padded)} on padding.` : '.') +
      (stage.step > 1 ? ` Every ${stage.step}th token is in this file.` : '');
  }

  let panels = [];
  const redraw = () => panels.forEach(([block, canvas, text]) => draw(block, canvas, text));

  function choose(chosen) {
    stage = chosen;
    document.querySelectorAll('#stages button').forEach(button =>
      button.setAttribute('aria-pressed', String(button.stage === stage)));
    const place = document.getElementById('attention');
    place.textContent = '';
    panels = stage.blocks.map(block => {
      const kind = Number(block.shift > 0);
      const part = place.appendChild(document.createElement('div'));
      part.appendChild(document.createElement('h3')).textContent =
        `Block ${block.block}: ${data.words[kind]} of ${block.window} × ${block.window} tokens`;
      const canvas = part.appendChild(document.createElement('canvas'));
      const factor = Math.min(900 / Math.max(width, height), 4);
      canvas.width = Math.max(Math.round(width * factor), 1);
      canvas.height = Math.max(Math.round(height * factor), 1);
      canvas.dataset.colour = data.colours[kind];
      canvas.tabIndex = 0;
      canvas.setAttribute('role', 'img');
      canvas.setAttribute('aria-label', 'attention; arrow keys move the token');
      canvas.addEventListener('click', event => {
        const box = canvas.getBoundingClientRect();
        point = [(event.clientX - box.left) / box.width * width,
          (event.clientY - box.top) / box.height * height];
        redraw();
      });
      canvas.addEventListener('keydown', event => {
        const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0],
          ArrowDown: [1, 0]}[event.key];
        if (!step) return;
        event.preventDefault();
        const [row, column] = query().map((v, i) =>
          clamp(v + step[i] * stage.step, stage.grid[i] - 1));
        point = toImage((column + 0.5) * stage.side[1], (row + 0.5) * stage.side[0]);
        redraw();
      });
      return [block, canvas, part.appendChild(document.createElement('p'))];
    });
    redraw();
  }

  for (const one of data.stages) {
    const button = document.getElementById('stages').appendChild(document.createElement('button'));
    button.type = 'button';
    button.stage = one;
    button.textContent = `Stage ${one.stage}: ${one.grid[1]} × ${one.grid[0]} tokens`;
    button.addEventListener('click', () => choose(one));
  }
  picture.onload = () => choose(stage);
  picture.src = data.picture;
})();
"""
