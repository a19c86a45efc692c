// A separable multiple-choice knapsack: one choice of each group, least cost within an error (Lagrange, then greedy).

// The table as typed arrays [groups, choices], and which choices may be taken.
function knapsack(choices) {
  const [costs, gradient, loss] = [typed(choices.costs), typed(choices.gradient), typed(choices.loss)];
  const size = choices.labels.length;
  const allowed = costs.map((cost, k) => Number.isFinite(cost) && Number.isFinite(gradient[k]));
  return { costs, gradient, loss, allowed, size, groups: choices.slots.length };
}

// The choices of one group on the lower convex hull of cost and error, the cheapest first.
function hullOf(table, group) {
  const first = group * table.size;
  const order = [];
  for (let k = first; k < first + table.size; k++) if (table.allowed[k]) order.push(k);
  order.sort((a, b) => table.costs[a] - table.costs[b] || table.gradient[a] - table.gradient[b]);
  const hull = [];
  const slope = (a, b) => (table.gradient[b] - table.gradient[a]) / (table.costs[b] - table.costs[a]);
  for (const k of order) {
    if (hull.length && table.gradient[k] >= table.gradient[hull[hull.length - 1]]) continue;
    while (
      hull.length > 1 &&
      slope(hull[hull.length - 1], k) <= slope(hull[hull.length - 2], hull[hull.length - 1])
    )
      hull.pop();
    hull.push(k);
  }
  return hull;
}

// All plans that are best at some price on errors: the cheapest one, and steps from it, the most worthwhile first.
function frontOf(table) {
  const start = new Int32Array(table.groups).fill(-1);
  const steps = [];
  for (let group = 0; group < table.groups; group++) {
    const hull = hullOf(table, group);
    if (!hull.length) continue;
    start[group] = hull[0];
    for (let k = 1; k < hull.length; k++) {
      const [cost, error] = [
        table.costs[hull[k]] - table.costs[hull[k - 1]],
        table.gradient[hull[k - 1]] - table.gradient[hull[k]],
      ];
      steps.push({ group, to: hull[k], worth: error / cost, place: k });
    }
  }
  steps.sort((a, b) => b.worth - a.worth || a.group - b.group || a.place - b.place);
  const [costs, errors] = [[sumOf(table.costs, start)], [sumOf(table.gradient, start)]];
  const now = start.slice();
  for (const { group, to } of steps) {
    costs.push(costs[costs.length - 1] + table.costs[to] - table.costs[now[group]]);
    errors.push(Math.max(0, errors[errors.length - 1] + table.gradient[to] - table.gradient[now[group]]));
    now[group] = to;
  }
  errors[errors.length - 1] = sumOf(table.gradient, now);
  return { start, steps, costs, errors };
}

function sumOf(values, places) {
  let sum = 0;
  for (const k of places) if (k >= 0) sum += values[k];
  return sum;
}

// The cheapest plan found whose square error is within a limit; the finest one where none is.
function solve(table, front, limit) {
  let [low, high] = [0, front.steps.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (front.errors[middle] <= limit) high = middle;
    else low = middle + 1;
  }
  const places = front.start.slice();
  for (let k = 0; k < low; k++) places[front.steps[k].group] = front.steps[k].to;
  const found = spend(table, places, limit);
  const coarser = low > 0 ? relaxed(table, front, low, limit) : null;
  return coarser && sumOf(table.costs, coarser) < sumOf(table.costs, found) ? coarser : found;
}

// The plan just beyond the limit, made to fit by the finer choice that costs least; null where none is enough.
function relaxed(table, front, low, limit) {
  const places = front.start.slice();
  for (let k = 0; k < low - 1; k++) places[front.steps[k].group] = front.steps[k].to;
  const over = sumOf(table.gradient, places) - limit;
  let best = null;
  for (let group = 0; group < table.groups; group++) {
    for (let k = group * table.size; places[group] >= 0 && k < (group + 1) * table.size; k++) {
      if (!table.allowed[k] || table.gradient[places[group]] - table.gradient[k] < over) continue;
      const cost = table.costs[k] - table.costs[places[group]];
      if (!best || cost < best.cost) best = { group, k, cost };
    }
  }
  if (!best) return null;
  places[best.group] = best.k;
  return sumOf(table.gradient, places) <= limit ? spend(table, places, limit) : null;
}

// Coarser choices as long as they fit in what is left of the limit, those that save most for their error first.
function spend(table, places, limit) {
  const found = places.slice();
  for (let round = 0; round < 8; round++) {
    let left = limit - sumOf(table.gradient, found);
    const moves = [];
    for (let group = 0; group < table.groups; group++) {
      const now = found[group];
      for (let k = group * table.size; now >= 0 && k < (group + 1) * table.size; k++) {
        const [saved, error] = [table.costs[now] - table.costs[k], table.gradient[k] - table.gradient[now]];
        if (table.allowed[k] && saved > 0 && error <= left)
          moves.push({ group, k, error, worth: error > 0 ? saved / error : Infinity });
      }
    }
    if (!moves.length) return found;
    moves.sort((a, b) => b.worth - a.worth || a.error - b.error);
    const moved = new Set();
    for (const { group, k, error } of moves) {
      if (moved.has(group) || error > left) continue;
      moved.add(group);
      found[group] = k;
      left -= error;
    }
  }
  return found;
}
