/** Whose updates are recorded and not learned from. */

import { get, post, remove } from "../api.js";
import { confirmed } from "../dialogs.js";
import { card, fill, h } from "../dom.js";
import { count } from "../format.js";
import { pressed, shown } from "../problem.js";

/** @returns {HTMLElement} */
export function quarantineCard() {
  const list = h("div", {}, h("p.loading", {}, "Loading…"));
  const outcome = h("div");
  const refresh = () => shown(list, async () => {
    const held = await get("v1/quarantine");
    if (!held.length) return fill(list, h("p.muted", {}, "Nobody is in quarantine."));
    fill(list, h("ol.taught", {}, ...held.map((/** @type {any} */ one) => entry(one, outcome, refresh))));
  });
  const source = /** @type {HTMLInputElement} */ (h("input", { required: true, placeholder: "digits, or key:<id>", spellcheck: "false" }));
  const button = /** @type {HTMLButtonElement} */ (h("button", {}, "Hold back…"));
  const form = h("form.form.sub", {}, h("label", {}, "Task key, or key:<id>", source), button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = source.value.trim();
    const sure = await confirmed(`Put ${name} in quarantine?`, "Its updates are recorded from here on, and not learned from, until it is released.", "Hold back");
    if (!sure) return;
    const done = await pressed(button, outcome, () => post("v1/quarantine", { source: name, reason: "by hand, from the console" }));
    if (done) refresh();
  });
  refresh();
  return card("Quarantine", { note: "The poison detector puts sources here whose updates push other tasks down." }, list, outcome, form);
}

/** @param {{source: string, since: number, reason: any}} held @param {HTMLElement} outcome @param {() => void} refresh */
function entry({ source, since, reason }, outcome, refresh) {
  const button = /** @type {HTMLButtonElement} */ (h("button.small", { type: "button", "aria-label": `Release ${source}` }, "Release"));
  button.addEventListener("click", async () => {
    await pressed(button, outcome, () => remove(`v1/quarantine/${encodeURIComponent(source)}`));
    refresh();
  });
  const why = reason ? ` · ${reason.by}${reason.text ? `: ${reason.text}` : ""}` : "";
  return h("li", {}, h("strong", {}, source), h("span.muted", {}, `since #${count(since)}${why}`), button);
}
