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

/** Sums of words, and the parallelogram that they make. */
function analogy() {
  const a = data.analogy;
  if (a) {
    $("analogy").hidden = false;
    $("analogy").querySelector("h3").textContent = `${a.expression.replace(/-/g, "−")} ≈`;
    bars($("answers"), a.answers.map(([text, cosine]) => ({ text, value: cosine.toFixed(2), share: cosine })));
    $("steps").textContent = "Nearest words by cosine. " + a.steps.map(({ words: [p, q, r, s], cosine }) =>
      `The steps ${p} − ${q} and ${r} − ${s} have a cosine of ${cosine.toFixed(2)}.`).join(" ");
    if (a.picture) $("figure").replaceChildren(parallelogram(a.picture));
  }
  const p = data.plural;
  if (p) {
    $("plural").hidden = false;
    const sorted = [...p.scores].sort((x, y) => y[1] - x[1]);
    const most = sorted[0][1], least = Math.min(0, sorted[sorted.length - 1][1]);
    bars($("scores"), sorted.map(([text, score]) => ({
      text, value: (score < 0 ? "−" : "+") + Math.abs(score).toFixed(2), share: (score - least) / (most - least || 1),
    })));
    $("pairs").textContent = `The direction comes from ${p.pairs.join(", ")}. Bars begin at the lowest score. ` +
      "Number words count too, up to a point.";
  }
}

function parallelogram({ corners, points, kept }) {
  const svg = svgNode("svg", { viewBox: "0 0 440 290", role: "img", "aria-label": corners.join(", ") });
  const reach = Math.max(...points.flat().map(Math.abs), 1e-9);
  const at = points.map(([x, y]) => [220 + x / reach * 130, 135 - y / reach * 105]);
  at.forEach(([x, y], i) => {
    const [u, v] = at[(i + 1) % 4];
    svg.append(svgNode("line", { x1: x, y1: y, x2: u, y2: v, stroke: i % 2 ? "var(--ffn)" : "var(--att)", "stroke-width": 2.5 }));
  });
  const label = (x, y, anchor, content) => {
    const t = svgNode("text", { x, y, "text-anchor": anchor });
    t.textContent = content;
    svg.append(t);
    return t;
  };
  at.forEach(([x, y], i) => {
    svg.append(svgNode("circle", { cx: x, cy: y, r: 4.5, fill: "var(--ink)" }));
    label(x + (x < 220 ? -10 : 10), y + 5, x < 220 ? "end" : "start", corners[i]);
  });
  label(220, 282, "middle", `projected into the plane of both steps (${percent(kept)})`).style.opacity = 0.6;
  return svg;
}
