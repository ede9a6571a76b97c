"use strict";
// The clip filter and the enlarged images of the page about a pair store. It reads only what is on the page.

const field = document.getElementById("clip");
const pairs = [...document.querySelectorAll("[data-clip]")];

function filter() {
  const wanted = field.value.toLowerCase();
  for (const pair of pairs) pair.hidden = !pair.dataset.clip.toLowerCase().includes(wanted);
  const left = pairs.filter((pair) => !pair.hidden).length;
  document.getElementById("shown").textContent = wanted ? `${left} of ${pairs.length} pairs and rows` : "";
}

field.addEventListener("input", filter);
document.getElementById("filter").hidden = pairs.length === 0;
filter();

const dialog = document.getElementById("large");
let current = null;

function enlarge(image) {
  current = image;
  const caption = document.createElement("p");
  caption.textContent = `${image.querySelector("img").alt}: ${image.closest("figure").querySelector("figcaption").textContent.trim()}`;
  dialog.replaceChildren(image.cloneNode(true), caption);
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  const all = [...document.querySelectorAll(".pair:not([hidden]) .image")];
  const next = all[all.indexOf(current) + by];
  if (next) enlarge(next);
}

document.addEventListener("click", (event) => {
  if (dialog.open) return dialog.close();
  const image = event.target.closest(".pair .image");
  if (image) enlarge(image);
});
document.addEventListener("keydown", (event) => {
  if (dialog.open && event.key === "ArrowRight") step(1);
  else if (dialog.open && event.key === "ArrowLeft") step(-1);
  else if (!dialog.open && event.key === "Enter" && event.target.matches(".pair .image")) enlarge(event.target);
});
