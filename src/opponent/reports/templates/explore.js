"use strict";
// The page's own part: what is marked, where, and as which thumbnails. Plots are Bokeh's.
window.explorer = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const PAGE = 60;
  const mosaic = $("mosaic"), card = $("card"), gallery = $("gallery");
  const cells = [...mosaic.querySelectorAll(".cell")];
  // The images of each cell, in the order of the buttons.
  const inside = cells.map(() => []);
  data.cells.forEach((cell, image) => { if (cell >= 0) inside[cell].push(image); });
  let source = null, marked = [], shown = 0;

  const signed = (x) => (x < 0 ? "\u2212" : "+") + Math.abs(x).toPrecision(3);

  // One rule a sheet: a style of its own for each thumbnail would parse all of it every time.
  const rules = document.createElement("style");
  rules.textContent = data.sheets.map((sheet, k) => `.sheet${k} { background-image: url("${sheet}"); }`).join("\n");
  document.head.append(rules);

  function place(element, image) {
    const sheet = Math.floor(image / (data.across * data.down));
    const at = image % (data.across * data.down);
    const column = at % data.across, row = Math.floor(at / data.across);
    for (const name of [...element.classList]) if (name.startsWith("sheet")) element.classList.remove(name);
    element.classList.add(`sheet${sheet}`);
    element.style.backgroundSize = `${data.across * 100}% ${data.down * 100}%`;
    element.style.backgroundPosition =
      `${(column * 100) / (data.across - 1)}% ${(row * 100) / (data.down - 1)}%`;
  }

  function facts(image) {
    const { activation, excitation, inhibition, l2 } = data.numbers;
    const deviations = activation[image] / data.deviation;
    const sd = data.deviation ? ` (${deviations < 0 ? "\u2212" : "+"}${Math.abs(deviations).toFixed(1)} sd)` : "";
    const rows = [
      ["activation", signed(activation[image]) + sd],
      ["excitation", excitation[image].toPrecision(3)],
      ["inhibition", inhibition[image].toPrecision(3)],
      ["tension", Math.min(excitation[image], inhibition[image]).toPrecision(3)],
      ["norm", l2[image].toPrecision(3)],
    ];
    if (data.classes) rows.push(["class", data.classes[image]]);
    return rows;
  }

  function tell(image, x, y) {
    place(card.querySelector(".thumb"), image);
    card.querySelector("b").textContent = data.images[image];
    card.querySelector("table").replaceChildren(...facts(image).map((pair) => {
      const row = document.createElement("tr");
      for (const text of pair) row.append(Object.assign(document.createElement("td"), { textContent: text }));
      return row;
    }));
    card.hidden = false;
    card.dataset.image = image;
    const box = card.getBoundingClientRect();
    card.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 8))}px`;
    card.style.top = `${Math.max(4, y + 14 + box.height > innerHeight ? y - box.height - 14 : y + 14)}px`;
  }

  const hide = () => { card.hidden = true; };
  let mouse = [0, 0];
  addEventListener("pointermove", (event) => { mouse = [event.clientX, event.clientY]; }, true);
  // What was scrolled to by its focus keeps its card.
  addEventListener("scroll", () => {
    if (document.activeElement?.classList.contains("thumb")) document.activeElement.tell();
    else hide();
  }, true);

  function pointed(found) {
    const [image] = found.index.indices;
    if (image === undefined) hide(); else tell(image, ...mouse);
  }

  // Gallery

  function figure(image) {
    const made = document.createElement("figure");
    const thumb = Object.assign(document.createElement("div"), { className: "thumb", tabIndex: 0 });
    thumb.setAttribute("role", "img");
    thumb.setAttribute("aria-label", `${data.images[image]}, ${facts(image).map((x) => x.join(" ")).join(", ")}`);
    place(thumb, image);
    const over = () => { const box = thumb.getBoundingClientRect(); tell(image, box.right, box.top); };
    thumb.tell = over;
    thumb.addEventListener("focus", over);
    thumb.addEventListener("pointerenter", over);
    thumb.addEventListener("blur", hide);
    thumb.addEventListener("pointerleave", hide);
    const sd = data.deviation ? data.numbers.activation[image] / data.deviation : 0;
    const text = (sd < 0 ? "\u2212" : "+") + Math.abs(sd).toFixed(1);
    const caption = Object.assign(document.createElement("figcaption"), {
      textContent: `${text} sd \u00b7 ${data.images[image].split("/").pop()}`, title: data.images[image],
    });
    made.dataset.image = image;
    made.append(thumb, caption);
    return made;
  }

  function more() {
    gallery.append(...marked.slice(shown, shown + PAGE).map(figure));
    shown = Math.min(shown + PAGE, marked.length);
    $("more").hidden = shown === marked.length;
    $("more").textContent = `show more (${marked.length - shown} left)`;
  }

  // Marking

  function redraw() {
    marked = [...source.selected.indices];
    const held = new Set(marked.map((image) => data.cells[image]));
    mosaic.classList.toggle("some", marked.length > 0);
    cells.forEach((cell, number) => cell.classList.toggle("has", held.has(number)));
    $("count").textContent = marked.length
      ? `${marked.length.toLocaleString("en")} image${marked.length > 1 ? "s" : ""} marked`
      : "Nothing is marked";
    hide();
    enlarge();
    shown = 0;
    gallery.replaceChildren();
    more();
  }

  // The one cell whose images are marked, if it is one, and all of its images are.
  function enlarge() {
    const pressed = cells.filter((cell, k) => cell.getAttribute("aria-pressed") === "true" && inside[k].length);
    const [cell] = pressed, lens = $("lens");
    lens.hidden = pressed.length !== 1 || inside[cells.indexOf(cell)].length !== marked.length;
    if (lens.hidden) return;
    lens.querySelector("span").replaceChildren(cell.querySelector("img").cloneNode());
    lens.querySelector("b").textContent = `Cell ${cell.dataset.row - 1},${cell.dataset.column - 1}`;
    lens.querySelector("table").replaceChildren(...JSON.parse(cell.dataset.facts).map((pair) => {
      const row = document.createElement("tr");
      for (const text of pair) row.append(Object.assign(document.createElement("td"), { textContent: text }));
      return row;
    }));
    lens.querySelector("code").textContent = cell.dataset.command;
  }

  // Bokeh tells of a change some time later: a cell is pressed when all that it holds is marked.
  function onMarked() {
    const now = new Set(source.selected.indices);
    cells.forEach((cell, k) => cell.setAttribute("aria-pressed", inside[k].every((image) => now.has(image))));
    const group = data.groups[$("group").value];
    if (group && (group.length !== now.size || !group.every((image) => now.has(image)))) $("group").value = "";
    redraw();
  }

  function mark(images) {
    source.selected.indices = images;
  }

  // Added to whatever is marked, by a lasso too.
  function press(numbers, add) {
    const images = numbers.flatMap((number) => inside[number]);
    mark(add ? [...new Set([...source.selected.indices, ...images])] : images);
  }

  // The mosaic: a click, a band drawn with the pointer, the keyboard

  let start = null;
  const band = $("band");
  const at = (event) => {
    const box = mosaic.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  mosaic.addEventListener("pointerdown", (event) => {
    if (event.button === 0) start = at(event);
    const cell = event.target.closest(".cell");
    if (cell) reach(cell);
  });
  mosaic.addEventListener("pointermove", (event) => {
    if (!event.buttons) { start = null; band.hidden = true; }
    if (!start || event.pointerType === "touch") return;
    const end = at(event);
    if (band.hidden && Math.hypot(end[0] - start[0], end[1] - start[1]) < 6) return;
    if (band.hidden) mosaic.setPointerCapture(event.pointerId);
    band.hidden = false;
    const [left, top] = [0, 1].map((k) => Math.min(start[k], end[k]));
    Object.assign(band.style, {
      left: `${left}px`, top: `${top}px`,
      width: `${Math.abs(end[0] - start[0])}px`, height: `${Math.abs(end[1] - start[1])}px`,
    });
  });
  mosaic.addEventListener("pointerup", (event) => {
    if (!start) return;
    const end = at(event), from = start, drawn = !band.hidden;
    start = null;
    band.hidden = true;
    if (!drawn) return;
    const box = mosaic.getBoundingClientRect();
    const hit = cells.map((cell, number) => [cell.getBoundingClientRect(), number]).filter(([b]) => {
      const x = b.left + b.width / 2 - box.left, y = b.top + b.height / 2 - box.top;
      return (x - from[0]) * (x - end[0]) <= 0 && (y - from[1]) * (y - end[1]) <= 0;
    });
    banded = true;
    setTimeout(() => { banded = false; });
    press(hit.map(([, number]) => number), event.shiftKey);
  });
  mosaic.addEventListener("pointercancel", () => { start = null; band.hidden = true; });
  let banded = false;
  cells.forEach((cell, number) => cell.addEventListener("click", (event) => {
    if (!banded) press([number], event.shiftKey);
  }));
  mosaic.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const here = document.activeElement;
    if (!step || !cells.includes(here)) return;
    event.preventDefault();
    const where = (cell) => [Number(cell.dataset.row), Number(cell.dataset.column)];
    const [row, column] = where(here);
    // The nearest cell in that direction; straight ahead before aslant.
    const ahead = cells.map((cell) => {
      const [r, c] = where(cell), along = (r - row) * step[0] + (c - column) * step[1];
      const aside = Math.abs((r - row) * step[1]) + Math.abs((c - column) * step[0]);
      return [along > 0 ? along + 3 * aside : Infinity, cell];
    }).sort((a, b) => a[0] - b[0]);
    if (ahead[0][0] === Infinity) return;
    reach(ahead[0][1]);
    ahead[0][1].focus();
  });
  // One stop for the Tab key: the cell that was used last.
  function reach(cell) {
    for (const other of cells) other.tabIndex = other === cell ? 0 : -1;
  }

  // Controls

  function colour() {
    const chosen = data.colourings[$("colour").value];
    source.data = { ...source.data, colour: chosen.colours };
    const parts = [];
    if (chosen.stops) {
      const bar = document.createElement("i");
      bar.style.background = `linear-gradient(90deg, ${chosen.stops.join(", ")})`;
      parts.push(chosen.low, bar, chosen.high);
    } else if (chosen.square) {
      const square = Object.assign(document.createElement("img"), { src: chosen.square, alt: "" });
      parts.push(square, `right: excitation, up: inhibition, to ${chosen.high}`);
    }
    $("scale").replaceChildren(...parts);
  }

  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("colour").addEventListener("change", colour);
  $("group").addEventListener("change", () => mark(data.groups[$("group").value] ?? []));
  $("frame").addEventListener("change", () => mosaic.classList.toggle("tint", $("frame").value === "tint"));
  $("clear").addEventListener("click", () => { $("group").value = ""; mark([]); });
  $("more").addEventListener("click", more);
  $("zoom").addEventListener("input", () => { mosaic.style.width = `${$("zoom").value}%`; });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") { hide(); mark([]); }
  });

  (function ready() {
    source = window.Bokeh?.documents?.[0]?.get_model_by_name("images") ?? null;
    if (!source) return setTimeout(ready, 50);
    colour();
    if (data.groups.tense) {
      $("group").value = "tense";
      mark(data.groups.tense);
    }
    document.body.dataset.ready = "yes";
  })();

  return { marked: onMarked, pointed, mark };
})();
