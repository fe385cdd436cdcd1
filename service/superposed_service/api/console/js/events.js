/** `GET /v1/events`, read with fetch, since EventSource can carry no API key. Reconnects by itself. */

import { credentials, problemOf } from "./api.js";

const SHORTEST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 8000;
// The server says something every second: when it has been silent for so long, the connection is dead.
const SILENCE_MS = 6000;

/** @typedef {"connecting" | "live" | "waiting" | "refused"} ConnectionState */

/**
 * The stream. Dispatches `record` and `load` (CustomEvents with `detail`), and `state`.
 */
export class EventStream extends EventTarget {
  constructor() {
    super();
    /** @type {ConnectionState} */
    this.state = "connecting";
    /** Why it is not live, where it was refused. @type {import("./api.js").Problem | null} */
    this.problem = null;
    this.last = 0;
    /** @type {AbortController | null} */
    this.controller = null;
    this.generation = 0;
  }

  /** Begins anew: at the start, and with another key. */
  restart() {
    this.generation += 1;
    this.controller?.abort();
    this.last = 0;
    this.run(this.generation);
  }

  /** @param {number} generation */
  async run(generation) {
    let pause = SHORTEST_PAUSE_MS;
    while (generation === this.generation) {
      this.become("connecting");
      const wasLive = await this.listen(generation);
      if (generation !== this.generation || this.state === "refused") return;
      pause = wasLive ? SHORTEST_PAUSE_MS : Math.min(LONGEST_PAUSE_MS, pause * 2);
      this.become("waiting");
      await new Promise((resolve) => setTimeout(resolve, pause * (0.75 + Math.random() / 2)));
    }
  }

  /** Listens until the connection ends. @param {number} generation @returns {Promise<boolean>} Whether it was live. */
  async listen(generation) {
    const controller = new AbortController();
    this.controller = controller;
    let watch = setTimeout(() => controller.abort(), SILENCE_MS);
    try {
      const response = await fetch(`v1/events?after=${this.last}`, { headers: credentials(), signal: controller.signal, cache: "no-store" });
      if (!response.ok || !response.body) {
        this.problem = await problemOf(response);
        if (generation === this.generation && [401, 403, 404].includes(response.status)) this.become("refused");
        return false;
      }
      this.problem = null;
      this.become("live");
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done || generation !== this.generation) return true;
        clearTimeout(watch);
        watch = setTimeout(() => controller.abort(), SILENCE_MS);
        const blocks = (text + value).split("\n\n");
        text = blocks.pop() ?? "";
        for (const block of blocks) this.read(block);
      }
    } catch {
      return this.state === "live";
    } finally {
      clearTimeout(watch);
    }
  }

  /** @param {string} block */
  read(block) {
    /** @type {Record<string, string>} */
    const fields = {};
    for (const line of block.split("\n")) {
      const at = line.indexOf(": ");
      if (at > 0) fields[line.slice(0, at)] = line.slice(at + 2);
    }
    if (!fields.event || fields.event === "dropped") return;
    if (fields.id) this.last = Number(fields.id);
    const detail = { kind: fields.event, ...JSON.parse(fields.data) };
    this.dispatchEvent(new CustomEvent(fields.event === "load" ? "load" : "record", { detail }));
  }

  /** @param {ConnectionState} state */
  become(state) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
