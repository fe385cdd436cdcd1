/** Line charts, bars and heat maps in the page's own colours. */

import { h } from "./dom.js";

/** @type {Promise<any> | null} */
let library = null;

/** The chart library, fetched when the first chart is drawn. */
function echarts() {
  library ??= import("../vendor/echarts-6.1.0/echarts.esm.min.js");
  return library;
}

/** @param {string} name */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const COLOURS = /** @type {const} */ (["card", "sunk", "line", "ink", "ink-2", "ink-3"]);

/** @typedef {Record<typeof COLOURS[number], string> & {series: string[]}} Palette */

/** The page's colours, as they are now. @returns {Palette} */
export function palette() {
  const dark = document.documentElement.dataset.theme === "dark";
  const series = dark
    ? ["#969bff", "#ff9a6b", "#5fd0c5", "#e58bd6", "#e9c46a", "#7fb8ff", "#a5d76e", "#ff8fa3"]
    : ["#4b50e6", "#d2582a", "#0f8b80", "#a8369a", "#a67c00", "#1f77c9", "#4f8a10", "#c2314f"];
  const named = Object.fromEntries(COLOURS.map((name) => [name, colour(name)]));
  return /** @type {Palette} */ ({ ...named, series });
}

/** Charts that are on the page: redrawn when the colours change. @type {Set<Chart>} */
const drawn = new Set();

new MutationObserver(() => drawn.forEach((chart) => chart.redraw())).observe(document.documentElement, {
  attributeFilter: ["data-theme"],
});

/** One chart in one element. */
export class Chart {
  /**
   * @param {string} label What a screen reader says it is.
   * @param {(palette: Palette) => any} option The library's option, from the colours.
   * @param {string} [size] A class: `low`, `square`.
   */
  constructor(label, option, size = "") {
    this.element = h(`div.chart${size && `.${size}`}`, { role: "img", "aria-label": label });
    this.option = option;
    /** @type {any} */
    this.instance = null;
    this.observer = new ResizeObserver(() => this.resized());
    this.observer.observe(this.element);
  }

  /** Draws again, where the data or the colours have changed. */
  redraw() {
    this.instance?.setOption({ ...base(palette()), ...this.option(palette()) }, { notMerge: true, lazyUpdate: true });
  }

  async resized() {
    if (!this.element.isConnected) return this.dispose();
    if (!this.element.clientWidth) return;
    if (this.instance) return this.instance.resize();
    const { init } = await echarts();
    if (this.instance || !this.element.isConnected) return;
    this.instance = init(this.element, null, { renderer: "canvas" });
    drawn.add(this);
    this.redraw();
  }

  dispose() {
    this.observer.disconnect();
    this.instance?.dispose();
    this.instance = null;
    drawn.delete(this);
  }
}

/** @param {Palette} colours */
function base(colours) {
  return {
    animation: !matchMedia("(prefers-reduced-motion: reduce)").matches,
    animationDuration: 250,
    animationDurationUpdate: 200,
    color: colours.series,
    textStyle: { fontFamily: getComputedStyle(document.body).fontFamily, color: colours["ink-2"] },
  };
}

/** A tooltip drawn on the canvas: HTML with inline styles is what the page's policy forbids. @param {Palette} colours */
export const tooltip = (colours) => ({
  renderMode: "richText",
  confine: true,
  backgroundColor: colours.card,
  borderColor: colours.line,
  textStyle: { color: colours.ink, fontSize: 13 },
});

/** @param {Palette} colours @param {object} [more] */
export const axis = (colours, more = {}) => ({
  axisLine: { lineStyle: { color: colours.line } },
  axisTick: { show: false },
  axisLabel: { color: colours["ink-3"], fontSize: 12 },
  splitLine: { lineStyle: { color: colours.line } },
  nameTextStyle: { color: colours["ink-3"], fontSize: 12 },
  ...more,
});

/**
 * A small line of the last minutes.
 * @param {string} label
 * @param {() => (number | null)[][]} series
 */
export function strip(label, series) {
  return new Chart(
    label,
    (colours) => ({
      animation: false,
      grid: { left: 0, right: 0, top: 8, bottom: 2 },
      xAxis: { type: "category", show: false, boundaryGap: false },
      yAxis: { type: "value", show: false, min: 0 },
      series: series().map((data, place) => ({
        type: "line",
        data,
        showSymbol: false,
        lineStyle: { width: 2, color: colours.series[place] },
        areaStyle: { opacity: place === 0 ? 0.12 : 0, color: colours.series[place] },
      })),
    }),
    "low",
  );
}

/**
 * A square matrix as a heat map.
 * @param {string} label
 * @param {() => {names: string[], cells: ([number, number, number])[], least: number, most: number, diverging: boolean, text: (value: number) => string, pair: (a: string, b: string, value: number) => string}} data
 */
export function heatmap(label, data) {
  return new Chart(
    label,
    (colours) => {
      const { names, cells, least, most, diverging, text, pair } = data();
      const shorten = (/** @type {string} */ name) => (name.length > 18 ? `${name.slice(0, 8)}…${name.slice(-9)}` : name);
      const categories = (/** @type {object} */ more) =>
        axis(colours, { type: "category", data: names.map(shorten), splitArea: { show: false }, splitLine: { show: false }, ...more });
      const [a, b] = colours.series;
      return {
        grid: { left: 4, right: 8, top: 8, bottom: 56, containLabel: true },
        tooltip: { ...tooltip(colours), formatter: (/** @type {any} */ at) => pair(names[at.value[1]], names[at.value[0]], at.value[2]) },
        xAxis: categories({ axisLabel: { rotate: 45, interval: 0, color: colours["ink-2"], fontSize: 11 } }),
        yAxis: categories({ inverse: true, axisLabel: { interval: 0, color: colours["ink-2"], fontSize: 11 } }),
        visualMap: {
          min: least, max: most, calculable: false, orient: "horizontal", left: "center", bottom: 0,
          itemWidth: 10, itemHeight: 140, text: [text(most), text(least)], textStyle: { color: colours["ink-3"] },
          inRange: { color: diverging ? [b, colours.sunk, a] : [colours.sunk, a] },
        },
        series: [{
          type: "heatmap",
          data: cells.map((value) => ({ value, label: { color: value[2] > 0.8 * most ? colours.card : colours.ink } })),
          itemStyle: { borderColor: colours.card, borderWidth: 2, borderRadius: 3 },
          label: { show: names.length <= 8, fontSize: 11.5, formatter: (/** @type {any} */ at) => text(at.value[2]) },
          emphasis: { itemStyle: { borderColor: colours.ink } },
        }],
      };
    },
    "square",
  );
}
