// Draws arrows over the picture and tells the server all of them after every change.
// A guide is [x0, y0, x1, y1] in pixels of the picture, pixel centres at whole numbers; x1 = x0, y1 = y0 stands still.
const SHARPER = 2; // canvas pixels to a picture pixel, so that arrows are not coarse
const CLICK_PX = 4; // a drag shorter than this on the screen is a click
const stage = element.querySelector(".stage");
const canvas = element.querySelector("canvas");
const count = element.querySelector(".count");
const pen = canvas.getContext("2d");
let picture = null; // an <img>
let guides = [];
let pending = null; // the guide that is being drawn
let cursor = null; // where the keys are, [x, y]
let pressedAt = null; // where on the screen a drag began

function paint() {
  if (!picture) return;
  pen.setTransform(SHARPER, 0, 0, SHARPER, 0, 0);
  pen.drawImage(picture, 0, 0, props.value.width, props.value.height);
  pen.translate(0.5, 0.5); // from here on a whole number is the centre of a pixel
  const unit = Math.max(1, Math.min(props.value.width, props.value.height) / 200);
  for (const guide of pending ? [...guides, pending] : guides) drawGuide(guide, unit);
  if (cursor && document.activeElement === canvas) {
    pen.strokeStyle = "white";
    pen.lineWidth = unit;
    pen.globalCompositeOperation = "difference";
    pen.beginPath();
    pen.moveTo(cursor[0] - 8 * unit, cursor[1]);
    pen.lineTo(cursor[0] + 8 * unit, cursor[1]);
    pen.moveTo(cursor[0], cursor[1] - 8 * unit);
    pen.lineTo(cursor[0], cursor[1] + 8 * unit);
    pen.stroke();
    pen.globalCompositeOperation = "source-over";
  }
  const still = guides.filter(isStill).length;
  const moving = guides.length - still;
  const words = [];
  if (moving) words.push(moving + (moving === 1 ? " arrow" : " arrows"));
  if (still) words.push(still + (still === 1 ? " still point" : " still points"));
  count.textContent = words.join(", ") || "no arrows";
}

function isStill(guide) {
  return guide[0] === guide[2] && guide[1] === guide[3];
}

function drawGuide(guide, unit) {
  const [x0, y0, x1, y1] = guide;
  if (isStill(guide)) {
    pen.beginPath();
    pen.arc(x0, y0, 3 * unit, 0, 2 * Math.PI);
    pen.fillStyle = "#e8262c";
    pen.strokeStyle = "white";
    pen.lineWidth = 1.4 * unit;
    pen.fill();
    pen.stroke();
    return;
  }
  const angle = Math.atan2(y1 - y0, x1 - x0);
  const head = Math.min(9 * unit, 0.6 * Math.hypot(x1 - x0, y1 - y0));
  for (const [colour, width] of [["black", 3.6 * unit], ["#ffdc00", 1.8 * unit]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.lineCap = pen.lineJoin = "round";
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.lineTo(x1, y1);
    for (const side of [-1, 1]) {
      pen.moveTo(x1, y1);
      pen.lineTo(x1 - head * Math.cos(angle + side * 0.5), y1 - head * Math.sin(angle + side * 0.5));
    }
    pen.stroke();
  }
}

function tell() {
  paint();
  trigger("draw", { guides: guides });
}

function finish(guide) {
  pending = null;
  guides.push(guide);
  tell();
}

const actions = {
  undo() {
    if (pending) pending = null;
    else if (guides.length) guides.pop();
    else return;
    tell();
  },
  clear() {
    if (!guides.length && !pending) return;
    guides = [];
    pending = null;
    tell();
  },
  run: tell,
};

function clamped(x, y) {
  return [
    Math.min(Math.max(x, 0), props.value.width - 1),
    Math.min(Math.max(y, 0), props.value.height - 1),
  ].map((v) => Math.round(v * 10) / 10);
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return clamped(
    ((event.clientX - box.left) * props.value.width) / box.width - 0.5,
    ((event.clientY - box.top) * props.value.height) / box.height - 0.5,
  );
}

canvas.addEventListener("pointerdown", (event) => {
  if (!picture || event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  const start = place(event);
  pending = [...start, ...start];
  cursor = null;
  pressedAt = [event.clientX, event.clientY];
  paint();
});
canvas.addEventListener("pointermove", (event) => {
  if (!pending || !pressedAt) return;
  pending = [pending[0], pending[1], ...place(event)];
  paint();
});
canvas.addEventListener("pointerup", (event) => {
  if (!pending || !pressedAt) return;
  const way = Math.hypot(event.clientX - pressedAt[0], event.clientY - pressedAt[1]);
  const end = way < CLICK_PX ? pending.slice(0, 2) : place(event);
  pressedAt = null;
  finish([pending[0], pending[1], ...end]);
});
canvas.addEventListener("pointercancel", () => {
  pending = pressedAt = null;
  paint();
});
canvas.addEventListener("focus", paint);
canvas.addEventListener("blur", paint);

const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  if (!picture || event.ctrlKey || event.metaKey || event.altKey) return;
  cursor = cursor || clamped(Math.round(props.value.width / 2), Math.round(props.value.height / 2));
  const step = steps[event.key];
  if (step) {
    const far = event.shiftKey ? 16 : 2;
    cursor = clamped(cursor[0] + far * step[0], cursor[1] + far * step[1]);
    if (pending) pending = [pending[0], pending[1], ...cursor];
    paint();
  } else if (event.key === "Enter") {
    if (pending) finish(pending);
    else pending = [...cursor, ...cursor];
    paint();
  } else if (event.key === " ") {
    finish([...cursor, ...cursor]);
  } else if (event.key === "Escape") {
    pending = pressedAt = null;
    paint();
  } else {
    return;
  }
  event.preventDefault();
});

// Letters work wherever the focus is, except where one types.
function onLetter(event) {
  if (!element.isConnected) return document.removeEventListener("keydown", onLetter);
  const typing = event.target.closest && event.target.closest("input, textarea, select, [contenteditable=true]");
  const undo = event.key === "z" && (event.ctrlKey || event.metaKey);
  if (typing || ((event.ctrlKey || event.metaKey || event.altKey) && !undo)) return;
  const name = undo ? "undo" : { u: "undo", c: "clear", r: "run" }[event.key.toLowerCase()];
  if (!name || !picture) return;
  event.preventDefault();
  actions[name]();
}
document.addEventListener("keydown", onLetter);
element.querySelector(".toolbar").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button && picture) actions[button.dataset.act]();
});

// A dropped file goes the way of a chosen one: through the upload button's own input.
stage.addEventListener("dragover", (event) => {
  event.preventDefault();
  stage.classList.add("over");
});
stage.addEventListener("dragleave", () => stage.classList.remove("over"));
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("over");
  if (!event.dataTransfer.files.length) return;
  const input = document.querySelector("input[type=file]"); // the only one on the page
  const one = new DataTransfer();
  one.items.add(event.dataTransfer.files[0]);
  input.files = one.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});

function load() {
  if (!props.value) return;
  const image = new Image();
  image.onload = () => {
    picture = image;
    guides = [];
    pending = cursor = null;
    canvas.width = SHARPER * props.value.width;
    canvas.height = SHARPER * props.value.height;
    stage.classList.add("ready");
    paint();
  };
  image.src = props.value.picture;
}
watch("value", load);
load();
