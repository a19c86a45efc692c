// Predicted errors against measured ones, on a line of 45 degrees.
function pairsOf(part, names, visible) {
  return names.flatMap((name, k) =>
    visible[k] && isPositive(part.predicted[k]) && isPositive(part.measured[k])
      ? [{ name, x: part.predicted[k], y: part.measured[k], ...within(part, k) }]
      : [],
  );
}

const within = (part, k) => ({
  dx: part.predicted_within[k] ?? 0,
  dy: part.measured_within[k] ?? 0,
  doubt: part.predicted_doubt[k],
});

// Bars of the standard errors, where there are any.
function errorBars(points, name, ink) {
  if (!points.some((p) => isPositive(p[name]))) return { visible: false };
  return { type: "data", array: points.map((p) => p[name] ?? 0), color: ink, thickness: 1, width: 0 };
}

const withError = (own) =>
  `${percent(number(own.gradient))}${plusMinus(number(own.standard_error))}`;

function saidTrust() {
  const step = DATA.step;
  if (!step) return "";
  const parts = [];
  if (step.predicted && step.measured) {
    parts.push(
      `The whole plan: ${withError(step.predicted)} predicted, ${withError(step.measured)} measured in ${plural(step.draws, "draw")}.`,
    );
  }
  if (step.predicted?.doubt) parts.push(`The prediction is unsure, for ${step.predicted.doubt}.`);
  if (step.rank_correlation !== null)
    parts.push(
      `Rank correlation (Spearman) of predicted and measured errors: ${shown(number(step.rank_correlation))}.`,
    );
  if (step.calibration.length) {
    const said = step.calibration.map((own) => `${own.group} ${shown(number(own.gradient))} (${own.count})`);
    parts.push(`Predictions are corrected by measured over predicted, with counts: ${said.join(", ")}.`);
  }
  if (step.predicted?.partial) parts.push("Operators without a derivative leave a part of the prediction out.");
  return parts.join(" ");
}

function whyNoPairs() {
  const has = (kind, is) => [SLOTS, OPS].some((part) => part[kind].some(is));
  if (!DATA.step?.measured && !has("measured", isFiniteNumber))
    return missing(["measure"], "Nothing was measured: net.report(analysis, measure=4).");
  return has("predicted", isPositive) && has("measured", isPositive) ? NOTHING_FOUND : NO_ERROR;
}

chart("calibration", () => {
  element("trust").textContent = saidTrust();
  const sets = [
    {
      name: "slots",
      symbol: "circle",
      own: pairsOf(SLOTS, SLOTS.names, shownSlots),
      ink: isDark() ? "#f0b355" : "#9a5b00",
    },
    { name: "ops", symbol: "square", own: pairsOf(OPS, OPS.names, shownOps), ink: colour("accent") },
  ];
  const { predicted, measured } = DATA.step ?? {};
  const whole = [number(predicted?.gradient), number(measured?.gradient)];
  if (whole.every(isPositive))
    sets.push({
      name: "whole plan",
      symbol: "star",
      own: [
        {
          name: "whole plan",
          x: whole[0],
          y: whole[1],
          dx: number(predicted.standard_error) ?? 0,
          dy: number(measured.standard_error) ?? 0,
          doubt: predicted.doubt,
        },
      ],
      ink: colour("text"),
    });
  const points = sets.flatMap((set) => set.own);
  if (!points.length) return unknown("calibration", whyNoPairs());
  const logs = points.flatMap(({ x, y }) => [Math.log10(x), Math.log10(y)]);
  const range = [Math.min(...logs) - 0.4, Math.max(...logs) + 0.4];
  const ends = range.map((own) => 10 ** own);
  const line = (factor, dash) => ({
    type: "scatter",
    mode: "lines",
    x: ends,
    y: ends.map((own) => own * factor),
    hoverinfo: "skip",
    showlegend: false,
    line: { color: colour("soft"), dash, width: 1 },
  });
  const traces = sets
    .filter((set) => set.own.length)
    .map((set) => ({
      type: "scatter",
      mode: "markers",
      name: set.name,
      x: set.own.map((p) => p.x),
      y: set.own.map((p) => p.y),
      hoverinfo: "none",
      customdata: set.own.map((p) => (p.doubt ? `${p.name}\nunsure: ${p.doubt}` : p.name)),
      error_x: errorBars(set.own, "dx", set.ink),
      error_y: errorBars(set.own, "dy", set.ink),
      marker: {
        symbol: set.own.map((p) => (p.doubt ? `${set.symbol}-open` : set.symbol)),
        size: set.symbol === "star" ? 14 : 8,
        color: set.ink,
        opacity: 0.85,
      },
    }));
  const axis = (text) => ({
    type: "log",
    range,
    title: { text },
    exponentformat: "power",
    dtick: range[1] - range[0] > 1 ? 1 : undefined,
  });
  const side = clamp(place("calibration").clientWidth, 260, 560);
  paint(
    "calibration",
    [line(1, "solid"), line(2, "dash"), line(0.5, "dash"), ...traces],
    {
      width: side,
      height: side,
      margin: { l: 66, r: 10, t: 40, b: 50 },
      showlegend: true,
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
      xaxis: axis("predicted"),
      yaxis: axis("measured"),
    },
    (point) => `${point.customdata}\npredicted ${shown(point.x)}, measured ${shown(point.y)}`,
  );
});
