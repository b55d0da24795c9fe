"use strict";
// The two panels of the live mode: latents of a text, and answers with latents changed. The page that shows them calls
// `ccLive.mount(element, "try" | "steer")`; requests go to the server that this script came from.
(() => {
  const where = new URL("../", document.currentScript.src);
  const ask = async (path, body, signal) => {
    const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    let answer;
    try { answer = await fetch(new URL("api/" + path, where), { ...options, signal }); }
    catch (error) { throw error.name === "AbortError" ? error : new Error("The server does not answer. Is `crosscoders serve` still running?"); }
    const found = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(found.error || `The server answered with status ${answer.status}.`);
    return found;
  };
  let known = null;
  const about = () => (known = known || ask("about").catch((error) => { known = null; throw error; }));

  // What is known of a latent in words: the server's explanations, or the label that the dashboard around has of it.
  const named = (facts, latent) => cc.visible(facts.explanations[latent] || (cc.index && cc.label && cc.label(latent)) || "");
  const kept = {};  // What was typed, for when a panel is shown again.
  const number = (text) => (String(text).trim() === "" ? NaN : Number(String(text).replace("−", "-")));

  function panels(pre) {
    const { html, useState, useEffect, useRef } = pre;
    const keep = (name, first) => {
      const [value, set] = useState(name in kept ? kept[name] : first);
      return [value, (next) => { kept[name] = next; set(next); }];
    };

    // One request at a time for each panel: a new one ends the one before, and so does leaving.
    const useRequest = (path, name) => {
      const [state, set] = keep(name, { answer: null, error: "" });
      const [waits, setWaits] = useState(false);
      const running = useRef(null);
      useEffect(() => () => running.current && running.current.abort(), []);
      const stop = () => running.current && running.current.abort();
      const send = async (body) => {
        stop();
        const mine = (running.current = new AbortController());
        setWaits(true);
        try { set({ answer: await ask(path, body, mine.signal), error: "" }); }
        catch (error) { if (error.name !== "AbortError") set({ answer: null, error: error.message }); }
        if (running.current === mine) { running.current = null; setWaits(false); }
      };
      return { ...state, waits, send, stop, refuse: (error) => set({ answer: null, error }) };
    };
    const Status = ({ request, doing }) => html`<p class="live-status" role="status">
      ${request.waits ? html`${doing} <button type="button" onClick=${request.stop}>Stop</button>` : ""}
      ${!request.waits && request.error ? html`<span class="live-error">${request.error}</span>` : ""}</p>`;
    const Choice = ({ label, options, value, onChange }) => html`<fieldset class="live-choice"><legend>${label}</legend>
      ${options.map(([key, text]) => html`<label><input type="radio" checked=${value === key} onChange=${() => onChange(key)} /> ${text}</label>`)}</fieldset>`;
    const Area = ({ id, label, value, onInput, onSend, longest }) => html`<label class="live-label" for=${id}>${label}</label>
      <textarea id=${id} rows="4" maxlength=${longest} value=${value} onInput=${(event) => onInput(event.target.value)}
        onKeyDown=${(event) => { event.stopPropagation(); if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); onSend(); } }}></textarea>`;
    const Latent = ({ number, facts }) => html`${window.ccLive.alone ? html`<span>${number}</span>` : html`<a href=${"#/latent/" + number}>${number}</a>`}
      ${named(facts, number) ? html` <span class="live-quiet">${named(facts, number)}</span>` : ""}`;

    // A row of tokens, coloured from −1 to 1; each can be chosen.
    const Tokens = ({ tokens, shares, values, counted, chosen, onChoose, label }) => html`<p class="context" aria-label=${label}>
      ${tokens.map((text, place) => {
        const share = shares[place];
        const sort = Math.abs(share) > 0.02 ? (share > 0 ? " on" : " below") : "";
        const said = counted[place] ? cc.cell(values[place], 3) : "left out in training, so without latents";
        return html`<span class=${"token live-token" + sort + (place === chosen ? " peak" : "") + (counted[place] ? "" : " live-out")}
          style=${{ "--heat": Math.min(1, Math.abs(share)).toFixed(3) }} title=${said} role="button" tabindex="0"
          aria-pressed=${place === chosen} aria-label=${`${cc.word(text)}: ${said}`} onClick=${() => onChoose(place)}
          onKeyDown=${(event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); event.stopPropagation(); onChoose(place); } }}>${cc.visible(text)}${text.includes("\n") ? "\n" : ""}</span>`;
      })}</p>`;

    // What each model brings, as bars from a common zero; the number stands beside, for those who do not see bars.
    const Parts = ({ parts, reads, largest }) => html`<div class="live-parts">${reads.map((model, place) => {
      const value = parts[model] || 0, width = Math.min(100, 100 * Math.abs(value) / largest);
      return html`<div class="live-part"><span class="live-quiet">${model}</span>
        <svg class=${"live-bar live-model-" + (place % 8)} viewBox="-100 0 200 10" preserveAspectRatio="none" aria-hidden="true"><rect x=${value < 0 ? -width : 0} y="1" width=${width} height="8"/><path d="M0 0v10"/></svg>
        <span class="number">${cc.cell(value, 3)}</span></div>`;
    })}</div>`;

    const ofToken = (answer, place, facts) => {
      const rows = answer.latents[place];
      const largest = Math.max(1e-9, ...rows.flatMap((row) => Object.values(row.parts).map(Math.abs)));
      if (!rows.length) return html`<p class="live-quiet">${answer.counted[place] ? "No latent is active on this token." : "Training leaves this token out, so latents say nothing about it."}</p>`;
      return html`<div class="live-scroll"><table><caption>Strongest latents of “${cc.word(answer.tokens[place])}”</caption>
        <thead><tr><th scope="col">latent</th><th scope="col" class="number">activation</th><th scope="col">what each model brings</th></tr></thead>
        <tbody>${rows.map((row) => html`<tr><td><${Latent} number=${row.latent} facts=${facts} /></td><td class="number">${cc.cell(row.value, 3)}</td>
          <td><${Parts} parts=${row.parts} reads=${facts.reads} largest=${largest} /></td></tr>`)}</tbody></table></div>`;
    };

    function Try({ facts }) {
      const [text, setText] = keep("try-text", "");
      const [form, setForm] = keep("try-form", "text");
      const [latent, setLatent] = keep("try-latent", null);
      const [place, setPlace] = keep("try-place", null);
      const request = useRequest("latents", "try-answer");
      const answer = request.answer;
      const send = () => {
        if (!text.trim()) return request.refuse("Type a text first.");
        setLatent(null);
        setPlace(null);
        request.send(form === "text" ? { text } : { messages: [{ role: "user", content: text }] });
      };
      const chosen = answer && (answer.strongest.find((each) => each.latent === latent) || answer.strongest[0]);
      const peak = chosen ? Math.max(1e-9, ...chosen.values) : 1;
      const part = chosen ? Math.max(1e-9, ...Object.values(chosen.parts).flat().map(Math.abs)) : 1;
      const chats = facts.models.some((model) => model.chats);
      return html`<section class="live" aria-labelledby="live-try">
        <h2 id="live-try">Try a text</h2>
        <p class="live-quiet">Which latents are active on a text of yours, and what each model brings to them.</p>
        <form onSubmit=${(event) => { event.preventDefault(); send(); }}>
          <${Area} id="try-text" label="Text" value=${text} onInput=${setText} onSend=${send} longest=${facts.longest_text} />
          <div class="live-row">
            ${chats ? html`<${Choice} label="Read as" options=${[["text", "plain text"], ["user", "a user's message"]]} value=${form} onChange=${setForm} />` : ""}
            <button type="submit" id="try-send" class="live-main">Show latents</button>
          </div>
        </form>
        <${Status} request=${request} doing="The models are reading …" />
        ${answer && !chosen ? html`<p>No latent is active on this text.</p>` : ""}
        ${answer && chosen ? html`<div class="live-results" id="try-results">
          <div>
            <h3>Latent <${Latent} number=${chosen.latent} facts=${facts} /></h3>
            <${Tokens} label="activation on each token" tokens=${answer.tokens} counted=${answer.counted} values=${chosen.values}
              shares=${chosen.values.map((value) => value / peak)} chosen=${place} onChoose=${setPlace} />
            ${facts.reads.length > 1 ? html`<div class="live-sides">${facts.reads.map((model) => html`<div>
              <h4>what ${model} brings</h4>
              <${Tokens} label=${"what " + model + " brings to it on each token"} tokens=${answer.tokens} counted=${answer.counted} values=${chosen.parts[model]}
                shares=${chosen.parts[model].map((value) => value / part)} chosen=${place} onChoose=${setPlace} /></div>`)}</div>
              <p class="live-quiet">Parts of the pre-activation, orange up and blue down; with the encoder's bias (${cc.cell(answer.bias[chosen.latent], 3)}) they add up to it.</p>` : ""}
            ${place === null ? html`<p class="live-quiet">Choose a token to see its latents.</p>` : ofToken(answer, place, facts)}
          </div>
          <div><h3>Strongest on this text</h3>
            <ol class="live-list">${answer.strongest.map((each) => html`<li><button type="button" aria-pressed=${each === chosen} onClick=${() => setLatent(each.latent)}>
              <span class="live-name">${each.latent}</span>
              <svg class="live-bar live-strength" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label=${"strength " + cc.cell(each.score, 3)}><rect y="1" width=${100 * each.score / answer.strongest[0].score} height="8"/></svg>
              <span class="live-quiet">${named(facts, each.latent) ? named(facts, each.latent) : "on “" + cc.word(answer.tokens[each.values.indexOf(Math.max(...each.values))]) + "”"}</span></button></li>`)}</ol>
            <p class="live-quiet">Strength is the largest activation times the latent's decoder norms. L0 is ${cc.cell(answer.l0, 3)}.</p></div>
        </div>` : ""}
      </section>`;
    }

    const KINDS = [["add", "add"], ["scale", "scale by"], ["clamp", "clamp to"], ["ablate", "ablate"]];
    function Steer({ facts, asked }) {
      const both = facts.before !== facts.after;
      const [text, setText] = keep("steer-text", "");
      const [asItIs, setAsItIs] = keep("steer-as-it-is", false);
      const [what, setWhat] = keep("steer-what", "change");
      const [rows, setRows] = keep("steer-rows", [{ latent: "", kind: "add", value: "5" }]);
      const [alpha, setAlpha] = keep("steer-alpha", "1");
      const [of, setOf] = keep("steer-of", "latents");
      const [only, setOnly] = keep("steer-only", "");
      const [more, setMore] = keep("steer-more", { max_new_tokens: "40", temperature: "0", seed: "0" });
      const request = useRequest("generate", "steer-answer");
      useEffect(() => {
        if (asked !== null) { setWhat("change"); if (!rows.some((row) => row.latent === asked)) setRows([...rows.filter((row) => row.latent !== ""), { latent: asked, kind: "add", value: "5" }]); }
      }, [asked]);
      const change = (place, part) => setRows(rows.map((row, other) => (other === place ? { ...row, ...part } : row)));
      const send = () => {
        if (!text.trim()) return request.refuse("Type a prompt first.");
        const body = { text, as_it_is: asItIs, max_new_tokens: number(more.max_new_tokens), temperature: number(more.temperature), seed: number(more.seed) };
        if (what === "change") {
          body.changes = rows.filter((row) => String(row.latent).trim() !== "").map((row) => (row.kind === "ablate"
            ? { latent: number(row.latent), kind: "ablate" } : { latent: number(row.latent), kind: row.kind, value: number(row.value) }));
          if (!body.changes.length) return request.refuse("Name a latent to change.");
        } else {
          const chosen = only.split(/[\s,;]+/).filter(Boolean).map(number);
          body.amplify = { alpha: number(alpha), of, latents: of === "latents" && chosen.length ? chosen : null };
        }
        request.send(body);
      };
      const name = (key) => facts.models.find((model) => model.key === key)?.name || "";
      return html`<section class="live" aria-labelledby="live-steer">
        <h2 id="live-steer">Steer</h2>
        <p class="live-quiet">What the models answer, and what they answer with latents changed${both ? " or with the difference between them amplified" : ""}.</p>
        <form onSubmit=${(event) => { event.preventDefault(); send(); }}>
          <${Area} id="steer-text" label="Prompt" value=${text} onInput=${setText} onSend=${send} longest=${facts.longest_text} />
          <${Choice} label="Read as" options=${[[false, "a question"], [true, "the beginning of a text"]]} value=${asItIs} onChange=${setAsItIs} />
          ${both ? html`<${Choice} label="Do" options=${[["change", "change latents"], ["amplify", `amplify what ${facts.after} does otherwise than ${facts.before}`]]} value=${what} onChange=${setWhat} />` : ""}
          ${what === "change" ? html`<div class="live-changes" id="steer-changes">
            ${rows.map((row, place) => html`<div class="live-row" key=${place}>
              <label>latent <input inputmode="numeric" size="7" value=${row.latent} onInput=${(event) => change(place, { latent: event.target.value })} onKeyDown=${(event) => event.stopPropagation()} /></label>
              <select aria-label="kind of change" value=${row.kind} onChange=${(event) => change(place, { kind: event.target.value })}>${KINDS.map(([key, said]) => html`<option value=${key} selected=${row.kind === key}>${said}</option>`)}</select>
              ${row.kind === "ablate" ? "" : html`<input aria-label="value" inputmode="decimal" size="6" value=${row.value} onInput=${(event) => change(place, { value: event.target.value })} onKeyDown=${(event) => event.stopPropagation()} />`}
              ${rows.length > 1 ? html`<button type="button" aria-label=${"leave out the change of latent " + row.latent} onClick=${() => setRows(rows.filter((_, other) => other !== place))}>×</button>` : ""}</div>`)}
            <button type="button" onClick=${() => setRows([...rows, { latent: "", kind: "add", value: "5" }])}>Another latent</button></div>`
          : html`<div class="live-row" id="steer-amplify">
              <label>α <input inputmode="decimal" size="5" value=${alpha} onInput=${(event) => setAlpha(event.target.value)} onKeyDown=${(event) => event.stopPropagation()} /></label>
              <select aria-label="what is amplified" onChange=${(event) => setOf(event.target.value)}><option value="latents" selected=${of === "latents"}>of latents</option><option value="logits" selected=${of === "logits"}>of logits</option></select>
              ${of === "latents" ? html`<label>latents <input size="14" placeholder="all" value=${only} onInput=${(event) => setOnly(event.target.value)} onKeyDown=${(event) => event.stopPropagation()} /></label>` : ""}</div>`}
          ${what === "change" ? html`<p class="live-quiet">Values are activations of the latent: Try a text shows how large they are. What is added is added on every token.</p>` : ""}
          <div class="live-row">
            ${[["max_new_tokens", "new tokens"], ["temperature", "temperature"], ["seed", "seed"]].map(([key, said]) => html`<label>${said} <input inputmode="decimal" size="4" value=${more[key]} onInput=${(event) => setMore({ ...more, [key]: event.target.value })} onKeyDown=${(event) => event.stopPropagation()} /></label>`)}
            <button type="submit" id="steer-send" class="live-main">Answer</button></div>
        </form>
        <${Status} request=${request} doing="The models are answering …" />
        ${request.answer ? html`<div class="live-answers" id="steer-results">${request.answer.answers.map((each) => html`<article>
          <h3>${each.model} <span class="live-quiet">${cc.visible(name(each.model))}</span></h3>
          <div class="live-sides"><div><h4>as it is</h4><p class="live-answer">${each.plain === "" ? html`<span class="live-quiet">an empty answer</span>` : each.plain}</p></div>
          ${each.changed !== null ? html`<div><h4>${what === "change" ? "with latents changed" : "amplified"}</h4><p class="live-answer live-changed">${each.changed === "" ? html`<span class="live-quiet">an empty answer</span>` : each.changed}</p>
            ${each.changed === each.plain ? html`<p class="live-quiet">The same answer.</p>` : ""}</div>`
            : each.note ? html`<div><h4>cannot be changed</h4><p class="live-error">${each.note}</p></div>` : ""}</div></article>`)}</div>` : ""}
      </section>`;
    }

    return { try: Try, steer: Steer };
  }

  // The latent in an address such as #/steer?latent=12.
  const askedLatent = () => (/[?&]latent=(\d{1,9})(?:&|$)/.exec(location.hash) || [null, null])[1];

  let made = null;
  window.ccLive = {
    url: where.href,
    alone: false,  // whether there are no pages of latents beside the panels
    async mount(element, which) {
      const pre = window.htmPreact;
      made = made || panels(pre);
      const shown = (element.ccLive = {});
      try {
        const facts = await about();
        if (element.ccLive === shown) pre.render(pre.html`<${made[which]} facts=${facts} asked=${which === "steer" ? askedLatent() : null} />`, element);
      } catch (error) {
        if (element.ccLive === shown) pre.render(pre.html`<p class="live-error" role="alert">${error.message}</p>`, element);
      }
    },
    unmount(element) {
      element.ccLive = null;
      window.htmPreact.render(null, element);
    },
  };
})();
