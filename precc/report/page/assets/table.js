// All ops as a table that headings sort.
const PAGE = 200;
let [sortedBy, ascending, tableRows] = [null, true, PAGE];
const power = (value, round) => `2^${String(round(Math.log2(value))).replace("-", MINUS)}`;
const COLUMNS = [
  { name: "op", text: (k) => OPS.labels[k], key: (k) => OPS.names[k], full: (k) => OPS.names[k] },
  ...["fprop", "dgrad", "wgrad"].map((name, at) => ({
    name,
    text: (k) => OPS.short[k][at],
    full: (k) => OPS.formats[k][at],
    key: (k) => OPS.formats[k][at],
  })),
  { name: "multiply-adds", text: (k) => counted(OPS.work[k]), key: (k) => OPS.work[k], isNumber: true },
  { name: "share", text: (k) => percent(OPS.share[k]), key: (k) => OPS.share[k], isNumber: true },
  {
    name: "range",
    text: (k) =>
      isPositive(OPS.amin[k]) && isPositive(OPS.amax[k])
        ? `${power(OPS.amin[k], Math.floor)}..${power(OPS.amax[k], Math.floor).slice(2)}`
        : shown(OPS.amax[k]),
    full: (k) => (OPS.amax[k] === null ? "" : `${shown(OPS.amin[k])} to ${shown(OPS.amax[k])}`),
    key: (k) => OPS.amax[k],
    isNumber: true,
  },
  { name: "condition", text: (k) => shown(OPS.condition[k]), key: (k) => OPS.condition[k], isNumber: true },
  {
    name: "predicted",
    text: (k) => erred(OPS, "predicted", k),
    full: (k) => doubtOf(OPS, k),
    key: (k) => OPS.predicted[k],
    isNumber: true,
  },
  { name: "measured", text: (k) => erred(OPS, "measured", k), key: (k) => OPS.measured[k], isNumber: true },
  { name: "cost", text: (k) => percent(OPS.cost[k]), key: (k) => OPS.cost[k], isNumber: true },
  { name: "why", text: (k) => OPS.why[k], key: (k) => OPS.why[k] },
  { name: "source", text: (k) => OPS.places[k], key: (k) => OPS.places[k] },
];

// In order; what is not known or no number comes last in either direction.
function compared(a, b) {
  const [lackingA, lackingB] = [a, b].map((own) => own === null || Number.isNaN(own) || own === "");
  if (lackingA || lackingB) return Number(lackingA) - Number(lackingB);
  const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
  return ascending ? order : -order;
}

chart("table", () => {
  const ops = OPS.names.map((_, k) => k).filter((k) => shownOps[k]);
  if (sortedBy) ops.sort((a, b) => compared(sortedBy.key(a), sortedBy.key(b)) || a - b);
  const rows = ops.slice(0, tableRows).map((k) => {
    const row = withRole("tr", "row");
    for (const column of COLUMNS) {
      const cell = withRole(column === COLUMNS[0] ? "th" : "td", column === COLUMNS[0] ? "rowheader" : "cell");
      if (column === COLUMNS[0]) cell.append(...inParts(column.text(k)));
      else cell.textContent = column.text(k);
      cell.dataset.name = column.name;
      const full = column.full?.(k) ?? "";
      if (full && full !== cell.textContent) cell.title = full;
      if (["", "-"].includes(cell.textContent)) cell.classList.add("nothing");
      if (column.isNumber) cell.classList.add("number");
      if (["predicted", "measured"].includes(column.name)) cell.classList.add("error");
      if (column.name === "why") cell.classList.add("long");
      row.append(cell);
    }
    return row;
  });
  document.querySelector("#table tbody").replaceChildren(...rows);
  const more = element("table-more");
  more.hidden = ops.length <= tableRows;
  more.textContent = `Show more (${counted(ops.length - tableRows)} left)`;
  sayScroll();
});

// Elements that keep their part in a table where they are laid out as cards.
function withRole(tag, role) {
  const made = document.createElement(tag);
  made.setAttribute("role", role);
  return made;
}

// A name that may be broken behind its dots, strokes and slashes.
const inParts = (name) =>
  name.split(/(?<=[./_])/).flatMap((part, k) => (k ? [document.createElement("wbr"), part] : [part]));

// Which columns one has to scroll to.
function sayScroll() {
  const box = document.querySelector("#table .scroll");
  const edge = box.getBoundingClientRect().right;
  const heads = [...document.querySelectorAll("#table thead th")];
  const hidden = isNarrow() ? [] : heads.filter((head) => head.getBoundingClientRect().right > edge + 1);
  const names = hidden.map((head) => head.dataset.name).join(", ");
  element("table-hint").textContent = hidden.length ? `Scroll sideways for ${names} \u2192` : "";
}

function sortBy(column) {
  ascending = sortedBy === column ? !ascending : !column.isNumber;
  sortedBy = column;
  document.querySelectorAll("#table thead th").forEach((head, k) => {
    const own = COLUMNS[k] === column;
    head.setAttribute("aria-sort", own ? (ascending ? "ascending" : "descending") : "none");
    head.querySelector("button").textContent =
      `${COLUMNS[k].name}${own ? (ascending ? " \u25b2" : " \u25bc") : ""}`;
  });
  charts.get("table").stale = true;
  drawNow("table");
}

const headings = withRole("tr", "row");
for (const column of COLUMNS) {
  const head = withRole("th", "columnheader");
  head.dataset.name = column.name;
  head.scope = "col";
  head.setAttribute("aria-sort", "none");
  const button = withText("button", column.name);
  button.type = "button";
  button.addEventListener("click", () => sortBy(column));
  head.append(button);
  headings.append(head);
}
document.querySelector("#table thead").append(headings);
document.querySelector("#table .scroll").addEventListener("scroll", sayScroll, { passive: true });
element("table-stars").textContent = OPS.stars.length ? `${OPS.stars.join("; ")}.` : "";
element("table-more").addEventListener("click", () => {
  tableRows += PAGE;
  charts.get("table").stale = true;
  drawNow("table");
});
