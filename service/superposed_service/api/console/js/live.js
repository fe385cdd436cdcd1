/** What this tab knows about the store: its tasks, kept up to date by events, and the last minutes. */

import { get } from "./api.js";
import { EventStream } from "./events.js";

/**
 * @typedef {object} Task A task as the API lists it, without labels and scaling.
 * @property {string} key
 * @property {number} inputs
 * @property {number} outputs
 * @property {"cross_entropy" | "mse"} loss
 * @property {number} rows_seen
 * @property {number} updates
 * @property {{accuracy: number | null, loss: number | null}} prequential
 * @property {number} last_sequence
 * @property {number | null} quarantined
 */

/** @typedef {{sequence: number, accuracy: number | null, loss: number}} Point */

const PAGE = 1000;
/** More tasks than this are not all fetched: a prefix narrows them down. */
export const MOST_TASKS = 20_000;
const LOADS = 120;
const FEED = 60;
const POINTS = 240;
const HISTORIES = 4000;

// How long what changes with every update waits for more of it: thousands of tasks are sorted anew each time.
const GATHER_MS = 200;

/** Dispatches `tasks` (the list or a number in it changed), `feed`, `load` and `state`, never many at once. */
class Live extends EventTarget {
  constructor() {
    super();
    this.stream = new EventStream();
    /** @type {Map<string, Task>} */
    this.tasks = new Map();
    /** Whether the list is complete: false while it is loading, or where there are too many. */
    this.complete = false;
    /** @type {unknown} */
    this.failure = null;
    this.loaded = false;
    /** @type {any[]} */
    this.loads = [];
    /** @type {any[]} */
    this.feed = [];
    /** @type {Map<string, Point[]>} */
    this.histories = new Map();
    /** @type {Set<string>} */
    this.pending = new Set();
    this.fetching = 0;
    this.refetch = 0;
    this.stream.addEventListener("record", (event) => this.onRecord(/** @type {CustomEvent} */ (event).detail));
    this.stream.addEventListener("load", (event) => this.onLoad(/** @type {CustomEvent} */ (event).detail));
    this.stream.addEventListener("state", () => {
      this.tell("state");
      if (this.stream.state === "live") this.fetchTasks();
    });
  }

  /** Begins anew, with whatever key there is now. */
  start() {
    this.tasks.clear();
    this.histories.clear();
    this.loads = [];
    this.feed = [];
    this.loaded = false;
    this.stream.restart();
    this.fetchTasks();
  }

  /** Fetches the whole list, page by page. */
  async fetchTasks() {
    const turn = (this.fetching += 1);
    /** @type {Map<string, Task>} */
    const found = new Map();
    try {
      let cursor = "";
      do {
        const page = await get(`v1/tasks?brief=true&limit=${PAGE}&cursor=${encodeURIComponent(cursor)}`);
        if (turn !== this.fetching) return;
        for (const task of page.tasks) found.set(task.key, task);
        cursor = page.next_cursor ?? "";
        if (!this.loaded) {
          this.tasks = found; // the first page is worth showing while the others come
          this.tell("tasks");
        }
      } while (cursor && found.size < MOST_TASKS);
      this.tasks = found;
      this.complete = !cursor;
      this.failure = null;
    } catch (error) {
      if (turn !== this.fetching) return;
      this.failure = error;
    }
    this.loaded = true;
    this.tell("tasks");
  }

  /** @param {any} record */
  onRecord(record) {
    this.feed.unshift(record);
    this.feed.length = Math.min(this.feed.length, FEED);
    this.tell("feed");
    if (record.kind === "delete") this.histories.delete(record.task);
    if (record.kind === "rollback") this.forget(record.excluded);
    if (record.kind !== "update") {
      // What registered, deleted or rolled back moves more than one number.
      clearTimeout(this.refetch);
      this.refetch = setTimeout(() => this.fetchTasks(), 300);
      return;
    }
    if (record.refused || record.contexts.length !== 1 || record.more_contexts) return;
    this.onUpdate(record.contexts[0], record);
  }

  /** Takes updates that were rolled back out of the curves. @param {[number, number][]} excluded */
  forget(excluded) {
    const gone = (/** @type {number} */ sequence) => excluded.some(([first, last]) => first <= sequence && sequence <= last);
    for (const [key, history] of this.histories) this.histories.set(key, history.filter((point) => !gone(point.sequence)));
  }

  /** @param {string} key @param {any} record */
  onUpdate(key, record) {
    const history = this.histories.get(key) ?? [];
    history.push({ sequence: record.sequence, accuracy: record.accuracy ?? null, loss: record.loss });
    if (history.length > POINTS) history.shift();
    if (this.histories.size < HISTORIES) this.histories.set(key, history);
    const task = this.tasks.get(key);
    if (task && record.sequence > task.last_sequence) {
      const { prequential: seen, rows_seen: before } = task;
      const mean = (/** @type {number | null} */ old, /** @type {number} */ now) =>
        ((old ?? 0) * before + now * record.rows) / (before + record.rows);
      seen.loss = mean(seen.loss, record.loss);
      if (record.accuracy !== undefined) seen.accuracy = mean(seen.accuracy, record.accuracy);
      task.rows_seen += record.rows;
      task.updates += 1;
      task.last_sequence = record.sequence;
    }
    this.tell("tasks");
  }

  /** @param {any} load */
  onLoad(load) {
    this.loads.push(load);
    if (this.loads.length > LOADS) this.loads.shift();
    this.tell("load");
  }

  /** Dispatches an event soon, however often it is called before. @param {string} kind */
  tell(kind) {
    if (this.pending.has(kind)) return;
    this.pending.add(kind);
    const dispatch = () => {
      this.pending.delete(kind);
      this.dispatchEvent(new Event(kind));
    };
    setTimeout(() => requestAnimationFrame(dispatch), kind === "state" ? 0 : GATHER_MS);
  }
}

export const live = new Live();
