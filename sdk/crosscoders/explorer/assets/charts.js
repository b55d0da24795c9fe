"use strict";
// Drawings: histograms and curves as SVG, many points and heat maps on a canvas.
(() => {
  const { html, useEffect, useRef } = htmPreact;
  const chart = (cc.chart = {});

  // -- bins of a column ------------------------------------------------------------------------------------------
  // {edges, counts, zeros, unknown, stacks}: on a log scale, what is not positive is counted by itself. With `by`, a
  // column of classes, each bin's counts by class are in stacks.
  const counted = new Map();
  cc.bins = (column, { count = 40, by = null } = {}) => {
    const key = `${column.key} ${count} ${by ? by.key : ""}`;
    if (!counted.has(key)) counted.set(key, binned(column, count, by));
    return counted.get(key);
  };
  function binned(column, count, by) {
    const { values } = column,
      log = column.scale === "log";
    let low = Infinity,
      high = -Infinity,
      zeros = 0,
      unknown = 0;
    for (let row = 0; row < values.length; row++) {
      const value = values[row];
      if (!Number.isFinite(value) || (log && value <= 0)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (column.kind === "share" && !log) {
      low = Math.min(0, low);
      high = Math.max(1, high);
    }
    if (low > high) [low, high] = log ? [0.1, 1] : [0, 1];
    if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
    const [from, to] = log ? [Math.log10(low), Math.log10(high)] : [low, high];
    const edges = Array.from({ length: count + 1 }, (_, i) => {
      const x = from + ((to - from) * i) / count;
      return log ? 10 ** x : x;
    });
    const classes = by ? by.classes.length + 1 : 0;
    const counts = new Uint32Array(count),
      stacks = by ? Array.from({ length: classes }, () => new Uint32Array(count)) : null;
    for (let row = 0; row < values.length; row++) {
      const value = values[row];
      if (!Number.isFinite(value)) {
        unknown++;
        continue;
      }
      if (log && value <= 0) {
        zeros++;
        continue;
      }
      const bin = Math.max(
        0,
        Math.min(count - 1, Math.floor((((log ? Math.log10(value) : value) - from) / (to - from)) * count)),
      );
      counts[bin]++;
      if (stacks) stacks[Math.min(by.values[row], classes - 1)][bin]++;
    }
    return { edges, counts, zeros, unknown, stacks, log };
  }

  // -- histogram -------------------------------------------------------------------------------------------------
  // Heights are on a log scale where `tall` counts differ much; a bar may be clicked, or reached by Tab, if pick is given.
  chart.Histogram = ({
    edges,
    counts,
    stacks,
    log,
    label,
    title,
    pick,
    height = 110,
    chosen = null,
    colour = "--c0",
  }) => {
    const [ref, width] = cc.useWidth(280);
    const left = 4,
      bottom = 18,
      top = height > 60 ? 16 : 4,
      room = height - bottom - top,
      step = (width - 2 * left) / counts.length;
    const most = Math.max(1, ...counts),
      filled = Array.from(counts)
        .filter(Boolean)
        .sort((a, b) => a - b),
      tall = most > 40 * (filled[filled.length >> 1] || 1);
    const tallness = (count) =>
      (count <= 0 ? 0 : tall ? Math.log(1 + count) / Math.log(1 + most) : count / most) * room;
    const inside = (i) =>
      !chosen ||
      ((Number.isNaN(chosen.low) || edges[i + 1] > chosen.low) &&
        (Number.isNaN(chosen.high) || edges[i] < chosen.high));
    const between = (i) => `${cc.cell(edges[i], 3)} to ${cc.cell(edges[i + 1], 3)}: ${cc.cell(counts[i])}`;
    const ticks = [0, Math.floor(counts.length / 2), counts.length];
    const bars = Array.from(counts, (count, i) => {
      const tallest = tallness(count),
        x = left + i * step,
        wide = Math.max(1, step - 1);
      let y = height - bottom;
      const drawn = stacks
        ? stacks.map((stack, c) => {
            const part = count ? (tallest * stack[i]) / count : 0;
            y -= part;
            return (
              part > 0 &&
              html`<rect x=${x} y=${y} width=${wide} height=${part} style=${{ fill: `var(${c < stacks.length - 1 ? cc.classColour(c) : "--strong"})` }} />`
            );
          })
        : count > 0 &&
          html`<rect x=${x} y=${y - Math.max(1, tallest)} width=${wide} height=${Math.max(1, tallest)}
          style=${{ fill: `var(${colour})` }} />`;
      return html`<g class=${"bar" + (inside(i) ? "" : " out")} role=${pick ? "button" : undefined}
        tabindex=${pick && count ? 0 : undefined} aria-label=${pick && count ? between(i) : undefined}
        onClick=${pick && count ? () => pick(edges[i], edges[i + 1]) : undefined}
          onKeyDown=${
            pick && count
              ? (event) => {
                  if (event.key === "Enter") pick(edges[i], edges[i + 1]);
                }
              : undefined
          }>
        <title>${between(i)}</title><rect class="reach" x=${x} y=${top} width=${step} height=${room} />${drawn}</g>`;
    });
    return html`<figure class="chart" ref=${ref}>${title && html`<figcaption>${title}</figcaption>`}
      <svg width=${width} height=${height} role=${pick ? "group" : "img"}
        aria-label=${label + (tall ? "; heights on a logarithmic scale" : "")}>
      ${bars}<line class="axis" x1=${left} x2=${width - left} y1=${height - bottom + 0.5} y2=${height - bottom + 0.5} />
      ${ticks.map(
        (t) => html`<text x=${left + t * step}
        y=${height - 4} text-anchor=${t === 0 ? "start" : t === counts.length ? "end" : "middle"}>
        ${cc.cell(edges[t], 3)}</text>`,
      )}
      ${
        height > 60 &&
        html`<text class="most" x=${width - left} y=${10} text-anchor="end">
        ${cc.cell(most)}${tall ? " (log)" : ""}</text>`
      }</svg></figure>`;
  };

  // -- a canvas of the size of its box, sharp on every screen ----------------------------------------------------
  chart.Canvas = ({ width, height, draw, keys, label, role = "img", ...more }) => {
    const ref = useRef(null),
      theme = cc.useEvents("cc-theme");
    useEffect(() => {
      const canvas = ref.current,
        ratio = Math.min(2, window.devicePixelRatio || 1);
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      const context = canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      draw(context, width, height);
    }, [width, height, theme, ...keys]);
    return html`<canvas ref=${ref} style=${{ width: width + "px", height: height + "px" }} role=${role}
      aria-label=${label} ...${more}></canvas>`;
  };

  // -- curves ----------------------------------------------------------------------------------------------------
  // lines are [{latent, values, at (colour)}] over labels; the one that is `lit` stands out.
  chart.Curves = ({ labels, lines, lit, light, label, height = 260 }) => {
    const [ref, width] = cc.useWidth(600);
    const left = 30,
      right = 8,
      top = 8,
      bottom = 24;
    const x = (i) => left + ((width - left - right) * i) / Math.max(1, labels.length - 1),
      y = (value) => top + (height - top - bottom) * (1 - value);
    const every = Math.max(1, Math.ceil(labels.length / Math.max(2, Math.floor(width / 90))));
    return html`<figure class="chart" ref=${ref}><svg width=${width} height=${height} role="img" aria-label=${label}>
      ${[0, 0.5, 1].map(
        (value) => html`<line
        class="rule" x1=${left} x2=${width - right} y1=${y(value)} y2=${y(value)} /><text x=${left - 5}
        y=${y(value) + 4} text-anchor="end">${value}</text>`,
      )}
      ${labels.map(
        (text, i) =>
          i % every === 0 &&
          html`<text x=${x(i)}
        y=${height - 6} text-anchor=${i === 0 ? "start" : i === labels.length - 1 ? "end" : "middle"}>
        ${cc.visible(text)}</text>`,
      )}
      ${[...lines]
        .sort((a, b) => (a.latent === lit) - (b.latent === lit))
        .map(
          (line) => html`<path key=${line.latent}
        class=${"curve" + (line.latent === lit ? " lit" : "")} style=${{ stroke: `var(${cc.classColour(line.at)})` }}
        d=${"M" + line.values.map((value, i) => x(i).toFixed(1) + " " + y(value).toFixed(1)).join("L")}
        onMouseEnter=${() => light(line.latent)} onClick=${() => cc.go("#/latent/" + line.latent)}>
          <title>latent ${line.latent}</title></path>`,
        )}</svg></figure>`;
  };

  // A scale of a canvas: cividis, dark to light, which prints and which the colour-blind see as others do.
  const STOPS = [
    [0, 32, 76],
    [0, 57, 110],
    [59, 77, 107],
    [96, 96, 110],
    [124, 123, 120],
    [156, 152, 118],
    [189, 178, 106],
    [225, 206, 85],
    [255, 234, 70],
  ];
  cc.cividis = (share) => {
    const place = Math.max(0, Math.min(1, share)) * (STOPS.length - 1),
      at = Math.min(STOPS.length - 2, Math.floor(place)),
      rest = place - at;
    return STOPS[at].map((low, i) => Math.round(low + (STOPS[at + 1][i] - low) * rest));
  };
})();
