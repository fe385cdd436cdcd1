/** The store at a glance: what it is, how busy it is, what it has just learned, and its tasks. */

import { get } from "../api.js";
import { strip } from "../charts.js";
import { card, fill, h } from "../dom.js";
import { bytes, count, fixed, milliseconds, percent, rate, short } from "../format.js";
import { live } from "../live.js";
import { notice, shown } from "../problem.js";
import { openTask } from "../task.js";
import { TaskTable } from "../tasktable.js";

/** @returns {import("../app.js").View} */
export function overview() {
  const title = h("h1", {}, "One set of weights");
  const facts = h("div", {}, skeleton());
  const leaving = new AbortController();
  const on = (/** @type {string} */ kind, /** @type {() => void} */ listener) =>
    live.addEventListener(kind, listener, { signal: leaving.signal });

  const refresh = () => shown(facts, () => showFacts(title, facts));
  refresh();
  on("state", () => live.stream.state === "live" && refresh());
  const often = setInterval(() => live.stream.state === "live" && refresh(), 5000);

  const feed = h("ol.feed");
  on("feed", () => showFeed(feed));
  showFeed(feed);

  const element = h("div.stack", {},
    h("div.intro", {}, title,
      h("p", {}, "Every task below is answered by the same weights. A request names its task; the task's context, bound to the inputs of each layer, picks its model out of the superposition.")),
    facts,
    loadCard(on),
    h("div.split.wide-left", {},
      tasksCard(on),
      card("Just learned", { note: "Changes as they are applied, newest first." }, feed)));
  return {
    element,
    leave() {
      leaving.abort();
      clearInterval(often);
    },
  };
}

const skeleton = () => h("div.tiles", { "aria-busy": "true" }, ...Array.from({ length: 6 }, () =>
  h("div.tile", {}, h("div.skeleton"), h("div.skeleton"))));

/** @param {HTMLElement} title @param {HTMLElement} place */
async function showFacts(title, place) {
  const [store, capacity] = await Promise.all([get("v1/store"), get("v1/capacity")]);
  fill(title, store.tasks === 1 ? "One task" : `${count(store.tasks)} tasks`, ", one set of weights");
  const left = capacity.tasks_left;
  const room = left
    ? tile("Room for", `≈ ${short(left.estimate)} more`, `${short(left.low)} – ${short(left.high)}, until the mean falls by ${percent(left.accuracy_drop)}`)
    : tile("Room for", "not known yet", "needs evaluations at three numbers of tasks");
  const { network } = store;
  fill(place, h("dl.tiles", {},
    tile("Weights", bytes(store.bytes.weights), store.tasks ? `${bytes(store.bytes.weights / store.tasks)} a task` : "however many tasks"),
    tile("Mean accuracy", percent(capacity.mean_accuracy), "newest evaluation of each task"),
    room,
    tile("Sequence", count(store.sequence), `${count(store.journal.records_since_snapshot)} since the newest snapshot`),
    tile("Contexts", store.family, `${bytes(store.bytes.contexts_cached)} cached`),
    tile("Network", network.kind, [network.inputs, ...(network.hidden ?? []), network.outputs].join(" · "))));
  if (store.journal.failure) {
    place.prepend(h("div.notice.bad.banner", { role: "alert" }, h("strong", {}, "Nothing is learned"),
      h("span", {}, `The journal failed: ${store.journal.failure}. Answers go on; updates wait for the next start.`)));
  }
}

/** @param {string} name @param {string} value @param {string} more */
const tile = (name, value, more) => h("div.tile", {}, h("dt", {}, name), h("dd", {}, value, h("small", {}, more)));

/** @param {(kind: string, listener: () => void) => void} on */
function loadCard(on) {
  const past = (/** @type {(load: any) => number | null} */ read) => live.loads.map(read);
  const strips = [
    { name: "Requests a second", now: (/** @type {any} */ load) => rate(load.requests_per_s), series: () => [past((load) => load.requests_per_s)] },
    { name: "Latency, p50 and p99", now: (/** @type {any} */ load) => milliseconds(load.latency_ms.p50), series: () => [past((load) => load.latency_ms.p50), past((load) => load.latency_ms.p99)] },
    { name: "Waiting", now: (/** @type {any} */ load) => count(load.waiting), series: () => [past((load) => load.waiting)] },
    { name: "Rows of a batch", now: (/** @type {any} */ load) => fixed(load.batch_rows, 1), series: () => [past((load) => load.batch_rows)] },
  ].map((one) => ({ ...one, value: h("b", {}, "–"), chart: strip(`${one.name}, the last two minutes`, one.series) }));
  const show = () => {
    const load = live.loads.at(-1);
    for (const one of strips) {
      one.value.textContent = load ? one.now(load) : "–";
      one.chart.redraw();
    }
  };
  on("load", show);
  show();
  return card("Live", { note: "The last two minutes, a point a second." }, h("div.live", {},
    ...strips.map((one) => h("figure", {}, h("figcaption", {}, one.name, one.value), one.chart.element))));
}

/** @param {(kind: string, listener: () => void) => void} on */
function tasksCard(on) {
  const place = h("div");
  const status = h("p", { role: "status" });
  const search = /** @type {HTMLInputElement} */ (h("input", { type: "search", placeholder: "Search tasks", "aria-label": "Search tasks" }));
  const table = new TaskTable(openTask);
  search.addEventListener("input", () => table.filter(search.value.trim()));
  const show = () => {
    if (live.failure && !live.tasks.size) fill(place, notice(live.failure));
    else if (!live.loaded && !live.tasks.size) fill(place, h("p.loading", {}, "Loading the tasks…"));
    else if (!live.tasks.size) fill(place, nothing());
    else if (!table.element.isConnected) fill(place, table.element);
    table.update();
    const loading = live.loaded ? "" : ", loading more";
    const more = live.loaded && !live.complete && !live.failure ? "; the first of more than are listed here" : "";
    status.textContent = live.tasks.size ? `${table.found} shown of ${count(live.tasks.size)}${loading}${more}` : "";
  };
  search.addEventListener("input", show);
  on("tasks", show);
  show();
  return card("Tasks", { end: search }, place, h("p.muted", {}, h("small", {}, status)));
}

function nothing() {
  return h("div.empty", {}, h("strong", {}, "No tasks yet"),
    h("p", {}, "A task costs no weights. Register one and teach it its first rows:"),
    h("pre", {}, `curl -s ${location.origin}/v1/tasks -H 'Content-Type: application/json' \\\n  -d '{"key": "xor", "outputs": 2, "inputs": 2}'\ncurl -s ${location.origin}/v1/update -H 'Content-Type: application/json' \\\n  -d '{"context": "xor", "inputs": [[0,1],[1,1]], "targets": [1,0], "steps": 50}'`));
}

/** @param {HTMLElement} place */
function showFeed(place) {
  const shownNow = live.feed.slice(0, 14).map((record) => h("li", {}, h("span", {}, `#${record.sequence}`), h("span.what", {}, what(record)), outcome(record)));
  if (shownNow.length) fill(place, shownNow);
  else fill(place, h("li", {}, h("span", {}, "–"), h("span.muted", {}, "Nothing since the server was started.")));
}

/** @param {any} record */
function what(record) {
  if (record.kind === "update") {
    const more = record.more_contexts + record.contexts.length - 1;
    return `${record.contexts[0]}${more ? ` and ${more} more` : ""}`;
  }
  if (record.kind === "rollback") return `rollback of ${record.excluded?.map((/** @type {[number, number]} */ [a, b]) => (a === b ? `#${a}` : `#${a}–${b}`)).join(", ") || "nothing"}`;
  return `${record.kind} ${record.task ?? record.source ?? ""}`;
}

/** @param {any} record */
function outcome(record) {
  if (record.refused) return h("span.tag.bad", { title: record.refused }, "refused");
  if (record.kind !== "update") return h("span.tag", {}, record.kind);
  const measured = record.accuracy === undefined ? `loss ${fixed(record.loss, 3)}` : percent(record.accuracy);
  return h("span.muted.number", {}, `${count(record.rows)} rows · ${measured}`);
}
