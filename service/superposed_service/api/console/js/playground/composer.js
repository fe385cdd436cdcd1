/** Composes a context: one task, a mixture by sliders, and a real power of it. */

import { fill, h } from "../dom.js";
import { live } from "../live.js";

const MOST_PARTS = 6;
const MOST_OPTIONS = 500;

/** A context that is put together by hand. Dispatches `change`. */
export class Composer extends EventTarget {
  /** @param {string} first The task to begin with. */
  constructor(first) {
    super();
    /** @type {{key: string, weight: number}[]} */
    this.parts = [{ key: first, weight: 1 }];
    this.exponent = 1;
    this.list = h("div.parts");
    this.text = h("code.expression", { "aria-label": "The context" });
    this.power = this.slider("Power", -2, 2, 0.05, () => this.exponent, (value) => (this.exponent = value));
    this.add = h("button.small", { type: "button", onclick: () => this.addPart() }, "+ Mix in another task");
    const reset = h("button.small.quiet", { type: "button", onclick: () => this.reset() }, "Reset");
    this.element = h("div.stack", {}, this.list, h("div.row", {}, this.add, reset), this.power.element, this.text);
    this.draw();
  }

  /** The heaviest part's task: what says how wide rows are. */
  get heaviest() {
    return this.parts.reduce((best, part) => (part.weight > best.weight ? part : best)).key;
  }

  /** As text, for requests. */
  get expression() {
    const used = this.parts.filter((part) => part.weight > 0);
    const base = used.length === 1 ? used[0].key : `mix(${used.map((part) => `${part.key}:${part.weight}`).join(",")})`;
    return this.exponent === 1 ? base : `${base}^${this.exponent}`;
  }

  /** Whether it is a task by itself. */
  get bare() {
    return this.exponent === 1 && this.parts.filter((part) => part.weight > 0).length === 1;
  }

  reset() {
    this.parts = [{ key: this.heaviest, weight: 1 }];
    this.exponent = 1;
    this.power.show();
    this.draw();
    this.changed();
  }

  addPart() {
    const used = new Set(this.parts.map((part) => part.key));
    const alike = [...live.tasks.values()].filter((task) => !used.has(task.key));
    const own = live.tasks.get(this.heaviest);
    const next = alike.find((task) => task.inputs === own?.inputs && task.outputs === own?.outputs) ?? alike[0];
    if (!next) return;
    if (this.parts.length === 1) this.parts[0].weight = 0.7;
    this.parts.push({ key: next.key, weight: 0.3 });
    this.draw();
    this.changed();
  }

  changed() {
    this.text.textContent = this.expression;
    this.dispatchEvent(new Event("change"));
  }

  /** Makes the parts' controls anew. */
  draw() {
    const several = this.parts.length > 1;
    fill(this.list, ...this.parts.map((part, place) => this.part(part, place, several)));
    /** @type {HTMLButtonElement} */ (this.add).disabled = this.parts.length >= MOST_PARTS || live.tasks.size <= this.parts.length;
    this.text.textContent = this.expression;
  }

  /** @param {{key: string, weight: number}} part @param {number} place @param {boolean} several */
  part(part, place, several) {
    const name = several ? `Task ${place + 1}` : "Task";
    const input = taskInput(name, part.key, (key) => {
      part.key = key;
      this.draw();
      this.changed();
    });
    const drop = several && h("button.quiet.small", { type: "button", "aria-label": `Remove ${part.key}`, onclick: () => this.drop(place) }, "✕");
    const weight = several && this.slider(`Weight of ${part.key}`, 0, 1, 0.01, () => part.weight, (value) => {
      part.weight = value;
      if (this.parts.every((one) => one.weight === 0)) part.weight = 0.01;
    }).element;
    return h("div.part", {}, input, drop, weight && h("div.slide", {}, weight));
  }

  /** @param {number} place */
  drop(place) {
    this.parts.splice(place, 1);
    if (this.parts.length === 1) this.parts[0].weight = 1;
    this.draw();
    this.changed();
  }

  /**
   * @param {string} label @param {number} min @param {number} max @param {number} step
   * @param {() => number} read @param {(value: number) => void} write
   */
  slider(label, min, max, step, read, write) {
    const input = /** @type {HTMLInputElement} */ (h("input", { type: "range", min, max, step, "aria-label": label, value: read() }));
    const value = h("output.number.right", {}, read().toFixed(2));
    const show = () => {
      input.value = String(read());
      value.textContent = read().toFixed(2);
    };
    input.addEventListener("input", () => {
      write(Number(input.value));
      show();
      this.changed();
    });
    const element = h("div.part", {}, h("span.label", { "aria-hidden": "true" }, label), value, h("div.slide", {}, input));
    return { element, show };
  }
}

/**
 * A field that takes a task's key, with the known ones to choose from.
 * @param {string} name @param {string} key @param {(key: string) => void} chosen
 */
function taskInput(name, key, chosen) {
  const keys = [...live.tasks.keys()].sort();
  if (keys.length <= MOST_OPTIONS) {
    const select = /** @type {HTMLSelectElement} */ (h("select", { onchange: () => chosen(select.value) },
      ...keys.map((one) => h("option", { value: one, selected: one === key }, one))));
    return h("label", {}, name, select);
  }
  // So many are typed, not looked through.
  const input = /** @type {HTMLInputElement} */ (h("input", { value: key, spellcheck: "false", onchange: () => chosen(input.value.trim()) }));
  return h("label", {}, name, input);
}
