"use strict";
// What differs between models: verdicts and their counts, where latents write, and a line for each.
(() => {
  const { html, useState } = htmPreact;

  cc.Diff = () => {
    const { value: diff, error } = cc.useLoaded(() => (cc.facts.views.includes("diff") ? cc.load("diff") : {}), []);
    const verdict = cc.index.columns.get("verdict"),
      [chosen, setChosen] = useState("");
    const share =
      cc.index.columns.get("tuned_share") ||
      [...cc.index.columns.values()].findLast((column) => column.key.startsWith("norm_share_"));
    if (error)
      return html`<div class="page"><h1>Diff</h1>
      <${cc.part.Problem} error=${error} what="The diff cannot be shown." /></div>`;
    if (!diff) return html`<div class="page"><${cc.part.Waiting} /></div>`;
    const firings = cc.index.columns.get("firings"),
      kl = cc.index.columns.get("kl");
    const counts = verdict ? cc.classCounts(verdict) : [],
      total = cc.index.rows;
    const fires = new Map(),
      carried = new Map();
    if (verdict)
      for (let row = 0; row < total; row++) {
        const at = verdict.values[row];
        if (firings && firings.values[row] > 0) fires.set(at, (fires.get(at) || 0) + 1);
        if (kl && Number.isFinite(kl.values[row])) carried.set(at, (carried.get(at) || 0) + kl.values[row]);
      }
    const classes = verdict
      ? verdict.classes.map((name, at) => ({
          name,
          at,
          count: counts[at],
          firing: fires.get(at) || 0,
          kl: carried.get(at),
        }))
      : [];
    const lines = Object.entries(diff.lines || {})
      .map(([latent, line]) => ({ latent: Number(latent), line, row: cc.index.row(Number(latent)) }))
      .filter(({ row }) => row >= 0 && (!chosen || (verdict && verdict.classes[verdict.values[row]] === chosen)));
    const link = (name) => {
      const query = new URLSearchParams();
      cc.setChosen(query, "verdict", new Set([name]));
      return cc.link("table", query);
    };
    const title = cc.facts.models.map((model) => cc.visible(model.key)).join(" and ");
    return html`<div class="page"><h1>Diff${title && ` of ${title}`}</h1>${
      diff.note &&
      html`<p class="lead">
      <${cc.part.Sentence} text=${diff.note} /></p>`
    }
      <div class="two even"><section><h2>Verdicts</h2>
        ${
          classes.length
            ? html`<${cc.part.Sorted} caption="Verdicts and their counts" start=${[1, -1]} rows=${classes}
          columns=${[
            {
              title: "verdict",
              of: (one) => one.name,
              show: (one) => html`<a href=${link(one.name)}>
            <${cc.part.Class} column=${verdict} at=${one.at} /></a>`,
            },
            { title: "latents", number: true, of: (one) => one.count },
            {
              title: "share",
              number: true,
              of: (one) => one.count / total,
              show: (one) => cc.cell((100 * one.count) / total, 3) + " %",
            },
            ...(firings ? [{ title: "that fire", number: true, of: (one) => one.firing }] : []),
            ...(kl
              ? [{ title: cc.visible(kl.title), number: true, of: (one) => one.kl, show: (one) => cc.cell(one.kl, 3) }]
              : []),
          ]} />`
            : html`<p
          class="quiet">No analysis has given verdicts. Run the analysis “diff” and give its results to the dashboard.</p>`
        }</section>
      <section><h2>Where latents write</h2>${
        share
          ? html`<p class="note">
        ${cc.visible(share.title)}: ${cc.visible(share.help || "")} A bar leads to its latents.</p>
        <${cc.chart.Histogram} ...${cc.bins(share, { count: 50, by: verdict || null })} height=${180}
          label=${"Latents by " + cc.visible(share.title) + (verdict ? ", by verdict" : "")}
          pick=${(low, high) => cc.pickRange(share.key, low, high)} />
        ${
          verdict &&
          html`<p class="legend">
          ${verdict.classes.map((_, i) => html`<${cc.part.Class} column=${verdict} at=${i} /> `)}${counts[verdict.classes.length] > 0 && html`<span class="class"><i style=${{ color: "var(--strong)" }} aria-hidden="true">▬</i> not known</span>`}</p>`
        }`
          : html`<p class="quiet">There is one model only.</p>`
      }</section></div>
      ${
        Object.keys(diff.lines || {}).length > 0 &&
        html`<section><div class="bar"><h2>Latent by latent</h2>
        ${
          verdict &&
          html`<label>Verdict <select value=${chosen} onChange=${(event) => setChosen(event.target.value)}>
        <option value="">all</option>${verdict.classes.map(
          (name) => html`<option value=${name}>
        ${cc.visible(name)}</option>`,
        )}</select></label>`
        }<span class="count">${cc.cell(lines.length)}</span></div>
        <${cc.part.Sorted} key=${chosen} caption="Latents with their verdicts in words" most=${100}
          start=${kl ? [kl && share ? 3 : 2, -1] : share ? [2, -1] : [0, 1]} rows=${lines} columns=${[
            {
              title: "latent",
              of: (one) => one.latent,
              show: (one) => html`<${cc.part.LatentLink} latent=${one.latent} />
            ${cc.marks.starred(one.latent) ? " ★" : ""}`,
            },
            {
              title: "what it is",
              wide: true,
              of: (one) => one.line,
              show: (one) =>
                html`${
                  verdict &&
                  html`<i
            class="mark" style=${{ color: `var(${cc.classColour(verdict.values[one.row])})` }}
            title=${cc.visible(verdict.classes[verdict.values[one.row]] || "")}>
            ${cc.classShape(verdict.values[one.row])}</i> `
                }<${cc.part.Sentence} text=${one.line} />`,
            },
            ...(share ? [{ title: cc.visible(share.title), number: true, of: (one) => share.values[one.row] }] : []),
            ...(kl ? [{ title: cc.visible(kl.title), number: true, of: (one) => kl.values[one.row] }] : []),
            ...(firings ? [{ title: "firings", number: true, of: (one) => firings.values[one.row] }] : []),
          ]} /></section>`
      }</div>`;
  };
})();
