/** The public API, called as anyone may: with an API key where the server has any. */

const KEY = "superposed.api-key";

/** What to do about a problem, by the last part of its type. @type {Record<string, string>} */
const ADVICE = {
  "no-connection": "Is the server running? The console tries again by itself.",
  "not-this-api": "Something between this page and the server answered instead of it.",
  unauthenticated: "Enter an API key that is good (“API key”, top right).",
  forbidden: "Use an API key with a wider scope.",
  "unknown-task": "It may have been deleted, or belong to somebody else.",
  "not-found": "The server may be of another version than this page.",
  "task-exists": "Choose another key, or delete the task first.",
  "shape-mismatch": "Check the number of features in each row.",
  "non-finite-input": "Every number must be finite.",
  "label-out-of-range": "Use one of the task's labels.",
  "empty-batch": "Give at least one row.",
  "expression-invalid": "Check how the context is written.",
  "composition-not-supported": "The parts must agree on outputs and loss, and the family must know the composition.",
  "update-refused": "Nothing was learned; the store is bit for bit as it was.",
  quarantined: "The update is on record and not learned from. An admin may release the source under Operations.",
  "beyond-horizon": "The journal no longer reaches back so far; choose a later point.",
  "quota-exceeded": "Wait a little, or ask for a larger quota.",
  overloaded: "Too much at once: try again in a moment.",
  "not-ready": "The service is starting or stopping: try again in a moment.",
  "storage-unavailable": "The disk refused. Answers still work; nothing is learned until the next start.",
  "deadline-exceeded": "The service is busy: try again.",
  "payload-too-large": "Send fewer rows at once.",
  "batch-too-large": "Send fewer rows or steps at once.",
  "idempotency-in-flight": "The first try is still being worked on: wait for its answer.",
  internal: "The server's log says more under the request id.",
};

/** Anything that went wrong between this page and the store. */
export class Problem extends Error {
  /**
   * @param {{type?: string, title?: string, detail?: string, expected?: any, received?: any}} body
   * @param {number} status 0 where there was no answer.
   * @param {string | null} requestId
   */
  constructor(body, status, requestId = null) {
    super(body.detail || body.title || "something went wrong");
    this.title = body.title || "Problem";
    this.slug = (body.type || "").split(":").pop() || "internal";
    this.expected = body.expected;
    this.received = body.received;
    this.status = status;
    this.requestId = requestId;
  }

  /** What one can do about it. */
  get advice() {
    return ADVICE[this.slug] ?? "";
  }
}

/** The API key of this tab, kept until it is closed; "" for none. */
export const apiKey = () => sessionStorage.getItem(KEY) ?? "";

/** @param {string} text "" forgets the key. */
export function setApiKey(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

/** @returns {Record<string, string>} */
export const credentials = () => (apiKey() ? { Authorization: `Bearer ${apiKey()}` } : {});

/** @param {Response} response @returns {Promise<Problem>} */
export async function problemOf(response) {
  const requestId = response.headers.get("x-request-id");
  try {
    const body = await response.json();
    if (typeof body.type === "string") return new Problem(body, response.status, requestId);
  } catch {
    // not JSON: not this API's
  }
  const body = { type: "not-this-api", title: "Unexpected answer", detail: `status ${response.status}` };
  return new Problem(body, response.status, requestId);
}

/** Told when a request was refused for want of a good key. */
export const refusals = new EventTarget();

/** The cell of a cluster that gave an answer. @type {WeakMap<object, string>} */
export const cellOf = new WeakMap();

/**
 * Calls the API.
 * @param {string} method
 * @param {string} path Relative to the server, so that a prefix in front of it does no harm.
 * @param {{body?: any, signal?: AbortSignal, cell?: string}} [options]
 * @returns {Promise<any>} The JSON answer; null where there is none.
 * @throws {Problem}
 */
export async function call(method, path, { body, signal, cell } = {}) {
  /** @type {Record<string, string>} */
  const headers = { ...credentials(), Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (cell) headers["X-Cell"] = cell;
  if (method !== "GET" && !/^v1\/((infer|evaluate|locate)$|keys)/.test(path)) headers["Idempotency-Key"] = token();
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem({ type: "no-connection", title: "No connection", detail: "The server does not answer." }, 0);
  }
  if (!response.ok) {
    const problem = await problemOf(response);
    if (problem.slug === "unauthenticated") refusals.dispatchEvent(new Event("refused"));
    throw problem;
  }
  if (response.status === 204) return null;
  const answer = await response.json();
  cellOf.set(answer, response.headers.get("x-cell") ?? "");
  return answer;
}

/** @param {string} path */
export const get = (path) => call("GET", path);

/** @param {string} path @param {any} [body] */
export const post = (path, body) => call("POST", path, { body });

/** @param {string} path */
export const remove = (path) => call("DELETE", path);

function token() {
  const drawn = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(drawn, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
