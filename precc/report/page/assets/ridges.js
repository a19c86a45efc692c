// Ranges: histograms of binary exponents, one ridge a slot, over what the format can hold.
const RIDGES = 20;
let ridgePage = 0;
const ridgeOrder = element("ridges-order");
const [ridgesBefore, ridgesAfter] = [element("ridges-before"), element("ridges-after")];

const startOf = (slot) => (slot ? SLOTS.ends[slot - 1] : 0);
const hasHistogram = (slot) => SLOTS.ends[slot] > startOf(slot);

// The part of a slot's values that its format loses; by the histogram where it was not counted.
function lostOf(slot) {
  const [under, over] = [SLOTS.underflow[slot], SLOTS.overflow[slot]];
  if (under !== null || over !== null)
    return (under ?? 0) + (over ?? 0) + (SLOTS.nonfinite[slot] ?? 0) / (SLOTS.elements[slot] || 1);
  if (SLOTS.lowest[slot] === null) return 0;
  let outside = 0;
  for (let k = startOf(slot); k < SLOTS.ends[slot]; k++) {
    if (EXPONENTS[k] + 1 < SLOTS.lowest[slot] || EXPONENTS[k] > SLOTS.highest[slot]) outside += COUNTS[k];
  }
  return outside / (SLOTS.elements[slot] || 1);
}

// The outline of a histogram that stands on a line.
function outline(slot, line, most) {
  const [x, y] = [[], []];
  let highest = 0;
  for (let k = startOf(slot); k < SLOTS.ends[slot]; k++) highest = Math.max(highest, COUNTS[k]);
  for (let k = startOf(slot); k < SLOTS.ends[slot]; k++) {
    const height = line - (most * COUNTS[k]) / highest;
    if (k === startOf(slot) || EXPONENTS[k] !== EXPONENTS[k - 1] + 1) {
      x.push(EXPONENTS[k]);
      y.push(line);
    }
    x.push(EXPONENTS[k], EXPONENTS[k] + 1);
    y.push(height, height);
    if (k + 1 === SLOTS.ends[slot] || EXPONENTS[k + 1] !== EXPONENTS[k] + 1) {
      x.push(EXPONENTS[k] + 1);
      y.push(line);
    }
  }
  return { x: [...x, x[0], null], y: [...y, line, null] };
}

function bands(slots, from, to, opacity, tall) {
  const [x, y] = [[], []];
  slots.forEach((slot, line) => {
    const [low, high] = [SLOTS[from][slot], SLOTS[to][slot]];
    if (low === null || high === null || !(high > low)) return;
    const ends = [Math.max(low, -1100), Math.min(high, 1100)];
    x.push(ends[0], ends[1], ends[1], ends[0], ends[0], null);
    y.push(line, line, line - tall, line - tall, line, null);
  });
  const grey = isDark() ? "255,255,255" : "20,40,80";
  return {
    type: "scatter",
    mode: "lines",
    x,
    y,
    fill: "toself",
    fillcolor: `rgba(${grey},${opacity})`,
    line: { width: 0 },
    hoverinfo: "skip",
  };
}

function ridgeTraces(slots, most) {
  const found = new Map();
  slots.forEach((slot, line) => {
    const own = outline(slot, line, most);
    const trace = found.get(SLOTS.formats[slot]) ?? { x: [], y: [] };
    trace.x.push(...own.x);
    trace.y.push(...own.y);
    found.set(SLOTS.formats[slot], trace);
  });
  return [...found].map(([format, own]) => ({
    type: "scatter",
    mode: "lines",
    ...own,
    fill: "toself",
    fillcolor: FORMATS[format].colour,
    hoverinfo: "skip",
    opacity: 0.92,
    line: { color: colour("text"), width: 0.7, shape: "linear" },
  }));
}

function saidLoss(slot) {
  const shares = [
    [SLOTS.underflow[slot], "become 0"],
    [SLOTS.overflow[slot], "too large"],
  ];
  const nonfinite = (SLOTS.nonfinite[slot] ?? 0) / (SLOTS.elements[slot] || 1);
  shares.push([nonfinite || null, "not finite"]);
  return shares
    .filter(([share]) => share !== null && (share > 0.001 || Number.isNaN(share)))
    .map(([share, what]) => `${percent(share)} ${what}`)
    .join(", ");
}

// What is lost stands at the right of its ridge; where there is little room it stands above it, behind the name.
function ridgeTexts(names, losses, [low, high], narrow) {
  const text = (x, own, textposition) => ({
    type: "scatter",
    mode: "text",
    x: own.map(() => x),
    y: own.map((_, k) => k - (narrow ? 0.84 : 0.42)),
    text: own.map(plain),
    textposition,
    textfont: { color: colour("text"), size: 11 },
    hoverinfo: "skip",
    cliponaxis: false,
  });
  if (!narrow) return [text(high, losses, "middle right")];
  const most = Math.floor((window.innerWidth - 40) / 6.2);
  return [
    text(
      low,
      shortNames(names, most - Math.max(...losses.map((own) => own.length)) - 2).map(
        (name, k) => name + (losses[k] ? `: ${losses[k]}` : ""),
      ),
      "middle right",
    ),
  ];
}

function saidRidge(slot) {
  const [under, over] = [SLOTS.underflow[slot], SLOTS.overflow[slot]];
  const lost = under === null ? "" : `\n${percent(under)} become 0, ${percent(over)} beyond its ends`;
  return `${SLOTS.names[slot]}\n${SLOTS.texts[SLOTS.precisions[slot]]}\n|x| from ${shown(SLOTS.amin[slot])} to ${shown(SLOTS.amax[slot])}, ${percent(SLOTS.zeros[slot] / SLOTS.elements[slot])} zeros${lost}`;
}

function ridgeSlots() {
  const found = [];
  for (let slot = 0; slot < SLOTS.names.length; slot++)
    if (shownSlots[slot] && hasHistogram(slot)) found.push(slot);
  if (ridgeOrder.value === "lost") {
    const lost = new Map(found.map((slot) => [slot, lostOf(slot)]));
    found.sort((a, b) => lost.get(b) - lost.get(a) || a - b);
  }
  return found;
}

function turnPages(every) {
  const pages = Math.max(1, Math.ceil(every / RIDGES));
  ridgePage = clamp(ridgePage, 0, pages - 1);
  ridgesBefore.disabled = ridgePage === 0;
  ridgesAfter.disabled = ridgePage === pages - 1;
  const last = Math.min(every, (ridgePage + 1) * RIDGES);
  element("ridges-page").textContent = every
    ? `${ridgePage * RIDGES + 1} to ${last} of ${plural(every, "slot")}`
    : "";
}

chart("ridges", () => {
  const every = ridgeSlots();
  turnPages(every.length);
  if (!SLOTS.names.some((_, slot) => hasHistogram(slot)))
    return unknown(
      "ridges",
      missing(
        ["range"],
        "No values were looked at: analysis = net.analyze(x, loss=...), then net.report(analysis).",
      ),
    );
  if (!every.length) return unknown("ridges", NOTHING_FOUND);
  const slots = every.slice(ridgePage * RIDGES, (ridgePage + 1) * RIDGES);
  const seenExponents = slots.flatMap((slot) => [EXPONENTS[startOf(slot)], EXPONENTS[SLOTS.ends[slot] - 1] + 1]);
  const [low, high] = [Math.min(...seenExponents) - 1, Math.max(...seenExponents) + 1];
  const names = slots.map((slot) => SLOTS.labels[slot] + (SLOTS.approximate[slot] ? " *" : ""));
  const narrow = isNarrow();
  const { short, pixels } = narrow ? { short: names, pixels: 10 } : namesThatFit(names);
  const inner = Math.max(60, slots.length * (narrow ? 48 : 30));
  const losses = slots.map(saidLoss);
  const right = narrow ? 10 : 10 + Math.max(0, ...losses.map((own) => own.length)) * 6.4;
  const texts = ridgeTexts(names, losses, [low, high], narrow);
  const points = {
    type: "scatter",
    mode: "markers",
    x: [],
    y: [],
    customdata: [],
    marker: { opacity: 0, size: 12 },
    hoverinfo: "none",
  };
  slots.forEach((slot, line) => {
    for (let k = startOf(slot); k < SLOTS.ends[slot]; k++) {
      points.x.push(EXPONENTS[k] + 0.5);
      points.y.push(line - 0.4);
      points.customdata.push(slot);
    }
  });
  const div = paint(
    "ridges",
    [
      bands(slots, "lowest", "normal", 0.08, narrow ? 0.66 : 0.94),
      bands(slots, "normal", "highest", 0.17, narrow ? 0.66 : 0.94),
      ...ridgeTraces(slots, narrow ? 0.6 : 0.88),
      ...texts,
      points,
    ],
    {
      height: inner + 70,
      margin: { l: pixels, r: right, t: 10, b: 50 },
      xaxis: { title: { text: "log2 |x|" }, range: [low, high], zeroline: false, dtick: high - low > 24 ? 8 : 4 },
      yaxis: { ...rowAxis(short, inner), showticklabels: !narrow, range: [slots.length - 0.9, -1.05] },
    },
    (point) => saidRidge(point.customdata),
  );
  if (!narrow) followZoom("ridges", div, short, inner);
});

function turn(by) {
  ridgePage += by;
  charts.get("ridges").stale = true;
  drawNow("ridges");
}
ridgesBefore.addEventListener("click", () => turn(-1));
ridgesAfter.addEventListener("click", () => turn(1));
ridgeOrder.addEventListener("change", () => {
  ridgePage = 0;
  turn(0);
});
