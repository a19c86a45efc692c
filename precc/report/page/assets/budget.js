// The error budget: which part of the square error each op or slot contributes.
const [budgetOf, budgetBy] = [element("budget-of"), element("budget-by")];

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
  if (!predicted.some(isFiniteNumber) && !DATA.step?.predicted)
    return unknown(
      "budget",
      missing(["errors"], "No errors are known: analysis = net.analyze(x, loss=...), then net.report(analysis)."),
    );
  if (!total) return unknown("budget", NO_ERROR);
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
