// What each op costs, beside its multiply-adds.
chart("cost", () => {
  const known = OPS.cost.some((own) => own !== null);
  const parts = known ? OPS.cost : OPS.share;
  if (!parts.some(isPositive))
    return unknown(
      "cost",
      missing(["captured"], "No op is known yet: run a training step of the net, and make the report again."),
    );
  const entries = OPS.names.flatMap((name, k) =>
    shownOps[k] && isFiniteNumber(parts[k])
      ? [
          {
            name: OPS.labels[k],
            part: parts[k],
            mark: known ? OPS.share[k] : null,
            more: `${counted(OPS.work[k])} multiply-adds\n${OPS.formats[k].join(" | ")}`,
          },
        ]
      : [],
  );
  if (!entries.length) return unknown("cost", NOTHING_FOUND);
  bars("cost", entries, known ? "cost" : "multiply-adds", "#3d8f8a", "multiply-adds");
});

if (OPS.cost.every((own) => own === null)) {
  const text = missing(
    ["cost"],
    "The cost is not known: analysis = net.analyze(x, loss=...), then net.report(analysis).",
  ).join(" ");
  document.querySelector("#cost .caption").textContent =
    `The part of the multiply-adds of one step that each op has, in percent. ${text}`;
}
