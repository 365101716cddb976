// One chat. What the model says becomes text nodes only, never HTML.
const $ = (selector) => document.querySelector(selector);
const form = $("#play");
const out = $("#answer");
const send = $("#send");
let going;

function element(tag, className, text) {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

function show(text) {   // fenced parts are code blocks
  const parts = text.split(/^```[^\n]*\n?/m);
  out.replaceChildren(...parts.map((part, at) => {
    if (at % 2) return element("pre", "", part.trimEnd());
    const start = at ? part.replace(/^\n+/, "") : part;
    return document.createTextNode(at < parts.length - 1 ? start.trimEnd() : start);
  }));
}

function bodyOf(fields) {
  const messages = [{ role: "user", content: fields.get("prompt") }];
  if (fields.get("system")) messages.unshift({ role: "system", content: fields.get("system") });
  const body = { messages, metadata: { source: "ui" } };
  if (fields.get("stream")) Object.assign(body, { stream: true, stream_options: { include_usage: true } });
  if (fields.get("model")) body.model = fields.get("model");
  if (fields.get("max_tokens")) body.max_tokens = Number(fields.get("max_tokens"));
  if (fields.get("temperature")) body.temperature = Number(fields.get("temperature"));
  if (fields.get("nocache")) body.cache = { "no-cache": true };
  return body;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

function textOf(message) {
  const calls = (message.tool_calls ?? []).map((call) => `${call.function?.name}(${call.function?.arguments})`);
  return [message.content ?? message.refusal ?? "", ...calls].filter(Boolean).join("\n");
}

async function read(answer) {
  if (!answer.ok) {
    if (answer.headers.get("content-type").startsWith("text/html")) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      throw new Error(page.querySelector("p")?.textContent ?? `status ${answer.status}`);
    }
    const { error } = await answer.json();
    throw new Error(`${answer.status} ${error.code}: ${error.message}`);
  }
  if (!answer.headers.get("content-type").startsWith("text/event-stream")) {
    show(textOf((await answer.json()).choices[0].message));
    return;
  }
  let text = "";
  for await (const chunk of events(answer)) {
    if (chunk.error) throw new Error(chunk.error.message);
    const piece = chunk.choices?.[0]?.delta?.content;
    if (piece) { text += piece; show(text); }
  }
}

function showHeaders(answer) {
  const named = [...answer.headers].filter(([name]) => /^(x-|retry-after)/.test(name) && name !== "x-content-type-options");
  $("#headers").hidden = false;
  $("#headers pre").textContent = named.map(([name, value]) => `${name}: ${value}`).join("\n");
}

async function showMetrics(id) {   // as the log has them, once the request is booked
  const metrics = $("#metrics");
  for (let tries = 0; tries < 20; tries += 1) {
    const answer = await fetch(`playground/${id}`, { headers: { "hx-request": "true" } });
    if (answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      metrics.replaceChildren(...page.body.childNodes);
      metrics.hidden = false;
      if (metrics.querySelector("[data-status]").dataset.status !== "held") return;
    }
    await new Promise((done) => { setTimeout(done, 150); });
  }
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (going) { going.abort(); return; }
  going = new AbortController();
  const fields = new FormData(form);
  const key = fields.get("key");
  out.replaceChildren();
  out.classList.add("caret");
  out.setAttribute("aria-busy", "true");
  $("#metrics").hidden = true;
  send.textContent = "Stop";
  let id;
  try {
    const answer = await fetch(key ? `playground/answer?key=${encodeURIComponent(key)}` : "playground/answer", {
      method: "POST",
      headers: { "content-type": "application/json", "hx-request": "true" },
      body: JSON.stringify(bodyOf(fields)),
      signal: going.signal,
    });
    if (answer.status === 401 && answer.headers.get("hx-refresh")) { location.reload(); return; }
    // A request that was refused is not in the log.
    if (answer.ok || answer.headers.get("x-proxy-attempts") > 0) id = answer.headers.get("x-request-id");
    showHeaders(answer);
    await read(answer);
  } catch (error) {
    if (error.name !== "AbortError") out.append(element("p", "problem", error.message));
  } finally {
    out.classList.remove("caret");
    out.setAttribute("aria-busy", "false");
    send.textContent = "Send";
    going = undefined;
    if (id) showMetrics(id);
  }
});

form?.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) form.requestSubmit();
});
