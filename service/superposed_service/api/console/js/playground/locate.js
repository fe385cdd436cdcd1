/** “Which task is this?”: asks the store which context rows belong to. */

import { call } from "../api.js";
import { fill, h } from "../dom.js";
import { live } from "../live.js";
import { pressed } from "../problem.js";
import { bars } from "./answer.js";
import { asSent } from "./originals.js";

const MOST_CANDIDATES = 64;
const SHOWN = 8;

/**
 * @param {() => import("./originals.js").Row[]} rows
 * @returns {HTMLElement}
 */
export function locator(rows) {
  const place = h("div");
  const list = h("ol.bars.long", { "aria-label": "How likely each task is" });
  const button = /** @type {HTMLButtonElement} */ (h("button", { type: "button" }, "Which task is this?"));
  button.addEventListener("click", () => {
    const given = rows();
    if (!given.length) return fill(place, h("div.notice", { role: "alert" }, "There is nothing to place yet: draw something, or give a row."));
    pressed(button, place, async () => {
      fill(list);
      const answer = await call("POST", "v1/locate", { body: { ...asSent(given), candidates: candidates(given[0]) } });
      const best = [...answer.scores].sort((a, b) => b.probability - a.probability).slice(0, SHOWN);
      bars(list, best.map((one) => ({ name: one.context, value: one.probability, best: one.context === answer.best })));
      return answer;
    }, "Placed.");
  });
  return h("div.stack", {}, h("p.muted", {}, "The store compares how sure each task's context makes it."), h("div.row", {}, button), place, list);
}

/** The tasks that take such rows, those with the most rows first. @param {import("./originals.js").Row} row */
function candidates(row) {
  const kind = typeof row === "string" ? "texts" : "record" in row ? "records" : "images";
  return [...live.tasks.values()]
    .filter((task) => task.updates > 0 && (Array.isArray(row) ? task.inputs === row.length && task.kind !== "records" : task.kind === kind))
    .sort((a, b) => b.rows_seen - a.rows_seen)
    .slice(0, MOST_CANDIDATES)
    .map((task) => task.key);
}
