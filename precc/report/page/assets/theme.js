// Light and dark: as the system has it, until the button says otherwise.
const themeButton = document.getElementById("theme");
const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => document.documentElement.dataset.theme === "dark";
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
  themeButton.textContent = dark ? "Light theme" : "Dark theme"; // what it switches to
}

// Relative luminance of #rrggbb (WCAG 2).
function luminance(hex) {
  const [r, g, b] = [1, 3, 5]
    .map((k) => parseInt(hex.slice(k, k + 2), 16) / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
// Black or white: one of both has a contrast of at least 4.5 with any colour.
const inkOn = (hex) => (luminance(hex) > 0.179 ? "#000000" : "#ffffff");

setTheme(darkSystem.matches);
themeButton.addEventListener("click", () => {
  setTheme(!isDark());
  redrawAll();
});
darkSystem.addEventListener("change", (event) => {
  setTheme(event.matches);
  redrawAll();
});
