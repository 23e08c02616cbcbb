const find = (name) => element.querySelector(name);
const below = find(".below").getContext("2d");
const strokes = find(".strokes").getContext("2d");
const { width, height } = strokes.canvas;
const swatches = ["#000000", "#ffffff", "#ff0000", "#00c000", "#0000ff", "#ffff00", "#ff8000",
  "#804000"];
const steps = [];
let opened = null;
let erasing = false;
let last = null;

function say(text) {
  find(".message").textContent = text;
}

function drawGround() {
  below.fillStyle = find(".ground").value;
  below.fillRect(0, 0, width, height);
  if (opened === null) return;
  // Cover the canvas and keep the aspect ratio.
  const scale = Math.max(width / opened.width, height / opened.height);
  const [w, h] = [opened.width * scale, opened.height * scale];
  below.drawImage(opened, (width - w) / 2, (height - h) / 2, w, h);
}

function send() {
  const whole = document.createElement("canvas");
  [whole.width, whole.height] = [width, height];
  const context = whole.getContext("2d");
  context.drawImage(below.canvas, 0, 0);
  context.drawImage(strokes.canvas, 0, 0);
  say("");
  props.value = whole.toDataURL("image/png");
  trigger("input");
}

function press(button, group) {
  for (const other of group) other.setAttribute("aria-pressed", String(other === button));
}

function chooseColour(colour, button) {
  erasing = false;
  find(".colour").value = colour;
  press(button, element.querySelectorAll(".swatches button, .eraser"));
}

function position(event) {
  const box = strokes.canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * width / box.width,
    (event.clientY - box.top) * height / box.height];
}

function stroke(from, to) {
  const thickness = Number(find(".size").value) / 100 * Math.max(width, height);
  strokes.globalCompositeOperation = erasing ? "destination-out" : "source-over";
  strokes.strokeStyle = strokes.fillStyle = find(".colour").value;
  strokes.lineWidth = thickness;
  strokes.lineCap = "round";
  strokes.beginPath();
  strokes.moveTo(...from);
  strokes.lineTo(...to);
  strokes.stroke();
  // A line of no length leaves nothing behind.
  strokes.beginPath();
  strokes.arc(...to, thickness / 2, 0, 2 * Math.PI);
  strokes.fill();
}

function remember() {
  steps.push({ pixels: strokes.getImageData(0, 0, width, height), opened });
  if (steps.length > 30) steps.shift();
}

for (const colour of swatches) {
  const button = document.createElement("button");
  button.type = "button";
  button.title = colour;
  button.style.background = colour;
  button.addEventListener("click", () => chooseColour(colour, button));
  find(".swatches").append(button);
}
find(".swatches button").click();

strokes.canvas.addEventListener("pointerdown", (event) => {
  // The main button, pen or first finger.
  if (event.button !== 0 || !event.isPrimary) return;
  strokes.canvas.setPointerCapture(event.pointerId);
  remember();
  last = position(event);
  stroke(last, last);
});
strokes.canvas.addEventListener("pointermove", (event) => {
  if (last === null || !event.isPrimary) return;
  const next = position(event);
  stroke(last, next);
  last = next;
});
for (const name of ["pointerup", "pointercancel"]) {
  strokes.canvas.addEventListener(name, () => {
    if (last !== null) send();
    last = null;
  });
}

find(".colour").addEventListener("input", (event) => chooseColour(event.target.value, null));
find(".eraser").addEventListener("click", (event) => {
  erasing = true;
  press(event.target, element.querySelectorAll(".swatches button, .eraser"));
});
find(".undo").addEventListener("click", () => {
  if (steps.length === 0) return;
  const step = steps.pop();
  strokes.putImageData(step.pixels, 0, 0);
  opened = step.opened;
  drawGround();
  send();
});
find(".clear").addEventListener("click", () => {
  remember();
  strokes.clearRect(0, 0, width, height);
  opened = null;
  drawGround();
  send();
});
find(".ground").addEventListener("change", () => {
  drawGround();
  send();
});
find(".file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  if (file.size > props.max_bytes) {
    say(file.name + " is over the limit of " + (props.max_bytes >> 20) + " MiB");
    return;
  }
  try {
    if (!["image/png", "image/jpeg", "image/webp"].includes(file.type)) throw new Error();
    const image = await createImageBitmap(file);
    remember();
    opened = image;
  } catch {
    say(file.name + " is not a PNG, JPEG or WebP image");
    return;
  }
  drawGround();
  send();
});

drawGround();
