// Sort, filter, select columns and show details. Without this script the page is a plain table.
// Text from records is inserted as text, never as HTML.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const [table, details, menu, filter, task, sort, direction, published] =
    ["table", "details", "menu", "filter", "task", "sort", "direction", "published"].map(byId);
  const { columns, shown: shownAtFirst } = data;
  const columnOf = new Map(columns.map((column, index) => [column.label, index]));
  const headRow = table.tHead.rows[0];
  const rows = [...table.tBodies[0].rows].map((element, index) => {
    const row = data.rows[index];
    const short = row.arch.replace(/resnet(?=\d)/i, "r"); // people write R50
    const text = [row.name, ...row.names, row.arch, short, row.format].join("\n").toLowerCase();
    return { element, ...row, index, text };
  });
  const state = { sort: "", ascending: true, shown: shownAtFirst }; // sort: "" is the default
  let visible = shownAtFirst; // of the shown columns, those with a number in a visible row

  function make(tag, text = "", attributes = {}) {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  // ---- cells, as in page.html.j2

  function makeCell(row, index) {
    const cell = row.cells[index];
    const element = make("td", cell?.mean, { "data-c": index });
    if (!cell) return element;
    if (cell.best) element.className = "best";
    element.style.setProperty("--share", `${cell.share}%`);
    element.dataset.label = columns[index].label;
    element.tabIndex = 0;
    if (cell.n) {
      const spread = cell.spread ? ` ± ${cell.spread}` : "";
      element.append(make("small", `${spread} (${cell.n})`));
    }
    return element;
  }

  function makeHead(index) {
    const { label, task, setting, metric } = columns[index];
    const head = make("th", "", { scope: "col", "data-c": index, title: label });
    const button = make("button", "", { type: "button" });
    button.append(make("b", task), ...(setting ? [make("span", setting)] : []), make("span", metric));
    head.append(button);
    return head;
  }

  function showColumns() {
    if ([...headRow.cells].slice(1).map((cell) => cell.dataset.c).join() === visible.join()) return;
    headRow.replaceChildren(headRow.cells[0], ...visible.map(makeHead));
    for (const row of rows) {
      row.element.replaceChildren(
        row.element.cells[0], ...visible.map((index) => makeCell(row, index)),
      );
    }
  }

  // ---- sorting and filtering

  // Without a selected column, or if it is not visible, sort by the first measured column.
  function currentOrder() {
    if (state.sort === "model" || visible.includes(columnOf.get(state.sort))) return state;
    const index = visible.find((one) => columns[one].measured) ?? visible[0];
    if (index === undefined) return { sort: "model", ascending: true };
    return { sort: columns[index].label, ascending: !columns[index].higher };
  }

  function arrange() {
    const by = currentOrder();
    const index = columnOf.get(by.sort);
    const sign = by.ascending ? 1 : -1;
    const order = [...rows].sort((a, b) => {
      if (by.sort === "model") return sign * (a.index - b.index);
      const [x, y] = [a.cells[index]?.value, b.cells[index]?.value];
      if (x === undefined || y === undefined) { // missing numbers come last
        return (x === undefined) - (y === undefined) || a.index - b.index;
      }
      return sign * (x - y) || a.index - b.index;
    });
    table.tBodies[0].append(...order.map((row) => row.element));
    for (const head of headRow.cells) {
      head.removeAttribute("aria-sort");
      if (labelOf(head) !== by.sort) continue;
      head.setAttribute("aria-sort", by.ascending ? "ascending" : "descending");
    }
    const labels = ["model", ...visible.map((one) => columns[one].label)];
    sort.replaceChildren(...labels.map((label) => make("option", label, { value: label })));
    sort.value = by.sort;
    direction.textContent = by.ascending ? "↑" : "↓";
  }

  const labelOf = (head) => columns[head.dataset.c]?.label ?? "model";

  function select() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = state.shown.filter((index) => !task.value || columns[index].task === task.value);
    // Match a hash only from its first digit: short words are common within 64 digits.
    const matches = rows.filter((row) => (published.checked || row.measured) &&
      words.every((word) => row.text.includes(word) || row.sha256?.startsWith(word)) &&
      (!task.value || wanted.some((index) => row.cells[index])));
    for (const row of rows) row.element.hidden = true;
    for (const row of matches) row.element.hidden = false;
    visible = wanted.filter((index) => matches.some((row) => row.cells[index]));
    byId("scroll").hidden = !matches.length;
    byId("none").hidden = matches.length > 0;
    const some = matches.length === rows.length ? "" : `${matches.length} of `;
    byId("status").textContent = `${some}${rows.length} row${rows.length === 1 ? "" : "s"}`;
  }

  function sortBy(label) {
    const by = currentOrder();
    // initially sort a column best first, and names from A to Z
    state.ascending = label === by.sort ? !by.ascending : !columns[columnOf.get(label)]?.higher;
    state.sort = label;
    arrange();
    remember();
  }

  function refresh() {
    select();
    showColumns();
    for (const box of byId("choices").querySelectorAll("input")) {
      box.checked = state.shown.includes(Number(box.value));
    }
    arrange();
    remember();
  }

  // ---- the menu of columns

  function fillMenu() {
    const quick = make("p");
    const all = [...columns.keys()];
    const choices = { "Primary metrics": all.filter((index) => columns[index].primary), All: all };
    for (const [name, shown] of Object.entries(choices)) {
      const button = make("button", name, { type: "button" });
      button.addEventListener("click", () => { state.shown = shown; refresh(); });
      quick.append(button);
    }
    const groups = new Map();
    for (const [index, column] of columns.entries()) {
      if (!groups.has(column.task)) {
        const group = make("fieldset");
        group.append(make("legend", column.task));
        groups.set(column.task, group);
      }
      const label = make("label");
      label.append(make("input", "", { type: "checkbox", value: index }));
      label.append(column.label.slice(column.task.length).replace(/^\//, ""));
      groups.get(column.task).append(label);
    }
    byId("choices").replaceChildren(quick, ...groups.values());
    byId("choices").addEventListener("change", () => {
      const checked = byId("choices").querySelectorAll("input:checked");
      state.shown = [...checked].map((box) => Number(box.value)).sort((a, b) => a - b);
      refresh();
    });
    task.append(...[...groups.keys()].map((name) => make("option", name, { value: name })));
  }

  // ---- the view in the URL

  function remember() {
    const view = new URLSearchParams();
    if (state.sort) {
      view.set("sort", state.sort);
      view.set("order", state.ascending ? "ascending" : "descending");
    }
    if (filter.value) view.set("filter", filter.value);
    if (task.value) view.set("task", task.value);
    if (!published.checked) view.set("published", "no");
    if (state.shown.join() !== shownAtFirst.join()) {
      view.set("columns", JSON.stringify(state.shown.map((index) => columns[index].label)));
    }
    const hash = view.toString();
    if (hash !== location.hash.slice(1)) {
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    }
  }

  function recall() {
    const view = new URLSearchParams(location.hash.slice(1));
    state.sort = view.get("sort") ?? "";
    state.ascending = view.get("order") !== "descending";
    filter.value = view.get("filter") ?? "";
    task.value = view.get("task") ?? "";
    if (task.selectedIndex < 0) task.value = "";
    published.checked = view.get("published") !== "no" || byId("published-field").hidden;
    state.shown = shownAtFirst;
    try {
      const labels = JSON.parse(view.get("columns")) ?? shownAtFirst.map((n) => columns[n].label);
      state.shown = labels.map((label) => columnOf.get(label)).filter((n) => n !== undefined);
    } catch {
      // show the default columns for a truncated URL
    }
    refresh();
  }

  // ---- details of a cell

  function show(cell) {
    const row = rows.find((candidate) => candidate.element === cell.parentElement);
    details.replaceChildren(...describe(row, Number(cell.dataset.c)));
    details.showPopover();
    details.scrollTop = 0;
    const at = cell.getBoundingClientRect();
    const [above, below] = [at.top - 14, innerHeight - at.bottom - 14];
    details.style.maxHeight = `${Math.max(above, below)}px`;
    const { offsetWidth: width, offsetHeight: height } = details;
    details.style.top = `${height <= below || below >= above ? at.bottom + 6 : at.top - height - 6}px`;
    details.style.left = `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`;
  }

  function describe(row, index) {
    const column = columns[index];
    const cell = row.cells[index];
    const group = data.groups[column.group];
    const title = (text) => make("h3", text);
    const close = make("button", "✕", { type: "button", class: "close", "aria-label": "Close" });
    close.addEventListener("click", () => details.hidePopover());
    const big = make("p", cell.mean, { class: "big" });
    if (cell.n) {
      const spread = cell.spread ? ` ± ${cell.spread}` : "";
      big.append(make("small", `${spread} (${cell.n} seeds${spread ? "" : ", all equal"})`));
    }
    const parts = [close, make("h2", row.name), make("p", column.label), big];
    if (!row.measured) parts.push(title("Published, not measured here"), make("p", cell.source));
    for (const [value, delta, source] of cell.published ?? []) {
      const text = delta === null ? "not comparable: this run overrides its protocol"
        : `measured here: ${delta}`;
      parts.push(title("Published value"), make("p", `${value}; ${text}`), make("p", source));
    }
    parts.push(title("Protocol"), make("p", `${group.protocol}, version ${group.version}`));
    if (!row.measured) return parts;
    const heads = ["setting", "protocol", "this run", "reason"];
    parts.push(title("Overrides"), group.overrides.length
      ? makeTable([heads, ...group.overrides]) : make("p", "none"));
    const runs = row.runs[column.group];
    const values = cell.values ?? [cell.value];
    parts.push(title("Seeds"), makeTable([["seed", "value", "created"],
      ...runs.map(([seed, created], run) =>
        [seed, values[run] ?? "not defined", created.replace("T", " ")])]));
    parts.push(title("Data"), ...(group.data.length ? group.data : ["not recorded"])
      .map((line) => make("p", line)));
    const hash = make("p", "sha256 ");
    hash.append(make("code", row.sha256));
    parts.push(title("Checkpoint"), ...row.names.map((name) => make("p", name)),
      make("p", `${row.arch}, read as ${row.format}`), hash);
    for (const used of new Set(runs.map((run) => run[3]))) {
      const seeds = runs.filter((run) => run[3] === used).map((run) => run[0]);
      const which = seeds.length < runs.length ? `, seed ${seeds.join(", ")}` : "";
      parts.push(title(`Environment${which}`), makeTable(data.environments[used]));
    }
    parts.push(title("Records"), ...runs.map((run) => make("p", run[2])));
    return parts;
  }

  function makeTable(lines) {
    const made = make("table");
    for (const line of lines) {
      made.insertRow().append(...line.map((text, n) => make(n ? "td" : "th", text)));
    }
    return made;
  }

  // ---- events

  const cellAt = (target) => target.closest?.("#table td[style]");
  table.addEventListener("click", (event) => {
    const cell = cellAt(event.target);
    if (cell) show(cell);
    else if (event.target.closest("thead button")) sortBy(labelOf(event.target.closest("th")));
  });
  table.addEventListener("keydown", (event) => {
    if (!cellAt(event.target) || !["Enter", " "].includes(event.key)) return;
    event.preventDefault();
    show(event.target);
  });
  document.addEventListener("click", (event) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") menu.open = false; });
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  for (const control of [filter, published, task]) control.addEventListener("input", refresh);
  byId("reset").addEventListener("click", () => {
    filter.value = task.value = "";
    refresh();
    filter.focus();
  });
  sort.addEventListener("change", () => sortBy(sort.value));
  direction.addEventListener("click", () => sortBy(currentOrder().sort));
  addEventListener("hashchange", recall);

  byId("published-field").hidden = new Set(rows.map((row) => row.measured)).size < 2;
  fillMenu();
  byId("tools").hidden = false;
  recall();
})();
