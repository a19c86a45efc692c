// What differs from another plan, in bits of each place.
const AGAINST = DATA.against;

function otherBits(slot) {
  const other = AGAINST.slots[SLOTS.names[slot]];
  return other === undefined ? null : FORMATS[SLOTS.formats[slot]].bits - FORMATS[other[0]].bits;
}
const differs = (slot) => {
  const other = AGAINST.slots[SLOTS.names[slot]];
  return other !== undefined && other[1] !== SLOTS.texts[SLOTS.precisions[slot]];
};

function saidTotals() {
  const both = (own, other) => `${own}; other plan ${other}`;
  const errors = (own, kind) => percent(number(own.step?.[kind]?.gradient ?? null));
  const cost = (own) => (own.cost ? `${shown(number(own.cost.value))} ${own.cost.unit}` : "-");
  return [
    ["Predicted error of the gradient", both(errors(DATA, "predicted"), errors(AGAINST, "predicted"))],
    ["Measured error of the gradient", both(errors(DATA, "measured"), errors(AGAINST, "measured"))],
    ["Cost of a step", both(cost(DATA), cost(AGAINST))],
  ];
}

function diffScale(most) {
  const middle = isDark() ? "#3a414b" : "#eceff3";
  return {
    colorscale: [
      [0, "#e69f00"],
      [0.5, middle],
      [1, "#56b4e9"],
    ],
    zmin: -most,
    zmax: most,
    showscale: false,
  };
}

function mixedColour(value, most) {
  const [ends, middle] = [["#e69f00", "#56b4e9"], isDark() ? "#3a414b" : "#eceff3"];
  const [from, to] = [middle, ends[value > 0 ? 1 : 0]];
  const part = Math.abs(value) / most;
  const channel = (k) =>
    Math.round((1 - part) * parseInt(from.slice(k, k + 2), 16) + part * parseInt(to.slice(k, k + 2), 16));
  return `#${[1, 3, 5].map((k) => channel(k).toString(16).padStart(2, "0")).join("")}`;
}

chart("diff", () => {
  if (AGAINST === null)
    return unknown("diff", [
      "There is no other plan: precc report MODEL --against PLAN, or net.report(analysis, against=other) with a report or a plan; docs/guide/report.md has more.",
    ]);
  define(element("diff-totals"), saidTotals());
  const list = AGAINST.changes.slice(0, 500).map((text) => withText("li", text));
  if (AGAINST.changes.length > 500)
    list.push(withText("li", `and ${AGAINST.changes.length - 500} more: print(other_plan.diff(plan))`));
  element("diff-changes")
    .querySelector("ol")
    .replaceChildren(...list);
  const changed = mapRows(differs);
  if (!changed.length) {
    const some = SLOTS.names.some((_, slot) => differs(slot));
    return unknown(
      "diff",
      some ? NOTHING_FOUND : ["Every slot that both reports know has the same precision under both plans."],
    );
  }
  const most = changed
    .flatMap(([, own]) => [...own.values()])
    .reduce((large, slot) => Math.max(large, Math.abs(otherBits(slot))), 1);
  const text = (bits) => (bits === 0 ? "\u2260" : `${bits > 0 ? "+" : MINUS}${shown(Math.abs(bits))}`);
  slotMap(
    "diff",
    changed,
    otherBits,
    diffScale(most),
    (slot) => ({ colour: mixedColour(otherBits(slot), most), text: text(otherBits(slot)) }),
    (slot) =>
      `${SLOTS.names[slot]}\n${AGAINST.slots[SLOTS.names[slot]][1]} \u2192 ${SLOTS.texts[SLOTS.precisions[slot]]}`,
  );
});
if (AGAINST === null) for (const own of ["diff-totals", "diff-changes"]) element(own).hidden = true;
