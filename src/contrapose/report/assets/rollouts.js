// The inspector: one prompt's rollouts side by side, what the objective made of them, and what others would have.

const FOLD = 1500; // characters or tokens of a rollout beyond which its middle is folded away
const ENDS = [750, 500]; // of which so many are left before and after
const ORDERS = {
  drawn: ["as drawn", (group, k) => k],
  credit: ["credit", (group, k) => -(group.credit?.[k] ?? 0)],
  score: ["score", (group, k) => -(group.score?.[k] ?? 0)],
  reward: ["reward", (group, k) => -group.reward[k]],
  length: ["length", (group, k) => -group.tokens[k]],
};

function inspect(run, group, state) {
  const ks = group.text
    .map((_, k) => k)
    .sort((a, b) => ORDERS[state.order][1](group, a) - ORDERS[state.order][1](group, b));
  const name = String(run.config["objective.name"]);
  const shade = group.token_credit && shades(name, group).some(([known]) => known === state.shade) ? state.shade : "";
  return [
    h("h2", { class: "question" }, h("bdi", {}, group.problem)),
    h(
      "p",
      {},
      "Answer ",
      h("strong", {}, h("bdi", {}, group.answer)),
      ` \u00b7 step ${group.step} \u00b7 ${FATES[fateOf(group)]} \u00b7 `,
      `${right(group)} of ${group.correct.length} right`,
      group.cancelled ? ` \u00b7 ${group.cancelled.length} more were cancelled` : "",
    ),
    group.others
      ? credited(name, group, ks)
      : group.credit
        ? h(
            "p",
            { class: "note" },
            "What other objectives would have credited was written for groups marked \u201ctoken by token\u201d.",
          )
        : null,
    h(
      "div",
      { class: "controls" },
      choice(
        "Rollouts by",
        Object.entries(ORDERS)
          .filter(([order]) => group.credit || !["credit", "score"].includes(order))
          .map(([order, [label]]) => [order, label]),
        state.order,
        (order) => go({ order }),
      ),
      group.token_credit
        ? choice("Tokens shaded by", shades(name, group), shade, (chosen) => go({ shade: chosen }))
        : null,
    ),
    shade ? key(shade) : null,
    h(
      "div",
      { class: "rollouts" },
      ks.map((k) => rollout(group, k, shade)),
    ),
  ];
}

const shades = (name, group) => [
  ["", "nothing"],
  ["own", `credit of ${name}`],
  ...Object.keys(group.token_others).map((other) => [other, `credit of ${other}`]),
  ["logp", "log-prob"],
];

const key = (shade) =>
  h(
    "p",
    { class: "note" },
    shade === "logp"
      ? [
          "unlikely ",
          ...["n5", "n3", "n1"].map((level) => h("span", { class: level }, "\u00a0\u00a0")),
          " likely, beside the unlikeliest of the group",
        ]
      : [
          "pushed down ",
          ...["n5", "n3", "n1", "p1", "p3", "p5"].map((level) => h("span", { class: level }, "\u00a0\u00a0")),
          " pulled up, beside the largest of the group",
        ],
  );

/** Every objective's credit of every rollout, as a share of all that it gives the group. */
function credited(name, group, ks) {
  const all = [[name, group.credit], ...Object.entries(group.others)];
  const shares = new Map(
    all.map(([other, credit]) => {
      const total = credit.reduce((sum, x) => sum + Math.abs(x ?? 0), 0);
      return [other, credit.map((x) => (total ? (x ?? 0) / total : 0))];
    }),
  );
  const most = Math.max(...[...shares.values()].flat().map(Math.abs)) || 1;
  const cell = (other, credit, k) =>
    h(
      "span",
      { class: "credit", title: `credit ${signed(credit[k])}` },
      pushed(shares.get(other)[k] / most),
      h("span", {}, points(shares.get(other)[k])),
    );
  const head = ["objective", ...ks.map((k) => `#${k + 1} ${group.correct[k] ? "\u2713" : "\u2717"}`)];
  const rows = all.map(([other, credit], i) => [
    i ? other : h("strong", {}, other),
    ...ks.map((k) => cell(other, credit, k)),
  ]);
  return h(
    "details",
    { class: "card", open: true },
    h("summary", {}, "What each objective would credit these rollouts"),
    table(
      "Share of the group's total credit, in %: + pulls up, \u2212 pushes down",
      head,
      rows,
      head.map((_, i) => i).slice(1),
    ),
    group.token_logp ? against(name, group, shares) : null,
  );
}

/** ConSPO's Figure 1 on these rollouts: how likely a rollout is, and how hard it is pushed. */
function against(name, group, shares) {
  const logp = group.token_logp.map((x, k) => {
    const all = each(x, group, k);
    return all.reduce((sum, v) => sum + (v ?? 0), 0) / Math.max(1, all.length);
  });
  const order = logp.map((_, k) => k).sort((a, b) => logp[a] - logp[b]);
  const x = order.map((k) => logp[k]); // one for all lines: two rollouts that are as likely stay two points
  const chosen = [...new Set([name, "grpo", "conspo", "rence"])].filter((other) => shares.has(other));
  return chart({
    title: "Credit against likelihood",
    unit: "% of the group's total credit, a point a rollout",
    axis: "mean log-prob a token, nats",
    points: true,
    lines: chosen.map((other) => ({
      label: other,
      x,
      y: order.map((k) => 100 * shares.get(other)[k]),
    })),
  });
}

/** The values of each token of rollout k: written once where all are the same. */
const each = (x, group, k) => (Array.isArray(x) ? x : group.pieces[k].map(() => x));

/** A bar to the right of the middle for a pull, to the left for a push. */
function pushed(share) {
  const width = 50 * Math.abs(share);
  return picture(
    { ...BAR, viewBox: "-50 0 100 10" },
    ["rect", { x: share < 0 ? -width : 0, width, height: 10, class: share < 0 ? "down" : "up" }],
    ["rect", { x: -0.4, width: 0.8, height: 10, class: "middle" }],
  );
}

/** One rollout: what came of it, and what it said. */
function rollout(group, k, shade) {
  const credit = group.credit?.[k];
  const most = Math.max(...(group.credit ?? [0]).map((x) => Math.abs(x ?? 0))) || 1;
  const facts = [
    ["answer", group.boxed[k] === null ? "\u2013" : h("bdi", {}, short(group.boxed[k]))],
    ["reward", number(group.reward[k])],
    ["tokens", `${number(group.tokens[k])}${group.finished[k] === "length" ? ", cut off" : ""}`],
    ...(group.credit
      ? [
          [defined("score"), number(group.score[k])],
          [defined("p_positive", "P_i+"), number(group.p_positive[k])],
        ]
      : []),
  ];
  return h(
    "article",
    { class: group.correct[k] ? "rollout right" : "rollout wrong", "aria-label": `rollout ${k + 1}` },
    h(
      "h3",
      {},
      `#${k + 1} `,
      h("span", { class: "verdict" }, group.correct[k] ? "\u2713 right" : `\u2717 ${words(group.status[k])}`),
    ),
    h(
      "dl",
      { class: "facts" },
      facts.flatMap(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]),
    ),
    group.credit
      ? h(
          "p",
          { class: "credit" },
          defined("credit"),
          " ",
          pushed((credit ?? 0) / most),
          ` ${credit > 0 ? "\u25b2" : credit < 0 ? "\u25bc" : ""} ${signed(credit)}`,
        )
      : null,
    shade ? shaded(group, k, shade) : said(group.text[k], group.boxed[k]),
  );
}

/** The text, its boxed answer marked, with the middle of a long one folded away. */
function said(text, boxed) {
  const [from, to] = placeOf(text, boxed);
  const marked = (a, b) => (a < b ? h("mark", {}, text.slice(a, b)) : null);
  const cut = (a, b) => [
    text.slice(a, Math.max(a, Math.min(b, from))),
    marked(Math.max(a, from), Math.min(b, to)),
    text.slice(Math.min(b, Math.max(a, to)), b),
  ];
  const pre = h("pre", { dir: "auto", tabindex: -1 });
  if (text.length <= FOLD) put(pre, cut(0, text.length));
  else {
    const [start, end] = [ENDS[0], text.length - ENDS[1]].map((at) => between(text, at));
    put(
      pre,
      cut(0, start),
      fold(pre, `${number(end - start)} more characters`, () => cut(start, end)),
      cut(end, text.length),
    );
  }
  if (!text) pre.append(h("em", {}, "nothing"));
  return pre;
}

/** Where the last box that holds the answer stands; nowhere if it was not written just so. */
function placeOf(text, boxed) {
  let place = [0, 0];
  if (boxed === null) return place;
  for (const { index, 0: opening } of text.matchAll(/\\f?boxed\s*\{\s*/g)) {
    const end = index + opening.length + boxed.length;
    const closing = /^\s*\}/.exec(text.slice(end, end + 20));
    if (closing && text.startsWith(boxed, index + opening.length)) place = [index, end + closing[0].length];
  }
  return place;
}

const put = (el, ...children) => el.append(...h("span", {}, children).childNodes);

/** A button that becomes what it hides; the keyboard stays in `pre`. */
function fold(pre, what, hidden) {
  const button = h("button", { type: "button", class: "fold" }, `show ${what}`);
  button.addEventListener("click", () => {
    button.replaceWith(...h("span", {}, hidden()).childNodes);
    pre.focus();
  });
  return button;
}

/** Where a text can be cut at ``at``: not in the middle of a character. */
const between = (text, at) => (/[\udc00-\udfff]/.test(text[at] ?? "") ? at - 1 : at);

/** The tokens, each shaded by its credit beside the largest of the group, or by how unlikely it was. */
function shaded(group, k, shade) {
  const values = { own: group.token_credit, logp: group.token_logp, ...group.token_others }[shade];
  const largest = (x) => [x].flat().reduce((most, value) => Math.max(most, Math.abs(value ?? 0)), 0);
  const most = largest(values.map(largest)) || 1;
  const mine = each(values[k], group, k);
  const logp = each(group.token_logp[k], group, k);
  const pieces = group.pieces[k];
  const credit = (i) => (shade === "logp" ? "" : `credit ${signed(mine[i])}, `);
  const span = (i) => {
    const level = Math.round((5 * Math.abs(mine[i] ?? 0)) / most);
    return h("span", { class: level ? `${mine[i] < 0 ? "n" : "p"}${level}` : null, "data-i": i }, pieces[i]);
  };
  const told = h("output", { class: "note" }, "\u00a0");
  const pre = h("pre", {
    class: "tokens",
    dir: "auto",
    tabindex: 0,
    "aria-label": "tokens: arrow keys go through them",
  });
  let at = null;
  const point = (span) => {
    if (!span) return;
    pre.querySelector(".current")?.classList.remove("current");
    span.classList.add("current");
    at = span;
    const i = Number(span.dataset.i);
    told.textContent = `token ${i + 1}: ${credit(i)}log-prob ${number(logp[i], 3)}`;
  };
  pre.addEventListener("mouseover", ({ target }) => point(target.closest("[data-i]")));
  pre.addEventListener("keydown", ({ key, target }) => {
    if (target !== pre) return;
    if (key === "ArrowRight") point(at ? at.nextElementSibling?.closest("[data-i]") : pre.querySelector("[data-i]"));
    if (key === "ArrowLeft") point(at?.previousElementSibling?.closest("[data-i]"));
  });
  const all = pieces.map((_, i) => i);
  const [start, end] = all.length > FOLD ? [ENDS[0], all.length - ENDS[1]] : [all.length, all.length];
  put(pre, all.slice(0, start).map(span));
  if (start < end)
    put(
      pre,
      fold(pre, `${number(end - start)} more tokens`, () => all.slice(start, end).map(span)),
    );
  put(pre, all.slice(end).map(span));
  return [pre, told];
}
