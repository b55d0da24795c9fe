"use strict";
// How pages show text of others and numbers. Nothing here makes HTML: what it returns is put into text nodes.
var cc = window.cc || {};
window.cc = cc;
(() => {
  const named = (letter) => "[U+" + letter.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + "]";
  const control = (letter) => {
    const code = letter.charCodeAt(0);
    return code < 32 ? String.fromCharCode(0x2400 + code) : code === 127 ? "␡" : named(letter);
  };

  // Text with what cannot be seen made visible: line ends, controls, and marks that turn the direction of writing.
  cc.visible = (text) =>
    String(text)
      .replaceAll("\r\n", "⏎")
      .replaceAll("\n", "⏎")
      .replaceAll("\t", "⇥")
      .replace(/[\u0000-\u001f\u007f-\u009f]/g, control)
      .replace(
        /[\u00ad\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]/gu,
        named,
      );

  // A single token, as a word of its own: spaces at its ends are seen, too.
  cc.word = (text) => (text === "" ? "∅" : cc.visible(text).replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length)));

  // A number, or whatever a cell holds, as pages show it; an unknown one is a dash.
  cc.cell = (value, digits = 4) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value !== "number") return cc.visible(value);
    if (!Number.isFinite(value)) return value < 0 ? "−∞" : "∞";
    if (Number.isInteger(value) && Math.abs(value) < 1e15)
      return value.toLocaleString("en").replaceAll(",", "\u202f").replace("-", "−");
    const size = Math.abs(value);
    const short =
      size >= 1e-4 && size < 1e6 ? String(Number(value.toPrecision(digits))) : value.toExponential(digits - 2);
    return short.replaceAll("-", "−");
  };

  // How a token is coloured, by a share from −1 to 1 of the strongest: its class, and the property --heat of its style.
  cc.heatOf = (share) =>
    Math.abs(share) > 0.02 ? [share > 0 ? "on" : "below", Math.min(1, Math.abs(share)).toFixed(3)] : ["", null];
  cc.heat = (span, share) => {
    const [name, heat] = cc.heatOf(share);
    span.classList.remove("on", "below");
    if (name) span.classList.add(name);
    if (name) span.style.setProperty("--heat", heat);
  };

  // Light, dark, or as the system has it; kept in this browser, for all pages.
  const KEY = "crosscoders:theme",
    THEMES = ["auto", "light", "dark"];
  const root = document.documentElement;
  try {
    root.dataset.theme = localStorage.getItem(KEY) || "auto";
  } catch {
    root.dataset.theme = "auto";
  }
  if (!THEMES.includes(root.dataset.theme)) root.dataset.theme = "auto";
  cc.theme = () => root.dataset.theme;
  cc.nextTheme = () => {
    root.dataset.theme = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % 3];
    try {
      localStorage.setItem(KEY, root.dataset.theme);
    } catch {
      /* nothing is kept, then */
    }
    window.dispatchEvent(new Event("cc-theme"));
    return root.dataset.theme;
  };
  window
    .matchMedia("(prefers-color-scheme: dark)")
    .addEventListener("change", () => window.dispatchEvent(new Event("cc-theme")));

  // A colour of the palette as numbers that a canvas understands.
  cc.colour = (name) => {
    const probe = document.createElement("i");
    probe.style.color = `var(${name})`;
    root.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
})();
