/** API keys: made, shown once, renewed, revoked. */

import { apiKey, get, post, remove, setApiKey } from "../api.js";
import { confirmed } from "../dialogs.js";
import { card, fill, h } from "../dom.js";
import { moment } from "../format.js";
import { pressed, shown } from "../problem.js";

/** @returns {HTMLElement} */
export function keysCard() {
  const list = h("div", {}, h("p.loading", {}, "Loading…"));
  const outcome = h("div");
  const scope = /** @type {HTMLSelectElement} */ (h("select", {}, ...["infer", "update", "admin"].map((one) => h("option", { value: one }, one))));
  const refresh = () => shown(list, async () => {
    const keys = await get("v1/keys");
    if (!keys.length) {
      scope.value = "admin"; // the first key closes the server: one that makes others is wanted first
      return fill(list, h("div.notice", {}, h("strong", {}, "No API keys"), h("span", {}, "Whoever reaches this server may do anything. From the first key on, every request needs one: make an admin key first.")));
    }
    fill(list, h("div.scroll", { tabindex: 0, role: "region", "aria-label": "API keys" }, h("table", {},
      h("thead", {}, h("tr", {}, ...["Id", "Name", "Scope", "Tasks", "Made", "Expires", "State", ""].map((name) => h("th", { scope: "col" }, name || h("span.unseen", {}, "Actions"))))),
      h("tbody", {}, ...keys.map((/** @type {any} */ key) => row(key, outcome, refresh))))));
  });
  refresh();
  return card("API keys", { note: "A key's secret is shown once, when it is made. Records name the key that asked for them." }, list, outcome, maker(scope, outcome, refresh));
}

/** @param {any} key @param {HTMLElement} outcome @param {() => void} refresh */
function row(key, outcome, refresh) {
  const over = key.expires !== null && key.expires * 1000 < Date.now();
  const [state, tone] = key.revoked ? ["revoked", "bad"] : over ? ["expired", "warn"] : ["good", "good"];
  const renew = action("Renew", `Renew key ${key.id}?`, "It gets a new secret; the old one is no good at once.", outcome, async () => {
    showSecret(outcome, await post(`v1/keys/${key.id}/rotate`));
  });
  const revoke = action("Revoke", `Revoke key ${key.id}?`, "It is no good at once, and does not come back.", outcome, async () => {
    await remove(`v1/keys/${key.id}`);
    refresh();
  });
  const cells = [h("code", {}, key.id), key.name || "–", key.scope, h("code", {}, key.tasks), moment(key.created), moment(key.expires), h(`span.tag.${tone}`, {}, state)];
  return h("tr", {}, ...cells.map((cell) => h("td", {}, cell)), h("td.right", {}, key.revoked ? "" : h("div.row", {}, renew, revoke)));
}

/** @param {string} word @param {string} question @param {string} consequence @param {HTMLElement} outcome @param {() => Promise<void>} work */
function action(word, question, consequence, outcome, work) {
  const button = /** @type {HTMLButtonElement} */ (h("button.small", { type: "button" }, word));
  button.addEventListener("click", async () => {
    if (await confirmed(question, consequence, word)) await pressed(button, outcome, work);
  });
  return button;
}

/** @param {HTMLSelectElement} scope @param {HTMLElement} outcome @param {() => void} refresh */
function maker(scope, outcome, refresh) {
  const name = /** @type {HTMLInputElement} */ (h("input", { maxlength: 256 }));
  const tasks = /** @type {HTMLInputElement} */ (h("input", { value: "*", required: true, spellcheck: "false" }));
  const days = /** @type {HTMLInputElement} */ (h("input", { type: "number", min: 1, placeholder: "never" }));
  const button = /** @type {HTMLButtonElement} */ (h("button.first", {}, "Make a key"));
  const form = h("form.form.sub", {}, h("label", {}, "Name", name), h("label", {}, "Scope", scope), h("label", {}, "Tasks (* and ?)", tasks), h("label", {}, "Days until it expires", days), button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const expires = days.value ? Date.now() / 1000 + Number(days.value) * 86_400 : null;
    const made = await pressed(button, outcome, () => post("v1/keys", { name: name.value, scope: scope.value, tasks: tasks.value, expires }), "Key made.");
    if (!made) return;
    // The first key closes the server to whoever has none: this tab goes on with it.
    if (!apiKey()) setApiKey(made.key);
    showSecret(outcome, made);
    refresh();
  });
  return form;
}

/** @param {HTMLElement} place @param {{id: string, key: string}} made */
function showSecret(place, made) {
  const copy = h("button.small", { type: "button", onclick: () => navigator.clipboard?.writeText(made.key) }, "Copy");
  fill(place, h("div.notice.good", { role: "status" }, h("strong", {}, `Key ${made.id}: shown now and never again`), h("div.secret", {}, made.key), h("div.row", {}, copy)));
}
