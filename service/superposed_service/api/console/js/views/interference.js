/** How tasks stand to each other: contexts that hardly overlap, and what that leaves of crosstalk. */

import { get } from "../api.js";
import { axis, Chart, heatmap, tooltip } from "../charts.js";
import { card, fill, h } from "../dom.js";
import { count, percent, short } from "../format.js";
import { live } from "../live.js";
import { shown } from "../problem.js";

const MOST = 24;
const AT_FIRST = 8;
// Overlaps of contexts drawn independently are within a few hundredths of 0; beyond this all look alike.
const OVERLAP_SHOWN = 0.25;

/** Chosen before, so that one comes back to the same picture. @type {Set<string>} */
let picked = new Set();

/**
 * @param {URLSearchParams} parameters
 * @returns {import("../app.js").View}
 */
export function interference(parameters) {
  const leaving = new AbortController();
  const result = h("div.stack");
  const capacity = h("div");
  const wanted = parameters.get("task");
  if (wanted) picked = new Set([wanted, ...picked].slice(0, MOST));
  const picker = pickerCard(() => measure(result));
  let begun = false;
  const begin = () => {
    if (!live.loaded) return;
    picked = new Set([...picked].filter((key) => live.tasks.has(key)));
    if (!begun && picked.size < 2) picked = new Set([...picked, ...mostTaught()].slice(0, AT_FIRST).sort());
    picker.update();
    if (!begun) measure(result);
    begun = true;
  };
  live.addEventListener("tasks", begin, { signal: leaving.signal });
  begin();
  shown(capacity, () => showCapacity(capacity));
  const element = h("div.stack", {},
    h("div.intro", {}, h("h1", {}, "What tasks do to each other"),
      h("p", {}, "Contexts are drawn at random, so any two are nearly orthogonal: what is bound with one looks like noise under another. That noise is the price of sharing weights. Here it is measured.")),
    picker.element, result, capacity);
  return { element, leave: () => leaving.abort() };
}

/** The tasks with the most rows first. */
const mostTaught = () => [...live.tasks.values()].sort((a, b) => b.rows_seen - a.rows_seen).map((task) => task.key);

/** @param {() => void} changed */
function pickerCard(changed) {
  const chips = h("div.chips", { role: "group", "aria-label": "Tasks to compare" });
  const search = /** @type {HTMLInputElement} */ (h("input", { type: "search", placeholder: "Find a task", "aria-label": "Find a task to compare" }));
  const said = h("small.muted", { role: "status" });
  let drawn = "";
  const update = () => {
    const text = search.value.trim().toLowerCase();
    const others = mostTaught().filter((key) => !picked.has(key) && key.toLowerCase().includes(text)).slice(0, 16);
    const now = JSON.stringify([[...picked], others]);
    // Tasks change several times a second: a chip that is being pressed must stay where it is.
    if (now !== drawn) fill(chips, ...[...picked, ...others].map(chip));
    drawn = now;
    said.textContent = `${picked.size} of at most ${MOST} picked${live.tasks.size ? `, out of ${count(live.tasks.size)}` : ""}`;
  };
  const chip = (/** @type {string} */ key) => {
    const full = picked.size >= MOST && !picked.has(key);
    return h("button.chip", { type: "button", "data-key": key, "aria-pressed": String(picked.has(key)), disabled: full, onclick: () => toggle(key) }, key);
  };
  const toggle = (/** @type {string} */ key) => {
    if (!picked.delete(key)) picked.add(key);
    update();
    /** @type {HTMLElement | null} */ (chips.querySelector(`[data-key="${CSS.escape(key)}"]`))?.focus();
    changed();
  };
  search.addEventListener("input", update);
  return { element: card("Tasks", { end: search }, chips, h("p", {}, said)), update };
}

let turn = 0;

/** @param {HTMLElement} place */
async function measure(place) {
  const mine = (turn += 1);
  const keys = [...picked];
  if (!live.tasks.size) return fill(place, h("div.card", {}, h("div.empty", {}, h("strong", {}, "No tasks yet"), h("p", {}, "Interference takes two: teach the store some tasks first."))));
  if (keys.length < 2) return fill(place, h("div.card", {}, h("div.empty", {}, h("strong", {}, "Pick two tasks or more"))));
  const list = keys.map(encodeURIComponent).join(",");
  const problem = h("div");
  const found = await shown(problem, async () => {
    const all = keys.map((key) => get(`v1/tasks/${encodeURIComponent(key)}/evaluations`));
    return [await get(`v1/interference?tasks=${list}`), await Promise.all(all)];
  });
  if (mine !== turn) return; // another choice was made meanwhile
  if (!found) return fill(place, problem);
  const [matrices, evaluations] = found;
  fill(place, h("div.split", {}, overlapCard(matrices), crosstalkCard(matrices)), forgettingCard(keys, evaluations));
}

/** @param {{tasks: string[], overlap: number[][]}} matrices */
function overlapCard({ tasks, overlap }) {
  const others = tasks.flatMap((_, a) => tasks.flatMap((__, b) => (a === b ? [] : [Math.abs(overlap[a][b])])));
  const largest = Math.max(...others);
  const chart = heatmap(`Overlap of the contexts of ${tasks.length} tasks; between different tasks at most ${largest.toFixed(3)}`, () => ({
    names: tasks,
    cells: cells(tasks, (a, b) => overlap[a][b]),
    least: -OVERLAP_SHOWN, most: OVERLAP_SHOWN, diverging: true,
    text: (value) => value.toFixed(2).replace("-0.00", "0.00"),
    pair: (a, b, value) => (a === b ? `${a}\nwith itself: 1` : `${a} · ${b}\noverlap ${value.toFixed(4)}`),
  }));
  return card("Overlap of contexts", {
    note: `1 is the same context, 0 is orthogonal. Between different tasks here at most ${largest.toFixed(3)}.`,
  }, chart.element, asTable(tasks, overlap, (value) => value.toFixed(3)));
}

/** @param {{tasks: string[], crosstalk: (number[] | null)[]}} matrices */
function crosstalkCard({ tasks, crosstalk }) {
  const known = tasks.flatMap((_, a) => tasks.flatMap((__, b) => (a !== b && crosstalk[a] ? [/** @type {number[]} */ (crosstalk[a])[b]] : [])));
  if (!known.length) {
    return card("Measured crosstalk", {}, h("div.empty", {}, h("strong", {}, "No rows to measure with"),
      h("p", {}, "Crosstalk is measured at a few rows that the guard keeps of each task's updates. These tasks have none: not taught yet, or registered with keep_rows: false.")));
  }
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  const missing = tasks.filter((_, place) => !crosstalk[place]);
  const chart = heatmap(`Response to each task's rows under the others' contexts, relative to its own; on average ${percent(mean)}`, () => ({
    names: tasks,
    cells: cells(tasks, (a, b) => crosstalk[a]?.[b]),
    least: 0, most: Math.max(1, ...known), diverging: false,
    text: (value) => value.toFixed(2).replace("-0.00", "0.00"),
    pair: (a, b, value) => (a === b ? `${a}\nunder its own context: 1` : `rows of ${a}\nunder ${b}: ${value.toFixed(3)}`),
  }));
  return card("Measured crosstalk", {
    note: `How strongly the weights answer rows of a task (down) under another task's context (across); its own is 1. This is normal up to what the capacity below predicts from the weights: the noise of all tasks together, which labels outvote. A pair far above the others shares something: a group, a composition, or rows alike. On average ${mean.toFixed(2)}.${missing.length ? ` No rows kept of ${missing.join(", ")}.` : ""}`,
  }, chart.element, asTable(tasks, crosstalk, (value) => value.toFixed(3)));
}

/**
 * @param {string[]} tasks
 * @param {(a: number, b: number) => number | undefined} value
 * @returns {[number, number, number][]}
 */
function cells(tasks, value) {
  return tasks.flatMap((_, a) => tasks.flatMap((__, b) => {
    const at = value(a, b);
    return at === undefined ? [] : [/** @type {[number, number, number]} */ ([b, a, at])];
  }));
}

/** @param {string[]} tasks @param {(number[] | null)[]} matrix @param {(value: number) => string} text */
function asTable(tasks, matrix, text) {
  return h("details.table", {}, h("summary", {}, "As a table"),
    h("div.scroll", { tabindex: 0, role: "region", "aria-label": "The same as a table" }, h("table", {},
      h("thead", {}, h("tr", {}, h("td"), ...tasks.map((key) => h("th", { scope: "col" }, key)))),
      h("tbody", {}, ...tasks.map((key, a) => h("tr", {}, h("th", { scope: "row" }, key), ...tasks.map((_, b) => h("td", {}, matrix[a] ? text(matrix[a][b]) : "–"))))))));
}

/** @param {string[]} keys @param {{tasks: number, accuracy: number}[][]} evaluations */
function forgettingCard(keys, evaluations) {
  const curves = keys.map((key, place) => ({ key, points: [...evaluations[place]].sort((a, b) => a.tasks - b.tasks) })).filter(({ points }) => points.length);
  if (!curves.length) {
    return card("Forgetting", {}, h("div.empty", {}, h("strong", {}, "Not evaluated yet"),
      h("p", {}, "Each evaluation of a task (POST /v1/evaluate) is remembered with the number of tasks taught by then; the curves are made of these.")));
  }
  const last = curves.map(({ points }) => /** @type {{accuracy: number}} */ (points.at(-1)).accuracy);
  const mean = last.reduce((sum, value) => sum + value, 0) / last.length;
  const chart = new Chart(`Accuracy of ${curves.length} tasks against the number of tasks taught; now ${percent(mean)} on average`, (colours) => ({
    grid: { left: 4, right: 18, top: 44, bottom: 26, containLabel: true },
    legend: { type: "scroll", top: 0, left: 0, icon: "roundRect", itemWidth: 14, itemHeight: 4, textStyle: { color: colours["ink-2"] }, pageTextStyle: { color: colours["ink-2"] } },
    tooltip: { ...tooltip(colours), trigger: "axis", order: "valueDesc", valueFormatter: percent },
    xAxis: axis(colours, { type: "value", name: "tasks taught", nameLocation: "middle", nameGap: 26, minInterval: 1, min: "dataMin", max: "dataMax", splitLine: { show: false } }),
    yAxis: axis(colours, { type: "value", scale: true, max: 1, axisLabel: { color: colours["ink-3"], formatter: (/** @type {number} */ v) => `${Math.round(100 * v)} %` } }),
    series: curves.map(({ key, points }) => ({
      name: key, type: "line", symbolSize: 5, lineStyle: { width: 2 }, emphasis: { focus: "series" },
      data: points.map((one) => [one.tasks, one.accuracy]),
    })),
  }));
  const element = card("Forgetting", { note: `Accuracy of each task as others are learned after it, from the evaluations that the store remembers. Now ${percent(mean)} on average.` }, chart.element);
  chart.element.style.height = "340px";
  return element;
}

/** @param {HTMLElement} place */
async function showCapacity(place) {
  const { layers, tasks, tasks_left: left, mean_accuracy: mean } = await get("v1/capacity");
  const room = left
    ? [h("p.big", {}, `≈ ${short(left.estimate)} more tasks`), h("p.muted", {}, `until the mean accuracy falls by ${percent(left.accuracy_drop)}; within two standard deviations ${short(left.low)} to ${short(left.high)}. A straight line through this store's own evaluations.`)]
    : [h("p.big", {}, "Not known yet"), h("p.muted", {}, "Predicted once evaluations at three or more numbers of tasks show a fall.")];
  const chart = new Chart("Crosstalk by layer, predicted from the weights and measured", (colours) => ({
    grid: { left: 4, right: 10, top: 40, bottom: 4, containLabel: true },
    legend: { top: 0, left: 0, icon: "roundRect", itemWidth: 14, itemHeight: 8, textStyle: { color: colours["ink-2"] } },
    tooltip: { ...tooltip(colours), trigger: "axis", axisPointer: { type: "shadow" }, valueFormatter: (/** @type {number} */ value) => value.toFixed(3) },
    xAxis: axis(colours, { type: "category", data: layers.map((/** @type {any} */ layer) => layer.name) }),
    yAxis: axis(colours, { type: "value", min: 0 }),
    series: [["predicted", "crosstalk_predicted"], ["measured", "crosstalk_measured"]].map(([name, field]) => ({
      name, type: "bar", barMaxWidth: 34, itemStyle: { borderRadius: [4, 4, 0, 0] }, data: layers.map((/** @type {any} */ layer) => layer[field]),
    })),
  }));
  fill(place, card("Capacity", { note: `${count(tasks)} tasks now${mean === undefined ? "" : `, ${percent(mean)} on average`}.` },
    h("div.split", {}, h("div", {}, ...room),
      h("figure", {}, h("h3", {}, "Crosstalk by layer: predicted from the weights alone, and measured; near each other is normal"), layers.length ? chart.element : h("p.empty", {}, "Measured with the first update.")))));
}
