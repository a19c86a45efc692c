// All ops as a table that headings sort.
const PAGE = 200;
let [sortedBy, ascending, tableRows] = [null, true, PAGE];
const COLUMNS = [
  { name: "op", text: (k) => OPS.names[k], key: (k) => OPS.names[k] },
  ...["fprop", "dgrad", "wgrad"].map((name, at) => ({
    name,
    text: (k) => OPS.formats[k][at],
    key: (k) => OPS.formats[k][at],
  })),
  { name: "multiply-adds", text: (k) => counted(OPS.work[k]), key: (k) => OPS.work[k], isNumber: true },
  { name: "share", text: (k) => percent(OPS.share[k]), key: (k) => OPS.share[k], isNumber: true },
  {
    name: "range",
    text: (k) => (OPS.amax[k] === null ? "-" : `${shown(OPS.amin[k])} to ${shown(OPS.amax[k])}`),
    key: (k) => OPS.amax[k],
    isNumber: true,
  },
  { name: "condition", text: (k) => shown(OPS.condition[k]), key: (k) => OPS.condition[k], isNumber: true },
  {
    name: "predicted error",
    text: (k) => percent(OPS.predicted[k]),
    key: (k) => OPS.predicted[k],
    isNumber: true,
  },
  { name: "measured error", text: (k) => percent(OPS.measured[k]), key: (k) => OPS.measured[k], isNumber: true },
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
    const row = document.createElement("tr");
    for (const column of COLUMNS) {
      const cell = withText("td", column.text(k));
      if (column.isNumber) cell.className = "number";
      if (column.name === "why") cell.className = "long";
      row.append(cell);
    }
    return row;
  });
  document.querySelector("#table tbody").replaceChildren(...rows);
  const more = element("table-more");
  more.hidden = ops.length <= tableRows;
  more.textContent = `Show more (${counted(ops.length - tableRows)} left)`;
});

function sortBy(column) {
  ascending = sortedBy === column ? !ascending : !column.isNumber;
  sortedBy = column;
  document.querySelectorAll("#table th").forEach((head, k) => {
    const own = COLUMNS[k] === column;
    head.setAttribute("aria-sort", own ? (ascending ? "ascending" : "descending") : "none");
    head.querySelector("button").textContent =
      `${COLUMNS[k].name}${own ? (ascending ? " \u25b2" : " \u25bc") : ""}`;
  });
  charts.get("table").stale = true;
  drawNow("table");
}

const headings = document.createElement("tr");
for (const column of COLUMNS) {
  const head = document.createElement("th");
  head.scope = "col";
  head.setAttribute("aria-sort", "none");
  const button = withText("button", column.name);
  button.type = "button";
  button.addEventListener("click", () => sortBy(column));
  head.append(button);
  headings.append(head);
}
document.querySelector("#table thead").append(headings);
element("table-more").addEventListener("click", () => {
  tableRows += PAGE;
  charts.get("table").stale = true;
  drawNow("table");
});
