// The search: what it finds is what all charts and the table show.
const searchField = element("search");

// A text is looked for anywhere; with * or ? it is a pattern for a whole name of a module, an op or a slot.
function matcher(text) {
  const wanted = text.trim().toLowerCase();
  if (!/[*?]/.test(wanted)) return (name) => name.toLowerCase().includes(wanted);
  const escaped = wanted
    .replace(/[.+^${}()|[\]\\]/g, "\\$&")
    .replaceAll("*", ".*")
    .replaceAll("?", ".");
  const regex = new RegExp(`^${escaped}$`, "s");
  return (name) => regex.test(name.toLowerCase());
}

function search(text) {
  const fits = matcher(text);
  OPS.names.forEach((name, k) => {
    shownOps[k] = fits(name) || fits(OPS.layers[k]) ? 1 : 0;
  });
  const byOp = shownOps.slice();
  SLOTS.names.forEach((name, k) => {
    const op = SLOTS.ops[k];
    shownSlots[k] = byOp[op] || fits(name) ? 1 : 0;
    if (shownSlots[k]) shownOps[op] = 1;
  });
  const [ops, slots] = [shownOps, shownSlots].map((own) => own.reduce((sum, one) => sum + one, 0));
  element("found").textContent = text.trim()
    ? `${counted(ops)} of ${plural(OPS.names.length, "op")}, ${plural(slots, "slot")}`
    : "";
  ridgePage = 0;
  redrawAll();
}

let searchWaits = 0;
searchField.addEventListener("input", () => {
  clearTimeout(searchWaits);
  searchWaits = setTimeout(() => search(searchField.value), 120);
});
