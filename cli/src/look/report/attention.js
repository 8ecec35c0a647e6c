// --- attention ------------------------------------------------------------------------------------------------------

/** Draws a head into a canvas, a pixel per cell. */
function draw(canvas, layer, h) {
  const weights = head(layer, h), size = weights.length;
  canvas.width = canvas.height = size;
  const image = new ImageData(size, size);
  const [r, g, b] = style("--heat").split(",").map(Number);
  let most = 1e-6;
  weights.forEach((row) => row.forEach((w) => { most = Math.max(most, w); }));
  weights.forEach((row, i) => row.forEach((w, j) => {
    image.data.set([r, g, b, j > i ? 0 : 14 + 241 * Math.sqrt(w / most)], (i * size + j) * 4);
  }));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Marks that tell heads apart which look at a place and not at a meaning. */
function control(layer, h) {
  let previous = 0, first = 0;
  for (let i = 2; i < n; i++) previous += weight(layer, h, i, i - 1) / Math.max(1, n - 2);
  for (let i = 1; i < n; i++) first += weight(layer, h, i, 0) / Math.max(1, n - 1);
  return { previous, first, mark: previous >= 0.5 ? "looks at the token before" : first >= 0.6 ? "rests on the first token" : "" };
}

function heads() {
  const box = $("heads");
  // As many layers side by side as there is room for.
  const width = box.parentElement.clientWidth, blocks = Math.max(1, Math.floor(width / (28 + H * 48)));
  box.style.gridTemplateColumns = `1.7em repeat(${H}, minmax(0, 1fr)) `.repeat(blocks);
  box.style.maxWidth = `${blocks * (32 + H * 96)}px`;
  const cells = [];
  for (let layer = 0; layer < L; layer++) {
    cells.push(el("span", "label", layer));
    for (let h = 0; h < H; h++) {
      const button = el("button", "head"), canvas = el("canvas");
      button.type = "button";
      button.dataset.head = `${layer}.${h}`;
      button.setAttribute("aria-label", `layer ${layer}, head ${h}`);
      button.title = `layer ${layer}, head ${h}`;
      button.append(canvas);
      button.onclick = () => enlarge(layer, h);
      draw(canvas, layer, h);
      cells.push(button);
    }
  }
  box.replaceChildren(...cells);
  mark();
}

let opened = null; // [layer, head, row] in the dialog

function enlarge(layer, h) {
  const row = units().findIndex(([from, to]) => from <= picked && picked < to);
  opened = [layer, h, opened ? Math.min(opened[2], units().length - 1) : row];
  const c = control(layer, h);
  $("headname").textContent = `Layer ${layer}, head ${h}`;
  $("headnote").textContent = `${percent(c.previous)} of the weight lies on the token before, ${percent(c.first)} on the ` +
    `first one${c.mark ? `: it ${c.mark}` : ""}.`;
  if (!$("enlarged").open) $("enlarged").showModal();
  paint();
}

/** The enlarged head: cells with labels, the chosen row framed, and the text coloured by what that row hears. */
function paint() {
  const [layer, h, chosen] = opened;
  const list = units(), weights = head(layer, h), size = list.length;
  const room = Math.min(700, $("enlarged").clientWidth - 40);
  const label = Math.min(120, room * 0.26);
  const cell = Math.max(9, Math.min(46, Math.floor((room - label - 34) / size)));
  const canvas = $("big"), scale = window.devicePixelRatio || 1;
  const width = label + cell * size + 34, height = label + cell * size + 4;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const g = canvas.getContext("2d");
  g.scale(scale, scale);
  g.font = `${Math.max(8, Math.min(14, cell * 0.62))}px system-ui, sans-serif`;
  const most = Math.max(1e-6, ...weights.flat());
  const cut = (text) => {
    let shown = dotted(text.trim() || text);
    while (shown.length > 1 && g.measureText(shown).width > label - 10) shown = shown.slice(0, -2) + "…";
    return shown;
  };
  weights.forEach((row, i) => {
    const y = label + i * cell;
    g.fillStyle = i === chosen ? style("--flag") : style("--ink");
    g.textAlign = "right";
    g.textBaseline = "middle";
    g.fillText(cut(unitText(list[i])), label - 7, y + cell / 2);
    g.save();
    g.translate(label + i * cell + cell / 2, label - 7);
    g.rotate(-Math.PI / 3.4);
    g.textAlign = "left";
    g.fillStyle = style("--ink");
    g.fillText(cut(unitText(list[i])), 0, 0);
    g.restore();
    row.slice(0, i + 1).forEach((w, j) => {
      g.fillStyle = heat(0.05 + 0.95 * w / most);
      g.beginPath();
      g.roundRect(label + j * cell + 1, y + 1, cell - 2, cell - 2, Math.min(5, cell / 6));
      g.fill();
      if (cell >= 30 && w >= 0.005) {
        g.fillStyle = w / most > 0.6 ? style("--paper") : style("--ink");
        g.textAlign = "center";
        g.fillText(w.toFixed(2).replace(/^0/, ""), label + (j + 0.5) * cell, y + cell / 2);
      }
    });
  });
  g.strokeStyle = style("--flag");
  g.lineWidth = 2;
  g.strokeRect(label, label + chosen * cell, cell * (chosen + 1), cell);
  canvas.onclick = (event) => {
    const row = Math.floor((event.offsetY - label) / cell);
    if (row >= 0 && row < size) { opened[2] = row; paint(); }
  };
  const total = Math.max(1e-6, ...weights[chosen]);
  $("rowtext").replaceChildren(...list.map((unit, j) => {
    const span = el("span", j === chosen ? "listener" : "", unitText(unit).replace(/\n/g, "⏎"));
    span.style.background = heat(0.75 * weights[chosen][j] / total);
    span.title = percent(weights[chosen][j]);
    return span;
  }));
}

// --- which head links these words? ----------------------------------------------------------------------------------

const asked = { from: 0, to: new Set() };

function asking() {
  const list = data.words;
  const chip = (i, pressed, onclick) => {
    const b = el("button", "chip");
    b.type = "button";
    b.append(piece(unitText(list[i]).trim()));
    b.setAttribute("aria-pressed", pressed);
    b.onclick = () => { onclick(); asking(); mark(); };
    const word = el("span", "word");
    word.append(b);
    return word;
  };
  $("from").replaceChildren(...list.map((_, i) => chip(i, i === asked.from, () => {
    asked.from = i;
    asked.to = new Set([...asked.to].filter((j) => j < i));
  })));
  $("to").replaceChildren(...list.slice(0, asked.from).map((_, j) => chip(j, asked.to.has(j), () => {
    if (!asked.to.delete(j)) asked.to.add(j);
  })));
}

function mark() {
  document.querySelectorAll(".head.hit").forEach((e) => e.classList.remove("hit"));
  const box = $("found"), targets = [...asked.to].sort((a, b) => a - b);
  if (!targets.length) { box.replaceChildren(); return; }
  const [a, b] = data.words[asked.from], all = [];
  for (let layer = 0; layer < L; layer++) for (let h = 0; h < H; h++) {
    const links = targets.map((t) => {
      let sum = 0;
      for (let i = a; i < b; i++) for (let j = data.words[t][0]; j < data.words[t][1]; j++) sum += weight(layer, h, i, j);
      return sum / (b - a);
    });
    all.push({ layer, h, links, weakest: Math.min(...links), ...control(layer, h) });
  }
  all.sort((x, y) => y.weakest - x.weakest);
  const honest = all.filter((x) => !x.mark).slice(0, 5);
  const marked = all.filter((x) => x.mark).sort((x, y) => Math.max(...y.links) - Math.max(...x.links)).slice(0, 2);
  box.replaceChildren(...[...honest, ...marked].map((x) => {
    const row = el("button");
    row.type = "button";
    row.append(el("b", "", `layer ${x.layer}, head ${x.h}`), el("span", "links", x.links.map((w) => w.toFixed(2)).join(" · ")));
    if (x.mark) row.append(el("span", "flag", x.mark));
    row.onclick = () => { opened = [x.layer, x.h, joined() ? asked.from : b - 1]; enlarge(x.layer, x.h); };
    return row;
  }));
  honest.slice(0, 3).forEach((x) => document.querySelector(`[data-head="${x.layer}.${x.h}"]`)?.classList.add("hit"));
}
