// Draws arrows over the image and sends all of them to the server after every change.
// An arrow is [x0, y0, x1, y1] in pixels of the image, pixel centers at whole numbers. Where x1 = x0 and y1 = y0 it is a
// still point. props.value is a scene: image (data URL), width, height, arrows to begin with, hold, border ([x, y], ...:
// the still points that the server adds if hold is on), borderGap (px, within which an arrow's start replaces one),
// maxArrows, ghost (the true motion of a video, as arrows, which is only shown) and ghostText. Or it is an answer to clicks on an object: overlay (data URL of the image with the object, or null).
const SHARPER = 2; // canvas pixels per image pixel, so that arrows are not coarse
const CLICK_PX = 4; // a drag shorter than this on the screen is a click
const GRAB_PX = 9; // a start or a tip is grabbed within this on the screen
const MAX_TEXT = 32768; // characters of a file of arrows
const stage = element.querySelector(".stage");
const canvas = element.querySelector("canvas");
const count = element.querySelector(".count");
const hold = element.querySelector(".hold");
const ghost = element.querySelector(".ghost");
const strength = element.querySelector(".strength");
const strengthShown = element.querySelector(".strength-shown");
const arrowsFile = element.querySelector(".arrows-file");
const pen = canvas.getContext("2d");
let scene = null; // the last one of props.value
let image = null; // an <img>
let mode = "draw"; // or "find": clicks on an object
let clicks = []; // on the object, or next to it: [x, y, whether it is next to it]
let overlay = null; // an <img> of the image with the object
let arrows = [];
let pending = null; // the arrow that is being drawn
let grabbed = null; // what is being moved: { index, part: "start" or "tip", before: the arrow, moved }
let selected = -1; // index of the arrow that was touched last
let cursor = null; // where the keys are, [x, y]
let pressedAt = null; // where on the screen a drag began

function paint() {
  if (!image) return;
  pen.setTransform(SHARPER, 0, 0, SHARPER, 0, 0);
  pen.drawImage((mode === "find" && overlay) || image, 0, 0, scene.width, scene.height);
  pen.translate(0.5, 0.5); // from here on a whole number is the center of a pixel
  const unit = Math.max(1, Math.min(scene.width, scene.height) / 200);
  if (mode === "find") paintClicks(unit);
  else paintArrows(unit);
  if (cursor && document.activeElement === canvas) paintCursor(unit);
}

function paintClicks(unit) {
  for (const [x, y] of notOnObject()) drawDot(x, y, 3.2 * unit, "#e8262c", unit);
  for (const [x, y] of onObject()) drawDot(x, y, 3.2 * unit, "#28e63c", unit);
  const beside = notOnObject().length;
  count.textContent = counted(onObject().length, "click") + (beside ? ", " + beside + " not on it" : "");
}

function paintArrows(unit) {
  if (ghost.checked) for (const arrow of scene.ghost) drawGhost(arrow, unit);
  const drawn = pending ? [...arrows, pending] : arrows;
  for (const [x, y] of stillBorder(drawn)) drawDot(x, y, 2.2 * unit, "#e8262c", unit);
  if (selected >= 0 && selected < arrows.length && !pending) drawHalo(arrows[selected], unit);
  for (const arrow of drawn) drawArrow(arrow, unit);
  const still = arrows.filter(isStill).length;
  const moving = arrows.length - still;
  const words = [];
  if (moving) words.push(counted(moving, "arrow"));
  if (still) words.push(counted(still, "still point"));
  count.textContent = words.join(", ") || "no arrows";
}

function paintCursor(unit) {
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

function counted(number, word) {
  return (number || "no") + " " + word + (number === 1 ? "" : "s");
}

function onObject() {
  return clicks.filter((click) => !click[2]).map(([x, y]) => [x, y]);
}

function notOnObject() {
  return [...clicks.filter((click) => click[2]), ...arrows.filter(isStill)].map(([x, y]) => [x, y]);
}

function isStill(arrow) {
  return arrow[0] === arrow[2] && arrow[1] === arrow[3];
}

// The border's points that are far enough from every arrow's start, as the server has them.
function stillBorder(drawn) {
  if (!hold.checked) return [];
  const near = ([x, y]) => drawn.some((arrow) => Math.hypot(arrow[0] - x, arrow[1] - y) <= scene.borderGap);
  return scene.border.filter((point) => !near(point));
}

function drawDot(x, y, radius, color, unit) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.fillStyle = color;
  pen.strokeStyle = "white";
  pen.lineWidth = 1.2 * unit;
  pen.fill();
  pen.stroke();
}

function drawGhost([x0, y0, x1, y1], unit) {
  for (const [color, width] of [["rgba(0, 0, 0, 0.35)", 2.2 * unit], ["rgba(110, 235, 255, 0.8)", 1.1 * unit]]) {
    pen.strokeStyle = pen.fillStyle = color;
    pen.lineWidth = width;
    pen.lineCap = "round";
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.lineTo(x1, y1);
    pen.stroke();
    pen.beginPath();
    pen.arc(x1, y1, 0.9 * width, 0, 2 * Math.PI); // at the end, where the pixel went
    pen.fill();
  }
}

function drawHalo([x0, y0, x1, y1], unit) {
  pen.strokeStyle = "rgba(255, 255, 255, 0.55)";
  pen.lineWidth = 9 * unit;
  pen.lineCap = "round";
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1 + 0.01, y1);
  pen.stroke();
}

function drawArrow(arrow, unit) {
  const [x0, y0, x1, y1] = arrow;
  if (isStill(arrow)) {
    drawDot(x0, y0, 3.2 * unit, "#e8262c", unit);
    return;
  }
  const factor = Number(strength.value);
  if (factor !== 1) {
    pen.strokeStyle = "#ff5ad9"; // how far it goes with the strength
    pen.lineWidth = 4.5 * unit;
    pen.lineCap = "butt";
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.lineTo(x0 + factor * (x1 - x0), y0 + factor * (y1 - y0));
    pen.stroke();
  }
  const angle = Math.atan2(y1 - y0, x1 - x0);
  const head = Math.min(9 * unit, 0.6 * Math.hypot(x1 - x0, y1 - y0));
  for (const [color, width] of [["black", 3.6 * unit], ["#ffdc00", 1.8 * unit]]) {
    pen.strokeStyle = color;
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
  drawDot(x0, y0, 2.4 * unit, "#ffdc00", unit);
}

function send() {
  paint();
  if (mode === "find") trigger("find", { clicks: onObject(), still: notOnObject() });
  else sendArrows();
}

function sendArrows() {
  trigger("draw", { arrows: arrows, border: hold.checked, strength: Number(strength.value) });
}

function finish(arrow) {
  pending = null;
  if (arrows.length >= scene.maxArrows) {
    paint();
    count.textContent = "at most " + scene.maxArrows + " arrows and points";
    return;
  }
  arrows.push(arrow);
  selected = arrows.length - 1;
  send();
}

// A click on the object or next to it; at a click that is there already, that one is removed.
function addClick(x, y, still, reach) {
  const there = clicks.findIndex((click) => Math.hypot(click[0] - x, click[1] - y) <= reach);
  if (there >= 0) clicks.splice(there, 1);
  else if (clicks.length + arrows.length < scene.maxArrows) clicks.push([x, y, still]);
  send();
}

function remove(index) {
  if (index < 0 || index >= arrows.length) return;
  arrows.splice(index, 1);
  selected = -1;
  send();
}

const actions = {
  undo() {
    if (mode === "find") {
      if (!clicks.length) return;
      clicks.pop();
    } else if (pending) pending = null;
    else if (arrows.length) arrows.pop();
    else return;
    selected = -1;
    send();
  },
  clear() {
    if (mode === "find") {
      clicks = [];
      send();
      return;
    }
    if (!arrows.length && !pending) return;
    arrows = [];
    pending = null;
    selected = -1;
    send();
  },
  run: send,
  open() {
    arrowsFile.click();
  },
};

function clamped(x, y) {
  return [
    Math.min(Math.max(x, 0), scene.width - 1),
    Math.min(Math.max(y, 0), scene.height - 1),
  ].map((v) => Math.round(v * 10) / 10);
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return clamped(
    ((event.clientX - box.left) * scene.width) / box.width - 0.5,
    ((event.clientY - box.top) * scene.height) / box.height - 0.5,
  );
}

// How far from a place something is grabbed, px of the image.
function reachOfHand() {
  return (GRAB_PX * scene.width) / canvas.getBoundingClientRect().width;
}

// The arrow whose start or tip is at that place of the screen, newest first; null if there is none.
function atHandle(event) {
  if (mode !== "draw") return null;
  const reach = reachOfHand();
  const [x, y] = place(event);
  for (const [part, at] of [["tip", 2], ["start", 0]]) {
    for (let index = arrows.length - 1; index >= 0; index--) {
      if (Math.hypot(arrows[index][at] - x, arrows[index][at + 1] - y) <= reach) return { index, part };
    }
  }
  return null;
}

// The grabbed arrow with its grabbed end at that place.
function movedTo(event) {
  const [x0, y0, x1, y1] = grabbed.before;
  const [x, y] = place(event);
  if (grabbed.part === "tip" && !isStill(grabbed.before)) return [x0, y0, x, y];
  // All of the arrow moves, as far as it stays in the image.
  const [dx, dy] = grabbed.part === "tip" ? [x - x1, y - y1] : [x - x0, y - y0];
  const within = (d, a, b, size) => Math.max(-Math.min(a, b), Math.min(size - 1 - Math.max(a, b), d));
  const right = Math.round(10 * within(dx, x0, x1, scene.width)) / 10;
  const down = Math.round(10 * within(dy, y0, y1, scene.height)) / 10;
  return [x0 + right, y0 + down, x1 + right, y1 + down];
}

canvas.addEventListener("pointerdown", (event) => {
  if (!image || event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  cursor = null;
  if (mode === "find") {
    addClick(...place(event), event.shiftKey, reachOfHand());
    return;
  }
  pressedAt = [event.clientX, event.clientY];
  const handle = atHandle(event);
  if (handle) {
    grabbed = { ...handle, before: arrows[handle.index], moved: false };
    selected = handle.index;
    pending = null;
  } else {
    const start = place(event);
    pending = [...start, ...start];
  }
  paint();
});
canvas.addEventListener("pointermove", (event) => {
  if (!image) return;
  if (!pressedAt) {
    canvas.style.cursor = atHandle(event) ? "grab" : "crosshair";
    return;
  }
  const far = Math.hypot(event.clientX - pressedAt[0], event.clientY - pressedAt[1]) >= CLICK_PX;
  if (grabbed && (far || grabbed.moved)) {
    grabbed.moved = true;
    arrows[grabbed.index] = movedTo(event);
  } else if (pending) {
    pending = [pending[0], pending[1], ...place(event)];
  }
  paint();
});
canvas.addEventListener("pointerup", (event) => {
  if (!pressedAt) return;
  const way = Math.hypot(event.clientX - pressedAt[0], event.clientY - pressedAt[1]);
  pressedAt = null;
  if (grabbed) {
    const { moved } = grabbed;
    grabbed = null;
    if (moved) send();
  } else if (pending) {
    finish([pending[0], pending[1], ...(way < CLICK_PX ? pending.slice(0, 2) : place(event))]);
  }
});
canvas.addEventListener("pointercancel", letGo);
canvas.addEventListener("dblclick", (event) => {
  const handle = image && atHandle(event);
  if (handle) remove(handle.index);
});

function letGo() {
  if (!image) return;
  if (grabbed) arrows[grabbed.index] = grabbed.before;
  pending = pressedAt = grabbed = null;
  paint();
}

element.querySelector(".modes").addEventListener("change", (event) => {
  letGo();
  mode = event.target.value;
  for (const part of element.querySelectorAll("[data-modes]")) part.hidden = part.dataset.modes !== mode;
  paint();
  if (mode === "find" && clicks.length) send(); // still points may have changed
});

hold.addEventListener("change", () => image && send());
ghost.addEventListener("change", paint);
strength.addEventListener("input", () => {
  strengthShown.textContent = Number(strength.value).toFixed(2) + " ×";
  paint();
});
strength.addEventListener("change", () => image && send());

canvas.addEventListener("focus", paint);
canvas.addEventListener("blur", paint);

const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  if (!image || event.ctrlKey || event.metaKey || event.altKey) return;
  cursor = cursor || clamped(Math.round(scene.width / 2), Math.round(scene.height / 2));
  const step = steps[event.key];
  if (step) {
    const far = event.shiftKey ? 16 : 2;
    cursor = clamped(cursor[0] + far * step[0], cursor[1] + far * step[1]);
    if (pending) pending = [pending[0], pending[1], ...cursor];
    paint();
  } else if (mode === "find" && (event.key === "Enter" || event.key === " ")) {
    addClick(...cursor, event.key === " ", 1);
  } else if (event.key === "Enter") {
    if (pending) finish(pending);
    else pending = [...cursor, ...cursor];
    paint();
  } else if (event.key === " ") {
    finish([...cursor, ...cursor]);
  } else if (event.key === "Escape") {
    letGo();
  } else if (event.key === "Delete" || event.key === "Backspace") {
    remove(selected);
  } else if (event.key.toLowerCase() === "n") {
    if (arrows.length) selected = (selected + 1) % arrows.length;
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
  if (!name || !image) return;
  event.preventDefault();
  actions[name]();
}
document.addEventListener("keydown", onLetter);
element.querySelector(".toolbar").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button && image) actions[button.dataset.act]();
});

// A file of arrows is sent as text; the server checks it, scales it to the image, and answers with arrows to draw.
async function openArrows(file) {
  if (!image || !file) return;
  const text = file.size <= MAX_TEXT ? await file.text() : null;
  if (text === null) count.textContent = file.name + ": too large for a file of arrows";
  else trigger("arrows", { text: text });
}
arrowsFile.addEventListener("change", () => {
  openArrows(arrowsFile.files[0]);
  arrowsFile.value = ""; // so that the same file can be chosen again
});

// A dropped image goes the way of a chosen one: through the upload button's own input.
stage.addEventListener("dragover", (event) => {
  event.preventDefault();
  stage.classList.add("over");
});
stage.addEventListener("dragleave", () => stage.classList.remove("over"));
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (!file) return;
  if (file.name.toLowerCase().endsWith(".json")) {
    openArrows(file);
    return;
  }
  const input = document.querySelector("input[type=file]:not(.arrows-file)"); // the only one on the page
  const one = new DataTransfer();
  one.items.add(file);
  input.files = one.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});

function load() {
  if (!props.value) return;
  const value = props.value;
  const opened = new Image();
  if (!value.image) {
    opened.onload = () => {
      overlay = opened;
      paint();
    };
    overlay = null;
    if (value.overlay) opened.src = value.overlay;
    else paint();
    return;
  }
  opened.onload = () => {
    scene = value;
    image = opened;
    overlay = null;
    clicks = [];
    arrows = scene.arrows.map((arrow) => [...arrow]);
    pending = pressedAt = grabbed = cursor = null;
    selected = -1;
    hold.checked = scene.hold;
    element.querySelector(".ghost-option").hidden = !scene.ghost.length;
    element.querySelector(".ghost-text").textContent = scene.ghostText;
    strength.value = 1;
    strengthShown.textContent = "1.00 ×";
    canvas.width = SHARPER * scene.width;
    canvas.height = SHARPER * scene.height;
    stage.classList.add("ready");
    paint();
    if (arrows.length) sendArrows();
  };
  opened.src = value.image;
}
watch("value", load);
load();
