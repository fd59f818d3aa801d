for (const plot of document.querySelectorAll(".plot")) {
  const svg = plot.querySelector("svg");
  const [left, right, bottom, top, x0, x1, y0, y1] = plot.dataset.axes.split(" ").map(Number);
  const box = svg.viewBox.baseVal;
  const round = (number) => String(Number(number.toPrecision(4))).replace("-", "−");
  const lines = JSON.parse(plot.dataset.lines).map(([id, label, colour]) => {
    const path = document.getElementById(id)?.querySelector("path");
    const numbers = (path?.getAttribute("d").match(/-?[\d.]+(?:e-?\d+)?/g) ?? []).map(Number);
    const points = [];
    for (let place = 0; place + 1 < numbers.length; place += 2) points.push([numbers[place], numbers[place + 1]]);
    return { path, label, colour, points };
  }).filter((line) => line.points.length);
  if (!lines.length) continue;

  const mark = document.createElementNS("http://www.w3.org/2000/svg", "line");
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
    const nearest = (line) => line.points.reduce((a, b) => Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a);
    const found = seen.map((line) => [line, nearest(line)]);
    if (!found.length) return hide();
    at = found.reduce((a, b) => Math.abs(b[1][0] - wanted) < Math.abs(a[1][0] - wanted) ? b : a)[1][0];
    const step = x0 + (x1 - x0) * (at - left) / (right - left);
    const rows = found.filter(([, [x]]) => Math.abs(x - at) < 6).sort((a, b) => a[1][1] - b[1][1]);
    said.replaceChildren(`step ${round(step)}`, ...rows.map(([line, [, y]]) => {
      const row = document.createElement("div"), swatch = document.createElement("i"), value = document.createElement("b");
      swatch.style.background = line.colour;
      value.textContent = round(y0 + (y1 - y0) * (y - bottom) / (top - bottom));
      row.append(swatch, value, ` ${line.label}`);
      return row;
    }));
    mark.setAttribute("x1", at);
    mark.setAttribute("x2", at);
    said.style.left = at < box.width / 2 ? `${100 * at / box.width + 3}%` : "auto";
    said.style.right = at < box.width / 2 ? "auto" : `${100 - 100 * at / box.width + 3}%`;
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
    const steps = [...new Set(lines.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
    const now = at === null ? (way > 0 ? -1 : steps.length) : steps.findIndex((x) => Math.abs(x - at) < 0.01);
    show(steps[Math.min(steps.length - 1, Math.max(0, now + way))]);
  });
}
