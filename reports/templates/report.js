"use strict";

// Charts: the values under the pointer.
for (const svg of document.querySelectorAll("svg[data-readout]")) {
  const series = JSON.parse(svg.dataset.readout);
  const output = svg.parentElement.querySelector("output");
  const cursor = svg.querySelector(".cursor");
  const leave = () => { output.textContent = ""; cursor.style.visibility = "hidden"; };
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const x = (event.clientX - frame.left) / frame.width * svg.viewBox.baseVal.width;
    const near = series.map(({ label, points }) => {
      const best = points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
      return { label, x: best[0], at: best[1], value: best[2] };
    });
    const here = near.reduce((a, b) => Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a);
    cursor.setAttribute("x1", here.x);
    cursor.setAttribute("x2", here.x);
    cursor.style.visibility = "visible";
    output.textContent = [`at ${here.at}`, ...near.map((n) => `${n.label}: ${n.value}`)].join("\n");
  });
}

// A link to what is folded away unfolds it.
addEventListener("hashchange", () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
});

// Gallery: whose answers, which of them, in which order.
const gallery = document.querySelector("#cards");
if (gallery) {
  const filters = document.querySelector("#filters");
  const cards = [...gallery.children];
  const said = (card, who) => card.querySelector(`.answer[data-of="${who}"]`);

  const matches = (card, form) => {
    const answer = said(card, form.show);
    const other = form.beside === "" ? null : said(card, form.beside);
    const verdict = answer ? answer.dataset.verdict : "none";
    const right = (element) => element !== null && element.dataset.verdict === "right";
    const wanted = {
      all: true,
      failed: answer !== null && verdict !== "right",
      gained: right(answer) && other !== null && !right(other),
      lost: !right(answer) && right(other),
    }[form.verdict] ?? verdict === form.verdict;
    const groups = JSON.parse(card.dataset.groups);
    const grouped = Object.entries(form).every(([name, value]) =>
      !name.startsWith("group:") || value === "" || groups[name.slice(6)] === value);
    return wanted && grouped && card.textContent.toLowerCase().includes(form.words.toLowerCase());
  };

  const update = () => {
    const form = Object.fromEntries(new FormData(filters));
    const beside = form.beside !== "" && form.beside !== form.show;
    gallery.classList.toggle("beside", beside);
    const off = (card) => Number(said(card, form.show)?.dataset.off ?? -1);
    const order = [...cards].sort((a, b) => form.order === "file"
      ? Number(a.dataset.place) - Number(b.dataset.place)
      : off(b) - off(a) || Number(a.dataset.rank) - Number(b.dataset.rank));
    let visible = 0;
    for (const card of order) {
      for (const answer of card.querySelectorAll(".answer")) {
        answer.hidden = !(answer.dataset.of === form.show || (beside && answer.dataset.of === form.beside));
        answer.style.order = answer.dataset.of === form.show ? 0 : 1;
      }
      card.hidden = !matches(card, form);
      visible += card.hidden ? 0 : 1;
      gallery.append(card);
    }
    filters.querySelector("output").textContent = `${visible} of ${cards.length} shown`;
  };
  filters.addEventListener("input", update);
  filters.addEventListener("submit", (event) => event.preventDefault());
  update();

  const dialog = document.querySelector("dialog");
  gallery.addEventListener("click", (event) => {
    const screen = event.target.closest(".zoom")?.querySelector("svg");
    if (!screen) return;
    const { width, height } = screen.viewBox.baseVal;
    dialog.style.setProperty("--ratio", width / height);
    const words = document.createElement("p");
    words.textContent = screen.closest(".card").querySelector("h3").textContent;
    dialog.replaceChildren(screen.cloneNode(true), words);
    dialog.showModal();
  });
  dialog.addEventListener("click", () => dialog.close());
}
