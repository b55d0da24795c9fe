"use strict";
(() => {
  const began = performance.now();
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg", STEP = 15, LEFT = 64, PER_LINE = 6, RISE = 34;

  // -- nodes and edges: one list for both graphs -----------------------------------------------------------------
  const kindOf = (type) => (type.includes("error") ? "error" : type === "embedding" || type === "logit" ? type : "latent");
  const nodes = data.nodes.map((raw) => ({ raw, kind: kindOf(raw.feature_type), position: raw.ctx_idx, into: [], from: [], shapes: [],
    layer: raw.feature_type === "embedding" ? -1 : raw.feature_type === "logit" ? Infinity : Number(raw.layer) }));
  const edges = data.edges.map(([source, target, first, second]) => ({ source: nodes[source], target: nodes[target], weights: [first, second],
    change: (second || 0) - (first || 0), size: Math.max(Math.abs(first || 0), Math.abs(second || 0)), paths: [] }));
  const largest = Math.max(1e-9, ...edges.map((edge) => Math.abs(edge.change)));
  for (const edge of edges) { edge.source.from.push(edge); edge.target.into.push(edge); }
  const token = (node) => data.tokens[node.position];
  const name = (node) => node.kind === "embedding" ? `token “${token(node)}”` : node.kind === "logit" ? node.raw.clerp
    : node.kind === "error" ? `${node.raw.feature_type.replace(" reconstruction", "")}, layer ${node.raw.layer}`
    : `${node.raw.layer}/${node.raw.node_id.split("_")[1]}${node.raw.clerp ? ": " + node.raw.clerp : ""}`;
  const brief = (node) => node.kind === "embedding" ? `“${token(node)}” at ${node.position}` : node.kind === "logit" ? node.raw.clerp.replace(/^Output | \(p=[^)]*\)$/g, "")
    : node.kind === "error" ? `error ${node.raw.layer}${node.raw.feature_type.startsWith("lorsa") ? " attention" : ""} at ${node.position}` : `${name(node)} at ${node.position}`;
  const where = (node) => `${name(node)} at ${node.position} “${token(node)}”`;
  const there = (node, side) => node.kind !== "latent" || node.raw.in[side][0] !== null;

  // -- the same layout on both sides -----------------------------------------------------------------------------
  const layers = [...new Set(nodes.map((node) => node.layer))].sort((a, b) => a - b);
  const cells = new Map();
  for (const node of nodes) {
    const key = node.layer + ":" + node.position;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(node);
  }
  const widest = Array(data.tokens.length).fill(1), tallest = new Map(layers.map((layer) => [layer, 1]));
  for (const cell of cells.values()) {
    widest[cell[0].position] = Math.max(widest[cell[0].position], Math.min(cell.length, PER_LINE));
    tallest.set(cell[0].layer, Math.max(tallest.get(cell[0].layer), Math.ceil(cell.length / PER_LINE)));
  }
  const columns = [];
  let width = LEFT, height = 16;
  data.tokens.forEach((text, p) => { columns.push(width); width += Math.max(widest[p] * STEP, 10 + 7 * Math.min(14, text.length)) + 14; });
  const tops = new Map();
  for (const layer of [...layers].reverse()) { tops.set(layer, height); height += tallest.get(layer) * STEP + RISE; }
  const below = height - RISE + 20;
  height = below + 12;
  for (const cell of cells.values()) cell.forEach((node, i) => {
    node.x = columns[node.position] + 8 + (i % PER_LINE) * STEP;
    node.y = tops.get(node.layer) + 8 + Math.floor(i / PER_LINE) * STEP;
  });

  // -- drawing ---------------------------------------------------------------------------------------------------
  function make(tag, attributes, parent, text) {
    const made = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }
  const MARKS = {
    latent: (g) => make("circle", { class: "mark", r: 5.5 }, g), error: (g) => make("path", { class: "mark", d: "M0-6 6 0 0 6-6 0Z" }, g),
    embedding: (g) => make("rect", { class: "mark", x: -5, y: -5, width: 10, height: 10 }, g),
    logit: (g) => make("rect", { class: "mark", x: -5, y: -5, width: 10, height: 10, rx: 3 }, g),
  };
  document.querySelectorAll("svg[data-side]").forEach((svg) => {
    const side = Number(svg.dataset.side);
    // A graph that is wider than its side is drawn smaller, as far as it stays legible.
    const room = svg.closest(".side").clientWidth - 4, scale = Math.max(0.55, Math.min(1, room / width));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width * scale);
    svg.setAttribute("height", height * scale);
    for (const layer of layers) {
      make("line", { class: "rule", x1: 0, x2: width, y1: tops.get(layer) - 8, y2: tops.get(layer) - 8 }, svg);
      make("text", { x: 6, y: tops.get(layer) + 12 }, svg, layer < 0 ? "tokens" : layer === Infinity ? "logits" : "layer " + layer);
    }
    data.tokens.forEach((text, p) => make("text", { class: "token", x: columns[p] + 2, y: below }, svg, text.length > 14 ? text.slice(0, 13) + "…" : text));
    for (const edge of [...edges].reverse()) {
      const { source, target } = edge, bend = (source.y - target.y) * 0.4;
      edge.paths[side] = make("path", { class: "edge", d: `M${source.x} ${source.y}C${source.x} ${source.y - bend} ${target.x} ${target.y + bend} ${target.x} ${target.y}` }, svg);
    }
    for (const node of nodes) {
      node.shapes[side] = make("g", { class: `node ${node.kind}${there(node, side) ? "" : " missing"}`, transform: `translate(${node.x} ${node.y})`, tabindex: side ? -1 : 0, role: "button",
        "aria-label": where(node) + (there(node, side) ? "" : ", not active"), "data-at": nodes.indexOf(node) }, svg);
      MARKS[node.kind](node.shapes[side]);
    }
  });

  // An edge is shown as changed if its change is at least a share of the largest there is.
  let chosen = null, hovered = null;
  const changed = (edge) => Math.abs(edge.change) >= Number(byId("change").value) * largest && edge.change !== 0;
  function draw() {
    const focus = hovered || chosen, rest = byId("rest").checked;
    let count = 0;
    for (const edge of edges) {
      const is = changed(edge), near = focus && (edge.source === focus || edge.target === focus);
      count += is;
      edge.paths.forEach((path, side) => {
        const weight = edge.weights[side], grew = Math.abs(edge.weights[1] || 0) > Math.abs(edge.weights[0] || 0) && !((edge.weights[0] || 0) * (edge.weights[1] || 0) < 0);
        path.setAttribute("class", ["edge", weight ? "" : "absent", is ? (grew ? "up" : "down") : rest || near ? "" : "absent", focus ? (near ? "near" : "away") : ""].join(" "));
      });
    }
    for (const node of nodes) for (const shape of node.shapes) shape.classList.toggle("chosen", node === chosen);
    byId("how-much").textContent = `${(Number(byId("change").value) * largest).toPrecision(2)} or more · ${count} edges`;
  }

  // -- the panel: the edges of a node, or those that changed most -------------------------------------------------
  function element(tag, properties, ...children) {
    const { on = {}, ...rest } = properties, made = Object.assign(document.createElement(tag), rest);
    for (const [event, listener] of Object.entries(on)) made.addEventListener(event, listener);
    made.append(...children);
    return made;
  }
  const link = (node) => element("button", { type: "button", className: "link", textContent: brief(node), title: where(node), on: { click: () => choose(node) } });
  function listed(heads, list, cellsOf) {
    const rows = list.sort((a, b) => Math.abs(b.change) - Math.abs(a.change)).slice(0, 30).map((edge) => element("tr", {}, ...cellsOf(edge).map((node) => element("td", {}, link(node))),
      ...[...edge.weights, edge.change].map((value, i) => element("td", { className: "number" + (i === 2 ? (value >= 0 ? " more" : " less") : ""), textContent: cc.cell(value, 3) }))));
    if (!rows.length) return element("p", { className: "note", textContent: heads[0] + ": none" });
    return element("div", { className: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...[...heads, ...data.names, "change"].map((text) => element("th", { textContent: text })))), element("tbody", {}, ...rows)));
  }
  function panel() {
    const section = byId("chosen");
    section.replaceChildren();
    if (!chosen) { section.append(element("h2", { textContent: "Edges that changed most" }), listed(["from", "to"], [...edges], (edge) => [edge.source, edge.target])); return; }
    section.append(element("h2", { textContent: where(chosen) }));
    chosen.raw.in.forEach(([activation, influence], side) => section.append(element("p", { className: "note",
      textContent: `${data.names[side]}: ` + (there(chosen, side) ? `${activation === null ? "" : `activation ${cc.cell(activation, 3)}, `}influence ${cc.cell(influence, 3)}` : "not active") })));
    section.append(listed(["made by"], [...chosen.into], (edge) => [edge.source]), listed(["makes"], [...chosen.from], (edge) => [edge.target]));
  }
  function choose(node) {
    chosen = node;
    hovered = null;
    panel();
    draw();
    if (node) node.shapes[0].focus({ preventScroll: true });
  }

  // -- mouse and keys --------------------------------------------------------------------------------------------
  const nodeOf = (event) => { const g = event.target.closest && event.target.closest(".node"); return g ? nodes[Number(g.dataset.at)] : null; };
  const tip = byId("tip"), pair = byId("pair");
  pair.addEventListener("mousemove", (event) => {
    const node = nodeOf(event);
    if (node !== hovered) { hovered = node; draw(); }
    tip.hidden = !node;
    if (!node) return;
    tip.textContent = where(node);
    tip.style.left = Math.max(4, Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = event.clientY + 14 + "px";
  });
  pair.addEventListener("mouseleave", () => { hovered = null; tip.hidden = true; draw(); });
  pair.addEventListener("click", (event) => choose(nodeOf(event)));
  document.addEventListener("keydown", (event) => {
    const node = nodeOf({ target: document.activeElement });
    if (event.key === "Enter" && node) choose(node); else if (event.key === "Escape") choose(null);
  });
  for (const id of ["change", "rest"]) byId(id).addEventListener("input", draw);
  const themed = () => { byId("theme").textContent = { auto: "◐ auto", light: "○ light", dark: "● dark" }[cc.theme()]; };
  byId("theme").addEventListener("click", () => cc.nextTheme());
  window.addEventListener("cc-theme", themed);
  byId("json").addEventListener("click", () => {
    const link = element("a", { href: URL.createObjectURL(new Blob([JSON.stringify(data)], { type: "application/json" })), download: "pair.json" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  // Both sides are looked at in the same place.
  const sides = [...document.querySelectorAll(".side")];
  sides.forEach((side, i) => side.addEventListener("scroll", () => { const other = sides[1 - i]; if (Math.abs(other.scrollLeft - side.scrollLeft) > 1) other.scrollLeft = side.scrollLeft; }));
  themed();
  panel();
  draw();
  document.documentElement.dataset.ready = (performance.now() - began).toFixed(1);
})();
