// Axes of rows with names: as many names as there is room for, also after a zoom; colours of formats.
const ROW = 18;
const LETTER = 6.6;

// Names as short as there is room for, and the pixels that they take.
function namesThatFit(names, part = 0.36) {
  const most = Math.floor((part * Math.min(window.innerWidth, 1200)) / LETTER);
  const short = shortNames(names, Math.max(8, most));
  const longest = short.reduce((letters, name) => Math.max(letters, name.length), 0);
  return { short, pixels: longest * LETTER + 12 };
}

function ticksOf(names, range, height) {
  const low = Math.max(0, Math.ceil(Math.min(...range)));
  const high = Math.min(names.length - 1, Math.floor(Math.max(...range)));
  const each = Math.max(1, Math.ceil(((high - low + 1) * 15) / Math.max(height, 15)));
  const values = [];
  for (let k = low; k <= high; k += each) values.push(k);
  return { tickvals: values, ticktext: values.map((k) => plain(names[k])), each };
}

// An axis of rows from the top; `height` is its own, in pixels.
function rowAxis(names, height) {
  const range = [names.length - 0.5, -0.5];
  const { tickvals, ticktext } = ticksOf(names, range, height);
  return {
    range,
    tickmode: "array",
    tickvals,
    ticktext,
    showgrid: false,
    zeroline: false,
    ticks: "",
  };
}

// Below a chart: that there is no room for each name.
function sayNames(id, names, range, height) {
  const { each } = ticksOf(names, range, height);
  below(id, each === 1 ? "" : `There is room for one name in ${counted(each)} rows; a zoom shows more of them.`);
}

// Names again after a zoom.
function followZoom(id, div, names, height, axis = "yaxis") {
  sayNames(id, names, [names.length - 0.5, -0.5], height);
  div.removeAllListeners("plotly_relayout");
  div.on("plotly_relayout", (change) => {
    if (!Object.keys(change).some((key) => key.startsWith(`${axis}.range`) || key.startsWith(`${axis}.autorange`)))
      return;
    const { range } = div.layout[axis];
    const found = ticksOf(names, range, height);
    sayNames(id, names, range, height);
    Plotly.relayout(div, { [`${axis}.tickvals`]: found.tickvals, [`${axis}.ticktext`]: found.ticktext });
  });
}

// Numbers of formats as colours: one step of the scale each.
function formatScale() {
  const count = Math.max(1, FORMATS.length);
  const steps = FORMATS.flatMap((own, k) => [
    [k / count, own.colour],
    [(k + 1) / count, own.colour],
  ]);
  return {
    colorscale: steps.length
      ? steps
      : [
          [0, "#888888"],
          [1, "#888888"],
        ],
    zmin: -0.5,
    zmax: count - 0.5,
    showscale: false,
  };
}

// The texts of cells, black or white; one trace of each.
function cellTexts(cells) {
  return ["#000000", "#ffffff"]
    .map((ink) => {
      const own = cells.filter((cell) => inkOn(cell.colour) === ink);
      return {
        type: "scatter",
        mode: "text",
        x: own.map((c) => c.x),
        y: own.map((c) => c.y),
        text: own.map((c) => plain(c.text)),
        textfont: { color: ink, size: 11 },
        hoverinfo: "skip",
        cliponaxis: true,
      };
    })
    .filter((trace) => trace.x.length);
}
