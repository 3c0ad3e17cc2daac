// How replies are made, and the key. Settings stay in this browser.

import * as api from "./api.js";
import { el, toast } from "./dom.js";
import { frame, show } from "./dialogs.js";

const STORED = "codi2.settings";
const FIELDS = [
  { name: "seed", label: "Seed", hint: "Empty: a new one for each reply.", type: "number", min: 0, step: 1, max: Number.MAX_SAFE_INTEGER },
  { name: "num_inference_steps", label: "Steps", hint: "Of drawing. Empty: the model's own.", type: "number", min: 1, max: 1000, step: 1 },
  { name: "guidance_scale", label: "Guidance", hint: "How strictly media follow the request.", type: "number", min: 0, max: 100, step: "any" },
  { name: "source_guidance_scale", label: "Guidance by the source", hint: "How strictly an edit keeps its source.", type: "number", min: 0, max: 100, step: "any" },
  { name: "temperature", label: "Temperature", hint: "0: the most likely words. 2: the most varied.", type: "number", min: 0, max: 2, step: "any" },
  { name: "max_tokens", label: "Longest text", hint: "Tokens of a reply.", type: "number", min: 1, max: 4096, step: 1 },
  { name: "negative_prompt", label: "Negative prompt", hint: "What media should not show.", type: "text", maxlength: 2000 },
  { name: "system", label: "System prompt", hint: "Opens each new conversation.", type: "textarea", maxlength: 20000 },
];
const NUMBERS = FIELDS.filter((field) => field.type === "number").map((field) => field.name);
const OF_CODI2 = ["num_inference_steps", "guidance_scale", "source_guidance_scale", "negative_prompt"];

export function settings() {
  try {
    return JSON.parse(localStorage.getItem(STORED)) ?? {};
  } catch {
    return {};
  }
}

/** The fields of a request that say how its reply is made. `fresh`: another seed than last time. */
export function requestSettings(want, fresh = false) {
  const chosen = settings();
  const codi2 = Object.fromEntries(OF_CODI2.filter((name) => name in chosen).map((name) => [name, chosen[name]]));
  if (chosen.source === "none") codi2.source = "none";
  if (want) codi2.want = want;
  const made = { codi2, seed: chosen.seed === undefined || fresh ? Math.floor(Math.random() * 2 ** 31) : chosen.seed };
  for (const name of ["temperature", "max_tokens"]) if (name in chosen) made[name] = chosen[name];
  return made;
}

/** Opens the settings. */
export async function openSettings() {
  const chosen = settings();
  const rows = FIELDS.map(({ name, label, hint, type, ...limits }) => {
    const tag = type === "textarea" ? "textarea" : "input";
    const input = el(tag, { id: `set-${name}`, name, "aria-describedby": `hint-${name}`, ...(tag === "input" ? { type } : { rows: 2 }), ...limits });
    input.value = chosen[name] ?? "";
    return el("div", { class: type === "number" ? "row" : "row wide" }, el("label", { for: `set-${name}`, text: label }), input, el("small", { id: `hint-${name}`, text: hint }));
  });
  const keep = el("input", { type: "checkbox", id: "set-keep", name: "source" });
  keep.checked = chosen.source !== "none";
  rows.push(el("div", { class: "row check" }, keep, el("label", { for: "set-keep", text: "Edits start from the source" })));
  const forget = el("button", { type: "button", class: "line", text: "Forget the API key", onclick: () => { api.key.forget(); location.reload(); } });
  const form = el("form", {
    method: "dialog",
    onsubmit: () => store(form, keep.checked),
  }, el("div", { class: "fields" }, ...rows), api.key.get() ? forget : null,
  el("div", { class: "actions" },
    el("button", { type: "button", text: "Reset", onclick: () => { form.reset(); for (const input of form.elements) if (input.name) input.value = ""; keep.checked = true; } }),
    el("button", { type: "button", text: "Cancel", onclick: () => dialog.close("") }),
    el("button", { type: "submit", class: "primary", value: "save", text: "Save" })));
  const dialog = frame("Settings", form);
  dialog.id = "settings";
  if ((await show(dialog)) === "save") toast("Settings saved.", "note");
}

function store(form, keepSource) {
  const made = {};
  for (const { name } of FIELDS) {
    const value = form.elements[name].value.trim();
    if (value !== "") made[name] = NUMBERS.includes(name) ? Number(value) : value;
  }
  if (!keepSource) made.source = "none";
  localStorage.setItem(STORED, JSON.stringify(made));
}

/** Connects the button that switches between light and dark. */
export function connectTheme(button) {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const say = () => { button.setAttribute("aria-pressed", String(dark())); };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("codi2.theme", root.dataset.theme);
    say();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", say);
  say();
}
