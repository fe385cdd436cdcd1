/** “Which task is this?”: asks the store which context rows belong to. */

import { call } from "../api.js";
import { fill, h } from "../dom.js";
import { live } from "../live.js";
import { pressed } from "../problem.js";
import { bars } from "./answer.js";

const MOST_CANDIDATES = 64;
const SHOWN = 8;

/**
 * @param {() => number[][]} rows
 * @returns {HTMLElement}
 */
export function locator(rows) {
  const place = h("div");
  const list = h("ol.bars.long", { "aria-label": "How likely each task is" });
  const button = /** @type {HTMLButtonElement} */ (h("button", { type: "button" }, "Which task is this?"));
  button.addEventListener("click", () => {
    const inputs = rows();
    if (!inputs.length) return fill(place, h("div.notice", { role: "alert" }, "There is nothing to place yet: draw something, or give a row."));
    pressed(button, place, async () => {
      fill(list);
      const answer = await call("POST", "v1/locate", { body: { inputs, candidates: candidates(inputs[0].length) } });
      const best = [...answer.scores].sort((a, b) => b.probability - a.probability).slice(0, SHOWN);
      bars(list, best.map((one) => ({ name: one.context, value: one.probability, best: one.context === answer.best })));
      return answer;
    }, "Placed.");
  });
  return h("div.stack", {}, h("p.muted", {}, "The store compares how sure each task's context makes it."), h("div.row", {}, button), place, list);
}

/** The tasks whose rows are as wide, those with the most rows first. @param {number} width */
function candidates(width) {
  return [...live.tasks.values()]
    .filter((task) => task.inputs === width && task.updates > 0)
    .sort((a, b) => b.rows_seen - a.rows_seen)
    .slice(0, MOST_CANDIDATES)
    .map((task) => task.key);
}
