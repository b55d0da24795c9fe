"use strict";
// The data of the dashboard: scripts that call cc.put and cc.pack are loaded when something is asked for.
(() => {
  const arrived = new Map(),
    kept = new Map();
  const MOST = { "latents-": 24, "corpus-": 96 };
  cc.put = (name, value) => arrived.set(name, () => value);
  cc.pack = (name, text) => arrived.set(name, () => unpack(text));

  async function unpack(text) {
    const bytes = Uint8Array.fromBase64
      ? Uint8Array.fromBase64(text)
      : Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function script(name) {
    return new Promise((resolve, reject) => {
      const file = `data/${name}.js`,
        element = document.createElement("script");
      element.src = file;
      element.onerror = () => {
        element.remove();
        reject(new Error(`The file ${file} is missing or cannot be read.`));
      };
      element.onload = () => {
        element.remove();
        const give = arrived.get(name);
        arrived.delete(name);
        if (!give) reject(new Error(`The file ${file} is damaged: it does not hold “${name}”.`));
        else
          Promise.resolve()
            .then(give)
            .then(resolve, () => reject(new Error(`The file ${file} is damaged: it cannot be unpacked.`)));
      };
      document.head.append(element);
    });
  }

  // What a file holds, each loaded once; of the many chunks those used last are kept. A failure is tried again.
  cc.load = (name, asJson = true) => {
    if (kept.has(name)) {
      const found = kept.get(name);
      kept.delete(name);
      kept.set(name, found);
      return found;
    }
    const made = script(name).then((value) => {
      if (!asJson || !(value instanceof Uint8Array)) return value;
      try {
        return JSON.parse(new TextDecoder().decode(value));
      } catch {
        throw new Error(`The file data/${name}.js is damaged: it does not hold JSON.`);
      }
    });
    made.catch(() => kept.delete(name));
    kept.set(name, made);
    for (const [start, most] of Object.entries(MOST)) {
      const old = [...kept.keys()].filter((one) => one.startsWith(start));
      for (const one of old.slice(0, Math.max(0, old.length - most))) kept.delete(one);
    }
    return made;
  };

  // -- the index: facts, columns, and text to search -------------------------------------------------------------
  const ARRAYS = { f4: Float32Array, u1: Uint8Array, u2: Uint16Array };
  cc.start = async () => {
    const facts = await cc.load("facts");
    if (facts.format !== 1)
      throw new Error(
        `This dashboard is in format ${cc.visible(facts.format)}; its page reads format 1. Write it anew with one version of crosscoders.`,
      );
    for (const key of ["sites", "models", "cards", "columns", "views", "graphs"]) facts[key] = facts[key] || [];
    cc.facts = facts;
    cc.warnings = [];
    const rows = facts.latents ? facts.latents.length : facts.num_latents;
    const optional = (name, asJson, empty) =>
      cc.load(name, asJson).catch((error) => {
        cc.warnings.push(error.message);
        return empty;
      });
    const [bytes, search] = await Promise.all([
      optional("columns", false, new Uint8Array()),
      optional("search", true, {}),
    ]);
    const columns = new Map();
    let at = 0;
    for (const meta of facts.columns) {
      const kind = ARRAYS[meta.type],
        end = at + (kind ? kind.BYTES_PER_ELEMENT * rows : 0);
      if (!kind || end > bytes.length) {
        if (bytes.length) cc.warnings.push(`The file data/columns.js has no column “${cc.visible(meta.title)}”.`);
        break;
      }
      columns.set(meta.key, {
        ...meta,
        classes: meta.values || [],
        values: new kind(bytes.buffer.slice(bytes.byteOffset + at, bytes.byteOffset + end)),
      });
      at = end;
    }
    const rowOf = facts.latents ? new Map(facts.latents.map((latent, row) => [latent, row])) : null;
    cc.index = {
      rows,
      columns,
      latent: facts.latents ? (row) => facts.latents[row] : (row) => row,
      row: rowOf
        ? (latent) => rowOf.get(latent) ?? -1
        : (latent) => (Number.isInteger(latent) && latent >= 0 && latent < rows ? latent : -1),
      labels: search.labels || {},
      tokens: search.tokens || [],
    };
    cc.written = facts.sites.filter((site) => site.written);
  };
  cc.label = (latent) => cc.index.labels[latent] || "";
  cc.peaks = (latent) => cc.index.tokens[cc.index.row(latent)] || "";
  cc.value = (latent, key) => {
    const column = cc.index.columns.get(key),
      row = cc.index.row(latent);
    return column && row >= 0 ? column.values[row] : NaN;
  };

  // -- one latent and the text around it -------------------------------------------------------------------------
  const number = (value, digits) => String(value).padStart(digits, "0");
  cc.latent = async (latent) => {
    const file = "latents-" + number(Math.floor(latent / (cc.facts.chunk || 256)), 4);
    const found = ((await cc.load(file)).latents || []).find((one) => one.j === latent);
    if (!found) throw new Error(`The file data/${file}.js does not hold latent ${latent}.`);
    return found;
  };
  let texts = null;
  cc.vocabulary = async () => {
    if (!texts) {
      const { ids, texts: words } = await cc.load("vocabulary");
      texts = new Map(ids.map((id, i) => [id, words[i]]));
    }
    return texts;
  };
  cc.tokenText = (id) => (texts && texts.has(id) ? texts.get(id) : `⟨${id}⟩`);
  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  // An example of a chunk, with its token ids and numbers: {ids, values, peak, max, shares: {model: numbers}}.
  cc.example = async ([sequence, start, stop, peak, max, packed, shares]) => {
    const file = "corpus-" + number(Math.floor(sequence / (cc.facts.rows_per_file || 1)), 3);
    const { first, rows } = await cc.load(file);
    const row = rows[sequence - first];
    if (!row) throw new Error(`The file data/${file}.js does not hold sequence ${sequence}.`);
    const values = Array.from(bytesOf(packed), (byte) => (byte / 255) * max);
    const bySite = Object.entries(shares || {}).map(([model, [text, scale]]) => [
      model,
      Array.from(new Int8Array(bytesOf(text).buffer), (byte) => (byte / 127) * scale),
    ]);
    return { sequence, start, ids: row.slice(start, stop), values, peak, max, shares: Object.fromEntries(bySite) };
  };
})();
