// Bars of parts: of an error, or of a cost.
const BARS = 30;

// Horizontal bars, the largest first, the others summed. Entries have a name, a part, and perhaps another, a mark.
function bars(id, entries, what, barColour, other) {
  const sorted = [...entries].sort((a, b) => b.part - a.part);
  const drawn = sorted.slice(0, BARS);
  const rest = sorted.slice(BARS);
  if (rest.length) {
    const marks = rest.filter((own) => isFiniteNumber(own.mark)).map((own) => own.mark);
    const mark = marks.length ? marks.reduce((a, b) => a + b, 0) : null;
    drawn.push({ name: `${rest.length} others`, part: rest.reduce((sum, own) => sum + own.part, 0), mark });
  }
  const names = drawn.map((own) => own.name);
  const { short, pixels } = namesThatFit(names);
  const inner = Math.max(40, drawn.length * ROW);
  const traces = [
    {
      type: "bar",
      orientation: "h",
      x: drawn.map((own) => 100 * own.part),
      y: drawn.map((_, k) => k),
      name: what,
      hoverinfo: "none",
      marker: {
        color: drawn.map((own) => own.colour ?? barColour),
        line: { color: colour("soft"), width: 0.5 },
      },
    },
  ];
  const unsure = drawn.map((own, k) => (own.isUnsure ? k : -1)).filter((k) => k >= 0);
  if (unsure.length) traces.push(hatched(drawn, unsure));
  const marked = drawn.map((own, k) => (isFiniteNumber(own.mark) ? k : -1)).filter((k) => k >= 0);
  if (marked.length) {
    traces.push({
      type: "scatter",
      mode: "markers",
      x: marked.map((k) => 100 * drawn[k].mark),
      y: marked,
      name: other,
      hoverinfo: "none",
      marker: { symbol: "diamond", size: 9, color: colour("back"), line: { color: colour("text"), width: 1.5 } },
    });
  }
  const div = paint(
    id,
    traces,
    {
      height: inner + 96,
      margin: { l: pixels, r: 14, t: 40, b: 46 },
      bargap: 0.25,
      barmode: "overlay",
      showlegend: traces.length > 1,
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
      xaxis: { title: { text: "percent" }, rangemode: "tozero", zeroline: false },
      yaxis: rowAxis(short, inner),
    },
    (point) => {
      const own = drawn[point.y];
      const also = isFiniteNumber(own.mark) ? `\n${other} ${percent(own.mark)}` : "";
      return `${own.name}\n${what} ${percent(own.part)}${also}${own.more ? `\n${own.more}` : ""}`;
    },
  );
  followZoom(id, div, short, inner);
}

// Lines over the bars of predictions that are unsure.
const hatched = (drawn, unsure) => ({
  type: "bar",
  orientation: "h",
  x: unsure.map((k) => 100 * drawn[k].part),
  y: unsure,
  name: "unsure",
  hoverinfo: "none",
  marker: {
    color: "rgba(0,0,0,0)",
    pattern: { shape: "/", fgcolor: colour("text"), bgcolor: "rgba(0,0,0,0)", size: 6, solidity: 0.2 },
  },
});
