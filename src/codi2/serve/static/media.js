// Pictures, sounds and clips. They are fetched with the key and shown as blobs; only what comes into view is fetched.

import * as api from "./api.js";
import { el, icon, iconButton, toast } from "./dom.js";
import { enlarge } from "./dialogs.js";

const SHOWN = 768; // pixels of the longer side: larger pictures come scaled down
const urls = new Map(); // path → promise of an object URL

function urlOf(path) {
  if (!urls.has(path)) {
    const url = api.blob(path).then((blob) => URL.createObjectURL(blob));
    url.catch(() => urls.delete(path));
    urls.set(path, url);
  }
  return urls.get(path);
}

/** Frees the media of the conversation that was shown. */
export function release() {
  for (const url of urls.values()) url.then(URL.revokeObjectURL, () => {});
  urls.clear();
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    load(entry.target);
  }
}, { rootMargin: "600px" });

const paths = new WeakMap();

async function load(element) {
  try {
    element.src = await urlOf(paths.get(element));
  } catch (error) {
    element.closest("figure, button")?.classList.add("missing");
    element.title = error.message;
  }
}

/** Fetches `path` for an image, audio or video element when it comes into view. */
function lazily(element, path) {
  paths.set(element, path);
  seen.observe(element);
  return element;
}

const picture = (type) => type !== "audio" && type !== "video";
const pathOf = (session, item) => api.mediaPath(session, item.id, picture(item.type) ? { side: SHOWN } : { sound: item.sound });

/** A small picture of an item. */
export function thumbnail(session, item) {
  if (item.type === "audio") return icon("audio");
  const path = picture(item.type) ? pathOf(session, item) : api.mediaPath(session, item.id, { side: 192 });
  return lazily(el("img", { alt: "" }), path);
}

/**
 * An item with its player, its name, and what can be done with it.
 * `refer` is called with the name when the user wants to speak of it. `names`: of a clip, its sound's name as well.
 */
export function figure(session, item, names, refer) {
  let shown;
  if (item.type === "audio") {
    shown = lazily(el("audio", { controls: true, preload: "metadata", "aria-label": item.item }), pathOf(session, item));
  } else if (item.type === "video") {
    shown = lazily(el("video", { controls: true, loop: true, playsinline: true, "aria-label": names.join(" with ") }), pathOf(session, item));
  } else {
    const image = lazily(el("img", { alt: item.item }), pathOf(session, item));
    const open = async () => enlarge(await urlOf(pathOf(session, item)), item.item, () => refer(item.item));
    shown = el("button", { type: "button", class: "picture", "aria-label": `Enlarge ${item.item}`, onclick: open }, image);
  }
  const chips = names.map((name) => el("button", {
    type: "button", class: "chip", text: name, title: `Refer to ${name} in your message`, "aria-label": `Refer to ${name}`, onclick: () => refer(name),
  }));
  const save = iconButton("download", `Download ${item.item}`, () => download(api.mediaPath(session, item.id, { sound: item.sound }), item.item));
  return el("figure", { class: `item ${item.type}` }, shown, el("figcaption", {}, ...chips, save));
}

/** Saves a file of the API under a name of ours. */
export async function download(path, name) {
  try {
    const blob = await api.blob(path);
    const suffix = { "image/png": "png", "audio/flac": "flac", "video/mp4": "mp4", "application/zip": "zip" }[blob.type] ?? "bin";
    const url = URL.createObjectURL(blob);
    el("a", { href: url, download: `${name}.${suffix}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    toast(error.message);
  }
}
