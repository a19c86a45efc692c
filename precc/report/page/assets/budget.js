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
  const { short, pixels } = namesThatFit(names);
  const inner = Math.max(40, drawn.length * ROW);
  const traces = [
    {
      type: "bar",
      orientation: "h",
      x: drawn.map((own) => 100 * own.part),
      y: drawn.map((_, k) => k),
      name: what,
      hoverinfo: "none",
      marker: {
        color: drawn.map((own) => own.colour ?? barColour),
        line: { color: colour("soft"), width: 0.5 },
      },
    },
  ];
  const unsure = drawn.map((own, k) => (own.isUnsure ? k : -1)).filter((k) => k >= 0);
  if (unsure.length) traces.push(hatched(drawn, unsure));
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
      barmode: "overlay",
      showlegend: traces.length > 1,
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
      xaxis: { title: { text: "percent" }, rangemode: "tozero", zeroline: false },
      yaxis: rowAxis(short, inner),
    },
    (point) => {
      const own = drawn[point.y];
      const also = isFiniteNumber(own.mark) ? `\n${other} ${percent(own.mark)}` : "";
      return `${own.name}\n${what} ${percent(own.part)}${also}${own.more ? `\n${own.more}` : ""}`;
    },
  );
  followZoom(id, div, short, inner);
}

// Lines over the bars of predictions that are unsure.
const hatched = (drawn, unsure) => ({
  type: "bar",
  orientation: "h",
  x: unsure.map((k) => 100 * drawn[k].part),
  y: unsure,
  name: "unsure",
  hoverinfo: "none",
  marker: {
    color: "rgba(0,0,0,0)",
    pattern: { shape: "/", fgcolor: colour("text"), bgcolor: "rgba(0,0,0,0)", size: 6, solidity: 0.2 },
  },
});

function squares(by, kind) {
  const part = by === "ops" ? OPS : SLOTS;
  const name = budgetOf.value === "gradient" ? kind : `${kind}_loss`;
  return part[name].map((own) => (own === null ? null : own * own));
}

chart("budget", () => {
  element("budget-sums").textContent = "";
  let by = budgetBy.value;
  if (by === "ops" && !squares("ops", "predicted").some(isFiniteNumber)) by = "slots";
  const [predicted, measured] = [squares(by, "predicted"), squares(by, "measured")];
  const [total, observed] = [predicted, measured].map((own) =>
    own.reduce((sum, one) => sum + (isFiniteNumber(one) ? one : 0), 0),
  );
  if (!predicted.some(isFiniteNumber))
    return unknown(
      "budget",
      missing(["errors"], "No errors are known: analysis = net.analyze(x, loss=...), then net.report(analysis)."),
    );
  if (!total)
    return unknown("budget", [
      "No predicted error is larger than 0: nothing is rounded, or nothing of it reaches the step.",
    ]);
  const [part, names, visible] = by === "ops" ? [OPS, OPS.labels, shownOps] : [SLOTS, SLOTS.labels, shownSlots];
  const entries = names.flatMap((name, k) =>
    visible[k] && isFiniteNumber(predicted[k])
      ? [
          {
            name,
            part: predicted[k] / total,
            mark: measured[k] === null || !observed ? null : measured[k] / observed,
            isUnsure: part.predicted_doubt[k] !== "",
            colour: by === "slots" ? FORMATS[SLOTS.formats[k]].colour : undefined,
            more: [
              budgetOf.value === "gradient" ? `error ${erred(part, "predicted", k)}` : `error ${shown(Math.sqrt(predicted[k]))}`,
              by === "slots" ? SLOTS.texts[SLOTS.precisions[k]] : "",
              doubtOf(part, k),
            ]
              .filter(Boolean)
              .join("\n"),
          },
        ]
      : [],
  );
  if (!entries.length) return unknown("budget", NOTHING_FOUND);
  bars("budget", entries, "predicted", "#4a86c8", "measured");
  element("budget-sums").textContent = saidSums(total, by, predicted);
});

// What the parts are parts of, beside the error of the whole plan.
function saidSums(total, by, predicted) {
  const isGradient = budgetOf.value === "gradient";
  const said = (own) => (isGradient ? percent(own) : shown(own));
  const unsure = predicted.filter((own, k) => own !== null && (by === "ops" ? OPS : SLOTS).predicted_doubt[k]).length;
  const whole = DATA.step?.predicted;
  const own = whole && (isGradient ? number(whole.gradient) : Math.hypot(number(whole.loss_mean), number(whole.loss)));
  return [
    `The root of all squares together is ${said(Math.sqrt(total))}`,
    whole ? `; the whole plan is predicted at ${said(own)}, with what errors do to each other.` : ".",
    unsure ? ` Hatched: ${counted(unsure)} predictions that are unsure, for what they lose or their standard error.` : "",
  ].join("");
}

for (const choice of [budgetOf, budgetBy]) {
  choice.addEventListener("change", () => {
    charts.get("budget").stale = true;
    drawNow("budget");
  });
}
