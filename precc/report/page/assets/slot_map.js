// Maps of slots: ops by operands.
function mapRows(isShown) {
  const rows = new Map();
  SLOTS.cells.forEach((cell, slot) => {
    const op = SLOTS.ops[slot];
    const optional = /sum|result/.test(DATA.map[cell]) && !SLOTS.rounded[slot];
    if (!shownOps[op] || optional || !isShown(slot)) return;
    if (!rows.has(op)) rows.set(op, new Map());
    rows.get(op).set(cell, slot);
  });
  return [...rows].sort(([a], [b]) => a - b);
}

function mapSizes(id, rows) {
  const used = DATA.map.map((_, cell) => cell).filter((cell) => rows.some(([, own]) => own.has(cell)));
  const names = rows.map(([op]) => OPS.labels[op]);
  const { short, pixels } = namesThatFit(names);
  const titles = used.map((cell) => DATA.columns[cell]);
  const longest = titles.reduce((most, title) => Math.max(most, title.length), 0) * LETTER;
  const width = (place(id).clientWidth - pixels - 10) / used.length;
  return {
    used,
    short,
    pixels,
    titles,
    inner: clamp(rows.length * ROW, 40, 560),
    width,
    isFlat: width > longest + 8,
    top: width > longest + 8 ? 30 : longest + 16,
  };
}

// A heat map of slots; `valueOf` gives the number of a slot, `cellOf` the colour and text of its cell.
function slotMap(id, rows, valueOf, scale, cellOf, said) {
  const { used, short, pixels, titles, inner, width, isFlat, top } = mapSizes(id, rows);
  const slotAt = (x, y) => rows[y]?.[1].get(used[x]);
  const z = rows.map(([, own]) => used.map((cell) => (own.has(cell) ? valueOf(own.get(cell)) : null)));
  const traces = [{ type: "heatmap", z, ...scale, hoverinfo: "none", xgap: 1, ygap: rows.length > 60 ? 0 : 1 }];
  if (width > 44 && inner / rows.length > 13) {
    const cells = rows.flatMap(([, own], y) =>
      used.flatMap((cell, x) => (own.has(cell) ? [{ x, y, ...cellOf(own.get(cell)) }] : [])),
    );
    traces.push(...cellTexts(cells));
  }
  const div = paint(
    id,
    traces,
    {
      height: inner + top + 10,
      margin: { l: pixels, r: 10, t: top, b: 10 },
      xaxis: {
        side: "top",
        tickvals: used.map((_, x) => x),
        ticktext: titles.map(plain),
        tickangle: isFlat ? 0 : -90,
        range: [-0.5, used.length - 0.5],
        showgrid: false,
        zeroline: false,
        ticks: "",
      },
      yaxis: rowAxis(short, inner),
    },
    ({ x, y }) => {
      const slot = slotAt(x, y);
      return slot === undefined ? "" : said(slot);
    },
  );
  followZoom(id, div, short, inner);
}
