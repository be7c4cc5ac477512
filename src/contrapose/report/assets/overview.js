// What ran, what came of it, and its curves.

function overview(run, state) {
  const axis = state.axis;
  return [
    h("section", { class: "top" }, what(run), result(run, page.data.changes[state.run])),
    alarms(run),
    axisControls(run, state),
    ...sections(axis, (series) => lineOf(run, series, axis), heldOut([run], axis)),
    settings(run),
  ];
}

/** One line of a run's curves. */
function lineOf(run, name, axis) {
  return { name, label: seriesLabel(name), x: run.axes[axis], y: run.series[name] };
}

const seriesLabel = (name) => name.split(".").at(-1);

/** All charts of the legend, by section; `extra` stands first. */
function sections(axis, line, extra) {
  return page.data.sections.map((section, i) =>
    h(
      "section",
      {},
      h("h2", {}, section.title),
      h(
        "div",
        { class: "charts" },
        i === 0 ? extra : null,
        section.charts.map(({ title, unit, series, stacked }) =>
          chart({ title, unit, axis, stacked, lines: series.map(line) }),
        ),
      ),
    ),
  );
}

/**
 * Accuracy on problems that are not trained on, with 95 % intervals: a line for each run and data set. Of several runs
 * each has its colour, as in the other charts, and each data set its dash.
 */
function heldOut(runs, axis, several = false) {
  const lines = runs.flatMap((run) => {
    const kinds = [...new Set(run.evaluations.map(({ data, split }) => JSON.stringify([data, split])))];
    return kinds.map((kind, i) => {
      const [data, split] = JSON.parse(kind);
      const rows = run.evaluations.filter((row) => row.data === data && row.split === split);
      const about = `${data} (${split})`;
      const looks = several
        ? { ...style(page.data.runs.indexOf(run)), ...(i ? { dash: DASHES[i % DASHES.length] } : {}) }
        : {};
      return {
        ...looks,
        label: several ? `${run.name}: ${about}` : about,
        x: rows.map(({ at }) => at[axis]),
        y: rows.map(({ accuracy }) => accuracy.value),
        low: rows.map(({ accuracy }) => accuracy.low),
        high: rows.map(({ accuracy }) => accuracy.high),
      };
    });
  });
  return chart({ title: "Accuracy held out, with 95 % interval", unit: "share", axis, lines });
}

function axisControls(run, state) {
  const set = (key) => (value) => {
    state[key] = value;
    page.show();
  };
  const from = h("input", { type: "number", min: 0, step: "any", size: 8 });
  const to = h("input", { type: "number", min: 0, step: "any", size: 8 });
  const apply = () => zoom(from.value === "" ? null : Number(from.value), to.value === "" ? null : Number(to.value));
  from.addEventListener("change", apply);
  to.addEventListener("change", apply);
  const reset = h(
    "button",
    {
      type: "button",
      onclick: () => {
        from.value = to.value = "";
        zoom(null, null);
      },
    },
    "All",
  );
  return h(
    "div",
    { class: "controls" },
    choice("Against", Object.entries(page.data.axes), state.axis, set("axis")),
    labelled("From", from),
    labelled("to", to),
    reset,
    h(
      "span",
      { class: "note" },
      "Drag across a chart to zoom, double-click for all of it. Press an underlined name for what it means.",
      run.every > 1 ? ` Every ${run.every}th of ${number(run.steps)} steps is drawn.` : "",
    ),
  );
}

function what(run) {
  const { config: c, facts } = run;
  const hyper = Object.entries(c).filter(([key]) => key.startsWith("objective.") && key !== "objective.name");
  const rows = [
    [
      "Objective",
      [
        h("strong", {}, String(c["objective.name"])),
        hyper.length ? ` (${hyper.map(([k, v]) => `${k.slice(10)} ${v}`).join(", ")})` : "",
      ],
    ],
    facts.factors
      ? [
          "Factors",
          Object.entries(facts.factors)
            .map(([kind, factor]) => `${kind} ${factor}`)
            .join(", "),
        ]
      : null,
    ["Model", `${c["model.path"]} (${c["model.dtype"]})`],
    ["Data", [].concat(c["data.path"]).join(", ")],
    [
      "A step",
      `${c["batch.prompts"]} prompts of ${c["rollout.k"]} rollouts of up to ${c["rollout.max_tokens"]} tokens, ` +
        `${c["batch.updates"]} updates`,
    ],
    ["Steps", `${number(run.steps)} of ${number(c.steps)}`],
    ["Spent", ["rollouts", "tokens", "seconds"].map((axis) => `${number(run.axes[axis].at(-1))} ${axis}`).join(", ")],
    ["Seed", String(c.seed)],
    [
      "Versions",
      Object.entries(facts)
        .filter(([, v]) => typeof v !== "object")
        .map(([k, v]) => `${k} ${v}`)
        .join(", "),
    ],
    ["Last written", run.written],
  ];
  return h(
    "div",
    { class: "card" },
    h("h2", {}, "What ran"),
    h(
      "dl",
      {},
      rows.filter(Boolean).flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, value)]),
    ),
  );
}

const interval = ({ low, high }) => `${percent(low)} to ${percent(high)}`;

/** Before and after, with intervals, and the difference problem by problem. */
function result(run, changes) {
  const rows = run.evaluations.map((row) => [
    `step ${row.step}`,
    `${row.data} (${row.split})`,
    `${number(row.problems)} \u00d7 ${row.samples}`,
    percent(row.accuracy.value),
    interval(row.accuracy),
    number(row.length_mean),
    percent(row.truncated),
    percent(row.no_answer),
  ]);
  const asked = [run.config["eval.data"], run.config["eval.validation"]].flat().some(Boolean);
  const head = ["when", "problems", "asked", "accuracy", "95 % interval", "mean tokens", "cut off", "no answer"];
  return h(
    "div",
    { class: "card" },
    h("h2", {}, "What came of it"),
    rows.length
      ? null
      : h("p", { class: "none" }, `Nothing was evaluated${asked ? " so far" : ": eval.data is not set"}.`),
    changes.map((change) =>
      h(
        "p",
        { class: "change" },
        `${change.data}: `,
        change.note ?? [
          h("strong", {}, `${points(change.difference.value)} points`),
          ` [${points(change.difference.low)}, ${points(change.difference.high)}] by step ${change.to}, `,
          verdict(change),
        ],
      ),
    ),
    rows.length ? table("Accuracy on problems that are not trained on", head, rows, [3, 4, 5, 6, 7]) : null,
  );
}

/** What a paired difference with its 95 % interval comes to. */
function verdict({ difference: { low, high }, problems, same, enough }) {
  const over = `over the same ${number(problems)} problems`;
  if (same) return `${over}: the same model asked twice, so by chance`;
  if (low > 0 || high < 0) return over;
  const takes = enough ? `; a difference of this size takes about ${number(enough)} problems like these` : "";
  return `${over}: within noise${takes}`;
}

function alarms(run) {
  if (!run.alarms.length) return null;
  const lines = run.alarms.map(([step, line]) => h("li", {}, h("strong", {}, `step ${step}`), " ", line));
  return h(
    "section",
    { class: "alarms" },
    h("h2", {}, "Alarms"),
    h("ul", {}, lines.slice(0, 50)),
    lines.length > 50 ? h("p", {}, `and ${lines.length - 50} more, in metrics.jsonl`) : null,
  );
}

function settings(run) {
  return h(
    "details",
    { class: "card" },
    h("summary", {}, "All settings"),
    table(
      "config.toml",
      ["key", "value"],
      Object.entries(run.config).map(([key, value]) => [key, String(value)]),
    ),
  );
}
