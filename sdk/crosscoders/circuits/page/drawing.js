"use strict";
// How the pages of graphs lay out and draw nodes: positions from left to right, layers from bottom to top.
var cc = window.cc || {};
window.cc = cc;
(() => {
  const SVG = "http://www.w3.org/2000/svg", STEP = 15, LEFT = 64, PER_LINE = 6;

  // What every node of a file has, in the order of the file.
  const kindOf = (type) => (type.includes("error") ? "error" : type === "embedding" || type === "logit" ? type : "latent");
  cc.nodeOf = (raw) => ({ raw, kind: kindOf(raw.feature_type), position: raw.ctx_idx, into: [], from: [],
    layer: raw.feature_type === "embedding" ? -1 : raw.feature_type === "logit" ? Infinity : Number(raw.layer) });

  cc.errorName = (raw) => `${raw.feature_type.startsWith("lorsa") ? "attention" : "MLP"} error of layer ${raw.layer}`;

  // How much of what is free comes to each of `count`, within bounds.
  cc.spread = (free, count, least, most) => Math.max(least, Math.min(most, Math.floor(free / count)));

  // Gives nodes their places, x and y. `spacing` says, of the width and height that nodes need themselves and the numbers
  // of positions and layers, how much is between them; within a cell nodes are in the order of `before`.
  cc.layout = (nodes, tokens, spacing, before = null) => {
    const layers = [...new Set(nodes.map((node) => node.layer))].sort((a, b) => a - b);
    const cells = new Map();
    for (const node of nodes) {
      const key = node.layer + ":" + node.position;
      if (!cells.has(key)) cells.set(key, []);
      cells.get(key).push(node);
    }
    const widest = Array(tokens.length).fill(1), tallest = new Map(layers.map((layer) => [layer, 1]));
    for (const cell of cells.values()) {
      const { layer, position } = cell[0];
      widest[position] = Math.max(widest[position], Math.min(cell.length, PER_LINE));
      tallest.set(layer, Math.max(tallest.get(layer), Math.ceil(cell.length / PER_LINE)));
    }
    const wide = tokens.map((text, p) => Math.max(widest[p] * STEP, 10 + 7 * Math.min(14, text.length)));
    const sum = (numbers) => [...numbers].reduce((total, number) => total + number, 0);
    const [gap, rise] = spacing(LEFT + sum(wide), sum(tallest.values()) * STEP, tokens.length, layers.length);
    const columns = [], tops = new Map();
    let width = LEFT, height = 16;
    for (const each of wide) { columns.push(width); width += each + gap; }
    for (const layer of [...layers].reverse()) { tops.set(layer, height); height += tallest.get(layer) * STEP + rise; }
    for (const cell of cells.values()) {
      if (before) cell.sort(before);
      cell.forEach((node, i) => {
        node.x = columns[node.position] + 8 + (i % PER_LINE) * STEP;
        node.y = tops.get(node.layer) + 8 + Math.floor(i / PER_LINE) * STEP;
      });
    }
    const below = height - rise + 20;
    return { layers, columns, tops, width, height: below + 12, below };
  };

  cc.make = (tag, attributes, parent, text) => {
    const made = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  };

  // The lines and names of layers, and the tokens.
  cc.drawFrame = (svg, { layers, columns, tops, width, below }, tokens) => {
    for (const layer of layers) {
      const y = tops.get(layer);
      cc.make("line", { class: "rule", x1: 0, x2: width, y1: y - 8, y2: y - 8 }, svg);
      cc.make("text", { class: "layer", x: 6, y: y + 12 }, svg, layer < 0 ? "tokens" : layer === Infinity ? "logits" : "layer " + layer);
    }
    tokens.forEach((text, p) => cc.make("text", { class: "token", x: columns[p] + 2, y: below }, svg, text.length > 14 ? text.slice(0, 13) + "…" : text));
  };

  const MARKS = {
    latent: ["circle", { r: 5.5 }],
    error: ["path", { d: "M0-6 6 0 0 6-6 0Z" }],
    embedding: ["rect", { x: -5, y: -5, width: 10, height: 10 }],
    logit: ["rect", { x: -5, y: -5, width: 10, height: 10, rx: 3 }],
    group: ["circle", { r: 9 }],
  };
  cc.drawMark = (kind, shape) => cc.make(MARKS[kind][0], { class: "mark", ...MARKS[kind][1] }, shape);
})();
