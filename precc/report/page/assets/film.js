// The film strip: formats of ops by training steps, with the loss and the decisions above.
const FILM = DATA.film;
const FILM_PLANS = typed(FILM.plans);
const filmColumn = element("film-column");
const EVERY = "every operand";
const STEP = "step"; // rows of it have a loss and no decision
const MOST_EVENTS = 10;
const MOST_POINTS = 4000;
const MOST_MARKS = 2000;
const NO_HISTORY =
  "No step and no decision was noted: train with a controller, such as precc.TrustRegion(net), or log the training with precc.TrainingLog(net), and make the report again.";

// Numbers of the events that have a line each, and what stands at each line; the rarest share the last one.
function filmEvents() {
  const { names, numbers } = FILM.events;
  const counts = names.map(() => 0);
  for (const event of numbers) counts[event] += 1;
  const every = names.map((_, event) => event).filter((event) => names[event] !== STEP);
  if (every.length <= MOST_EVENTS) return { lines: every.map((event) => [event]), names: every.map((k) => names[k]) };
  const common = [...every].sort((a, b) => counts[b] - counts[a]).slice(0, MOST_EVENTS - 1);
  const own = every.filter((event) => common.includes(event));
  const rest = every.filter((event) => !common.includes(event));
  return {
    lines: [...own.map((event) => [event]), rest],
    names: [...own.map((k) => names[k]), `${rest.length} others`],
  };
}

// Rows of the history with a loss: of every step where those were noted, else of decisions; not more than can be seen.
function filmLosses() {
  const every = FILM.loss.map((own, k) => (own === null ? -1 : k)).filter((k) => k >= 0);
  const step = FILM.events.names.indexOf(STEP);
  const steps = every.filter((k) => FILM.events.numbers[k] === step);
  return thinned(steps.length ? steps : every);
}

// The first, smallest and largest loss of as many stretches as are drawn.
function thinned(rows) {
  if (rows.length <= MOST_POINTS) return rows;
  const size = Math.ceil(rows.length / (MOST_POINTS / 3));
  const found = new Set();
  for (let from = 0; from < rows.length; from += size) {
    const part = rows.slice(from, from + size).filter((k) => isFiniteNumber(number(FILM.loss[k])));
    const by = (a, b) => number(FILM.loss[a]) - number(FILM.loss[b]);
    const sorted = [...part].sort(by);
    for (const k of [rows[from], sorted[0], sorted.at(-1)]) if (k !== undefined) found.add(k);
  }
  return [...found].sort((a, b) => a - b);
}

function filmAxis() {
  const ascending = FILM.steps.every((step, k) => k === 0 || step >= FILM.steps[k - 1]);
  const times = ascending ? FILM.steps : FILM.steps.map((_, k) => k);
  return { times, title: ascending ? "training step" : "row of the history" };
}

// Pieces of time under one plan, from the start to the last step: edges, and the plan between them, -1 if not known.
function filmPieces(times) {
  const [edges, plans] = times[0] > 0 ? [[0], [-1]] : [[], []];
  FILM.frames.forEach((plan, k) => {
    if (k + 1 < times.length && times[k + 1] === times[k]) return;
    if (plans.length && plans[plans.length - 1] === plan) return;
    edges.push(times[k]);
    plans.push(plan);
  });
  edges.push(times[times.length - 1] + 1);
  return { edges, plans };
}

function labelled(op, leaf) {
  const label = OPS.labels[opNumbers.get(op)] ?? op;
  return leaf ? `${label} ${leaf}` : label;
}

function filmRows(column) {
  const columns = column === EVERY ? FILM.columns.map((_, k) => k) : [FILM.columns.indexOf(column)];
  const rows = [];
  FILM.ops.forEach((name, op) => {
    for (const own of columns) {
      const first = FILM_PLANS[own * FILM.ops.length + op];
      const full = `${name}/${FILM.columns[own]}`;
      const visible = shownOps[opNumbers.get(name)] && (columns.length === 1 || shownSlots[slotNumbers.get(full)]);
      if (first !== -1 && first !== undefined && visible)
        rows.push({ name: labelled(name, columns.length > 1 ? FILM.columns[own] : ""), own, op });
    }
  });
  return rows;
}

function eventTraces(times) {
  const { names, numbers } = FILM.events;
  const symbols = {
    accept: "line-ns-open",
    reject: "x-thin-open",
    refine: "triangle-up",
    coarsen: "triangle-down",
  };
  const inks = { accept: isDark() ? "#7fc8a9" : "#00664a", reject: isDark() ? "#ffb4ab" : "#b3261e" };
  const shown = filmEvents();
  return shown.lines.map((events, line) => {
    const name = events.length === 1 ? names[events[0]] : "";
    const own = numbers.map((n, k) => (events.includes(n) ? k : -1)).filter((k) => k >= 0);
    const each = Math.max(1, Math.ceil(own.length / MOST_MARKS));
    const kept = own.filter((_, k) => k % each === 0);
    const ink = inks[name] ?? colour("text");
    return {
      type: "scatter",
      mode: "markers",
      name: plain(shown.names[line]),
      x: kept.map((k) => times[k]),
      y: kept.map(() => line),
      customdata: kept,
      yaxis: "y3",
      hoverinfo: "none",
      marker: { symbol: symbols[name] ?? "diamond", size: 8, color: ink, line: { color: ink, width: 1.5 } },
    };
  });
}

function filmLayout(names, title, ends, narrow) {
  const { short, pixels } = namesThatFit(names, 0.33);
  const strip = clamp(names.length * 15, 60, 680);
  const shown = filmEvents();
  const events = shown.names.length * 14 + 6;
  const above = 110;
  const total = strip + events + above + 24;
  const [first, second] = [strip / total, (strip + 12 + events) / total];
  const losses = FILM.loss.map(number).filter(isFiniteNumber);
  const spread = losses.length && Math.min(...losses) > 0 && Math.max(...losses) > 20 * Math.min(...losses);
  return {
    short,
    strip,
    layout: {
      height: total + 60,
      margin: { l: Math.max(pixels, 64), r: 12, t: 12, b: 48 },
      xaxis: { title: { text: title }, range: ends, showgrid: false, zeroline: false, anchor: "y", nticks: narrow ? 5 : 12 },
      yaxis: { ...rowAxis(short, strip), domain: [0, first] },
      yaxis2: {
        domain: [second + 12 / total, 1],
        title: { text: "loss" },
        type: spread ? "log" : "linear",
        nticks: 4,
        zeroline: false,
      },
      yaxis3: {
        domain: [first + 12 / total, second],
        range: [Math.max(1, shown.names.length) - 0.5, -0.5],
        zeroline: false,
        showgrid: false,
        tickvals: shown.names.map((_, k) => k),
        ticktext: shown.names.map((own) => plain(shortened(own, 14))),
      },
    },
  };
}

function saidOfRow(k) {
  const { controllers, events } = FILM;
  const parts = [
    `step ${FILM.steps[k]}: ${events.names[events.numbers[k]]} by ${controllers.names[controllers.numbers[k]]}`,
    FILM.reasons[k],
  ];
  const loss = number(FILM.loss[k]);
  if (loss !== null) parts.push(`loss ${shown(loss)}`);
  if (FILM.bits[k] !== null) parts.push(`${shown(number(FILM.bits[k]))} bits on average`);
  return parts.filter(Boolean).join("\n");
}

function lossTrace(times) {
  const shown = filmLosses();
  const loss = shown.map((k) => number(FILM.loss[k]));
  return {
    type: "scatter",
    mode: shown.length > 60 ? "lines" : "lines+markers",
    x: shown.map((k) => times[k]),
    customdata: shown,
    hoverinfo: "none",
    y: loss.map((own) => (isFiniteNumber(own) ? own : null)),
    yaxis: "y2",
    line: { color: colour("accent"), width: 1.5 },
    ...(shown.length > 60 ? {} : { marker: { size: 4 } }),
  };
}

const filmCell = (plan, { own, op }) => FILM_PLANS[(plan * FILM.columns.length + own) * FILM.ops.length + op];

function stripTrace(rows, { edges, plans }) {
  return {
    type: "heatmap",
    x: edges,
    y: rows.map((_, k) => k),
    z: rows.map((row) => plans.map((plan) => (plan < 0 ? null : filmCell(plan, row)))),
    ...formatScale(),
    hoverinfo: "none",
    ygap: rows.length > 60 ? 0 : 1,
  };
}

function saidOfPiece(row, { edges, plans }, piece) {
  if (plans[piece] < 0) return "which plan was in force here was not noted";
  const own = FORMATS[filmCell(plans[piece], row)];
  return `${row.name}\n${own.name}, steps ${edges[piece]} to ${edges[piece + 1] - 1}`;
}

// What the film leaves out, of the training and of the history.
function saidOfFilm({ edges, plans }) {
  const counts = FILM.events.names.map(() => 0);
  for (const event of FILM.events.numbers) counts[event] += 1;
  const parts = [];
  if (plans[0] < 0) parts.push(`The plan before step ${edges[1]} was not noted, and is left white.`);
  const most = Math.max(...counts.filter((_, k) => FILM.events.names[k] !== STEP), 0);
  if (most > MOST_MARKS)
    parts.push(`Of events that occur more than ${counted(MOST_MARKS)} times, one in several is marked.`);
  const { lines } = filmEvents();
  const rare = lines.at(-1) ?? [];
  if (rare.length > 1) parts.push(`Others: ${rare.map((k) => FILM.events.names[k]).join(", ")}.`);
  return parts.join(" ");
}

chart("film", () => {
  element("film-said").textContent = "";
  if (!FILM.steps.length) return unknown("film", missing(["history"], NO_HISTORY));
  const rows = filmRows(filmColumn.value);
  const { times, title } = filmAxis();
  const pieces = filmPieces(times);
  const names = rows.map((row) => row.name);
  const ends = [pieces.edges[0], pieces.edges.at(-1)];
  const { short, strip, layout } = filmLayout(names, title, ends, isNarrow());
  const traces = [...(rows.length ? [stripTrace(rows, pieces)] : []), lossTrace(times), ...eventTraces(times)];
  const div = paint("film", traces, layout, (point) =>
    point.data.type === "heatmap"
      ? saidOfPiece(rows[point.pointIndex[0]], pieces, point.pointIndex[1])
      : saidOfRow(point.customdata),
  );
  element("film-said").textContent = saidOfFilm(pieces);
  followZoom("film", div, short, strip);
});

const filmChoices = FILM.ops.length * FILM.columns.length <= 3000 ? [...FILM.columns, EVERY] : FILM.columns;
filmColumn.replaceChildren(...filmChoices.map((name) => withText("option", name)));
if (FILM.ops.length * FILM.columns.length <= (isNarrow() ? 12 : 48)) filmColumn.value = EVERY;
filmColumn.addEventListener("change", () => {
  charts.get("film").stale = true;
  drawNow("film");
});
