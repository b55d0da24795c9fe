"use strict";
(() => {
  const began = performance.now();
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const { make } = cc;

  // -- nodes and edges: one list for both graphs -----------------------------------------------------------------
  const nodes = data.nodes.map((raw) => ({ ...cc.nodeOf(raw), shapes: [] }));
  const edges = data.edges.map(([source, target, first, second]) => ({ source: nodes[source], target: nodes[target], weights: [first, second],
    change: (second || 0) - (first || 0), size: Math.max(Math.abs(first || 0), Math.abs(second || 0)), paths: [] }));
  const largest = Math.max(1e-9, ...edges.map((edge) => Math.abs(edge.change)));
  for (const edge of edges) { edge.source.from.push(edge); edge.target.into.push(edge); }
  const token = (node) => data.tokens[node.position];
  const name = (node) => node.kind === "embedding" ? `token “${token(node)}”` : node.kind === "logit" ? node.raw.clerp
    : node.kind === "error" ? cc.errorName(node.raw)
    : `${node.raw.layer}/${node.raw.node_id.split("_")[1]}${node.raw.clerp ? ": " + node.raw.clerp : ""}`;
  const brief = (node) => node.kind === "embedding" ? `“${token(node)}” at ${node.position}` : node.kind === "logit" ? node.raw.clerp.replace(/^Output | \(p=[^)]*\)$/g, "")
    : node.kind === "error" ? `error ${node.raw.layer}${node.raw.feature_type.startsWith("lorsa") ? " attention" : ""} at ${node.position}` : `${name(node)} at ${node.position}`;
  const where = (node) => `${name(node)} at ${node.position} “${token(node)}”`;
  const there = (node, side) => node.kind !== "latent" || node.raw.in[side][0] !== null;

  // -- the same layout on both sides -----------------------------------------------------------------------------
  // A graph that is wider than its side is drawn smaller, as far as it stays legible.
  const half = document.querySelector(".side"), scaleOf = (wide) => Math.max(0.55, Math.min(1, (half.clientWidth - 4) / wide));
  const plan = cc.layout(nodes, data.tokens, (wide, high, positions, layers) => {
    const gap = cc.spread(half.clientWidth - 4 - wide, positions, 14, 40);
    return [gap, cc.spread((half.clientHeight - 50) / scaleOf(wide + gap * positions) - 50 - high, layers, 34, 80)];
  });
  const { width, height } = plan, scale = scaleOf(width);

  // -- drawing ---------------------------------------------------------------------------------------------------
  document.querySelectorAll("svg[data-side]").forEach((svg) => {
    const side = Number(svg.dataset.side);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width * scale);
    svg.setAttribute("height", height * scale);
    cc.drawFrame(svg, plan, data.tokens);
    for (const edge of [...edges].reverse()) {
      const { source, target } = edge, bend = (source.y - target.y) * 0.4;
      edge.paths[side] = make("path", { class: "edge", d: `M${source.x} ${source.y}C${source.x} ${source.y - bend} ${target.x} ${target.y + bend} ${target.x} ${target.y}` }, svg);
    }
    for (const node of nodes) {
      node.shapes[side] = make("g", { class: `node ${node.kind}${there(node, side) ? "" : " missing"}`, transform: `translate(${node.x} ${node.y})`, tabindex: side ? -1 : 0, role: "button",
        "aria-label": where(node) + (there(node, side) ? "" : ", not active"), "data-at": nodes.indexOf(node) }, svg);
      cc.drawMark(node.kind, node.shapes[side]);
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
  const ends = data.names.map((one) => one.split("/").at(-1)), brieferNames = ends[0] === ends[1] ? data.names : ends;
  const link = (node) => element("button", { type: "button", className: "link", textContent: brief(node), title: where(node), on: { click: () => choose(node) } });
  function listed(heads, list, cellsOf) {
    const rows = list.sort((a, b) => Math.abs(b.change) - Math.abs(a.change)).slice(0, 30).map((edge) => element("tr", {}, ...cellsOf(edge).map((node) => element("td", {}, link(node))),
      ...[...edge.weights, edge.change].map((value, i) => element("td", { className: "number" + (i === 2 ? (value >= 0 ? " more" : " less") : ""), textContent: cc.cell(value, 3) }))));
    if (!rows.length) return element("p", { className: "note", textContent: heads[0] + ": none" });
    return element("div", { className: "scroll" }, element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { textContent: text })), ...[...brieferNames, "change"].map((text) => element("th", { className: "number", textContent: text, title: text })))), element("tbody", {}, ...rows)));
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
