// Elements, text and numbers. Whatever a model wrote becomes text nodes here, never markup.

/** An element: h("td", {class: "n", onclick: f}, child, ...). Strings become text, as `seen` spells it. */
function h(tag, attributes = {}, ...children) {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) el.addEventListener(name.slice(2), value);
    else if (value === true) el.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) el.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity))
    if (child instanceof Node) el.append(child);
    else if (child !== null && child !== undefined && child !== false) el.append(...seen(String(child)));
  return el;
}

/** A picture, which those who cannot see it are told of elsewhere; a strict policy lets its parts have a size. */
function picture(attributes, ...parts) {
  const of = (tag, named) => {
    const el = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(named)) el.setAttribute(name, value);
    return el;
  };
  const svg = of("svg", { "aria-hidden": "true", ...attributes });
  svg.append(...parts.map(([tag, named]) => of(tag, named)));
  return svg;
}

/** What the horizontal bar of a share is drawn in. */
const BAR = { class: "bar", preserveAspectRatio: "none" };

// What is invisible or turns the text around is spelled out instead.
const HIDDEN = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad" + // controls, but for tab and line feed; the soft hyphen
    "\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff\\ufff9-\\ufffb]" + // no width, or another direction
    "|[\\ud800-\\udbff](?![\\udc00-\\udfff])|(?<![\\ud800-\\udbff])[\\udc00-\\udfff]", // half a character
  "g",
);

/** Text nodes for a string, with what cannot be seen spelled out. */
function seen(string) {
  const parts = [];
  let from = 0;
  for (const match of string.matchAll(HIDDEN)) {
    parts.push(string.slice(from, match.index));
    const code = match[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0");
    parts.push(h("span", { class: "control", title: `U+${code}` }, `U+${code}`));
    from = match.index + match[0].length;
  }
  parts.push(string.slice(from));
  return parts.filter((part) => part !== "");
}

/** The beginning of a string on one line. */
function short(string, length = 60) {
  const letters = [...string.slice(0, 4 * length).replace(/\s+/g, " ")];
  return letters.length > length ? `${letters.slice(0, length - 1).join("")}\u2026` : letters.join("");
}

/** A number for people: whole ones in full, others with four digits; a dash for none. */
function number(x, digits = 4) {
  if (x === null || x === undefined || Number.isNaN(x)) return "\u2013";
  if (Number.isInteger(x)) return x.toLocaleString("en-US");
  if (Math.abs(x) < 1e-3) return x.toExponential(digits - 1);
  return Math.abs(x) >= 10 ** digits
    ? Math.round(x).toLocaleString("en-US")
    : x.toLocaleString("en-US", { maximumSignificantDigits: digits });
}

const percent = (x, digits = 1) => (x === null || x === undefined ? "\u2013" : `${(100 * x).toFixed(digits)} %`);
const points = (x) => (x > 0 ? "+" : x < 0 ? "\u2212" : "") + (100 * Math.abs(x)).toFixed(1);
const signed = (x) => (x > 0 ? `+${number(x, 3)}` : x < 0 ? `\u2212${number(-x, 3)}` : number(x, 3));
const words = (name) => name.replaceAll("_", " ");

/** A table with a header row; cells of columns named in `numeric` stand at the right. The first cell heads its row. */
function table(caption, head, rows, numeric = []) {
  const align = (i) => (numeric.includes(i) ? "n" : null);
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", {}, caption),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          head.map((cell, i) => h("th", { scope: "col", class: align(i) }, cell)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            row.map((cell, i) =>
              i === 0 ? h("th", { scope: "row", class: align(i) }, cell) : h("td", { class: align(i) }, cell),
            ),
          ),
        ),
      ),
    ),
  );
}

/** A control with its label; its id follows from `id`, which no run has chosen. */
function labelled(label, control, id = label) {
  control.id = `field-${id.replaceAll(" ", "-").toLowerCase()}`;
  return h("span", { class: "choice" }, h("label", { for: control.id }, label), control);
}

/** A labelled choice. `options`: [value, text]. */
function choice(label, options, chosen, onchange) {
  const select = h(
    "select",
    { onchange: () => onchange(select.value) },
    options.map(([value, text]) => h("option", { value, selected: String(value) === String(chosen) }, text)),
  );
  return labelled(label, select);
}

/** A tick box with its label. */
function tick(label, checked, onchange, id = label) {
  const box = h("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return labelled(label, box, id);
}

/** A name that explains itself when it is pressed: what it is, in the unit it has. */
function defined(name, label = name) {
  const metric = page.data.metrics[name];
  if (!metric) return h("span", {}, label);
  const button = h(
    "button",
    {
      type: "button",
      class: "defined",
      "aria-haspopup": "dialog",
      onclick: () => hint(button, name, metric),
    },
    label,
  );
  return button;
}

function hint(button, name, metric) {
  const box = document.getElementById("hint");
  const again = !box.hidden && box.dataset.name === name;
  box.hidden = again;
  if (again) return;
  box.dataset.name = name;
  const close = h(
    "button",
    {
      type: "button",
      onclick: () => {
        box.hidden = true;
        button.focus();
      },
    },
    "Close",
  );
  box.replaceChildren(
    h("p", {}, h("code", {}, name), metric.unit ? ` in ${metric.unit}` : ""),
    h("p", {}, `${metric.meaning}.`),
    close,
  );
  box.onkeydown = (event) => {
    if (event.key === "Escape") close.click();
  };
  const at = button.getBoundingClientRect();
  const most = document.documentElement.clientWidth - box.offsetWidth - 8;
  box.style.top = `${at.bottom + window.scrollY + 4}px`;
  box.style.left = `${Math.max(8, Math.min(at.left, most)) + window.scrollX}px`;
  close.focus({ preventScroll: true });
}
