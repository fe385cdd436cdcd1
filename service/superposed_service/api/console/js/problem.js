/** Problems in words, where they happened. */

import { Problem } from "./api.js";
import { announce, fill, h } from "./dom.js";

/**
 * A notice that says what went wrong, what was expected, and what one can do.
 * @param {unknown} error
 */
export function notice(error) {
  const problem = error instanceof Problem ? error : new Problem({ title: "This page failed", detail: String(error) }, 0);
  const parts = [
    problem.expected !== undefined && `Expected: ${problem.expected}.`,
    problem.received !== undefined && `Received: ${problem.received}.`,
  ].filter(Boolean);
  return h(
    "div.notice.bad",
    { role: "alert", "data-problem": problem.slug },
    h("strong", {}, problem.title),
    h("span", {}, sentence(problem.message)),
    parts.length > 0 && h("small", {}, parts.join(" ")),
    problem.advice && h("span", {}, problem.advice),
    problem.requestId && problem.status >= 500 && h("small", {}, `Request ${problem.requestId}`),
  );
}

/** @param {string} text */
function sentence(text) {
  const upper = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(upper) ? upper : `${upper}.`;
}

/**
 * Runs something that may fail and shows a failure in a place.
 * @template T
 * @param {Element} place Left as it is where it works.
 * @param {() => Promise<T>} work
 * @returns {Promise<T | undefined>} Undefined where it failed.
 */
export async function shown(place, work) {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Problem)) console.error(error);
    fill(place, notice(error));
    return undefined;
  }
}

/**
 * As `shown`, with a place that is emptied first and a button that is disabled meanwhile.
 * @template T
 * @param {HTMLButtonElement} button
 * @param {Element} place
 * @param {() => Promise<T>} work
 * @param {string} [done] Said to screen readers once it has worked.
 */
export async function pressed(button, place, work, done) {
  button.disabled = true;
  fill(place);
  try {
    const result = await shown(place, work);
    if (result !== undefined && done) announce(done);
    return result;
  } finally {
    button.disabled = false;
  }
}
