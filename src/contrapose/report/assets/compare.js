// Several runs over one another: curves, final accuracy with paired differences, and what their settings differ in.

function compare(runs, state) {
  const axis = state.axis;
  const shown = runs.filter((_, i) => !state.hidden.has(i));
  const line = (series) => (run) => ({
    ...style(runs.indexOf(run)),
    label: run.name,
    x: run.axes[axis],
    y: run.series[series],
  });
  return [
    h("section", {}, h("h2", {}, "At the end"), finals(runs)),
    h("section", {}, h("h2", {}, "What their settings differ in"), ablation(runs)),
    h(
      "div",
      { class: "controls" },
      runs.map((run, i) =>
        tick(
          run.name,
          !state.hidden.has(i),
          (on) => {
            if (on) state.hidden.delete(i);
            else state.hidden.add(i);
            page.show();
          },
          `shown ${i}`,
        ),
      ),
    ),
    axisControls(shown[0] ?? runs[0], state),
    h(
      "section",
      {},
      h(
        "div",
        { class: "charts" },
        heldOut(shown, axis, true),
        page.data.sections
          .flatMap(({ charts }) => charts)
          .flatMap(({ title, unit, series }) =>
            series.map((name) =>
              chart({
                title: series.length > 1 ? `${title}: ${words(seriesLabel(name))}` : title,
                name,
                unit,
                axis,
                lines: shown.map(line(name)),
              }),
            ),
          ),
      ),
    ),
  ];
}

/** The last test of every run, and how far it is from the first run's on the same problems. */
function finals(runs) {
  const head = [
    "run",
    "problems",
    "step",
    "accuracy",
    "95 % interval",
    `points beyond ${runs[0].name}`,
    "95 % interval, paired",
    "verdict",
  ];
  const rows = runs.flatMap((run, i) => {
    const tests = run.evaluations.filter(({ split }) => split === "test");
    const sets = [...new Set(tests.map(({ data }) => data))];
    return sets.map((data) => {
      const last = tests.filter((row) => row.data === data).reduce((a, b) => (b.step >= a.step ? b : a));
      const paired = i ? page.data.differences[i - 1].find((found) => found.data === data) : null;
      const cells = paired?.difference
        ? [
            points(paired.difference.value),
            `${points(paired.difference.low)} to ${points(paired.difference.high)}`,
            h("div", { class: "said" }, verdict(paired), otherwise(paired)),
          ]
        : ["", "", paired?.note ?? (i ? "not asked of both" : "")];
      return [run.name, data, number(last.step), percent(last.accuracy.value), interval(last.accuracy), ...cells];
    });
  });
  return rows.length
    ? table("Accuracy on test problems", head, rows, [2, 3, 4, 5, 6])
    : h("p", { class: "none" }, "No run was tested.");
}

// the seed of the sampling differs with that of the run, which the settings below say
const otherwise = ({ settings: all }, settings = all.filter(([key]) => key !== "seed")) =>
  settings.length
    ? `; asked otherwise: ${settings.map(([key, here, there]) => `${key} ${here}, ${there}`).join("; ")}`
    : "";

function ablation(runs) {
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.config)))];
  const value = (run, key) =>
    Object.hasOwn(run.config, key) ? JSON.stringify(run.config[key]).replace(/^"|"$/g, "") : "\u2013";
  const differ = keys.filter((key) => new Set(runs.map((run) => value(run, key))).size > 1);
  if (!differ.length) return h("p", { class: "none" }, "Nothing: these are the same settings.");
  return table(
    "Settings that are not the same in all runs",
    ["setting", ...runs.map(({ name }) => name)],
    differ.map((key) => [key, ...runs.map((run) => value(run, key))]),
  );
}
