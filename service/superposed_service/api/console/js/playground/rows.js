/** Rows as they are pasted: JSON or CSV. */

/**
 * Reads rows of numbers.
 * @param {string} text `[[1, 2], [3, 4]]`, `[1, 2]`, or lines of numbers between commas, semicolons, tabs or spaces.
 * @param {number} width How many numbers a row has.
 * @returns {number[][]}
 * @throws {RangeError} What is wrong, in words.
 */
export function readRows(text, width) {
  const trimmed = text.trim();
  if (!trimmed) throw new RangeError("Nothing was given: paste at least one row.");
  const rows = trimmed.startsWith("[") ? fromJson(trimmed) : fromLines(trimmed);
  rows.forEach((row, place) => {
    if (row.length !== width) throw new RangeError(`Row ${place + 1} has ${row.length} numbers; the task has ${width} features.`);
    const wrong = row.findIndex((value) => typeof value !== "number" || !Number.isFinite(value));
    if (wrong >= 0) throw new RangeError(`Row ${place + 1}, place ${wrong + 1} is no finite number.`);
  });
  return rows;
}

/** @param {string} text @returns {number[][]} */
function fromJson(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new RangeError(`Not JSON: ${/** @type {Error} */ (error).message}`);
  }
  if (!Array.isArray(value) || !value.length) throw new RangeError("The JSON is no list of rows.");
  return Array.isArray(value[0]) ? value : [value];
}

/** @param {string} text @returns {number[][]} */
function fromLines(text) {
  const lines = text.split(/\r?\n/).map((line) => line.trim()).filter(Boolean);
  const cells = lines.map((line) => line.split(/[,;\t]|\s+/).map((cell) => cell.trim()).filter((cell) => cell !== ""));
  // A first line of names is what spreadsheets write.
  if (cells.length > 1 && cells[0].every((cell) => Number.isNaN(Number(cell)))) cells.shift();
  return cells.map((row) => row.map(Number));
}
