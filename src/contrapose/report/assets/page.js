// The page: which view is shown, where it stands, light or dark, and, where a server sent it, news.

const page = {
  data: JSON.parse(document.getElementById("data").textContent),
  state: {
    tab: "overview",
    run: 0,
    axis: "step",
    step: null,
    group: null,
    fate: "",
    search: "",
    mixed: false,
    detailed: false,
    order: "drawn",
    shade: "",
    span: null,
    hidden: new Set(),
  },
  show,
};

const VIEWS = {
  overview: ["Overview", () => overview(run(), page.state)],
  groups: ["Groups", () => groups(run(), page.state)],
  prompts: ["Prompts", () => prompts(run(), page.state)],
  compare: ["Comparison", () => compare(page.data.runs, page.state)],
};
const PLACE = ["tab", "run", "step", "group", "axis"]; // what the address names

const run = () => page.data.runs[page.state.run];

function show() {
  const { state, data } = page;
  const focused = document.activeElement?.id;
  const several = data.runs.length > 1;
  const names = Object.keys(VIEWS).filter((name) => name !== "compare" || several);
  if (!names.includes(state.tab)) state.tab = "overview";
  if (!data.runs[state.run]) state.run = 0;
  document.getElementById("title").replaceChildren(...seen(several ? `${data.runs.length} runs` : data.runs[0].name));
  document.title = several
    ? `contrapose: ${data.runs.map(({ name }) => name).join(", ")}`
    : `contrapose: ${data.runs[0].name}`;
  document.getElementById("tabs").replaceChildren(
    ...names.map((name) =>
      h(
        "button",
        {
          type: "button",
          role: "tab",
          id: `tab-${name}`,
          "aria-selected": String(name === state.tab),
          "aria-controls": "view",
          tabindex: name === state.tab ? 0 : -1,
          onclick: () => go({ tab: name }),
          onkeydown: (event) => {
            const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
            if (!by) return;
            go({ tab: names[(names.indexOf(name) + by + names.length) % names.length] });
            document.getElementById(`tab-${state.tab}`).focus();
          },
        },
        VIEWS[name][0],
      ),
    ),
  );
  const which =
    several && state.tab !== "compare"
      ? h(
          "div",
          { class: "controls" },
          choice(
            "Run",
            data.runs.map(({ name }, i) => [i, name]),
            state.run,
            (i) => go({ run: Number(i), step: null, group: null }),
          ),
        )
      : null;
  const view = document.getElementById("view");
  const height = window.scrollY;
  view.setAttribute("aria-labelledby", `tab-${state.tab}`);
  view.replaceChildren(...[which, ...VIEWS[state.tab][1]()].filter(Boolean));
  window.scrollTo(0, height);
  if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus();
  document.getElementById("hint").hidden = true;
  sweep();
  const place = new URLSearchParams(PLACE.filter((key) => state[key] !== null).map((key) => [key, state[key]]));
  history.replaceState(null, "", `#${place}`);
  if (page.live) {
    document.querySelector("#news button")?.remove();
    tellNews("");
  }
}

/** Change what is shown. */
function go(change) {
  Object.assign(page.state, change);
  show();
}

function arrive() {
  const place = new URLSearchParams(location.hash.slice(1));
  for (const key of PLACE)
    if (place.has(key))
      page.state[key] = ["run", "step", "group"].includes(key) ? Number(place.get(key)) : place.get(key);
  if (!Object.hasOwn(page.data.axes, page.state.axis)) page.state.axis = "step";
}

function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  document.getElementById("theme").textContent = dark ? "Light" : "Dark";
  redraw();
}

/** Ask the server that sent the page for news: each time it has waited for ten times as long as the answer took. */
async function follow() {
  page.live = true;
  for (;;) {
    const start = performance.now();
    try {
      const answer = await fetch(`data?since=${page.data.stamp}`, { cache: "no-store" });
      if (answer.status === 200) {
        page.data = await answer.json();
        if (!isLookedAt()) show();
        else tellNews("", true);
      } else tellNews(answer.ok ? "" : await answer.text());
    } catch {
      tellNews("the server has gone; this is what it last said");
    }
    await new Promise((resolve) => setTimeout(resolve, Math.max(1500, 10 * (performance.now() - start))));
  }
}

/** Whether what is shown must stay: somebody reads it, looks at a part of a chart, or is at a control. */
const isLookedAt = () =>
  page.state.tab === "groups" ||
  document.querySelector("#view details.numbers[open], #hint:not([hidden])") !== null ||
  document.getElementById("view").contains(document.activeElement) ||
  zoomed();

/** Say where the run is, or what is wrong; `more`: there is something that is not shown yet. */
function tellNews(wrong, more = false) {
  const news = document.getElementById("news");
  const text = wrong || `live: step ${number(run().steps)}`;
  if (news.firstChild?.textContent !== text) news.replaceChildren(h("span", {}, text));
  const button = news.querySelector("button");
  if (more && !button) news.append(" ", h("button", { type: "button", onclick: show }, "show"));
}

const prefers = matchMedia("(prefers-color-scheme: dark)");
document
  .getElementById("theme")
  .addEventListener("click", () => theme(document.documentElement.dataset.theme !== "dark"));
prefers.addEventListener("change", ({ matches }) => theme(matches));
let before = false;
window.addEventListener("beforeprint", () => {
  before = document.documentElement.dataset.theme === "dark";
  theme(false);
});
window.addEventListener("afterprint", () => theme(before));
window.addEventListener("hashchange", () => {
  arrive();
  show();
});
theme(prefers.matches);
arrive();
show();
if (page.data.stamp) follow();
