/** Snapshots, and going back in the store's past. */

import { get, post } from "../api.js";
import { confirmed } from "../dialogs.js";
import { card, fill, h } from "../dom.js";
import { bytes, count } from "../format.js";
import { pressed, shown } from "../problem.js";

/** @returns {{element: HTMLElement, refresh: () => void}} */
export function snapshotsCard() {
  const list = h("div", {}, h("p.loading", {}, "Loading…"));
  const outcome = h("div");
  const refresh = () => shown(list, async () => {
    const snapshots = await get("v1/snapshots");
    fill(list, h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Snapshots" }, h("table", {},
      h("thead", {}, h("tr", {}, ...["At", "Size", "Taken", ""].map((name) => h("th", { scope: "col" }, name || h("span.unseen", {}, "Action"))))),
      h("tbody", {}, ...[...snapshots].reverse().map((one) => row(one, outcome, refresh))))));
  });
  const take = /** @type {HTMLButtonElement} */ (h("button.small", { type: "button" }, "Take a snapshot"));
  take.addEventListener("click", async () => {
    const made = await pressed(take, outcome, () => post("v1/snapshots"), "Snapshot taken.");
    if (!made) return;
    fill(outcome, h("div.notice.good", { role: "status" }, h("strong", {}, `Snapshot at #${count(made.sequence)}`), h("span", {}, `${bytes(made.bytes)} on the disk.`)));
    refresh();
  });
  refresh();
  return { element: card("Snapshots", { end: take }, list, outcome), refresh };
}

/** @param {any} snapshot @param {HTMLElement} outcome @param {() => void} refresh */
function row(snapshot, outcome, refresh) {
  const restore = /** @type {HTMLButtonElement} */ (h("button.small", { type: "button", "aria-label": `Go back to snapshot #${snapshot.sequence}` }, "Go back"));
  restore.addEventListener("click", async () => {
    const sure = await confirmed(`Go back to #${count(snapshot.sequence)}?`, "All that came after it is taken out of the store's past. The records stay in the journal, and a later rollback can undo this.", "Go back");
    if (!sure) return;
    const done = await pressed(restore, outcome, () => post(`v1/snapshots/${encodeURIComponent(snapshot.id)}/restore`));
    if (done) fill(outcome, wentBack(done));
    if (done) refresh();
  });
  const taken = new Date(snapshot.created).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  return h("tr", {}, h("td", {}, `#${count(snapshot.sequence)}`), h("td", {}, bytes(snapshot.bytes)), h("td", {}, taken), h("td.right", {}, restore));
}

/** @param {any} answer */
function wentBack(answer) {
  const ranges = answer.excluded.map((/** @type {[number, number]} */ [first, last]) => (first === last ? `#${first}` : `#${first} to #${last}`)).join(", ");
  return h("div.notice.good", { role: "status" }, h("strong", {}, answer.excluded.length ? "Taken out of the past" : "Nothing was to be taken out"),
    h("span", {}, answer.excluded.length ? `${ranges}. The rollback is #${count(answer.sequence)}.` : `The store is as it was, at #${count(answer.sequence)}.`));
}

/** What a rollback may take out. @type {Record<string, {title: string, ask: string, kind: string, read: (text: string) => any}>} */
const SELECTIONS = {
  to: { title: "All that came after", ask: "Sequence number", kind: "number", read: (text) => ({ to_sequence: Number(text) }) },
  task: { title: "A task's updates", ask: "Task key", kind: "text", read: (text) => ({ without: { task: text } }) },
  key: { title: "An API key's updates", ask: "API key's id", kind: "text", read: (text) => ({ without: { api_key: text } }) },
  range: { title: "A range of records", ask: "First–last", kind: "text", read: (text) => ({ without: { sequences: range(text) } }) },
};

/** @param {string} text */
function range(text) {
  const [first, last] = text.split(/[–\-, ]+/).map(Number);
  return [first, last ?? first];
}

/** @param {() => void} changed @returns {HTMLElement} */
export function historyCard(changed) {
  const outcome = h("div");
  const kind = /** @type {HTMLSelectElement} */ (h("select", {}, ...Object.entries(SELECTIONS).map(([name, { title }]) => h("option", { value: name }, title))));
  const value = /** @type {HTMLInputElement} */ (h("input", { required: true, type: "number", min: 0 }));
  const ask = h("span", {}, SELECTIONS.to.ask);
  kind.addEventListener("change", () => {
    ask.textContent = SELECTIONS[kind.value].ask;
    value.type = SELECTIONS[kind.value].kind;
    value.value = "";
  });
  const button = /** @type {HTMLButtonElement} */ (h("button.danger", {}, "Roll back…"));
  const form = h("form.form", {}, h("label", {}, "Take out", kind), h("label", {}, ask, value), button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { title, read } = SELECTIONS[kind.value];
    const sure = await confirmed("Roll back?", `${title}: ${value.value}. The store is rebuilt as if those records had never been, while other requests wait.`, "Roll back");
    if (!sure) return;
    const done = await pressed(button, outcome, () => post("v1/rollback", read(value.value.trim())));
    if (done) fill(outcome, wentBack(done));
    if (done) changed();
  });
  return card("Rollback", { note: "Takes records out of the store's past: bit for bit as if they had never been." }, form, outcome);
}
