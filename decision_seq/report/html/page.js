// The page shows everything without this script, which adds sorting, filters, values under the
// pointer and the choice of colours. Text from runs is only ever set as text.
"use strict";

const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// ---- colours ----
const root = document.documentElement;
const theme = document.getElementById("theme");
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
const showTheme = () => theme.setAttribute("aria-pressed", String(isDark()));
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
systemDark.addEventListener("change", showTheme);
showTheme();
theme.hidden = false;

// ---- sorting ----
function keyOf(row, column, numeric) {
  const cell = row.cells[column];
  if (!numeric) return cell.textContent.trim();
  return cell.dataset.v === undefined ? null : Number(cell.dataset.v);
}

function sort(head) {
  const table = head.closest("table");
  const body = table.tBodies[0];
  const column = head.cellIndex;
  const numeric = head.dataset.sort === "number";
  const former = head.getAttribute("aria-sort");
  const falling = former ? former === "ascending" : numeric; // numbers begin with the largest
  const sign = falling ? -1 : 1;
  const rows = [...body.rows].map((row) => [keyOf(row, column, numeric), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // what is absent comes last
    return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  });
  body.append(...rows.map(([, row]) => row));
  all("th[aria-sort]", table.tHead).forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
}

for (const head of all("th[data-sort]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.addEventListener("click", () => sort(head));
  head.append(button);
}

// ---- filters ----
const form = document.getElementById("filters");
const [text, dataset, method] = ["filter-text", "filter-d", "filter-m"].map((id) =>
  document.getElementById(id),
);
const rows = all("tbody tr").map((row) => [row, row.textContent.toLowerCase()]);
const others = all("[data-d], [data-m]").filter((element) => element.localName !== "tr");

function filter() {
  const words = text.value.toLowerCase().trim();
  const fits = ({ dataset: { d, m } }) =>
    (!dataset.value || d === undefined || d === dataset.value) &&
    (!method.value || m === undefined || m === method.value);
  for (const element of others) element.toggleAttribute("hidden", !fits(element));
  let shown = 0;
  for (const [row, content] of rows) {
    row.hidden = !(fits(row) && content.includes(words));
    if (!row.hidden) shown += 1;
  }
  const count = document.getElementById("filter-count");
  count.textContent = shown < rows.length ? `${shown} of ${rows.length} rows` : "";
}

form.addEventListener("input", filter);
form.addEventListener("change", filter); // an assistive program may send this alone
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(filter));
form.hidden = false;
filter(); // a browser may have kept what was chosen before a reload

// ---- values under the pointer ----
const tip = document.getElementById("tip");
const SVG = "http://www.w3.org/2000/svg";

function nearest(values, x) {
  return values.reduce((best, value) =>
    Math.abs(value[0] - x) < Math.abs(best[0] - x) ? value : best,
  );
}

function hover(chart) {
  const drawing = chart.querySelector("svg");
  const groups = all("g.series", drawing);
  let lines;
  let cursor;
  const leave = () => {
    tip.hidden = true;
    cursor?.remove();
    cursor = undefined;
  };
  drawing.addEventListener("pointerleave", leave);
  const show = (event) => {
    lines ??= JSON.parse(chart.querySelector(".hovers").textContent);
    const box = drawing.getBoundingClientRect();
    const x = ((event.clientX - box.left) * 440) / box.width;
    const found = lines
      .map((line, at) => [groups[at], line.v.length ? nearest(line.v, x) : null])
      .filter(([group, value]) => value && !group.hasAttribute("hidden"));
    if (!found.length) return leave();
    const place = nearest(found.map(([, value]) => value), x);
    const same = found.filter(([, value]) => Math.abs(value[0] - place[0]) < 2);
    tip.textContent = [
      place[2],
      ...same.map(([group, value]) => `${group.dataset.name}: ${value[3]}`),
    ].join("\n");
    cursor ??= drawing.appendChild(document.createElementNS(SVG, "line"));
    cursor.setAttribute("class", "cursor");
    for (const [name, value] of [["x1", place[0]], ["x2", place[0]], ["y1", 34], ["y2", 240]])
      cursor.setAttribute(name, value);
    tip.hidden = false;
    const right = event.clientX + 16 + tip.offsetWidth > innerWidth;
    tip.style.left = `${right ? Math.max(4, event.clientX - 16 - tip.offsetWidth) : event.clientX + 16}px`;
    tip.style.top = `${Math.max(4, event.clientY - tip.offsetHeight - 12)}px`;
  };
  drawing.addEventListener("pointermove", show);
  drawing.addEventListener("pointerdown", show); // a touch
}
all(".chart").forEach(hover);

// ---- links into closed parts, and printing ----
function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  const closed = target.closest("details");
  if (closed && !closed.open) {
    closed.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", openTarget);
openTarget();

let closed = [];
addEventListener("beforeprint", () => {
  closed = all("details:not([open])");
  closed.forEach((part) => (part.open = true));
});
addEventListener("afterprint", () => closed.forEach((part) => (part.open = false)));
