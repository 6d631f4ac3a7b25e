"use strict";
// The page of the server: chat, two models side by side, the models. Text from models goes in as text, never as HTML.

const $ = (id) => document.getElementById(id);
const turns = [];
let running = null;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text || "";
}

async function call(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("key");
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

// Fenced code is set apart; everything else stays as it was written.
function write(target, text, plain) {
  if (plain) return target.replaceChildren(element("pre", { textContent: text }));
  const parts = text.split(/^```[^\n]*\n?/m);
  target.replaceChildren(...parts.map((part, i) =>
    i % 2 ? element("pre", { textContent: part.replace(/\n$/, "") }) : document.createTextNode(part.trim())));
}

const REASONS = {
  model: "as asked", header: "by the header", file: "by the file's name", fence: "by the code's fence",
  fim: "by the code around", detector: "by the kind of code", activations: "by the base's activations",
  mention: "by the language it names", default: "undecided",
};

// Streams one answer into an article; returns its text.
async function answer(article, body, path, signal) {
  const text = article.querySelector(".text");
  const meta = article.querySelector(".meta");
  article.classList.add("waits");
  text.replaceChildren();
  meta.replaceChildren();
  const start = performance.now();
  let first = 0, last = 0, tokens = 0, said = "", finish = null;
  const show = (response) => {
    const at = (name) => response.headers.get(`x-submodel-${name}`);
    const signalName = at("signal");
    meta.replaceChildren(element("b", { textContent: at("name") || body.model }),
      element("span", { textContent: REASONS[signalName] || signalName || "" }));
    if (body.model === "auto" && Number(at("confidence"))) {
      meta.append(element("span", { textContent: `confidence ${Math.round(100 * Number(at("confidence")))}%` }));
    }
  };
  try {
    const response = await call(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
    show(response);
    for await (const event of events(response)) {
      if (event.usage) tokens = event.usage.completion_tokens;
      const choice = event.choices[0];
      if (!choice) continue;
      const piece = choice.delta ? choice.delta.content : choice.text;
      if (piece) {
        last = performance.now();
        first = first || last;
        said += piece;
        write(text, said, !choice.delta);
        keepLow();
      }
      finish = choice.finish_reason || finish;
    }
    if (first) meta.append(element("span", { textContent: `first text after ${((first - start) / 1000).toFixed(2)} s` }));
    if (tokens > 1 && last > first) {
      meta.append(element("span", { textContent: `${((tokens - 1) / (last - first) * 1000).toFixed(1)} tokens/s` }));
    }
    meta.append(element("span", { textContent: `${tokens} tokens${finish === "length" ? ", cut there" : ""}` }));
  } catch (error) {
    const stopped = error.name === "AbortError";
    meta.append(element("span", { className: stopped ? "" : "failed", textContent: stopped ? "stopped" : error.message }));
    if (!stopped && !said) return null;
  } finally {
    article.classList.remove("waits");
    keepLow();
  }
  return said;
}

function keepLow() {
  const log = $("log");
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 160) log.scrollTop = log.scrollHeight;
}

function blank() {
  return element("article", { className: "answer" },
    element("div", { className: "text" }), element("p", { className: "meta" }));
}

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || running) return;
  $("log").querySelector(".hint")?.remove();
  turns.push({ role: "user", content: question });
  $("question").value = "";
  const article = blank();
  $("log").append(element("div", { className: "said", textContent: question }), article);
  $("log").scrollTop = $("log").scrollHeight;
  running = new AbortController();
  $("send").disabled = true;
  $("stop").hidden = false;
  const body = {
    model: $("model").value, messages: turns, max_tokens: Number($("tokens").value) || 256,
    temperature: Number($("temperature").value) || 0,
  };
  const said = await answer(article, body, "v1/chat/completions", running.signal);
  if (said === null) turns.pop(); else turns.push({ role: "assistant", content: said });
  running = null;
  $("send").disabled = false;
  $("stop").hidden = true;
  models();
});

$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});

$("stop").addEventListener("click", () => running?.abort());

$("clear").addEventListener("click", () => {
  running?.abort();
  turns.length = 0;
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

function card(model) {
  const about = model.submodel;
  const state = about.upstream ? "elsewhere" : about.resident ? "in memory" : "on disk";
  const rows = [
    ["domain", about.domain], ["weights of", about.base], ["family", about.family],
    ["parameters", about.parameters ? `${Math.round(about.parameters / 1e6)} M` : undefined],
    ["sparsity", about.sparsity === undefined ? undefined : `${Math.round(1000 * about.sparsity) / 10}% ${about.pattern}`],
    ["method", about.method],
    ["calibrated on", about.calibration_tokens ? `${about.calibration_tokens.toLocaleString()} tokens` : undefined],
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
  sessionStorage.setItem("key", $("key-field").value);
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
models();
