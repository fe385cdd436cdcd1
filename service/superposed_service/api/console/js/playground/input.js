/** Where rows come from: a drawing, or numbers. */

import { fill, h } from "../dom.js";
import { notice } from "../problem.js";
import { Problem } from "../api.js";
import { inkOf, picture, sideOf } from "./digit.js";
import { FileSource, TextSource } from "./originals.js";
import { Pad } from "./pad.js";
import { RecordSource } from "./records.js";
import { readRows } from "./rows.js";

const MOST_FIELDS = 64;

/**
 * @typedef {object} Source Dispatches `change`.
 * @property {HTMLElement} element
 * @property {() => import("./originals.js").Row[]} rows Empty where nothing was given yet.
 */

/** A drawing, as one row of a task's pixels. @implements {Source} */
class DrawingSource extends EventTarget {
  /** @param {any} task @param {number} side */
  constructor(task, side) {
    super();
    this.side = side;
    this.pad = new Pad();
    this.seen = /** @type {HTMLCanvasElement} */ (h("canvas", { width: side, height: side, role: "img", "aria-label": `The drawing in ${side} by ${side} pixels, as the task sees it` }));
    this.ink = /** @type {HTMLSelectElement} */ (h("select", {}, ...[1, 16, 255].map((value) => h("option", { value, selected: value === inkOf(task) }, value))));
    const clear = h("button.small", { type: "button", onclick: () => this.pad.clear() }, "Clear");
    this.element = h("div.stack", {}, this.pad.element,
      h("div.seen", {}, this.seen, h("div.stack", {}, h("span", {}, `What the task sees: ${side} × ${side}`), h("label", {}, "Full ink is", this.ink))),
      h("div.row", {}, clear));
    /** @type {Float32Array | null} */
    this.small = null;
    this.pad.addEventListener("draw", () => this.changed());
    this.ink.addEventListener("change", () => this.changed());
    this.changed();
  }

  changed() {
    this.small = null; // read when it is asked for: a stroke has more events than there are answers
    requestAnimationFrame(() => this.preview());
    this.dispatchEvent(new Event("change"));
  }

  read() {
    this.small ??= picture(this.pad.pixels(), this.side, this.side >= 20);
    return this.small;
  }

  preview() {
    const context = /** @type {CanvasRenderingContext2D} */ (this.seen.getContext("2d"));
    const image = context.createImageData(this.side, this.side);
    this.read().forEach((value, place) => image.data.set([255 * value, 255 * value, 255 * value, 255], 4 * place));
    context.putImageData(image, 0, 0);
  }

  rows() {
    if (this.pad.empty) return [];
    const ink = Number(this.ink.value);
    return [Array.from(this.read(), (value) => Math.round(value * ink * 1000) / 1000)];
  }
}

/** Numbers in fields, or many rows pasted. @implements {Source} */
class NumbersSource extends EventTarget {
  /** @param {any} task */
  constructor(task) {
    super();
    this.task = task;
    /** @type {number[][]} */
    this.pasted = [];
    /** @type {HTMLInputElement[]} */
    this.fields = task.inputs > MOST_FIELDS ? [] : Array.from({ length: task.inputs }, (_, place) => this.field(place));
    const problem = h("div");
    const text = /** @type {HTMLTextAreaElement} */ (h("textarea", { rows: 5, spellcheck: "false", placeholder: "5.1, 3.5, 1.4, 0.2\n6.2, 2.9, 4.3, 1.3\nor [[…], […]]" }));
    text.addEventListener("input", () => {
      fill(problem);
      try {
        this.pasted = text.value.trim() ? readRows(text.value, task.inputs) : [];
      } catch (error) {
        this.pasted = [];
        fill(problem, notice(new Problem({ type: "shape-mismatch", title: "Rows that cannot be read", detail: /** @type {Error} */ (error).message }, 0)));
      }
      this.dispatchEvent(new Event("change"));
    });
    this.element = h("div.stack", {},
      this.fields.length > 0 && h("fieldset", {}, h("legend.label", {}, `One row of ${task.inputs} features`), h("div.fields", {}, ...this.fields.map((field, place) => h("label", {}, String(place + 1), field)))),
      h("label", {}, `Paste rows of ${task.inputs} numbers, CSV or JSON`, text), problem);
  }

  /** @param {number} place */
  field(place) {
    // The middle of the task's own range: something that is not nonsense to begin with.
    const middle = this.task.offset ? Number(this.task.offset[place].toPrecision(3)) : 0;
    return /** @type {HTMLInputElement} */ (h("input", { type: "number", step: "any", value: middle, oninput: () => this.dispatchEvent(new Event("change")) }));
  }

  rows() {
    if (this.pasted.length) return this.pasted;
    if (!this.fields.length || this.fields.some((field) => field.value === "")) return [];
    return [this.fields.map((field) => Number(field.value))];
  }
}

/** Whichever source suits a task: a pad for pictures, fields for the rest, numbers for both. Dispatches `change`. */
export class RowInput extends EventTarget {
  constructor() {
    super();
    this.element = h("div.stack");
    /** @type {(EventTarget & Source) | null} */
    this.source = null;
    this.shape = "";
    this.other = false;
  }

  /** @param {any} task */
  show(task) {
    const names = (task.features ?? []).map((/** @type {{name: string}} */ one) => one.name);
    const shape = JSON.stringify([task.kind, task.inputs, inkOf(task), names]);
    // A drawing stays where the next task can see it too.
    if (shape === this.shape) return;
    this.shape = shape;
    this.other = false;
    this.choose(task);
  }

  /** @param {any} task */
  choose(task) {
    const sources = sourcesOf(task);
    const [, make] = sources[this.other ? 1 : 0];
    this.source = make();
    this.source.addEventListener("change", () => this.dispatchEvent(new Event("change")));
    const named = sources[this.other ? 0 : 1]?.[0];
    const other = h("button.small.quiet", { type: "button" }, `${named} instead`);
    other.addEventListener("click", () => {
      this.other = !this.other;
      this.choose(task);
      this.dispatchEvent(new Event("change"));
    });
    fill(this.element, this.source.element);
    if (named) (this.element.querySelector(":scope > .stack > .row:last-child") ?? this.element).append(other);
  }

  /** @returns {import("./originals.js").Row[]} */
  rows() {
    return this.source?.rows() ?? [];
  }
}

/**
 * The sources that suit a task, the best first, with what its button says.
 * @param {any} task
 * @returns {[string, () => EventTarget & Source][]}
 */
function sourcesOf(task) {
  if (task.kind === "records") return [["Records", () => new RecordSource(task)]];
  if (task.kind === "texts") return [["Texts", () => new TextSource()]];
  const side = sideOf(task);
  /** @type {[string, () => EventTarget & Source][]} */
  const drawing = side ? [["Draw", () => new DrawingSource(task, side)]] : [];
  if (task.kind === "images") return [["Files", () => new FileSource()], ...drawing];
  return [...drawing, ["Numbers", () => new NumbersSource(task)]];
}
