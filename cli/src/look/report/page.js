"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const n = data.tokens.length, L = data.model.layers, H = data.model.heads;
const triangle = n * (n + 1) / 2;
const bytes = Uint8Array.from(atob(data.attention), (c) => c.charCodeAt(0));

/** Weight with which token i listens to token j in a head. */
const weight = (layer, head, i, j) =>
  j > i ? 0 : bytes[(layer * H + head) * triangle + i * (i + 1) / 2 + j] / 255;

function el(tag, cls, text) {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  if (text !== undefined) e.textContent = text;
  return e;
}
const svgNode = (tag, attributes) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  return e;
};
/** Control characters made visible. */
const visible = (piece) => piece.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/[\u0000-\u001f\u007f]/g, "�") || "∅";
/** A piece with a dot for its space, as text. */
const dotted = (piece) => visible(piece).replace(/ /g, "·");
const percent = (p) => p >= 0.0995 ? (100 * p).toFixed(0) + "%" : p >= 0.00095 ? (100 * p).toFixed(1) + "%"
  : p > 0 ? p.toExponential(0) : "0";

/** A piece whose space is a faint dot. */
function piece(text) {
  const e = document.createDocumentFragment();
  for (const part of visible(text).split(/( )/)) {
    if (part === " ") e.append(el("span", "space", "·"));
    else if (part) e.append(part);
  }
  return e;
}

/** Words as ranges of tokens, or every token alone. */
const joined = () => $("joined").checked;
const units = () => joined() ? data.words : data.tokens.map((_, i) => [i, i + 1]);
const unitText = ([from, to]) => data.tokens.slice(from, to).map((t) => t.piece).join("");

/** One head between units: summed over the pieces listened to, averaged over those that listen. */
function head(layer, h) {
  const list = units();
  return list.map(([a, b], row) => list.map(([c, d], column) => {
    if (column > row || (column === 0 && $("sink").checked)) return 0;
    let sum = 0;
    for (let i = a; i < b; i++) for (let j = c; j < d; j++) sum += weight(layer, h, i, j);
    return sum / (b - a);
  }));
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
/** Background for a share between 0 and 1. */
const heat = (share, rgb = "--heat") => `rgba(${style(rgb)},${Math.min(1, Math.max(0, share)).toFixed(3)})`;

// --- header and tokens ----------------------------------------------------------------------------------------------

let picked = n - 1; // the token that is followed

function header() {
  const m = data.model;
  document.title = `Inside ${m.name}`;
  $("title").textContent = `“${data.text.length > 180 ? data.text.slice(0, 180) + "…" : data.text}”`;
  const million = (m.vocabulary * m.d_model / 1e6).toFixed(1);
  $("facts").textContent = `${m.name} · ${L} layers · ${H} heads each · vectors of ${m.d_model} numbers · ` +
    `${m.vocabulary.toLocaleString("en")} tokens in the vocabulary · W_E holds ${million} M parameters (${m.format})` +
    (m.tied ? ", and W_U is the same matrix" : "") + ` · context of ${m.context.toLocaleString("en")} tokens`;
  $("footer").textContent = `Made by gable ${data.version} from the quantized file itself. This page is one file; it ` +
    `loads nothing and sends nothing.`;
}

function chips() {
  const box = $("chips");
  box.replaceChildren(...data.words.map(([from, to]) => {
    const word = el("span", "word");
    for (let i = from; i < to; i++) {
      const chip = el("button", "chip" + (i === picked ? " on" : ""));
      chip.type = "button";
      chip.append(piece(data.tokens[i].piece), el("small", "", data.tokens[i].id));
      chip.title = `token ${i}, id ${data.tokens[i].id}, ${data.tokens[i].bytes} bytes`;
      chip.onclick = () => { picked = i; chips(); vectors(); grid(); guesses(); };
      word.append(chip);
    }
    return word;
  }));
}

// --- vectors --------------------------------------------------------------------------------------------------------

function vectors() {
  const { columns, norms, near } = data.embedding;
  const widest = Math.max(...columns.flat().map(Math.abs), 1e-9);
  const table = $("matrix");
  table.replaceChildren();
  const top = table.createTHead().insertRow();
  top.append(el("th"));
  data.tokens.forEach((t) => { const th = el("th"); th.append(piece(t.piece)); top.append(th); });
  const body = table.createTBody();
  const number = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(3);
  columns[0].forEach((_, row) => {
    const tr = body.insertRow();
    tr.append(el("th", "", row + 1));
    columns.forEach((column, j) => {
      const td = tr.insertCell();
      td.textContent = number(column[row]);
      td.style.background = heat(0.75 * Math.abs(column[row]) / widest, column[row] < 0 ? "--minus" : "--plus");
      if (j === picked) td.className = "on";
    });
  });
  const dots = body.insertRow();
  dots.append(el("th", "", "⋮"));
  columns.forEach(() => { dots.insertCell().textContent = "⋮"; });
  const length = body.insertRow();
  length.className = "length";
  length.append(el("th", "", "length"));
  norms.forEach((x) => { length.insertCell().textContent = x.toFixed(2); });
  document.querySelectorAll(".picked").forEach((e) => e.replaceChildren(piece(data.tokens[picked].piece)));
  bars($("near"), near[picked].map(([text, cosine]) => ({ text, value: cosine.toFixed(2), share: cosine })));
}

function bars(box, rows) {
  box.replaceChildren(...rows.flatMap(({ text, value, share, gone }) => {
    const name = el("span", "name" + (gone ? " gone" : ""));
    name.append(piece(text));
    const track = el("span", "track" + (gone ? " gone" : "")), fill = el("div", "fill");
    fill.style.width = `${(100 * Math.max(0, Math.min(1, share))).toFixed(2)}%`;
    track.append(fill);
    return [name, el("span", "value" + (gone ? " gone" : ""), value), track];
  }));
}

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

// --- layers ---------------------------------------------------------------------------------------------------------

function grid() {
  const table = $("grid");
  table.replaceChildren();
  const top = table.createTHead().insertRow();
  top.append(el("th", "layer", "after"));
  data.tokens.forEach((t, i) => { const th = el("th", i === picked ? "on" : ""); th.append(piece(t.piece)); top.append(th); });
  const body = table.createTBody();
  data.grid.map((row, layer) => [row, layer]).reverse().forEach(([row, layer]) => {
    const tr = body.insertRow();
    tr.append(el("th", "layer", layer));
    row.forEach(([text, p], i) => {
      const td = tr.insertCell();
      if (i === picked) td.className = "on";
      td.append(piece(text));
      td.style.background = heat(0.06 + 0.8 * p * p);
      td.title = `${dotted(text)} ${percent(p)}`;
      if (p > 0.8) td.style.color = style("--paper");
    });
  });
}

function journey() {
  const last = data.layers[L], answer = last.top[0][0];
  $("answer").replaceChildren(piece(answer));
  const width = 700, height = 260, left = 54, right = 92, top = 18, share = 54, bottom = height - share - 26;
  const svg = svgNode("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "rank by layer" });
  const x = (layer) => left + (width - left - right) * layer / L;
  const worst = Math.log10(Math.max(10, ...data.layers.map((l) => l.rank)));
  const y = (rank) => top + (bottom - top) * Math.log10(rank) / worst;
  const text = (px, py, anchor, content) => {
    const t = svgNode("text", { x: px, y: py, "text-anchor": anchor });
    t.textContent = content;
    svg.append(t);
  };
  for (let power = 0; power <= worst; power++) {
    const at = y(10 ** power);
    svg.append(svgNode("line", { x1: left, x2: width - right, y1: at, y2: at, stroke: "var(--line)" }));
    text(left - 8, at + 4, "end", power ? (10 ** power).toLocaleString("en") : "1st");
  }
  const step = (width - left - right) / L;
  data.layers.forEach((l, layer) => {
    if (l.attention !== null) {
      const sum = Math.max(1e-9, l.attention + l.ffn), h = share * l.attention / sum;
      const bar = { x: x(layer) - step * 0.4, width: step * 0.8 };
      svg.append(svgNode("rect", { ...bar, y: height - 18 - h, height: h, fill: "var(--att)" }));
      svg.append(svgNode("rect", { ...bar, y: height - 18 - share, height: share - h, fill: "var(--ffn)" }));
    }
    if (layer % Math.ceil(L / 10) === 0) text(x(layer), height - 4, "middle", layer);
  });
  const points = data.layers.map((l, layer) => `${x(layer).toFixed(1)},${y(l.rank).toFixed(1)}`);
  svg.append(svgNode("polyline", { points: points.join(" "), fill: "none", stroke: "var(--accent)", "stroke-width": 2.5, "stroke-linejoin": "round" }));
  data.layers.forEach((l, layer) => {
    const dot = svgNode("circle", { cx: x(layer), cy: y(l.rank), r: 3.5, fill: "var(--accent)" });
    const title = svgNode("title", {});
    title.textContent = `after ${layer} layers: place ${l.rank}, ${percent(l.p)}; would say ` +
      l.top.map(([t, p]) => `${dotted(t)} ${percent(p)}`).join(", ");
    dot.append(title);
    svg.append(dot);
  });
  text(width - right + 10, y(last.rank) + 4, "start", `${dotted(answer)} ${percent(last.p)}`);
  $("journey").replaceChildren(svg);
}

// --- guesses --------------------------------------------------------------------------------------------------------

function guesses() {
  const table = $("table");
  table.replaceChildren();
  const top = table.createTHead().insertRow();
  ["behind", "came", "chance", "place", "it expected"].forEach((t) => top.append(el("th", "", t)));
  const body = table.createTBody();
  data.guesses.forEach((g, i) => {
    const tr = body.insertRow(), came = data.tokens[i + 1];
    if (i === picked) tr.className = "on";
    tr.insertCell().append(piece(data.tokens[i].piece));
    const cell = tr.insertCell();
    if (came) cell.append(piece(came.piece)); else cell.textContent = "?";
    const p = tr.insertCell();
    p.className = "p";
    p.textContent = g.p === null ? "" : percent(g.p);
    if (g.p !== null) p.style.background = `linear-gradient(90deg, ${heat(0.35)} ${100 * g.p}%, transparent ${100 * g.p}%)`;
    tr.insertCell().textContent = g.rank ?? "";
    const guess = tr.insertCell();
    guess.className = "guess";
    g.top.forEach(([text, q], k) => {
      const b = el("b");
      b.append(piece(text));
      if (came && text === came.piece) b.className = "hit-cell";
      guess.append(k ? "  ·  " : "", b, ` ${percent(q)}`);
    });
  });
}

// --- next word ------------------------------------------------------------------------------------------------------

const listed = data.next.listed.map(([text, logit]) => ({ text, logit }));

/** How many of the listed tokens the usual filters keep. Each looks at plain probabilities. */
function kept() {
  const highest = listed[0].logit, p = listed.map((s) => Math.exp(s.logit - highest));
  let count = Math.min(40, listed.length), sum = 0, reached = 0;
  for (let i = 0; i < count; i++) sum += p[i];
  for (let i = 0; i < count; i++) {
    reached += p[i] / sum;
    if (reached >= 0.95) { count = i + 1; break; }
  }
  while (count > 1 && p[count - 1] < 0.05) count--;
  return count;
}

function distribution() {
  const T = 5 ** ($("t").value / 100), filtered = $("filter").checked;
  $("tvalue").textContent = T.toFixed(2);
  const highest = listed[0].logit, count = filtered ? kept() : listed.length;
  const weights = listed.map((s, i) => i < count ? Math.exp((s.logit - highest) / T) : 0);
  const rest = filtered ? [] : data.next.rest.map(([logit, many]) => [Math.exp((logit - highest) / T), many]);
  const others = rest.reduce((sum, [w, many]) => sum + w * many, 0);
  const total = weights.reduce((sum, w) => sum + w, 0) + others;
  const shown = listed.slice(0, 14).map((s, i) => ({
    text: s.text, value: percent(weights[i] / total), share: weights[i] / total, gone: i >= count,
  }));
  bars($("distribution"), shown);
  const bits = (w) => w > 0 ? -(w / total) * Math.log2(w / total) : 0;
  const entropy = weights.reduce((sum, w) => sum + bits(w), 0) + rest.reduce((sum, [w, many]) => sum + many * bits(w), 0);
  const top = weights.slice(0, 14).reduce((sum, w) => sum + w, 0) / total;
  $("entropy").textContent = `These ${shown.length} hold ${percent(top)} of the probability. What is left open: ` +
    `${entropy.toFixed(2)} bits, as much as a fair choice among ${(2 ** entropy).toLocaleString("en", { maximumFractionDigits: 1 })} words.` +
    (filtered ? ` The filters keep ${count} of ${data.model.vocabulary.toLocaleString("en")} tokens.` : "");
}

// --- two quantizations ----------------------------------------------------------------------------------------------

/** From which difference on a weight counts as another one. */
const APART = 0.05;

function versus() {
  const vs = data.vs;
  if (!vs) return;
  $("versus").hidden = $("versuslink").hidden = false;
  const word = (i) => dotted(data.tokens[i].piece);
  const first = vs.layers.findIndex((l) => l.difference >= APART);
  const files = `${data.model.name} (${vs.here}) and ${vs.name} (${vs.type})`;
  const l = vs.layers[first];
  $("parting").textContent = first < 0
    ? `No attention weight of ${files} differs by ${APART} or more over this text.`
    : `${files} part first in layer ${first}, head ${l.head}: ${word(l.from)} listens to ${word(l.to)} with ` +
      `${l.weights[0].toFixed(2)} here and ${l.weights[1].toFixed(2)} there.`;
  const rows = (table, heads, lines) => {
    table.replaceChildren();
    const top = table.createTHead().insertRow();
    heads.forEach((h) => top.append(el("th", "", h)));
    const body = table.createTBody();
    lines.forEach((line) => {
      const tr = body.insertRow();
      line.forEach((cell) => { tr.insertCell().append(cell); });
    });
    return body;
  };
  const body = rows($("layerwise"), ["layer", "angle", "token", "head", "link", "here", "there"], vs.layers.map((l, i) => [
    String(i), `${(180 / Math.PI * Math.acos(Math.min(1, l.cosine))).toFixed(1)}°`, word(l.token), String(l.head),
    `${word(l.from)} → ${word(l.to)}`, l.weights[0].toFixed(2), l.weights[1].toFixed(2),
  ]));
  vs.layers.forEach((l, i) => { body.rows[i].cells[1].style.background = heat(Math.acos(Math.min(1, l.cosine)) / 1.2); });
  rows($("bothnext"), ["next here", "", "next there", ""], vs.next[0].map(([text, p], i) => [
    piece(text), percent(p), piece(vs.next[1][i][0]), percent(vs.next[1][i][1]),
  ]));
}

// --- light and dark -------------------------------------------------------------------------------------------------

function all() { chips(); vectors(); heads(); asking(); grid(); journey(); guesses(); distribution(); versus(); }

function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light" : "Dark";
  all();
  if ($("enlarged").open) paint();
}

header();
asked.from = Math.min(data.words.length - 1, 3);
for (let j = Math.max(0, asked.from - 2); j < asked.from; j++) asked.to.add(j);
theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
$("theme").onclick = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
matchMedia("(prefers-color-scheme: dark)").onchange = (event) => theme(event.matches ? "dark" : "light");
for (const id of ["joined", "sink"]) $(id).onchange = () => { heads(); };
for (const id of ["t", "filter"]) $(id).oninput = distribution;
$("close").onclick = () => $("enlarged").close();
$("enlarged").onclick = (event) => { if (event.target === $("enlarged")) $("enlarged").close(); };
window.onresize = () => { heads(); if ($("enlarged").open) paint(); };
