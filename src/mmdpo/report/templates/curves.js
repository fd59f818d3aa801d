// Values under the pointer, smoothing and a log scale for panels of curves: all read from the drawn lines.
const SVG = "http://www.w3.org/2000/svg";
const round = (number, digits) => String(Number(number.toPrecision(digits))).replace("-", "−");

function readPlot(plot) {
  const svg = plot.querySelector("svg");
  const [left, right, bottom, top, x0, x1, y0, y1] = plot.dataset.axes.split(" ").map(Number);
  const box = svg.viewBox.baseVal;
  // Lines are drawn to so many points: digits beyond that would be made up.
  const fine = "log" in plot.dataset ? 1e-5 : 1e-3;
  const within = (from, to, length) => {
    const unit = 10 ** Math.ceil(Math.log10(2 * fine * Math.abs((to - from) / length)));
    return (number, digits = 12) => round(Math.round(number / unit) * unit, digits);
  };
  const showStep = within(x0, x1, right - left), showValue = within(y0, y1, top - bottom);
  const valueAt = (y) => y0 + (y1 - y0) * (y - bottom) / (top - bottom);
  const find = (path) => (path?.getAttribute("d").match(/-?[\d.]+(?:e-?\d+)?/g) ?? []).map(Number);
  const pair = (numbers) => Array.from({ length: numbers.length >> 1 }, (_, at) => numbers.slice(2 * at, 2 * at + 2));
  const join = (points, end = "") => points.map(([x, y], at) => `${at ? "L" : "M"} ${x} ${y}`).join(" ") + end;
  const lines = JSON.parse(plot.dataset.lines).map(([id, label, colour]) => {
    const group = document.getElementById(id), path = group?.querySelector("path");
    const points = pair(find(path)).map(([x, y]) => ({ x, y, value: valueAt(y) }));
    const band = document.getElementById(id.replace(/-(\w+)$/, "-band-$1"));
    const edge = band?.querySelector("path"), used = band?.querySelector("use");
    const away = used ? [Number(used.getAttribute("x")), Number(used.getAttribute("y"))] : [0, 0];
    return { group, path, label, colour, points, edge, away, edges: pair(find(edge)) };
  }).filter((line) => line.points.length);
  if (!lines.length) return null;

  // Where a value stands on a log scale: the axis ends a little beyond the least and the greatest that is drawn.
  const all = lines.flatMap((line) => [
    ...line.points.map(({ value }) => value), ...line.edges.map(([, y]) => valueAt(y + line.away[1])),
  ]);
  const [least, most] = [Math.log(Math.min(...all)), Math.log(Math.max(...all))];
  const pad = 0.05 * (most - least);
  const onLog = (value) => bottom + (top - bottom) * (Math.log(value) - least + pad) / (most - least + 2 * pad);
  const canLog = "log" in plot.dataset && most - least > 0.1;
  let ticks = null;

  function drawTicks() {
    ticks = document.createElementNS(SVG, "g");
    ticks.setAttribute("class", "ticks");
    const from = Math.floor(least / Math.LN10), decades = Math.ceil(most / Math.LN10) - from + 1;
    const inside = (heads) => Array.from({ length: decades }, (_, at) => heads.map((head) => Number(`${head}e${from + at}`)))
      .flat().filter((value) => onLog(value) <= bottom && onLog(value) >= top);
    let values = [[1], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9]].map(inside).find((some) => some.length > 2) ?? [];
    if (!values.length) values = [0, 0.5, 1].map((share) => Number(Math.exp(least + share * (most - least)).toPrecision(3)));
    for (const value of values) {
      const line = document.createElementNS(SVG, "line"), text = document.createElementNS(SVG, "text");
      for (const [name, set] of Object.entries({ x1: left, x2: right, y1: onLog(value), y2: onLog(value) })) line.setAttribute(name, set);
      text.setAttribute("x", left - 7);
      text.setAttribute("y", onLog(value) + 3);
      text.textContent = value < 0.001 || value >= 10000 ? value.toExponential().replace("e+", "e").replace("-", "−") : round(value, 3);
      ticks.append(line, text);
    }
    svg.append(ticks);
  }

  function look(weight, wantsLog) {
    const isLog = wantsLog && canLog, place = (point) => (isLog ? onLog(point.value) : point.y);
    if (isLog && !ticks) drawTicks();
    plot.classList.toggle("log", isLog);
    for (const line of lines) {
      let mean = 0, share = 0;
      for (const point of line.points) {  // as TensorBoard smooths: a running mean, without a pull to its start at 0
        mean = weight * mean + (1 - weight) * point.value;
        share = weight * share + 1 - weight;
        point.smooth = mean / share;
      }
      const raw = join(line.points.map((point) => [point.x, place(point)]));
      line.raw?.remove();
      line.raw = null;
      if (weight) {
        line.raw = line.path.cloneNode();
        line.raw.setAttribute("d", raw);
        line.raw.setAttribute("class", "raw");
        line.path.before(line.raw);
      }
      const height = (value) => (isLog ? onLog(value) : bottom + (top - bottom) * (value - y0) / (y1 - y0));
      line.path.setAttribute("d", weight ? join(line.points.map(({ x, smooth }) => [x, height(smooth)])) : raw);
      line.group.querySelectorAll("use").forEach((marker, at) => marker.setAttribute("y", place(line.points[at])));
      line.edge?.setAttribute("d", join(line.edges.map(([x, y]) => [x, isLog ? onLog(valueAt(y + line.away[1])) - line.away[1] : y]), " z"));
    }
  }

  const mark = document.createElementNS(SVG, "line");
  const said = document.createElement("div");
  said.className = "values";
  said.setAttribute("role", "status");
  mark.setAttribute("class", "at");
  mark.setAttribute("y1", top);
  mark.setAttribute("y2", bottom);
  svg.append(mark);
  plot.append(said);
  let at = null;

  const hide = () => { at = null; plot.classList.remove("read"); };
  const show = (wanted) => {
    const seen = lines.filter((line) => line.path.checkVisibility());
    const nearest = (line) => line.points.reduce((a, b) => Math.abs(b.x - wanted) < Math.abs(a.x - wanted) ? b : a);
    const found = seen.map((line) => [line, nearest(line)]);
    if (!found.length) return hide();
    at = found.reduce((a, b) => Math.abs(b[1].x - wanted) < Math.abs(a[1].x - wanted) ? b : a)[1].x;
    const step = x0 + (x1 - x0) * (at - left) / (right - left);
    const rows = found.filter(([, { x }]) => Math.abs(x - at) < 6).sort((a, b) => b[1].value - a[1].value);
    const head = `step ${showStep(step)}${lines[0].raw ? ": logged (smoothed)" : ""}`;
    said.replaceChildren(head, ...rows.map(([line, point]) => {
      const row = document.createElement("div"), swatch = document.createElement("i"), value = document.createElement("b");
      swatch.style.background = line.colour;
      value.textContent = showValue(point.value, 4);
      row.append(swatch, value, line.raw ? ` (${showValue(point.smooth, 4)}) ${line.label}` : ` ${line.label}`);
      return row;
    }));
    mark.setAttribute("x1", at);
    mark.setAttribute("x2", at);
    const share = 100 * at / box.width;
    said.style.left = share < 50 ? `${share + 3}%` : "auto";
    said.style.right = share < 50 ? "auto" : `${103 - share}%`;
    said.style.maxWidth = `${Math.max(share, 100 - share) - 3}%`;
    plot.classList.add("read");
  };

  plot.addEventListener("pointermove", (event) => {
    const place = svg.getBoundingClientRect();
    show((event.clientX - place.left) / place.width * box.width);
  });
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") hide();
    if (!way) return;
    event.preventDefault();
    const steps = [...new Set(lines.flatMap((line) => line.points.map(({ x }) => x)))].sort((a, b) => a - b);
    const now = at === null ? (way > 0 ? -1 : steps.length) : steps.findIndex((x) => Math.abs(x - at) < 0.01);
    show(steps[Math.min(steps.length - 1, Math.max(0, now + way))]);
  });
  return { look, canLog, isLong: lines.some((line) => line.points.length > 10) };
}

for (const panels of document.querySelectorAll(".panels")) {
  const plots = [...panels.querySelectorAll(".plot")].map(readPlot).filter(Boolean);
  const control = (words, type, set) => {
    const label = document.createElement("label"), input = document.createElement("input");
    Object.assign(input, { type }, set);
    input.addEventListener("input", () => plots.forEach((plot) => plot.look(Number(smooth.input.value), log.input.checked)));
    label.append(...(type === "range" ? [words, input] : [input, words]));
    return { label, input };
  };
  const smooth = control("smoothing ", "range", { min: 0, max: 0.95, step: 0.05, value: 0 });
  const log = control(" log scale, where all values are positive", "checkbox", {});
  const looks = document.createElement("div");
  looks.className = "looks";
  if (plots.some((plot) => plot.isLong)) looks.append(smooth.label);
  if (plots.some((plot) => plot.canLog)) looks.append(log.label);
  if (looks.childElementCount) panels.querySelector(".curves").before(looks);
}
