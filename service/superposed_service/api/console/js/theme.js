/** Light and dark: as the system has them, or as chosen here. */

const KEY = "superposed.theme";
const ORDER = ["auto", "light", "dark"];
const NAMES = { auto: "as the system has them", light: "light", dark: "dark" };
const SIGNS = { auto: "◐", light: "☀", dark: "☾" };

/** @param {HTMLButtonElement} button Changes it. */
export function followTheme(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => /** @type {"auto" | "light" | "dark"} */ (localStorage.getItem(KEY) ?? "auto");
  const apply = () => {
    const theme = chosen();
    document.documentElement.dataset.theme = theme === "auto" ? (system.matches ? "dark" : "light") : theme;
    button.textContent = SIGNS[theme];
    button.setAttribute("aria-label", `Colours: ${NAMES[theme]}`);
  };
  button.addEventListener("click", () => {
    localStorage.setItem(KEY, ORDER[(ORDER.indexOf(chosen()) + 1) % ORDER.length]);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}
