/** Ask, compose, teach and take back, by hand. */

import { get } from "../api.js";
import { card, fill, h } from "../dom.js";
import { live } from "../live.js";
import { notice, shown } from "../problem.js";
import { Answer } from "../playground/answer.js";
import { Composer } from "../playground/composer.js";
import { sideOf } from "../playground/digit.js";
import { RowInput } from "../playground/input.js";
import { locator } from "../playground/locate.js";
import { Teacher } from "../playground/teach.js";

/**
 * @param {URLSearchParams} parameters
 * @returns {import("../app.js").View}
 */
export function playground(parameters) {
  const leaving = new AbortController();
  const place = h("div", {}, h("p.loading", {}, "Loading the tasks…"));
  const element = h("div", {},
    h("div.intro", {}, h("h1", {}, "Playground"),
      h("p", {}, "Draw a digit and watch the answer move. Mix contexts, turn them by a power, teach the store what it did not know, and take it back.")),
    place);
  const begin = () => {
    if (live.failure && !live.tasks.size) return fill(place, notice(live.failure));
    if (!live.loaded) return;
    if (!live.tasks.size) return fill(place, h("div.card", {}, h("div.empty", {}, h("strong", {}, "No tasks yet"), h("p", {}, "Register a task first; the overview shows how."))));
    leaving.abort();
    fill(place, bench(parameters.get("task") ?? firstTask()));
  };
  live.addEventListener("tasks", begin, { signal: leaving.signal });
  begin();
  return { element, leave: () => leaving.abort() };
}

/** A task that was taught and whose rows are pictures, where there is one; of several that with the shortest name. */
function firstTask() {
  const rank = (/** @type {import("../live.js").Task} */ task) => Number(sideOf(task) !== null) + Number(task.updates > 0);
  const [first] = [...live.tasks.values()].sort((a, b) => rank(b) - rank(a) || a.key.length - b.key.length || (a.key < b.key ? -1 : 1));
  return first.key;
}

/** @param {string} first */
function bench(first) {
  const composer = new Composer(first);
  const input = new RowInput();
  const answer = new Answer();
  const problem = h("div");
  /** @type {any} */
  let task = null;
  const current = () => task && { context: composer.expression, rows: input.rows(), task };
  const teacher = new Teacher(current);
  const ask = () => {
    const now = current();
    if (now) answer.ask(now.context, now.rows, now.task);
  };
  const compose = async () => {
    const key = composer.heaviest;
    if (task?.key !== key) {
      const found = await shown(problem, () => get(`v1/tasks/${encodeURIComponent(key)}`));
      if (!found || key !== composer.heaviest) return;
      fill(problem);
      task = found;
      input.show(task);
      teacher.show(task);
    }
    ask();
  };
  composer.addEventListener("change", compose);
  input.addEventListener("change", ask);
  teacher.addEventListener("taught", ask);
  compose();
  return h("div.bench", {},
    h("div.stack", {},
      card("Context", { note: "Whose model answers: a task, a mixture of several, or a power of it." }, composer.element, problem),
      card("Which task is this?", {}, locator(() => input.rows()))),
    h("div.stack.drawing", {}, card("Row", { note: "What is asked about." }, input.element)),
    h("div.stack", {},
      card("Answer", {}, answer.element),
      card("Teach", { note: "One online update of the shared weights, journalled, and undone by a rollback." }, teacher.element)));
}
