/** The list of tasks: thousands of them, of which only those in sight are elements. */

import { h, svg } from "./dom.js";
import { count, percent } from "./format.js";
import { live } from "./live.js";

/** @typedef {import("./live.js").Task} Task */

const ROW_PX = 44;
const SPARE_ROWS = 4;

/** @type {Record<string, {title: string, value: (task: Task) => string | number}>} */
const COLUMNS = {
  key: { title: "Task", value: (task) => task.key },
  rows: { title: "Rows seen", value: (task) => task.rows_seen },
  accuracy: { title: "Before learning", value: (task) => task.prequential.accuracy ?? -1 },
  trend: { title: "Over time", value: (task) => live.histories.get(task.key)?.length ?? 0 },
  last: { title: "Last update", value: (task) => task.last_sequence },
};

/** A table of tasks with search, sorting, and rows that are made as they come into sight. */
export class TaskTable {
  /** @param {(key: string) => void} open Called with the task that was chosen. */
  constructor(open) {
    this.open = open;
    this.search = "";
    this.sorted = "last";
    this.rising = false;
    /** @type {Task[]} */
    this.shown = [];
    /** @type {HTMLElement[]} */
    this.rows = [];
    this.head = h("div.tasks-head", { role: "row" });
    this.place = h("div.tasks-rows", { role: "presentation" });
    this.body = h("div.tasks-body", { tabindex: 0, role: "rowgroup", "aria-label": "Tasks, scrollable" }, this.place);
    this.element = h("div.tasks-list", { role: "table", "aria-label": "Tasks" }, h("div", { role: "rowgroup" }, this.head), this.body);
    this.body.addEventListener("scroll", () => this.draw(), { passive: true });
    this.body.addEventListener("keydown", (event) => this.move(event));
    new ResizeObserver(() => this.draw()).observe(this.body);
    this.drawHead();
  }

  /** How many tasks match the search. */
  get found() {
    return count(this.shown.length);
  }

  /** @param {string} text Only tasks whose key contains it. */
  filter(text) {
    this.search = text.toLowerCase();
    this.body.scrollTop = 0;
    this.update();
  }

  /** Sorts and draws again: the tasks, or numbers of theirs, have changed. */
  update() {
    const { value } = COLUMNS[this.sorted];
    const tasks = [...live.tasks.values()];
    const matching = this.search ? tasks.filter((task) => task.key.toLowerCase().includes(this.search)) : tasks;
    const keyed = matching.map((task) => /** @type {[string | number, Task]} */ ([value(task), task]));
    keyed.sort(([a, one], [b, other]) => (a < b ? -1 : a > b ? 1 : one.key < other.key ? -1 : 1));
    this.shown = keyed.map(([, task]) => task);
    if (!this.rising) this.shown.reverse();
    this.place.style.height = `${this.shown.length * ROW_PX}px`;
    this.element.setAttribute("aria-rowcount", String(this.shown.length + 1));
    this.draw();
  }

  drawHead() {
    this.head.replaceChildren(
      ...Object.entries(COLUMNS).map(([name, { title }]) => {
        const sorted = name === this.sorted;
        const sign = sorted ? (this.rising ? " ↑" : " ↓") : "";
        const button = h("button", { type: "button", "data-sorted": sorted, onclick: () => this.sort(name) }, `${title}${sign}`);
        return h("div", { role: "columnheader", "aria-sort": sorted ? (this.rising ? "ascending" : "descending") : "none" }, button);
      }),
    );
  }

  /** @param {string} name */
  sort(name) {
    this.rising = name === this.sorted ? !this.rising : name === "key";
    this.sorted = name;
    this.drawHead();
    /** @type {HTMLElement | null} */ (this.head.querySelector("[data-sorted]"))?.focus();
    this.update();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.body.scrollTop / ROW_PX) - SPARE_ROWS);
    const needed = Math.min(this.shown.length - first, Math.ceil(this.body.clientHeight / ROW_PX) + 2 * SPARE_ROWS);
    while (this.rows.length < needed) {
      const row = this.makeRow();
      this.rows.push(row);
      this.place.append(row);
    }
    this.rows.forEach((row, place) => {
      row.hidden = place >= needed;
      if (!row.hidden) this.fillRow(row, first + place);
    });
  }

  makeRow() {
    const button = h("button", { type: "button" }, h("span"));
    const row = h("div.task-row", { role: "row" }, h("div", { role: "cell" }, button),
      ...Array.from({ length: 4 }, () => h("div", { role: "cell" })));
    button.addEventListener("click", () => this.open(String(row.dataset.key)));
    return row;
  }

  /** @param {HTMLElement} row @param {number} place */
  fillRow(row, place) {
    const task = this.shown[place];
    const history = live.histories.get(task.key);
    const mark = `${task.key} ${task.updates} ${task.rows_seen} ${task.quarantined} ${history?.at(-1)?.sequence}`;
    row.style.transform = `translateY(${place * ROW_PX}px)`;
    row.setAttribute("aria-rowindex", String(place + 2));
    if (row.dataset.mark === mark) return;
    row.classList.toggle("fresh", row.dataset.key === task.key);
    row.dataset.mark = mark;
    row.dataset.key = task.key;
    const [name, rows, accuracy, trend, last] = row.children;
    const text = /** @type {HTMLElement} */ (name.querySelector("span"));
    text.textContent = task.quarantined === null ? task.key : `${task.key} · in quarantine`;
    text.title = task.key;
    rows.textContent = count(task.rows_seen);
    accuracy.textContent = task.loss === "mse" ? `loss ${task.prequential.loss?.toPrecision(3) ?? "–"}` : percent(task.prequential.accuracy);
    trend.replaceChildren(...(history && history.length > 1 ? [sparkline(history)] : []));
    last.textContent = task.updates ? `#${count(task.last_sequence)}` : "not taught";
  }

  /** Arrow keys go from task to task, those out of sight too. @param {KeyboardEvent} event */
  move(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = /** @type {HTMLElement | null} */ (/** @type {Element} */ (event.target).closest(".task-row"));
    if (!step || !row) return;
    event.preventDefault();
    const place = Number(row.getAttribute("aria-rowindex")) - 2 + step;
    if (place < 0 || place >= this.shown.length) return;
    const top = place * ROW_PX;
    if (top < this.body.scrollTop) this.body.scrollTop = top;
    if (top + ROW_PX > this.body.scrollTop + this.body.clientHeight) this.body.scrollTop = top + ROW_PX - this.body.clientHeight;
    this.draw();
    const next = this.rows.find((one) => !one.hidden && one.getAttribute("aria-rowindex") === String(place + 2));
    next?.querySelector("button")?.focus({ preventScroll: true });
  }
}

/**
 * How accurate a task was on the rows of its newest updates, before it learned from them.
 * @param {import("./live.js").Point[]} history
 */
function sparkline(history) {
  const values = smoothed(history.map((point) => point.accuracy ?? -point.loss));
  const least = Math.min(...values);
  const range = Math.max(...values) - least;
  const points = values.map((value, place) => {
    const x = (place / (values.length - 1)) * 108 + 1;
    return `${x.toFixed(1)},${(range ? 24 - ((value - least) / range) * 22 : 2).toFixed(1)}`;
  });
  const label = `${history.length} newest updates`;
  return svg("svg", { viewBox: "0 0 110 26", class: "spark", role: "img", "aria-label": label }, svg("polyline", { points: points.join(" ") }));
}

/** Means of a few neighbours: single batches jump. @param {number[]} values */
function smoothed(values) {
  const width = Math.ceil(values.length / 24);
  return values.map((_, place) => {
    const around = values.slice(Math.max(0, place - width), place + width + 1);
    return around.reduce((sum, value) => sum + value, 0) / around.length;
  });
}
