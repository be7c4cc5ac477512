// What became of the prompts: fates over time, how often they are solved, which are done with or never solved, tokens.

const FATE_LINES = {
  trained: ["trained on", "--line1"],
  surplus: ["passed, batch was full", "--line5"],
  too_hard: ["too hard", "--line2"],
  too_easy: ["too easy", "--line3"],
  mastered: ["mastered", "--line4"],
};

function prompts(run, state) {
  const pool = run.pool;
  const problems = new Map(run.groups.map((group) => [group.prompt, group.problem]));
  return [
    h("p", {}, `${number(pool.groups)} groups of ${number(pool.prompts)} prompts were drawn.`),
    h("div", { class: "charts wide" }, fates(pool), rhos(pool, state)),
    h("section", {}, h("h2", {}, "Where the tokens went"), tokens(run.ledger)),
    h(
      "div",
      { class: "pair" },
      listed("Mastered", pool.mastered, problems, "removed for good, the newest first"),
      listed("Too hard", pool.too_hard, problems, "not solved often enough to teach, the most often first"),
    ),
  ];
}

function fates(pool) {
  const x = pool.spans.map(([, last]) => last);
  const lines = Object.entries(FATE_LINES).map(([fate, [label, colour]]) => ({
    label,
    colour,
    dash: [],
    x,
    y: pool.fates[fate].map((count, i) => count / (pool.spans[i][1] - pool.spans[i][0] + 1)),
  }));
  return chart({ title: "Fates", unit: "groups a step", axis: "step", lines, stacked: true });
}

/** Positive ratio of the groups of some steps, as bars: HTML, so that each says its number. */
function rhos(pool, state) {
  const last = Math.max(0, pool.spans.length - 1);
  const at = Math.min(state.span ?? last, last);
  const [from, to] = pool.spans[at] ?? [0, 0];
  const counts = pool.rho.counts[at] ?? [];
  const total = counts.reduce((a, b) => a + b, 0);
  const most = Math.max(1, ...counts);
  const box = h("figure", { class: "chart" });
  const slide = h("input", {
    type: "range",
    min: 0,
    max: last,
    value: at,
    "aria-label": "Steps of the histogram",
    "aria-valuetext": spanName(from, to),
    oninput: () => {
      state.span = Number(slide.value);
      const next = rhos(pool, state);
      box.replaceWith(next);
      next.querySelector("input").focus();
    },
  });
  box.append(
    h(
      "figcaption",
      {},
      h("strong", {}, "Positive ratio"),
      h("span", { class: "unit" }, ` groups by rho, the share that filter.rho counts, ${spanName(from, to)}`),
    ),
    slide,
    h(
      "table",
      { class: "bars" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["rho", "groups", "share"].map((cell) => h("th", { scope: "col" }, cell)),
        ),
      ),
      h(
        "tbody",
        {},
        pool.rho.bars.map((name, i) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, name),
            h("td", {}, bar(counts[i] / most), ` ${number(counts[i])}`),
            h("td", { class: "n" }, percent(total ? counts[i] / total : null)),
          ),
        ),
      ),
    ),
  );
  return box;
}

const spanName = (from, to) => (from === to ? `step ${from}` : `steps ${from} to ${to}`);

/** A bar whose length is a share. */
const bar = (share) =>
  picture({ ...BAR, viewBox: "0 0 100 10" }, ["rect", { width: 100 * share, height: 10, class: "plain" }]);

const SPENT = {
  kept: "in groups trained on",
  surplus: "passed when the batch was full",
  too_hard: "too hard",
  too_easy: "too easy",
  mastered: "mastered",
};

function tokens(ledger) {
  const share = (tokens) => tokens / Math.max(1, ledger.generated);
  const row = (label, tokens, picture = "") => [label, number(tokens), percent(share(tokens)), picture];
  const rows = Object.entries(SPENT).map(([use, label]) =>
    row(label, ledger.spent[use], bar(share(ledger.spent[use]))),
  );
  rows.push(row("all generated", ledger.generated));
  if (ledger.cancelled) rows.push(row("of these cancelled early", ledger.cancelled));
  const each = ledger.accepted ? ledger.generated / ledger.accepted : null;
  rows.push(["for each group trained on", number(each), "", ""]);
  return table("Response tokens by use", ["use", "tokens", "share", "of all"], rows, [1, 2]);
}

function listed(title, { rows, of }, problems, order) {
  const body = rows.map((row) => [
    h("span", { title: row.prompt }, short(problems.get(row.prompt) ?? row.prompt, 80)),
    number(row.times),
    number(row.drawn),
    number(row.last_step),
    percent(row.last_rho, 0),
    number(row.tokens),
  ]);
  return h(
    "section",
    {},
    h("h2", {}, `${title} (${number(of)})`),
    of
      ? table(
          `${order}${of > rows.length ? `; ${rows.length} of ${number(of)}, all are in ledger.jsonl` : ""}`,
          ["prompt", "times", "drawn", "last step", "last rho", "tokens"],
          body,
          [1, 2, 3, 4, 5],
        )
      : h("p", { class: "none" }, "none"),
  );
}
