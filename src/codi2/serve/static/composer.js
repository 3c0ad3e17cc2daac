// The message that is being written: words, attached files, references.

import * as api from "./api.js";
import { $, el, icon, iconButton, announce, toast } from "./dom.js";

const KINDS = ["image", "audio", "video"];
const DRAFT = "codi2.draft";
const words = $("#words");
let attached = []; // { kind, url, label, id, ready, abort, element }
let countOf = () => 0; // items of a modality in the conversation

function guess(file) {
  const kind = file.type.split("/")[0];
  return KINDS.includes(kind) ? kind : "image";
}

/** The names that the attached files will have: the next numbers of their modalities. */
function names() {
  const counts = {};
  return attached.map(({ kind }) => {
    counts[kind] ??= countOf(kind);
    return `${kind}${counts[kind]++}`;
  });
}

function draw() {
  const list = $("#attached");
  const called = names();
  list.hidden = !attached.length;
  list.replaceChildren(...attached.map((one, i) => {
    const preview = one.kind === "image" && one.url ? el("img", { src: one.url, alt: "", onerror: (event) => event.target.replaceWith(icon("image")) }) : icon(one.kind);
    return el("div", { class: one.id ? "attachment" : "attachment loading", role: "listitem" },
      el("button", { type: "button", class: "refer", title: one.label, "aria-label": `Refer to ${called[i]}`, onclick: () => refer(called[i]) }, preview, el("span", { text: called[i] })),
      iconButton("close", `Remove ${called[i]}`, () => remove(one)));
  }));
}

function remove(one) {
  one.abort.abort();
  attached = attached.filter((other) => other !== one);
  if (one.id && one.fresh) api.deleteUpload(one.id).catch(() => {}); // it ends within the hour anyway
  draw();
  words.focus();
}

/** Sends files to the server, which says what they are. Their names stay here. */
export function attach(files) {
  for (const file of files) {
    const one = { kind: guess(file), url: file.type.startsWith("image/") ? URL.createObjectURL(file) : null, label: file.name, id: null, fresh: true, abort: new AbortController() };
    attached.push(one);
    one.ready = api.upload(file, one.abort.signal).then(
      ({ id, type }) => {
        Object.assign(one, { id, kind: type });
        announce("A file is attached.");
        draw();
      },
      (error) => {
        attached = attached.filter((other) => other !== one);
        if (error.name !== "AbortError") toast(error.message);
        draw();
      },
    );
  }
  draw();
}

/** Puts `[name]` where the cursor is. */
export function refer(name, field = words) {
  const { selectionStart: from, selectionEnd: to, value } = field;
  const before = from > 0 && !/\s$/.test(value.slice(0, from)) ? " " : "";
  const after = /^[\s.,;:!?]/.test(value.slice(to)) ? "" : " ";
  field.setRangeText(`${before}[${name}]${after}`, from, to, "end");
  field.dispatchEvent(new Event("input"));
  field.focus();
  announce(`The message refers to ${name}.`);
}

/** A message as the API takes it: the words as they are, and behind them the files that they do not place. */
export function content(text, media, called) {
  const parts = text ? [{ type: "text", text }] : [];
  media.forEach(({ id }, i) => {
    const placed = text.toLowerCase().includes(`[${called[i]}]`);
    if (!placed && parts.length) parts.push({ type: "text", text: " " });
    parts.push({ type: "media", id });
  });
  return parts;
}

/** Takes the message out of the composer when all its files are sent; null: there is none. */
export async function take() {
  await Promise.all(attached.map((one) => one.ready));
  const text = words.value.trim();
  if (!text && !attached.length) return null;
  const message = { text, media: attached, names: names(), content: content(text, attached, names()) };
  attached = [];
  words.value = "";
  resize();
  draw();
  return message;
}

/** Puts a failed message back, unless another has been begun. */
export function putBack(message) {
  if (words.value.trim() || attached.length) return;
  words.value = message.text;
  attached = message.media.filter((one) => one.id);
  resize();
  draw();
}

export function focus() {
  words.focus({ preventScroll: true });
}

/** Says how many items of a modality the conversation has. */
export function setCounts(count) {
  countOf = count;
  draw();
}

function resize() {
  words.style.height = "auto";
  words.style.height = `${Math.min(words.scrollHeight, window.innerHeight * 0.4)}px`;
  sessionStorage.setItem(DRAFT, words.value);
}

/** A text area as tall as its text. */
export function grow(field) {
  const fit = () => {
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + 2}px`;
  };
  field.addEventListener("input", fit);
  requestAnimationFrame(fit);
}

/** Connects keys, files, drag and drop, and paste. `send` is called for Enter; `editLast` for ↑ in an empty message. */
export function connect({ send, editLast }) {
  words.value = sessionStorage.getItem(DRAFT) ?? "";
  words.addEventListener("input", resize);
  words.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    } else if (event.key === "ArrowUp" && !words.value) {
      event.preventDefault();
      editLast();
    }
  });
  words.addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    attach(event.clipboardData.files);
  });
  $("#composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("#attach").addEventListener("click", () => $("#files").click());
  $("#files").addEventListener("change", (event) => {
    attach(event.target.files);
    event.target.value = "";
    words.focus();
  });
  const drop = $("#drop");
  const withFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!withFiles(event)) return;
    event.preventDefault();
    drop.hidden = false;
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.hidden = true; });
  addEventListener("drop", (event) => {
    if (!withFiles(event)) return;
    event.preventDefault();
    drop.hidden = true;
    attach(event.dataTransfer.files);
    words.focus();
  });
  resize();
}
