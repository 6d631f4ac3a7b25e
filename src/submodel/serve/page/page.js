"use strict";
// The page of the server: chat, two models side by side, the models.
// What models write goes in by markdown.js or as text.

const $ = (id) => document.getElementById(id);
let turns = []; // { role, content, meta } of the conversation; meta: what stands under an answer
let queue = []; // messages that wait for the running answer, with their elements
let apiKey = "";
let running = null; // the answer that runs: its abort controller

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text || "";
}

// A browser may keep nothing, and says so by an exception: null and false then.

function stored(where, name) {
  try { return window[where].getItem(name); } catch { return null; }
}

function store(where, name, value) {
  try {
    window[where].setItem(name, value);
    return true;
  } catch {
    return false;
  }
}

async function call(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const key = apiKey || stored("sessionStorage", "key");
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = body ? { method: "POST", body: JSON.stringify(body), headers, signal } : { headers, signal };
  const response = await fetch(path, options);
  if (response.ok) return response;
  if (response.status === 401) $("key").hidden = false;
  const said = parsed(await response.text());
  throw new Error(said?.error?.message || `the server answered ${response.status}`);
}

function parsed(text) {
  try { return JSON.parse(text); } catch { return null; }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the answer broke off");
    buffer += value;
    const parts = buffer.split("\n\n");
    buffer = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      const found = parsed(data);
      if (found?.error) throw new Error(found.error.message);
      if (!Array.isArray(found?.choices)) throw new Error("the server sent what is no answer");
      yield found;
    }
  }
}

function write(target, text, plain) {
  target.replaceChildren(plain ? element("pre", { textContent: text }) : markdown.render(text));
}

// Draws at most once a frame: an answer may come faster than it can be laid out.
function drawer(target, plain) {
  let latest = "", frame = 0;
  const draw = () => {
    frame = 0;
    write(target, latest, plain);
    keepLow();
  };
  return {
    show(text) {
      latest = text;
      frame = frame || requestAnimationFrame(draw);
    },
    finish() {
      if (!frame) return;
      cancelAnimationFrame(frame);
      draw();
    },
  };
}

const REASONS = {
  model: "as asked", header: "by the header", file: "by the file's name", fence: "by the code's fence",
  fim: "by the code around", detector: "by the kind of code", activations: "by the base's activations",
  mention: "by the language it names", default: "undecided",
};

// The line under an answer: who, why, how fast; [text, class] each.
function showMeta(article, meta) {
  article.querySelector(".meta").replaceChildren(...meta.map(([text, kind]) =>
    element(kind === "who" ? "b" : "span", { textContent: text, className: kind === "failed" ? "failed" : "" })));
}

// Streams one answer into an article; tells `partly` what has come so far. Its text, its meta, and how it ended.
async function answer(article, body, path, signal, partly = () => {}) {
  const text = article.querySelector(".text");
  const plain = path === "v1/completions";
  const drawn = drawer(text, plain);
  const meta = [];
  article.classList.add("waits");
  article.source = "";
  text.replaceChildren();
  showMeta(article, meta);
  const start = performance.now();
  let first = 0, last = 0, tokens = 0, finish = null, end = "done";
  const showWho = (response) => {
    const header = (name) => response.headers.get(`x-submodel-${name}`);
    const reason = header("signal");
    meta.push([header("name") || body.model, "who"], [REASONS[reason] || reason || "", ""]);
    if (body.model === "auto" && Number(header("confidence"))) {
      meta.push([`confidence ${Math.round(100 * Number(header("confidence")))}%`, ""]);
    }
    showMeta(article, meta);
  };
  try {
    const response = await call(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
    showWho(response);
    for await (const event of events(response)) {
      if (event.usage) tokens = event.usage.completion_tokens;
      const choice = event.choices[0];
      if (!choice) continue;
      const piece = choice.delta ? choice.delta.content : choice.text;
      if (piece) {
        last = performance.now();
        first = first || last;
        article.source += piece;
        drawn.show(article.source);
        partly(article.source, meta);
      }
      finish = choice.finish_reason || finish;
    }
    if (first) meta.push([`first text after ${((first - start) / 1000).toFixed(2)} s`, ""]);
    if (tokens > 1 && last > first) meta.push([`${((tokens - 1) / (last - first) * 1000).toFixed(1)} tokens/s`, ""]);
    meta.push([`${tokens} tokens${finish === "length" ? ", cut there" : ""}`, ""]);
  } catch (error) {
    end = error.name === "AbortError" ? "stopped" : "failed";
    meta.push(end === "stopped" ? ["stopped", ""] : [error.message, "failed"]);
  } finally {
    drawn.finish();
    article.classList.remove("waits");
    showMeta(article, meta);
    keepLow();
  }
  return { text: article.source, meta, end };
}

function keepLow() {
  const log = $("log");
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 160) log.scrollTop = log.scrollHeight;
}

function blank() {
  return element("article", { className: "answer" },
    element("div", { className: "text" }), element("p", { className: "meta" }));
}

// The conversation, in this browser alone until it is cleared

const KEPT = "submodel.conversation";

function keep(unfinished = []) {
  const all = JSON.stringify({ version: 1, turns: [...turns, ...unfinished] });
  if (!store("localStorage", KEPT, all)) notice("This browser keeps no conversation: it is gone when the page is left.");
}

// What was kept, of the form that `keep` writes; nothing of any other.
function kept() {
  const conversation = parsed(stored("localStorage", KEPT) || "");
  const lines = (meta) => Array.isArray(meta) && meta.every((line) => Array.isArray(line) && line.length === 2);
  const good = (turn) => ["user", "assistant"].includes(turn?.role) && typeof turn.content === "string"
    && (turn.meta === undefined || lines(turn.meta));
  const all = conversation?.version === 1 && Array.isArray(conversation.turns) ? conversation.turns : [];
  return all.every(good) ? all : [];
}

function restore() {
  turns = kept();
  if (turns.length) $("log").replaceChildren();
  for (const turn of turns) {
    if (turn.role === "user") {
      $("log").append(question(turn.content));
    } else {
      const article = blank();
      article.source = turn.content;
      write(article.querySelector(".text"), turn.content);
      showMeta(article, turn.meta || []);
      $("log").append(article);
    }
  }
  if (turns.at(-1)?.role === "user") turns.pop(); // its answer never came: shown, but not sent again
  $("log").scrollTop = $("log").scrollHeight;
}

function question(content) {
  return element("div", { className: "said", textContent: content });
}

// Messages: one runs, those that are sent meanwhile wait their turn

function send(content) {
  $("log").querySelector(".hint")?.remove();
  const shown = question(content);
  $("log").append(shown);
  $("log").scrollTop = $("log").scrollHeight;
  if (!running) return run(content, shown);
  shown.classList.add("queued");
  const entry = { content, shown };
  const back = element("button", { type: "button", className: "quiet", textContent: "Do not send" });
  back.addEventListener("click", () => {
    queue = queue.filter((other) => other !== entry);
    shown.remove();
  });
  shown.append(back);
  queue.push(entry);
}

async function run(content, shown) {
  const article = blank();
  shown.after(article);
  $("log").scrollTop = $("log").scrollHeight;
  const controller = running = new AbortController();
  $("stop").hidden = false;
  const turn = { role: "user", content };
  turns.push(turn);
  keep();
  const body = {
    model: $("model").value, messages: turns.map(({ role, content }) => ({ role, content })),
    max_tokens: Number($("tokens").value) || 256, temperature: Number($("temperature").value) || 0,
  };
  let last = 0;
  const { text, meta, end } = await answer(article, body, "v1/chat/completions", controller.signal, (text, meta) => {
    if (running !== controller || performance.now() < last + 500) return;
    last = performance.now();
    keep([{ role: "assistant", content: text, meta }]);
  });
  if (running !== controller) return; // cleared meanwhile
  running = null;
  $("stop").hidden = true;
  if (end === "failed" && !text) turns.pop(); else turns.push({ role: "assistant", content: text, meta });
  keep();
  models();
  if (end === "failed") return unqueue();
  const next = queue.shift();
  if (!next) return;
  next.shown.classList.remove("queued");
  next.shown.textContent = next.content;
  run(next.content, next.shown);
}

// After a failure nothing more is sent by itself: what waited goes back to where it was written.
function unqueue() {
  const waiting = queue.map(({ content }) => content);
  for (const { shown } of queue) shown.remove();
  queue = [];
  $("question").value = [...waiting, $("question").value].filter(Boolean).join("\n\n");
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const content = $("question").value.trim();
  if (!content) return;
  $("question").value = "";
  send(content);
});

$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});

$("stop").addEventListener("click", () => running?.abort());

$("clear").addEventListener("click", () => {
  const controller = running;
  running = null;
  controller?.abort();
  $("stop").hidden = true;
  turns = [];
  queue = [];
  try { localStorage.removeItem(KEPT); } catch { /* a browser without storage has kept nothing */ }
  $("log").replaceChildren();
});

$("compare").addEventListener("submit", async (event) => {
  event.preventDefault();
  const prompt = $("prompt").value;
  if (!prompt.trim()) return;
  $("run").disabled = true;
  if (!$("left").value) await models(); // asked before the list of models has come
  const plain = $("plain").checked;
  const path = plain ? "v1/completions" : "v1/chat/completions";
  const asked = plain ? { prompt } : { messages: [{ role: "user", content: prompt }] };
  await Promise.all(["left", "right"].map((side) => {
    const article = $(`answer-${side}`);
    const model = $(side).value;
    article.querySelector("h2").textContent = model;
    return answer(article, { ...asked, model, max_tokens: Number($("tokens").value) || 256, temperature: 0 }, path);
  }));
  $("run").disabled = false;
  models();
});

const megabytes = (bytes) => bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(1)} MB`;

// What a sub-model lost against its base on text of its domain that it had not read.
function lost(check) {
  if (!check) return [];
  const percent = (ratio) => `${ratio >= 1 ? "+" : "−"}${Math.abs(100 * (ratio - 1)).toFixed(1)}%`;
  const ratio = check.ratio ?? check.perplexity / check.base_perplexity;
  const interval = check.low === undefined ? "" : ` (${percent(check.low)} to ${percent(check.high)})`;
  return [
    ["held-out text", `${check.tokens.toLocaleString("en")} tokens`],
    ["perplexity", `${check.perplexity.toFixed(2)}, base ${check.base_perplexity.toFixed(2)}`],
    ["against the base", `${percent(ratio)}${interval}`],
  ];
}

function card(model) {
  const about = model.submodel;
  const state = about.upstream ? "elsewhere" : about.resident ? "in memory" : "on disk";
  const rows = [
    ["domain", about.domain], ["weights of", about.base], ["family", about.family],
    ["parameters", about.parameters ? `${Math.round(about.parameters / 1e6)} M` : undefined],
    ["sparsity", about.sparsity === undefined ? undefined : `${Math.round(1000 * about.sparsity) / 10}% ${about.pattern}`],
    ["method", about.method],
    ["calibrated on", about.calibration_tokens ? `${about.calibration_tokens.toLocaleString()} tokens` : undefined],
    ["can say", about.tokens_kept ? `${about.tokens_kept.toLocaleString()} of ${about.tokens.toLocaleString()} tokens` : undefined],
    ...lost(about.held_out),
    ["mask on disk", about.mask_bytes ? megabytes(about.mask_bytes) : undefined],
    ["in memory", about.size_bytes ? `${megabytes(about.size_bytes)} ${about.format}` : undefined],
  ].filter(([, value]) => value);
  return element("article", { className: "model" },
    element("h2", {}, model.id, element("span", { className: `badge${about.resident ? " on" : ""}`, textContent: state })),
    element("dl", {}, ...rows.flatMap(([name, value]) =>
      [element("dt", { textContent: name }), element("dd", { textContent: value })])));
}

function fill(select, names, chosen) {
  const before = select.value || chosen;
  select.replaceChildren(...names.map((name) => element("option", { value: name, textContent: name })));
  select.value = names.includes(before) ? before : names[0];
}

async function models() {
  try {
    const { data } = await (await call("v1/models")).json();
    const own = data.filter((model) => model.submodel);
    const names = own.map((model) => model.id);
    fill($("model"), ["auto", ...names], "auto");
    fill($("left"), names, names[1] || names[0]);
    fill($("right"), names, names[0]);
    $("list").replaceChildren(...own.map(card));
    notice("");
  } catch (error) {
    notice(error.message);
  }
}

$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey = $("key-field").value;
  store("sessionStorage", "key", apiKey);
  $("key").hidden = true;
  models();
});

const tabs = [...document.querySelectorAll("[role=tab]")];
function open(tab) {
  for (const other of tabs) {
    const here = other === tab;
    other.setAttribute("aria-selected", String(here));
    other.tabIndex = here ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !here;
  }
}
for (const tab of tabs) {
  tab.addEventListener("click", () => open(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    open(next);
    next.focus();
  });
}
restore();
models();
