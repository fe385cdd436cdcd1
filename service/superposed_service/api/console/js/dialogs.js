/** Questions that wait for an answer. */

import { h } from "./dom.js";

/**
 * Opens a dialog and waits until it is closed.
 * @param {HTMLDialogElement} dialog
 * @returns {Promise<string>} The value it was closed with; "" where it was dismissed.
 */
export function asked(dialog) {
  document.body.append(dialog);
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
    dialog.returnValue = "";
    dialog.showModal();
  });
}

/**
 * Asks whether something is really meant.
 * @param {string} question
 * @param {string} consequence What happens then.
 * @param {string} action The button's word.
 * @returns {Promise<boolean>}
 */
export async function confirmed(question, consequence, action) {
  const dialog = /** @type {HTMLDialogElement} */ (
    h("dialog", { "aria-labelledby": "question" },
      h("form", { method: "dialog" },
        h("h2", { id: "question" }, question),
        h("p", {}, consequence),
        h("div.row", {},
          h("button", { value: "", autofocus: true }, "Cancel"),
          h("button.first.danger", { value: "yes" }, action))))
  );
  return (await asked(dialog)) === "yes";
}
