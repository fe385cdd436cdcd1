/** The page that shows the HTTP API, from the server's own description of it. */

import { apiKey } from "./api.js";
import { askForKey } from "./key.js";

/** @returns {Promise<Response>} The description, with this tab's API key where it has one. */
async function described() {
  const key = apiKey();
  return fetch("openapi.json", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
}

let answer = await described();
while (answer.status === 401 && (await askForKey(Boolean(apiKey())))) answer = await described();
if (answer.ok) {
  const spec = await answer.json();
  spec.servers = [{ url: new URL(".", location.href).href.replace(/\/$/, "") }]; // also behind a path prefix
  // @ts-ignore: the library is a script of its own
  const page = SwaggerUIBundle({ spec, dom_id: "#docs", deepLinking: true, validatorUrl: null });
  if (apiKey()) page.preauthorizeApiKey("apiKey", apiKey());
} else {
  const place = /** @type {HTMLElement} */ (document.querySelector("#docs"));
  place.textContent = `The description of the API could not be read (status ${answer.status}).`;
}
