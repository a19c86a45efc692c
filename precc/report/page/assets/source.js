const CHOICES_OF_A_LINE = 3;
const formatsOf = (k) => (new Set(OPS.short[k]).size === 1 ? OPS.short[k][0] : OPS.short[k].join(" | "));

// What a line computes in: one op by its name, several by how many have which formats; the whole in its title.
function saidOfLine(ops) {
  const counts = new Map();
  for (const k of ops) counts.set(formatsOf(k), (counts.get(formatsOf(k)) ?? 0) + 1);
  const found = [...counts].sort((a, b) => b[1] - a[1]);
  const of = (count) => (found.length > 1 ? `${count} of ${ops.length} ops` : `${count} ops`);
  const parts = found.slice(0, CHOICES_OF_A_LINE).map(([text, count]) => `${of(count)}: ${text}`);
  if (found.length > CHOICES_OF_A_LINE) parts.push(`and ${found.length - CHOICES_OF_A_LINE} other choices`);
  const own = withText("b", `# ${ops.length === 1 ? `${OPS.labels[ops[0]]}: ${formatsOf(ops[0])}` : parts.join("; ")}`);
  own.title = ops.map((k) => `${OPS.names[k]}: ${[...new Set(OPS.formats[k])].join(" | ")}`).join("\n");
  return own;
}

// The model's own source, with the formats of what each line computes.
function listing(own) {
  const details = document.createElement("details");
  details.open = DATA.source.length <= 3;
  details.append(withText("summary", `${own.name} (${own.file})`));
  const text = document.createElement("pre");
  text.tabIndex = 0;
  for (const [line, code, ops] of own.lines) {
    text.append(`${String(line).padStart(5)}  ${code}`);
    const shownHere = ops.map((op) => opNumbers.get(op)).filter((k) => k !== undefined && shownOps[k]);
    if (shownHere.length) text.append("  ", saidOfLine(shownHere));
    text.append("\n");
  }
  details.append(text);
  return details;
}

chart("source", () => {
  const has = ({ lines }) => lines.some(([, , ops]) => ops.some((op) => shownOps[opNumbers.get(op)]));
  const found = DATA.source.filter(has);
  const texts = DATA.source.length
    ? NOTHING_FOUND
    : missing(["source"], "The source of the model's modules was not found.");
  element("listings").replaceChildren(
    ...(found.length ? found.map(listing) : texts.map((text) => withText("p", text))),
  );
});
element("source-stars").textContent = DATA.source.length && OPS.stars.length ? `${OPS.stars.join("; ")}.` : "";
