// The model's own source, with the formats of what each line computes.
function listing(own) {
  const details = document.createElement("details");
  details.open = DATA.source.length <= 3;
  details.append(withText("summary", `${own.name} (${own.file})`));
  const text = document.createElement("pre");
  text.tabIndex = 0;
  for (const [line, code, ops] of own.lines) {
    text.append(`${String(line).padStart(5)}  ${code}`);
    for (const op of ops) {
      const k = opNumbers.get(op);
      if (k === undefined || !shownOps[k]) continue;
      text.append("   ", withText("b", `${op}: ${[...new Set(OPS.formats[k])].join(" | ")}`));
    }
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
