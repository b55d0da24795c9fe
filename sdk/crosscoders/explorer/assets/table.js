"use strict";
// All latents as a table: only the rows in sight are in the page. What is asked for stands in the address.
(() => {
  const { html, useState, useEffect, useLayoutEffect, useRef } = htmPreact;
  const ROW = 30,
    MORE = 8,
    MOST_COLUMNS = 8;
  // Widths in pixels; the column of names takes what is left, and has at least its own.
  const LARGE = { latent: 92, name: 250, number: 96, class: 176 },
    SMALL = { latent: 68, name: 190, number: 84, class: 150 };
  const places = new Map();

  // What is shown unless the reader has chosen: first what one asks for most. Of two models one share says both.
  const FIRST = ["density", "max", "tuned_share", "verdict", "score"],
    LATER = ["firings", "mean_active"];
  const usual = () => {
    const all = [...cc.index.columns.keys()];
    const unknown = (key) => cc.index.columns.get(key).values.every(Number.isNaN);
    const rank = (key) =>
      unknown(key) ? 100 : FIRST.includes(key) ? FIRST.indexOf(key) : LATER.includes(key) ? 99 : 50;
    return all
      .filter((key) => !(key.startsWith("norm_share_") && cc.index.columns.has("tuned_share")))
      .sort((a, b) => rank(a) - rank(b) || all.indexOf(a) - all.indexOf(b))
      .slice(0, MOST_COLUMNS);
  };
  const shownColumns = (query) => {
    if (!query.has("cols")) return usual();
    return query
      .get("cols")
      .split(",")
      .filter((key) => cc.index.columns.has(key));
  };
  const change = (query, edit) => {
    const copy = cc.copy(query);
    edit(copy);
    cc.replace(cc.link(cc.route().page, copy));
  };

  function NumberFilter({ column, query }) {
    const range = cc.range(query, column.key) || { low: NaN, high: NaN };
    const set = (low, high) => change(query, (copy) => cc.setRange(copy, column.key, low, high));
    const read = (text) => (text.trim() === "" ? NaN : Number(text));
    return html`<fieldset><legend title=${cc.visible(column.help || "")}>${cc.visible(column.title)}</legend>
      <${cc.chart.Histogram} ...${cc.bins(column, { count: 28 })} height=${44} chosen=${range} pick=${set}
        label=${"Latents by " + cc.visible(column.title)} />
      <div class="range">
        <input type="number" step="any" aria-label=${cc.visible(column.title) + ", at least"}
          placeholder="from" value=${Number.isNaN(range.low) ? "" : range.low}
          onChange=${(event) => set(read(event.target.value), range.high)} />
        <span aria-hidden="true">–</span>
          <input type="number" step="any" aria-label=${cc.visible(column.title) + ", at most"}
            placeholder="to" value=${Number.isNaN(range.high) ? "" : range.high}
            onChange=${(event) => set(range.low, read(event.target.value))} />
        ${
          query.has(column.key) &&
          html`<button type="button" class="clear" aria-label="Any ${cc.visible(column.title)}"
          onClick=${() => set(NaN, NaN)}>×</button>`
        }</div></fieldset>`;
  }
  function ClassFilter({ column, query }) {
    const chosen = cc.chosen(query, column.key) || new Set(),
      counts = cc.classCounts(column);
    const toggle = (name) =>
      change(query, (copy) => {
        const next = new Set(chosen);
        if (!next.delete(name)) next.add(name);
        cc.setChosen(copy, column.key, next);
      });
    return html`<fieldset><legend title=${cc.visible(column.help || "")}>${cc.visible(column.title)}</legend>
      <div class="classes">${column.classes.map(
        (name, at) => html`
      <label><input type="checkbox" checked=${chosen.has(name)}
        onChange=${() => toggle(name)} /> <${cc.part.Class} column=${column} at=${at} /> <span class="quiet">
        ${cc.cell(counts[at])}</span></label>`,
      )}</div></fieldset>`;
  }
  // Beside the table and the scatter: what is let through.
  cc.part.Filters = ({ query, columns = true }) => {
    const marks = cc.marks.counts(),
      shown = new Set(shownColumns(query));
    const marked = query.get("marked") || "";
    return html`<div class="filters">
      <fieldset><legend>Marks</legend><div class="classes">
        ${[
          ["", "all"],
          ["stars", `with a star (${marks.stars})`],
          ["notes", `with a note (${marks.notes})`],
        ].map(
          ([value, text]) => html`
        <label><input type="radio" name="marked" checked=${marked === value}
          onChange=${() =>
            change(query, (copy) => {
              if (value) copy.set("marked", value);
              else copy.delete("marked");
            })} /> ${text}</label>`,
        )}</div></fieldset>
      ${[...cc.index.columns.values()].map((column) =>
        column.kind === "class"
          ? html`<${ClassFilter} key=${column.key} column=${column} query=${query} />`
          : html`<${NumberFilter} key=${column.key} column=${column} query=${query} />`,
      )}
      ${
        columns &&
        html`<fieldset><legend>Columns shown</legend><div class="classes">
        ${[...cc.index.columns.values()].map(
          (column) => html`
        <label><input type="checkbox" checked=${shown.has(column.key)}
          onChange=${() =>
            change(query, (copy) => {
              const keys = shown.has(column.key)
                ? [...shown].filter((key) => key !== column.key)
                : [...shown, column.key];
              copy.set("cols", keys.join(","));
            })} /> ${cc.visible(column.title)}</label>`,
        )}</div></fieldset>`
      }
    </div>`;
  };
  // What is asked for, in words, each with a way to take it back.
  cc.part.Asked = ({ query }) => {
    const said = [];
    for (const [key, value] of cc.filterOf(query)) {
      if (key === "sort" || key === "q") continue;
      const column = cc.index.columns.get(key);
      let text =
        key === "marked" ? (value === "stars" ? "with a star" : "with a note") : cc.visible(column.title) + " ";
      if (column && column.kind === "class") text += [...cc.chosen(query, key)].map(cc.visible).join(" or ");
      else if (column) {
        const { low, high } = cc.range(query, key);
        text += Number.isNaN(high)
          ? "≥ " + cc.cell(low)
          : Number.isNaN(low)
            ? "≤ " + cc.cell(high)
            : `${cc.cell(low)} to ${cc.cell(high)}`;
      }
      said.push(html`<button type="button" class="asked" aria-label=${"Without: " + text}
        onClick=${() => change(query, (copy) => copy.delete(key))}>${text} <span aria-hidden="true">×</span></button>`);
    }
    return said.length
      ? html`<span class="asked-list">
      ${said}<button type="button" class="asked"
        onClick=${() =>
          change(query, (copy) => {
            for (const key of [...copy.keys()]) if (cc.index.columns.has(key) || key === "marked") copy.delete(key);
          })}>all latents</button></span>`
      : null;
  };
  cc.part.SearchBox = ({ query }) => {
    const box = useRef(null);
    useEffect(() => {
      if (box.current && document.activeElement !== box.current) box.current.value = query.get("q") || "";
    });
    return html`<label class="search"><span class="hidden">Search explanations, tokens, notes and numbers</span>
      <input id="search" ref=${box} type="search" autocomplete="off" spellcheck="false"
        placeholder="Search  ( / )" defaultValue=${query.get("q") || ""}
        onInput=${(event) =>
          change(query, (copy) => {
            if (event.target.value.trim()) copy.set("q", event.target.value);
            else copy.delete("q");
          })} /></label>`;
  };

  function Cell({ column, row }) {
    const value = column.values[row];
    if (column.kind === "class") return html`<td><${cc.part.Class} column=${column} at=${value} /></td>`;
    if (column.kind === "share" && column.scale !== "log" && !Number.isNaN(value))
      return html`<td class="number share">
      <i aria-hidden="true" style=${{ width: 100 * Math.max(0, Math.min(1, value)) + "%" }}></i><span>
      ${cc.cell(value, 3)}</span></td>`;
    return html`<td class="number">${cc.cell(value, 3)}</td>`;
  }

  cc.Table = ({ query }) => {
    const box = useRef(null),
      hash = location.hash;
    const [view, setView] = useState({ top: places.get(hash) || 0, height: 800 });
    const [active, setActive] = useState(0),
      [open, setOpen] = useState(window.innerWidth >= 1000);
    cc.useEvents("cc-marks");
    const rows = cc.select(query),
      columns = shownColumns(query).map((key) => cc.index.columns.get(key));
    const sort = query.get("sort") || "",
      filter = cc.filterOf(query).toString();
    cc.enter(query);
    const seen = useRef(filter);
    useLayoutEffect(() => {
      // another list begins at its top, the one come back to where it was left
      box.current.scrollTop = seen.current === filter ? places.get(hash) || 0 : 0;
      if (seen.current !== filter) setActive(0);
      seen.current = filter;
    }, [filter]);
    useEffect(() => {
      const observer = new ResizeObserver(([entry]) =>
        setView((old) => ({ ...old, height: entry.contentRect.height })),
      );
      observer.observe(box.current);
      return () => observer.disconnect();
    }, []);
    useLayoutEffect(() => {
      const node = box.current;
      return () => places.set(hash, node.scrollTop);
    }, [hash]);
    useEffect(() => {
      cc.say(`${rows.length} of ${cc.index.rows} latents`);
    }, [rows]);
    const sizes = window.innerWidth < 640 ? SMALL : LARGE;
    const wide = columns.reduce(
      (sum, column) => sum + sizes[column.kind === "class" ? "class" : "number"],
      sizes.latent + sizes.name,
    );
    const first = Math.max(0, Math.floor(view.top / ROW) - MORE),
      end = Math.min(rows.length, Math.ceil((view.top + view.height) / ROW) + MORE);
    const move = (step) => {
      const next = Math.max(0, Math.min(rows.length - 1, active + step));
      setActive(next);
      const top = next * ROW,
        { scrollTop, clientHeight } = box.current;
      if (top < scrollTop) box.current.scrollTop = top;
      else if (top + 3 * ROW > scrollTop + clientHeight) box.current.scrollTop = top + 3 * ROW - clientHeight;
      if (rows.length)
        cc.say(
          `latent ${cc.index.latent(rows[next])}, ${cc.label(cc.index.latent(rows[next])) || cc.peaks(cc.index.latent(rows[next]))}`,
        );
    };
    cc.actions = {
      move,
      open: () => rows.length && cc.go("#/latent/" + cc.index.latent(rows[active])),
      star: () => rows.length && cc.marks.star(cc.index.latent(rows[active])),
    };
    const by = (key) =>
      change(query, (copy) =>
        copy.set("sort", sort === "-" + key ? key : sort === key ? "-" + key : key === "latent" ? key : "-" + key),
      );
    const direction = (key) =>
      sort === key || (key === "latent" && !sort) ? "ascending" : sort === "-" + key ? "descending" : "none";
    const head = ({ name, title, help, number }) => html`<th key=${name} scope="col" class=${number ? "number" : ""}
      aria-sort=${direction(name)} title=${help}><button type="button" data-sort=${name} onClick=${() => by(name)}>
      ${title}<span aria-hidden="true">${{ ascending: " ▴", descending: " ▾", none: "" }[direction(name)]}</span>
      </button></th>`;
    return html`<div class="browse"><h1 class="hidden">Latents</h1>
      <div class="bar"><${cc.part.SearchBox} query=${query} />
        <button type="button" id="filters" aria-expanded=${open} onClick=${() => setOpen(!open)}>Filters</button>
        <span class="count"><strong>${cc.cell(rows.length)}</strong>
          ${rows.length < cc.index.rows ? ` of ${cc.cell(cc.index.rows)}` : " latents"}</span>
          <${cc.part.Asked} query=${query} /></div>
      <div class="split">${open && html`<aside aria-label="Filters"><${cc.part.Filters} query=${query} /></aside>`}
      <div class="grid" ref=${box} tabindex="0" role="region" aria-label="Latents"
        onScroll=${(event) => {
          const top = event.target.scrollTop;
          places.set(location.hash, top);
          setView((old) => ({ ...old, top }));
        }}>
        <table class="data" aria-rowcount=${rows.length + 1} style=${{ width: `max(100%, ${wide}px)` }}>
          <caption class="hidden">Latents; the heads of columns sort</caption>
          <colgroup><col style=${{ width: sizes.latent + "px" }} /><col />
            ${columns.map(
              (column) => html`<col key=${column.key}
              style=${{ width: sizes[column.kind === "class" ? "class" : "number"] + "px" }} />`,
            )}</colgroup>
          <thead><tr>${head({ name: "latent", title: "Latent" })}<th scope="col">Explanation and peak tokens</th>
            ${columns.map((column) => head({ name: column.key, title: cc.visible(column.title), help: cc.visible(column.help || ""), number: column.kind !== "class" }))}</tr></thead>
          <tbody><tr aria-hidden="true" style=${{ height: first * ROW + "px" }}></tr>
          ${Array.from(rows.subarray(first, end), (row, i) => {
            const latent = cc.index.latent(row);
            return html`<tr key=${latent} class=${first + i === active ? "active" : ""}
            aria-rowindex=${first + i + 2} data-latent=${latent} onClick=${(event) => {
              setActive(first + i);
              if (!event.target.closest("a, button") && !String(window.getSelection())) cc.go("#/latent/" + latent);
            }}>
            <th scope="row"><${cc.part.LatentLink} latent=${latent} />
              ${
                cc.marks.starred(latent) &&
                html`<span class="starred"
                title="with a star"> ★</span>`
              }${
                cc.marks.note(latent) &&
                html`<span class="noted"
                title=${cc.marks.note(latent)}> ✎</span>`
              }</th>
            <td class="wide"><${cc.part.Name} latent=${latent} /></td>
              ${columns.map((column) => html`<${Cell} key=${column.key} column=${column} row=${row} />`)}</tr>`;
          })}
          <tr aria-hidden="true" style=${{ height: (rows.length - end) * ROW + "px" }}></tr></tbody></table>
        ${
          rows.length === 0 &&
          html`<p class="empty">No latent is like this. ${
            cc.filtered(query) &&
            html`<a
          href="#/table">Show all</a>`
          }</p>`
        }
      </div></div></div>`;
  };
})();
