"use strict";
// What a reader did on a page, kept in this browser.
var cc = window.cc || {};
window.cc = cc;
(() => {
  // Takes into `kept` what is stored under a key, and returns a function that stores it, at once: whoever leaves the page
  // right after a change finds it again. What the same page stores in another tab is taken over as soon as it is there,
  // since the next change here would undo it; `taken` is called then.
  cc.kept = (key, kept, taken) => {
    const take = (text) => { try { Object.assign(kept, JSON.parse(text)); } catch { /* stored by something else */ } };
    try { take(localStorage.getItem(key)); } catch { /* storage may be off: then nothing is kept */ }
    window.addEventListener("storage", (event) => { if (event.key === key && event.newValue) { take(event.newValue); taken(); } });
    return () => { try { localStorage.setItem(key, JSON.stringify(kept)); } catch { /* storage may be off or full */ } };
  };
})();
