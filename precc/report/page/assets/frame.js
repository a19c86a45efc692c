// Charts: each is drawn when it is first seen, and again when what it shows has changed.
const charts = new Map();
const seen = new Set();
const shownOps = new Uint8Array(OPS.names.length).fill(1);
const shownSlots = new Uint8Array(SLOTS.names.length).fill(1);
const isNarrow = () => window.innerWidth < 600;
const tip = document.getElementById("tip");
const element = (id) => document.getElementById(id);
const place = (id) => document.querySelector(`#${id} .chart`);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function chart(id, draw) {
  charts.set(id, { draw, stale: true });
}

function drawNow(id) {
  const own = charts.get(id);
  if (!own.stale) return;
  own.stale = false;
  try {
    own.draw();
    document.getElementById(id).dataset.drawn = "true";
  } catch (error) {
    unknown(id, [`This chart could not be drawn: ${error.message}`]);
    reportError(error);
  }
}

function redrawAll() {
  for (const own of charts.values()) own.stale = true;
  for (const id of seen) drawNow(id);
}

function drawEvery() {
  for (const id of charts.keys()) drawNow(id);
}

const observer = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        seen.add(target.id);
        drawNow(target.id);
      } else seen.delete(target.id);
    }
  },
  { rootMargin: "150px" },
);

// A picture in the place of a chart; `hovered` says what stands at a point.
function paint(id, traces, layout, hovered) {
  const div = place(id);
  if (div.dataset.kind !== "plot") {
    div.replaceChildren();
    div.dataset.kind = "plot";
  }
  const text = colour("text");
  const axis = {
    gridcolor: colour("line"),
    zerolinecolor: colour("line"),
    linecolor: colour("soft"),
    fixedrange: false,
  };
  const whole = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: text, size: 12, family: "inherit" },
    showlegend: false,
    hovermode: "closest",
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("soft"), font: { color: text } },
    ...layout,
  };
  for (const name of Object.keys(layout)) if (/^[xy]axis/.test(name)) whole[name] = { ...axis, ...layout[name] };
  Plotly.react(div, traces, whole, {
    displaylogo: false,
    responsive: false,
    displayModeBar: isNarrow() ? false : "hover",
    modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]], // those that Plotly has else could send the data away
  });
  div.setAttribute("role", "img");
  div.setAttribute("aria-label", document.querySelector(`#${id} h2`).textContent);
  div.removeAllListeners("plotly_hover");
  div.removeAllListeners("plotly_unhover");
  if (hovered) {
    div.on("plotly_hover", ({ points, event }) => tell(hovered(points[0]), event));
    div.on("plotly_unhover", () => {
      tip.hidden = true;
    });
  }
  return div;
}

function tell(text, event) {
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${clamp(event.clientX + 14, 4, Math.max(4, window.innerWidth - box.width - 4))}px`;
  const below = event.clientY + 18;
  tip.style.top = `${below + box.height > window.innerHeight ? event.clientY - box.height - 12 : below}px`;
}

// A sentence below a chart; an empty one takes it away.
function below(id, text) {
  const div = place(id);
  let line = div.nextElementSibling;
  if (!line?.classList.contains("below")) {
    if (!text) return;
    line = document.createElement("p");
    line.className = "below caption";
    div.after(line);
  }
  line.textContent = text;
  line.hidden = !text;
}

// What is not known, in the place of a chart.
function unknown(id, sentences) {
  const div = place(id);
  if (div.dataset.kind === "plot") Plotly.purge(div);
  div.dataset.kind = "text";
  below(id, "");
  div.removeAttribute("role");
  div.removeAttribute("aria-label");
  const box = document.createElement("div");
  box.className = "unknown";
  for (const sentence of sentences) box.append(withText("p", sentence));
  div.replaceChildren(box);
}

function withText(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

// Pairs of a name and a text, as a list of definitions.
function define(list, pairs) {
  list.replaceChildren(...pairs.flatMap(([name, text]) => [withText("dt", name), withText("dd", text)]));
}
const NO_ERROR = ["No error is larger than 0: nothing is rounded, or nothing of it reaches the step."];
const NOTHING_FOUND = ["Nothing that this chart shows fits the search."];
