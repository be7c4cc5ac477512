// Curves, drawn by uPlot: zoom by dragging, values under the pointer, numbers as a table for those who cannot see them.

const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];
const COLOURS = 6;
const ALIKE = 3; // lines of one dash: these colours are apart for everyone
const drawn = new Set(); // every chart on the page

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
/** An axis in words: one of a run's, or what a chart has of its own. */
const axisName = (axis) => page.data.axes[axis] ?? axis;
/** Line number i: six colours, and another dash with every three of them. */
const style = (i) => ({ colour: `--line${(i % COLOURS) + 1}`, dash: DASHES[Math.floor(i / ALIKE) % DASHES.length] });

/**
 * A chart with its legend and its table. `lines`: {label, name, x, y, low, high, colour, dash}: `name` is the metric's,
 * which the legend defines, or the title where it is given `name`; low and high are the ends of an interval, drawn as a
 * band.
 */
function chart({ title, name, unit, axis, lines, stacked = false, points: dots = false }) {
  const shown = lines.filter((line) => line.y.some((y) => y !== null));
  const figure = h("figure", { class: "chart" });
  const heading = h(
    "figcaption",
    {},
    h("strong", {}, name ? defined(name, title) : title),
    unit ? h("span", { class: "unit" }, ` ${unit}`) : "",
  );
  figure.append(heading);
  if (!shown.length) {
    figure.append(h("p", { class: "none" }, "not measured in this run"));
    return figure;
  }
  const values = shown.map(() => h("output", {}));
  const legend = h(
    "ul",
    { class: "legend" },
    shown.map((line, i) =>
      h(
        "li",
        {},
        swatch(line, i),
        line.name ? defined(line.name, line.label) : h("span", {}, line.label),
        " ",
        values[i],
      ),
    ),
  );
  const plot = h("div", { class: "plot", role: "img", "aria-label": `${title}: ${shown.map(summary).join("; ")}` });
  figure.append(legend, plot, numbers(title, axis, shown));
  const joined = join(shown);
  const settings = { shown, values, joined, stacked, axis, dots };
  const entry = { plot, settings, u: null };
  drawn.add(entry);
  new ResizeObserver(() => {
    if (!plot.isConnected) return;
    if (entry.u) entry.u.setSize({ width: plot.clientWidth, height: HEIGHT });
    else draw(entry);
  }).observe(plot);
  return figure;
}

const HEIGHT = 190;
const together = uPlot.sync("charts");

function swatch(line, i) {
  const { colour, dash } = { ...style(i), ...line };
  const stroke = { stroke: `var(${colour})`, "stroke-width": 3, "stroke-dasharray": dash.join(" ") };
  return picture({ width: 22, height: 8 }, ["line", { x1: 0, x2: 22, y1: 4, y2: 4, ...stroke }]);
}

function summary(line) {
  const known = line.y.filter((y) => y !== null);
  return `${line.label} from ${number(known[0])} to ${number(known.at(-1))}`;
}

/** Lines on one common axis: [xs, y1, y2, ...], and the bands' ends after them. */
function join(lines) {
  const tables = lines.flatMap((line) => [
    [line.x, line.y],
    ...(line.low
      ? [
          [line.x, line.high],
          [line.x, line.low],
        ]
      : []),
  ]);
  return tables.every(([x]) => x === tables[0][0]) ? [tables[0][0], ...tables.map(([, y]) => y)] : uPlot.join(tables);
}

function draw(entry) {
  const { shown, values, joined, stacked, axis, dots } = entry.settings;
  const ink = css("--ink");
  const grid = css("--grid");
  const series = [{ label: axisName(axis) }];
  const bands = [];
  const own = []; // which column of the data each line is
  shown.forEach((line, i) => {
    const { colour, dash } = { ...style(i), ...line };
    own.push(series.length);
    series.push({
      stroke: css(colour),
      width: 2,
      dash,
      spanGaps: true,
      points: { show: Boolean(line.low), size: 6 },
      ...(dots ? rings(i) : {}),
      ...(stacked ? { fill: mixed(css(colour), 0.45) } : {}),
    });
    if (line.low) {
      bands.push({ series: [series.length, series.length + 1], fill: mixed(css(colour), 0.2) });
      for (const _ of [0, 1]) series.push({ stroke: "transparent", points: { show: false }, spanGaps: true });
    }
  });
  const data = stacked ? stack(joined) : joined;
  if (stacked) for (let i = shown.length - 1; i > 0; i--) bands.push({ series: [i + 1, i], fill: series[i + 1].fill });
  const read = own.map((column) => reading(joined[column]));
  const tell = (u) => {
    const at = u.cursor.idx ?? null;
    values.forEach((output, i) => {
      const y = at === null ? null : read[i](at);
      output.textContent = y === null ? "" : number(y);
    });
  };
  const small = {
    stroke: ink,
    grid: { stroke: grid, width: 1 },
    ticks: { stroke: grid, width: 1 },
    font: "12px system-ui, sans-serif",
  };
  entry.u = new uPlot(
    {
      width: entry.plot.clientWidth || 300,
      height: HEIGHT,
      legend: { show: false },
      cursor: { sync: { key: together.key, setSeries: false }, points: { size: 7 } },
      scales: {
        x: { time: false },
        y: { range: (u, low, high) => (stacked ? [0, high || 1] : spread(low, high)) },
      },
      axes: [
        {
          ...small,
          values: (u, ticks) => ticks.map(compact),
          label: axisName(axis),
          labelSize: 18,
          labelFont: "12px system-ui, sans-serif",
          size: 30,
        },
        { ...small, values: (u, ticks) => ticks.map(compact), size: 56 },
      ],
      series,
      bands,
      hooks: { setCursor: [tell] },
    },
    data,
    entry.plot,
  );
}

/**
 * What a line says at row i of joined data: its value there, or, where only other lines have a point, the one before;
 * null beyond its ends.
 */
function reading(column) {
  const last = column.findLastIndex((y) => y !== undefined);
  return (i) => {
    let at = i <= last ? i : -1;
    while (at >= 0 && column[at] === undefined) at -= 1;
    return at < 0 ? null : column[at];
  };
}

/** A point each instead of a line, as a ring: none hides another. */
const rings = (i) => ({ paths: () => null, points: { show: true, size: 16 - 4 * i, width: 2, fill: "transparent" } });

/** What an axis spans: a little more than its values, and not nothing where they are all the same. */
function spread(low, high) {
  if (low === null) return [0, 1];
  if (low < high) return uPlot.rangeNum(low, high, 0.1, true);
  return low === 0 ? [0, 1] : [low - 0.1 * Math.abs(low), low + 0.1 * Math.abs(low)];
}

/** 12,000 as 12k: for an axis. */
function compact(x) {
  if (x === null) return "";
  const size = Math.abs(x);
  if (size >= 1e9) return `${Number((x / 1e9).toPrecision(3))}G`;
  if (size >= 1e6) return `${Number((x / 1e6).toPrecision(3))}M`;
  if (size >= 1e4) return `${Number((x / 1e3).toPrecision(3))}k`;
  return size > 0 && size < 1e-3 ? x.toExponential() : String(Number(x.toPrecision(6)));
}

function stack([x, ...ys]) {
  const below = x.map(() => 0);
  return [x, ...ys.map((y) => y.map((value, i) => (below[i] += value ?? 0)))];
}

function mixed(colour, alpha) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgba(${r}, ${g}, ${b}, ${alpha})`;
}

/** The numbers behind a chart, made when they are asked for; of many at most 200, spread evenly. */
function numbers(title, axis, lines) {
  const details = h("details", { class: "numbers" }, h("summary", {}, "Numbers"));
  details.addEventListener("toggle", () => {
    if (details.children.length > 1) return;
    const [xs, ...ys] = join(lines.map(({ x, y }) => ({ x, y })));
    const every = Math.max(1, Math.ceil(xs.length / 200));
    const read = ys.map(reading);
    const rows = xs
      .map((x, i) => [number(x, 7), ...read.map((value) => number(value(i), 7))])
      .filter((_, i) => (i + 1) % every === 0 || i === xs.length - 1);
    const head = [axisName(axis), ...lines.map((line) => line.label)];
    details.append(
      table(
        every > 1 ? `${title}, every ${every}th` : title,
        head,
        rows,
        head.map((_, i) => i),
      ),
    );
  });
  return details;
}

/** Show all charts between two values of their axis, or all of it. */
function zoom(from, to) {
  for (const { u, plot } of drawn)
    if (u && plot.isConnected) u.setScale("x", { min: from ?? u.data[0][0], max: to ?? u.data[0].at(-1) });
}

/** Whether somebody looks at a part of a chart. */
const zoomed = () =>
  [...drawn].some(({ u }) => u && (u.scales.x.min > u.data[0][0] || u.scales.x.max < u.data[0].at(-1)));

/** Let go of the charts that are shown no more. */
function sweep() {
  for (const entry of drawn)
    if (!entry.plot.isConnected) {
      entry.u?.destroy();
      drawn.delete(entry);
    }
}

/** Draw every chart again: the colours have changed. */
function redraw() {
  sweep();
  for (const entry of drawn) {
    entry.u?.destroy();
    entry.u = null;
    if (entry.plot.clientWidth) draw(entry);
  }
}
