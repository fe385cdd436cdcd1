/** Asks the store as the rows or the context change, and shows the answer. */

import { call, Problem } from "../api.js";
import { fill, h } from "../dom.js";
import { count, fixed, milliseconds, percent } from "../format.js";
import { notice } from "../problem.js";
import { asSent } from "./originals.js";

const MOST_ROWS = 50;

/** The answer's card. Asks one question at a time, always the newest. */
export class Answer {
  constructor() {
    this.headline = h("div.answer");
    this.bars = h("ol.bars", { "aria-label": "Probabilities" });
    this.more = h("div");
    this.said = h("small.muted");
    this.element = h("div.stack", {}, this.headline, this.bars, this.more, h("p", {}, this.said));
    this.busy = false;
    /** @type {{context: string, rows: import("./originals.js").Row[], task: any} | null} */
    this.next = null;
    this.idle();
  }

  idle() {
    fill(this.headline, h("span.muted", {}, "Draw, write, or give numbers: the answer follows."));
    fill(this.bars);
    fill(this.more);
    this.said.textContent = "";
  }

  /** @param {string} context @param {import("./originals.js").Row[]} rows @param {any} task */
  async ask(context, rows, task) {
    this.next = { context, rows, task };
    if (this.busy) return;
    this.busy = true;
    while (this.next) {
      const question = this.next;
      this.next = null;
      await this.askOnce(question);
    }
    this.busy = false;
  }

  /** @param {{context: string, rows: import("./originals.js").Row[], task: any}} question */
  async askOnce({ context, rows, task }) {
    if (!rows.length) return this.idle();
    const classes = task.loss === "cross_entropy";
    const started = performance.now();
    try {
      const body = { context, ...asSent(rows), return: classes ? ["labels", "probabilities"] : ["values"] };
      const answer = await call("POST", "v1/infer", { body });
      this.said.textContent = `${context} at #${count(answer.sequence)}, in ${milliseconds(performance.now() - started)}`;
      if (rows.length > 1) this.showMany(answer, rows, classes);
      else if (classes) this.showOne(answer.labels[0], answer.probabilities[0], task);
      else this.showValues(answer.values[0]);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.idle();
      fill(this.headline, notice(error));
    }
  }

  /** @param {string | number} label @param {number[]} probabilities @param {any} task */
  showOne(label, probabilities, task) {
    const best = probabilities.indexOf(Math.max(...probabilities));
    fill(this.more);
    const words = label === null ? "out of scope" : String(label);
    fill(this.headline, h("b", { "data-answer": words }, words), h("span.muted", {}, percent(probabilities[best])));
    const labels = task.labels ?? probabilities.map((_, place) => String(place));
    bars(this.bars, probabilities.map((value, place) => ({ name: labels[place], value, best: place === best })));
  }

  /** @param {number[]} values */
  showValues(values) {
    fill(this.bars);
    fill(this.more);
    fill(this.headline, h("b", {}, values.map((value) => fixed(value, 3)).join(", ")));
  }

  /** @param {any} answer @param {import("./originals.js").Row[]} rows @param {boolean} classes */
  showMany(answer, rows, classes) {
    fill(this.bars);
    fill(this.headline, h("b", {}, count(rows.length)), h("span.muted", {}, "rows answered"));
    const cells = (/** @type {number} */ place) =>
      classes
        ? [h("td", {}, String(answer.labels[place] ?? "out of scope")), h("td.right", {}, percent(Math.max(...answer.probabilities[place])))]
        : [h("td", {}, answer.values[place].map((/** @type {number} */ value) => fixed(value, 3)).join(", ")), h("td")];
    fill(this.more, h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Answers" }, h("table", {},
      h("thead", {}, h("tr", {}, h("th", {}, "Row"), h("th", {}, "Answer"), h("th.right", {}, classes ? "Probability" : ""))),
      h("tbody", {}, ...rows.slice(0, MOST_ROWS).map((_, place) => h("tr", {}, h("td", {}, String(place + 1)), ...cells(place)))))));
  }
}

/**
 * Bars of shares, kept in place so that they move.
 * @param {HTMLElement} list
 * @param {{name: string, value: number, best: boolean}[]} items
 */
export function bars(list, items) {
  const names = items.map((item) => item.name).join("\n");
  if (list.dataset.names !== names || list.children.length !== items.length) {
    list.dataset.names = names;
    list.style.setProperty("--names", `${Math.min(80, 10 + 9 * Math.max(...items.map(({ name }) => name.length)))}px`);
    fill(list, ...items.map(({ name }) => h("li", {}, h("span.name", { title: name }, name), h("div.bar-track", {}, h("div.bar-fill")), h("span.right"))));
  }
  items.forEach(({ value, best }, place) => {
    const item = list.children[place];
    item.classList.toggle("best", best);
    /** @type {HTMLElement} */ (item.querySelector(".bar-fill")).style.transform = `scaleX(${value})`;
    item.children[2].textContent = percent(value);
  });
}
