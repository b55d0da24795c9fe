"use strict";
// Any two columns against each other; a box drawn over points lets only those through, here and in the table.
(() => {
  const { html, useState, useRef, useMemo } = htmPreact;
  const LEFT = 52,
    BOTTOM = 34,
    TOP = 10,
    RIGHT = 12,
    NEAR = 12,
    FEW = 20000;

  function scaleOf(column, pixels, flip) {
    const bins = cc.bins(column, { count: 1 }),
      [low, high] = bins.edges,
      log = bins.log;
    const [from, to] = log ? [Math.log10(low), Math.log10(high)] : [low, high],
      pad = (to - from) * 0.02;
    const of = (value) => {
      const share = ((log ? Math.log10(value) : value) - from + pad) / (to - from + 2 * pad);
      return (flip ? 1 - share : share) * pixels;
    };
    const back = (pixel) => {
      const share = flip ? 1 - pixel / pixels : pixel / pixels,
        value = from - pad + share * (to - from + 2 * pad);
      return log ? 10 ** value : value;
    };
    const ticks = log
      ? Array.from({ length: Math.max(1, Math.floor(to) - Math.ceil(from) + 1) }, (_, i) => 10 ** (Math.ceil(from) + i))
      : Array.from({ length: 5 }, (_, i) => from + ((to - from) * i) / 4);
    return { of, back, ticks: log && ticks.length < 2 ? [low, high] : ticks };
  }

  // The shapes of classes, as in the legend; of very many points each is a square of few pixels.
  function dot(context, at, x, y, size) {
    const r = size / 2,
      shape = at % 4;
    context.beginPath();
    if (shape === 0) context.arc(x, y, r, 0, 7);
    else if (shape === 1) context.rect(x - r, y - r, size, size);
    else if (shape === 2) {
      context.moveTo(x, y - r);
      context.lineTo(x + r, y + r);
      context.lineTo(x - r, y + r);
      context.closePath();
    } else {
      context.moveTo(x, y - r - 1);
      context.lineTo(x + r + 1, y);
      context.lineTo(x, y + r + 1);
      context.lineTo(x - r - 1, y);
      context.closePath();
    }
    if (at % 8 < 4) context.fill();
    else context.stroke();
  }

  cc.Scatter = ({ query }) => {
    const numbers = [...cc.index.columns.values()].filter((column) => column.kind !== "class");
    const classes = [...cc.index.columns.values()].filter((column) => column.kind === "class");
    const [ref, width] = cc.useWidth(800);
    const [drag, setDrag] = useState(null),
      [hover, setHover] = useState(null),
      open = useRef(null);
    cc.useEvents("cc-marks");
    if (numbers.length < 2)
      return html`<div class="page"><h1>Scatter</h1>
      <p>A scatter needs two columns of numbers; this dashboard has ${numbers.length}.</p></div>`;
    const at = (name, fallback) => numbers.find((column) => column.key === query.get(name)) || fallback;
    const share =
      numbers.find((column) => column.key === "tuned_share") ||
      numbers.findLast((column) => column.key.startsWith("norm_share_")) ||
      numbers[1];
    const x = at("x", share),
      y = at(
        "y",
        numbers.find((column) => column.key !== x.key),
      );
    const colour =
      query.get("colour") === "none"
        ? null
        : classes.find((column) => column.key === query.get("colour")) ||
          classes.find((column) => column.key === "verdict") ||
          classes[0];
    const height = Math.max(280, Math.min(560, Math.round(width * 0.62)));
    const plot = { wide: width - LEFT - RIGHT, tall: height - TOP - BOTTOM };
    const sx = scaleOf(x, plot.wide, false),
      sy = scaleOf(y, plot.tall, true);
    // Where each latent is, in pixels; NaN where it has no place.
    const [px, py, undrawn] = useMemo(() => {
      const px = new Float32Array(cc.index.rows),
        py = new Float32Array(cc.index.rows);
      let undrawn = 0;
      for (let row = 0; row < px.length; row++) {
        px[row] = sx.of(x.values[row]);
        py[row] = sy.of(y.values[row]);
        if (!Number.isFinite(px[row]) || !Number.isFinite(py[row])) {
          px[row] = NaN;
          undrawn++;
        }
      }
      return [px, py, undrawn];
    }, [x, y, plot.wide, plot.tall]);
    const rest = cc.copy(query);
    rest.delete(x.key);
    rest.delete(y.key);
    const rows = cc.select(query),
      some = cc.filtered(query);
    const change = (edit) => {
      const copy = cc.copy(query);
      edit(copy);
      cc.replace(cc.link("scatter", copy));
    };
    const box =
      cc.range(query, x.key) || cc.range(query, y.key)
        ? { x: cc.range(query, x.key) || { low: NaN, high: NaN }, y: cc.range(query, y.key) || { low: NaN, high: NaN } }
        : null;
    cc.enter(query, "scatter");

    const draw = (context, wide, tall) => {
      context.clearRect(0, 0, wide, tall);
      context.font = "11px system-ui, sans-serif";
      const ink = cc.colour("--quiet"),
        line = cc.colour("--line");
      context.strokeStyle = line;
      context.fillStyle = ink;
      for (const tick of sx.ticks) {
        const p = LEFT + sx.of(tick);
        context.beginPath();
        context.moveTo(p, TOP);
        context.lineTo(p, tall - BOTTOM);
        context.stroke();
        context.textAlign = "center";
        context.fillText(cc.cell(tick, 3), Math.min(wide - 14, p), tall - BOTTOM + 14);
      }
      for (const tick of sy.ticks) {
        const p = TOP + sy.of(tick);
        context.beginPath();
        context.moveTo(LEFT, p);
        context.lineTo(wide - RIGHT, p);
        context.stroke();
        context.textAlign = "right";
        context.fillText(cc.cell(tick, 3), LEFT - 5, p + 4);
      }
      const palette = Array.from({ length: 8 }, (_, i) => cc.colour(cc.classColour(i))),
        few = cc.index.rows <= FEW,
        size = few ? (cc.index.rows > 3000 || width < 500 ? 4 : 6) : 2;
      const chosen = new Uint8Array(cc.index.rows);
      for (const row of rows) chosen[row] = 1;
      for (const pass of some ? [0, 1] : [1]) {
        context.globalAlpha = pass ? (cc.index.rows > 20000 ? 0.5 : 0.75) : 0.16;
        if (!pass) context.fillStyle = ink;
        for (let c = 0; c < (pass && colour ? colour.classes.length + 1 : 1); c++) {
          if (pass)
            context.fillStyle = context.strokeStyle = colour
              ? c < colour.classes.length
                ? palette[c % 8]
                : ink
              : palette[0];
          for (let row = 0; row < cc.index.rows; row++) {
            if (chosen[row] !== pass || (pass && colour && Math.min(colour.values[row], colour.classes.length) !== c))
              continue;
            if (Number.isNaN(px[row])) continue;
            if (pass && colour && few) dot(context, c, LEFT + px[row], TOP + py[row], size);
            else context.fillRect(LEFT + px[row] - size / 2, TOP + py[row] - size / 2, size, size);
          }
        }
      }
      context.globalAlpha = 1;
    };
    const place = (event) => {
      const r = event.currentTarget.getBoundingClientRect();
      return [
        Math.max(0, Math.min(plot.wide, event.clientX - r.left - LEFT)),
        Math.max(0, Math.min(plot.tall, event.clientY - r.top - TOP)),
      ];
    };
    const nearest = ([atX, atY]) => {
      let best = -1,
        least = NEAR * NEAR;
      for (const row of rows) {
        const dx = px[row] - atX,
          dy = py[row] - atY,
          distance = dx * dx + dy * dy;
        if (distance < least) {
          least = distance;
          best = row;
        }
      }
      return best;
    };
    const down = (event) => {
      event.currentTarget.setPointerCapture(event.pointerId);
      open.current = place(event);
    };
    const moved = (event) => {
      const p = place(event);
      if (open.current) setDrag([open.current, p]);
      else {
        const row = nearest(p);
        setHover(row < 0 ? null : { row, x: p[0], y: p[1] });
      }
    };
    const up = (event) => {
      const from = open.current,
        to = place(event);
      open.current = null;
      setDrag(null);
      if (!from) return;
      if (Math.abs(from[0] - to[0]) < 4 && Math.abs(from[1] - to[1]) < 4) {
        const row = nearest(to);
        if (row >= 0) cc.go("#/latent/" + cc.index.latent(row));
        return;
      }
      change((copy) => {
        cc.setRange(copy, x.key, sx.back(Math.min(from[0], to[0])), sx.back(Math.max(from[0], to[0])));
        cc.setRange(copy, y.key, sy.back(Math.max(from[1], to[1])), sy.back(Math.min(from[1], to[1])));
      });
    };
    const bounded = (scale, value, end) => (Number.isFinite(value) ? scale.of(value) : end);
    const shape = drag
      ? {
          x: Math.min(drag[0][0], drag[1][0]),
          y: Math.min(drag[0][1], drag[1][1]),
          w: Math.abs(drag[0][0] - drag[1][0]),
          h: Math.abs(drag[0][1] - drag[1][1]),
        }
      : box &&
        (() => {
          const x1 = bounded(sx, box.x.low, 0),
            x2 = bounded(sx, box.x.high, plot.wide),
            y1 = bounded(sy, box.y.high, 0),
            y2 = bounded(sy, box.y.low, plot.tall);
          return { x: x1, y: y1, w: x2 - x1, h: y2 - y1 };
        })();
    const pick = (name, value, from, none) => html`<label>
      ${name} <select value=${value}
        onChange=${(event) =>
          change((copy) => {
            if (name !== "Colour") {
              copy.delete(x.key);
              copy.delete(y.key);
            }
            copy.set(name.toLowerCase(), event.target.value);
          })}>${none && html`<option value="none">none</option>`}${from.map((column) => html`<option value=${column.key}>${cc.visible(column.title)}</option>`)}</select></label>`;
    const bound = (column, end) => {
      const range = cc.range(query, column.key) || { low: NaN, high: NaN };
      return html`<input type="number" step="any" placeholder=${end === "low" ? "from" : "to"}
      aria-label=${cc.visible(column.title) + (end === "low" ? ", at least" : ", at most")} value=${Number.isNaN(range[end]) ? "" : range[end]} onChange=${(
        event,
      ) =>
        change((copy) => {
          const next = { ...range, [end]: event.target.value.trim() === "" ? NaN : Number(event.target.value) };
          cc.setRange(copy, column.key, next.low, next.high);
        })} />`;
    };
    const listed = Array.from(rows.subarray(0, 50));
    return html`<div class="page"><h1 class="hidden">Scatter</h1>
      <div class="bar">
        ${pick("X", x.key, numbers)}${pick("Y", y.key, numbers)}${classes.length > 0 && pick("Colour", colour ? colour.key : "none", classes, true)}
        <span class="count"><strong>${cc.cell(rows.length)}</strong>
          ${rows.length < cc.index.rows ? ` of ${cc.cell(cc.index.rows)}` : " latents"}</span></div>
      <div class="bar"><${cc.part.Asked} query=${query} /></div>
      <div class="plot drawn" ref=${ref}>
        <${cc.chart.Canvas} width=${width} height=${height} draw=${draw} keys=${[x, y, colour, rows]}
          label=${`Scatter of ${cc.index.rows} latents, ${cc.visible(x.title)} against ${cc.visible(y.title)}; ${rows.length} chosen. The fields below choose by number.`}
          onPointerDown=${down} onPointerMove=${moved} onPointerUp=${up} onPointerLeave=${() => setHover(null)} />
        <span class="x-title">${cc.visible(x.title)}</span><span class="y-title">${cc.visible(y.title)}</span>
        ${
          shape &&
          html`<i class="brush"
          style=${{ left: LEFT + shape.x + "px", top: TOP + shape.y + "px", width: Math.max(0, shape.w) + "px", height: Math.max(0, shape.h) + "px" }}></i>`
        }
        ${
          hover &&
          html`<div class="tip"
          style=${{ left: Math.min(width - 190, LEFT + hover.x + 12) + "px", top: TOP + hover.y + 14 + "px" }}><strong>
          ${cc.index.latent(hover.row)}</strong> <${cc.part.Name} latent=${cc.index.latent(hover.row)} /><br />
          ${cc.cell(x.values[hover.row], 3)} · ${cc.cell(y.values[hover.row], 3)}${
            colour && html` · <${cc.part.Class} column=${colour} at=${colour.values[hover.row]} />`
          }</div>`
        }
      </div>
      ${
        colour &&
        html`<p class="legend">
        ${colour.classes.map((_, i) => html`<${cc.part.Class} column=${colour} at=${i} /> `)}</p>`
      }
      <p class="note">Draw a box over points to choose them; a click opens the nearest one. By number: ${cc.visible(x.title)} ${bound(x, "low")} to ${bound(x, "high")}, ${cc.visible(y.title)} ${bound(y, "low")} to ${bound(y, "high")}.${undrawn > 0 && ` ${cc.cell(undrawn)} latents have no place here: a number is not known, or not above 0 on a logarithmic scale.`}</p>
      <h2>${some ? "Chosen" : "All"}</h2>
      <p><a href=${cc.link("table", cc.filterOf(query))}>Show ${cc.cell(rows.length)} in the table</a>
        ${box && html` · <a href=${cc.link("scatter", rest)}>without the box</a>`}</p>
      <table class="links"><tbody>${listed.map(
        (row) => html`<tr key=${row}><td>
        <${cc.part.LatentLink} latent=${cc.index.latent(row)} /></td><td class="wide">
        <${cc.part.Name} latent=${cc.index.latent(row)} /></td><td class="number">${cc.cell(x.values[row], 3)}</td>
        <td class="number">${cc.cell(y.values[row], 3)}</td></tr>`,
      )}</tbody></table>
    </div>`;
  };
})();
