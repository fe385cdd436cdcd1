/** From a drawing to the picture that a task was taught on: as MNIST's digits were prepared. */

// MNIST's digits fill a box of 20 pixels of 28, and their centre of mass stands in the middle.
const FILLED = 20 / 28;

/**
 * Scales a drawing to a small picture.
 * @param {{values: Float32Array, size: number}} drawing Brightness from 0 to 1.
 * @param {number} side Of the small picture.
 * @param {boolean} centred By mass, with a margin (as MNIST); else the drawing's box fills the picture.
 * @returns {Float32Array} Brightness from 0 to 1, (side × side), row by row.
 */
export function picture({ values, size }, side, centred) {
  const box = inked(values, size);
  const small = new Float32Array(side * side);
  if (!box) return small;
  const scale = Math.max(box.right - box.left, box.bottom - box.top) / (side * (centred ? FILLED : 1));
  const middle = centred ? mass(values, size) : { x: (box.left + box.right) / 2, y: (box.top + box.bottom) / 2 };
  for (let y = 0; y < side; y += 1) {
    for (let x = 0; x < side; x += 1) {
      const left = middle.x + (x - side / 2) * scale;
      const top = middle.y + (y - side / 2) * scale;
      small[y * side + x] = mean(values, size, left, top, scale);
    }
  }
  return small;
}

/** The smallest box around what was drawn. @param {Float32Array} values @param {number} size */
function inked(values, size) {
  let [left, top, right, bottom] = [size, size, 0, 0];
  for (let y = 0; y < size; y += 1) {
    for (let x = 0; x < size; x += 1) {
      if (values[y * size + x] < 0.1) continue;
      left = Math.min(left, x);
      right = Math.max(right, x + 1);
      top = Math.min(top, y);
      bottom = Math.max(bottom, y + 1);
    }
  }
  return right ? { left, top, right, bottom } : null;
}

/** @param {Float32Array} values @param {number} size */
function mass(values, size) {
  let [sum, x, y] = [0, 0, 0];
  values.forEach((value, place) => {
    sum += value;
    x += value * ((place % size) + 0.5);
    y += value * (Math.floor(place / size) + 0.5);
  });
  return { x: x / sum, y: y / sum };
}

/** The mean brightness of a square, 0 outside the drawing. @param {Float32Array} values @param {number} size @param {number} left @param {number} top @param {number} width */
function mean(values, size, left, top, width) {
  const steps = Math.max(2, Math.ceil(width));
  let sum = 0;
  for (let row = 0; row < steps; row += 1) {
    for (let column = 0; column < steps; column += 1) {
      const x = Math.floor(left + ((column + 0.5) * width) / steps);
      const y = Math.floor(top + ((row + 0.5) * width) / steps);
      if (x >= 0 && y >= 0 && x < size && y < size) sum += values[y * size + x];
    }
  }
  return sum / (steps * steps);
}

/**
 * The side of a task's square pictures; null where its rows are no pictures.
 * @param {{inputs: number}} task
 */
export function sideOf({ inputs }) {
  const side = Math.round(Math.sqrt(inputs));
  return side >= 8 && side * side === inputs ? side : null;
}

/**
 * What full ink is in a task's numbers: told from its offset and scale, as nothing else says it.
 * @param {{offset: number[] | null, scale: number[] | null, kind: string}} task
 */
export function inkOf({ offset, scale, kind }) {
  if (kind === "images") return 255;
  const usual = [1, 16, 255];
  // A mean brightness is below full ink, and a spread is less than half of it.
  const least = Math.max(0, ...(offset ?? []), ...(scale ?? []).map((value) => (offset ? 2 * Math.abs(value) : Math.abs(value))));
  return usual.find((ink) => ink >= 0.8 * least) ?? 255;
}
