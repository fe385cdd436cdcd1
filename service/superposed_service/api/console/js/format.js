/** Numbers as people read them. */

const plain = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** @param {number | null | undefined} value */
export const count = (value) => (value === null || value === undefined ? "–" : plain.format(value));

/** Large numbers short: 12.4K. @param {number} value */
export const short = (value) => (value < 10_000 ? plain.format(Math.round(value)) : compact.format(value));

/** @param {number | null | undefined} share From 0 to 1. */
export const percent = (share) =>
  share === null || share === undefined ? "–" : `${(100 * share).toFixed(1)} %`;

/** @param {number | null | undefined} value @param {number} [digits] */
export const fixed = (value, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);

/** @param {number} value Bytes. */
export function bytes(value) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let place = 0;
  while (value >= 1000 && place < units.length - 1) {
    value /= 1000;
    place += 1;
  }
  return `${value >= 100 || place === 0 ? Math.round(value) : value.toFixed(1)} ${units[place]}`;
}

/** @param {number | null | undefined} value Milliseconds. */
export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 10) return `${value.toFixed(1)} ms`;
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}

/** A rate a second. @param {number} value */
export const rate = (value) => (value < 10 ? value.toFixed(value < 0.05 ? 0 : 1) : short(value));

/** @param {number | null} seconds Unix seconds. */
export const moment = (seconds) =>
  seconds === null ? "never" : new Date(seconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
