/** The dialog that asks for an API key. */

import { apiKey, setApiKey } from "./api.js";
import { asked } from "./dialogs.js";
import { h } from "./dom.js";

let open = false;

/**
 * Asks for an API key, once at a time.
 * @param {boolean} refused Whether a request was refused for want of one.
 * @returns {Promise<boolean>} Whether there is another key now.
 */
export async function askForKey(refused) {
  if (open) return false;
  open = true;
  const had = apiKey();
  const input = /** @type {HTMLInputElement} */ (
    h("input", { id: "api-key", type: "password", autocomplete: "off", spellcheck: "false", placeholder: "sp-…", value: refused ? "" : had })
  );
  const why = had
    ? "The server does not take the key that this tab has: it is wrong, over, or was revoked."
    : "This server asks for an API key.";
  const dialog = /** @type {HTMLDialogElement} */ (
    h("dialog", { "aria-labelledby": "key-title" },
      h("form", { method: "dialog" },
        h("h2", { id: "key-title" }, "API key"),
        refused && h("div.notice.bad", { role: "alert" }, h("strong", {}, had ? "Key refused" : "A key is needed"), h("span", {}, why)),
        h("label", {}, "Key", input),
        h("p", {}, h("small", {}, "Kept in this tab only, until it is closed. Keys are made with ", h("code", {}, "superposed keys create"), ".")),
        h("div.row", {},
          h("button", { value: "", formnovalidate: true }, "Cancel"),
          had && !refused && h("button", { value: "forget" }, "Forget key"),
          h("button.first", { value: "use" }, "Use key"))))
  );
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return; // the first button of the form is not the one that is meant
    event.preventDefault();
    dialog.close("use");
  });
  try {
    const answer = await asked(dialog);
    if (!answer) return false;
    setApiKey(answer === "use" ? input.value.trim() : "");
    return true;
  } finally {
    open = false;
  }
}
