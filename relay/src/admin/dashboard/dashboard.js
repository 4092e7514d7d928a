// Keeps the page up to date: fetches what it was made of, as JSON, and puts it in place as text.
"use strict";

const EVERY = 2000;
const csrf = document.querySelector("meta[name=csrf]").content;
const $ = (id) => document.getElementById(id);

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function element(name, content) {
  const node = document.createElement(name);
  if (content !== undefined) node.textContent = content;
  return node;
}

function cell(content) {
  const td = element("td");
  const kind = [content.number ? "number" : "", content.tone === "plain" ? "" : content.tone];
  td.className = kind.join(" ").trim();
  if (content.title) td.title = content.title;
  const inner = element(content.href ? "a" : "span", content.text);
  if (content.href) {
    inner.href = content.href;
    inner.rel = "noreferrer noopener";
    inner.target = "_blank";
  }
  td.append(inner);
  return td;
}

function action(content) {
  const form = element("form");
  form.method = "post";
  form.action = content.path;
  form.dataset.confirm = content.confirm;
  const token = element("input");
  token.type = "hidden";
  token.name = "csrf";
  token.value = csrf;
  const button = element("button", content.label);
  button.type = "submit";
  form.append(token, button);
  return form;
}

function row(content) {
  const tr = element("tr");
  tr.append(...content.cells.map(cell));
  if (content.actions.length > 0) {
    const td = element("td");
    td.className = "actions";
    td.append(...content.actions.map(action));
    tr.append(td);
  }
  return tr;
}

function head(table) {
  const tr = element("tr");
  const first = table.rows[0];
  table.head.forEach((title, n) => {
    const th = element("th", title);
    th.scope = "col";
    if (first && first.cells[n].number) th.className = "number";
    tr.append(th);
  });
  if (table.rows.some((row) => row.actions.length > 0)) {
    const th = element("th");
    th.scope = "col";
    const hidden = element("span", "Actions");
    hidden.className = "hidden";
    th.append(hidden);
    tr.append(th);
  }
  return tr;
}

// What was shown last: a table that is the same is left alone, so that nothing jumps.
const shown = new Map();

function table(content) {
  const section = $("table-" + content.id);
  const text = JSON.stringify(content);
  if (!section) {
    // The database was away when the page was made.
    location.reload();
    return;
  }
  if (shown.get(content.id) === text) return;
  // Whoever is about to press a button there does not want it to go away.
  if (section.contains(document.activeElement)) return;
  shown.set(content.id, text);
  say(section.querySelector(".count"), content.note);
  section.querySelector(".empty").hidden = content.rows.length > 0;
  section.querySelector(".scroll").hidden = content.rows.length === 0;
  section.querySelector("thead").replaceChildren(head(content));
  section.querySelector("tbody").replaceChildren(...content.rows.map(row));
}

function show(view) {
  say($("uptime"), view.uptime);
  say($("phase"), view.phase);
  $("phase").dataset.phase = view.phase;
  for (const tile of view.tiles) {
    const node = $("tile-" + tile.id);
    node.className = "tile " + tile.tone;
    say(node.querySelector(".value"), tile.value);
    say(node.querySelector(".note"), tile.note);
  }
  say($("chart-top"), view.chart.top);
  say($("chart-span"), view.chart.span);
  for (const line of view.chart.lines) $("line-" + line.id).setAttribute("d", line.path);
  view.tables.forEach(table);
}

async function refresh() {
  if (document.hidden) return;
  try {
    const search = new URLSearchParams({ q: new URLSearchParams(location.search).get("q") ?? "" });
    const answer = await fetch("dashboard.json?" + search, { cache: "no-store" });
    if (answer.status === 401) {
      location.reload();
      return;
    }
    if (!answer.ok) throw new Error(answer.statusText);
    show(await answer.json());
    $("stale").hidden = true;
  } catch {
    $("stale").hidden = false;
  }
}

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !window.confirm(question)) event.preventDefault();
});
document.addEventListener("visibilitychange", refresh);

// What was done is said once, not again at the next visit.
if (location.search.includes("done=")) history.replaceState(null, "", "./");

async function keep() {
  await refresh();
  setTimeout(keep, EVERY);
}
setTimeout(keep, EVERY);
