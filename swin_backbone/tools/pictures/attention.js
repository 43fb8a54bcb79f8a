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

  // The token at the point, rounded to those whose attention is included.
  function query() {
    const across = point[0] * data.scale[0] - data.offset[0];
    const down = point[1] * data.scale[1] - data.offset[1];
    const row = clamp(Math.floor(down / stage.side[0]), stage.grid[0] - 1);
    const column = clamp(Math.floor(across / stage.side[1]), stage.grid[1] - 1);
    return [row - row % stage.step, column - column % stage.step];
  }

  // The window's rows or columns on the padded map.
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

  // The parts of a window as [top, bottom, left, right], and whether they contain the token.
  function parts(block, row, column) {
    const found = [];
    for (const [top, bottom] of runs(places(row, block, 0)))
      for (const [left, right] of runs(places(column, block, 1)))
        found.push({box: [top, bottom, left, right],
          own: top <= row && row < bottom && left <= column && column < right});
    return found;
  }

  // The part of the image in a zoomed panel: [left, top, width, height].
  function zoomed(row, column) {
    const boxes = stage.blocks.map(b => parts(b, row, column).find(p => p.own).box);
    const least = i => Math.min(...boxes.map(box => box[i]));
    const most = i => Math.max(...boxes.map(box => box[i]));
    const side = Math.max(most(1) - least(0), most(3) - least(2)) + 3;
    const inside = (first, last, length) => // within the map, if it is large enough
      Math.max(Math.min((first + last - side) / 2, Math.max(length, last) - side), 0);
    const top = inside(least(0), most(1), stage.grid[0]);
    const left = inside(least(2), most(3), stage.grid[1]);
    const [x0, y0] = toImage(left * stage.side[1], top * stage.side[0]);
    const [x1, y1] = toImage((left + side) * stage.side[1], (top + side) * stage.side[0]);
    return [x0, y0, x1 - x0, y1 - y0];
  }

  // Draws the picture or a part of it, the attention of `heated`, and the outlines of `blocks`.
  function draw(panel, view, blocks, heated) {
    const {canvas} = panel;
    panel.view = view;
    const [row, column] = query();
    const per = Math.ceil(stage.grid[1] / stage.step);
    const context = canvas.getContext('2d');
    const across = canvas.width / view[2], down = canvas.height / view[3];
    const place = (x, y) => [(x - view[0]) * across, (y - view[1]) * down];
    const corner = (r, c) => place(...toImage(c * stage.side[1], r * stage.side[0]));
    context.fillStyle = '#dcdcdc';
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(picture, ...place(0, 0), width * across, height * down);
    if (heated) {
      context.fillStyle = 'rgba(255, 255, 255, 0.45)';
      context.fillRect(0, 0, canvas.width, canvas.height);
      const size = heated.window;
      const start = (row / stage.step * per + column / stage.step) * size * size;
      const rows = places(row, heated, 0), columns = places(column, heated, 1);
      const [top, bottom, left, right] = parts(heated, row, column).find(p => p.own).box;
      context.globalAlpha = 0.85;
      rows.forEach((r, i) => columns.forEach((c, j) => {
        if (r < top || r >= bottom || c < left || c >= right) return;
        const level = heated.weights[start + i * size + j];
        const [x0, y0] = corner(r, c), [x1, y1] = corner(r + 1, c + 1);
        context.fillStyle = `rgb(${heat.slice(3 * level, 3 * level + 3).join(',')})`;
        context.fillRect(x0, y0, x1 - x0, y1 - y0);
      }));
      context.globalAlpha = 1;
    }
    for (const block of blocks) for (const part of parts(block, row, column)) {
      const [top, bottom, left, right] = part.box;
      const [x0, y0] = corner(top, left), [x1, y1] = corner(bottom, right);
      context.setLineDash(part.own ? [] : [9, 12]);
      for (const [colour, line] of [['rgba(0, 0, 0, 0.6)', 13],
        [data.colours[Number(block.shift > 0)], 8]]) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      }
    }
    context.setLineDash([]);
    const [x, y] = corner(row + 0.5, column + 0.5);
    for (const [colour, line] of [['#fff', 13], ['#000', 6]]) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.beginPath();
      context.moveTo(x - 22, y); context.lineTo(x + 22, y);
      context.moveTo(x, y - 22); context.lineTo(x, y + 22);
      context.stroke();
    }
    const index = row / stage.step * per + column / stage.step;
    panel.text.textContent = heated
      ? `Up to ${percent(heated.most[index])} on a token` +
        (heated.padded[index] > 0 ? `, ${percent(heated.padded[index])} on padding.` : '.')
      : `Token (${row}, ${column}), in row and column.` +
        (stage.step > 1 ? ` Of ${stage.step} × ${stage.step} tokens, one is in this file.` : '');
  }

  let panels = [];
  function redraw() {
    const [first, ...rest] = panels, view = zoomed(...query());
    draw(first, [0, 0, width, height], stage.blocks, null);
    rest.forEach(panel => draw(panel, view, [panel.block], panel.block));
  }

  function panel(place, title, block, size) {
    const part = place.appendChild(document.createElement('div'));
    part.appendChild(document.createElement('h3')).textContent = title;
    const canvas = part.appendChild(document.createElement('canvas'));
    [canvas.width, canvas.height] = size;
    canvas.tabIndex = 0;
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', `${title}; arrow keys move the token`);
    const made = {canvas, block, text: part.appendChild(document.createElement('p'))};
    canvas.addEventListener('click', event => {
      const box = canvas.getBoundingClientRect();
      const [left, top, across, down] = made.view;
      point = [left + (event.clientX - box.left) / box.width * across,
        top + (event.clientY - box.top) / box.height * down];
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
    return made;
  }

  function choose(chosen) {
    stage = chosen;
    document.querySelectorAll('#stages button').forEach(button =>
      button.setAttribute('aria-pressed', String(button.stage === stage)));
    const place = document.getElementById('attention');
    place.textContent = '';
    const factor = 900 / Math.max(width, height);
    const whole = [width, height].map(side => Math.max(Math.round(side * factor), 1));
    panels = [panel(place, 'The picture', null, whole)];
    for (const block of stage.blocks) {
      const windows = `${data.words[Number(block.shift > 0)]} of ${block.window} × ${block.window}`;
      panels.push(panel(place, `Block ${block.block}: ${windows}`, block, [900, 900]));
    }
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
