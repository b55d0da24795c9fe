"use strict";
// The first page: facts, distributions, and what can be done here.
(() => {
  const { html, useState } = htmPreact;

  cc.pickRange = (key, low, high) => {
    const query = new URLSearchParams();
    cc.setRange(query, key, low, high);
    query.set("sort", "-" + key);
    cc.go(cc.link("table", query));
  };
  cc.pickClass = (key, name) => {
    const query = new URLSearchParams();
    cc.setChosen(query, key, new Set([name]));
    cc.go(cc.link("table", query));
  };
  // How many latents are of each class; the last number is of those whose class is not known.
  const counted = new Map();
  cc.classCounts = (column) => {
    if (!counted.has(column.key)) {
      const counts = new Uint32Array(column.classes.length + 1);
      for (const value of column.values) counts[Math.min(value, column.classes.length)]++;
      counted.set(column.key, counts);
    }
    return counted.get(column.key);
  };

  // How often each class is, as bars that lead to the table.
  cc.part.Classes = ({ column, most = 12 }) => {
    const counts = cc.classCounts(column),
      largest = Math.max(1, ...counts.subarray(0, column.classes.length));
    const [shown, setShown] = useState(most);
    const order = column.classes.map((_, at) => at).sort((a, b) => counts[b] - counts[a]);
    const unknown = counts[column.classes.length];
    return html`<div class="bars">
      ${order.slice(0, shown).map(
        (at) => html`<a key=${at}
        href=${cc.link(
          "table",
          (() => {
            const query = new URLSearchParams();
            cc.setChosen(query, column.key, new Set([column.classes[at]]));
            return query;
          })(),
        )}>
        <span class="bar-name"><${cc.part.Class} column=${column} at=${at} /></span>
        <span class="bar-line">
          <i style=${{ width: (100 * counts[at]) / largest + "%", background: `var(${cc.classColour(at)})` }}></i>
          </span><span class="number">${cc.cell(counts[at])}</span></a>`,
      )}
      ${
        order.length > shown &&
        html`<button type="button" onClick=${() => setShown(Infinity)}>
        ${order.length - shown} more</button>`
      }
      ${unknown > 0 && html`<p class="quiet">${cc.cell(unknown)} not known</p>`}</div>`;
  };

  function Distribution({ column }) {
    if (column.kind === "class")
      return html`<section class="card"><h3>${cc.visible(column.title)}</h3><p class="note">
      ${cc.visible(column.help || "")}</p><${cc.part.Classes} column=${column} /></section>`;
    const bins = cc.bins(column);
    const rest = [
      bins.zeros && `${cc.cell(bins.zeros)} are 0 or less`,
      bins.unknown && `${cc.cell(bins.unknown)} not known`,
    ]
      .filter(Boolean)
      .join(", ");
    return html`<section class="card"><h3>${cc.visible(column.title)}</h3><p class="note">
      ${cc.visible(column.help || "")}</p>
      <${cc.chart.Histogram} ...${bins} label=${"Latents by " + cc.visible(column.title)}
        pick=${(low, high) => cc.pickRange(column.key, low, high)} />
      ${rest && html`<p class="note">${rest}</p>`}</section>`;
  }

  cc.Overview = () => {
    const { facts, index } = cc;
    const shownLatents = facts.latents
      ? `${cc.cell(index.rows)} of ${cc.cell(facts.num_latents)} latents`
      : `${cc.cell(facts.num_latents)} latents`;
    return html`<div class="page">
      <h1>${cc.visible(facts.title)}</h1>
      <p class="lead">
        ${shownLatents}${facts.models.length > 0 ? ` of ${facts.models.map((model) => cc.visible(model.name)).join(" and ")}` : ""}, seen on ${cc.cell(facts.num_tokens)} tokens of text.
        ${" "}<a href="#/table">Look at all of them</a>, type <kbd>/</kbd> to search, <kbd>r</kbd> for a random one, <kbd>?</kbd> for all keys.</p>
      <form class="jump" role="search" onSubmit=${(event) => {
        event.preventDefault();
        const query = new URLSearchParams({ q: event.target.q.value });
        cc.go(cc.link("table", query));
      }}>
        <label class="hidden" for="jump">Search latents</label>
          <input id="jump" name="q" type="search" placeholder="Search explanations, tokens, notes, numbers"
            autocomplete="off" /><button>Search</button></form>
      <h2 class="hidden">Facts</h2><div class="cards columns">${facts.cards.map(
        (card) => html`<section class="card facts"><h3>
        ${cc.visible(card.title)}</h3><table><tbody>${(card.rows || []).map(([label, value]) =>
          typeof value === "string" && value.length > 40
            ? html`<tr class="long"><td colspan="2"><strong>${cc.visible(label)}</strong>
                <p><${cc.part.Sentence} text=${value} /></p></td></tr>`
            : html`<tr><th scope="row">${cc.visible(label)}</th><td>${cc.cell(value)}</td></tr>`,
        )}</tbody></table></section>`,
      )}
        ${
          facts.sites.length > 0 &&
          html`<section class="card facts"><h3>Sites</h3><table><thead><tr>
          <th scope="col">site</th><th scope="col" class="number">width</th><th scope="col">is</th></tr></thead><tbody>
          ${facts.sites.map(
            (site) => html`<tr><td>${cc.visible(site.name)}</td><td class="number">
          ${cc.cell(site.width)}</td><td>
          ${[site.read && "read", site.written && "written"].filter(Boolean).join(", ")}</td></tr>`,
          )}</tbody></table>
          </section>`
        }</div>
      <h2>Distributions</h2>
      <p class="note">Of all latents here. A bar leads to the latents in it.</p>
      <div class="cards">
        ${[...index.columns.values()].map((column) => html`<${Distribution} key=${column.key} column=${column} />`)}</div>
      <p class="note">
        ${facts.version ? `Written by crosscoders ${cc.visible(facts.version)}` : ""}${facts.made ? ` on ${cc.visible(facts.made)}` : ""}. Nothing on this page is loaded from elsewhere, and what you mark stays in this browser.</p>
    </div>`;
  };
})();
