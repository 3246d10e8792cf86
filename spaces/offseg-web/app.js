// Segments a photo in the browser. The model is a folder that `offseg export` wrote: the folder `model` beside
// this page, or the Hub repository that ?model=ORG/NAME names.

import { AutoImageProcessor, AutoModelForSemanticSegmentation, RawImage, env } from "@huggingface/transformers";

const MAX_BYTES = 50e6;
const MAX_PHOTO_PIXELS = 50e6;
const MAX_SHOWN_PIXELS = 2e6; // of the picture and the label map; a larger photo is shown smaller
const TYPES = { q8: "8-bit", fp32: "float32" };

const repository = new URLSearchParams(location.search).get("model");
env.allowRemoteModels = repository !== null;
env.allowLocalModels = repository === null;
env.localModelPath = new URL(".", document.baseURI).pathname;
env.useBrowserCache = repository !== null; // a local folder may be exported anew

const [photo, dtype, opacity, status, result, picture, legend, download] = [
  "photo", "dtype", "opacity", "status", "result", "picture", "legend", "download",
].map((id) => document.getElementById(id));

const models = new Map(); // dtype → promise of the model and its image processor
let shown = null; // canvases of the photo and of the classes' colours
let latest = 0; // number of the last request; results of earlier ones are not shown

photo.addEventListener("change", segment);
dtype.addEventListener("change", segment);
opacity.addEventListener("input", draw);

async function segment() {
  const file = photo.files[0];
  if (!file) return;
  const request = ++latest;
  const say = (text) => request === latest && report(text);
  try {
    say("Reading the photo …");
    const bitmap = await readPhoto(file);
    const { model, processor } = await loadModel(dtype.value, say);
    if (request !== latest) return;
    say("Segmenting …");
    await new Promise((resolve) => setTimeout(resolve, 20)); // lets the browser show that
    const scale = Math.min(1, Math.sqrt(MAX_SHOWN_PIXELS / (bitmap.width * bitmap.height)));
    const [height, width] = [bitmap.height, bitmap.width].map((side) => Math.max(1, Math.round(side * scale)));
    const start = performance.now();
    const original = [bitmap.width, bitmap.height];
    const [inputWidth, inputHeight] = processor.do_resize
      ? processor.get_resize_output_image_size({ size: original }, processor.size)
      : original;
    const inputs = await processor(RawImage.fromCanvas(canvasOf(bitmap, inputHeight, inputWidth)));
    const { logits } = await model({ pixel_values: inputs.pixel_values });
    const labels = labelMap(logits, height, width);
    const seconds = (performance.now() - start) / 1000;
    if (request !== latest) return;
    show(canvasOf(bitmap, height, width), labels, classNames(model.config));
    report(`${TYPES[dtype.value]} model, ${inputWidth}×${inputHeight} pixels, ${seconds.toFixed(2)} seconds`);
  } catch (error) {
    if (request !== latest) return;
    result.hidden = true;
    report(error.message, true);
  }
}

async function readPhoto(file) {
  if (file.size > MAX_BYTES) {
    throw new Error(`${file.name} has more than ${MAX_BYTES / 1e6} MB; choose a smaller photo.`);
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file); // upright, as its EXIF orientation asks
  } catch {
    throw new Error(`${file.name} is no image that this browser can read; choose a JPEG, PNG or WebP photo.`);
  }
  if (bitmap.width * bitmap.height > MAX_PHOTO_PIXELS) {
    throw new Error(`${file.name} has more than ${MAX_PHOTO_PIXELS / 1e6} million pixels; choose a smaller photo.`);
  }
  return bitmap;
}

function loadModel(type, say) {
  if (!models.has(type)) {
    const loading = load(type, say);
    loading.catch(() => models.delete(type)); // so that the next request tries again
    models.set(type, loading);
  }
  return models.get(type);
}

async function load(type, say) {
  const name = repository ?? "model";
  const progress_callback = ({ status, file, loaded, total }) => {
    if (status === "progress" && file.endsWith(".onnx")) {
      say(`Loading the ${TYPES[type]} model: ${(loaded / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB`);
    }
  };
  say(`Loading the ${TYPES[type]} model …`);
  try {
    const options = { dtype: type, device: "wasm", progress_callback };
    const model = await AutoModelForSemanticSegmentation.from_pretrained(name, options);
    return { model, processor: await AutoImageProcessor.from_pretrained(name) };
  } catch (error) {
    throw new Error(`The ${TYPES[type]} model ${name} could not be loaded (${error.message}); try the other one.`);
  }
}

function canvasOf(bitmap, height, width) {
  const canvas = Object.assign(document.createElement("canvas"), { height, width });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high"; // averages when it scales down, as Pillow does; transformers.js does not
  context.drawImage(bitmap, 0, 0, width, height);
  return canvas;
}

// Class ids of the bilinearly upsampled logits, (1, classes, rows, columns) → (height * width), one row at a time:
// all classes at the photo's size would not fit into a browser's memory.
function labelMap({ dims, data }, height, width) {
  const [, classes, rows, columns] = dims;
  const taps = (size, inputs) => Array.from({ length: size }, (_, index) => {
    const source = Math.max(0, ((index + 0.5) * inputs) / size - 0.5);
    const low = Math.floor(source);
    return [low, Math.min(low + 1, inputs - 1), source - low];
  });
  const across = taps(width, columns);
  const row = new Float32Array(columns);
  const best = new Float32Array(width);
  const labels = new Uint16Array(height * width);
  taps(height, rows).forEach(([top, bottom, down], y) => {
    best.fill(classes === 1 ? 0 : -Infinity); // with a single class: 1 where its logit is above 0, else background, 0
    for (let id = 0; id < classes; id++) {
      const start = id * rows * columns;
      for (let x = 0; x < columns; x++) {
        row[x] = data[start + top * columns + x] * (1 - down) + data[start + bottom * columns + x] * down;
      }
      for (let x = 0; x < width; x++) {
        const [left, right, along] = across[x];
        const logit = row[left] * (1 - along) + row[right] * along;
        if (logit > best[x]) {
          best[x] = logit;
          labels[y * width + x] = classes === 1 ? 1 : id;
        }
      }
    }
  });
  return labels;
}

function classNames({ id2label }) {
  const names = Object.values(id2label);
  return names.length === 1 ? ["background", names[0]] : names;
}

function colour(id) {
  // Hues a golden angle apart, in three lightnesses: near ids look unlike each other.
  const [hue, lightness] = [(id * 137.508) % 360, [0.5, 0.35, 0.65][id % 3]];
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (lightness - 0.7 * Math.min(lightness, 1 - lightness) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

function show(photoCanvas, labels, names) {
  const { height, width } = photoCanvas;
  const colours = names.map((_, id) => colour(id));
  const paint = (pixelOf) => {
    const image = new ImageData(width, height);
    const bytes = names.map((_, id) => new Uint8ClampedArray([...pixelOf(id), 255])); // of one pixel of each class
    const pixels = bytes.map((each) => new Uint32Array(each.buffer)[0]); // the same as one number: quicker to copy
    const words = new Uint32Array(image.data.buffer);
    for (let index = 0; index < labels.length; index++) words[index] = pixels[labels[index]];
    const canvas = Object.assign(document.createElement("canvas"), { height, width });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  };
  shown = { photo: photoCanvas, overlay: paint((id) => colours[id]) };
  Object.assign(picture, { height, width });
  draw();

  const counts = names.map(() => 0);
  for (const id of labels) counts[id]++;
  const found = names.map((name, id) => ({ name, id })).filter(({ id }) => counts[id] > 0);
  found.sort((a, b) => counts[b.id] - counts[a.id]);
  legend.replaceChildren(...found.map(({ name, id }) => {
    const item = document.createElement("li");
    const swatch = document.createElement("i");
    swatch.style.background = `rgb(${colours[id]})`;
    item.append(swatch, `${name} ${((100 * counts[id]) / labels.length).toFixed(1)} %`);
    return item;
  }));
  download.hidden = names.length > 256; // more ids than grey values
  download.href = paint((id) => [id, id, id]).toDataURL("image/png");
  result.hidden = false;
}

function draw() {
  if (!shown) return;
  const context = picture.getContext("2d");
  context.globalAlpha = 1;
  context.drawImage(shown.photo, 0, 0);
  context.globalAlpha = Number(opacity.value);
  context.drawImage(shown.overlay, 0, 0);
}

function report(text, wrong = false) {
  status.textContent = text;
  status.classList.toggle("wrong", wrong);
}
