"use strict";
// The page of the panels alone: which of them is shown, by the address, and light or dark.
(() => {
  window.ccLive.alone = true;
  const main = document.getElementById("main");
  const theme = document.getElementById("theme");
  const show = () => {
    const which = location.hash.startsWith("#/steer") ? "steer" : "try";
    window.ccLive.unmount(main);
    window.ccLive.mount(main, which);
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash === "#/" + which) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  };
  const say = () => { theme.textContent = "theme: " + cc.theme(); };
  theme.addEventListener("click", () => { cc.nextTheme(); say(); });
  window.addEventListener("hashchange", show);
  say();
  show();
  document.documentElement.dataset.ready = "true";
})();
