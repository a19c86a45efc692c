// What is there from the start: title, totals, legend, contents; then the first chart, and the others when seen.
element("title").textContent = DATA.title;

// The ops whose rounding does most and least to the gradient, three each.
function extremes() {
  const known = OPS.predicted
    .map((_, k) => k)
    .filter((k) => isFiniteNumber(OPS.predicted[k]))
    .sort((a, b) => OPS.predicted[b] - OPS.predicted[a]);
  const said = (ops) => ops.map((k) => `${OPS.labels[k]} ${percent(OPS.predicted[k])}`).join(", ");
  return [said(known.slice(0, 3)), said(known.slice(-3).reverse())];
}

function totals() {
  const pairs = [
    ["Ops", counted(OPS.names.length)],
    ["Slots", counted(SLOTS.names.length)],
  ];
  pairs.push(["Multiply-adds a step", counted(OPS.work.reduce((sum, own) => sum + own, 0))]);
  if (DATA.cost)
    pairs.push(["Cost of a step", `${shown(number(DATA.cost.value))} ${DATA.cost.unit} (${DATA.cost.model})`]);
  for (const kind of ["predicted", "measured"]) {
    const own = DATA.step?.[kind];
    if (own)
      pairs.push([
        `Error, ${kind}`,
        `gradient ${percent(number(own.gradient))}, loss ${shown(number(own.loss_mean))} \u00b1 ${shown(number(own.loss))}`,
      ]);
  }
  const [worst, best] = extremes();
  if (worst) pairs.push(["Largest predicted errors", worst], ["Smallest predicted errors", best]);
  if (DATA.step)
    pairs.push([
      "Step that was analysed",
      `loss ${shown(number(DATA.step.loss))}, norm of the gradient ${shown(number(DATA.step.gradient_norm))}, ${DATA.step.batch}`,
    ]);
  DATA.missing.forEach((text, k) => pairs.push([k ? "" : "Not known", text]));
  return pairs;
}
define(element("totals"), totals());
element("notes")
  .querySelector("ul")
  .replaceChildren(...DATA.notes.map((note) => withText("li", note)));
element("notes").hidden = !DATA.notes.length;

element("legend").replaceChildren(
  ...FORMATS.map((own) => {
    const entry = document.createElement("li");
    const box = document.createElement("span");
    box.style.background = own.colour;
    const short = own.short === own.name ? "" : `, ${own.short}`;
    entry.append(box, `${own.name}${short} (${shown(own.bits)} bits)`);
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
