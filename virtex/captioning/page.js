// Sort, filter and enlarge images. Without this script, the cards of the page are a plain list.
// Captions and names are inserted as text, never as HTML.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const [list, tools, large] = ["cards", "tools", "large"].map(byId);
  const [filter, sort, references] = ["filter", "sort", "references"].map(byId);
  const directions = { descending: byId("descending"), ascending: byId("ascending") };
  const [LENGTH, NAME] = ["caption length", "file name"];
  const UNDEFINED = "–";

  if (!list.children.length) return;

  const cards = [...list.children].map((element, index) => {
    const [place, ...scores] = data.cards[index];
    const find = (selector) => element.querySelector(selector);
    const texts = (selector) => [...element.querySelectorAll(selector)].map((e) => e.textContent);
    const caption = find(".caption").textContent;
    const name = find(".name").textContent;
    const more = find("details");
    return {
      element, index, place, scores, caption, name, more,
      button: find("button"), image: find("img"), score: find(".score"),
      references: texts(".references li"),
      hidden: texts("details li").join("\n").toLowerCase(), // until the details are opened
      words: caption.split(/\s+/).filter(Boolean).length,
      text: [caption, name, ...texts(".references li")].join("\n").toLowerCase(),
    };
  });

  // Sort keys: the value of a card, null if undefined, and the names of the two directions.
  const orders = new Map(data.metrics.map((metric, column) => [metric, {
    value: (card) => card.scores[column], first: "descending",
    ends: { descending: "Best first", ascending: "Worst first" }, ...rangeOf(column), metric,
  }]));
  if (orders.size) {
    orders.set(LENGTH, {
      value: (card) => card.words, first: "descending",
      ends: { descending: "Longest first", ascending: "Shortest first" },
    });
  }
  orders.set(NAME, {
    value: (card) => card.place, first: "ascending",
    ends: { descending: "Z to A", ascending: "A to Z" },
  });
  const usual = orders.keys().next().value;
  const state = { sort: usual, direction: orders.get(usual).first };
  let order = cards; // currently sorted

  function rangeOf(column) {
    let [worst, best] = [Infinity, -Infinity];
    for (const { scores } of cards) {
      if (scores[column] === null) continue;
      worst = Math.min(worst, scores[column]);
      best = Math.max(best, scores[column]);
    }
    return { worst: worst < best ? worst : best - 1, best }; // equal scores are all the best
  }

  function make(tag, text = "", attributes = {}) {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  function setStyle(element, values) {
    for (const [name, value] of Object.entries(values)) element.style.setProperty(name, value);
  }

  // ---- sorting and filtering

  function arrange() {
    const { value } = orders.get(state.sort);
    const sign = state.direction === "ascending" ? 1 : -1;
    order = [...cards].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a.place - b.place;
      return sign * (x - y) || a.place - b.place;
    });
    // emptied in one step: removing thousands of cards one by one takes seconds
    list.replaceChildren();
    const fragment = document.createDocumentFragment();
    for (const card of order) fragment.append(card.element);
    list.append(fragment);
    showScores();
    sort.value = state.sort;
    const first = directions[orders.get(state.sort).first]; // on the left
    if (first.previousElementSibling) first.parentElement.prepend(first);
    for (const [direction, button] of Object.entries(directions)) {
      button.textContent = orders.get(state.sort).ends[direction];
      button.setAttribute("aria-pressed", direction === state.direction);
    }
  }

  // Scores of the metric that is the sort key, else of the first one.
  function showScores() {
    const shown = orders.get(state.sort).metric ? state.sort : usual;
    const { value, worst, best, metric } = orders.get(shown);
    if (!metric || list.dataset.metric === metric) return;
    list.dataset.metric = metric;
    setStyle(list, { "--worst": worst, "--best": best });
    for (const card of cards) if (card.score) fillScore(card.score, metric, value(card));
  }

  // As in card.html.j2.
  function fillScore(element, metric, score) {
    element.replaceChildren(
      make("span", metric), " ", make("b", score === null ? UNDEFINED : score.toFixed(2)),
    );
    if (score === null) element.removeAttribute("style");
    else setStyle(element, { "--score": score });
  }

  function select() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    list.classList.toggle("all", references.checked);
    for (const card of cards) {
      const matches = words.every((word) => card.text.includes(word));
      card.element.hidden = !matches;
      shown += matches;
      if (!matches || !card.more) continue;
      // show matches in hidden references
      card.more.open = references.checked || words.some((word) => card.hidden.includes(word));
    }
    byId("none").hidden = shown > 0;
    const all = cards.length === 1 ? "1 image" : `${cards.length} images`;
    byId("status").textContent = shown === cards.length ? all : `${shown} of ${all}`;
  }

  function sortBy(key, direction) {
    state.sort = key;
    state.direction = direction;
    arrange();
    remember();
    toTop();
  }

  function filterBy(text) {
    if (filter.value !== text) filter.value = text;
    select();
    remember();
    toTop();
  }

  // After sorting or filtering far down the page, scroll to the first card.
  function toTop() {
    if (byId("main").getBoundingClientRect().top < 0) byId("main").scrollIntoView();
  }

  // ---- the view in the URL

  function remember() {
    const view = new URLSearchParams();
    if (state.sort !== usual) view.set("sort", state.sort);
    if (state.direction !== orders.get(state.sort).first) view.set("order", state.direction);
    if (filter.value) view.set("filter", filter.value);
    if (references.checked) view.set("references", "all");
    const hash = view.toString();
    if (hash !== location.hash.slice(1)) {
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    }
  }

  function recall() {
    const view = new URLSearchParams(location.hash.slice(1));
    state.sort = orders.has(view.get("sort")) ? view.get("sort") : usual;
    state.direction = Object.hasOwn(directions, view.get("order"))
      ? view.get("order") : orders.get(state.sort).first;
    filter.value = view.get("filter") ?? "";
    references.checked = view.get("references") === "all";
    arrange();
    select();
    remember();
  }

  // ---- one image, large

  let current = null;

  function show(card) {
    current = card;
    const shown = order.filter(({ element }) => !element.hidden);
    const at = shown.indexOf(card);
    const step = (by, text, label) => {
      const button = make("button", text, { type: "button", "aria-label": label, "data-by": by });
      button.disabled = !shown[at + by];
      button.addEventListener("click", () => go(by));
      return button;
    };
    const close = make("button", "✕", { type: "button", "aria-label": "Close" });
    close.addEventListener("click", () => large.close());
    const bar = make("nav");
    bar.append(step(-1, "‹", "Previous"), step(1, "›", "Next"),
      make("span", `${at + 1} of ${shown.length}`), close);
    const image = card.image.cloneNode();
    image.removeAttribute("loading");
    large.replaceChildren(bar, image, describe(card));
    large.scrollTop = 0;
    if (!large.open) large.showModal();
  }

  function go(by) {
    const shown = order.filter(({ element }) => !element.hidden);
    const next = shown[shown.indexOf(current) + by];
    if (!next) return;
    show(next);
    const button = large.querySelector(`[data-by="${by}"]`);
    (button.disabled ? large.querySelector("nav button:enabled") : button).focus();
  }

  function describe(card) {
    const box = make("div", "", { class: "description" });
    box.append(make("p", card.caption, { class: "caption", dir: "auto" }));
    if (card.score) {
      const scores = make("div", "", { class: "scores" });
      for (const { metric, value, worst, best } of orders.values()) {
        if (!metric) continue;
        const element = make("p", "", { class: "score" });
        fillScore(element, metric, value(card));
        if (value(card) !== null) setStyle(element, { "--worst": worst, "--best": best });
        scores.append(element);
      }
      box.append(scores);
    }
    if (card.references.length) {
      const [references, items] = [make("div", "", { class: "references" }), make("ul")];
      items.append(...card.references.map((text) => make("li", text, { dir: "auto" })));
      references.append(items);
      box.append(references);
    }
    const name = make("p", "", { class: "name" });
    name.append(make("bdi", card.name));
    box.append(name);
    return box;
  }

  const cardOf = new Map(cards.map((card) => [card.button, card]));
  list.addEventListener("click", (event) => {
    const card = cardOf.get(event.target.closest("button"));
    if (card) show(card);
  });
  large.addEventListener("click", (event) => {
    if (event.target === large) large.close(); // a click on the backdrop
  });
  large.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && !event.altKey && !event.ctrlKey && !event.metaKey) go(by);
  });
  large.addEventListener("close", () => current.button.focus());

  // ---- controls

  tools.addEventListener("submit", (event) => event.preventDefault());
  filter.addEventListener("input", () => filterBy(filter.value));
  references.addEventListener("change", () => { select(); remember(); });
  sort.addEventListener("change", () => sortBy(sort.value, orders.get(sort.value).first));
  for (const [direction, button] of Object.entries(directions)) {
    button.addEventListener("click", () => sortBy(state.sort, direction));
  }
  byId("reset").addEventListener("click", () => {
    filterBy("");
    filter.focus();
  });
  addEventListener("hashchange", recall);

  for (const [key, { metric }] of orders) {
    sort.append(make("option", metric ?? key[0].toUpperCase() + key.slice(1), { value: key }));
  }
  byId("sort-field").hidden = orders.size === 1;
  byId("references-field").hidden = !cards.some((card) => card.more);
  for (const card of cards) card.button.disabled = false;
  tools.hidden = false;
  recall();
})();
