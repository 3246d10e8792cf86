// Shows the segmentation over its photo. `props.value`, made by `viewer_value` in app.py, is
// {photo, width, height, ids, wide, caption, classes: [{id, name, colour, percent}]}, or null for nothing.
const find = (selector) => element.querySelector(selector);
const stage = find(".stage"), canvas = find("canvas"), tip = find(".tip"), wipe = find("input"), legend = find(".legend");
let ids = null, classes = new Map(), latest = 0;

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// Draws all classes in their colours; with a highlighted one, the others are made nearly transparent.
function draw(highlighted = null) {
  const picture = new ImageData(canvas.width, canvas.height);
  const words = new Uint32Array(picture.data.buffer);
  const colours = new Map();
  for (const {id, colour: [red, green, blue]} of classes.values()) {
    const alpha = highlighted === null || highlighted === id ? 255 : 40;
    colours.set(id, (alpha << 24 | blue << 16 | green << 8 | red) >>> 0);
  }
  for (let index = 0; index < ids.length; index++) words[index] = colours.get(ids[index]);
  canvas.getContext("2d").putImageData(picture, 0, 0);
  for (const item of legend.children) item.classList.toggle("active", Number(item.dataset.id) === highlighted);
}

function fillLegend() {
  legend.replaceChildren(...[...classes.values()].map(({id, name, colour, percent}) => {
    const item = document.createElement("li"), swatch = document.createElement("i");
    const label = document.createElement("span"), share = document.createElement("b");
    item.dataset.id = id;
    item.tabIndex = 0;
    swatch.style.background = `rgb(${colour})`;
    label.textContent = name;
    share.textContent = percent;
    item.append(swatch, label, share);
    item.onmouseenter = item.onfocus = () => draw(id);
    item.onmouseleave = item.onblur = () => draw();
    return item;
  }));
}

async function show() {
  const value = props.value, request = ++latest;
  find(".result").hidden = !value;
  find(".empty").hidden = Boolean(value);
  if (!value) return;
  const buffer = await inflate(value.ids);
  if (request !== latest) return; // a newer value has come meanwhile
  ids = value.wide ? new Uint16Array(buffer) : new Uint8Array(buffer);
  classes = new Map(value.classes.map((entry) => [entry.id, entry]));
  [canvas.width, canvas.height] = [value.width, value.height];
  stage.style.aspectRatio = `${value.width} / ${value.height}`;
  stage.style.setProperty("--ratio", value.width / value.height);
  find("img").src = value.photo;
  find(".caption").textContent = value.caption;
  fillLegend();
  draw();
  hideClassName();
  uncover(0);
  stage.scrollIntoView({behavior: "smooth", block: "nearest"}); // on a phone it lies below the photo
}

// Uncovers the photo from the left, as far as the slider says.
function uncover(percent) {
  wipe.value = percent;
  canvas.style.clipPath = `inset(0 0 0 ${percent}%)`;
  find(".seam").style.left = `${percent}%`;
  find(".seam").hidden = percent <= 0 || percent >= 100;
}

// Names the class under the pointer, or where a finger was last.
function showClassName({clientX, clientY}) {
  const box = canvas.getBoundingClientRect();
  const x = Math.floor((clientX - box.left) / box.width * canvas.width);
  const y = Math.floor((clientY - box.top) / box.height * canvas.height);
  const entry = ids && x >= 0 && y >= 0 && x < canvas.width && y < canvas.height && classes.get(ids[y * canvas.width + x]);
  tip.classList.toggle("shown", Boolean(entry));
  if (!entry) return;
  tip.textContent = `${entry.name} ${entry.percent}`;
  tip.style.setProperty("--colour", `rgb(${entry.colour})`);
  tip.style.left = `${Math.min(Math.max(clientX - box.left, tip.offsetWidth / 2), box.width - tip.offsetWidth / 2)}px`;
  tip.style.top = `${Math.max(clientY - box.top, 1.6 * tip.offsetHeight)}px`;
  for (const item of legend.children) item.classList.toggle("active", Number(item.dataset.id) === entry.id);
}

function hideClassName() {
  tip.classList.remove("shown");
  for (const item of legend.children) item.classList.remove("active");
}

stage.onpointermove = stage.onpointerdown = showClassName;
stage.onpointerleave = ({pointerType}) => { if (pointerType === "mouse") hideClassName(); };
wipe.oninput = () => uncover(Number(wipe.value));
watch("value", show);
show();
