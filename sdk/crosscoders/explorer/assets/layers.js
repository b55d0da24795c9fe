"use strict";
// All latents against all written sites: a heat map of where each writes.
(() => {
  const { html, useState, useMemo } = htmPreact;
  const LEFT = 8,
    MOST_ROWS = 560;

  // `share` is rows × sites, 255 for a latent's largest norm.
  function Norms({ share, query }) {
    const sites = cc.written.map((site) => site.name),
      S = sites.length;
    const F = Math.min(cc.index.rows, Math.floor(share.length / S));
    const by = query.get("by") || "top",
      [at, setAt] = useState(null);
    const [ref, width] = cc.useWidth(700);
    const change = (value) => {
      const copy = cc.copy(query);
      copy.set("by", value);
      setAt(null);
      cc.replace(cc.link("layers", copy));
    };
    // How deep a site is: its layer, where sites have one, so that two models' layers are counted alike.
    const depth = cc.written.map((site, s) => (cc.written.every((one) => Number.isFinite(one.layer)) ? site.layer : s));
    const order = useMemo(() => {
      const keys = new Float64Array(F);
      for (let row = 0; row < F; row++) {
        let best = 0,
          sum = 0,
          centre = 0;
        for (let s = 0; s < S; s++) {
          const value = share[row * S + s];
          if (value > share[row * S + best]) best = s;
          sum += value;
          centre += depth[s] * value;
        }
        keys[row] =
          by === "latent"
            ? row
            : by === "top"
              ? best * 1e6 + sum
              : by === "centre"
                ? sum
                  ? centre / sum
                  : Infinity
                : -share[row * S + sites.indexOf(by)];
      }
      return Uint32Array.from({ length: F }, (_, row) => row).sort((a, b) => keys[a] - keys[b] || a - b);
    }, [share, by]);
    const tight = width / S < 120,
      room = width - LEFT - (tight ? 48 : 8),
      cell = room / S,
      TOP = tight ? 76 : 26;
    const lines = Math.min(MOST_ROWS, F),
      each = F / lines,
      tall = Math.max(1, Math.min(16, Math.floor(MOST_ROWS / lines))),
      height = TOP + lines * tall;
    const rowsOf = (line) =>
      Array.from(
        order.subarray(Math.floor(line * each), Math.max(Math.floor(line * each) + 1, Math.floor((line + 1) * each))),
      );
    const draw = (context, wide, high) => {
      context.clearRect(0, 0, wide, high);
      context.font = "11px system-ui, sans-serif";
      context.fillStyle = cc.colour("--quiet");
      const every = Math.max(1, Math.ceil(18 / cell));
      sites.forEach((name, s) => {
        if (s % every) return;
        context.save();
        context.translate(LEFT + (s + 0.5) * cell + 4, TOP - 6);
        if (tight) context.rotate(-0.5);
        else context.textAlign = "center";
        context.fillText(cc.visible(name).slice(-18), 0, 0);
        context.restore();
      });
      // Wide cells, and models, are a little apart.
      const gap = (s) => (s + 1 < S && cc.written[s + 1].model !== cc.written[s].model ? 3 : cell > 24 ? 1 : 0);
      for (let line = 0; line < lines; line++) {
        const rows = rowsOf(line);
        for (let s = 0; s < S; s++) {
          let sum = 0;
          for (const row of rows) sum += share[row * S + s];
          context.fillStyle = `rgb(${cc.cividis(sum / rows.length / 255).join(",")})`;
          context.fillRect(LEFT + s * cell, TOP + line * tall, Math.ceil(cell) - gap(s), tall);
        }
      }
    };
    const place = (event) => {
      const r = event.currentTarget.getBoundingClientRect();
      return Math.floor((event.clientY - r.top - TOP) / tall);
    };
    const point = (event) => {
      const line = place(event);
      if (line >= 0 && line < lines) setAt(line);
    };
    const key = (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      setAt(Math.max(0, Math.min(lines - 1, (at ?? -step) + step)));
    };
    const listed = at === null ? [] : rowsOf(at).slice(0, 40);
    return html`<div class="bar"><label>Order <select value=${by} onChange=${(event) => change(event.target.value)}>
      <option value="top">by the site with most</option><option value="centre">by the centre over layers</option>
      <option value="latent">by number</option>
      ${sites.map((name) => html`<option value=${name}>by ${cc.visible(name)}</option>`)}</select></label>
        <span class="quiet">
          ${each <= 1 ? "each line is a latent" : each < 2 ? "each line is one or two latents" : `each line is the mean of about ${cc.cell(Math.round(each))} latents`}; 0 <i class="scale" aria-hidden="true"></i> the latent's largest</span></div>
      <div class="two"><div class="plot" ref=${ref}>
        <${cc.chart.Canvas} width=${width} height=${height} draw=${draw} keys=${[order, S]} tabindex="0"
          role="application"
          onPointerMove=${(event) => {
            if (event.pointerType === "mouse" && event.buttons) point(event);
          }}
          onPointerDown=${point} onKeyDown=${key}
          label=${`Norms of ${F} latents at ${S} sites. Arrow keys go from line to line; the latents of a line are listed beside it.`} />
        ${
          at !== null &&
          html`<i class="brush line"
          style=${{ left: LEFT + "px", top: TOP + at * tall - 1 + "px", width: room + "px", height: Math.max(3, tall + 2) + "px" }}></i>`
        }</div>
      <aside><section class="card" aria-live="polite"><h2>
        ${at === null ? "Latents" : `Line ${at + 1} of ${lines}`}</h2>
        ${
          at === null
            ? html`<p class="quiet">Click on a line of the map to see its latents.</p>`
            : html`<table
          class="links"><tbody>${listed.map(
            (row) => html`<tr key=${row}><td>
          <${cc.part.LatentLink} latent=${cc.index.latent(row)} /></td><td class="spark"
          aria-label=${sites.map((name, s) => `${cc.visible(name)} ${Math.round((100 * share[row * S + s]) / 255)} %`).join(", ")} role="img">${sites.map((name, s) => html`<i title=${cc.visible(name)} style=${{ height: Math.max(1, (16 * share[row * S + s]) / 255) + "px" }}></i>`)}</td><td class="wide"><${cc.part.Name} latent=${cc.index.latent(row)} /></td></tr>`,
          )}</tbody></table>${rowsOf(at).length > listed.length && html`<p class="quiet">and ${rowsOf(at).length - listed.length} more</p>`}`
        }</section></aside></div>`;
  }

  cc.Layers = ({ query }) => {
    const { value: share, error } = cc.useLoaded(async () => {
      const bytes = await cc.load("layers", false);
      if (bytes.length !== cc.index.rows * cc.written.length)
        throw new Error("The file data/layers.js is damaged: it is not a byte for each latent and site.");
      return bytes;
    }, []);
    return html`<div class="page"><h1>Layers</h1>
      <p class="lead">Where latents write: the norm of each latent's decoder row at each site, relative to its largest.</p>
      ${
        error
          ? html`<${cc.part.Problem} error=${error} what="The map cannot be shown." />`
          : share
            ? html`<${Norms} share=${share} query=${query} />`
            : html`<${cc.part.Waiting} />`
      }</div>`;
  };
})();
