"use strict";
// Norms over snapshots of training: when latents come up, and when they go.
(() => {
  const { html, useState, useMemo } = htmPreact;
  const SHOWN = 24;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  function Curves({ data, query }) {
    const S = data.sites.length, curves = useMemo(() => bytes(data.curves), [data]), F = Math.min(cc.index.rows, Math.floor(curves.length / S));
    const by = query.get("by") || "onset", start = Math.max(0, Number(query.get("from")) || 0), [lit, light] = useState(-1);
    const values = (row) => Array.from(curves.subarray(row * S, row * S + S), (value) => value / 255);
    // The first snapshot from which on a norm stays above half of its largest; how much it has grown in all.
    const { onset, grown, counts } = useMemo(() => {
      const onset = new Float64Array(F), grown = new Float64Array(F), counts = new Uint32Array(S);
      for (let row = 0; row < F; row++) {
        let first = S;
        for (let s = S - 1; s >= 0 && curves[row * S + s] >= 127; s--) first = s;
        onset[row] = first;
        if (first < S) counts[first]++;
        grown[row] = curves[row * S + S - 1] - curves[row * S];
      }
      return { onset, grown, counts };
    }, [curves]);
    const key = by === "onset" ? (row) => -onset[row] * 1000 - grown[row] : by === "early" ? (row) => onset[row] : by === "growth" ? (row) => -grown[row] : by === "fall" ? (row) => grown[row] : (row) => row;
    const alive = useMemo(() => Array.from({ length: F }, (_, row) => row).filter((row) => by === "onset" || by === "early" ? onset[row] < S : curves.subarray(row * S, row * S + S).some((value) => value > 0)).sort((a, b) => key(a) - key(b) || a - b), [curves, by]);
    const rows = alive.slice(start, start + SHOWN), labels = data.steps ? data.steps.map((step) => "step " + cc.cell(step)) : data.sites;
    const change = (edit) => { const copy = cc.copy(query); edit(copy); cc.replace(cc.link("snapshots", copy)); };
    const lines = rows.map((row, i) => ({ latent: cc.index.latent(row), values: values(row), at: i % 8 }));
    return html`<section><h2>From when on latents are there</h2><p class="note">Latents by the first snapshot from which on their norm stays above half of its largest.</p>
        <div class="bars">${labels.map((text, s) => html`<span key=${s}><span class="bar-name">${cc.visible(text)}</span><span class="bar-line"><i style=${{ width: (100 * counts[s]) / Math.max(1, ...counts) + "%" }}></i></span><span class="number">${cc.cell(counts[s])}</span></span>`)}</div></section>
      <section><div class="bar"><h2>Curves</h2><label>Order <select value=${by} onChange=${(event) => change((copy) => { copy.set("by", event.target.value); copy.delete("from"); })}><option value="onset">latest onset first</option><option value="early">earliest onset first</option><option value="growth">most grown first</option><option value="fall">most faded first</option><option value="number">by number</option></select></label>
        <span class="count">${cc.cell(Math.min(start + 1, alive.length))} to ${cc.cell(Math.min(alive.length, start + SHOWN))} of ${cc.cell(alive.length)}</span>
        <button type="button" disabled=${start === 0} onClick=${() => change((copy) => copy.set("from", Math.max(0, start - SHOWN)))}>‹ before</button><button type="button" disabled=${start + SHOWN >= alive.length} onClick=${() => change((copy) => copy.set("from", start + SHOWN))}>after ›</button></div>
      <p class="note">Norm relative to the latent's largest.</p>
      <div class="two"><${cc.chart.Curves} labels=${labels} lines=${lines} lit=${lit} light=${light} height=${340} label=${`Norm curves of ${lines.length} latents over ${S} snapshots; the list beside it has the same`} />
        <aside><table class="links"><tbody>${rows.map((row, i) => { const latent = cc.index.latent(row); return html`<tr key=${latent} class=${lit === latent ? "active" : ""} onMouseEnter=${() => light(latent)} onFocusIn=${() => light(latent)}><td><i class="mark" style=${{ color: `var(${cc.classColour(i % 8)})` }} aria-hidden="true">━</i> <${cc.part.LatentLink} latent=${latent} /></td><td>${onset[row] < S ? cc.visible(labels[onset[row]]) : "–"}</td><td class="wide"><${cc.part.Name} latent=${latent} /></td></tr>`; })}</tbody></table></aside></div></section>`;
  }

  cc.Snapshots = ({ query }) => {
    const { value: data, error } = cc.useLoaded(() => cc.load("snapshots"), []);
    return html`<div class="page"><h1>Snapshots</h1><p class="lead">When in training latents come up: their decoder norms over the snapshots that the crosscoder reads.</p>
      ${error ? html`<${cc.part.Problem} error=${error} what="The curves cannot be shown." />` : data ? html`<${Curves} data=${data} query=${query} />` : html`<${cc.part.Waiting} />`}</div>`;
  };
})();
