/** The page: which view is shown, the API key, the connection, the colours. */

import { refusals } from "./api.js";
import { fill, h } from "./dom.js";
import { askForKey } from "./key.js";
import { live } from "./live.js";
import { notice } from "./problem.js";
import { followTheme } from "./theme.js";
import { interference } from "./views/interference.js";
import { operations } from "./views/operations.js";
import { overview } from "./views/overview.js";
import { playground } from "./views/playground.js";

/**
 * @typedef {object} View
 * @property {HTMLElement} element
 * @property {() => void} [leave] Called when another view takes its place.
 */

/** @type {Record<string, {title: string, make: (parameters: URLSearchParams) => View}>} */
const VIEWS = {
  overview: { title: "Overview", make: overview },
  interference: { title: "Interference", make: interference },
  playground: { title: "Playground", make: playground },
  operations: { title: "Operations", make: operations },
};

const main = /** @type {HTMLElement} */ (document.getElementById("main"));
const connection = /** @type {HTMLElement} */ (document.getElementById("connection"));
const keyButton = /** @type {HTMLButtonElement} */ (document.getElementById("key"));

/** @type {View | null} */
let current = null;

/** @param {boolean} moved Whether somebody asked for it: then it gets the focus. */
function show(moved) {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const name = path in VIEWS ? path : "overview";
  current?.leave?.();
  document.title = `${VIEWS[name].title} · superposed`;
  for (const link of document.querySelectorAll("#views a")) {
    if (link.getAttribute("href") === `#/${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  current = VIEWS[name].make(new URLSearchParams(query));
  fill(main, banner, current.element);
  if (moved) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

const banner = h("div");

/** Says how the connection is, in the bar, and in words where it is lost. */
function showConnection() {
  const { state, problem } = live.stream;
  const words = { connecting: "Connecting…", live: "Live", waiting: "Reconnecting…", refused: "Not connected" };
  connection.dataset.state = state;
  connection.textContent = words[state];
  if (state === "live") fill(banner);
  else if (state === "refused" && problem?.slug === "unauthenticated") fill(banner);
  else if (problem) fill(banner, bannered(notice(problem)));
  else if (state === "waiting") {
    const lost = h("div.notice.bad", { role: "alert" }, h("strong", {}, "The connection is lost"),
      h("span", {}, "What you see is how it was. The console connects again by itself and catches up."));
    fill(banner, bannered(lost));
  }
}

/** @param {HTMLElement} element */
function bannered(element) {
  element.classList.add("banner");
  return element;
}

/** Asks for a key; with it everything begins anew. @param {boolean} refused */
async function changeKey(refused) {
  if (await askForKey(refused)) {
    live.start();
    show(false);
  }
}

followTheme(/** @type {HTMLButtonElement} */ (document.getElementById("theme")));
live.addEventListener("state", showConnection);
live.stream.addEventListener("state", () => {
  const { state, problem } = live.stream;
  if (state === "refused" && problem?.slug === "unauthenticated") refusals.dispatchEvent(new Event("refused"));
});
refusals.addEventListener("refused", () => changeKey(true));
keyButton.addEventListener("click", () => changeKey(false));
addEventListener("hashchange", () => show(true));
live.start();
show(false);
