/** For whoever runs the store: health, snapshots, going back, quarantine, API keys. */

import { h } from "../dom.js";
import { healthCard } from "../operations/health.js";
import { historyCard, snapshotsCard } from "../operations/history.js";
import { keysCard } from "../operations/keys.js";
import { quarantineCard } from "../operations/quarantine.js";

/** @returns {import("../app.js").View} */
export function operations() {
  const health = healthCard();
  const snapshots = snapshotsCard();
  const element = h("div.stack", {},
    h("div.intro", {}, h("h1", {}, "Operations"),
      h("p", {}, "What was answered is on the disk. From here it can be kept once more, gone back to, or held back. Most of this takes an API key of scope admin, once the server has keys.")),
    h("div.split", {}, health.element, snapshots.element),
    h("div.split", {}, historyCard(snapshots.refresh), quarantineCard()),
    keysCard());
  return { element, leave: health.leave };
}
