// What HTML cannot do: copying, the reader's time zone and theme, dialogs, tooltips and keys of charts.
const $ = (selector, from = document) => from.querySelector(selector);

document.documentElement.classList.add("has-script");

function remember(name, value) {
  const path = location.pathname.replace(/(\/ui)(\/.*)?$/, "$1");
  document.cookie = `${name}=${value}; SameSite=Lax; Max-Age=31536000; Path=${path}`;
}

// --- times: UTC as sent, or the reader's own

const forms = {
  time: { timeStyle: "medium" },
  minute: { day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit" },
  day: { day: "2-digit", month: "short" },
  full: { dateStyle: "medium", timeStyle: "long" },
};

const isLocal = () => localStorage.getItem("ui_zone") === "local";

export function localise(root) {
  for (const time of root.querySelectorAll("time[data-as]")) {
    const at = new Date(time.dateTime);
    time.title = at.toISOString().replace("T", " ").replace("Z", " UTC");
    if (isLocal()) time.textContent = new Intl.DateTimeFormat("en-GB", forms[time.dataset.as]).format(at);
  }
}

// --- copying: navigator.clipboard is there only where the page is https or localhost

export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const box = Object.assign(document.createElement("textarea"), { value: text });
  ($("dialog[open]") || document.body).append(box);
  box.select();
  const done = document.execCommand("copy");
  box.remove();
  if (!done) throw new Error("not copied");
}

async function copyFrom(button) {
  const source = $(button.dataset.copy);
  button.dataset.label ??= button.textContent;
  try {
    await copy(source.value ?? source.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source);
    button.textContent = "Press Ctrl+C";
  }
  setTimeout(() => { button.textContent = button.dataset.label; }, 1600);
}

// --- buttons

const nextTheme = { "": "dark", dark: "light", light: "" };

document.addEventListener("click", (event) => {
  const found = (selector) => event.target.closest(selector);
  const copied = found("[data-copy]");
  if (copied) copyFrom(copied);
  const opener = found("[data-open]");
  if (opener) $(opener.dataset.open).showModal();
  if (found("[data-close]")) found("dialog").close();
  const theme = found("[data-theme-next]");
  if (theme) {
    const next = nextTheme[document.documentElement.dataset.theme || ""];
    document.documentElement.dataset.theme = next;
    remember("ui_theme", next);
    theme.textContent = next || "auto";
  }
  if (found("[data-zone]")) {
    localStorage.setItem("ui_zone", isLocal() ? "utc" : "local");
    location.reload();
  }
});

// A form whose fields are filters is sent when one changes.
document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-auto]");
  if (!form) return;
  for (const field of form.elements) if (!field.value) field.disabled = true;   // keeps the address short
  form.requestSubmit();
});

// --- charts

const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
document.body.append(tip);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function showTip(column) {
  const { label, total, rows } = JSON.parse(column.dataset.tip);
  const head = element("div");
  head.append(element("b", "", label), element("span", "", total));
  tip.replaceChildren(head, ...rows.map(([slot, name, value]) => {
    const line = element("div");
    line.append(element("span", `sw k${slot}`), element("span", "", name), element("span", "", value));
    return line;
  }));
  tip.hidden = false;
  const at = $(".hit", column).getBoundingClientRect();
  const left = at.right + 8 + tip.offsetWidth < innerWidth ? at.right + 8 : at.left - tip.offsetWidth - 8;
  tip.style.transform = `translate(${Math.max(8, left)}px, ${Math.max(8, at.top + 8)}px)`;
}

for (const on of ["mouseover", "focusin"]) {
  document.addEventListener(on, (event) => {
    const column = event.target.closest?.(".col");
    if (column) showTip(column);
  });
}
for (const off of ["mouseout", "focusout"]) {
  document.addEventListener(off, (event) => {
    if (event.target.closest?.(".col")) tip.hidden = true;
  });
}

// A chart is one stop for Tab; arrows move inside it.
document.addEventListener("keydown", (event) => {
  const column = event.target.closest?.(".col");
  const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
  if (column && step && column[step]?.matches(".col")) {
    column.setAttribute("tabindex", "-1");
    column[step].setAttribute("tabindex", "0");
    column[step].focus();
    event.preventDefault();
  }
  if (event.key === "Escape") tip.hidden = true;
  if (event.key === "/" && !/INPUT|TEXTAREA|SELECT/.test(event.target.tagName)) {
    const field = $("[data-search]");
    if (field) { field.focus(); event.preventDefault(); }
  }
});

// Pages that nobody looks at are not kept up to date.
document.addEventListener("htmx:before:request", (event) => {
  if (document.hidden && event.target.matches?.("[hx-trigger^=every]")) event.preventDefault();
});

// --- start, and after htmx has put something in

function prepare(root) {
  localise(root);
  for (const place of root.querySelectorAll("[data-base]")) {
    // The server does not know its scheme and prefix; the address bar does.
    const base = location.origin + location.pathname.replace(/\/ui(\/.*)?$/, "");
    place.textContent = place.textContent.replaceAll(place.dataset.base, base);
    place.dataset.base = base;
  }
}

document.addEventListener("htmx:after:swap", () => { tip.hidden = true; prepare(document); });
$("[data-zone]")?.replaceChildren(isLocal() ? "local" : "UTC");
const asked = $("dialog[data-show]");   // open without a script, and modal with one
if (asked) {
  asked.close();
  asked.showModal();
}
const entry = $("nav.main [aria-current]");
if (entry) {   // on a phone, the entries scroll
  const list = entry.closest("ul");
  list.scrollLeft += entry.getBoundingClientRect().left - list.getBoundingClientRect().left - 60;
}
prepare(document);
