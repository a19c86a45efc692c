// A solution as rules in Python, and as the JSON of a plan.

// [layer, family, role, operand] of a slot, without the number of its call.
function partsOf(slot) {
  const [rest, leaf] = [slot.slice(0, slot.lastIndexOf("/")), slot.slice(slot.lastIndexOf("/") + 1)];
  const cut = rest.lastIndexOf("/");
  const [role, operand] = [leaf.slice(0, leaf.indexOf(".")), leaf.slice(leaf.indexOf(".") + 1)];
  return [rest.slice(0, Math.max(cut, 0)), rest.slice(cut + 1).split("#")[0], role, operand];
}

// A name as a pattern that fits it alone.
const pattern = (name) => name.replace(/[*?[]/g, "[$&]");

// Rules for what changes; a rule cannot tell the calls of a module apart, and a comment says where that matters.
function rulesText(choices, picked, changed, heading) {
  const wanted = new Map();
  choices.slots.forEach((slots, group) => {
    for (const slot of slots) {
      const key = JSON.stringify(partsOf(slot));
      const own = wanted.get(key) ?? { choices: new Set(), changed: false };
      own.choices.add(picked[group]);
      own.changed ||= changed[group];
      wanted.set(key, own);
    }
  });
  const lines = [];
  for (const [key, own] of wanted) {
    if (!own.changed) continue;
    const [layer, family, role, operand] = JSON.parse(key);
    const [choice] = own.choices;
    const where = `${JSON.stringify(pattern(layer))}, family=${JSON.stringify(family)}, role=${JSON.stringify(role)}, operand=${JSON.stringify(operand)}`;
    if (own.choices.size > 1)
      lines.push(`    # calls of one module differ, which rules cannot say; the plan JSON does: ${where}`);
    else if (choices.rules[choice] === null)
      lines.push(`    # ${JSON.stringify(choices.labels[choice])} is a format of your own: ${where}`);
    else lines.push(`    precc.Rule(${where}, ${choices.rules[choice]}, inside=False),`);
  }
  return [`# ${heading}`, "rules = [", ...lines, "]", ""].join("\n");
}

// The plan of the report with the choices of a solution in the place of its own.
function planText(choices, picked) {
  const unsaid = [...new Set(picked)].filter((choice) => choice >= 0 && choices.json[choice] === null);
  if (unsaid.length)
    throw new Error(
      `a format of your own has no JSON here: ${unsaid.map((choice) => choices.labels[choice]).join(", ")}`,
    );
  const slots = { ...DATA.plan.slots };
  choices.slots.forEach((names, group) => {
    for (const name of names) if (picked[group] >= 0) slots[name] = choices.json[picked[group]];
  });
  return `${JSON.stringify({ ...DATA.plan, slots }, null, 1)}\n`;
}
