"use strict";
const byId = (name) => document.getElementById(name);
const SVG = "http://www.w3.org/2000/svg";
// Nothing to purple, more opaque the higher: where nothing is looked at the picture stays as it is
const SCALE = [[255, 200, 0, 0], [255, 170, 0, 102], [240, 90, 20, 140], [205, 20, 80, 179], [120, 0, 120, 217]];
let files = [];

function make(tag, className, ...inside) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...inside);
  return element;
}

function drawn(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function say(text, wrong = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("wrong", wrong);
}

function take(list) {
  files.push(...[...list].filter((file) => file.size));
  showFiles();
}

function showFiles() {
  byId("picked").replaceChildren(...files.map((file, at) => {
    const remove = make("button", "", "remove");
    remove.type = "button";
    remove.setAttribute("aria-label", `remove ${file.name}`);
    remove.onclick = () => { files.splice(at, 1); showFiles(); byId("file").focus(); };
    const parts = [file.name, remove];
    if (file.type.startsWith("image/")) {
      const image = make("img");
      image.alt = "";
      image.src = URL.createObjectURL(file);
      image.onload = image.onerror = () => URL.revokeObjectURL(image.src);
      parts.unshift(image);
    } else if (files.length === 1) byId("kind").value = "span";
    return make("li", "", ...parts);
  }));
}

function base64(file) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
}

function color(value) {
  const place = value / 255 * (SCALE.length - 1), low = Math.min(Math.floor(place), SCALE.length - 2);
  return SCALE[low].map((one, channel) => Math.round(one + (place - low) * (SCALE[low + 1][channel] - one)));
}

function heatMap({ rows, columns, values }) {
  const canvas = make("canvas");
  canvas.width = columns;
  canvas.height = rows;
  canvas.style.imageRendering = "pixelated";
  const context = canvas.getContext("2d"), pixels = context.createImageData(columns, rows);
  values.forEach((value, at) => pixels.data.set(color(value), 4 * at));
  context.putImageData(pixels, 0, 0);
  return canvas;
}

// A place with a halo, and around a small one a ring that cannot be overlooked and does not cover it.
function mark(svg, coords, style, width, height) {
  const [x, y] = [coords[0] * width, coords[1] * height];
  const side = Math.max(width, height), shapes = [];
  if (coords.length === 2) {
    const arm = side * 0.02;
    shapes.push(["path", { d: `M${x - arm} ${y}h${2 * arm}M${x} ${y - arm}v${2 * arm}` }]);
  } else {
    const w = (coords[2] - coords[0]) * width, h = (coords[3] - coords[1]) * height;
    shapes.push(["rect", { x, y, width: w, height: h }]);
    if (Math.max(w, h) < side * 0.025) shapes.push(["circle", { cx: x + w / 2, cy: y + h / 2, r: side * 0.03 }]);
  }
  for (const className of ["halo", style])
    for (const [tag, attributes] of shapes) svg.append(drawn(tag, { ...attributes, class: className }));
}

function picture(told, index) {
  const { width, height, source } = told.images[index], image = make("img");
  image.src = source;
  image.alt = `image ${index + 1}`;
  image.width = width;
  image.height = height;
  image.style.height = "auto";
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const turn of told.turns) if (turn.coords && turn.image === index) mark(svg, turn.coords, "turn-place", width, height);
  for (const region of told.regions) if (region.image === index) mark(svg, region.coords, "said", width, height);
  const view = make("button", "over", image, ...(told.heat[index] ? [heatMap(told.heat[index])] : []), svg);
  view.type = "button";
  view.setAttribute("aria-label", `enlarge image ${index + 1}`);
  view.onclick = () => enlarge(view, width / height);
  const figure = make("figure", "", view), time = told.times[index];
  if (time !== undefined) {
    figure.append(make("figcaption", "", `${time} s`));
    figure.classList.toggle("inside", told.spans.some(([start, end]) => start <= time && time <= end));
  }
  return figure;
}

function enlarge(view, ratio) {
  const dialog = document.querySelector("dialog"), copy = view.cloneNode(true);
  const [from, to] = [view, copy].map((one) => one.querySelector("canvas"));
  if (from) to.getContext("2d").drawImage(from, 0, 0);
  copy.style.width = `min(94vw, ${92 * ratio}vh)`;
  copy.setAttribute("aria-label", "close");
  copy.onclick = () => dialog.close();
  dialog.classList.toggle("plain-view", view.closest(".plain-view") !== null);
  dialog.replaceChildren(copy);
  dialog.showModal();
}

function words(told) {
  const lines = told.regions.map((region) =>
    `${region.kind} ${region.pixels.join(", ")} (pixels${told.images.length > 1 ? ` of image ${region.image + 1}` : ""})${region.label ? `: ${region.label}` : ""}`);
  lines.push(...told.spans.map(([start, end]) => `span ${start} s to ${end} s`));
  if (told.text !== null) lines.push(`text: ${told.text}`);
  if (!lines.length) lines.push(told.absent ? "the model says there is nothing" : `no place read: ${told.status}`);
  return lines;
}

function show(instruction, told) {
  const section = make("section", "asked", make("h2", "", instruction));
  const list = make("ul", "", ...words(told).map((line) => make("li", "", line)));
  const pictures = make("div", told.images.length > 6 ? "pictures many" : "pictures", ...told.images.map((_, at) => picture(told, at)));
  const key = make("ul", "key", make("li", "said", "answered"));
  if (told.turns.some((turn) => turn.coords)) key.append(make("li", "was", "looked at by a tool"));
  section.append(list, pictures, key);
  if (told.heat.length) {
    const box = make("input");
    box.type = "checkbox";
    box.checked = true;
    box.onchange = () => section.classList.toggle("plain-view", !box.checked);
    const when = told.turns.length ? "the first turn's place" : "the place";
    section.append(make("p", "", make("label", "", box, ` attention as it was about to write ${when} `),
      make("span", "scale"), make("small", "", " none to most")));
  } else if (told.no_heat) section.append(make("p", "soft", `No attention: ${told.no_heat}.`));
  if (told.turns.length) {
    section.append(make("h3", "", "Turns before the answer"), make("ol", "turns", ...told.turns.map((turn) => {
      const item = make("li", "turn", make("pre", "", turn.text));
      if (turn.shown) {
        const image = make("img");
        image.src = turn.shown;
        image.alt = `what ${turn.tool} showed`;
        item.append(image);
      }
      item.append(make("p", "reply", make("span", turn.error ? "chip wrong" : "chip", turn.tool ?? "no tool"), ` ${turn.reply}`));
      return item;
    })));
  }
  const output = make("details", "", make("summary", "", `What the model wrote (${told.seconds} s)`), make("pre", "", told.output));
  output.open = true;
  section.append(output);
  byId("answers").prepend(section);
  while (byId("answers").children.length > 20) byId("answers").lastChild.remove();
}

async function ask() {
  const instruction = byId("instruction").value.trim();
  if (!files.length) return say("Drop a picture first.", true);
  if (!instruction) { byId("instruction").focus(); return say("Say what to find.", true); }
  byId("go").disabled = true;
  say("The model is answering …");
  try {
    const sent = await Promise.all(files.map(async (file) => ({ name: file.name, data: await base64(file) })));
    const body = JSON.stringify({ instruction, kind: byId("kind").value, files: sent });
    const reply = await fetch("answer", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    const told = await reply.json();
    if (!reply.ok) return say(told.error, true);
    show(instruction, told);
    say("");
  } catch (error) {
    say(`No answer: ${error.message}. Is predict.py still running?`, true);
  } finally {
    byId("go").disabled = false;
  }
}

byId("form").onsubmit = (event) => { event.preventDefault(); ask(); };
byId("instruction").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); ask(); }
};
byId("file").onchange = (event) => { take(event.target.files); event.target.value = ""; };
addEventListener("paste", (event) => take(event.clipboardData.files));
for (const name of ["dragover", "dragleave", "drop"]) addEventListener(name, (event) => {
  event.preventDefault();
  byId("drop").classList.toggle("over", name === "dragover");
  if (name === "drop") take(event.dataTransfer.files);
});
document.querySelector("dialog").onclick = (event) => event.target.matches("dialog") && event.target.close();
