/** Records of named values: one in fields, or several pasted as CSV or JSON. */

import { fill, h } from "../dom.js";
import { notice } from "../problem.js";
import { Problem } from "../api.js";

const TRUE = /^(true|yes)$/i;
const FALSE = /^(false|no)$/i;

/**
 * The value of a text for a feature; null where nothing was written.
 * @param {string} text
 * @param {string} kind `number`, `category`, `date`, or `unknown`.
 * @returns {string | number | boolean | null}
 */
export function valueOf(text, kind) {
  const trimmed = text.trim();
  if (!trimmed) return null;
  if (kind === "category" && (TRUE.test(trimmed) || FALSE.test(trimmed))) return TRUE.test(trimmed);
  if (kind === "category" || kind === "date" || Number.isNaN(Number(trimmed))) return trimmed;
  return Number(trimmed);
}

/**
 * Reads records: lines of CSV under a line of names, a JSON object, a list of them, or one a line.
 * @param {string} text
 * @param {Map<string, string>} kinds Of the features that are known.
 * @returns {{record: Record<string, any>}[]}
 * @throws {RangeError} What is wrong, in words.
 */
export function readRecords(text, kinds) {
  const trimmed = text.trim();
  if (trimmed.startsWith("[") || trimmed.startsWith("{")) return fromJson(trimmed);
  const [names, ...lines] = trimmed.split(/\r?\n/).map((line) => line.split(/[,;\t]/).map((cell) => cell.trim()));
  if (!lines.length) throw new RangeError("A first line of names is needed, and records below it.");
  return lines.map((cells, place) => {
    if (cells.length !== names.length) throw new RangeError(`Line ${place + 2} has ${cells.length} values; the first line has ${names.length} names.`);
    return { record: Object.fromEntries(names.map((name, column) => [name, valueOf(cells[column], kinds.get(name) ?? "unknown")])) };
  });
}

/** @param {string} text @returns {{record: Record<string, any>}[]} */
function fromJson(text) {
  let values;
  try {
    values = JSON.parse(text.startsWith("{") ? `[${text.split(/\r?\n/).filter(Boolean).join(",")}]` : text);
  } catch (error) {
    throw new RangeError(`Not JSON: ${/** @type {Error} */ (error).message}`);
  }
  if (values.some((/** @type {any} */ one) => typeof one !== "object" || one === null || Array.isArray(one))) throw new RangeError("The JSON is no list of objects.");
  return values.map((/** @type {Record<string, any>} */ record) => ({ record }));
}

/** A record in fields with the features' names, or records pasted. Dispatches `change`. */
export class RecordSource extends EventTarget {
  /** @param {any} task */
  constructor(task) {
    super();
    /** @type {Map<string, string>} */
    this.kinds = new Map((task.features ?? []).map((/** @type {{name: string, kind: string}} */ one) => [one.name, one.kind]));
    /** @type {Map<string, HTMLInputElement>} */
    this.fields = new Map([...this.kinds].map(([name, kind]) => [name, field(kind, () => this.dispatchEvent(new Event("change")))]));
    /** @type {{record: Record<string, any>}[]} */
    this.pasted = [];
    const problem = h("div");
    const text = /** @type {HTMLTextAreaElement} */ (h("textarea", { rows: 5, spellcheck: "false", placeholder: "age, plan\n41, pro\nor [{\"age\": 41, \"plan\": \"pro\"}]" }));
    text.addEventListener("input", () => {
      fill(problem);
      try {
        this.pasted = text.value.trim() ? readRecords(text.value, this.kinds) : [];
      } catch (error) {
        this.pasted = [];
        fill(problem, notice(new Problem({ type: "invalid-request", title: "Records that cannot be read", detail: /** @type {Error} */ (error).message }, 0)));
      }
      this.dispatchEvent(new Event("change"));
    });
    this.element = h("div.stack", {},
      this.fields.size > 0 && h("fieldset", {}, h("legend.label", {}, "One record: what is left empty is missing"), h("div.fields", {}, ...[...this.fields].map(([name, one]) => h("label", {}, name, one)))),
      h("label", {}, "Paste records, CSV with names or JSON", text), problem);
  }

  /** @returns {import("./originals.js").Row[]} */
  rows() {
    if (this.pasted.length) return this.pasted;
    const values = [...this.fields].map(([name, one]) => [name, valueOf(one.value, this.kinds.get(name) ?? "unknown")]);
    return values.some(([, value]) => value !== null) ? [{ record: Object.fromEntries(values) }] : [];
  }
}

/** @param {string} kind @param {() => void} changed @returns {HTMLInputElement} */
function field(kind, changed) {
  const type = kind === "number" ? { type: "number", step: "any" } : { type: "text", placeholder: kind === "date" ? "2026-01-31" : "" };
  return /** @type {HTMLInputElement} */ (h("input", { ...type, oninput: changed }));
}
