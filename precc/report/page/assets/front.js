// The Pareto front of cost and error, and the plan at the slider.
const CHOICES = DATA.choices;
const slider = element("front-slider");
const frontCopy = element("front-copy");
const UNIT = CHOICES?.unit === "bits" ? "bits an operand" : CHOICES?.unit;
let frontState = null;
let isMoved = false; // until the slider is, it shows the plan in force

function frontStart() {
  const table = knapsack(CHOICES);
  const front = frontOf(table);
  const positive = front.errors.filter(isPositive);
  const [finest, coarsest] = [Math.min(...positive), Math.max(...positive)];
  const inForce = CHOICES.chosen.map((choice, group) => (choice < 0 ? -1 : group * table.size + choice));
  const whole = inForce.every((k) => k >= 0);
  return { table, front, finest, coarsest, inForce, now: whole ? pointOf(table, inForce) : null };
}

const pointOf = (table, places) => ({
  cost: sumOf(table.costs, places),
  error: Math.sqrt(sumOf(table.gradient, places)),
  loss: Math.sqrt(sumOf(table.loss, places)),
});

// The square error that the slider asks for: its ends are those of the front.
function limitAt(position) {
  const { finest, coarsest } = frontState;
  if (position >= 1000) return coarsest;
  return finest * (coarsest / finest) ** (position / 1000) * (1 + 1e-12);
}

function startSlider() {
  const { now, finest, coarsest } = frontState;
  const ratio = coarsest > finest ? Math.log((now?.error ?? 0) ** 2 / finest) / Math.log(coarsest / finest) : 0;
  slider.value = String(Number.isFinite(ratio) && now ? clamp(Math.round(1000 * ratio), 0, 1000) : 500);
}

function drawFront() {
  const { front, now, finest, coarsest } = frontState;
  const each = Math.max(1, Math.ceil(front.costs.length / 600));
  const kept = front.costs
    .map((_, k) => k)
    .filter((k) => k % each === 0 || k === front.costs.length - 1)
    .filter((k) => front.errors[k] > 0);
  const traces = [
    {
      type: "scatter",
      mode: kept.length > 80 ? "lines" : "lines+markers",
      x: kept.map((k) => Math.sqrt(front.errors[k])),
      y: kept.map((k) => front.costs[k]),
      name: "best plans",
      hoverinfo: "none",
      line: { color: colour("accent"), width: 2 },
      ...(kept.length > 80 ? {} : { marker: { size: 5 } }),
    },
    {
      type: "scatter",
      mode: "markers",
      x: [null],
      y: [null],
      name: "slider",
      hoverinfo: "none",
      marker: { symbol: "x", size: 13, color: isDark() ? "#ffb4ab" : "#b3261e" },
    },
  ];
  if (now && now.error > 0) {
    traces.push({
      type: "scatter",
      mode: "markers",
      x: [now.error],
      y: [now.cost],
      name: "plan in force",
      hoverinfo: "none",
      marker: { symbol: "circle-open", size: 16, color: colour("text"), line: { width: 2.5 } },
    });
  }
  paint(
    "front",
    traces,
    {
      height: 360,
      margin: { l: 70, r: 12, t: 40, b: 50 },
      showlegend: true,
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom" },
      xaxis: {
        type: "log",
        title: { text: "predicted error of the gradient, relative" },
        exponentformat: "power",
        dtick: coarsest > 1e4 * finest ? 1 : undefined,
      },
      yaxis: { title: { text: plain(shortened(UNIT, 30)) }, zeroline: false },
    },
    ({ x, y }) => `error ${percent(x)}\n${shown(y)} ${UNIT}`,
  );
}

function solveNow() {
  const { table, front, inForce } = frontState;
  const limit = limitAt(Number(slider.value));
  const stays = !isMoved && frontState.now !== null;
  const places = stays ? Int32Array.from(inForce) : solve(table, front, limit);
  const point = pointOf(table, places);
  const picked = Array.from(places, (k, group) => (k < 0 ? -1 : k - group * table.size));
  const changed = picked.map((_, group) => places[group] !== inForce[group] && places[group] >= 0);
  Object.assign(frontState, { places, picked, changed, point });
  const text = stays
    ? `the plan in force: ${percent(point.error)} predicted`
    : `${percent(Math.sqrt(limit))} asked, ${percent(point.error)} predicted`;
  element("front-value").textContent = text;
  slider.setAttribute("aria-valuetext", `${text}, ${shown(point.cost)} ${UNIT}`);
  tellPlan();
  if (place("front").dataset.kind === "plot")
    Plotly.restyle(place("front"), { x: [[point.error]], y: [[point.cost]] }, [1]);
}

function tellPlan() {
  const { point, now, picked, changed } = frontState;
  const parts = new Map();
  picked.forEach((choice, group) => {
    if (choice >= 0)
      parts.set(CHOICES.labels[choice], (parts.get(CHOICES.labels[choice]) ?? 0) + CHOICES.slots[group].length);
  });
  const said = [...parts]
    .sort((a, b) => b[1] - a[1])
    .map(([label, count]) => `${CHOICES.short[CHOICES.labels.indexOf(label)]} in ${plural(count, "slot")}`);
  const compare = (own, before) => (now ? `${own}, in force ${before}` : own);
  define(element("front-totals"), [
    ["Cost", compare(`${shown(point.cost)} ${UNIT}`, shown(now?.cost))],
    ["Predicted error of the gradient", compare(percent(point.error), percent(now?.error))],
    ["Predicted error of the loss, root mean square", compare(shown(point.loss), shown(now?.loss))],
    ...saidWhole(now),
    ["Formats", said.join(", ")],
  ]);
  const every = changed.map((own, group) => (own ? group : -1)).filter((group) => group >= 0);
  const changes = every.filter((group) =>
    CHOICES.slots[group].some((slot) => shownSlots[slotNumbers.get(slot)] ?? 1),
  );
  const list = changes.slice(0, 200).map((group) => {
    const before = CHOICES.chosen[group] < 0 ? "another precision" : CHOICES.short[CHOICES.chosen[group]];
    return withText("li", `${CHOICES.slots[group].join(", ")}: ${before} \u2192 ${CHOICES.short[picked[group]]}`);
  });
  if (changes.length > 200)
    list.push(withText("li", `and ${changes.length - 200} more: copy the plan to have all`));
  element("front-changes")
    .querySelector("ol")
    .replaceChildren(...list);
  const found = changes.length === every.length ? "" : `, ${counted(changes.length)} of them found by the search`;
  element("front-changes").querySelector("summary").textContent =
    `${plural(every.length, "group")} of slots would change${found}`;
}

// Why the plan in force has another error here than in the overview.
function saidWhole(now) {
  const whole = number(DATA.step?.predicted?.gradient ?? null);
  if (!now || !isFiniteNumber(whole)) return [];
  const text = `${percent(whole)}: that is of all rounding at once. Here the squares of the choices are added, each as if it were alone (first order), which gives ${percent(now.error)}.`;
  return [["The plan in force in the overview", text]];
}

async function copied(made) {
  const output = element("front-copied");
  try {
    frontCopy.value = made();
  } catch (error) {
    output.textContent = `Not copied: ${error.message}`;
    return;
  }
  try {
    await navigator.clipboard.writeText(frontCopy.value);
    output.textContent = "Copied.";
  } catch {
    // browsers refuse the clipboard to some pages: the text is there to be copied by hand
    element("front-text").open = true;
    frontCopy.select();
    output.textContent = "The browser gives no access to the clipboard: the text is selected below.";
  }
}

chart("front", () => {
  const tools = [element("front-tools"), element("front-plan")];
  for (const own of tools) own.hidden = CHOICES === null || !CHOICES.slots.length;
  if (tools[0].hidden)
    return unknown(
      "front",
      missing(
        ["other formats", "errors"],
        "The choices of the slots are not known: analysis = net.analyze(x, loss=...), then net.report(analysis).",
      ),
    );
  if (frontState === null) {
    frontState = frontStart();
    if (Number.isFinite(frontState.finest)) startSlider();
  }
  if (!Number.isFinite(frontState.finest)) {
    for (const own of tools) own.hidden = true;
    return unknown("front", [
      "No choice has a predicted error that is finite and larger than 0, so there is nothing to weigh against cost.",
    ]);
  }
  drawFront();
  solveNow();
});

let sliderWaits = false;
slider.addEventListener("input", () => {
  isMoved = true;
  if (sliderWaits) return;
  sliderWaits = true;
  requestAnimationFrame(() => {
    sliderWaits = false;
    solveNow();
  });
});
element("front-rules").addEventListener("click", () =>
  copied(() => {
    const { point, picked, changed } = frontState;
    return rulesText(
      CHOICES,
      picked,
      changed,
      `predicted error of the gradient ${percent(point.error)}, ${shown(point.cost)} ${UNIT}`,
    );
  }),
);
element("front-json").addEventListener("click", () => copied(() => planText(CHOICES, frontState.picked)));
