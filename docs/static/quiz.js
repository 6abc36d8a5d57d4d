// Answer a quiz on the page. No network, no storage, no tracking; without this file the answers are folded below each question.
"use strict";

(() => {
  const node = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  /** A number as people type it: 1,000 and 1e3 and full-width digits. */
  const parseNumber = (text) => {
    const plain = text.normalize("NFKC").replace(/[\s,_]/g, "").replace("−", "-");
    return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain) ? Number(plain) : NaN;
  };

  const explanation = (form, choice) => form.querySelector(`.quiz-answer [data-choice="${choice}"]`);

  /** Right, wrong, or null if nothing was answered. */
  const judge = {
    choices(form) {
      const inputs = [...form.querySelectorAll(".quiz-choices input")];
      if (!inputs.some((input) => input.checked)) return null;
      return inputs.every((input) => input.checked === (explanation(form, input.value).dataset.right === "true"));
    },
    order(form) {
      return [...form.querySelectorAll(".quiz-choices > li")].every((item, place) => Number(item.dataset.choice) === place);
    },
    numeric(form) {
      const typed = form.querySelector("input").value;
      if (!typed.trim()) return null;
      const { answer, tolerance } = form.querySelector("[data-answer]").dataset;
      return Math.abs(parseNumber(typed) - answer) <= tolerance * Math.abs(answer) * (1 + 1e-9);
    },
  };

  /** Beside each chosen option: whether it is right, and why. */
  const explain = (form, right) => {
    form.querySelectorAll(".quiz-choices > li").forEach((item) => {
      item.querySelector(".quiz-why")?.remove();
      item.classList.remove("is-right", "is-wrong", "is-false");
      const told = explanation(form, item.dataset.choice);
      const input = item.querySelector("input");
      if (input && !input.checked && !right) return; // what was not chosen stays a question
      if (!input && !right) return;
      const good = !input || told.dataset.right === "true";
      item.classList.add(good ? "is-right" : input.checked ? "is-wrong" : "is-false");
      item.append(told.querySelector(".quiz-why").cloneNode(true));
    });
    if (form.dataset.kind === "numeric") form.querySelector(".quiz-answer").open = right; // it has no choices to explain
  };

  const addOrderButtons = (form, words) => {
    const list = form.querySelector(".quiz-choices");
    const move = (item, step) => {
      const other = step < 0 ? item.previousElementSibling : item.nextElementSibling;
      if (other) list.insertBefore(step < 0 ? item : other, step < 0 ? other : item);
    };
    for (const item of list.children) {
      const label = item.querySelector(".quiz-item").textContent.trim();
      const buttons = [[-1, "↑", words.up], [1, "↓", words.down]].map(([step, sign, text]) => {
        const button = node("button", { type: "button", textContent: sign, className: "quiz-move", title: text });
        button.setAttribute("aria-label", `${text}: ${label}`);
        button.addEventListener("click", () => { move(item, step); button.focus(); });
        return button;
      });
      item.prepend(...buttons);
    }
  };

  const start = (quiz) => {
    const words = quiz.dataset;
    const forms = [...quiz.querySelectorAll(".quiz-question")];
    const score = quiz.querySelector(".quiz-score");
    const done = new Set();
    for (const form of forms) {
      const status = node("p", { className: "quiz-status" });
      status.setAttribute("role", "status");
      const check = node("button", { type: "submit", className: "btn btn-primary quiz-check", textContent: words.check });
      form.querySelector("fieldset").insertBefore(node("div", { className: "quiz-actions" }, check, status), form.querySelector(".quiz-answer"));
      if (form.dataset.kind === "order") addOrderButtons(form, words);
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        const right = (judge[form.dataset.kind] ?? judge.choices)(form);
        status.textContent = right === null ? words.nothing : right ? words.right : words.wrong;
        form.classList.toggle("answered-right", right === true);
        form.classList.toggle("answered-wrong", right === false);
        if (right === null) return;
        explain(form, right);
        done[right ? "add" : "delete"](form);
        score.textContent = words.score.replace("{right}", done.size).replace("{all}", forms.length);
      });
    }
    quiz.classList.add("is-live");
  };

  document.querySelectorAll(".quiz").forEach(start);
})();
