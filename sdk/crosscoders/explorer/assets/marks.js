"use strict";
// Stars and notes of the reader, kept in this browser and taken along as JSON.
(() => {
  let stars = new Set(),
    notes = new Map(),
    version = 0,
    key = null;
  const changed = () => {
    version++;
    try {
      localStorage.setItem(key, JSON.stringify(plain()));
    } catch {
      /* storage may be off: then marks last as long as the page */
    }
    window.dispatchEvent(new Event("cc-marks"));
  };
  const plain = () => ({ stars: [...stars].sort((a, b) => a - b), notes: Object.fromEntries(notes) });
  const isLatent = (value) => Number.isInteger(value) && value >= 0 && value < cc.facts.num_latents;
  function take(data) {
    if (
      !data ||
      typeof data !== "object" ||
      !Array.isArray(data.stars) ||
      !data.notes ||
      typeof data.notes !== "object"
    )
      throw new Error("it has no “stars” and “notes”");
    const wrong = [...data.stars, ...Object.keys(data.notes).map(Number)].find((latent) => !isLatent(latent));
    if (wrong !== undefined) throw new Error(`there is no latent ${cc.visible(wrong)} here`);
    if (Object.values(data.notes).some((note) => typeof note !== "string"))
      throw new Error("its notes are not all text");
    return [data.stars, Object.entries(data.notes).map(([latent, note]) => [Number(latent), note])];
  }
  const read = () => {
    try {
      const [someStars, someNotes] = take(JSON.parse(localStorage.getItem(key)) || { stars: [], notes: {} });
      stars = new Set(someStars);
      notes = new Map(someNotes);
    } catch {
      /* nothing kept, or by something else */
    }
  };
  cc.marks = {
    open() {
      // What the page writes in another tab is taken over, since the next mark here would undo it.
      window.addEventListener("storage", (event) => {
        if (event.key !== key) return;
        read();
        version++;
        window.dispatchEvent(new Event("cc-marks"));
      });
      key = `crosscoders:marks:${cc.facts.key || [cc.facts.name, cc.facts.num_latents, cc.facts.num_tokens].join("/")}`;
      read();
    },
    version: () => version,
    starred: (latent) => stars.has(latent),
    note: (latent) => notes.get(latent) || "",
    anyNotes: () => notes.size > 0,
    counts: () => ({ stars: stars.size, notes: notes.size }),
    star(latent) {
      if (!stars.delete(latent)) stars.add(latent);
      changed();
      return stars.has(latent);
    },
    write(latent, text) {
      if (text.trim()) notes.set(latent, text);
      else notes.delete(latent);
      changed();
    },
    export() {
      cc.give(
        JSON.stringify(
          { kind: "crosscoders notes", name: cc.facts.name, num_latents: cc.facts.num_latents, ...plain() },
          null,
          1,
        ),
        "application/json",
        "notes.json",
      );
    },
    // Adds to what is there; a note that differs is appended, so that nothing is lost. Returns a sentence.
    import(text) {
      let added;
      try {
        added = take(JSON.parse(text));
      } catch (error) {
        throw new Error(
          `This file is not a file of notes for this dashboard: ${error instanceof SyntaxError ? "it is not JSON" : error.message}. Nothing was changed.`,
        );
      }
      for (const latent of added[0]) stars.add(latent);
      for (const [latent, note] of added[1]) {
        const old = notes.get(latent);
        notes.set(latent, !old || note.includes(old) ? note : old.includes(note) ? old : old + "\n" + note);
      }
      changed();
      return `${added[0].length} stars and ${added[1].length} notes were added.`;
    },
  };
  cc.give = (content, type, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
})();
