"use strict";
(() => {
  const began = performance.now();
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const KEY = "crosscoders-graph:" + data.metadata.slug + ":" + data.metadata.crosscoders.key;
  const { make } = cc;

  // -- nodes and edges -------------------------------------------------------------------------------------------
  const nodes = data.nodes.map((raw, at) => ({ ...cc.nodeOf(raw), at, id: raw.node_id }));
  const place = new Map(nodes.map((node) => [node.id, node]));
  const edges = data.links.map((link) => ({ source: place.get(link.source), target: place.get(link.target), weight: link.weight }));
  for (const edge of edges) { edge.source.from.push(edge); edge.target.into.push(edge); }
  for (const node of nodes) {
    node.total = node.into.reduce((sum, edge) => sum + Math.abs(edge.weight), 0);
    for (const edge of node.into) edge.share = node.total ? Math.abs(edge.weight) / node.total : 0;
    node.into.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
  }
  for (const node of nodes) node.from.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));

  // -- what the reader has done, kept in this browser ------------------------------------------------------------
  const kept = { labels: {}, pinned: [...(data.qParams.pinnedIds || [])], supernodes: [...(data.qParams.supernodes || [])], folded: [], threshold: null };
  const keep = cc.kept(KEY, kept, () => { tidy(); fold(); pins(); if (document.activeElement.id !== "label") panel(); draw(); });
  const measured = data.metadata.crosscoders.measured || [];
  let chosen = null, hovered = null, opened = null, query = "", threshold;
  function tidy() {
    kept.pinned = kept.pinned.filter((id) => place.has(id));
    // Groups that were changed in the model have their results in the page; they are there, whatever was kept.
    for (const { label } of measured) if (!kept.supernodes.some((one) => one[0] === label))
      kept.supernodes.push(data.qParams.supernodes.find((one) => one[0] === label));
    threshold = byId("slider").value = kept.threshold ?? data.metadata.crosscoders.shown;
  }
  tidy();

  const latentKey = (node) => node.raw.jsNodeId.replace(/-\d+$/, "");
  const token = (node) => data.metadata.prompt_tokens[node.position];
  function name(node) {
    if (node.kind === "group") return `${node.label} (${node.members.length} nodes)`;
    if (node.kind === "embedding") return `token “${token(node)}”`;
    if (node.kind === "logit") return node.raw.clerp;
    const label = kept.labels[latentKey(node)] ?? node.raw.clerp;
    if (node.kind === "error") return cc.errorName(node.raw);
    return `${node.raw.layer}/${node.id.split("_")[1]}${label ? ": " + label : ""}`;
  }
  const where = (node) => node.kind === "group" || node.kind === "logit" ? name(node) : node.kind === "embedding" ? `${name(node)} at ${node.position}` : `${name(node)} at ${node.position} “${token(node)}”`;
  const digits = (value) => value.toPrecision(3).replaceAll("-", "−");
  const shown = (node) => owner.has(node) ? false : node.kind === "group" || node.kind === "embedding" || node.kind === "logit" || (node.raw.influence <= threshold + 1e-9 && (node.kind !== "error" || byId("errors").checked));

  // -- groups that are shown as one node: it takes the place of its members, and their edges are summed -----------
  const membersOf = (supernode) => supernode.slice(1).map((id) => place.get(id)).filter(Boolean);
  let owner = new Map(), drawn = edges, folded = [];
  function fold() {
    for (const node of folded) { node.shape.remove(); place.delete(node.id); nodes.splice(nodes.indexOf(node), 1); }
    owner = new Map(); folded = [];
    kept.supernodes.forEach((supernode) => {
      const members = membersOf(supernode).filter((node) => !owner.has(node));
      if (!kept.folded.includes(supernode[0]) || !members.length) return;
      const mean = (key) => members.reduce((sum, node) => sum + node[key], 0) / members.length;
      const node = { id: "group:" + supernode[0], label: supernode[0], members, kind: "group", position: members[0].position, layer: members[0].layer,
        x: mean("x"), y: mean("y"), into: [], from: [], raw: { activation: null, influence: null, jsNodeId: "", clerp: "" } };
      for (const member of members) owner.set(member, node);
      folded.push(node);
    });
    for (const node of folded) { nodes.push(node); place.set(node.id, node); shape(node); }
    drawn = [...edges.filter((edge) => !owner.has(edge.source) && !owner.has(edge.target)), ...cc.summed(edges, owner)];
    for (const node of nodes) { node.ins = []; node.outs = []; }
    for (const edge of drawn) { edge.source.outs.push(edge); edge.target.ins.push(edge); }
    const large = (a, b) => Math.abs(b.weight) - Math.abs(a.weight);
    for (const node of nodes) {
      const total = node.kind === "group" ? node.ins.reduce((sum, edge) => sum + Math.abs(edge.weight), 0) : node.total;
      for (const edge of node.ins) edge.share = total ? Math.abs(edge.weight) / total : 0;
      node.ins.sort(large); node.outs.sort(large);
    }
    if (chosen && (owner.has(chosen) || !place.has(chosen.id))) chosen = owner.get(chosen) || place.get(chosen.id) || null;
  }

  // -- layout: positions from left to right, layers from bottom to top -------------------------------------------
  // Small graphs are spread over the room there is.
  const room = byId("graph").getBoundingClientRect();
  const plan = cc.layout(nodes, data.metadata.prompt_tokens,
    (wide, high, positions, layers) => [cc.spread(room.width - 20 - wide, positions, 12, 60), cc.spread(room.height - 60 - high, layers, 14, 70)],
    (a, b) => (a.raw.influence ?? 0) - (b.raw.influence ?? 0));
  const { width, height } = plan;

  // -- drawing ---------------------------------------------------------------------------------------------------
  const svg = byId("nodes"), canvas = byId("edges"), context = canvas.getContext("2d");
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  for (const [what, size] of [["width", width], ["height", height]]) svg.setAttribute(what, size);
  canvas.width = width * ratio; canvas.height = height * ratio;
  canvas.style.width = width + "px"; canvas.style.height = height + "px";
  cc.drawFrame(svg, plan, data.metadata.prompt_tokens);
  // Names of layers stay in sight; they are drawn last, so that nodes do not cover them.
  const names = [...svg.querySelectorAll(".layer")];
  byId("graph").addEventListener("scroll", () => { for (const one of names) one.setAttribute("transform", `translate(${byId("graph").scrollLeft} 0)`); });
  function shape(node) {
    node.shape = make("g", { class: "node " + node.kind, transform: `translate(${node.x} ${node.y})`, tabindex: -1, role: "button", "data-id": node.id }, svg);
    cc.drawMark(node.kind, node.shape);
    if (node.kind === "group") make("text", { class: "token", y: -14 }, node.shape, node.label);
  }
  nodes.forEach(shape);
  svg.append(...names);

  const visible = (edge) => edge.source.seen && edge.target.seen;
  let colours = {};
  const recolour = () => { colours = { more: cc.colour("--more"), less: cc.colour("--less") }; };
  function line(edge, alpha, thick) {
    context.strokeStyle = edge.weight >= 0 ? colours.more : colours.less;
    context.setLineDash(edge.weight >= 0 ? [] : [5, 3]);
    context.globalAlpha = alpha;
    context.lineWidth = thick;
    context.beginPath();
    context.moveTo(edge.source.x, edge.source.y);
    const bend = (edge.source.y - edge.target.y) * 0.4;
    context.bezierCurveTo(edge.source.x, edge.source.y - bend, edge.target.x, edge.target.y + bend, edge.target.x, edge.target.y);
    context.stroke();
  }
  // Few edges are drawn stronger than many, which would cover one another.
  const faint = (edge) => (0.05 + 0.3 * edge.share) * Math.max(1, Math.min(2.5, Math.sqrt(2000 / drawn.length)));
  function drawEdges() {
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const focus = hovered || chosen;
    for (const edge of drawn) if (visible(edge)) line(edge, focus ? 0.03 : faint(edge), focus ? 0.5 : 0.6 + edge.share);
    if (focus) for (const edge of [...focus.ins, ...focus.outs]) if (visible(edge)) line(edge, 0.35 + 0.65 * edge.share, 0.8 + 4 * edge.share);
    context.globalAlpha = 1;
  }
  function draw() {
    const start = performance.now();
    const focus = hovered || chosen;
    const group = kept.supernodes.find((one) => one[0] === opened), mine = new Set(group ? membersOf(group) : []);
    const near = focus && new Set([focus, ...focus.ins.map((e) => e.source), ...focus.outs.map((e) => e.target)]);
    for (const node of nodes) {
      node.seen = shown(node);
      node.shape.style.display = node.seen ? "" : "none";
      const list = node.shape.classList;
      list.toggle("dim", Boolean((near && !near.has(node)) || (query && !matches(node))));
      list.toggle("found", Boolean(query) && matches(node));
      list.toggle("pinned", kept.pinned.includes(node.id));
      list.toggle("chosen", node === chosen || mine.has(node) || (node.kind === "group" && node.label === opened));
      node.shape.setAttribute("aria-label", where(node));
    }
    drawEdges();
    byId("hits").textContent = query ? nodes.filter((node) => node.seen && matches(node)).length + " found" : "";
    byId("share").textContent = threshold.toFixed(2) + " · " + nodes.filter((node) => node.seen).length + " nodes";
    document.documentElement.dataset.draw = (performance.now() - start).toFixed(1);
  }
  const matches = (node) => (name(node) + " " + node.id + " " + token(node)).toLowerCase().includes(query);

  // -- the panel beside it ---------------------------------------------------------------------------------------
  function element(tag, options, ...children) {
    const { on = {}, ...properties } = options;
    const made = Object.assign(document.createElement(tag), properties);
    for (const [event, listener] of Object.entries(on)) made.addEventListener(event, listener);
    made.append(...children);
    return made;
  }
  const goTo = (node) => element("button", { type: "button", className: "link", textContent: where(node), on: { click: () => choose(node, true) } });
  // The head of a table whose first column is words, and the others numbers.
  const headOf = (heads) => element("tr", {}, ...heads.map((text, i) => element("th", { className: i ? "number" : "", textContent: text })));
  function listOf(title, list, end) {
    const body = list.filter(visible).slice(0, 30).map((edge) => element("tr", {}, element("td", {}, goTo(edge[end])),
      element("td", { className: "number " + (edge.weight >= 0 ? "more" : "less"), textContent: digits(edge.weight) }),
      element("td", { className: "number", textContent: (100 * edge.share).toFixed(1) + "%" })));
    if (!body.length) return element("p", { className: "note", textContent: title + ": none shown" });
    const head = headOf([title, "weight", "share"]);
    return element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
  }
  function panel() {
    const section = byId("chosen");
    section.replaceChildren();
    const group = kept.supernodes.find((one) => one[0] === opened);
    if (group) { section.append(...about(group)); return; }
    if (!chosen) {
      section.append(element("p", { className: "note", textContent: "Point at a node to see where it leads; choose one to see what makes it and what it makes." }));
      return;
    }
    const node = chosen, sums = chosen.raw.crosscoders;
    section.append(element("h2", { textContent: where(chosen) }));
    const facts = [];
    if (chosen.raw.activation !== null) facts.push("activation " + digits(chosen.raw.activation));
    if (chosen.raw.influence !== null) facts.push("within the top " + (100 * chosen.raw.influence).toFixed(1) + "% of influence");
    if (sums) facts.push(`edges shown add up to ${digits(sums.total - sums.constant - sums.left_out)}, biases ${digits(sums.constant)}, left out ${digits(sums.left_out)}, in all ${digits(sums.total)}`);
    section.append(element("p", { className: "note", textContent: facts.join(" · ") }));
    if (chosen.kind === "latent") section.append(element("label", {}, "Label ", element("input", { id: "label", value: kept.labels[latentKey(chosen)] ?? chosen.raw.clerp,
      on: { input: (event) => { kept.labels[latentKey(node)] = event.target.value; keep(); }, change: () => { panel(); draw(); pins(); } } })));
    section.append(element("p", { className: "row" }, element("button", { type: "button", id: "pin", textContent: kept.pinned.includes(chosen.id) ? "Unpin" : "Pin", on: { click: () => pin(chosen) } }), ...inDashboard(chosen)));
    const known = chosen.kind === "latent" && (data.metadata.crosscoders.features || {})[chosen.raw.feature];
    if (known) section.append(...responds(known));
    section.append(listOf("made by", chosen.ins, "source"), listOf("makes", chosen.outs, "target"));
  }
  // Where the page lies in a dashboard of the crosscoder, a latent has a page of its own there.
  const dashboard = data.metadata.crosscoders.dashboard;
  const DASHBOARD = "../index.html#/";
  function inDashboard(node) {
    const number = dashboard && node.kind === "latent" ? dashboard.latents[latentKey(node)] : undefined;
    return Number.isInteger(number) ? [element("a", { id: "in-dashboard", href: `${DASHBOARD}latent/${number}`, textContent: `Latent ${number} in the dashboard` })] : [];
  }
  if (dashboard) document.querySelector(".tools").prepend(element("a", { href: DASHBOARD + "graphs", textContent: "← Dashboard" }));

  // A group: its edges summed, what the graph says that ablating it does, how to do it, and what it did.
  function about(supernode) {
    const members = membersOf(supernode), latents = members.filter((node) => node.kind === "latent");
    const whole = { id: "", seen: true }, own = new Map(members.map((node) => [node, whole]));
    const summed = cc.summed(edges, own).filter((edge) => edge.source === whole || edge.target === whole)
      .sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
    const into = summed.filter((edge) => edge.target === whole), out = summed.filter((edge) => edge.source === whole);
    const total = into.reduce((sum, edge) => sum + Math.abs(edge.weight), 0);
    for (const edge of into) edge.share = Math.abs(edge.weight) / total;
    for (const edge of out) edge.share = edge.target.total ? Math.abs(edge.weight) / edge.target.total : 0;
    const one = element("input", { type: "checkbox", id: "as-one", checked: kept.folded.includes(supernode[0]), on: { change: (event) => {
      kept.folded = kept.folded.filter((label) => label !== supernode[0]);
      if (event.target.checked) kept.folded.push(supernode[0]);
      changed(); } } });
    const found = [element("h2", { textContent: `Group “${supernode[0]}”` }),
      element("p", { className: "note", textContent: `${latents.length} latents among ${members.length} nodes: ${members.map(where).join(", ")}` }),
      element("p", { className: "row" }, element("label", {}, one, " as one node"),
        element("button", { type: "button", textContent: "Pin its nodes", on: { click: () => { kept.pinned = members.map((node) => node.id); changed(); } } }))];
    const lists = [element("h2", { textContent: "Its edges, summed" }), listOf("made by", into, "source"), listOf("makes", out, "target")];
    return latents.length ? [...found, ...seen(supernode), ...said(members), ...command(supernode), ...lists] : [...found, ...lists];
  }
  const grid = (heads, rows) => element("div", { className: "scroll" }, element("table", { className: "grid" }, element("thead", {}, headOf(heads)),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((value, i) => element("td", { className: i ? "number" : "", textContent: typeof value === "string" ? value : cc.cell(value, 3) })))))));
  function said(members) {
    const rows = cc.ablated(members, data.nodes.map((raw) => place.get(raw.node_id))).map(({ node, direct, total }) => [name(node), direct, total]);
    return [element("h2", { textContent: "What the graph says that ablating it does" }), grid(["logit", "its edges", "all paths"], rows),
      element("p", { className: "note", textContent: "Changes of logits less the mean of all, by the edges in this page; all paths if gates stay as they are." })];
  }
  function seen(supernode) {
    const ids = (list) => list.filter((id) => (place.get(id) || {}).kind === "latent").sort().join(" ");
    return measured.filter(({ label }) => label === supernode[0]).flatMap((one) => [
      element("h2", { textContent: `What it did in the model: ${one.change}` }),
      ...ids(one.ids) === ids(supernode.slice(1)) ? [] : [element("p", { className: "note", textContent: "The group had other nodes then." })],
      grid(["logit", "its edges", "all paths", "seen", "p before → after"], one.targets.map((row) => [`“${cc.visible(row.target)}”`, row.direct, row.total, row.observed, `${cc.cell(row.before, 2)} → ${cc.cell(row.after, 2)}`]))]);
  }
  function command(supernode) {
    const text = `crosscoders intervene CROSSCODER --graph FOLDER --groups ${cc.quoted(data.metadata.slug + ".json")} --group ${cc.quoted(supernode[0])} --ablate`;
    const box = element("pre", { className: "command", tabIndex: 0, textContent: text });
    const copy = () => { getSelection().selectAllChildren(box); if (navigator.clipboard) navigator.clipboard.writeText(text).catch(() => {}); };
    return [element("h2", { textContent: "Change it in the model" }), box, element("p", { className: "row" }, element("button", { type: "button", textContent: "Copy", on: { click: copy } }),
      element("span", { className: "note", textContent: "CROSSCODER is what the graph was made with, FOLDER where this page is; the button JSON writes the file with the group. Or --scale 2, --clamp 5, --add 1. What happens is written into this page." }))];
  }
  const FEW = 2;
  function responds({ examples, promotes, suppresses }) {
    const peak = Math.max(1e-9, ...examples.flatMap(([, values]) => values));
    const context = ([tokens, values]) => element("p", { className: "context" }, ...tokens.map((text, i) => {
      const span = element("span", { className: "token", textContent: cc.visible(text) });
      cc.heat(span, values[i] / peak);
      if (values[i] > 0) span.title = cc.cell(values[i], 3);
      return span;
    }));
    const words = (title, list) => list.length ? [element("p", { className: "note", textContent: `${title}: ${list.map(cc.word).join("  ")}` })] : [];
    // A few are beside the node's edges; the others open on a click.
    const few = examples.slice(0, FEW).map(context), more = examples.slice(FEW).map(context);
    if (more.length) few.push(element("details", {}, element("summary", { textContent: `${more.length} more` }), ...more));
    const body = few.length ? few : [element("p", { className: "note", textContent: "Active nowhere in the text that examples come from." })];
    return [element("h2", { textContent: "Where it is most active" }), ...body, ...words("promotes", promotes), ...words("suppresses", suppresses)];
  }
  function pins() {
    const box = byId("pinned");
    box.replaceChildren();
    for (const id of kept.pinned) box.append(element("div", { className: "row" }, goTo(place.get(id)),
      element("button", { type: "button", textContent: "×", ariaLabel: "Unpin", on: { click: () => pin(place.get(id)) } })));
    if (kept.pinned.length > 1) box.append(element("button", { type: "button", id: "group", textContent: "Group these", on: { click: group } }));
    kept.supernodes.forEach((supernode, i) => box.append(element("div", { className: "row" },
      element("button", { type: "button", className: "link", textContent: `${supernode[0]} (${supernode.length - 1} nodes)`, on: { click: () => open(supernode[0]) } }),
      element("button", { type: "button", textContent: "×", ariaLabel: "Remove group", on: { click: () => { kept.supernodes.splice(i, 1); kept.folded = kept.folded.filter((label) => label !== supernode[0]); changed(); } } }))));
    if (!box.children.length) box.append(element("p", { className: "note", textContent: "Nothing yet." }));
  }
  function changed() { keep(); fold(); pins(); panel(); draw(); }
  function open(label) {
    opened = label;
    chosen = hovered = null;
    panel();
    draw();
    byId("chosen").scrollIntoView({ block: "nearest" });
    history.replaceState(null, "", "#" + encodeURIComponent("group:" + label));
  }
  function pin(node) {
    const at = kept.pinned.indexOf(node.id);
    if (at < 0) kept.pinned.push(node.id); else kept.pinned.splice(at, 1);
    changed();
  }
  function group() {
    if (kept.pinned.length < 2) return;
    const label = window.prompt("A name for these nodes", "group " + (kept.supernodes.length + 1));
    if (!label) return;
    kept.supernodes = [...kept.supernodes.filter((one) => one[0] !== label), [label, ...kept.pinned]];
    opened = label;
    chosen = hovered = null;
    changed();
  }
  function choose(node, move) {
    if (node && owner.has(node)) node = owner.get(node);
    if (node && node.kind === "group") { open(node.label); node.shape.focus({ preventScroll: !move }); return; }
    chosen = node;
    opened = null;
    hovered = null;
    panel();
    draw();
    if (node && move) { node.shape.scrollIntoView({ block: "nearest", inline: "nearest" }); }
    if (node) node.shape.focus({ preventScroll: !move });
    history.replaceState(null, "", node ? "#" + encodeURIComponent(node.id) : location.pathname + location.search);
  }

  // -- mouse and keys --------------------------------------------------------------------------------------------
  const nodeOf = (event) => { const g = event.target.closest && event.target.closest(".node"); return g ? place.get(g.dataset.id) : null; };
  const tip = byId("tip");
  svg.addEventListener("mousemove", (event) => {
    const node = nodeOf(event);
    if (node !== hovered) { hovered = node; draw(); }
    tip.hidden = !node;
    if (!node) return;
    tip.textContent = where(node) + (node.raw.activation === null ? "" : " · activation " + digits(node.raw.activation));
    tip.style.left = Math.max(4, Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = event.clientY + 14 + "px";
  });
  svg.addEventListener("mouseleave", () => { hovered = null; tip.hidden = true; draw(); });
  svg.addEventListener("click", (event) => choose(nodeOf(event), false));
  svg.addEventListener("dblclick", (event) => { const node = nodeOf(event); if (node) pin(node); });
  function next(node, key) {
    const seen = nodes.filter((one) => one.seen);
    if (!node || !node.seen) return seen[0];
    const sideways = key === "ArrowLeft" || key === "ArrowRight";
    const ahead = key === "ArrowRight" || key === "ArrowDown" ? 1 : -1;
    const along = (one) => (sideways ? one.x - node.x : one.y - node.y) * ahead;
    const across = (one) => Math.abs(sideways ? one.y - node.y : one.x - node.x);
    let best = null, least = Infinity;
    for (const one of seen) {
      if (along(one) < 1) continue;
      const cost = along(one) + (sideways ? 50 : 4) * across(one);
      if (cost < least) { least = cost; best = one; }
    }
    return best || node;
  }
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input:not([type=range]):not([type=checkbox])");
    if (event.key === "Escape") { if (typing) event.target.blur(); query = byId("search").value = ""; choose(null, false); return; }
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=range]")) return;
    const focused = nodeOf({ target: document.activeElement }) || chosen;
    if (event.key.startsWith("Arrow")) {
      const node = next(focused, event.key);
      node.shape.focus();
      hovered = node;
      draw();
    } else if (event.key === "Enter" && focused && !event.target.matches("button, a")) choose(focused, true);
    else if (event.key === "p" && focused) pin(focused);
    else if (event.key === "g") group();
    else if (event.key === "/") byId("search").focus();
    else return;
    event.preventDefault();
  });
  byId("search").addEventListener("input", (event) => { query = event.target.value.trim().toLowerCase(); draw(); });
  byId("search").addEventListener("keydown", (event) => {
    const found = event.key === "Enter" && query && nodes.find((node) => node.seen && matches(node));
    if (found) choose(found, true);
  });
  byId("slider").addEventListener("input", (event) => { threshold = kept.threshold = Number(event.target.value); keep(); panel(); draw(); });
  byId("errors").addEventListener("change", () => { panel(); draw(); });
  const themed = () => { byId("theme").textContent = { auto: "◐ auto", light: "○ light", dark: "● dark" }[cc.theme()]; recolour(); drawEdges(); };
  byId("theme").addEventListener("click", () => cc.nextTheme());
  window.addEventListener("cc-theme", themed);
  byId("help").addEventListener("click", (event) => {
    const keys = byId("keys");
    keys.hidden = !keys.hidden;
    event.currentTarget.setAttribute("aria-expanded", String(!keys.hidden));
  });

  // -- taking it along -------------------------------------------------------------------------------------------
  function give(content, type, ending) {
    const link = element("a", { href: URL.createObjectURL(new Blob([content], { type })), download: data.metadata.slug + ending });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  const current = () => taken(data);
  function taken(data) {
    const copy = { ...data, qParams: { ...data.qParams, pinnedIds: kept.pinned, supernodes: kept.supernodes } };
    copy.nodes = data.nodes.map((raw) => ({ ...raw, clerp: kept.labels[raw.jsNodeId.replace(/-\d+$/, "")] ?? raw.clerp }));
    return copy;
  }
  byId("json").addEventListener("click", () => give(JSON.stringify(current()), "application/json", ".json"));
  if (byId("whole")) byId("whole-json").addEventListener("click", async () => {
    const bytes = Uint8Array.from(atob(byId("whole").textContent), (letter) => letter.charCodeAt(0));
    const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    give(JSON.stringify(taken(JSON.parse(text))), "application/json", "-whole.json");
  });
  byId("picture").addEventListener("click", () => {
    const picture = svg.cloneNode(true);
    picture.querySelectorAll(".node").forEach((shape) => { if (shape.style.display === "none") shape.remove(); });
    picture.querySelectorAll(".layer").forEach((one) => one.removeAttribute("transform"));
    // Other programs know neither the page's theme nor two colours in one, nor names of colours: a picture is light.
    const light = document.querySelector("style").textContent.replace(/light-dark\(([^,()]+),[^()]+\)/g, "$1");
    const palette = new Map([...light.matchAll(/(--[\w-]+): ([^;]+);/g)].map(([, key, value]) => [key, value]));
    const plain = (text) => text.replace(/var\((--[\w-]+)\)/g, (all, key) => palette.get(key) ?? all);
    make("style", {}, picture, plain(light + "svg { background: var(--paper); font-family: var(--sans); }"));
    const under = make("g", { fill: "none" }, picture);
    for (const edge of drawn) if (visible(edge)) {
      const bend = (edge.source.y - edge.target.y) * 0.4;
      make("path", { d: `M${edge.source.x} ${edge.source.y}C${edge.source.x} ${edge.source.y - bend} ${edge.target.x} ${edge.target.y + bend} ${edge.target.x} ${edge.target.y}`,
        class: edge.weight >= 0 ? "plus" : "minus", "stroke-opacity": faint(edge).toFixed(3) }, under);
    }
    picture.prepend(under);
    give(new XMLSerializer().serializeToString(picture), "image/svg+xml", ".svg");
  });

  fold();
  const asked = decodeURIComponent(location.hash.slice(1));
  if (asked.startsWith("group:")) opened = asked.slice(6); else chosen = place.get(asked) || null;
  pins();
  recolour();
  draw();
  themed();
  panel();
  const first = nodes.find((node) => node.kind === "logit");
  if (first) {
    first.shape.setAttribute("tabindex", 0);
    byId("graph").scrollLeft = (chosen || first).x + 100 - room.width; // what is explained is seen on a narrow screen, too
  }
  window.graphPage = { current };
  document.documentElement.dataset.ready = (performance.now() - began).toFixed(1);
})();
