// Sorts, filters, chooses columns and shows details. The rows are in the page already: without
// this script it is a plain table. Whatever comes from a record goes in as text, never as HTML.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const [table, tools, details, menu] = ["table", "tools", "details", "menu"].map(byId);
  const [filter, task, sort, direction, published] =
    ["filter", "task", "sort", "direction", "published"].map(byId);
  const body = table.tBodies[0];
  const headRow = table.tHead.rows[0];
  const rows = [...body.rows].map((element, index) => {
    const row = data.rows[index];
    const short = row.arch.replace(/resnet(?=\d)/i, "r"); // people write R50
    const text = [row.name, ...row.names, row.arch, short, row.format].join("\n").toLowerCase();
    return { element, ...row, index, text };
  });
  const columns = data.columns;
  const byLabel = new Map(columns.map((column, index) => [column.label, index]));
  const shownAtFirst = columns.flatMap((column, index) => (column.shown ? [index] : []));
  // sort: "" until one is chosen; chosen: columns that stay even where no row has a number
  const state = { sort: "", ascending: true, shown: shownAtFirst, chosen: new Set() };
  let there = shownAtFirst; // the columns that are in the table now
  const number = new Intl.NumberFormat("en", { maximumFractionDigits: 4 });

  function make(tag, text = "", attributes = {}) {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  // ---- cells: the same as page.py writes

  function makeCell(row, index) {
    const cell = row.cells[index];
    const element = make("td", "", { "data-c": index });
    if (!cell) return element;
    const [, mean, spread, n, share, best] = cell;
    if (best) element.className = "best";
    element.style.setProperty("--share", `${share}%`);
    element.dataset.label = columns[index].label;
    element.tabIndex = 0;
    element.append(mean);
    if (n > 1) element.append(make("small", spread ? ` ± ${spread} (${n})` : ` (${n})`));
    return element;
  }

  function makeHead(index) {
    const column = columns[index];
    const head = make("th", "", { scope: "col", "data-c": index, title: column.label });
    const button = make("button", "", { type: "button" });
    button.append(make("b", column.task));
    if (column.setting) button.append(make("span", column.setting));
    button.append(make("span", column.metric));
    head.append(button);
    return head;
  }

  function showColumns() {
    if ([...headRow.cells].slice(1).map((cell) => cell.dataset.c).join() === there.join()) return;
    hide();
    headRow.replaceChildren(headRow.cells[0], ...there.map(makeHead));
    for (const row of rows) {
      row.element.replaceChildren(
        row.element.cells[0], ...there.map((index) => makeCell(row, index)),
      );
    }
  }

  // ---- sorting and filtering

  // As chosen; without a choice, or where its column is not shown, the first that has something
  // measured ranks the models.
  function currentOrder() {
    if (state.sort === "model" || there.includes(byLabel.get(state.sort))) return state;
    const index = there.find((one) => columns[one].measured) ?? there[0];
    if (index === undefined) return { sort: "model", ascending: true };
    return { sort: columns[index].label, ascending: !columns[index].higher };
  }

  function arrange() {
    const by = currentOrder();
    const index = byLabel.get(by.sort);
    const sign = by.ascending ? 1 : -1;
    const value = (row) => row.cells[index]?.[0];
    const order = [...rows];
    if (by.sort === "model") order.sort((a, b) => sign * (a.index - b.index));
    else if (index !== undefined) {
      order.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === undefined || y === undefined) {
          return (x === undefined) - (y === undefined) || a.index - b.index; // missing: last
        }
        return sign * (x - y) || a.index - b.index;
      });
    }
    body.append(...order.map((row) => row.element));
    for (const head of headRow.cells) {
      const label = head.dataset.c === undefined ? "model" : columns[head.dataset.c].label;
      if (label === by.sort) {
        head.setAttribute("aria-sort", by.ascending ? "ascending" : "descending");
      } else head.removeAttribute("aria-sort");
    }
    direction.textContent = by.ascending ? "↑" : "↓";
  }

  function select() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = state.shown.filter(
      (index) => !task.value || columns[index].task === task.value,
    );
    // a hash counts from its first digit: within 64 digits a short word would often be found
    const shown = rows.filter((row) => (published.checked || row.measured) &&
      words.every((word) => row.text.includes(word) || row.sha256?.startsWith(word)) &&
      (!task.value || wanted.some((index) => row.cells[index])));
    for (const row of rows) row.element.hidden = true;
    for (const row of shown) row.element.hidden = false;
    there = wanted.filter((index) =>
      state.chosen.has(index) || shown.some((row) => row.cells[index]));
    byId("scroll").hidden = !shown.length;
    byId("none").hidden = shown.length > 0;
    byId("status").textContent = shown.length === rows.length
      ? `${rows.length} rows` : `${shown.length} of ${rows.length} rows`;
  }

  function sortBy(label) {
    const by = currentOrder();
    if (label === by.sort) state.ascending = !by.ascending;
    else {
      const column = columns[byLabel.get(label)];
      state.ascending = !column || !column.higher; // the best first
    }
    state.sort = label;
    arrange();
    fillSort();
    remember();
  }

  // ---- controls

  function fillSort() {
    const labels = ["model", ...there.map((index) => columns[index].label)];
    sort.replaceChildren(...labels.map((label) => {
      return make("option", label === "model" ? "Model" : label, { value: label });
    }));
    sort.value = currentOrder().sort;
  }

  function fillMenu() {
    const quick = make("p");
    const all = columns.map((_, index) => index);
    for (const [name, shown, chosen] of [
      ["Ranking metrics", all.filter((index) => columns[index].primary), []], ["All", all, all],
    ]) {
      const button = make("button", name, { type: "button" });
      button.addEventListener("click", () => {
        state.shown = shown;
        state.chosen = new Set(chosen);
        refresh();
      });
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
      const box = make("input", "", { type: "checkbox", value: index });
      box.addEventListener("change", () => {
        const others = state.shown.filter((other) => other !== index);
        state.shown = box.checked ? [...others, index].sort((a, b) => a - b) : others;
        state.chosen[box.checked ? "add" : "delete"](index);
        refresh();
      });
      label.append(box, column.label.slice(column.task.length).replace(/^\//, ""));
      groups.get(column.task).append(label);
    }
    byId("choices").replaceChildren(quick, ...groups.values());
    task.append(...[...groups.keys()].map((name) => make("option", name, { value: name })));
  }

  function refresh() {
    select();
    showColumns();
    for (const box of byId("choices").querySelectorAll("input")) {
      box.checked = state.shown.includes(Number(box.value));
    }
    fillSort();
    arrange();
    remember();
  }

  // ---- the view in the address

  function remember() {
    const view = new URLSearchParams();
    if (state.sort) {
      view.set("sort", state.sort);
      view.set("order", state.ascending ? "ascending" : "descending");
    }
    if (filter.value) view.set("filter", filter.value);
    if (task.value) view.set("task", task.value);
    if (!published.checked) view.set("published", "no");
    const list = (indices) => JSON.stringify(indices.map((index) => columns[index].label));
    if (state.shown.join() !== shownAtFirst.join()) view.set("columns", list(state.shown));
    // the others in "columns" are there by choice anyway
    const kept = shownAtFirst.filter((index) => state.chosen.has(index));
    if (kept.length) view.set("keep", list(kept));
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
    state.shown = listed(view.get("columns")) ?? shownAtFirst;
    const byChoice = state.shown.filter((index) => !shownAtFirst.includes(index));
    state.chosen = new Set([...byChoice, ...listed(view.get("keep")) ?? []]);
    refresh();
  }

  function listed(text) {
    let labels = null;
    try {
      labels = JSON.parse(text);
    } catch {
      // an address that was cut short shows the usual columns
    }
    if (!Array.isArray(labels)) return null;
    const known = new Set(labels);
    return columns.flatMap(({ label }, index) => (known.has(label) ? [index] : []));
  }

  // ---- details of a cell

  const TALLEST = 512; // pixels
  let anchor = null; // the cell whose details are shown
  let pinned = false; // by a click or tap: they stay until closed
  let timer = 0;

  function show(cell) {
    clearTimeout(timer);
    if (cell === anchor) return;
    hide();
    const row = rows.find((candidate) => candidate.element === cell.parentElement);
    details.replaceChildren(...describe(row, Number(cell.dataset.c)));
    details.hidden = false;
    details.scrollTop = 0;
    anchor = cell;
    cell.setAttribute("aria-describedby", "details");
    place();
  }

  function hide() {
    clearTimeout(timer);
    anchor?.removeAttribute("aria-describedby");
    details.hidden = true;
    anchor = null;
    pinned = false;
  }

  function place() {
    const at = anchor.getBoundingClientRect();
    const [above, below] = [at.top - 14, innerHeight - at.bottom - 14];
    details.style.maxHeight = `${TALLEST}px`;
    const { offsetWidth: width, offsetHeight: wanted } = details;
    const under = wanted <= below || below >= above;
    const height = Math.min(wanted, under ? below : above);
    details.style.maxHeight = `${height}px`;
    details.style.top = `${under ? at.bottom + 6 : at.top - height - 6}px`;
    details.style.left = `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`;
  }

  function describe(row, index) {
    const column = columns[index];
    const group = data.groups[column.group];
    const [, mean, spread, n, , , values, known] = row.cells[index];
    const close = make("button", "✕", { type: "button", class: "close", "aria-label": "Close" });
    close.addEventListener("click", () => { const cell = anchor; hide(); cell.focus(); hide(); });
    const parts = [close, make("h2", row.name), make("p", column.label)];
    const big = make("p", mean, { class: "big" });
    if (n > 1) {
      const seeds = spread ? ` ± ${spread} (${n} seeds)` : ` (${n} seeds, each the same)`;
      big.append(make("small", seeds));
    }
    parts.push(big);
    if (!row.measured) {
      parts.push(make("p", "Published, not measured here."));
      parts.push(make("h3", "Source"), make("p", row.sources[index]));
    }
    for (const [value, delta, source] of known ?? []) {
      const text = delta === null
        ? `${value}; this run deviates from its protocol, so the two cannot be compared`
        : `${value}; measured here: ${delta}`;
      parts.push(make("h3", "Published value"), make("p", text), make("p", source));
    }
    parts.push(make("h3", "Protocol"));
    parts.push(make("p", `${group.protocol}, version ${group.version}`));
    if (!row.measured) return parts;
    parts.push(make("h3", "Deviations"));
    if (!group.deviations.length) parts.push(make("p", "none"));
    else {
      const heads = ["setting", "protocol", "this run", "why"];
      parts.push(makeTable([heads, ...group.deviations]));
    }
    const runs = row.runs[column.group];
    const found = values ?? [row.cells[index][0]];
    parts.push(make("h3", "Seeds"));
    parts.push(makeTable([["seed", "value", "created"], ...runs.map(([seed, created], run) => [
      seed, found[run] === null ? "not defined" : number.format(found[run]), created.replace("T", " "),
    ])]));
    parts.push(make("h3", "Data"));
    for (const line of group.data) parts.push(make("p", line));
    if (!group.data.length) parts.push(make("p", "not told"));
    parts.push(make("h3", "Checkpoint"));
    for (const name of row.names) parts.push(make("p", name));
    parts.push(make("p", `${row.arch}, read as ${row.format}`));
    const hash = make("p", "sha256 ");
    hash.append(make("code", row.sha256));
    parts.push(hash);
    for (const used of new Set(runs.map((run) => run[3]))) {
      const seeds = runs.filter((run) => run[3] === used).map((run) => run[0]);
      const which = seeds.length < runs.length ? `, seed ${seeds.join(", ")}` : "";
      parts.push(make("h3", `Environment${which}`), makeTable(data.environments[used]));
    }
    parts.push(make("h3", "Records"));
    for (const run of runs) parts.push(make("p", run[2]));
    return parts;
  }

  function makeTable(lines) {
    const made = make("table");
    for (const line of lines) {
      const row = made.insertRow();
      for (const [place, text] of line.entries()) {
        row.append(make(place ? "td" : "th", text));
      }
    }
    return made;
  }

  const cellAt = (target) => target.closest?.("#table td[style]") ?? null;

  body.addEventListener("pointerover", (event) => {
    const cell = cellAt(event.target);
    if (event.pointerType !== "mouse" || pinned || !cell) return;
    clearTimeout(timer);
    timer = setTimeout(show, anchor ? 60 : 150, cell);
  });
  body.addEventListener("pointerout", (event) => {
    if (event.pointerType !== "mouse" || pinned) return;
    clearTimeout(timer);
    timer = setTimeout(hide, 200);
  });
  details.addEventListener("pointerdown", () => { pinned = true; });
  details.addEventListener("pointerenter", () => clearTimeout(timer));
  details.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse" && !pinned) timer = setTimeout(hide, 200);
  });
  body.addEventListener("focusin", (event) => {
    const cell = cellAt(event.target);
    if (cell && cell.matches(":focus-visible")) show(cell);
  });
  body.addEventListener("focusout", (event) => {
    if (!pinned && !details.contains(event.relatedTarget)) hide();
  });
  document.addEventListener("click", (event) => {
    if (!menu.contains(event.target)) menu.open = false;
    if (details.contains(event.target)) return;
    const cell = cellAt(event.target);
    if (!cell || (pinned && cell === anchor)) return hide();
    show(cell);
    pinned = true;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      hide();
      menu.open = false;
      return;
    }
    const cell = cellAt(event.target);
    if (!cell) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      show(cell);
      pinned = true;
    }
    step(event, cell);
  });

  function step(event, cell) {
    const side = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" };
    const rowwards = { ArrowUp: "previousElementSibling", ArrowDown: "nextElementSibling" };
    let next = cell;
    do {
      if (side[event.key]) next = next[side[event.key]];
      else if (rowwards[event.key]) {
        next = next.parentElement[rowwards[event.key]]?.cells[cell.cellIndex];
      } else return;
    } while (next && (!cellAt(next) || next.parentElement.hidden));
    if (next) {
      event.preventDefault();
      next.focus();
    }
  }

  document.addEventListener("scroll", (event) => {
    if (!anchor || event.target === details) return;
    if (pinned || anchor === document.activeElement) place();
    else hide();
  }, true);
  addEventListener("resize", hide);

  headRow.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (event.target.closest("button")) {
      sortBy(head.dataset.c === undefined ? "model" : columns[head.dataset.c].label);
    }
  });
  tools.addEventListener("submit", (event) => event.preventDefault());
  filter.addEventListener("input", refresh);
  published.addEventListener("change", refresh);
  task.addEventListener("change", refresh);
  byId("reset").addEventListener("click", () => {
    filter.value = task.value = "";
    refresh();
    filter.focus();
  });
  sort.addEventListener("change", () => sortBy(sort.value));
  direction.addEventListener("click", () => sortBy(currentOrder().sort));
  addEventListener("hashchange", recall);

  byId("published-field").hidden = rows.every((row) => row.measured) || rows.every((row) => !row.measured);
  fillMenu();
  tools.hidden = false;
  recall();
})();
