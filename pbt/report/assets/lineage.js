"use strict";
// The page's program: unpack the columns, index them, draw them, and answer to pointer and keys.
// Segments are numbers throughout: places in the columns, which are in order of member and time.

const FRESH = 0, OWN = 1, COPIED = 2;
const ENDED = 0, RUNNING = 1, FAILED = 2;
const NUMBER = 1, DIVERGED = 2;
const STRANGER = 0, ANCESTOR = 1, HEIR = 2;
const KIND_COPIED = 0, KIND_DECLINED = 1, KIND_FAILED = 2, KIND_SHRUNK = 3, KIND_STARTED = 4;

const $ = id => document.getElementById(id);

// ------------------------------------------------------------------------------------------------------ reading

async function unpack(text) {
  const packed = Uint8Array.from(atob(text.trim()), letter => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const types = { int32: Int32Array, uint8: Uint8Array, float32: Float32Array };
  const columns = {};
  for (const [name, type, offset, count] of head.columns) columns[name] = new types[type](buffer, 8 + length + offset, count);
  return { head, columns };
}

/** Everything that is asked about segments, indexed once. */
function indexed({ head, columns }) {
  const of = name => columns[`segment/${name}`];
  const lineage = {
    head, run: head.run, small: head.run.objective.mode === "min", count: of("member").length,
    member: of("member"), generation: of("generation"), start: of("start"), parent: of("parent"), status: of("status"),
    scored: of("scored"), score: of("score"), age: of("age"), ageEnd: of("ageEnd"), stack: of("stack"),
    consumed: of("consumed"), consumedEnd: of("consumedEnd"),
    hparams: head.hparams.map((told, place) => ({
      ...told, values: columns[`hparam/${place}`], effect: columns[`effect/${place}`] ?? null,
    })),
    series: head.series.map((told, place) => ({
      ...told, segment: columns[`points/${place}/segment`], age: columns[`points/${place}/age`],
      value: columns[`points/${place}/value`],
    })),
    saved: new Map(head.saved),
  };
  addMembers(lineage);
  addChildren(lineage);
  addRoots(lineage);
  addStandings(lineage);
  addEvents(lineage, columns, head.words);
  return lineage;
}

function addMembers(lineage) {
  const ids = [], first = [];
  lineage.member.forEach((member, at) => { if (ids.at(-1) !== member) { ids.push(member); first.push(at); } });
  first.push(lineage.count);
  lineage.ids = ids;
  lineage.first = first; // of a member by its place among all; one more than there are members
  lineage.place = new Map(ids.map((member, place) => [member, place]));
  lineage.index = at => at - first[lineage.place.get(lineage.member[at])];
  lineage.name = at => `${lineage.member[at]}:${lineage.index(at)}`;
  lineage.last = place => first[place + 1] - 1;
  // The last end of a member; where nothing has ended yet, its first segment.
  lineage.held = place => {
    for (let at = first[place + 1] - 1; at >= first[place]; at--) if (lineage.status[at] === ENDED) return at;
    return first[place];
  };
  // Under way, a segment is as long as planned.
  const { steps } = lineage.run, until = (end, start) => end.map((value, at) => value < 0 ? start[at] + steps : value);
  lineage.to = until(lineage.consumedEnd, lineage.consumed);
  lineage.ageTo = until(lineage.ageEnd, lineage.age);
  lineage.length = lineage.to.reduce((most, end) => Math.max(most, end), 1);
  lineage.ageLength = lineage.ageTo.reduce((most, end) => Math.max(most, end), 1);
}

/** Segments that start from each one's end, the member's own next one first. */
function addChildren(lineage) {
  const { count, parent } = lineage;
  const begin = new Int32Array(count + 1);
  for (let at = 0; at < count; at++) if (parent[at] >= 0) begin[parent[at] + 1]++;
  for (let at = 0; at < count; at++) begin[at + 1] += begin[at];
  const list = new Int32Array(begin[count]), next = begin.slice();
  const add = at => { if (parent[at] >= 0) list[next[parent[at]]++] = at; };
  for (let at = 0; at < count; at++) if (parent[at] === at - 1) add(at);
  for (let at = 0; at < count; at++) if (parent[at] !== at - 1) add(at);
  lineage.children = at => list.subarray(begin[at], begin[at + 1]);
  lineage.heirs = at => { // all that descends from a segment, in order of distance
    const found = [at];
    for (let place = 0; place < found.length; place++) {
      for (let next = begin[found[place]]; next < begin[found[place] + 1]; next++) found.push(list[next]);
    }
    return found.slice(1);
  };
}

function addRoots(lineage) {
  const { count, parent } = lineage, root = new Int32Array(count).fill(-1);
  for (let at = 0; at < count; at++) {
    const chain = [];
    let cursor = at;
    while (root[cursor] < 0 && parent[cursor] >= 0) { chain.push(cursor); cursor = parent[cursor]; }
    const found = root[cursor] < 0 ? cursor : root[cursor];
    root[cursor] = found;
    for (const one of chain) root[one] = found;
  }
  lineage.root = root;
}

/** Where each score stands among those of its generation, from 1; 0 without a score. */
function addStandings(lineage) {
  const { count, scored, generation } = lineage, groups = new Map();
  for (let at = 0; at < count; at++) {
    if (!scored[at]) continue;
    if (!groups.has(generation[at])) groups.set(generation[at], []);
    groups.get(generation[at]).push(at);
  }
  lineage.rank = new Int32Array(count);
  lineage.peers = new Int32Array(count);
  for (const group of groups.values()) {
    group.sort((a, b) => compareScores(lineage, a, b));
    group.forEach((at, place) => { lineage.rank[at] = place + 1; lineage.peers[at] = group.length; });
  }
}

function addEvents(lineage, columns, words) {
  const segment = columns["event/segment"], kind = columns["event/kind"];
  const donor = columns["event/donor"], said = columns["event/words"];
  const found = new Map();
  segment.forEach((at, number) => {
    if (!found.has(at)) found.set(at, []);
    found.get(at).push({ kind: kind[number], donor: donor[number], words: words[said[number]] });
  });
  lineage.events = at => found.get(at) ?? [];
}

/** The ancestry of a segment, root first. */
function ancestry(lineage, at) {
  const path = [];
  for (let cursor = at; cursor >= 0; cursor = lineage.parent[cursor]) path.push(cursor);
  return path.reverse();
}

// -------------------------------------------------------------------------------------------------------- words

const plural = (amount, noun) => `${amount.toLocaleString("en")} ${noun}${amount === 1 ? "" : "s"}`;

function short(value, digits = 4) {
  if (Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}

function scoreWords(lineage, at) {
  if (lineage.scored[at] === DIVERGED) return "diverged";
  return lineage.scored[at] === NUMBER ? short(lineage.score[at], 5) : "no score";
}

/** What is said of a segment that has not ended: where nobody trains, it was stopped, or lost. */
const openWords = lineage => lineage.run.status === "running" ? "under way" : "stopped";

function valueWords(hparam, value) {
  if (Number.isNaN(value)) return "not active";
  if (hparam.options.length) return hparam.options[value];
  return hparam.type === "int" ? String(value) : short(value, 3);
}

/** An element with children; texts become text, never markup. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

// ------------------------------------------------------------------------------------------------------- colours

// ColorBrewer's YlGnBu from a fifth on: pale to dark, so lightness alone carries it.
const RAMP = ["#d5eeb3", "#aaddb6", "#73c8bd", "#40b5c4", "#2498c1", "#2174b1", "#244fa0", "#20308c", "#081d58"];
// Okabe and Ito's and Tol's, as far as they tell apart, without those of ancestry, descent and divergence.
const SWATCHES = ["#0072b2", "#e69f00", "#009e73", "#56b4e9", "#b8a800", "#882255", "#8c564b", "#f4a6a0", "#14532d", "#6f7bd0", "#a6dba0", "#d9c39a"];
const OTHERS = "#7f7f7f";
const swatchOf = (scale, place) => scale.isRest && place === scale.labels.length - 1 ? OTHERS : SWATCHES[place % SWATCHES.length];

const parts = colour => [1, 3, 5].map(start => parseInt(colour.slice(start, start + 2), 16));
const RAMP_PARTS = RAMP.map(parts);

/** Colour number of a share from 0 (as the paper) to 1 (stands out), as parts. */
function ramp(share, isDark) {
  const place = Math.min(1, Math.max(0, isDark ? 1 - share : share)) * (RAMP.length - 1);
  const low = Math.min(RAMP.length - 2, Math.floor(place)), rest = place - low;
  return RAMP_PARTS[low].map((part, channel) => Math.round(part + rest * (RAMP_PARTS[low + 1][channel] - part)));
}

const packed = ([red, green, blue]) => (255 << 24 | blue << 16 | green << 8 | red) >>> 0;
const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
const paler = (colour, paper, share) => {
  const mix = channel => Math.round(colour[channel] + share * (paper[channel] - colour[channel]));
  return (255 << 24 | mix(2) << 16 | mix(1) << 8 | mix(0)) >>> 0;
};

const styled = name => parts(getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());

function quantiles(values, shares) {
  const sorted = Float64Array.from(values).sort();
  return shares.map(share => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? NaN);
}

/** The values without those far from all others: over 8 median deviations from the median. As `pbt.report.canvas` does. */
function usual(values) {
  const sorted = Float64Array.from(values).filter(Number.isFinite).sort();
  if (!sorted.length) return sorted;
  const middle = median(sorted), far = sorted.map(value => Math.abs(value - middle)).sort();
  const reach = 8 * Math.max(median(far), 0.01 * Math.abs(middle), 1e-12);
  return sorted.filter(value => Math.abs(value - middle) <= reach);
}

const median = sorted => (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;

/** What is usual in each group (the scores of one generation, say), sorted. */
function usualOf(keys, values, isMeant) {
  const groups = new Map();
  values.forEach((value, place) => {
    if (!isMeant(place)) return;
    if (!groups.has(keys[place])) groups.set(keys[place], []);
    groups.get(keys[place]).push(value);
  });
  return Float64Array.from([...groups.values()].flatMap(group => [...usual(group)])).sort();
}

/** What segments can be coloured by: a share from 0 to 1 or a swatch for each, and what the legend says. */
function scales(lineage) {
  const found = [scoreScale(lineage), rankScale(lineage), founderScale(lineage)];
  for (const hparam of lineage.hparams) found.push(hparam.options.length ? optionScale(hparam) : numberScale(hparam));
  return found;
}

function scoreScale(lineage) {
  const isScored = at => lineage.scored[at] === NUMBER, ends = usualOf(lineage.generation, lineage.score, isScored);
  const [low, high] = [ends[0], ends.at(-1)], [good, bad] = lineage.small ? [low, high] : [high, low], span = bad - good || 1;
  // Finest where scores are good: there they lie close, and there it matters.
  const share = value => 1 - Math.min(1, Math.max(0, (value - good) / span)) ** 0.4;
  const beyond = lineage.score.reduce((number, value, at) => number + (isScored(at) && !(value >= low && value <= high)), 0);
  return {
    name: "score", share: at => isScored(at) ? share(lineage.score[at]) : NaN, beyond: beyond ? `(${plural(beyond, "score")} beyond)` : "",
    ends: ends.length ? [short(bad, 3), short(good, 3)] : ["", ""], title: lineage.run.objective.metric,
  };
}

function rankScale(lineage) {
  return {
    name: "rank in its generation", ends: ["last", "first"], title: "rank",
    share: at => lineage.rank[at] && lineage.scored[at] === NUMBER
      ? 1 - (lineage.rank[at] - 1) / Math.max(1, lineage.peers[at] - 1) : NaN,
  };
}

/** Founders, those with most living heirs first, each in a colour of its own as far as there are colours. */
function founderScale(lineage) {
  const heirs = new Map(), length = new Map();
  for (const root of lineage.root) { heirs.set(root, 0); length.set(root, (length.get(root) ?? 0) + 1); }
  lineage.ids.forEach((_, place) => {
    const last = lineage.last(place), root = lineage.root[last];
    if (lineage.status[last] !== FAILED) heirs.set(root, heirs.get(root) + 1);
  });
  const founders = [...heirs].sort((a, b) => b[1] - a[1] || length.get(b[0]) - length.get(a[0]) || a[0] - b[0]);
  const top = founders.slice(0, SWATCHES.length), rest = founders.length - top.length;
  const swatch = new Map(top.map(([root], place) => [root, place]));
  const labels = top.map(([root, number]) => `member ${lineage.member[root]} (${number ? plural(number, "heir") : "no heirs"})`);
  if (rest) labels.push(plural(rest, "other"));
  return { name: "founder", labels, isRest: rest > 0, swatch: at => swatch.get(lineage.root[at]) ?? top.length };
}

function optionScale(hparam) {
  return { name: hparam.name, labels: hparam.options, swatch: at => Number.isNaN(hparam.values[at]) ? null : hparam.values[at] };
}

function numberScale(hparam) {
  const turn = hparam.log ? Math.log : value => value, low = turn(hparam.low), high = turn(hparam.high);
  return {
    name: hparam.name, title: hparam.name, ends: [short(hparam.low, 3), short(hparam.high, 3)],
    share: at => (turn(hparam.values[at]) - low) / (high - low || 1),
  };
}

// --------------------------------------------------------------------------------------------------------- state

/** What is shown now. Everything drawn is a function of the lineage and this. */
function initial(lineage) {
  return {
    scale: 0, rows: "kin", found: null, focus: false, isDark: matchMedia("(prefers-color-scheme: dark)").matches,
    selected: lineage.run.best ?? (lineage.count ? 0 : -1), hovered: -1, series: 0, hparam: 0, isLog: false,
    view: { x0: 0, x1: lineage.length, y0: 0, y1: lineage.ids.length },
  };
}

/** Places of members from top to bottom. */
function ordered(lineage, rows, kin) {
  let places = lineage.ids.map((_, place) => place);
  if (rows === "score") {
    const key = place => lineage.held(place);
    places.sort((a, b) => lineage.scored[key(b)] && lineage.scored[key(a)]
      ? compareScores(lineage, key(a), key(b)) : (lineage.scored[key(b)] ? 1 : 0) - (lineage.scored[key(a)] ? 1 : 0) || a - b);
  } else if (rows === "kin") {
    places = kinship(lineage);
  }
  if (kin) places = places.filter(kin);
  return places;
}

/** The better first, diverged last, ties in order of member and time. */
function compareScores(lineage, a, b) {
  if (lineage.scored[a] !== lineage.scored[b]) return lineage.scored[a] - lineage.scored[b];
  if (lineage.scored[a] === DIVERGED || lineage.score[a] === lineage.score[b]) return a - b;
  return (lineage.score[a] < lineage.score[b]) === lineage.small ? -1 : 1;
}

/** Members in the order in which a walk through the forest, depth first, comes upon their ends. */
function kinship(lineage) {
  const roots = [];
  for (let at = 0; at < lineage.count; at++) if (lineage.parent[at] < 0) roots.push(at);
  const weight = new Int32Array(lineage.count);
  lineage.ids.forEach((_, place) => weight[lineage.root[lineage.last(place)]]++);
  roots.sort((a, b) => weight[b] - weight[a] || a - b);
  const isLast = new Uint8Array(lineage.count), found = [], waiting = roots.reverse();
  lineage.ids.forEach((_, place) => { isLast[lineage.last(place)] = 1; });
  while (waiting.length) {
    const at = waiting.pop();
    if (isLast[at]) found.push(lineage.place.get(lineage.member[at]));
    const children = lineage.children(at);
    for (let number = children.length - 1; number >= 0; number--) waiting.push(children[number]);
  }
  return found;
}

// ------------------------------------------------------------------------------------------------------- finding

/** A test of segments from what a person typed; throws an Error that says what is not understood. */
function finder(lineage, text) {
  const terms = text.trim().split(/\s+/).filter(Boolean).map(term => termOf(lineage, term));
  return terms.length ? at => terms.every(is => is(at)) : null;
}

const WORDS = {
  copied: lineage => at => lineage.start[at] === COPIED,
  fresh: lineage => at => lineage.start[at] === FRESH,
  failed: lineage => at => lineage.status[at] === FAILED,
  diverged: lineage => at => lineage.scored[at] === DIVERGED,
  running: lineage => at => lineage.status[at] === RUNNING,
  saved: lineage => at => lineage.saved.has(at),
  declined: lineage => at => lineage.events(at).some(event => event.kind === KIND_DECLINED),
};

function termOf(lineage, term) {
  if (WORDS[term]) return WORDS[term](lineage);
  const [, name, sign, value] = term.match(/^(.+?)(<=|>=|<|>|=|:)(.+)$/) ?? [];
  if (name === undefined) throw new Error(`“${term}” is not understood: write ${Object.keys(WORDS).join(", ")}, or name, sign and value, as lr>0.001`);
  const of = quantities(lineage)[name];
  if (!of) throw new Error(`there is no “${name}”: ${Object.keys(quantities(lineage)).join(", ")}`);
  if (sign === ":" || sign === "=") return among(of, value, term);
  const limit = Number(value);
  if (Number.isNaN(limit)) throw new Error(`“${value}” in “${term}” is no number`);
  const tests = { "<": x => x < limit, ">": x => x > limit, "<=": x => x <= limit, ">=": x => x >= limit };
  return at => tests[sign](of.value(at));
}

function quantities(lineage) {
  const found = {
    member: { value: at => lineage.member[at] }, generation: { value: at => lineage.generation[at] + 1 },
    score: { value: at => lineage.scored[at] === NUMBER ? lineage.score[at] : NaN },
    rank: { value: at => lineage.rank[at] || NaN }, age: { value: at => lineage.ageTo[at] },
    founder: { value: at => lineage.member[lineage.root[at]] }, stack: { value: at => lineage.stack[at] },
    donor: { value: at => lineage.start[at] === COPIED && lineage.parent[at] >= 0 ? lineage.member[lineage.parent[at]] : NaN },
  };
  for (const hparam of lineage.hparams) found[hparam.name] = { value: at => hparam.values[at], options: hparam.options };
  return found;
}

/** Numbers and ranges, `3,7-12`; of options, their names. */
function among(of, value, term) {
  if (of.options?.length) {
    const wanted = value.split(",").map(name => of.options.findIndex(option => option.toLowerCase() === name.toLowerCase()));
    if (wanted.includes(-1)) throw new Error(`“${value}” in “${term}”: the options are ${of.options.join(", ")}`);
    return at => wanted.includes(of.value(at));
  }
  const ranges = value.split(",").map(part => {
    const [, low, high] = part.match(/^(-?[\d.]+(?:e-?\d+)?)(?:-([\d.]+(?:e-?\d+)?))?$/i) ?? [];
    if (low === undefined) throw new Error(`“${part}” in “${term}” is no number and no range, as 7-12`);
    return [Number(low), Number(high ?? low)];
  });
  const close = limit => 1e-6 * Math.abs(limit); // columns hold seven digits
  return at => ranges.some(([low, high]) => of.value(at) >= low - close(low) && of.value(at) <= high + close(high));
}

// ------------------------------------------------------------------------------------------------------ drawing

/** A canvas in step with its size on the screen; `draw` is called with a context in CSS pixels. */
function sheet(canvas) {
  const rect = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(rect.width)), height = Math.max(1, Math.round(rect.height));
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "11px system-ui, sans-serif";
  return { context, width, height, ratio };
}

function ticks(low, high, most) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / Math.max(1, most), unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * unit).find(size => size >= rough * 0.999);
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-6; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

function logTicks(low, high, most) {
  const decades = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) decades.push(10 ** power);
  const every = decades.length - 1 > most ? Math.ceil(decades.length / most) : 1;
  const few = decades.length - 1 <= 2;
  const found = decades.filter((_, place) => place % every === 0).flatMap(value => few ? [value, 2 * value, 5 * value] : [value]);
  const inside = found.filter(value => value >= low * 0.999 && value <= high * 1.001);
  return inside.length > 1 ? inside : ticks(low, high, most).filter(value => value > 0);
}

const MARGIN = { left: 46, right: 24, top: 6, bottom: 20 };

/** The tree: colours pixel by pixel, whatever the number of segments; lines and marks above them. */
function drawTree(page) {
  const { lineage, state, theme } = page;
  const { context, width, height, ratio } = sheet(page.canvas);
  const plot = page.plot = { left: MARGIN.left, top: MARGIN.top, width: Math.max(10, width - MARGIN.left - MARGIN.right), height: Math.max(10, height - MARGIN.top - MARGIN.bottom) };
  if (!lineage.count) {
    context.fillStyle = css(theme.soft);
    context.fillText("Nothing has been trained yet.", plot.left, plot.top + 20);
    return;
  }
  paintSegments(page, context, plot, ratio);
  context.save();
  context.beginPath();
  context.rect(plot.left, plot.top, plot.width, plot.height);
  context.clip();
  drawDescent(page, context);
  drawCopies(page, context);
  drawMarks(page, context);
  drawPath(page, context);
  drawSelection(page, context);
  context.restore();
  drawAxes(page, context, plot, height);
}

function paintSegments(page, context, plot, ratio) {
  const { lineage, state: { view }, order, colours, theme } = page;
  const width = Math.round(plot.width * ratio), height = Math.round(plot.height * ratio);
  const image = context.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
  const paper = packed(theme.paper), scale = width / (view.x1 - view.x0), rowHeight = height / (view.y1 - view.y0);
  const gap = rowHeight >= 4 ? Math.min(0.15, 2 * ratio / rowHeight) : 0; // share of a row above and below its bar
  const line = new Uint32Array(width);
  let drawn = -1;
  for (let y = 0; y < height; y++) {
    const at = view.y0 + (y + 0.5) / rowHeight, row = Math.floor(at);
    const isGap = row < 0 || row >= order.length || at - row < gap || at - row > 1 - gap;
    if (isGap) { pixels.fill(paper, y * width, (y + 1) * width); continue; }
    if (drawn !== row) { paintRow(lineage, order[row], view, scale, colours, paper, line); drawn = row; }
    pixels.set(line, y * width);
  }
  context.putImageData(image, Math.round(plot.left * ratio), Math.round(plot.top * ratio));
}

function paintRow(lineage, place, view, scale, colours, paper, line) {
  line.fill(paper);
  const { first, consumed, to } = lineage;
  for (let at = first[place]; at < first[place + 1]; at++) {
    if (to[at] < view.x0 || consumed[at] > view.x1) continue;
    const left = (consumed[at] - view.x0) * scale, right = (to[at] - view.x0) * scale;
    const room = right - left > 14 ? 2 : right - left > 6 ? 1 : 0; // segments stand apart where there is room
    line.fill(colours[at], Math.max(0, Math.round(left) + room), Math.max(Math.round(left) + 1, Math.round(right)));
  }
}

const toX = (page, steps) => page.plot.left + (steps - page.state.view.x0) * page.plot.width / (page.state.view.x1 - page.state.view.x0);
const toY = (page, row) => page.plot.top + (row - page.state.view.y0) * page.plot.height / (page.state.view.y1 - page.state.view.y0);
const rowPixels = page => page.plot.height / (page.state.view.y1 - page.state.view.y0);

/** Middle of a segment's row; NaN where its member is not shown. */
function middle(page, at) {
  const row = page.rowOf[page.lineage.place.get(page.lineage.member[at])];
  return row < 0 ? NaN : toY(page, row + 0.5);
}

/** More than this would be a black surface, and slow; of so many each stands out from what is beneath. */
const MAX_LINKS = 3000, FEW_LINKS = 400;

function drawCopies(page, context) {
  const { lineage, kin, state: { view }, theme } = page, row = rowPixels(page);
  const visible = page.copies.filter(at => lineage.consumed[at] >= view.x0 && lineage.consumed[at] <= view.x1 && isOnScreen(page, at));
  page.hiddenCopies = visible.length > MAX_LINKS ? visible.length : 0;
  const wanted = page.hiddenCopies ? visible.filter(at => kin[at]).slice(0, MAX_LINKS) : visible;
  const isCrowd = visible.length > FEW_LINKS, size = Math.min(7, row * 0.35), hasHead = row >= 7;
  for (const [relation, colour, wide] of [[STRANGER, theme.ink, 2], [HEIR, theme.descent, 2.5], [ANCESTOR, theme.accent, 2.5]]) {
    const own = wanted.filter(at => kin[at] === relation), isPlain = own.length > FEW_LINKS || (isCrowd && relation === STRANGER);
    if (!own.length) continue;
    const lines = new Path2D(), heads = new Path2D();
    for (const at of own) { traceCopy(page, lines, at); if (hasHead) traceEnds(page, heads, at, size); }
    const width = isPlain ? 1 : Math.max(1, Math.min(wide, row * 0.12));
    if (!isPlain) {
      context.strokeStyle = css(theme.paper);
      context.lineWidth = width + 2.5;
      context.stroke(lines);
      context.lineWidth = 3;
      context.stroke(heads);
    }
    context.globalAlpha = isPlain ? 0.35 : 1;
    context.strokeStyle = context.fillStyle = css(colour);
    context.lineWidth = width;
    context.stroke(lines);
    context.fill(heads);
    context.globalAlpha = 1;
  }
}

/** Lanes for copies of one moment that pass each other, from 0: places beside the edge of a field. */
function assignLanes(page) {
  const { lineage } = page, moments = new Map(), row = at => page.rowOf[lineage.place.get(lineage.member[at])];
  for (const at of page.copies) {
    const ends = [row(at), row(lineage.parent[at])];
    page.lane[at] = 0;
    if (Math.min(...ends) < 0) continue;
    if (!moments.has(lineage.consumed[at])) moments.set(lineage.consumed[at], []);
    moments.get(lineage.consumed[at]).push([Math.min(...ends), Math.max(...ends), at]);
  }
  for (const copies of moments.values()) {
    const reached = [];
    for (const [top, bottom, at] of copies.sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
      let lane = reached.findIndex(end => end <= top);
      if (lane < 0) lane = reached.length;
      reached[lane] = bottom;
      page.lane[at] = Math.min(lane, 255);
    }
  }
}

/** Where a copy changes rows: before the field it begins, as far as there is room. */
function laneX(page, at) {
  const { lineage, plot, state: { view } } = page, field = lineage.run.steps * plot.width / (view.x1 - view.x0);
  return Math.round(toX(page, lineage.consumed[at]) - (field < 24 ? 0 : Math.min(field * 0.4, 3 + 6 * page.lane[at])));
}

function isOnScreen(page, at) {
  const { lineage, state: { view } } = page, row = one => page.rowOf[lineage.place.get(lineage.member[one])];
  const isSeen = one => one > view.y0 - 1 && one < view.y1, [a, b] = [row(at), row(lineage.parent[at])];
  return a >= 0 && b >= 0 && (isSeen(a) || isSeen(b)); // lines that only pass by would hide the rest
}

function traceCopy(page, context, at) {
  const { lineage } = page, parent = lineage.parent[at], from = toX(page, lineage.to[parent]);
  const lane = laneX(page, at), to = toX(page, lineage.consumed[at]);
  context.moveTo(Math.abs(to - from) > 3 ? from : lane, middle(page, parent)); // a donor may have trained further
  context.lineTo(lane, middle(page, parent));
  context.lineTo(lane, middle(page, at));
  context.lineTo(to, middle(page, at));
}

/** A dot where the weights come from, an arrow's head where they arrive. */
function traceEnds(page, context, at, size) {
  const x = toX(page, page.lineage.consumed[at]), y = middle(page, at), lane = laneX(page, at), from = middle(page, page.lineage.parent[at]);
  context.moveTo(lane + size * 0.45, from);
  context.arc(lane, from, size * 0.45, 0, 2 * Math.PI);
  context.moveTo(x, y - size);
  context.lineTo(x + size + 2, y);
  context.lineTo(x, y + size);
  context.closePath();
}

/** Lines through the fields that descend from what is selected; where rows are too low for that, shades tell. */
function drawDescent(page, context) {
  const { lineage, order, kin, theme, state: { view } } = page, high = rowPixels(page);
  if (!page.heirs.length || high < 3) return;
  const lines = new Path2D();
  for (let row = Math.max(0, Math.floor(view.y0)); row < Math.min(order.length, view.y1); row++) {
    const y = toY(page, row + 0.5), end = lineage.first[order[row] + 1];
    for (let at = lineage.first[order[row]], begun = -1; at < end; at++) {
      if (kin[at] !== HEIR) { begun = -1; continue; }
      if (begun < 0 || lineage.start[at] === COPIED) begun = at;
      if (at + 1 < end && kin[at + 1] === HEIR && lineage.start[at + 1] !== COPIED) continue;
      lines.moveTo(toX(page, lineage.consumed[begun]), y);
      lines.lineTo(toX(page, lineage.to[at]), y);
      begun = -1;
    }
  }
  const width = Math.min(2.5, Math.max(1, high * 0.12));
  for (const [colour, wide] of high < 6 ? [[theme.descent, width]] : [[theme.paper, width + 2.5], [theme.descent, width]]) {
    context.strokeStyle = css(colour);
    context.lineWidth = wide;
    context.stroke(lines);
  }
}

function drawMarks(page, context) {
  const { lineage, theme } = page, size = Math.min(5, rowPixels(page) * 0.35);
  if (size < 1.5) return;
  context.lineWidth = 1.6;
  for (const at of page.marks) {
    const x = toX(page, lineage.to[at]) - size - 2, y = middle(page, at);
    if (Number.isNaN(y) || x < page.plot.left - 8 || x > page.plot.left + page.plot.width + 8) continue;
    context.beginPath();
    if (lineage.status[at] === FAILED) {
      context.moveTo(x - size, y - size); context.lineTo(x + size, y + size);
      context.moveTo(x - size, y + size); context.lineTo(x + size, y - size);
      context.strokeStyle = css(theme.paper);
    } else {
      context.arc(x, y, size, 0, 2 * Math.PI);
      context.strokeStyle = css(theme.paper);
    }
    context.stroke();
  }
}

/** The ancestry of what is selected. */
function drawPath(page, context) {
  const { lineage, theme } = page;
  if (!page.path.length) return;
  context.beginPath();
  let isBegun = false;
  page.path.forEach((at, number) => {
    const y = middle(page, at), next = page.path[number + 1];
    if (Number.isNaN(y)) { isBegun = false; return; }
    const isCopy = lineage.start[at] === COPIED, isLeft = next !== undefined && lineage.start[next] === COPIED;
    if (isBegun) context.lineTo(isCopy ? laneX(page, at) : toX(page, lineage.consumed[at]), y); else context.moveTo(toX(page, lineage.consumed[at]), y);
    context.lineTo(isLeft ? laneX(page, next) : toX(page, lineage.to[at]), y);
    isBegun = true;
  });
  context.lineJoin = "round";
  for (const [colour, wide] of [[theme.paper, 5], [theme.accent, 2.5]]) {
    context.strokeStyle = css(colour);
    context.lineWidth = wide;
    context.stroke();
  }
}

function drawSelection(page, context) {
  for (const [at, colour, wide] of [[page.state.hovered, page.theme.ink, 1], [page.state.selected, page.theme.accent, 2]]) {
    if (at < 0 || Number.isNaN(middle(page, at))) continue;
    const left = toX(page, page.lineage.consumed[at]), right = toX(page, page.lineage.to[at]);
    const high = Math.max(5, rowPixels(page) * 0.9);
    context.strokeStyle = css(colour);
    context.lineWidth = wide;
    context.strokeRect(left, middle(page, at) - high / 2, Math.max(4, right - left), high);
  }
}

function drawAxes(page, context, plot, height) {
  const { lineage, order, theme, state: { view, selected } } = page;
  context.fillStyle = css(theme.soft);
  context.textAlign = "center";
  for (const value of ticks(view.x0, view.x1, plot.width / 90)) {
    context.fillText(value.toLocaleString("en"), toX(page, value), height - 6);
  }
  context.textAlign = "right";
  const every = Math.max(1, Math.ceil(13 / rowPixels(page)));
  const own = selected < 0 ? -1 : lineage.member[selected];
  for (let row = Math.max(0, Math.floor(view.y0)); row < Math.min(order.length, view.y1); row++) {
    const member = lineage.ids[order[row]];
    if (row % every && member !== own) continue;
    const y = toY(page, row + 0.5);
    if (y < plot.top || y > plot.top + plot.height) continue;
    if (every > 1 && member !== own && Math.abs(row - page.rowOf[lineage.place.get(own)]) * rowPixels(page) < 13) continue;
    context.fillStyle = css(member === own ? theme.accent : theme.soft);
    context.fillText(String(member), plot.left - 7, y + 4);
  }
  context.textAlign = "left";
}

// ------------------------------------------------------------------------------------------------------- charts

const CHART = { left: 54, right: 22, top: 8, bottom: 18 };

/** Places of age and value in a chart. */
function chartFrame(width, height, xs, ys, isLog) {
  const plot = { left: CHART.left, top: CHART.top, width: Math.max(10, width - CHART.left - CHART.right), height: Math.max(10, height - CHART.top - CHART.bottom) };
  const turn = isLog ? Math.log10 : value => value, [low, high] = ys.map(turn), span = high - low || 1;
  return {
    ...plot, ys, isLog, xs,
    x: age => plot.left + (age - xs[0]) * plot.width / (xs[1] - xs[0] || 1),
    y: value => plot.top + (1 - (turn(value) - low) / span) * plot.height,
  };
}

function drawFrame(context, frame, theme, label) {
  context.strokeStyle = css(theme.grid);
  context.fillStyle = css(theme.soft);
  context.lineWidth = 1;
  const marks = label.options?.length ? label.options.map((_, place) => place)
    : frame.isLog ? logTicks(...frame.ys, frame.height / 28) : ticks(...frame.ys, frame.height / 28);
  context.textAlign = "right";
  for (const value of marks) {
    const y = frame.y(value);
    if (y < frame.top - 2 || y > frame.top + frame.height + 2) continue;
    context.beginPath(); context.moveTo(frame.left, y); context.lineTo(frame.left + frame.width, y); context.stroke();
    const said = label.options?.length ? label.options[value] : short(value, 3);
    context.fillText(said.length > 9 ? `${said.slice(0, 8)}…` : said, frame.left - 6, y + 4);
  }
  context.textAlign = "center";
  for (const value of ticks(...frame.xs, frame.width / 80)) {
    context.fillText(value.toLocaleString("en"), frame.x(value), frame.top + frame.height + 14);
  }
  context.textAlign = "left";
}

/** What does not change while the selection moves is drawn once and kept. */
function drawChart(page, canvas, key, crowd, own) {
  const { context, width, height, ratio } = sheet(canvas);
  const stamp = `${key}|${width}x${height}@${ratio}|${page.version}`;
  let kept = page.crowds.get(canvas);
  if (kept?.stamp !== stamp) {
    const layer = document.createElement("canvas");
    layer.width = canvas.width; layer.height = canvas.height;
    const beneath = layer.getContext("2d");
    beneath.setTransform(ratio, 0, 0, ratio, 0, 0);
    beneath.font = "11px system-ui, sans-serif";
    kept = { stamp, layer, frame: crowd(beneath, width, height) };
    page.crowds.set(canvas, kept);
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.drawImage(kept.layer, 0, 0);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  if (!kept.frame) return null;
  context.save();
  context.beginPath();
  context.rect(kept.frame.left, 0, kept.frame.width + CHART.right, height);
  context.clip();
  own(context, kept.frame);
  context.restore();
  return kept.frame;
}

function drawCurves(page) {
  const { lineage, state, theme } = page, series = lineage.series[state.series];
  const crowd = (context, width, height) => {
    if (!series?.value.length) return empty(context, theme, "Nothing has been measured yet.");
    const ys = limits(page, series, state.isLog), frame = chartFrame(width, height, [0, lineage.ageLength], ys, state.isLog);
    drawFrame(context, frame, theme, {});
    const beyond = series.value.reduce((number, value) => number + (Number.isFinite(value) && !(value >= ys[0] && value <= ys[1])), 0);
    const outside = beyond ? `${plural(beyond, "value")} beyond the edge` : "";
    noteAt(context, frame, theme, outside);
    $("curves").setAttribute("aria-label", `${series.split} ${series.name} from ${short(ys[0], 3)} to ${short(ys[1], 3)}${outside && `, ${outside}`}`);
    clipTo(context, frame);
    context.beginPath();
    traceCurves(page, series, context, frame);
    context.strokeStyle = css(theme.crowd);
    context.globalAlpha = lineage.ids.length > 200 ? 0.18 : lineage.ids.length > 32 ? 0.4 : 0.7;
    context.lineWidth = 1;
    context.stroke();
    return frame;
  };
  page.curveFrame = drawChart(page, $("curves"), `${state.series}|${state.isLog}`, crowd, (context, frame) => {
    const points = page.path.flatMap(at => pointsOf(page, series, at));
    strokePath(context, theme, points.map(([age, value]) => [frame.x(age), frame.y(value)]));
  });
}

/** Limits that show what is usual at each age; early values alone would press everything else to an edge. */
function limits(page, series, isLog) {
  const key = `${page.state.series}|${isLog}`;
  if (page.limits.has(key)) return page.limits.get(key);
  const isMeant = number => Number.isFinite(series.value[number]) && (!isLog || series.value[number] > 0);
  const found = usualOf(series.age, series.value, isMeant);
  let [low, high] = found.length ? [found[0], found.at(-1)] : isLog ? [0.1, 1] : [0, 1];
  if (!isLog && found.length) {
    const [least, middle, most] = quantiles(found, [0.02, 0.5, 0.98]);
    if (high - middle > middle - low) high = most; else low = least;
    const room = 0.04 * (high - low) || Math.abs(low) * 0.1 || 1;
    [low, high] = [low - room, high + room];
  }
  page.limits.set(key, [low, high]);
  return [low, high];
}

/** First and last point of each segment, found once for each curve. */
function pointIndex(page, series) {
  if (!page.pointers.has(series)) {
    const from = new Int32Array(page.lineage.count).fill(-1), to = new Int32Array(page.lineage.count).fill(-1);
    series.segment.forEach((at, number) => { if (from[at] < 0) from[at] = number; to[at] = number; });
    page.pointers.set(series, { from, to });
  }
  return page.pointers.get(series);
}

function pointsOf(page, series, at) {
  const { from, to } = pointIndex(page, series), found = [];
  if (from[at] < 0) return found;
  for (let number = from[at]; number <= to[at]; number++) if (Number.isFinite(series.value[number])) found.push([series.age[number], series.value[number]]);
  return found;
}

/** Every line of descent as one stroke; where weights were taken over it sets out from the donor's point. */
function traceCurves(page, series, context, frame) {
  const { lineage } = page, { from, to } = pointIndex(page, series);
  for (let at = 0; at < lineage.count; at++) {
    if (from[at] < 0 || (page.isFound && !page.isFound[at])) continue;
    const parent = lineage.parent[at];
    let isBegun = false;
    if (parent >= 0 && to[parent] >= 0 && Number.isFinite(series.value[to[parent]])) {
      context.moveTo(frame.x(series.age[to[parent]]), frame.y(series.value[to[parent]]));
      isBegun = true;
    }
    for (let number = from[at]; number <= to[at]; number++) {
      const value = series.value[number];
      if (!Number.isFinite(value)) { isBegun = false; continue; }
      const x = frame.x(series.age[number]), y = frame.y(value);
      if (isBegun) context.lineTo(x, y); else { context.moveTo(x - 1, y); context.lineTo(x, y); }
      isBegun = true;
    }
  }
}

function drawSchedule(page) {
  const { lineage, state, theme } = page, hparam = lineage.hparams[state.hparam];
  const crowd = (context, width, height) => {
    if (!hparam) return empty(context, theme, "No hyperparameter was varied.");
    const ys = hparam.options.length ? [-0.5, hparam.options.length - 0.5] : [hparam.low, hparam.high];
    const frame = chartFrame(width, height, [0, lineage.ageLength], ys, Boolean(hparam.log));
    drawFrame(context, frame, theme, hparam);
    clipTo(context, frame);
    context.beginPath();
    for (let at = 0; at < lineage.count; at++) {
      const value = hparam.values[at];
      if (Number.isNaN(value) || (page.isFound && !page.isFound[at])) continue;
      context.moveTo(frame.x(lineage.age[at]), frame.y(value));
      context.lineTo(frame.x(lineage.ageTo[at]), frame.y(value));
    }
    context.strokeStyle = css(theme.crowd);
    context.globalAlpha = lineage.ids.length > 200 ? 0.15 : 0.5;
    context.stroke();
    return frame;
  };
  page.scheduleFrame = drawChart(page, $("schedule"), String(state.hparam), crowd, (context, frame) => {
    const active = page.path.filter(at => !Number.isNaN(hparam.values[at]));
    const points = active.flatMap(at => [[frame.x(lineage.age[at]), frame.y(hparam.values[at])], [frame.x(lineage.ageTo[at]), frame.y(hparam.values[at])]]);
    strokePath(context, theme, points);
  });
}

function empty(context, theme, words) {
  context.fillStyle = css(theme.soft);
  context.fillText(words, CHART.left, CHART.top + 16);
  return null;
}

/** A remark at the upper right. */
function noteAt(context, frame, theme, words) {
  context.fillStyle = css(theme.soft);
  context.textAlign = "right";
  context.fillText(words, frame.left + frame.width, frame.top + 9);
  context.textAlign = "left";
}

function clipTo(context, frame) {
  context.beginPath();
  context.rect(frame.left, frame.top - 2, frame.width + 2, frame.height + 4);
  context.clip();
}

function strokePath(context, theme, points) {
  if (!points.length) return;
  context.beginPath();
  points.forEach(([x, y], number) => number ? context.lineTo(x, y) : context.moveTo(x, y));
  context.lineJoin = "round";
  for (const [colour, wide] of [[theme.paper, 5], [theme.accent, 2.2]]) {
    context.strokeStyle = css(colour);
    context.lineWidth = wide;
    context.stroke();
  }
  context.fillStyle = css(theme.accent);
  context.beginPath();
  context.arc(...points.at(-1), 3.5, 0, 2 * Math.PI);
  context.fill();
}

// ------------------------------------------------------------------------------------------------------- details

function memberLink(page, at, words) {
  return element("button", { class: "member", onclick: () => select(page, at, true) }, words ?? `member ${page.lineage.member[at]}`);
}

function drawDetails(page) {
  const { lineage, state: { selected } } = page, panel = $("details");
  if (selected < 0) {
    panel.replaceChildren(element("p", {}, "Nothing is selected."));
    page.detailed = -1;
    return;
  }
  const place = lineage.place.get(lineage.member[selected]);
  if (page.detailed !== place) {
    panel.replaceChildren(element("div", { id: "about" }), element("h3", {}, `What happened to member ${lineage.ids[place]}`), historyOf(page, place));
    page.detailed = place;
    panel.scrollTop = 0;
  }
  $("about").replaceChildren(...aboutOf(page, selected));
  for (const item of panel.querySelectorAll("#history li")) {
    const isCurrent = Number(item.dataset.segment) === selected;
    item.toggleAttribute("aria-current", false);
    if (isCurrent) { item.setAttribute("aria-current", "true"); showEntry(item); }
  }
}

/** Scroll the history to an entry, and nothing else: where the whole panel scrolls, it stays at its top. */
function showEntry(item) {
  const list = item.parentElement, high = list.clientHeight, top = item.offsetTop, room = parseFloat(list.style.paddingBottom) || 0;
  if (list.scrollHeight - room <= high) return;
  // The first entry that is seen is seen whole, from its heading on.
  const least = Math.max(top + item.offsetHeight - high, Math.min(list.scrollTop, top)) - 1;
  const start = Math.min(top, [...list.children].find(entry => entry.offsetTop >= least).offsetTop);
  list.style.paddingBottom = `${Math.max(0, start + high - (list.scrollHeight - room))}px`;
  list.scrollTop = start;
}

/** The selected segment: what it was, where its weights came from, how to get it again. */
function aboutOf(page, at) {
  const { lineage } = page, { run } = lineage, path = page.path;
  const status = ["", openWords(lineage), "failed"][lineage.status[at]];
  const rank = lineage.rank[at] ? `, ${ordinal(lineage.rank[at])} of ${lineage.peers[at]}` : "";
  const rows = [
    ["score", `${scoreWords(lineage, at)}${rank}${status ? ` (${status})` : ""}`],
    ["generation", `${lineage.generation[at] + 1} of ${run.generations}`],
    ["steps", `${lineage.consumed[at].toLocaleString("en")} to ${lineage.to[at].toLocaleString("en")}`],
    ...(lineage.age[at] === lineage.consumed[at] ? [] : [["age of weights", `${lineage.age[at].toLocaleString("en")} to ${lineage.ageTo[at].toLocaleString("en")}`]]),
    ["stack", String(lineage.stack[at])],
  ];
  const best = run.best === at ? (run.announced ? ", the winner" : ", the best so far") : "";
  return [
    element("h2", {}, `Member ${lineage.member[at]}, segment ${lineage.index(at)}${best}`),
    element("table", {}, ...rows.map(([name, value]) => element("tr", {}, element("th", {}, name), element("td", {}, value)))),
    element("h3", {}, "Hyperparameters"), hparamTable(page, at),
    element("h3", {}, "Ancestry of its weights"), chainOf(page, path),
    element("h3", {}, "Get it again"), ...againOf(lineage, at),
  ].filter(Boolean);
}

const ordinal = number => `${number}${["th", "st", "nd", "rd"][(number % 100 > 10 && number % 100 < 14) ? 0 : number % 10] ?? "th"}`;

function hparamTable(page, at) {
  const { lineage } = page, before = lineage.index(at) ? at - 1 : -1;
  return element("table", {}, ...lineage.hparams.map(hparam => {
    const value = hparam.values[at], was = before < 0 ? value : hparam.values[before];
    const isChanged = !Object.is(value, was), held = hparam.effect ? hparam.effect[at] : NaN;
    return element("tr", {}, element("th", {}, hparam.name),
      element("td", { class: "number" }, isChanged ? `${valueWords(hparam, was)} → ` : "",
        element("span", { class: isChanged ? "changed" : "" }, valueWords(hparam, value)),
        Number.isNaN(held) ? null : element("span", { class: "warning" }, ` (in effect: ${valueWords(hparam, held)})`)));
  }));
}

/** Members through which the weights came, with the age at which each took them over. */
function chainOf(page, path) {
  const { lineage } = page, chain = element("p", { class: "chain" });
  path.forEach((at, number) => {
    if (number && lineage.member[path[number - 1]] === lineage.member[at]) return;
    if (number) chain.append(" → ");
    const steps = lineage.age[at].toLocaleString("en");
    chain.append(memberLink(page, at, number ? `${lineage.member[at]} (at ${steps})` : String(lineage.member[at])));
  });
  const heirs = page.heirs.length;
  chain.append(element("br"), `${plural(path.length, "segment")}; ${plural(heirs, "segment")} ${heirs === 1 ? "descends" : "descend"} from it.`);
  return chain;
}

/** What makes the whole sweep once more, and what tells of this segment. */
function againOf(lineage, at) {
  const { id, seed, digest, sweep, mlflow } = lineage.run, saved = lineage.saved.get(at);
  const why = "In synchronous mode the same versions and the same data make the same decisions: compare the digest.";
  return [
    element("code", {}, "pbt run sweep.yaml"),
    element("details", {}, element("summary", {}, `sweep.yaml, seed ${seed}${mlflow ? ", also in MLflow" : ""}`),
      element("small", {}, why), element("pre", {}, sweep)),
    digest ? element("table", {}, element("tr", {}, element("th", {}, "digest"), element("td", {}, element("code", {}, digest)))) : null,
    element("code", {}, `pbt schedule ${id} ${lineage.name(at)}`), element("br"),
    element("code", {}, `pbt why ${id} ${lineage.name(at)}`), element("br"),
    ...saved ? ["weights, in the run’s folder: ", element("code", {}, `checkpoints/${saved}.safetensors`)]
      : ["Its weights were not kept; what descends from them may have been."],
  ];
}

function historyOf(page, place) {
  const { lineage } = page, list = element("ol", { id: "history" });
  for (let at = lineage.first[place]; at < lineage.first[place + 1]; at++) {
    list.append(element("li", { "data-segment": at, onclick: () => select(page, at) }, ...entryOf(page, at)));
  }
  return list;
}

/** What happened in one segment, a line for each thing. */
function entryOf(page, at) {
  const { lineage } = page, lines = [element("h4", {}, `generation ${lineage.generation[at] + 1}`)], parent = lineage.parent[at];
  const say = (...words) => lines.push(element("div", {}, ...words));
  const events = lineage.events(at), own = lineage.index(at) ? at - 1 : -1;
  if (lineage.start[at] === COPIED && parent >= 0) {
    say("took over ", memberLink(page, parent), own < 0 ? "" : `: ${scoreWords(lineage, own)} → ${scoreWords(lineage, parent)}`);
    for (const event of events) if (event.kind === KIND_COPIED) say(element("small", {}, event.words));
  } else if (lineage.start[at] === FRESH) {
    say(lineage.index(at) ? "began again from fresh weights" : "began from fresh weights");
    for (const event of events) if (event.kind === KIND_STARTED) say(element("small", {}, event.words));
  }
  for (const event of events) {
    if (event.kind !== KIND_SHRUNK) continue;
    say("weights shrunk and perturbed");
    if (lineage.start[at] !== COPIED) say(element("small", {}, event.words)); // a copy's reason is the same
  }
  const changes = own < 0 ? [] : lineage.hparams.filter(hparam => !Object.is(hparam.values[own], hparam.values[at]));
  for (const hparam of changes) {
    say(`${hparam.name} ${valueWords(hparam, hparam.values[own])} → `, element("span", { class: "changed" }, valueWords(hparam, hparam.values[at])));
  }
  for (const hparam of lineage.hparams) {
    if (hparam.effect && !Number.isNaN(hparam.effect[at])) say(element("span", { class: "warning" }, `${hparam.name} in effect: ${valueWords(hparam, hparam.effect[at])}`));
  }
  const rank = lineage.rank[at] ? `, ${ordinal(lineage.rank[at])} of ${lineage.peers[at]}` : "";
  say(lineage.status[at] === RUNNING ? openWords(lineage) : lineage.status[at] === FAILED ? element("span", { class: "warning" }, "failed") : `${scoreWords(lineage, at)}${rank}`);
  for (const event of events) {
    if (event.kind === KIND_DECLINED) say(element("small", {}, event.donor < 0 ? "considered and kept: " : `did not copy member ${event.donor}: `, event.words));
    if (event.kind === KIND_FAILED) say(element("small", {}, event.words));
  }
  return lines;
}

function drawLegend(page) {
  const { lineage, scale, theme, state } = page, legend = $("legend");
  legend.replaceChildren();
  if (scale.labels) {
    scale.labels.forEach((label, place) => legend.append(element("span", {}, dot(swatchOf(scale, place)), label)));
  } else {
    const bar = element("canvas", { width: 150, height: 1 }), context = bar.getContext("2d");
    for (let x = 0; x < 150; x++) { context.fillStyle = css(ramp(x / 149, state.isDark)); context.fillRect(x, 0, 1, 1); }
    legend.append(element("span", {}, `${scale.title} ${scale.ends[0]} `, bar, ` ${scale.ends[1]}`));
    if (scale.beyond) legend.append(element("span", {}, scale.beyond));
  }
  const has = test => lineage.status.some((_, at) => test(at));
  if (has(at => lineage.scored[at] === DIVERGED)) legend.append(element("span", {}, dot(css(theme.diverged)), "diverged"));
  if (has(at => lineage.status[at] === FAILED)) legend.append(element("span", {}, dot(css(theme.failed)), "failed"));
  if (has(at => lineage.status[at] === RUNNING)) legend.append(element("span", {}, dot(css(theme.blank)), openWords(lineage)));
  legend.append(element("span", {}, stroke(css(theme.accent)), "ancestry"), element("span", {}, stroke(css(theme.descent)), "descent"));
  legend.append(element("span", {}, "faded: neither"));
}

const stroke = colour => { const mark = dot(colour); mark.className = "line"; return mark; };
const dot = colour => { const mark = element("i"); mark.style.background = colour; return mark; };

function drawNote(page) {
  const { lineage } = page, said = page.lost ? [page.lost] : [];
  if (page.problem) said.push(page.problem);
  else if (page.isFound) said.push(`${plural(page.numFound, "segment")} of ${plural(page.numFoundMembers, "member")} found`);
  if (page.hiddenCopies) said.push(`${page.hiddenCopies.toLocaleString("en")} copies: zoom in to see their lines`);
  if (lineage.head.leftOut.length) said.push(`not on this page: ${lineage.head.leftOut.join(", ")}`);
  $("found").textContent = said.join("; ");
  $("find").setAttribute("aria-invalid", String(Boolean(page.problem)));
}

function drawTip(page, event) {
  const { lineage, state: { hovered: at } } = page, tip = $("tip");
  tip.hidden = at < 0;
  if (at < 0) return;
  const from = lineage.start[at] === COPIED && lineage.parent[at] >= 0 ? `, on weights of member ${lineage.member[lineage.parent[at]]}` : "";
  const rank = lineage.rank[at] ? `, ${ordinal(lineage.rank[at])} of ${lineage.peers[at]}` : "";
  tip.replaceChildren(
    element("div", {}, element("b", {}, `member ${lineage.member[at]}`), `, generation ${lineage.generation[at] + 1}${from}`),
    element("div", {}, `${lineage.run.objective.metric} ${scoreWords(lineage, at)}${rank}`), hparamTable(page, at));
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, event.clientX + 16 + width > innerWidth ? event.clientX - width - 12 : event.clientX + 16)}px`;
  tip.style.top = `${Math.max(4, Math.min(innerHeight - height - 4, event.clientY + 12))}px`;
}

// ------------------------------------------------------------------------------------------------------ updating

/** How far from paper: those that are not meant are nearly paper, those that are no kin of the selected one pale. */
const PALE = 0.48, FAINT = 0.86;

/** Colours of all segments, as the canvas has them in memory: full, pale and faint. */
function recolour(page) {
  const { lineage, scale, theme, state, shades: [full, pale, faint] } = page;
  const swatches = (scale.labels ?? []).map((_, place) => parts(swatchOf(scale, place)));
  for (let at = 0; at < lineage.count; at++) {
    let colour = theme.blank;
    if (lineage.status[at] === FAILED) colour = theme.failed;
    else if (lineage.scored[at] === DIVERGED) colour = theme.diverged;
    else if (scale.swatch) { const place = scale.swatch(at); if (place !== null) colour = swatches[place]; }
    else { const share = scale.share(at); if (!Number.isNaN(share)) colour = ramp(share, state.isDark); }
    full[at] = packed(colour);
    pale[at] = paler(colour, theme.paper, PALE);
    faint[at] = paler(colour, theme.paper, FAINT);
  }
  shade(page);
}

/** Which of them each has now. */
function shade(page) {
  const { lineage, isFound, kin, colours, state, shades: [full, pale, faint] } = page;
  const ofOthers = state.focus ? faint : state.selected < 0 ? full : pale;
  for (let at = 0; at < lineage.count; at++) colours[at] = (isFound && !isFound[at] ? faint : kin[at] ? full : ofOthers)[at];
}

/** Kin of the selected segment: its ancestry, itself included, and what descends from it. */
function relate(page) {
  const { lineage, state: { selected } } = page;
  page.path = selected < 0 ? [] : ancestry(lineage, selected);
  page.heirs = selected < 0 ? [] : lineage.heirs(selected);
  page.kin.fill(STRANGER);
  for (const at of page.heirs) page.kin[at] = HEIR;
  for (const at of page.path) page.kin[at] = ANCESTOR;
}

function arrange(page) {
  const { lineage, state } = page;
  let members = null;
  if (state.focus || page.isFound) {
    members = new Set();
    for (let at = 0; at < lineage.count; at++) {
      if ((!state.focus || page.kin[at]) && (!page.isFound || page.isFound[at])) members.add(lineage.place.get(lineage.member[at]));
    }
  }
  page.order = ordered(lineage, state.rows, members && members.size ? place => members.has(place) : null);
  page.rowOf = new Int32Array(lineage.ids.length).fill(-1);
  page.order.forEach((place, row) => { page.rowOf[place] = row; });
  assignLanes(page);
  state.view = { ...state.view, y0: 0, y1: page.order.length };
}

function find(page, text) {
  page.problem = "";
  page.isFound = null;
  try {
    const is = finder(page.lineage, text);
    if (is) {
      page.isFound = new Uint8Array(page.lineage.count);
      const members = new Set();
      page.numFound = 0;
      for (let at = 0; at < page.lineage.count; at++) if (is(at)) { page.isFound[at] = 1; page.numFound++; members.add(page.lineage.member[at]); }
      page.numFoundMembers = members.size;
    }
  } catch (error) {
    page.problem = error.message;
  }
  page.version++;
  arrange(page);
  refresh(page, { colours: true });
}

/** Draw again at the next frame, whatever asks for it and however often. */
function refresh(page, { colours = false, kin = false, charts = true, details = false } = {}) {
  page.due = { colours: page.due?.colours || colours, kin: page.due?.kin || kin, charts: page.due?.charts || charts, details: page.due?.details || details };
  if (page.isWaiting) return;
  page.isWaiting = true;
  requestAnimationFrame(() => {
    const due = page.due;
    page.due = null;
    page.isWaiting = false;
    if (due.colours) { recolour(page); drawLegend(page); } else if (due.kin) shade(page);
    drawTree(page);
    if (due.charts) { drawCurves(page); drawSchedule(page); }
    if (due.details) drawDetails(page);
    drawNote(page);
    document.documentElement.dataset.frames = String(++page.frames);
  });
}

function select(page, at, isToShow = false) {
  page.state.selected = at;
  page.lost = "";
  relate(page);
  if (page.state.focus) arrange(page);
  if (isToShow) bringIntoView(page, at);
  try { history.replaceState(null, "", at < 0 ? "#" : `#${page.lineage.name(at)}`); } catch { /* not in a sandbox */ }
  refresh(page, { kin: true, details: true });
}

function bringIntoView(page, at) {
  const { lineage, state: { view } } = page, row = page.rowOf[lineage.place.get(lineage.member[at])];
  const move = (low, high, from, to) => from < low ? from - low : to > high ? to - high : 0;
  const down = row < 0 ? 0 : move(view.y0, view.y1, row, row + 1), right = move(view.x0, view.x1, lineage.consumed[at], lineage.to[at]);
  view.y0 += down; view.y1 += down; view.x0 += right; view.x1 += right;
}

function setTheme(page, isDark) {
  page.state.isDark = isDark;
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  const names = ["paper", "sheet", "ink", "soft", "faint", "grid", "crowd", "accent", "descent", "failed", "diverged", "blank"];
  page.theme = Object.fromEntries(names.map(name => [name, styled(name)]));
  page.version++;
  refresh(page, { colours: true });
}

// --------------------------------------------------------------------------------------------- pointer and keys

function segmentAt(page, x, y) {
  const { lineage, order, plot, state: { view } } = page;
  if (!plot || x < plot.left || x > plot.left + plot.width || y < plot.top || y > plot.top + plot.height) return -1;
  const row = Math.floor(view.y0 + (y - plot.top) / rowPixels(page));
  if (row < 0 || row >= order.length) return -1;
  const steps = view.x0 + (x - plot.left) * (view.x1 - view.x0) / plot.width;
  for (let at = lineage.first[order[row]]; at < lineage.first[order[row] + 1]; at++) {
    if (steps >= lineage.consumed[at] && steps < lineage.to[at]) return at;
  }
  return -1;
}

/** Zoom by a factor around a place of the canvas; the selected segment, if none is given. Never beyond what there is. */
function zoom(page, factor, x = NaN, y = NaN) {
  const { lineage, order, plot, state: { view, selected } } = page;
  if (Number.isNaN(x)) [x, y] = anchor(page, selected);
  const steps = view.x0 + (x - plot.left) * (view.x1 - view.x0) / plot.width, row = view.y0 + (y - plot.top) / rowPixels(page);
  const wide = Math.min(lineage.length, Math.max(lineage.run.steps * 1.5, (view.x1 - view.x0) * factor));
  const high = Math.min(order.length, Math.max(Math.min(4, order.length), (view.y1 - view.y0) * factor));
  const around = (low, middleOf, before, after) => middleOf - (middleOf - low) * after / before;
  view.x0 = around(view.x0, steps, view.x1 - view.x0, wide);
  view.y0 = around(view.y0, row, view.y1 - view.y0, high);
  view.x1 = view.x0 + wide;
  view.y1 = view.y0 + high;
  keepInside(page);
}

/** The selected segment's place on the canvas where it is seen, else the middle. */
function anchor(page, at) {
  const { plot, lineage } = page, centre = [plot.left + plot.width / 2, plot.top + plot.height / 2];
  if (at < 0) return centre;
  const x = (toX(page, lineage.consumed[at]) + toX(page, lineage.to[at])) / 2, y = middle(page, at);
  const isSeen = x >= plot.left && x <= plot.left + plot.width && y >= plot.top && y <= plot.top + plot.height;
  return isSeen ? [x, y] : centre;
}

function keepInside(page) {
  const { lineage, order, state: { view } } = page;
  const fit = (low, high, most) => { const back = Math.max(0, high - most) - Math.max(0, -low); return [low - back, high - back]; };
  [view.x0, view.x1] = fit(view.x0, view.x1, lineage.length);
  [view.y0, view.y1] = fit(view.y0, view.y1, order.length);
  page.state.hovered = -1;
  $("tip").hidden = true;
  refresh(page, { charts: false });
}

function listen(page) {
  const { canvas, state } = page;
  let drag = null;
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    if (event.shiftKey) pan(page, -(event.deltaX || event.deltaY), 0);
    else zoom(page, 1.0015 ** event.deltaY, event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  canvas.addEventListener("pointerdown", event => {
    drag = { x: event.clientX, y: event.clientY, isMoved: false };
    try { canvas.setPointerCapture(event.pointerId); } catch { /* the pointer has gone */ }
  });
  canvas.addEventListener("pointermove", event => {
    if (drag && (drag.isMoved || Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 4)) {
      pan(page, event.clientX - drag.x, event.clientY - drag.y);
      drag = { x: event.clientX, y: event.clientY, isMoved: true };
      return;
    }
    const box = canvas.getBoundingClientRect(), at = segmentAt(page, event.clientX - box.left, event.clientY - box.top);
    if (at !== state.hovered) { state.hovered = at; refresh(page, { charts: false }); }
    drawTip(page, event);
  });
  canvas.addEventListener("pointerup", event => {
    const isClick = drag && !drag.isMoved, box = canvas.getBoundingClientRect();
    drag = null;
    const at = isClick ? segmentAt(page, event.clientX - box.left, event.clientY - box.top) : -1;
    if (at >= 0) select(page, at);
  });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("pointerleave", () => { state.hovered = -1; $("tip").hidden = true; refresh(page, { charts: false }); });
  new ResizeObserver(() => refresh(page)).observe(document.querySelector("main"));
  document.addEventListener("keydown", event => onKey(page, event));
  listenToCurves(page);
  listenToControls(page);
}

function pan(page, right, down) {
  const { plot, state: { view } } = page, x = right * (view.x1 - view.x0) / plot.width, y = down / rowPixels(page);
  view.x0 -= x; view.x1 -= x; view.y0 -= y; view.y1 -= y;
  keepInside(page);
}

/** A click on a curve selects what it is of. */
function listenToCurves(page) {
  const canvas = $("curves");
  const nearest = event => {
    const { curveFrame: frame, lineage, state } = page, series = lineage.series[state.series], box = canvas.getBoundingClientRect();
    let found = -1, least = 14 ** 2;
    if (!frame) return found;
    const x = event.clientX - box.left, y = event.clientY - box.top;
    series.age.forEach((age, number) => {
      const far = (frame.x(age) - x) ** 2 + (frame.y(series.value[number]) - y) ** 2;
      if (far < least && (!page.isFound || page.isFound[series.segment[number]])) { least = far; found = series.segment[number]; }
    });
    return found;
  };
  canvas.addEventListener("pointermove", event => {
    page.state.hovered = nearest(event);
    canvas.style.cursor = page.state.hovered < 0 ? "default" : "pointer";
    drawTip(page, event);
    refresh(page, { charts: false });
  });
  canvas.addEventListener("pointerleave", () => { page.state.hovered = -1; $("tip").hidden = true; refresh(page, { charts: false }); });
  canvas.addEventListener("click", event => { const at = nearest(event); if (at >= 0) select(page, at, true); });
}

function listenToControls(page) {
  const { state } = page;
  $("colour").addEventListener("change", event => { state.scale = Number(event.target.value); page.scale = page.scales[state.scale]; refresh(page, { colours: true }); });
  $("rows").addEventListener("change", event => { state.rows = event.target.value; arrange(page); refresh(page); });
  $("find").addEventListener("input", event => find(page, event.target.value));
  $("series").addEventListener("change", event => { state.series = Number(event.target.value); refresh(page); });
  $("hparam").addEventListener("change", event => { state.hparam = Number(event.target.value); refresh(page); });
  $("logarithmic").addEventListener("change", event => { state.isLog = event.target.checked; refresh(page); });
  $("focus").addEventListener("click", () => toggleFocus(page));
  $("closer").addEventListener("click", () => zoom(page, 0.6));
  $("farther").addEventListener("click", () => zoom(page, 1 / 0.6));
  $("whole").addEventListener("click", () => showAll(page));
  $("dark").addEventListener("click", () => setTheme(page, !state.isDark));
  $("keys").addEventListener("click", () => $("help").showModal());
}

function toggleFocus(page) {
  page.state.focus = !page.state.focus;
  $("focus").setAttribute("aria-pressed", String(page.state.focus));
  arrange(page);
  refresh(page, { kin: true });
}

function showAll(page) {
  page.state.view = { x0: 0, x1: page.lineage.length, y0: 0, y1: page.order.length };
  refresh(page);
}

const KEYS = [
  ["← →", "the member’s segment before, the next", { ArrowLeft: page => beside(page, -1), ArrowRight: page => beside(page, 1) }],
  ["↑ ↓", "the row above, below", { ArrowUp: page => above(page, -1), ArrowDown: page => above(page, 1) }],
  ["p", "where its weights came from", { p: page => { const at = page.lineage.parent[page.state.selected]; if (at >= 0) select(page, at, true); } }],
  ["b", "the best", { b: page => { if (page.lineage.run.best !== null) select(page, page.lineage.run.best, true); } }],
  ["f", "kin of the selected segment only", { f: toggleFocus }],
  ["c", "colour by something else", { c: page => { const list = $("colour"); list.selectedIndex = (list.selectedIndex + 1) % list.length; list.dispatchEvent(new Event("change")); } }],
  ["+ − 0", "zoom in, out, everything", { "+": page => zoom(page, 0.6), "=": page => zoom(page, 0.6), "-": page => zoom(page, 1 / 0.6), 0: showAll }],
  ["/", "find segments", { "/": () => $("find").focus() }],
  ["d", "dark or light", { d: page => setTheme(page, !page.state.isDark) }],
  ["Esc", "end finding, select nothing", { Escape: page => { if ($("find").value) { $("find").value = ""; find(page, ""); } else select(page, -1); } }],
  ["?", "these keys", { "?": () => $("help").showModal() }],
];
const ACTIONS = Object.assign({}, ...KEYS.map(([, , actions]) => actions));

function onKey(page, event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const isTyping = event.target.matches("input[type=search], select");
  if (isTyping && event.key !== "Escape") return;
  const action = ACTIONS[event.key];
  if (!action || !page.lineage.count) return;
  event.preventDefault();
  if (isTyping) { event.target.blur(); page.canvas.focus(); }
  action(page);
}

/** The member's own segment before or after. */
function beside(page, by) {
  const { lineage, state: { selected } } = page, at = selected + by;
  if (selected < 0) select(page, lineage.run.best ?? 0, true);
  else if (lineage.member[at] === lineage.member[selected]) select(page, at, true);
}

/** The segment of that time in the row above or below. */
function above(page, by) {
  const { lineage, order, state: { selected } } = page;
  if (selected < 0) { beside(page, 0); return; }
  const place = order[page.rowOf[lineage.place.get(lineage.member[selected])] + by];
  if (place === undefined) return;
  let found = lineage.first[place];
  for (let at = found; at < lineage.first[place + 1]; at++) if (lineage.consumed[at] <= lineage.consumed[selected]) found = at;
  select(page, found, true);
}

// ---------------------------------------------------------------------------------------------------- beginning

function fill(list, names) {
  list.replaceChildren(...names.map((name, place) => element("option", { value: place }, name)));
}

function introduce(page) {
  const { lineage } = page, { run } = lineage;
  document.querySelector("h1").textContent = run.id;
  const best = run.best === null ? "nobody has a score" : `${run.announced ? "the winner is" : "best so far is"} member ${lineage.member[run.best]}, ${run.objective.metric} ${scoreWords(lineage, run.best)}`;
  const facts = [
    `${run.trainable} under ${run.strategy}`, `${plural(lineage.ids.length, "member")}, ${plural(lineage.count, "segment")}, ${plural(page.copies.length, "copy").replace("copys", "copies")}`,
    `${run.objective.split} ${run.objective.metric}${run.objective.unit ? ` [${run.objective.unit}]` : ""}, ${lineage.small ? "lower" : "higher"} is better`, best, run.status,
  ];
  $("facts").textContent = facts.join(" · ");
  if (run.mlflow) $("facts").append(" · ", element("a", { href: run.mlflow, rel: "noopener", target: "_blank" }, "in MLflow"));
  fill($("colour"), page.scales.map(scale => scale.name));
  fill($("series"), lineage.series.map(series => `${series.split} ${series.name}`));
  fill($("hparam"), lineage.hparams.map(hparam => hparam.name));
  const rows = KEYS.map(([keys, words]) => element("tr", {}, element("th", {}, element("kbd", {}, keys)), element("td", {}, words)));
  const examples = ["member:3,7-12", "score<1.5", "generation>=10", "rank:1", "founder:4", "donor:0", ...Object.keys(WORDS)];
  $("help").append(element("h2", {}, "Keys"), element("table", {}, ...rows),
    element("p", {}, "Wheel: zoom; with Shift: sideways. Drag: move. Click: select, also on a curve."),
    element("h2", {}, "Find"), element("p", {}, "All terms must hold: ", ...examples.flatMap(example => [element("code", {}, example), " "]), "and every hyperparameter by its name."),
    element("form", { method: "dialog" }, element("button", {}, "Close")));
}

/** The segment that the address names (#3:5), or null; and what is wrong with it, if anything. */
function addressed(lineage) {
  if (location.hash.length < 2) return [null, ""];
  const [, member, index] = location.hash.match(/^#(\d+)(?::(\d+))?$/) ?? [], place = lineage.place.get(Number(member));
  if (member === undefined) return [null, `the address ends in “${location.hash}”, which names no member: as #3, or #3:5 for its segment 5`];
  if (place === undefined) return [null, `there is no member ${member}, which the address names`];
  const at = index === undefined ? lineage.held(place) : lineage.first[place] + Number(index), end = lineage.first[place + 1];
  if (at >= end) return [null, `member ${member} has no segment ${index}, which the address names: its last is ${end - 1 - lineage.first[place]}`];
  return [at, ""];
}

/** Select what the address names, or say that there is no such thing. */
function follow(page) {
  const [at, problem] = addressed(page.lineage);
  page.lost = problem;
  if (at !== null && at !== page.state.selected) select(page, at, true);
  else refresh(page);
}

async function begin() {
  const lineage = indexed(await unpack($("data").textContent));
  const page = {
    lineage, state: initial(lineage), canvas: document.querySelector("#tree > canvas"), colours: new Uint32Array(lineage.count),
    shades: [0, 1, 2].map(() => new Uint32Array(lineage.count)), kin: new Uint8Array(lineage.count), lane: new Uint8Array(lineage.count),
    crowds: new Map(), pointers: new Map(), limits: new Map(), version: 0, frames: 0, problem: "", lost: "", isFound: null, hiddenCopies: 0, detailed: -1,
    copies: [], marks: [],
  };
  for (let at = 0; at < lineage.count; at++) {
    if (lineage.start[at] === COPIED && lineage.parent[at] >= 0) page.copies.push(at);
    if (lineage.status[at] === FAILED || lineage.scored[at] === DIVERGED) page.marks.push(at);
  }
  const [at, lost] = addressed(lineage);
  page.state.selected = at ?? page.state.selected;
  page.lost = lost;
  page.scales = scales(lineage);
  page.scale = page.scales[0];
  introduce(page);
  relate(page);
  arrange(page);
  setTheme(page, page.state.isDark);
  refresh(page, { details: true });
  listen(page);
  window.addEventListener("hashchange", () => follow(page));
  requestAnimationFrame(() => requestAnimationFrame(() => { document.documentElement.dataset.ready = "true"; }));
}

begin().catch(error => { $("facts").textContent = `This page cannot be shown: ${error.message}`; throw error; });
