// The operator's page. All data comes from `api/`; every text of it becomes a text node, never markup.
"use strict";

const $ = (id) => document.getElementById(id);
const MOST = 100; // Ended requests on the page.
const SHOWN = 12; // Of these, before "Show more"; the style sheet says so too.
const SVG = "http://www.w3.org/2000/svg";

const state = {
  boot: null,
  skew: 0, // This clock minus the server's, in milliseconds.
  hasPrompts: false,
  totals: { running: 0, started: 0, ended: 0 },
  pools: [], servers: [], tools: [],
  running: new Map(), ended: new Map(),
  past: {}, pastAt: {}, pastEnded: {},
  range: "hours", what: "tokens", by: "models",
};

// --- building blocks

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "class") made.className = value;
    else if (key === "onclick") made.addEventListener("click", value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const number = (value) => value.toLocaleString("en-US");

function short(value) {
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= size * 0.9995) return plain(value / size) + " " + unit;
  }
  return plain(value);
}

/** Three digits, without zeros behind the point. */
function plain(value) {
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(3)));
}

function time(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return Math.round(ms) + " ms";
  if (ms < 60_000) return Number((ms / 1000).toFixed(ms < 10_000 ? 1 : 0)) + " s";
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return Math.floor(seconds / 60) + " min " + (seconds % 60) + " s";
  return Math.floor(seconds / 3600) + " h " + Math.floor((seconds % 3600) / 60) + " min";
}

function money(amount, currency) {
  const value = Number(amount);
  const digits = value === 0 ? 2 : Math.min(8, Math.max(2, 2 - Math.floor(Math.log10(value))));
  return (currency === "USD" ? "$" : "") + value.toFixed(digits) + (currency === "USD" ? "" : " " + currency);
}

function clock(ms) {
  const at = new Date(ms + state.skew);
  const hour = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? hour : at.toLocaleDateString([], { month: "short", day: "numeric" }) + " " + hour;
}

const serverNow = () => Date.now() - state.skew;
const left = (until) => Math.max(0, until - serverNow());

function countdown(until) {
  const made = element("span", { "data-until": String(until) });
  made.textContent = time(Math.ceil(left(until) / 1000) * 1000);
  return made;
}

// --- requests

const OUTCOMES = {
  completed: ["completed", "good"], upstream_error: ["provider", "fail"], keys_exhausted: ["no key", "fail"],
  cancelled: ["cancelled", "calm"], bridge_error: ["gateway", "fail"],
};

function outcome(request) {
  if (!request.outcome) return element("span", { class: "chip warn" }, "running");
  const [text, kind] = OUTCOMES[request.outcome] || [request.outcome, "fail"];
  const status = request.outcome !== "completed" && request.status ? " " + request.status : "";
  return element("span", { class: "chip " + kind, title: request.error }, text + status);
}

function row(request) {
  const input = request.input + request.cache_read_input_tokens + request.cache_write_input_tokens;
  const used = input + request.output;
  const cost = request.cost ? money(request.cost.amount, request.cost.currency) : !request.outcome || used === 0 ? "–" : "unpriced";
  const cached = request.cache_read_input_tokens && input ? Math.round((100 * request.cache_read_input_tokens) / input) : 0;
  const cell = (label, kind, text, more) => element("td", { class: text === "–" ? kind + " none" : kind, "data-label": label, title: typeof text === "string" && text.length > 14 ? text : null }, text, more);
  const ran = element("span", request.outcome ? {} : { "data-since": String(request.at) },
    time(request.outcome ? request.duration_ms : serverNow() - request.at));
  const prompt = state.hasPrompts && request.outcome
    ? element("button", { type: "button", onclick: () => showPrompt(request) }, "Prompt") : null;
  return element("tr", {},
    cell("Started", "", clock(request.at)),
    cell("Client", "", request.client && request.client !== "unknown" ? request.client : "–"),
    cell("Actor", "", request.actor || "–"),
    cell("Model", "", request.model),
    cell("Key", "mono", request.key || "–"),
    cell("Rounds", "n", String(request.rounds), request.tools ? element("small", {}, ` · ${request.tools} tool${request.tools > 1 ? "s" : ""}`) : null),
    cell("Tokens in / out", "n", used ? `${number(input)} / ${number(request.output)}` : "–", cached ? element("small", { title: "read from the provider's cache" }, ` ${cached} %`) : null),
    cell("Cost", "n", cost),
    cell("First token", "n", time(request.first_token_ms)),
    cell("Time", "n", ran),
    cell("Outcome", "", outcome(request), prompt));
}

function takeRunning(requests) {
  const body = $("running");
  const now = new Set(requests.map((request) => request.id));
  for (const [id, known] of state.running) {
    if (!now.has(id)) { known.remove(); state.running.delete(id); }
  }
  let before = body.firstChild;
  for (const request of requests) {
    const made = row(request);
    const known = state.running.get(request.id);
    if (known) { if (known === before) before = before.nextSibling; known.remove(); }
    body.insertBefore(made, before);
    state.running.set(request.id, made);
  }
}

function takeEnded(requests) {
  const body = $("ended");
  for (const request of requests) {
    const running = state.running.get(request.id);
    if (running) { running.remove(); state.running.delete(request.id); }
    if (state.ended.has(request.id)) continue;
    const made = row(request);
    body.insertBefore(made, body.firstChild);
    state.ended.set(request.id, made);
  }
  for (const [id, made] of state.ended) {
    if (state.ended.size <= MOST) break;
    made.remove();
    state.ended.delete(id);
  }
}

let promptOf = null;
async function showPrompt(request) {
  promptOf = request.id;
  const isLate = () => promptOf !== request.id; // Another one was asked for since.
  const text = $("prompt-text");
  text.replaceChildren(element("p", { class: "note" }, "…"));
  $("prompt").showModal();
  try {
    const answer = await fetch("api/prompt/" + encodeURIComponent(request.id));
    if (!answer.ok) throw new Error(await answer.text());
    const { prompts } = await answer.json();
    if (isLate()) return;
    text.replaceChildren(...prompts.map((prompt) => element("pre", {}, prompt)));
    if (!prompts.length) text.replaceChildren(element("p", { class: "note" }, "No prompt was recorded: the last message was a tool's, or the record is not written yet."));
  } catch (error) {
    if (isLate()) return;
    text.replaceChildren(element("p", { class: "note" }, String(error.message)));
  }
}

// --- keys

const KEY_STATES = { usable: ["usable", "good"], cooling_down: ["resting", "warn"], suspected: ["suspected", "warn"], revoked: ["revoked", "fail"] };

function keyCard(provider, key) {
  const [text, kind] = KEY_STATES[key.state] || [key.state, "calm"];
  const chip = element("span", { class: "chip " + kind }, text);
  if (key.until) chip.append(" ", countdown(key.until));
  const counters = key.counters;
  const refused = counters.cooled_down + counters.revoked + counters.next_key + counters.suspected;
  const card = element("article", { class: "card key" },
    element("div", { class: "top" }, element("h3", { class: "mono" }, key.hint), chip),
    element("p", {}, provider + " · " + (key.domain ? "domain " + key.domain : "domain not known yet")),
    element("p", {}, `${number(counters.attempts)} call${counters.attempts === 1 ? "" : "s"} · ${number(counters.accepted)} accepted · ${number(refused)} refused · ${number(counters.unanswered)} unanswered`));
  if (key.rests.length) {
    const lines = key.rests.map((rest) => element("li", {},
      element("span", {}, rest.model),
      element("span", {}, rest.last_resort ? "last resort " : "rests ", countdown(rest.until))));
    if (key.more_rests) lines.push(element("li", {}, element("span", {}, `${key.more_rests} more models rest`), element("span", {})));
    card.append(element("ul", { class: "list" }, ...lines));
  }
  if (key.state !== "usable" || key.rests.length) {
    const button = element("button", { type: "button" }, "Restore");
    button.addEventListener("click", () => restore(provider, key.hint, button));
    card.append(button);
  }
  return card;
}

function drawKeys() {
  const cards = state.pools.flatMap((pool) => pool.keys.map((key) => keyCard(pool.provider, key)));
  $("keys").replaceChildren(...(cards.length ? cards : [element("p", { class: "empty" }, "No key here: callers bring their own.")]));
}

async function restore(provider, hint, button) {
  button.disabled = true;
  const said = $("said");
  try {
    const answer = await fetch("api/restore", {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ provider, hint }),
    });
    if (!answer.ok) throw new Error(await answer.text());
    said.className = "said";
    said.textContent = `${hint} of ${provider} is usable again.`;
  } catch (error) {
    said.className = "said bad";
    said.textContent = `${hint} of ${provider} is not restored: ${error.message}`;
    button.disabled = false;
  }
}

// --- tools

const SERVER_STATES = { ready: ["ready", "good"], connecting: ["connecting", "warn"], away: ["away", "fail"] };

function drawServers() {
  const counts = new Map();
  for (const tool of state.tools) {
    if (!counts.has(tool.server)) counts.set(tool.server, new Map());
    counts.get(tool.server).set(tool.tool, tool);
  }
  const line = (name, tool) => {
    const texts = tool ? [`${number(tool.calls)} call${tool.calls === 1 ? "" : "s"} · ${time(tool.duration_ms / Math.max(1, tool.calls))} · `,
      element("span", tool.failures ? { class: "bad" } : {}, `${number(tool.failures)} failed`)] : ["not called yet"];
    return element("li", {}, element("span", {}, name), element("span", {}, ...texts));
  };
  const cards = [];
  for (const server of state.servers) {
    const called = counts.get(server.name) || new Map();
    counts.delete(server.name);
    const [text, kind] = SERVER_STATES[server.state] || [server.state, "calm"];
    const names = [...new Set([...server.tools, ...called.keys()])];
    cards.push(element("article", { class: "card" },
      element("div", { class: "top" }, element("h3", {}, server.name), element("span", { class: "chip " + kind }, text)),
      element("p", {}, `${server.address} · ${text} since ${clock(server.since)}`),
      server.state !== "ready" && server.last_error ? element("p", { class: "bad" }, server.last_error) : null,
      element("ul", { class: "list" }, ...names.slice(0, 50).map((name) => line(name, called.get(name)))),
      names.length > 50 ? element("p", {}, `${names.length - 50} more tools`) : null));
  }
  for (const [name, called] of counts) {
    cards.push(element("article", { class: "card" },
      element("div", { class: "top" }, element("h3", {}, name || "tools without a server"), element("span", { class: "chip calm" }, "in the gateway")),
      element("ul", { class: "list" }, ...[...called].slice(0, 50).map(([tool, counted]) => line(tool, counted)))));
  }
  $("servers").replaceChildren(...(cards.length ? cards : [element("p", { class: "empty" }, "No tool server, and no tool was called yet.")]));
}

// --- the past

async function fetchPast(range) {
  const known = state.past[range];
  const isFresh = known && Date.now() - state.pastAt[range] < known.max_age * 1000;
  const isOver = known && serverNow() >= (known.from + known.steps * known.step) * 1000;
  // In memory, nothing new is there before a request ends or an hour begins.
  if (isFresh || (known && !isOver && known.source === "memory" && state.pastEnded[range] === state.totals.ended)) return false;
  state.pastAt[range] = Date.now();
  const ended = state.totals.ended;
  const answer = await fetch("api/history/" + range);
  if (!answer.ok) throw new Error((await answer.text()).trim());
  state.past[range] = await answer.json();
  state.pastEnded[range] = ended;
  return true;
}

let fetching = false;
async function refreshPast() {
  if (fetching || document.hidden || !state.boot) return;
  fetching = true;
  try {
    const hours = await fetchPast("hours");
    const days = state.range === "days" && await fetchPast("days");
    if (hours) drawTiles();
    if (hours || days) drawPast();
  } catch (error) {
    $("source").textContent = "The past is not shown: " + error.message;
  } finally {
    fetching = false;
  }
}

const tokensOf = (point) => point.input + point.output + point.cache_read_input_tokens + point.cache_write_input_tokens;

function costsOf(points) {
  const sums = new Map();
  for (const point of points) {
    for (const cost of point.costs) sums.set(cost.currency, (sums.get(cost.currency) || 0) + Number(cost.amount));
  }
  return sums;
}

function drawTiles() {
  const past = state.past.hours;
  const tile = (name, value, note) => element("div", {}, element("dt", {}, name), element("dd", {}, value), element("dd", {}, note || ""));
  const tiles = [tile("Running now", number(state.totals.running), "")];
  if (past) {
    const day = (point) => point.step >= past.steps - 24;
    const times = past.times.filter(day);
    const points = past.models.flatMap((series) => series.points.filter(day));
    const sum = (list, of) => list.reduce((total, item) => total + of(item), 0);
    const requests = sum(times, (point) => point.requests), failed = sum(times, (point) => point.failed);
    const output = sum(points, (point) => point.output), all = sum(points, tokensOf), read = sum(points, (point) => point.cache_read_input_tokens);
    const costs = [...costsOf(points)].map(([currency, amount]) => money(amount, currency));
    const unpriced = sum(points, (point) => point.unpriced);
    tiles.push(
      tile("Requests, 24 h", short(requests), requests ? `${number(sum(times, (point) => point.cancelled))} cancelled` : ""),
      tile("Failed, 24 h", short(failed), requests ? `${((100 * failed) / requests).toFixed(1)} %` : ""),
      tile("Tokens, 24 h", short(all), all ? `${short(all - output)} in, ${short(output)} out` : ""),
      tile("Cost, 24 h", costs.join(" + ") || "–", unpriced ? `${number(unpriced)} unpriced` : ""),
      tile("Cache hits, 24 h", all - output ? `${Math.round((100 * read) / (all - output))} %` : "–", "of input tokens"));
  }
  $("tiles").replaceChildren(...tiles);
}

/** Round steps for an axis up to `most`. */
function axis(most) {
  if (!(most > 0)) return [0, 1];
  const rough = most / 3;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * size).find((candidate) => candidate >= rough);
  const ticks = [];
  for (let index = 0; index * step < most * 1.0001 + step; index++) ticks.push(index * step);
  return ticks;
}

/** Stacked bars. `columns` are lists of { value, fill, title }; `label(index)` is a text below a column, or null. */
function bars(svg, columns, ticks, tickText, label) {
  const width = Math.max(240, svg.clientWidth), height = svg.clientHeight || 150;
  const gutter = 46, top = 8, bottom = height - 20, most = ticks[ticks.length - 1] || 1;
  const made = [];
  for (const tick of ticks) {
    const y = Math.round(bottom - (tick / most) * (bottom - top)) + 0.5;
    made.push(shape("line", { x1: gutter, x2: width, y1: y, y2: y }));
    made.push(shape("text", { x: gutter - 6, y: y + 4, "text-anchor": "end" }, tickText(tick)));
  }
  const step = (width - gutter) / columns.length, gap = Math.min(3, step * 0.2);
  let free = -1;
  columns.forEach((parts, index) => {
    const x = gutter + index * step;
    let y = bottom;
    for (const part of parts) {
      if (!(part.value > 0)) continue;
      const size = Math.max(0.75, (part.value / most) * (bottom - top));
      y -= size;
      const bar = shape("rect", { x: x + gap / 2, y, width: Math.max(1, step - gap), height: size, class: part.fill });
      bar.append(shape("title", {}, part.title));
      made.push(bar);
    }
    const text = label(index);
    if (text && x >= free) {
      made.push(shape("text", { x: x + step / 2, y: height - 4, "text-anchor": "middle" }, text));
      free = x + text.length * 6.5 + 14;
    }
  });
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("role", "img");
  svg.replaceChildren(...made);
}

/** Days are those of UTC. */
function zone(past) {
  return past.step >= 86400 ? { timeZone: "UTC" } : {};
}

function stepName(past, step) {
  const at = new Date((past.from + step * past.step) * 1000);
  const day = at.toLocaleDateString([], { month: "short", day: "numeric", ...zone(past) });
  return past.step < 86400 ? day + ", " + at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false }) : day;
}

function stepLabel(past, index) {
  const at = new Date((past.from + index * past.step) * 1000);
  if (past.step >= 86400) return index % 5 === 4 ? at.toLocaleDateString([], { month: "short", day: "numeric", ...zone(past) }) : null;
  if (at.getHours() % 6) return null;
  return at.getHours() === 0 ? at.toLocaleDateString([], { month: "short", day: "numeric" })
    : at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
}

/** The caption: a name and what is to be said of it. */
function caption(id, name, text) {
  $(id).replaceChildren(element("b", {}, name), text ? " · " + text : "");
}

function drawSums(past) {
  const series = past[state.by];
  const isCost = state.what === "cost";
  // Amounts of several currencies cannot be stacked: the picture is of the first, the legend has all.
  const currency = [...costsOf(series.flatMap((one) => one.points)).keys()][0];
  const valueOf = (point) => isCost
    ? Number((point.costs.find((cost) => cost.currency === currency) || { amount: 0 }).amount) : tokensOf(point);
  const text = (value) => isCost ? money(value, currency || "USD") : short(value);
  const columns = Array.from({ length: past.steps }, () => []);
  const legend = [];
  series.forEach((one, index) => {
    const fill = one.name === "other" ? "fx" : "f" + (index % 11);
    for (const point of one.points) {
      if (columns[point.step]) columns[point.step].push({ value: valueOf(point), fill, title: `${one.name}\n${stepName(past, point.step)}\n${text(valueOf(point))}` });
    }
    const costs = [...costsOf(one.points)].map(([unit, amount]) => money(amount, unit));
    const unpriced = one.points.reduce((total, point) => total + point.unpriced, 0);
    if (unpriced) costs.push(`${number(unpriced)} unpriced`);
    const sum = isCost ? costs.join(" + ") : short(one.points.reduce((total, point) => total + tokensOf(point), 0));
    const dot = shape("svg", { class: "dot", viewBox: "0 0 10 10" });
    dot.append(shape("rect", { width: 10, height: 10, rx: 2, class: fill }));
    legend.push(element("li", {}, dot, element("span", { class: "name", title: one.name }, one.name), element("span", { class: "sum" }, sum || "–")));
  });
  const most = Math.max(...columns.map((parts) => parts.reduce((total, part) => total + part.value, 0)));
  const ticks = axis(most);
  bars($("p-sums"), columns, ticks, (tick) => isCost ? short(tick) : short(tick), (index) => stepLabel(past, index));
  $("legend").replaceChildren(...legend);
  const per = past.step < 86400 ? "by hour" : "by day";
  caption("c-sums", isCost ? "Cost" : "Tokens", `${per} and ${state.by === "models" ? "model" : "actor"}${isCost && currency ? ", " + currency : ""}`);
}

function drawTimes(past) {
  const columns = Array.from({ length: past.steps }, () => []);
  let requests = 0, failed = 0;
  for (const point of past.times) {
    requests += point.requests; failed += point.failed;
    const good = point.requests - point.failed - point.cancelled;
    const title = `${stepName(past, point.step)}\n${number(good)} completed, ${number(point.failed)} failed, ${number(point.cancelled)} cancelled`;
    if (columns[point.step]) columns[point.step].push({ value: good, fill: "f0", title }, { value: point.cancelled, fill: "fx", title }, { value: point.failed, fill: "fbad", title });
  }
  const ticks = axis(Math.max(...columns.map((parts) => parts.reduce((total, part) => total + part.value, 0)))).filter(Number.isInteger);
  bars($("p-requests"), columns, ticks, short, (index) => stepLabel(past, index));
  caption("c-requests", "Requests", requests ? `${number(requests)}, ${number(failed)} failed` : "");

  const read = new Array(past.steps).fill(0), input = new Array(past.steps).fill(0);
  for (const point of past.models.flatMap((series) => series.points)) {
    read[point.step] += point.cache_read_input_tokens;
    input[point.step] += tokensOf(point) - point.output;
  }
  const share = read.map((tokens, step) => input[step] ? (100 * tokens) / input[step] : 0);
  const sum = (list) => list.reduce((total, value) => total + value, 0);
  bars($("p-cache"), share.map((value, step) => [{ value, fill: "f2", title: `${stepName(past, step)}\n${value.toFixed(1)} % of ${short(input[step])} input tokens` }]),
    [0, 50, 100], (tick) => tick + " %", (index) => stepLabel(past, index));
  caption("c-cache", "Cache hits", sum(input) ? `${((100 * sum(read)) / sum(input)).toFixed(1)} % of input tokens` : "share of input tokens");
}

function drawDistribution(past, counts, svg, captionId, name) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const edge = (index) => index < past.bounds.length ? "≤ " + time(past.bounds[index]) : "> " + time(past.bounds[past.bounds.length - 1]);
  const quantile = (share) => {
    let seen = 0;
    for (let index = 0; index < counts.length; index++) {
      seen += counts[index];
      if (seen >= share * total) return edge(index);
    }
    return "–";
  };
  const columns = counts.map((count, index) => [{ value: count, fill: "f4", title: `${edge(index)}\n${number(count)} requests` }]);
  const ticks = axis(Math.max(...counts)).filter(Number.isInteger);
  bars(svg, columns, ticks, short, (index) => index < past.bounds.length ? time(past.bounds[index]).replace(" min 0 s", " min") : "more");
  caption(captionId, name, total ? `half ${quantile(0.5)}, 95 % ${quantile(0.95)}` : "");
}

function drawPast() {
  const past = state.past[state.range];
  if (!past) return;
  drawSums(past);
  drawTimes(past);
  drawDistribution(past, past.duration, $("p-duration"), "c-duration", "Time of a request");
  drawDistribution(past, past.first_token, $("p-first"), "c-first", "Time to first token");
  $("source").textContent = past.source === "database"
    ? "From the database of the records."
    : "From memory, which goes back 48 hours and begins anew with the gateway. With --record sqlite:FILE or postgres://… the past comes from the database.";
}

$("more").addEventListener("click", () => { $("ended").classList.add("all"); $("more").hidden = true; });

for (const name of ["range", "what", "by"]) {
  $(name).addEventListener("click", (event) => {
    const chosen = event.target.closest("button");
    if (!chosen) return;
    state[name] = chosen.value;
    for (const button of $(name).children) button.setAttribute("aria-pressed", String(button === chosen));
    drawPast();
    refreshPast();
  });
}

// --- the feed

function take(message) {
  if (message.boot !== state.boot) {
    // Another process: what ran there runs no more.
    state.boot = message.boot;
    state.past = {}; state.pastAt = {}; state.pastEnded = {};
    for (const list of [state.running, state.ended]) { for (const made of list.values()) made.remove(); list.clear(); }
  }
  state.skew = Date.now() - message.now;
  state.hasPrompts = message.has_prompts;
  state.totals = message.totals;
  $("logout").hidden = !message.has_logout;
  if (message.running) takeRunning(message.running);
  takeEnded(message.ended);
  if (message.pools) { state.pools = message.pools; drawKeys(); }
  if (message.servers) state.servers = message.servers;
  if (message.tools) state.tools = message.tools;
  if (message.servers || message.tools) drawServers();
  $("no-requests").hidden = state.running.size + state.ended.size > 0;
  $("requests").hidden = !$("no-requests").hidden;
  $("more").hidden = $("ended").classList.contains("all") || state.ended.size <= SHOWN;
  drawTiles();
  refreshPast();
}

function linked(isLive) {
  $("link").textContent = isLive ? "live" : "connection lost, trying again";
  $("link").classList.toggle("live", isLive);
}

function connect() {
  const source = new EventSource("api/events");
  source.onopen = () => linked(true);
  source.onmessage = (event) => take(JSON.parse(event.data));
  source.onerror = async () => {
    linked(false);
    // The browser comes back by itself unless it was refused, for example because the session is over.
    if (source.readyState !== EventSource.CLOSED) return;
    source.close();
    const answer = await fetch("api/history/hours").catch(() => null);
    if (answer && answer.status === 401) { location.reload(); return; }
    setTimeout(connect, 2000);
  };
}

setInterval(() => {
  if (document.hidden) return;
  for (const span of document.querySelectorAll("[data-until]")) span.textContent = time(Math.ceil(left(Number(span.dataset.until)) / 1000) * 1000);
  for (const span of document.querySelectorAll("[data-since]")) span.textContent = time(serverNow() - Number(span.dataset.since));
}, 1000);
setInterval(refreshPast, 5000);
document.addEventListener("visibilitychange", refreshPast);
let resizing = 0;
addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(drawPast, 150); });

drawTiles();
drawPast();
connect();
