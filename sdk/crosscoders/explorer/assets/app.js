"use strict";
// The frame around all views: navigation, keys, theme, marks; and what is shown when something cannot be.
(() => {
  const { html, render, useEffect, useRef, useState, useErrorBoundary } = htmPreact;
  const began = performance.now();
  const KEYS = [
    ["/", "search"],
    ["j", "next latent, also ↓ in the table and → on a page"],
    ["k", "previous latent, also ↑ and ←"],
    ["Enter", "open the row"],
    ["r", "a random latent of the list"],
    ["s", "give or take a star"],
    ["n", "write a note"],
    ["t", "the table"],
    ["d", "light, dark, or as the system has it"],
    ["Backspace", "back to the list"],
    ["Escape", "leave a field, close this"],
    ["?", "these keys"],
  ];

  const Graphs = () => html`<div class="page"><h1>Circuits</h1>
    <p class="lead">Attribution graphs made with this crosscoder. Each opens a page of its own.</p>
    <ul class="graph-list">${cc.facts.graphs.map(
      (graph) => html`<li><a href=${graph.file}>
    ${cc.visible(graph.title || graph.name)}</a>${
      graph.title &&
      graph.name &&
      html` <span class="quiet">
    ${cc.visible(graph.name)}</span>`
    }</li>`,
    )}</ul></div>`;
  function Live({ kind, query }) {
    const ref = useRef(null);
    useEffect(() => {
      const element = ref.current;
      window.ccLive.mount(element, kind, query);
      return () => window.ccLive.unmount(element);
    }, [kind]);
    return html`<div class="page"><div ref=${ref}></div></div>`;
  }
  const safeFile = (file) => typeof file === "string" && /^graphs\/[^/\\:?#]+$/.test(file);

  const PAGES = {
    overview: { title: "Overview", view: cc.Overview },
    table: { title: "Latents", view: cc.Table, fills: true },
    scatter: {
      title: "Scatter",
      view: cc.Scatter,
      there: () => [...cc.index.columns.values()].filter((column) => column.kind !== "class").length > 1,
    },
    diff: {
      title: "Diff",
      view: cc.Diff,
      there: () => cc.facts.views.includes("diff") || cc.index.columns.has("verdict") || cc.facts.models.length > 1,
    },
    layers: { title: "Layers", view: cc.Layers, there: () => cc.facts.views.includes("layers") },
    snapshots: { title: "Snapshots", view: cc.Snapshots, there: () => cc.facts.views.includes("snapshots") },
    graphs: { title: "Circuits", view: Graphs, there: () => cc.facts.graphs.length > 0 },
    try: {
      title: "Try a text",
      view: ({ query }) => html`<${Live} kind="try" query=${query} />`,
      there: () => Boolean(window.ccLive),
    },
    steer: {
      title: "Steer",
      view: ({ query }) => html`<${Live} kind="steer" query=${query} />`,
      there: () => Boolean(window.ccLive),
    },
    latent: { view: cc.Latent },
  };
  const THEMES = { auto: "◐ auto", light: "○ light", dark: "● dark" };

  function Guarded({ children }) {
    const [error] = useErrorBoundary();
    return error
      ? html`<div class="page"><${cc.part.Problem} error=${error} what="This view failed." />
      </div>`
      : children;
  }

  function Marks({ close }) {
    const [said, setSaid] = useState(""),
      marks = cc.marks.counts();
    const read = async (event) => {
      const file = event.target.files[0];
      if (!file) return;
      try {
        setSaid(cc.marks.import(await file.text()));
      } catch (error) {
        setSaid(error.message);
      }
      event.target.value = "";
    };
    return html`<p>${cc.cell(marks.stars)} stars and ${cc.cell(marks.notes)} notes are kept in this browser.</p><p>
      <button type="button" id="export" onClick=${cc.marks.export}>Export as JSON</button> <label
        class="button">Import <input id="import" type="file" accept=".json,application/json" onChange=${read} /></label>
        </p><p role="status" id="imported">${said}</p>`;
  }

  function App() {
    cc.useEvents("cc-route", "cc-theme", "cc-marks");
    const route = cc.route(),
      page = PAGES[route.page],
      dialog = useRef(null),
      main = useRef(null);
    const there = page && (!page.there || page.there());
    cc.actions = {};
    cc.help = () => (dialog.current.open ? dialog.current.close() : dialog.current.showModal());
    useEffect(() => {
      document.title =
        (route.page === "latent" ? `Latent ${route.argument}` : page && page.title ? page.title : "Not found") +
        " · " +
        cc.visible(cc.facts.title);
      if (route.page !== "latent" && main.current) main.current.scrollTop = 0;
    }, [route.page, route.argument]);
    return html`<a class="skip" href="#main"
      onClick=${(event) => {
        event.preventDefault();
        main.current.focus();
      }}>To the content</a>
      <header class="top"><a class="brand" href="#/">${cc.visible(cc.facts.title)}</a>
        <nav aria-label="Views">
          ${Object.entries(PAGES).map(
            ([name, one]) =>
              one.title &&
              (!one.there || one.there()) &&
              html`<a key=${name}
            href=${"#/" + (name === "overview" ? "" : name)}
            aria-current=${route.page === name || (name === "table" && route.page === "latent") ? "page" : undefined}>
            ${one.title}</a>`,
          )}</nav>
        <span class="tools">
          <button type="button" id="theme" title="Light, dark, or as the system has it (d)"
            onClick=${() => cc.say(cc.nextTheme())}>${THEMES[cc.theme()]}</button><button type="button" id="help"
            title="Keys and notes (?)" onClick=${() => cc.help()}>?</button></span></header>
      ${
        cc.warnings.length > 0 &&
        html`<div class="problem" role="alert">${cc.warnings.map(
          (text) => html`<div>
        ${cc.visible(text)} What needs it is left out.</div>`,
        )}</div>`
      }
      <main id="main" ref=${main} tabindex="-1" class=${page && page.fills ? "fills" : ""}>
        ${
          there
            ? html`<${Guarded} key=${route.page}><${page.view} query=${route.query} argument=${route.argument} />
        </${Guarded}>`
            : html`<div class="page"><h1>Not here</h1>
        <p role="alert">This dashboard has no page “${cc.visible(route.page)}”. <a href="#/">To the overview</a></p>
        </div>`
        }</main>
      <dialog ref=${dialog} aria-label="Keys, stars and notes"><h2>Keys</h2><table class="keys"><tbody>
        ${KEYS.map(([key, text]) => html`<tr><td><kbd>${key}</kbd></td><td>${text}</td></tr>`)}</tbody></table>
        <p class="note">In an example that has the focus, ← and → go from token to token.</p><h2>Stars and notes</h2>
        <${Marks} /><p><button type="button" onClick=${() => dialog.current.close()}>Close</button></p></dialog>
      <div id="said" class="hidden" role="status" aria-live="polite"></div>`;
  }

  document.addEventListener("keydown", (event) => {
    if (!cc.index || event.ctrlKey || event.metaKey || event.altKey) return;
    const dialog = document.querySelector("dialog[open]");
    if (dialog) {
      if (["Escape", "?"].includes(event.key)) {
        event.preventDefault();
        dialog.close();
      }
      return;
    }
    const typing = event.target.matches("input:not([type=checkbox]):not([type=radio]), textarea, select");
    if (event.key === "Escape" && typing) {
      event.target.blur();
      document.querySelector(".grid")?.focus({ preventScroll: true });
      return;
    }
    if (typing && !(event.target.id === "search" && ["ArrowDown", "Enter"].includes(event.key))) return;
    if (event.target.matches("button, a, [role=button]") && event.key === "Enter") return;
    const { actions } = cc,
      { page, argument } = cc.route();
    const search = () => {
      if (!document.getElementById("search")) cc.go("#/table");
      setTimeout(() => {
        const box = document.getElementById("search");
        box.focus();
        box.select();
      }, 30);
    };
    const on = {
      "/": search,
      r: () => cc.go("#/latent/" + cc.random(page === "latent" ? Number(argument) : -1)),
      t: () => cc.go("#/table"),
      d: () => cc.say(cc.nextTheme()),
      "?": () => cc.help(),
      s: actions.star,
      n: actions.note,
      Enter: actions.open,
      j: actions.move ? () => actions.move(1) : actions.next,
      k: actions.move ? () => actions.move(-1) : actions.previous,
      ArrowDown:
        actions.move &&
        (() => {
          if (typing) {
            event.target.blur();
            document.querySelector(".grid").focus({ preventScroll: true });
          } else actions.move(1);
        }),
      ArrowUp: actions.move && (() => actions.move(-1)),
      ArrowRight: actions.next,
      ArrowLeft: actions.previous,
      PageDown: actions.move && (() => actions.move(20)),
      PageUp: actions.move && (() => actions.move(-20)),
      Home: actions.move && (() => actions.move(-1e9)),
      End: actions.move && (() => actions.move(1e9)),
      Backspace: page === "latent" ? () => cc.go(cc.listLink()) : null,
    }[event.key];
    if (!on) return;
    event.preventDefault();
    on();
  });

  const root = document.getElementById("app");
  cc.start().then(
    () => {
      cc.facts.graphs = cc.facts.graphs.filter((graph) => safeFile(graph.file));
      cc.marks.open();
      root.replaceChildren();
      render(html`<${App} />`, root);
      document.documentElement.dataset.ready = (performance.now() - began).toFixed(1);
    },
    (error) => {
      root.replaceChildren();
      render(
        html`<div class="page"><h1>This dashboard cannot be shown</h1>
      <${cc.part.Problem} error=${error} what="Its data cannot be read." /></div>`,
        root,
      );
      document.documentElement.dataset.ready = "failed";
    },
  );
})();
