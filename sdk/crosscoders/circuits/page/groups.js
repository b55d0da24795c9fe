"use strict";
// Groups of nodes: as one node with summed edges, and what the graph says that leaving their latents out does.
var cc = window.cc || {};
window.cc = cc;
(() => {
  // Edges of which an end is in a group, summed by the group and the other end; edges inside a group are left out.
  // `owner` maps nodes to the group that they are in.
  cc.summed = (edges, owner) => {
    const found = new Map();
    for (const edge of edges) {
      const source = owner.get(edge.source) || edge.source, target = owner.get(edge.target) || edge.target;
      if (source === target || (source === edge.source && target === edge.target)) continue;
      const key = source.id + "\n" + target.id;
      if (!found.has(key)) found.set(key, { source, target, weight: 0 });
      found.get(key).weight += edge.weight;
    }
    return [...found.values()];
  };

  // What ablating latents together does to each logit: by their own edges, and by all paths if gates stay as they are.
  // A latent whose inputs lose a share of its value loses that share of all that it writes; what is ablated stays so.
  cc.ablated = (members, nodes) => {
    const inside = new Set(members.filter((node) => node.kind === "latent"));
    const others = nodes.filter((node) => node.kind === "latent" && !inside.has(node) && node.raw.activation);
    const share = new Map([...inside].map((node) => [node, -1]));
    const flow = (node) => node.into.reduce((sum, edge) => sum + edge.weight * (share.get(edge.source) || 0), 0);
    for (let moved = true, round = 0; moved && round < 1000; round++) {
      moved = false;
      for (const node of others) {
        const now = flow(node) / node.raw.activation;
        if (now !== (share.get(node) || 0)) { share.set(node, now); moved = true; }
      }
    }
    return nodes.filter((node) => node.kind === "logit").map((node) => ({
      node,
      direct: node.into.reduce((sum, edge) => sum - (inside.has(edge.source) ? edge.weight : 0), 0),
      total: flow(node),
    }));
  };

  // Words of a command as a shell reads them.
  cc.quoted = (text) => /^[A-Za-z0-9_.\/-]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\\''") + "'";
})();
