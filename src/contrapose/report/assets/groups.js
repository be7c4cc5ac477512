// The groups that can be looked at: found by step, fate and text, and listed beside the one that was chosen.

const LISTED = 300;
const FATES = {
  train: "trained on",
  surplus: "passed, not trained on",
  too_hard: "too hard",
  too_easy: "too easy",
  mastered: "mastered",
};
const fateOf = (group) => (group.fate === "train" && !group.credit ? "surplus" : group.fate);
const right = (group) => group.correct.filter(Boolean).length;

function groups(run, state) {
  if (!run.groups.length) return [h("p", { class: "none" }, "No group was written yet.")];
  const steps = [...new Set(run.groups.map(({ step }) => step))];
  if (state.step !== 0 && !steps.includes(state.step)) state.step = run.groups[state.group]?.step ?? firstTold(run);
  const found = filtered(run, state);
  const group = found.includes(run.groups[state.group]) ? run.groups[state.group] : found[0];
  return [
    h("p", { class: "note" }, `To look at: ${run.rule}.`),
    groupControls(steps, state),
    h(
      "div",
      { class: "inspector" },
      h(
        "nav",
        { "aria-label": "Groups" },
        h("p", { class: "note", role: "status" }, counted(found)),
        list(run, found, group),
      ),
      h(
        "div",
        { id: "group" },
        group ? inspect(run, group, state) : h("p", { class: "none" }, "No group passes these filters."),
      ),
    ),
  ];
}

const counted = (found) =>
  `${number(found.length)} groups${found.length > LISTED ? `, the first ${LISTED} of them listed` : ""}`;

/** The step to begin with: the first with a group that was written token by token. */
const firstTold = (run) => (run.groups.find((group) => group.token_credit) ?? run.groups[0]).step;

function filtered(run, state) {
  const search = state.search.toLowerCase();
  const found = run.groups.filter(
    (group) =>
      (state.step === 0 || group.step === state.step) &&
      (!state.fate || fateOf(group) === state.fate) &&
      (!state.mixed || (right(group) > 0 && right(group) < group.correct.length)) &&
      (!state.detailed || group.token_credit) &&
      (!search || `${group.problem}\n${group.answer}\n${group.text.join("\n")}`.toLowerCase().includes(search)),
  );
  // of a step first those with most to tell
  return found.sort((a, b) => a.step - b.step || !a.token_credit - !b.token_credit || !a.credit - !b.credit);
}

function groupControls(steps, state) {
  const to = (step) => go({ step, group: null });
  const at = steps.indexOf(state.step);
  const stride = (by, label, id) =>
    h(
      "button",
      {
        type: "button",
        id,
        "aria-label": label,
        disabled: at < 0 || !(at + by in steps),
        onclick: () => to(steps[at + by]),
      },
      by < 0 ? "\u2190" : "\u2192",
    );
  const search = h("input", {
    type: "search",
    value: state.search,
    onchange: () => go({ search: search.value, group: null, ...(search.value ? { step: 0 } : {}) }),
  });
  return h(
    "div",
    { class: "controls" },
    choice("Step", [[0, "all"], ...steps.map((step) => [step, step])], state.step, (value) => to(Number(value))),
    stride(-1, "The step before", "step-before"),
    stride(1, "The step after", "step-after"),
    choice("Fate", [["", "any"], ...Object.entries(FATES)], state.fate, (fate) => go({ fate, group: null })),
    tick("right and wrong ones", state.mixed, (mixed) => go({ mixed, group: null })),
    tick("written token by token", state.detailed, (detailed) => go({ detailed, group: null })),
    labelled("Text", search),
  );
}

function list(run, found, chosen) {
  const at = new Map(run.groups.map((group, i) => [group, i])); // which group the address names
  return h(
    "ol",
    { class: "groups" },
    found.slice(0, LISTED).map((group) =>
      h(
        "li",
        {},
        h(
          "button",
          {
            type: "button",
            id: `group-${at.get(group)}`, // so that the keyboard stays there
            "aria-current": group === chosen ? "true" : null,
            onclick: () => {
              go({ group: at.get(group) });
              document.getElementById("group").scrollIntoView({ block: "nearest" });
            },
          },
          h("span", { class: "problem" }, short(group.problem)),
          h("span", { class: "about" }, about(group)),
        ),
      ),
    ),
  );
}

function about(group) {
  const told = [`${right(group)}/${group.correct.length} right`, FATES[fateOf(group)]];
  if (group.token_credit) told.push("token by token");
  if (page.state.step === 0) told.push(`step ${group.step}`);
  return told.join(" \u00b7 ");
}
