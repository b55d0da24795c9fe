"use strict";
// Norms over snapshots of training: when latents come up, and when they go.
(() => {
  const { html, useState, useMemo } = htmPreact;
  const SHOWN = 24;

  function Curves({ data, query }) {
    const { labels } = data,
      S = labels.length,
      groups = data.groups || [];
    const by = query.get("by") || "late",
      group = query.get("group") || "",
      start = Math.max(0, Number(query.get("from")) || 0),
      [lit, light] = useState(-1);
    // Each relative to its largest; the onset is the first snapshot from which on it stays above half of that.
    const all = useMemo(
      () =>
        data.latents.map((latent, i) => {
          const largest = Math.max(...data.values[i].map((value) => value || 0));
          const values = data.values[i].map((value) => (largest > 0 ? (value || 0) / largest : 0));
          let onset = S;
          while (onset > 0 && values[onset - 1] >= 0.5) onset--;
          return { latent, values, largest, onset, grown: values[S - 1] - values[0], group: groups[i] || "" };
        }),
      [data],
    );
    const names = [...new Set(groups)],
      counts = labels.map((_, s) => all.filter((one) => one.onset === s).length),
      never = all.filter((one) => one.onset === S).length;
    const key =
      {
        late: (one) => (one.onset === S ? 1 : -one.onset),
        early: (one) => one.onset,
        growth: (one) => -one.grown,
        fall: (one) => one.grown,
        number: (one) => one.latent,
      }[by] || ((one) => one.latent);
    const chosen = useMemo(
      () => all.filter((one) => !group || one.group === group).sort((a, b) => key(a) - key(b) || b.largest - a.largest),
      [all, by, group],
    );
    const shown = chosen.slice(start, start + SHOWN);
    const change = (edit) => {
      const copy = cc.copy(query);
      edit(copy);
      cc.replace(cc.link("snapshots", copy));
    };
    const pick = (name) => (event) =>
      change((copy) => {
        copy.set(name, event.target.value);
        copy.delete("from");
      });
    return html`<section><h2>From when on latents are there</h2>
      <p class="note">Of the ${cc.cell(all.length)} latents with curves here, by the first snapshot from which on the norm stays above half of its largest.${never > 0 && ` ${cc.cell(never)} are below that at the end.`}</p>
        <div class="bars">${labels.map(
          (text, s) => html`<span key=${s}><span class="bar-name">
          ${cc.visible(text)}</span><span class="bar-line">
          <i style=${{ width: (100 * counts[s]) / Math.max(1, ...counts) + "%" }}></i></span><span class="number">
          ${cc.cell(counts[s])}</span></span>`,
        )}</div></section>
      <section><div class="bar"><h2>Curves</h2><label>Order <select value=${by} onChange=${pick("by")}>
        <option value="late">latest onset first</option><option value="early">earliest onset first</option>
        <option value="growth">most grown first</option><option value="fall">most faded first</option>
        <option value="number">by number</option></select></label>
        ${
          names.length > 1 &&
          html`<label>Kind <select value=${group} onChange=${pick("group")}>
          <option value="">all</option>${names.map(
            (name) => html`<option value=${name}>
          ${cc.visible(name)}</option>`,
          )}</select></label>`
        }
        <span class="count">
          ${chosen.length ? `${cc.cell(start + 1)} to ${cc.cell(Math.min(chosen.length, start + SHOWN))} of ${cc.cell(chosen.length)}` : "none"}</span>
        <button type="button" disabled=${start === 0}
          onClick=${() => change((copy) => copy.set("from", Math.max(0, start - SHOWN)))}>‹ before</button>
          <button type="button" disabled=${start + SHOWN >= chosen.length}
          onClick=${() => change((copy) => copy.set("from", start + SHOWN))}>after ›</button></div>
      <p class="note">Norm relative to the latent's largest.</p>
      <div class="two">
        <${cc.chart.Curves} labels=${labels} lines=${shown.map((one, i) => ({ ...one, at: i % 8 }))} lit=${lit} light=${light} height=${340} label=${`Norm curves of ${shown.length} latents over ${S} snapshots; the list beside it has the same`} />
        <aside><table class="links"><tbody>
          ${shown.map(
            (one, i) => html`<tr key=${one.latent} class=${lit === one.latent ? "active" : ""}
            onMouseEnter=${() => light(one.latent)} onFocusIn=${() => light(one.latent)}><td><i class="mark"
            style=${{ color: `var(${cc.classColour(i % 8)})` }}
            aria-hidden="true">━</i> <${cc.part.LatentLink} latent=${one.latent} /></td><td>
            ${one.onset < S ? cc.visible(labels[one.onset]) : "–"}</td>${
              names.length > 1 &&
              html`<td class="quiet">
            ${cc.visible(one.group)}</td>`
            }<td class="wide"><${cc.part.Name} latent=${one.latent} /></td>
            </tr>`,
          )}</tbody></table></aside></div></section>`;
  }

  cc.Snapshots = ({ query }) => {
    const { value: data, error } = cc.useLoaded(() => cc.load("snapshots"), []);
    return html`<div class="page"><h1>Snapshots</h1>
      <p class="lead">When in training latents come up: their decoder norms over the snapshots that the crosscoder reads.</p>
      ${
        error
          ? html`<${cc.part.Problem} error=${error} what="The curves cannot be shown." />`
          : data
            ? html`<${Curves} data=${data} query=${query} />`
            : html`<${cc.part.Waiting} />`
      }</div>`;
  };
})();
