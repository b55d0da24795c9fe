"use strict";
// The page of a latent.
(() => {
  const { html, useEffect, useRef } = htmPreact;
  const HEAD = ["verdict", "explanation"];
  const fact = (latent, name) =>
    ((latent && latent.facts) || []).find(([label]) => String(label).toLowerCase() === name)?.[1];

  // One line for each point, with a bar for each model that is written there.
  function Norms({ norms }) {
    const sites = cc.written,
      models = [...new Set(sites.map((site) => site.model))],
      points = [...new Set(sites.map((site) => site.point))];
    const largest = Math.max(1e-12, ...norms.filter(Number.isFinite));
    const colour = (model) => `var(${cc.classColour(Math.max(0, models.indexOf(model)))})`;
    const line = (name, members) => html`<tr key=${name}><th scope="row">${cc.visible(name)}</th>
      <td class=${"bar-line" + (members.length > 1 ? " thin" : "")}>${members.map(
        (i) =>
          html`<i style=${{ width: (100 * (norms[i] || 0)) / largest + "%", background: colour(sites[i].model) }}></i>`,
      )}</td>
      ${members.map((i) => html`<td class="number">${cc.cell(norms[i], 3)}</td>`)}</tr>`;
    const at = (point) => models.map((model) => sites.findIndex((one) => one.model === model && one.point === point));
    const paired = models.length > 1 && points.length > 1 && points.every((point) => at(point).every((i) => i >= 0));
    return html`<table class="profile"><caption class="hidden">Norm of the latent's decoder row at each site</caption>
      ${
        paired &&
        html`<thead><tr><td></td><td></td>${models.map(
          (model) => html`<th scope="col" class="number"><i style=${{ background: colour(model) }}></i>
          ${cc.visible(model)}</th>`,
        )}</tr></thead>`
      }
      <tbody>${paired ? points.map((point) => line(point, at(point))) : sites.map((site, i) => line(site.name, [i]))}
      </tbody></table>`;
  }

  function Logits({ logits }) {
    const vocabulary = cc.useLoaded(() => cc.vocabulary(), []);
    if (!logits || !logits.length) return html`<p class="quiet">Not known for this crosscoder's sites.</p>`;
    if (vocabulary.error) return html`<${cc.part.Problem} error=${vocabulary.error} what="Tokens cannot be shown." />`;
    if (!vocabulary.value) return html`<${cc.part.Waiting} />`;
    const words = (pairs) => (pairs || []).map(([id, value]) => html`<${cc.part.Word} id=${id} value=${value} /> `);
    return html`<div class="logits">${logits.map(
      (one) => html`<section key=${one.site}><h3>
      ${cc.visible(one.site)}</h3><dl><dt>promotes</dt><dd>${words(one.promoted)}</dd><dt>suppresses</dt><dd>
      ${words(one.suppressed)}</dd></dl></section>`,
    )}</div>`;
  }

  function Facts({ row, latent }) {
    const columns = [...cc.index.columns.values()],
      titles = new Set(columns.map((column) => column.title.toLowerCase())),
      facts = (latent && latent.facts) || [],
      // A fact that is a text says more than the column's number: its interval, for instance.
      said = new Map(facts.filter(([, value]) => typeof value === "string").map(([label, value]) => [label, value]));
    const more = facts.filter(
      ([label]) => !HEAD.includes(String(label).toLowerCase()) && !titles.has(String(label).toLowerCase()),
    );
    return html`<table class="facts"><tbody>
      ${columns.map(
        (column) => html`<tr key=${column.key} title=${cc.visible(column.help || "")}><th scope="row">
      ${cc.visible(column.title)}</th><td>
      ${
        column.kind === "class"
          ? html`<${cc.part.Class} column=${column} at=${column.values[row]} />`
          : cc.cell(said.get(column.title) ?? column.values[row])
      }</td>
        </tr>`,
      )}
      ${more.map(
        ([label, value]) => html`<tr><th scope="row">${cc.visible(label)}</th><td>${cc.cell(value)}</td>
        </tr>`,
      )}</tbody></table>`;
  }

  function Note({ latent }) {
    const box = useRef(null);
    useEffect(() => {
      if (document.activeElement !== box.current) box.current.value = cc.marks.note(latent);
    });
    return html`<section class="card"><h2><label for="note">Your note</label></h2>
      <textarea id="note" ref=${box} rows="3" placeholder="Kept in this browser only  ( n )"
        onInput=${(event) => cc.marks.write(latent, event.target.value)}></textarea></section>`;
  }

  function Latent({ number, row }) {
    cc.useEvents("cc-marks");
    const { value: latent, error } = cc.useLoaded(() => cc.latent(number), [number]);
    const rows = cc.list(),
      at = rows.indexOf(row),
      back = cc.listLink();
    useEffect(() => {
      document.querySelector("main").scrollTop = 0;
      cc.say(`latent ${number}, ${cc.label(number) || cc.peaks(number)}`);
    }, [number]);
    cc.actions = {
      next: () => cc.go("#/latent/" + cc.neighbour(number, 1)),
      previous: () => cc.go("#/latent/" + cc.neighbour(number, -1)),
      star: () => cc.marks.star(number),
      note: () => document.getElementById("note").focus(),
    };
    const verdict = cc.index.columns.get("verdict"),
      line = fact(latent, "verdict"),
      label = cc.label(number) || fact(latent, "explanation");
    const bins =
      latent && latent.hist && (latent.hist.counts || []).some((count) => count > 0)
        ? {
            counts: latent.hist.counts,
            edges: latent.hist.counts
              .map((_, i, all) => latent.hist.low + ((latent.hist.high - latent.hist.low) * i) / all.length)
              .concat(latent.hist.high),
          }
        : null;
    return html`<div class="page latent" data-latent=${number}>
      <header class="latent-head"><h1>Latent ${number}</h1><${cc.part.Star} latent=${number} />
        ${verdict && html`<span class="chip"><${cc.part.Class} column=${verdict} at=${verdict.values[row]} /></span>`}
        <nav aria-label="Latents"><a href=${back}>
          ${cc.listIsAll() ? "all latents" : at < 0 ? "the list" : `${cc.cell(at + 1)} of ${cc.cell(rows.length)} in the list`}</a>
          <a id="previous" href=${"#/latent/" + cc.neighbour(number, -1)} title="Previous (k)"
            aria-label="Previous latent">‹</a><a id="next" href=${"#/latent/" + cc.neighbour(number, 1)}
            title="Next (j)" aria-label="Next latent">›</a><button type="button" title="Random (r)"
            onClick=${() => cc.go("#/latent/" + cc.random(number))}>random</button>
          ${window.ccLive && html`<a href=${"#/steer?latent=" + number}>steer</a>`}</nav></header>
      ${
        label
          ? html`<p class="lead">
        ${cc.visible(label)}</p>`
          : cc.peaks(number)
            ? html`<p class="lead quiet">peaks at <span class="peaks">
        ${cc.visible(cc.peaks(number))}</span></p>`
            : null
      }
      ${line && html`<p class="verdict"><${cc.part.Sentence} text=${line} /></p>`}
      ${error && html`<${cc.part.Problem} error=${error} what=${`Latent ${number} cannot be shown in full.`} />`}
      <div class="two"><div>${
        latent
          ? html`<${cc.part.Examples} latent=${latent} /><section><h2>What it promotes</h2>
        <p class="note">Tokens whose logits its direction raises and lowers most by the direct path, at each site that it writes; pointing at a token shows by how much for each unit of activation.</p><${Logits} logits=${latent.logits} /></section>`
          : !error && html`<${cc.part.Waiting} />`
      }</div>
      <aside>
        ${
          latent &&
          html`<section class="card"><h2>Activations</h2>
          ${
            bins
              ? html`<${cc.chart.Histogram} ...${bins} colour="--hot"
            label=${`Activations of latent ${number} where it is active`} />`
              : html`<p
            class="quiet">It is never active here.</p>`
          }</section>
          <section class="card"><h2>Norm at each site</h2>
            ${
              (latent.norms || []).length
                ? html`<${Norms} norms=${latent.norms} />`
                : html`<p
              class="quiet">Not known.</p>`
            }</section>`
        }
        <section class="card"><h2>Facts</h2><${Facts} row=${row} latent=${latent} /></section>
        ${
          latent &&
          html`<section class="card"><h2>Nearest directions</h2>
          <p class="note">By the cosine of decoder rows.</p>
          <${cc.part.Links} pairs=${latent.nearest} what="Latents with the nearest directions" /></section>
          <section class="card"><h2>Active together</h2><p class="note">By the correlation of being active.</p>
            <${cc.part.Links} pairs=${latent.together} what="Latents active on the same tokens" /></section>`
        }
        <${Note} latent=${number} /></aside></div></div>`;
  }

  cc.Latent = ({ argument }) => {
    const number = /^\d+$/.test(argument) ? Number(argument) : NaN,
      row = cc.index.row(number);
    if (row >= 0) return html`<${Latent} key=${number} number=${number} row=${row} />`;
    const some = cc.facts.latents && Number.isInteger(number) && number < cc.facts.num_latents;
    return html`<div class="page"><h1>Latent ${cc.visible(argument)}</h1><p role="alert">
      ${some ? `This dashboard shows ${cc.cell(cc.index.rows)} of ${cc.cell(cc.facts.num_latents)} latents, and this one is not among them.` : `There is none: latents are numbered from 0 to ${cc.cell(cc.facts.num_latents - 1)}.`} <a href="#/table">See those that are here.</a></p></div>`;
  };
})();
