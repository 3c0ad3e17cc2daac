// What a reply holds: one button for each modality that the model makes. None pressed: the model chooses.

import { el, icon } from "./dom.js";

const LABELS = { text: "Text", image: "Image", audio: "Audio", video: "Video" };

/** The buttons, and `value()`: null or a list in the order text, image, audio, video. */
export function wantPicker(makes, chosen = null) {
  const pressed = new Set(chosen ?? []);
  const group = el("div", { class: "want", role: "group", "aria-label": "Reply with" });
  for (const kind of Object.keys(LABELS)) {
    if (!makes.includes(kind)) continue;
    const button = el("button", {
      type: "button", class: "toggle", "data-kind": kind, "aria-pressed": String(pressed.has(kind)),
      title: `Reply with ${LABELS[kind].toLowerCase()}`, "aria-label": LABELS[kind],
      onclick: () => {
        if (!pressed.delete(kind)) pressed.add(kind);
        button.setAttribute("aria-pressed", String(pressed.has(kind)));
      },
    }, icon(kind), el("span", { text: LABELS[kind] }));
    group.append(button);
  }
  const value = () => (pressed.size ? Object.keys(LABELS).filter((kind) => pressed.has(kind)) : null);
  const set = (kinds) => {
    pressed.clear();
    for (const kind of kinds ?? []) pressed.add(kind);
    for (const button of group.children) button.setAttribute("aria-pressed", String(pressed.has(button.dataset.kind)));
  };
  return { element: group, value, set };
}

/** What a kept round was asked for, in the form of `value()`. */
export function wantOf(options) {
  if (options.want === null || options.want === undefined) return null;
  const kinds = [options.want].flat();
  return kinds.length ? kinds : ["text"];
}
