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

function all() { chips(); vectors(); analogy(); heads(); asking(); grid(); journey(); guesses(); distribution(); versus(); }

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
