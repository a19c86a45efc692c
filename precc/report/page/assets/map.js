// The precision map: ops by operands, the colour is the format.
// The same map at once, without names and texts, while the library of charts is not there yet.
function previewMap() {
  const rows = mapRows(() => true);
  if (!rows.length) return;
  const { used, inner, pixels, top } = mapSizes("map", rows);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [used.length, rows.length];
  const context = canvas.getContext("2d");
  rows.forEach(([, own], y) =>
    used.forEach((cell, x) => {
      if (!own.has(cell)) return;
      context.fillStyle = FORMATS[SLOTS.formats[own.get(cell)]].colour;
      context.fillRect(x, y, 1, 1);
    }),
  );
  canvas.setAttribute("aria-hidden", "true");
  canvas.style.cssText = `display: block; height: ${inner}px; width: calc(100% - ${pixels + 10}px); margin: ${top}px 10px 10px ${pixels}px; image-rendering: pixelated`;
  place("map").replaceChildren(canvas);
}

chart("map", () => {
  const rows = mapRows(() => true);
  if (!SLOTS.names.length)
    return unknown(
      "map",
      missing(["captured"], "No slot is known yet: run a training step of the net, and make the report again."),
    );
  if (!rows.length) return unknown("map", NOTHING_FOUND);
  slotMap(
    "map",
    rows,
    (slot) => SLOTS.formats[slot],
    formatScale(),
    (slot) => {
      const own = FORMATS[SLOTS.formats[slot]];
      return { colour: own.colour, text: own.short };
    },
    (slot) =>
      `${SLOTS.names[slot]}\n${SLOTS.texts[SLOTS.precisions[slot]]}${SLOTS.rounded[slot] ? "" : ", not rounded"}`,
  );
});
