/** One task, in a panel at the side. */

import { get, remove } from "./api.js";
import { axis, Chart, tooltip } from "./charts.js";
import { asked, confirmed } from "./dialogs.js";
import { fill, h } from "./dom.js";
import { count, fixed, percent } from "./format.js";
import { live } from "./live.js";
import { pressed, shown } from "./problem.js";

/** Opens a task's panel and waits until it is closed. @param {string} key */
export async function openTask(key) {
  const place = h("div.stack", {}, h("p.loading", {}, "Loading…"));
  const dialog = /** @type {HTMLDialogElement} */ (
    h("dialog.side", { "aria-labelledby": "task-title" },
      h("div.stack", {},
        h("div.row", {}, h("h2", { id: "task-title" }, key),
          h("form.end", { method: "dialog" }, h("button.quiet", { "aria-label": "Close" }, "✕"))),
        place))
  );
  const closed = asked(dialog);
  shown(place, async () => {
    const path = `v1/tasks/${encodeURIComponent(key)}`;
    const [task, evaluations] = await Promise.all([get(path), get(`${path}/evaluations`)]);
    fill(place, details(task, evaluations), curve(key, task), evaluationsChart(evaluations), actions(dialog, key));
  });
  await closed;
}

/** @param {any} task @param {{sequence: number, accuracy: number, rows: number}[]} evaluations */
function details(task, evaluations) {
  const seen = task.prequential;
  const held = [...evaluations].sort((a, b) => a.sequence - b.sequence).at(-1);
  const facts = {
    "Rows seen": `${count(task.rows_seen)} in ${count(task.updates)} updates`,
    "Each row before it was learned (first pass)": `${task.loss === "mse" ? "" : `${percent(seen.accuracy)}, `}loss ${fixed(seen.loss, 4)}`,
    "Held-out rows (newest evaluation)": held ? `${percent(held.accuracy)} of ${count(held.rows)}, at #${count(held.sequence)}` : "not evaluated yet",
    "Last change": `#${count(task.last_sequence)}`,
    Takes: task.encoder ? `${task.kind}, by encoder ${task.encoder}` : task.kind,
    Shape: `${count(task.inputs)} features → ${task.labels ? task.labels.slice(0, 12).join(", ") : `${count(task.outputs)} outputs`}`,
    Loss: task.loss,
    Scaling: task.scaling === "running" ? "by running statistics" : task.offset || task.scale ? "(x − offset) / scale" : "as it comes",
    Features: task.features ? task.features.map((/** @type {{name: string, kind: string}} */ one) => `${one.name} (${one.kind})`).join(", ") : "by position",
    Temperature: fixed(task.temperature, 2),
    Description: task.description || "–",
  };
  return h("div.stack", {},
    task.quarantined !== null && h("div.notice.bad", {}, h("strong", {}, "In quarantine"),
      h("span", {}, `Since #${task.quarantined} its updates are recorded and not learned from.`)),
    h("dl.facts", {}, ...Object.entries(facts).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])));
}

/** @param {string} key @param {any} task */
function curve(key, task) {
  const history = live.histories.get(key) ?? [];
  if (history.length < 2) return h("p.muted", {}, "No updates since the server was started: the curve begins with the next ones.");
  const accuracy = task.loss !== "mse";
  const chart = new Chart(`${accuracy ? "Accuracy" : "Loss"} of each update before it was learned`, (colours) => ({
    grid: { left: 4, right: 10, top: 12, bottom: 4, containLabel: true },
    tooltip: { ...tooltip(colours), trigger: "axis", valueFormatter: (/** @type {number} */ value) => (accuracy ? percent(value) : fixed(value, 3)) },
    xAxis: axis(colours, { type: "value", min: "dataMin", max: "dataMax", splitLine: { show: false } }),
    yAxis: axis(colours, { type: "value", scale: true, axisLabel: { color: colours["ink-3"], formatter: accuracy ? (/** @type {number} */ v) => `${Math.round(100 * v)} %` : undefined } }),
    series: [{ type: "line", showSymbol: false, lineStyle: { width: 2 }, data: history.map((point) => [point.sequence, accuracy ? point.accuracy : point.loss]) }],
  }));
  return h("figure", {}, h("h3", {}, `${accuracy ? "Accuracy" : "Loss"} of its newest updates, before each was learned`), chart.element);
}

/** @param {{tasks: number, accuracy: number, rows: number}[]} evaluations */
function evaluationsChart(evaluations) {
  if (!evaluations.length) return h("p.muted", {}, "Not evaluated yet: POST /v1/evaluate measures it on rows of its own.");
  const chart = new Chart("Evaluated accuracy against the number of tasks taught", (colours) => ({
    grid: { left: 4, right: 14, top: 12, bottom: 22, containLabel: true },
    tooltip: { ...tooltip(colours), trigger: "axis", valueFormatter: percent },
    xAxis: axis(colours, { type: "value", name: "tasks taught", nameLocation: "middle", nameGap: 24, minInterval: 1, splitLine: { show: false }, scale: true }),
    yAxis: axis(colours, { type: "value", scale: true, max: 1, axisLabel: { color: colours["ink-3"], formatter: (/** @type {number} */ v) => `${Math.round(100 * v)} %` } }),
    series: [{ type: "line", lineStyle: { width: 2 }, symbolSize: 6, data: [...evaluations].sort((a, b) => a.tasks - b.tasks).map((one) => [one.tasks, one.accuracy]) }],
  }));
  return h("figure", {}, h("h3", {}, "Evaluations: what is left of it as others are learned"), chart.element);
}

/** @param {HTMLDialogElement} dialog @param {string} key */
function actions(dialog, key) {
  const place = h("div");
  const close = () => dialog.close();
  const erase = /** @type {HTMLButtonElement} */ (h("button.danger", { type: "button" }, "Delete task"));
  erase.addEventListener("click", async () => {
    const sure = await confirmed(`Delete ${key}?`, "Registered again, the key gets a fresh context: this model does not come back, except by a rollback.", "Delete");
    if (!sure) return;
    await pressed(erase, place, async () => {
      await remove(`v1/tasks/${encodeURIComponent(key)}`);
      close();
    });
  });
  return h("div.stack", {}, h("div.row", {},
    h("a.button", { href: `#/playground?task=${encodeURIComponent(key)}`, onclick: close }, "Open in the playground"),
    h("a.button", { href: `#/interference?task=${encodeURIComponent(key)}`, onclick: close }, "See its interference"),
    erase), place);
}
