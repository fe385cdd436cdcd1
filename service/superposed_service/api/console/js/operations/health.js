/** How the service is, and what it runs on. */

import { get, Problem } from "../api.js";
import { card, fill, h } from "../dom.js";
import { bytes, count } from "../format.js";
import { live } from "../live.js";
import { shown } from "../problem.js";

const EVERY_MS = 5000;

/** @returns {import("../app.js").View} */
export function healthCard() {
  const place = h("div", {}, h("p.loading", {}, "Asking…"));
  const state = h("span.tag", { role: "status" }, "…");
  const refresh = () => shown(place, async () => {
    const [ready, store] = await Promise.all([readiness(), get("v1/store")]);
    state.className = `tag ${ready ? "bad" : "good"}`;
    state.textContent = ready ? "not ready" : "ready";
    fill(place, ready && h("div.notice.bad.banner", {}, h("strong", {}, "Not ready"), h("span", {}, ready)), facts(store));
  });
  refresh();
  // Where this tab was refused, asking again would only ask for a key again.
  const often = setInterval(() => live.stream.state !== "refused" && refresh(), EVERY_MS);
  return { element: card("Health", { end: state }, place), leave: () => clearInterval(often) };
}

/** Why it is not ready; "" where it is. */
async function readiness() {
  try {
    await get("health/ready");
    return "";
  } catch (error) {
    if (error instanceof Problem && error.status === 503) return error.message;
    throw error;
  }
}

/** @param {any} store */
function facts(store) {
  const { journal, recovery, fingerprint } = store;
  const rows = {
    Sequence: `#${count(store.sequence)}`,
    Journal: `records ${count(journal.horizon + 1)} to ${count(journal.sequence)}; ${count(journal.records_since_snapshot)} since the newest snapshot`,
    "Came back from": `snapshot ${recovery.snapshot}, ${count(recovery.replayed)} records replayed${recovery.fingerprint_changed ? ", by other arithmetic than before" : ", bit for bit"}`,
    "Damaged snapshots": recovery.damaged.join(", ") || "none",
    Memory: `${bytes(store.bytes.weights)} weights, ${bytes(store.bytes.optimizer)} optimizer, ${bytes(store.bytes.contexts_cached)} contexts`,
    "Runs on": `${store.device}, ${store.dtype}${fingerprint.cpu ? `, ${fingerprint.cpu}` : ""}${fingerprint.torch ? `, torch ${fingerprint.torch}` : ""}`,
    Optimizer: `${store.optimizer.name}, learning rate ${store.optimizer.learning_rate}`,
  };
  return h("dl.facts", {}, ...Object.entries(rows).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}
