/** Texts and images as rows: typed, or dropped as files. */

import { fill, h } from "../dom.js";

const PAUSE_MS = 250;
const MOST_FILES = 64;

/**
 * A row as it is held here: numbers, a text, a record of named values, or an image's file.
 * @typedef {number[] | string | {record: Record<string, any>} | {name: string, image: string}} Row
 */

/**
 * The field of a request's body for rows, which are all of one kind.
 * @param {Row[]} rows
 * @returns {{inputs: Row[]} | {texts: Row[]} | {records: Record<string, any>[]} | {images: string[]}}
 */
export function asSent(rows) {
  const [first] = rows;
  if (typeof first === "string") return { texts: rows };
  if (Array.isArray(first) || !first) return { inputs: rows };
  if ("record" in first) return { records: rows.map((row) => /** @type {{record: Record<string, any>}} */ (row).record) };
  return { images: rows.map((row) => /** @type {{image: string}} */ (row).image) };
}

/** Texts, one a line. Dispatches `change`. */
export class TextSource extends EventTarget {
  constructor() {
    super();
    this.text = /** @type {HTMLTextAreaElement} */ (h("textarea", { rows: 5, placeholder: "my card was declined" }));
    this.element = h("div.stack", {}, h("label", {}, "One text a line", this.text));
    let timer = 0;
    this.text.addEventListener("input", () => {
      clearTimeout(timer); // a text costs as much as a hundred rows: not one for each key
      timer = setTimeout(() => this.dispatchEvent(new Event("change")), PAUSE_MS);
    });
  }

  /** @returns {Row[]} */
  rows() {
    return this.text.value.split("\n").map((line) => line.trim()).filter(Boolean);
  }
}

/** Files of images, chosen or dropped. Dispatches `change`. */
export class FileSource extends EventTarget {
  constructor() {
    super();
    /** @type {{name: string, image: string}[]} */
    this.files = [];
    this.shown = h("div.row", {});
    const input = /** @type {HTMLInputElement} */ (h("input", { type: "file", accept: "image/png,image/jpeg", multiple: true }));
    input.addEventListener("change", () => this.take(input.files));
    this.element = h("div.stack.drop", {}, h("label", {}, "PNG or JPEG images: choose them, or drop them here", input), this.shown);
    this.element.addEventListener("dragover", (event) => event.preventDefault());
    this.element.addEventListener("drop", (event) => {
      event.preventDefault();
      this.take(event.dataTransfer?.files ?? null);
    });
  }

  /** @param {FileList | null} files */
  async take(files) {
    this.files = await Promise.all([...(files ?? [])].slice(0, MOST_FILES).map(read));
    fill(this.shown, ...this.files.map((file) => h("img.thumb", { alt: file.name, src: `data:${file.type};base64,${file.image}` })));
    this.dispatchEvent(new Event("change"));
  }

  /** @returns {Row[]} */
  rows() {
    return this.files;
  }
}

/** @param {File} file @returns {Promise<{name: string, type: string, image: string}>} */
function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onerror = () => reject(reader.error);
    reader.onload = () => resolve({ name: file.name, type: file.type, image: String(reader.result).split(",")[1] ?? "" });
    reader.readAsDataURL(file);
  });
}
