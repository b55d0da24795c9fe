"use strict";
// Where a latent is active: the strongest places and some of each interval, with coloured tokens.
(() => {
  const { html, useState, useRef } = htmPreact;
  const modelName = (key) => cc.visible((cc.facts.models.find((model) => model.key === key) || { key }).key);

  // One context. `values` colour it, relative to `peak`; arrow keys go from token to token once it has the focus.
  function Context({ example, values, peak, about, show }) {
    const ref = useRef(null);
    const place = useRef(-1);
    const go = (i) => {
      place.current = i;
      const span = ref.current.children[i];
      if (span) show(span, example, i);
    };
    const key = (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      go(Math.max(0, Math.min(values.length - 1, place.current + step)));
    };
    const at = (event) => {
      const span = event.target.closest(".token");
      if (span) go([...ref.current.children].indexOf(span));
    };
    return html`<p class="context" ref=${ref} tabindex="0" role="group" aria-label=${about} onKeyDown=${key}
      onPointerOver=${at} onFocus=${() => go(example.peak)} onBlur=${() => show(null)}
      onPointerLeave=${() => show(null)}>${example.ids.map((id, i) => {
        const [name, heat] = cc.heatOf(values[i] / peak);
        const style = heat ? { "--heat": heat } : undefined;
        return html`<span class=${`token ${name}${i === example.peak ? " peak" : ""}`} style=${style}>
          ${cc.visible(cc.tokenText(id))}</span>`;
      })}</p>`;
  }

  function Example({ example, times, peak, sides, show }) {
    const models = sides ? Object.keys(example.shares) : [];
    const where = `sequence ${cc.cell(example.sequence)}, from token ${cc.cell(example.start)}`;
    const about = `Active up to ${cc.cell(example.max, 3)} at “${cc.word(cc.tokenText(example.ids[example.peak]))}”, ${where}`;
    const largest = Math.max(1e-12, ...models.flatMap((model) => example.shares[model].map(Math.abs)));
    return html`<div class="example"><span class="strength" title=${where}>${cc.cell(example.max, 3)}
      ${times > 1 && html`<span class="times" title=${`the same text in ${times} sequences`}> ×${times}</span>`}</span>
      ${
        models.length > 1
          ? html`<div class="sides">${models.map(
              (model) => html`<div key=${model}><span class="quiet">
        ${modelName(model)}</span>
        <${Context} example=${example} values=${example.shares[model]} peak=${largest} about=${`Part of ${modelName(model)}. ${about}`} show=${show} /></div>`,
            )}</div>`
          : html`<${Context} example=${example} values=${example.values} peak=${peak} about=${about} show=${show} />`
      }</div>`;
  }

  // Examples with the same text are shown once, and how often they are there.
  function List({ packed, peak, sides, show, most = Infinity }) {
    const [all, setAll] = useState(false);
    const { value: found } = cc.useLoaded(() => Promise.allSettled(packed.map(cc.example)), [packed]);
    if (!found) return html`<${cc.part.Waiting} />`;
    const groups = new Map();
    for (const { value: example } of found) {
      if (!example) continue;
      const key = [example.peak, ...example.ids].join();
      if (groups.has(key)) groups.get(key).times++;
      else groups.set(key, { example, times: 1, key });
    }
    const failed = found.filter((one) => one.reason),
      list = [...groups.values()];
    return html`${list
      .slice(0, all ? Infinity : most)
      .map(
        ({ example, times, key }) =>
          html`<${Example} key=${key} example=${example} times=${times} peak=${peak} sides=${sides} show=${show} />`,
      )}
      ${
        list.length > most &&
        html`<p><button type="button" onClick=${() => setAll(!all)}>
        ${all ? "Fewer" : `${list.length - most} more`}</button></p>`
      }
      ${
        failed.length > 0 &&
        html`<${cc.part.Problem} error=${failed[0].reason} what=${`${failed.length} examples cannot be shown.`} />`
      }`;
  }

  cc.part.Examples = ({ latent }) => {
    const [view, setView] = useState("top"),
      [sides, setSides] = useState(false);
    const tip = useRef(null);
    const top = latent.top || [],
      ranges = (latent.ranges || []).filter((part) => part.share > 0 || (part.examples || []).length);
    const vocabulary = cc.useLoaded(() => cc.vocabulary(), []);
    const peak = Math.max(1e-12, ...top.map((one) => one[4] || 0));
    const both = (view === "top" ? top : ranges.flatMap((part) => part.examples || [])).some(
      (one) => one[6] && Object.keys(one[6]).length > 1,
    );
    const show = (span, example, i) => {
      const box = tip.current;
      if (!box) return;
      box.hidden = !span;
      if (!span) return;
      const parts = Object.entries(example.shares)
        .map(([model, values]) => `${modelName(model)} ${cc.cell(values[i], 3)}`)
        .join(" · ");
      box.textContent = `${cc.word(cc.tokenText(example.ids[i]))}   ${cc.cell(example.values[i], 3)}${parts ? "   " + parts : ""}`;
      const rect = span.getBoundingClientRect();
      box.style.left = Math.max(4, Math.min(window.innerWidth - box.offsetWidth - 4, rect.left)) + "px";
      box.style.top =
        rect.bottom + 4 + box.offsetHeight > window.innerHeight
          ? rect.top - box.offsetHeight - 4 + "px"
          : rect.bottom + 4 + "px";
      if (span.parentNode === document.activeElement) cc.say(box.textContent);
    };
    if (vocabulary.error)
      return html`<${cc.part.Problem} error=${vocabulary.error} what="The text of examples cannot be shown." />`;
    if (!vocabulary.value) return html`<${cc.part.Waiting} />`;
    const list = (packed, most) =>
      html`<${List} key=${view} packed=${packed} peak=${peak} sides=${sides && both} show=${show} most=${most} />`;
    const tab = (name, text) => html`<button type="button" aria-pressed=${view === name} onClick=${() => setView(name)}>
      ${text}</button>`;
    return html`<section class="examples"><div class="bar"><h2>Where it is active</h2>
      <span class="tabs" role="group" aria-label="Which examples">
      ${tab("top", "Strongest")}${tab("ranges", "By interval")}</span>
        ${
          both &&
          html`<label>
          <input type="checkbox" id="sides" checked=${sides}
            onChange=${() => setSides(!sides)} /> both models side by side</label>`
        }</div>
      ${
        sides &&
        both &&
        html`<p
        class="note">Colours: what each model brings to the latent's pre-activation on each token; orange and a line below raise it, blue and a line above lower it. Both are on one scale.</p>`
      }
      ${
        view === "top"
          ? top.length
            ? list(top, 10)
            : html`<p class="quiet">It is active nowhere in the text that examples come from.</p>`
          : html`<p class="note">${cc.visible(cc.facts.intervals || "")}</p>
          ${
            ranges.length
              ? [...ranges].reverse().map(
                  (part) => html`<section class="interval" key=${part.low}><h3>
          ${cc.cell(part.low, 3)} to ${cc.cell(part.high, 3)} <span class="quiet">
          ${cc.cell(100 * part.share, 3)} % of where it is active</span></h3>
          ${list(part.examples || [])}</section>`,
                )
              : html`<p
            class="quiet">It is active nowhere in the text that examples come from.</p>`
          }`
      }
      <div class="tip fixed" ref=${tip} hidden role="tooltip"></div></section>`;
  };
})();
