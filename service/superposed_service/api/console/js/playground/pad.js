/** Something to draw digits on: with a mouse, a finger, a pen, or the arrow keys. */

import { h } from "../dom.js";

const SIZE = 280;
const BRUSH = 22;
const STEP = 10;

/** A square to draw in. Dispatches `draw` as the drawing changes. */
export class Pad extends EventTarget {
  constructor() {
    super();
    this.canvas = /** @type {HTMLCanvasElement} */ (
      h("canvas", { width: SIZE, height: SIZE, tabindex: 0, role: "img", "aria-label": "Drawing pad. Arrow keys move the pen, space puts it down and lifts it, delete clears." })
    );
    this.hint = h("p.hint", {}, "Draw a digit here");
    this.element = h("div.pad", {}, this.canvas, this.hint);
    this.context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d", { willReadFrequently: true }));
    this.empty = true;
    /** @type {{x: number, y: number} | null} */
    this.pen = null;
    this.cursor = { x: SIZE / 2, y: SIZE / 4, down: false };
    this.listen();
    this.clear();
  }

  listen() {
    const at = (/** @type {PointerEvent} */ event) => {
      const box = this.canvas.getBoundingClientRect();
      return { x: ((event.clientX - box.left) / box.width) * SIZE, y: ((event.clientY - box.top) / box.height) * SIZE };
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.pen = at(event);
      this.line(this.pen, this.pen);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!this.pen) return;
      const all = event.getCoalescedEvents?.() ?? [event];
      for (const each of all.length ? all : [event]) {
        const next = at(each);
        this.line(this.pen, next);
        this.pen = next;
      }
    });
    for (const kind of ["pointerup", "pointercancel"]) this.canvas.addEventListener(kind, () => (this.pen = null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
    if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else if (event.key === " ") {
      this.cursor.down = !this.cursor.down;
      if (this.cursor.down) this.line(this.cursor, this.cursor);
    } else if (x || y) {
      const before = { ...this.cursor };
      this.cursor.x = Math.min(SIZE, Math.max(0, this.cursor.x + STEP * x));
      this.cursor.y = Math.min(SIZE, Math.max(0, this.cursor.y + STEP * y));
      if (this.cursor.down) this.line(before, this.cursor);
    } else return;
    event.preventDefault();
  }

  /** @param {{x: number, y: number}} from @param {{x: number, y: number}} to */
  line(from, to) {
    const pen = this.context;
    pen.strokeStyle = "#fff";
    pen.lineWidth = BRUSH;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(from.x, from.y);
    pen.lineTo(to.x + 0.01, to.y);
    pen.stroke();
    this.empty = false;
    this.hint.hidden = true;
    this.dispatchEvent(new Event("draw"));
  }

  /** Wipes it. */
  clear() {
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, SIZE, SIZE);
    this.cursor = { x: SIZE / 2, y: SIZE / 4, down: false };
    this.empty = true;
    this.hint.hidden = false;
    this.dispatchEvent(new Event("draw"));
  }

  /** @returns {{values: Float32Array, size: number}} Brightness from 0 to 1, row by row. */
  pixels() {
    const { data } = this.context.getImageData(0, 0, SIZE, SIZE);
    const values = new Float32Array(SIZE * SIZE);
    for (let place = 0; place < values.length; place += 1) values[place] = data[4 * place] / 255;
    return { values, size: SIZE };
  }
}
