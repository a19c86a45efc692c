// What the page holds: decoded numbers, and texts as charts and tables take them.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const TYPED = { i1: Int8Array, i2: Int16Array, i4: Int32Array, f8: Float64Array };
const MINUS = "\u2212";

// An array from base64.
function typed(packed) {
  const [kind] = Object.keys(packed);
  const text = atob(packed[kind]);
  const bytes = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
  return new TYPED[kind](bytes.buffer);
}

// A number, NaN or an infinity, which JSON has as texts; null is what is not known.
const number = (value) => (typeof value === "string" ? Number(value) : value);
const isFiniteNumber = (value) => typeof value === "number" && Number.isFinite(value);
const isPositive = (value) => isFiniteNumber(value) && value > 0;

// To three digits.
function shown(value) {
  if (value === null || value === undefined) return "-";
  if (!Number.isFinite(value)) return String(value).replace("-", MINUS);
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
  return text.replaceAll("-", MINUS);
}
const percent = (value) => (isFiniteNumber(value) ? `${shown(100 * value)}%` : shown(value));
const counted = (value) => (isFiniteNumber(value) ? value.toLocaleString("en-US") : shown(value));
// A standard error, to two digits.
const plusMinus = (value) => (isPositive(value) ? ` \u00b1\u00a0${shown(100 * Number(value.toPrecision(2)))}%` : "");

// An error with its standard error, and a mark if it is not sure.
const erred = (part, kind, k) => {
  const within = part[`${kind}_within`][k];
  return `${percent(part[kind][k])}${plusMinus(within)}${part[`${kind}_doubt`][k] ? "\u00a0?" : ""}`;
};
const doubtOf = (part, k) => (part.predicted_doubt[k] ? `unsure: ${part.predicted_doubt[k]}` : "");
const plural = (count, one) => `${counted(count)} ${one}${count === 1 ? "" : "s"}`;

// A text in a chart, where some markup would mean something.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// A long name with its middle left out.
function shortened(name, most) {
  return name.length <= most ? name : cutAt(name, Math.floor((most - 1) * 0.4), most - 1);
}

// The first `head` of the `kept` letters of a name, and the others from its end.
const cutAt = (name, head, kept) => `${name.slice(0, head)}\u2026${name.slice(name.length - kept + head)}`;

// Names of at most so many letters, each another: all are cut at one place, with a few letters more if need be.
function shortNames(names, most) {
  if (names.every((name) => name.length <= most)) return names;
  const apart = new Set(names).size;
  for (let width = most; width <= most + (names.length > 400 ? 0 : 6); width++) {
    for (let off = 0; off < width; off++) {
      const head = Math.floor(width / 2) + (off % 2 ? -(off + 1) / 2 : off / 2);
      const found = names.map((name) => (name.length <= width ? name : cutAt(name, head, width - 1)));
      if (head >= 0 && head < width && new Set(found).size === apart) return found;
    }
  }
  return numberedNames(names, most);
}

// The same where no one place tells them apart: those that come out alike are numbered.
function numberedNames(names, most) {
  const [found, seen] = [new Map(), new Set()];
  for (const name of names) {
    if (found.has(name)) continue;
    let own = shortened(name, most);
    for (let number = 2; seen.has(own); number++)
      own = `${name.slice(0, Math.max(1, most - 1 - String(number).length))}\u2026${number}`;
    found.set(name, own);
    seen.add(own);
  }
  return names.map((name) => found.get(name));
}

for (const part of [DATA.ops, DATA.slots]) {
  for (const [name, values] of Object.entries(part)) {
    if (
      Array.isArray(values) &&
      values.some((own) => own === "NaN" || own === "Infinity" || own === "-Infinity")
    ) {
      if (!["names", "layers", "why", "places", "leaves", "texts", "predicted_doubt", "measured_doubt"].includes(name)) part[name] = values.map(number);
    }
  }
}
const OPS = DATA.ops;
const SLOTS = DATA.slots;
const FORMATS = DATA.formats;
const EXPONENTS = typed(SLOTS.exponents);
const COUNTS = typed(SLOTS.counts);
SLOTS.names = SLOTS.leaves.map((leaf, k) => `${OPS.names[SLOTS.ops[k]]}/${leaf}`);
// Names as charts have them: of ops without the family that nearly all have, where that leaves them apart.
const layerCounts = new Map();
for (const layer of OPS.layers) layerCounts.set(layer, (layerCounts.get(layer) ?? 0) + 1);
OPS.labels = OPS.names.map((name, k) =>
  OPS.layers[k] && layerCounts.get(OPS.layers[k]) === 1 ? name.replace(/\/product$/, "") : name,
);
SLOTS.labels = SLOTS.leaves.map((leaf, k) => `${OPS.labels[SLOTS.ops[k]]} ${leaf}`);
const slotNumbers = new Map(SLOTS.names.map((name, k) => [name, k]));
const opNumbers = new Map(OPS.names.map((name, k) => [name, k]));

// Sentences of the report on what is not known that are about these words; else what a chart says itself.
function missing(words, usual) {
  const found = DATA.missing.filter((text) => words.some((word) => text.toLowerCase().includes(word)));
  return found.length ? found : [usual];
}
