// The list of requests: filters without a new page, and rows that appear by themselves.
const MAX_ROWS = 200;
const $ = (selector, from = document) => from.querySelector(selector);
const form = $("#filters");
const note = $("#live");
const prepare = () => document.dispatchEvent(new CustomEvent("htmx:after:swap"));   // ui.js listens

// --- filters

let search = location.search;   // of what is shown
let turn = 0;                   // an answer that a later change has overtaken is not shown

function address() {
  const given = [...new FormData(form)].filter(([, value]) => value);
  const query = new URLSearchParams(given).toString();
  return query ? `requests?${query}` : "requests";
}

async function show(url, push) {
  turn += 1;
  const mine = turn;
  $("#results").setAttribute("aria-busy", "true");
  const answer = await fetch(url, { headers: { "hx-request": "true" } });
  const text = await answer.text();
  if (mine !== turn) return;
  if (!answer.ok || answer.redirected) { location.assign(url); return; }
  $("#results").replaceWith($("#results", new DOMParser().parseFromString(text, "text/html")));
  prepare();
  if (push) history.pushState({}, "", url);
  search = location.search;
  const csv = $("a[download]");
  csv.href = csv.href.replace(/requests\.csv.*/, `requests.csv${new URL(url, location.href).search}`);
  connect();
}

form.addEventListener("change", (event) => { if (event.target.name !== "q") show(address(), true); });
form.addEventListener("submit", (event) => {
  event.preventDefault();
  location.assign(address());   // an id leads to the page of its request
});
// Also sent for the link that skips to the content, which changes no filter.
window.addEventListener("popstate", () => { if (location.search !== search) location.reload(); });

// --- rows as they come

let stream;
let waiting = [];

function isRead() {   // the rows do not move under the pointer, or while text is selected
  return $("#rows")?.matches(":hover") || !(getSelection()?.isCollapsed ?? true);
}

function put(html) {
  const made = document.createElement("template");
  made.innerHTML = `<table><tbody>${html}</tbody></table>`;   // escaped by the server, and scripts are off by CSP
  const rows = $("#rows");
  if (!rows) return;
  for (const row of [...made.content.querySelectorAll("tr")].reverse()) {
    const old = document.getElementById(row.id);
    if (old?.textContent === row.textContent) continue;
    row.classList.add("fresh");
    if (old) old.replaceWith(row); else rows.prepend(row);
  }
  for (const row of [...rows.children].slice(MAX_ROWS)) row.remove();
  rows.closest(".scroll").hidden = false;
  $("#no-rows")?.remove();
  prepare();
}

function flush() {
  if (!waiting.length || isRead()) return;
  for (const html of waiting) put(html);
  waiting = [];
}

function say(text, isOk) {
  if (!note) return;
  note.hidden = false;
  $(".dot", note).className = isOk ? "dot ok" : "dot warn";
  const words = $("span:last-child", note);
  if (words.textContent !== text) words.textContent = text;
}

function disconnect() {
  stream?.close();
  stream = undefined;
}

function connect() {
  disconnect();
  const url = $("#results").dataset.live;
  if (!url) { if (note) note.hidden = true; return; }
  if (document.hidden) return;   // browsers open few connections to one host
  stream = new EventSource(url);
  stream.addEventListener("open", () => say("new ones appear by themselves", true));
  stream.addEventListener("rows", (event) => {
    $("#results").dataset.live = url.replace(/since=[^&]*/, `since=${event.lastEventId}`);
    waiting.push(event.data);
    if (waiting.length > 20) waiting.shift();
    flush();
  });
  stream.addEventListener("gap", () => show(location.href, false));
  stream.addEventListener("more", (event) => say(`${event.data} more are not shown`, false));
  stream.addEventListener("error", () => {
    const at = new Date().toLocaleTimeString();
    say(`last update ${at}, reconnecting`, false);
    if (stream?.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
  });
}

setInterval(flush, 500);
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));
connect();
