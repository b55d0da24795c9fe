"use strict";
// Small parts of all views. Every text of others goes through cc.visible or cc.word into a text node.
(() => {
  const { html, useState, useEffect, useRef } = htmPreact;
  const part = (cc.part = {});

  // Draws a component again when one of these events comes.
  cc.useEvents = (...names) => {
    const [count, count_] = useState(0);
    useEffect(() => {
      const again = () => count_((old) => old + 1);
      for (const name of names) window.addEventListener(name, again);
      return () => {
        for (const name of names) window.removeEventListener(name, again);
      };
    }, []);
    return count;
  };
  // What a promise gives: {value}, {error}, or neither while it is under way.
  cc.useLoaded = (make, keys) => {
    const [state, setState] = useState({});
    useEffect(() => {
      let wanted = true;
      setState({});
      Promise.resolve()
        .then(make)
        .then(
          (value) => wanted && setState({ value }),
          (error) => wanted && setState({ error }),
        );
      return () => {
        wanted = false;
      };
    }, keys);
    return state;
  };
  // The width of an element, also when the window changes.
  cc.useWidth = (first = 600) => {
    const ref = useRef(null),
      [width, setWidth] = useState(first);
    useEffect(() => {
      const observer = new ResizeObserver(([entry]) => setWidth(Math.max(120, Math.floor(entry.contentRect.width))));
      observer.observe(ref.current);
      return () => observer.disconnect();
    }, []);
    return [ref, width];
  };
  // Tells a screen reader, without showing anything.
  cc.say = (text) => {
    const box = document.getElementById("said");
    if (box) box.textContent = text;
  };

  const SHAPES = ["●", "■", "▲", "◆", "○", "□", "△", "◇"];
  cc.classColour = (at) => `--c${at % 8}`;
  cc.classShape = (at) => SHAPES[at % 8];
  part.Class = ({ column, at }) => {
    const name = column.classes[at];
    return name === undefined
      ? html`<span class="quiet">–</span>`
      : html`<span class="class">
      <i style=${{ color: `var(${cc.classColour(at)})` }} aria-hidden="true">${cc.classShape(at)}</i>
      ${" "}${cc.visible(name)}</span>`;
  };
  part.Problem = ({ error, what }) => html`<div class="problem" role="alert"><strong>
    ${what || "This cannot be shown."}</strong> ${cc.visible(error.message || error)} ${" "}<span
      class="quiet">If the folder was copied, copy it again; otherwise write the dashboard anew.</span></div>`;
  part.Waiting = () => html`<p class="loading" role="status">Loading …</p>`;
  part.Word = ({ id, value }) => html`<span class="word" title=${value === undefined ? undefined : cc.cell(value)}>
    ${cc.word(cc.tokenText(id))}</span>`;
  part.Star = ({ latent }) => {
    const on = cc.marks.starred(latent);
    return html`<button type="button" class=${"star" + (on ? " set" : "")} aria-pressed=${on}
      aria-label=${on ? "Take the star away" : "Give a star"} title="Star (s)"
      onClick=${(event) => {
        event.stopPropagation();
        cc.marks.star(latent);
      }}>${on ? "★" : "☆"}</button>`;
  };
  part.LatentLink = ({ latent, children }) => html`<a class="latent-link" href=${"#/latent/" + latent}>
    ${children || latent}</a>`;
  // What is known of a latent in a line: its explanation, and the tokens where it peaks.
  part.Name = ({ latent }) => {
    const label = cc.label(latent);
    return html`${label && html`<span class="name">${cc.visible(label)} </span>`}
      <span class="name peaks">${cc.visible(cc.peaks(latent))}</span>`;
  };
  // A sentence in which “latent 12” is a link.
  part.Sentence = ({ text }) =>
    cc
      .visible(text)
      .split(/(\blatent \d+)/)
      .map((piece, i) => {
        const latent = i % 2 ? Number(piece.slice(7)) : -1;
        return cc.index.row(latent) < 0
          ? piece
          : html`<${part.LatentLink} latent=${latent}>${piece}</${part.LatentLink}>`;
      });
  part.Links = ({ pairs, what }) =>
    pairs && pairs.length
      ? html`<table class="links"><caption class="hidden">
    ${what}</caption><tbody>
    ${pairs.map(
      ([latent, value]) => html`<tr key=${latent}><td class="number">${cc.cell(value, 3)}</td><td>
      <${part.LatentLink} latent=${latent} /></td><td class="wide"><${part.Name} latent=${latent} /></td></tr>`,
    )}
    </tbody></table>`
      : html`<p class="quiet">None known.</p>`;

  // A table of few rows that is sorted by a click on its head: columns are [{title, of: row -> sort value, show: row -> node}].
  part.Sorted = ({ columns, rows, caption, start, most = 200 }) => {
    const [by, setBy] = useState(start || [0, 1]),
      [shown, setShown] = useState(most);
    const value = columns[by[0]].of;
    const sorted = [...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      const unknown = (v) => v === null || v === undefined || Number.isNaN(v);
      if (unknown(x) || unknown(y)) return unknown(x) - unknown(y);
      return by[1] * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
    return html`<div class="scroll"><table class="data"><caption class="hidden">${caption}</caption><thead><tr>
      ${columns.map(
        (column, i) => html`
      <th scope="col" class=${column.number ? "number" : ""}
        aria-sort=${by[0] === i ? (by[1] > 0 ? "ascending" : "descending") : "none"}>
        <button type="button" onClick=${() => setBy(by[0] === i ? [i, -by[1]] : [i, column.number ? -1 : 1])}>
          ${column.title}<span aria-hidden="true">${by[0] === i ? (by[1] > 0 ? " ▴" : " ▾") : ""}</span></button>
          </th>`,
      )}</tr></thead>
      <tbody>${sorted.slice(0, shown).map(
        (row) => html`<tr>
        ${columns.map(
          (column) => html`<td class=${column.number ? "number" : column.wide ? "wide" : ""}>
        ${column.show ? column.show(row) : cc.cell(column.of(row))}</td>`,
        )}</tr>`,
      )}</tbody></table>
      ${
        rows.length > shown &&
        html`<p>
        <button type="button"
          onClick=${() => setShown(shown + most)}>Show ${Math.min(most, rows.length - shown)} more of ${cc.cell(rows.length - shown)}</button></p>`
      }</div>`;
  };
})();
