// What is there from the start: title, totals, legend, contents; then the first chart, and the others when seen.
element("title").textContent = DATA.title;

// The summary that the report prints, and what is not known.
function totals() {
  const pairs = DATA.summary.map(([name, text]) => [name[0].toUpperCase() + name.slice(1), text.replaceAll("+-", "\u00b1")]);
  pairs.splice(1, 0, ["Slots", counted(SLOTS.names.length)]);
  DATA.missing.forEach((text, k) => pairs.push([k ? "" : "Not known", text]));
  return pairs;
}
define(element("totals"), totals());
element("notes")
  .querySelector("ul")
  .replaceChildren(...DATA.notes.map((note) => withText("li", note)));
element("notes").hidden = !DATA.notes.length;

element("legend").replaceChildren(
  ...FORMATS.filter((own) => own.used).map((own) => {
    const entry = document.createElement("li");
    const box = document.createElement("span");
    box.style.background = own.colour;
    entry.append(box, own.short);
    entry.title = `${own.name}, ${shown(own.bits)} bits`;
    return entry;
  }),
);

element("contents").replaceChildren(
  ...[...document.querySelectorAll("main section")].map((section) => {
    const [entry, link] = [document.createElement("li"), withText("a", section.querySelector("h2").textContent)];
    link.href = `#${section.id}`;
    entry.append(link);
    return entry;
  }),
);

// Plotly is millions of letters: it is read once the map is on the screen.
function loadCharts() {
  const held = element("plotly");
  if (!held) return;
  const script = document.createElement("script");
  script.textContent = held.textContent;
  held.remove();
  document.head.append(script);
  drawNow("map");
  for (const id of charts.keys()) observer.observe(element(id));
  window.preccPage = Object.freeze({
    drawEvery,
    knapsack,
    frontOf,
    solve,
    sumOf,
    search,
    front: () => frontState,
  });
}
previewMap();
requestAnimationFrame(() =>
  setTimeout(() => {
    performance.mark("first picture");
    loadCharts();
  }),
);

let resizeWaits = 0;
let lastWidth = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === lastWidth) return; // phones resize when their address bar goes
  lastWidth = window.innerWidth;
  clearTimeout(resizeWaits);
  resizeWaits = setTimeout(redrawAll, 150);
});
window.addEventListener(
  "scroll",
  () => {
    tip.hidden = true;
  },
  { passive: true },
);
let printedDark = false;
window.addEventListener("beforeprint", () => {
  printedDark = isDark();
  loadCharts();
  setTheme(false);
  redrawAll();
  drawEvery();
});
window.addEventListener("afterprint", () => {
  setTheme(printedDark);
  redrawAll();
});
