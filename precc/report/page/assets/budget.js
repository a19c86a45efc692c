// The error budget: which part of the square error each op or slot contributes; bars of parts, for the cost too.
const BARS = 30;
const [budgetOf, budgetBy] = [element("budget-of"), element("budget-by")];

// Horizontal bars, the largest first, the others summed. Entries have a name, a part, and perhaps another, a mark.
function bars(id, entries, what, barColour, other) {
  const sorted = [...entries].sort((a, b) => b.part - a.part);
  const drawn = sorted.slice(0, BARS);
  const rest = sorted.slice(BARS);
  if (rest.length) {
    const marks = rest.filter((own) => isFiniteNumber(own.mark)).map((own) => own.mark);
    const mark = marks.length ? marks.reduce((a, b) => a + b, 0) : null;
    drawn.push({ name: `${rest.length} others`, part: rest.reduce((sum, own) => sum + own.part, 0), mark });
  }
  const names = drawn.map((own) => own.name);
  const { letters, pixels } = nameWidth(names);
  const inner = Math.max(40, drawn.length * ROW);
  const traces = [
    {
      type: "bar",
      orientation: "h",
      x: drawn.map((own) => 100 * own.part),
      y: drawn.map((_, k) => k),
      name: what,
      hoverinfo: "none",
      marker: { color: drawn.map((own) => own.colour ?? barColour), line: { color: colour("soft"), width: 0.5 } },
    },
  ];
  const marked = drawn.map((own, k) => (isFiniteNumber(own.mark) ? k : -1)).filter((k) => k >= 0);
  if (marked.length) {
    traces.push({
      type: "scatter",
      mode: "markers",
      x: marked.map((k) => 100 * drawn[k].mark),
      y: marked,
      name: other,
      hoverinfo: "none",
      marker: { symbol: "diamond", size: 9, color: colour("back"), line: { color: colour("text"), width: 1.5 } },
    });
  }
  const div = paint(
    id,
    traces,
    {
      height: inner + 96,
      margin: { l: pixels, r: 14, t: 40, b: 46 },
      bargap: 0.25,
      showlegend: marked.length > 0,
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
      xaxis: { title: { text: "percent" }, rangemode: "tozero", zeroline: false },
      yaxis: rowAxis(names, inner, letters),
    },
    (point) => {
      const own = drawn[point.y];
      const also = isFiniteNumber(own.mark) ? `\n${other} ${percent(own.mark)}` : "";
      return `${own.name}\n${what} ${percent(own.part)}${also}${own.more ? `\n${own.more}` : ""}`;
    },
  );
  followZoom(div, names, inner, letters);
}

function squares(by, kind) {
  const part = by === "ops" ? OPS : SLOTS;
  const name = budgetOf.value === "gradient" ? kind : `${kind}_loss`;
  return part[name].map((own) => (own === null ? null : own * own));
}

chart("budget", () => {
  let by = budgetBy.value;
  if (by === "ops" && !squares("ops", "predicted").some(isFiniteNumber)) by = "slots";
  const [predicted, measured] = [squares(by, "predicted"), squares(by, "measured")];
  const total = predicted.reduce((sum, own) => sum + (isFiniteNumber(own) ? own : 0), 0);
  if (!predicted.some(isFiniteNumber))
    return unknown(
      "budget",
      missing(["errors"], "No errors are known: analysis = net.analyze(x, loss=...), then net.report(analysis)."),
    );
  if (!total)
    return unknown("budget", [
      "No predicted error is larger than 0: nothing is rounded, or nothing of it reaches the step.",
    ]);
  const [names, visible] = by === "ops" ? [OPS.labels, shownOps] : [SLOTS.labels, shownSlots];
  const entries = names.flatMap((name, k) =>
    visible[k] && isFiniteNumber(predicted[k])
      ? [
          {
            name,
            part: predicted[k] / total,
            mark: measured[k] === null ? null : measured[k] / total,
            colour: by === "slots" ? FORMATS[SLOTS.formats[k]].colour : undefined,
            more: `error ${shown(Math.sqrt(predicted[k]))}${by === "slots" ? `, ${SLOTS.texts[SLOTS.precisions[k]]}` : ""}`,
          },
        ]
      : [],
  );
  if (!entries.length) return unknown("budget", NOTHING_FOUND);
  bars("budget", entries, "predicted", "#4a86c8", "measured");
});

for (const choice of [budgetOf, budgetBy]) {
  choice.addEventListener("change", () => {
    charts.get("budget").stale = true;
    drawNow("budget");
  });
}
