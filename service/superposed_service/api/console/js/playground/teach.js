/** Teaches what was drawn, shows what changed, and takes it back. */

import { call, cellOf, post } from "../api.js";
import { confirmed } from "../dialogs.js";
import { fill, h } from "../dom.js";
import { count, fixed, percent } from "../format.js";
import { pressed } from "../problem.js";
import { asSent } from "./originals.js";

const MOST_KEPT = 64;

/** @typedef {{context: string, row: import("./originals.js").Row, label: string | number}} Example */

/** The teaching card. Dispatches `taught` when the store has learned or unlearned something. */
export class Teacher extends EventTarget {
  /** @param {() => {context: string, rows: import("./originals.js").Row[], task: any} | null} current What would be taught. */
  constructor(current) {
    super();
    this.current = current;
    this.problem = h("div");
    this.outcome = h("div");
    this.log = h("ol.taught", { "aria-label": "Taught from here" });
    this.targets = h("div.targets");
    this.steps = /** @type {HTMLSelectElement} */ (h("select", {}, ...[1, 5, 20, 100].map((steps) => h("option", { value: steps, selected: steps === 5 }, String(steps)))));
    this.button = /** @type {HTMLButtonElement} */ (h("button.first", { type: "button", onclick: () => this.teach() }, "Teach"));
    this.element = h("div.stack", {}, this.targets,
      h("div.row", {}, h("label", {}, "Steps", this.steps), this.button), this.problem, this.outcome, this.log);
    /** What was taught from here: their accuracy is watched. @type {Example[]} */
    this.examples = [];
    /** @type {() => (string | number | number[] | null)[]} */
    this.chosen = () => [];
  }

  /** @param {any} task */
  show(task) {
    this.problem.replaceChildren();
    if (task.loss === "mse") this.askForValues(task);
    else if (task.outputs <= 40) this.askForLabel(task);
    else this.askForText(task);
  }

  /** @param {any} task */
  askForLabel(task) {
    const labels = task.labels ?? Array.from({ length: task.outputs }, (_, place) => String(place));
    const inputs = labels.map((/** @type {string} */ label, /** @type {number} */ place) => /** @type {HTMLInputElement} */ (h("input", { type: "radio", name: "label", value: place, "aria-label": label })));
    fill(this.targets, h("fieldset", {}, h("legend.label", {}, "This is a"),
      h("div.labels", {}, ...labels.map((/** @type {string} */ label, /** @type {number} */ place) => h("label", {}, inputs[place], h("span", {}, label))))));
    this.chosen = () => {
      const place = inputs.findIndex((/** @type {HTMLInputElement} */ input) => input.checked);
      return place < 0 ? [] : [task.labels ? task.labels[place] : place];
    };
  }

  /** @param {any} task */
  askForText(task) {
    const input = /** @type {HTMLInputElement} */ (h("input", {}));
    fill(this.targets, h("label", {}, "Label of each row, or one for all (commas between)", input));
    this.chosen = () => input.value.split(",").map((part) => part.trim()).filter(Boolean).map((part) => (task.labels ? part : Number(part)));
  }

  /** @param {any} task */
  askForValues(task) {
    const input = /** @type {HTMLInputElement} */ (h("input", { inputmode: "decimal" }));
    fill(this.targets, h("label", {}, `Target: ${task.outputs} number${task.outputs > 1 ? "s, commas between" : ""}`, input));
    this.chosen = () => (input.value.trim() ? [input.value.split(",").map(Number)] : []);
  }

  async teach() {
    const now = this.current();
    const targets = this.chosen();
    if (!now?.rows.length) return this.say("There is nothing to teach yet: draw something, or give a row.");
    if (!targets.length) return this.say("Choose what it is first.");
    const { context, rows } = now;
    const each = targets.length === 1 ? rows.map(() => targets[0]) : targets;
    await pressed(this.button, this.problem, async () => {
      const known = this.examples;
      const mine = this.keep(context, rows, each);
      try {
        const before = await this.measure(context);
        const answer = await post("v1/update", { context, ...asSent(rows), targets: each, steps: Number(this.steps.value) });
        const after = await this.measure(context);
        this.showOutcome(answer, before, after);
        this.log.prepend(this.entry(answer, targets[0], context, mine));
        this.dispatchEvent(new Event("taught"));
        return answer;
      } catch (error) {
        this.examples = known; // nothing was taught
        throw error;
      }
    }, "Taught.");
  }

  /** @param {string} context @param {import("./originals.js").Row[]} rows @param {any[]} targets @returns {Example[]} Those of these rows. */
  keep(context, rows, targets) {
    const mine = rows.map((row, place) => ({ context, row, label: targets[place] }));
    this.examples = [...this.examples, ...mine].slice(-MOST_KEPT);
    return mine;
  }

  /** How many of the examples of a context are answered right now; asked by inference, so that no evaluation of the task's is moved. @param {string} context */
  async measure(context) {
    const mine = this.examples.filter((one) => one.context === context && !Array.isArray(one.label));
    if (!mine.length) return null;
    const { labels } = await post("v1/infer", { context, ...asSent(mine.map((one) => one.row)), return: ["labels"] });
    return { right: mine.filter((one, place) => String(one.label) === String(labels[place])).length, of: mine.length };
  }

  /** @param {any} answer @param {{right: number, of: number} | null} before @param {{right: number, of: number} | null} after */
  showOutcome(answer, before, after) {
    const words = before && after && `Of the ${count(after.of)} taught here, ${before.right} were right before and ${after.right} are now.`;
    fill(this.outcome, h("div.notice.good", { role: "status" }, h("strong", {}, `Learned as #${count(answer.sequence)}`),
      h("span", {}, `Before it: ${answer.accuracy === undefined ? "" : `${percent(answer.accuracy)} right, `}loss ${fixed(answer.loss, 3)}.`), words && h("span", {}, words)));
  }

  /** @param {any} answer @param {any} target @param {string} context @param {Example[]} mine */
  entry(answer, target, context, mine) {
    const { sequence } = answer;
    const place = h("div");
    const undo = /** @type {HTMLButtonElement} */ (h("button.small", { type: "button", "aria-label": `Undo #${sequence}` }, "Undo"));
    const item = h("li", {}, h("span.muted.number", {}, `#${sequence}`), h("span", {}, `${target} · ${context}`), undo);
    undo.addEventListener("click", async () => {
      const sure = await confirmed(`Take #${sequence} back?`, "The store is rebuilt as if this update had never been; other requests wait meanwhile.", "Undo it");
      if (!sure) return;
      const done = await pressed(undo, place, () => call("POST", "v1/rollback", { body: { without: { sequences: [sequence, sequence] } }, cell: cellOf.get(answer) }), "Taken back.");
      if (!done) return item.after(h("li", {}, place));
      this.examples = this.examples.filter((one) => !mine.includes(one));
      item.classList.add("undone");
      undo.remove();
      fill(this.outcome, h("div.notice.good", { role: "status" }, h("strong", {}, `#${sequence} is taken back`), h("span", {}, `The store is as if it had never been; the rollback is #${count(done.sequence)}.`)));
      this.dispatchEvent(new Event("taught"));
    });
    return item;
  }

  /** @param {string} text */
  say(text) {
    fill(this.problem, h("div.notice", { role: "alert" }, text));
  }
}
