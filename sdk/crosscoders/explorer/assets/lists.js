"use strict";
// Addresses and lists: what stands behind # says which page, which latents, and in which order.
(() => {
  // -- addresses -------------------------------------------------------------------------------------------------
  cc.route = (hash = location.hash) => {
    const [path, query] = hash.replace(/^#\/?/, "").split("?");
    const [page, argument] = path.split("/");
    return { page: page || "overview", argument: argument || "", query: new URLSearchParams(query || "") };
  };
  cc.link = (page, query) => {
    const text = query ? query.toString() : "";
    return "#/" + page + (text ? "?" + text : "");
  };
  const changed = () => window.dispatchEvent(new Event("cc-route"));
  cc.go = (hash) => {
    if (location.hash !== hash) location.hash = hash;
  };
  // Typing in a filter changes the address, but is not a step to go back to.
  cc.replace = (hash) => {
    history.replaceState(null, "", hash);
    changed();
  };
  window.addEventListener("hashchange", changed);

  // -- what is asked of a list -----------------------------------------------------------------------------------
  const escaped = (value) => value.replaceAll("%", "%25").replaceAll(",", "%2C");
  const number = (text) => (text.trim() === "" ? NaN : Number(text));
  cc.range = (query, key) => {
    const text = query.get(key);
    if (text === null) return null;
    const [low, high] = text.split("..");
    return { low: number(low), high: number(high ?? "") };
  };
  const written = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(6))) : "");
  cc.setRange = (query, key, low, high) => {
    if (Number.isFinite(low) || Number.isFinite(high)) query.set(key, written(low) + ".." + written(high));
    else query.delete(key);
  };
  cc.chosen = (query, key) => {
    const text = query.get(key);
    return text === null
      ? null
      : new Set(
          text.split(",").map((one) => {
            try {
              return decodeURIComponent(one);
            } catch {
              return one;
            }
          }),
        );
  };
  cc.setChosen = (query, key, names) => {
    if (names && names.size) query.set(key, [...names].map(escaped).join(","));
    else query.delete(key);
  };
  cc.copy = (query) => new URLSearchParams(query);
  cc.filterOf = (query) => {
    const copy = new URLSearchParams();
    for (const [key, value] of query)
      if (["q", "sort", "marked"].includes(key) || cc.index.columns.has(key)) copy.set(key, value);
    return copy;
  };
  cc.filtered = (query) => [...cc.filterOf(query).keys()].some((key) => key !== "sort");

  // -- the list itself: rows of the index, filtered and in order -------------------------------------------------
  let words = null;
  function haystack() {
    if (!words) {
      words = new Array(cc.index.rows);
      for (let row = 0; row < words.length; row++) {
        const label = cc.index.labels[cc.index.latent(row)];
        words[row] = ((label ? label + "\n" : "") + (cc.index.tokens[row] || "")).toLowerCase();
      }
    }
    return words;
  }
  function matcher(text) {
    const parts = text.toLowerCase().trim().split(/\s+/).filter(Boolean);
    if (!parts.length) return null;
    const texts = haystack(),
      one = parts.length === 1 && /^#?\d+$/.test(parts[0]) ? Number(parts[0].replace("#", "")) : -1;
    const said = (row) => {
      const note = cc.marks.note(cc.index.latent(row));
      return note ? texts[row] + "\n" + note.toLowerCase() : texts[row];
    };
    const noted = cc.marks.anyNotes();
    return (row) => {
      if (one >= 0 && cc.index.latent(row) === one) return true;
      const text = noted ? said(row) : texts[row];
      return parts.every((part) => text.includes(part));
    };
  }
  let last = { key: null, rows: null };
  cc.select = (query) => {
    const key = cc.filterOf(query).toString() + (query.has("marked") || query.has("q") ? "|" + cc.marks.version() : "");
    if (last.key === key) return last.rows;
    const tests = [];
    for (const [name, column] of cc.index.columns) {
      if (!query.has(name)) continue;
      const { values } = column;
      if (column.kind === "class") {
        const names = cc.chosen(query, name),
          allowed = column.classes.map((name) => names.has(name));
        tests.push((row) => allowed[values[row]]);
      } else {
        const { low, high } = cc.range(query, name);
        // Bounds are written with six digits, so the ends themselves are let in with as much slack.
        const least = Number.isFinite(low) ? low - Math.abs(low) * 1e-6 : -Infinity,
          most = Number.isFinite(high) ? high + Math.abs(high) * 1e-6 : Infinity;
        tests.push((row) => values[row] >= least && values[row] <= most);
      }
    }
    if (query.get("marked") === "stars") tests.push((row) => cc.marks.starred(cc.index.latent(row)));
    if (query.get("marked") === "notes") tests.push((row) => Boolean(cc.marks.note(cc.index.latent(row))));
    const found = matcher(query.get("q") || "");
    if (found) tests.push(found);
    let rows = new Uint32Array(cc.index.rows),
      count = 0;
    outer: for (let row = 0; row < cc.index.rows; row++) {
      for (const test of tests) if (!test(row)) continue outer;
      rows[count++] = row;
    }
    rows = order(rows.subarray(0, count), query.get("sort") || "");
    last = { key, rows };
    return rows;
  };
  // Unknown values come last, whichever way the others go. Numbers have at most 32 bits, so that each fits with its row
  // into one double, and the browser sorts doubles much faster than it calls a function to compare.
  const ROWS = 2 ** 21;
  function order(rows, by) {
    const down = by.startsWith("-"),
      name = down ? by.slice(1) : by;
    if (name === "latent") return down ? rows.reverse() : rows;
    const column = cc.index.columns.get(name);
    if (!column) return rows;
    // Loops, since Float64Array.from with a function is several times slower.
    const floats = new Float32Array(column.values),
      bits = new Uint32Array(floats.buffer),
      keys = new Float64Array(rows.length);
    for (let i = 0; i < rows.length; i++) {
      const row = rows[i],
        value = floats[row],
        bit = value === 0 ? 0 : bits[row];
      const rank = (bit >>> 31 ? ~bit : bit | 0x80000000) >>> 0;
      keys[i] = (value !== value ? 0xffffffff : down ? 0xfffffffe - rank : rank) * ROWS + row;
    }
    keys.sort();
    for (let i = 0; i < rows.length; i++) rows[i] = keys[i] % ROWS;
    return rows;
  }

  // The list that the reader is in, for next, previous and random: that of the table or of another view.
  let current = { hash: "", query: new URLSearchParams() };
  cc.enter = (query, page = "table") => {
    current = { hash: cc.link(page, query), query: cc.filterOf(query) };
  };
  cc.list = () => cc.select(current.query);
  cc.listLink = () => current.hash || "#/table";
  cc.listIsAll = () => !cc.filtered(current.query);
  cc.neighbour = (latent, step) => {
    const rows = cc.list(),
      row = cc.index.row(latent),
      at = rows.indexOf(row);
    if (at < 0) return rows.length ? cc.index.latent(rows[0]) : latent;
    return cc.index.latent(rows[(at + step + rows.length) % rows.length]);
  };
  // Another latent than `but`, of the list if there is another in it.
  cc.random = (but) => {
    const others = (rows) => rows.length - (rows.includes(cc.index.row(but)) ? 1 : 0);
    const rows = others(cc.list()) ? cc.list() : cc.select(new URLSearchParams());
    const at = Math.floor(Math.random() * rows.length),
      found = cc.index.latent(rows[at] ?? 0);
    return found === but ? cc.index.latent(rows[(at + 1) % rows.length]) : found;
  };
})();
