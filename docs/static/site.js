// Search in the pages of this site, and copy buttons. Nothing leaves the site's own origin; nothing is stored.
"use strict";

(() => {
  const dialog = document.getElementById("site-search");
  const words = dialog.dataset;
  const input = dialog.querySelector("input");
  const status = dialog.querySelector(".search-status");
  const list = dialog.querySelector(".search-results");
  const MOST = 20;
  let engine = null;

  const load = () => (engine ??= import(new URL(`${words.root}pagefind/pagefind.js`, document.baseURI)));

  const WIDE = /[\u2e80-\u9fff\uf900-\ufaff]+/g;

  /** Chinese has no spaces: each run of it is a phrase of characters, as the index has them; the rest are words. */
  const questions = (text) => {
    const phrases = (text.match(WIDE) ?? []).map((run) => `"${[...run].join(" ")}"`);
    const rest = text.replace(WIDE, " ").trim();
    return rest ? [rest, ...phrases] : phrases;
  };

  /** Pages that answer every question, the best first. */
  const find = async (pagefind, text) => {
    const answers = await Promise.all(questions(text).map((question) => pagefind.search(question)));
    const scores = answers.map(({ results }) => new Map(results.map((result) => [result.id, result.score])));
    const total = (result) => scores.reduce((sum, score) => sum + score.get(result.id), 0);
    return answers.at(-1).results
      .filter((result) => scores.every((score) => score.has(result.id)))
      .sort((one, other) => total(other) - total(one));
  };

  /** Without the index's invisible spaces, and a heading's mark. */
  const visible = (text) => text.replaceAll("\u200b", "").replace(/#$/, "");

  const show = async () => {
    const wanted = input.value.trim();
    if (!wanted) return list.replaceChildren(), void (status.textContent = "");
    let found;
    try {
      found = await find(await load(), wanted);
    } catch {
      status.textContent = words.offline; // opened from disk: browsers load no modules there
      return;
    }
    if (input.value.trim() !== wanted) return; // typed on meanwhile
    const pages = await Promise.all(found.slice(0, MOST).map((result) => result.data()));
    if (input.value.trim() !== wanted) return;
    list.replaceChildren(...pages.map((page) => {
      const best = page.sub_results?.[0] ?? page;
      const link = Object.assign(document.createElement("a"), { href: best.url });
      const title = Object.assign(document.createElement("strong"), { textContent: visible(page.meta.title) });
      const excerpt = Object.assign(document.createElement("span"), { innerHTML: visible(best.excerpt) }); // Pagefind escapes; only <mark> is markup
      link.append(title, excerpt);
      const item = document.createElement("li");
      item.append(link);
      return item;
    }));
    status.textContent = found.length ? words.found.replace("{count}", found.length) : words.none;
  };

  let waiting;
  input.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(show, 150); });
  dialog.querySelector("form").addEventListener("submit", (event) => {
    const first = list.querySelector("a");
    if (event.submitter === null || document.activeElement === input) {
      event.preventDefault(); // Enter in the field: to the first result
      if (first) first.click();
    }
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const stops = [input, ...list.querySelectorAll("a")];
    const next = stops[stops.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1)];
    if (next) { event.preventDefault(); next.focus(); }
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  const open = () => { if (!dialog.open) dialog.showModal(); input.focus(); input.select(); load().catch(() => {}); };
  document.querySelectorAll(".site-search-open").forEach((button) => button.addEventListener("click", open));
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") { event.preventDefault(); open(); }
  });

  // Commands and code: a button that copies, without the prompt.
  if (navigator.clipboard) {
    document.querySelectorAll("div.highlight > pre").forEach((block) => {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "copy-code", textContent: words.copy });
      button.addEventListener("click", async () => {
        const lines = block.innerText.trimEnd().split("\n");
        const typed = lines.filter((line) => line.startsWith("$ "));
        await navigator.clipboard.writeText((typed.length ? typed.map((line) => line.slice(2)) : lines).join("\n"));
        button.textContent = words.copied;
        setTimeout(() => { button.textContent = words.copy; }, 1500);
      });
      block.parentElement.append(button);
    });
  }
})();
