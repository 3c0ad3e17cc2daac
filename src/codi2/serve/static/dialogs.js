// Dialogs: a question, the key, a large picture. `<dialog>` keeps the focus inside and closes with Escape.

import { el, icon, iconButton } from "./dom.js";

/** Opens a dialog and removes it when it closes; the promise gives its return value, "" for Escape. */
export function show(dialog) {
  document.body.append(dialog);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(""); });
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}

let count = 0;

/** A dialog with a heading that names it. */
export function frame(title, ...content) {
  const id = `dialog${count++}`;
  return el("dialog", { "aria-labelledby": id }, el("h2", { id, text: title }), ...content);
}

/** Whether the user agrees to `action`. The focus is on Cancel. */
export async function confirm(title, text, action) {
  const cancel = el("button", { type: "button", text: "Cancel", autofocus: true, onclick: () => dialog.close("") });
  const agree = el("button", { type: "button", class: "danger", text: action, onclick: () => dialog.close("yes") });
  const dialog = frame(title, el("p", { text }), el("div", { class: "actions" }, cancel, agree));
  return (await show(dialog)) === "yes";
}

/** The API key that the user enters, or null. */
export async function askForKey(wrong) {
  const field = el("input", { id: "key", type: "password", autocomplete: "off", required: true, autofocus: true, spellcheck: "false" });
  const said = el("p", { class: "error", role: "alert", text: wrong ? "The server does not accept this key." : "" });
  const enter = (event) => {
    event.preventDefault();
    const value = field.value.trim();
    if (!/^[\x21-\x7e]+$/.test(value)) said.textContent = "A key has letters, digits and signs, and no spaces.";
    else dialog.close(`key ${value}`);
  };
  const form = el("form", { onsubmit: enter },
    el("p", { text: "This server asks for an API key. It is kept in this tab until the tab is closed." }),
    el("label", { for: "key", text: "API key" }), field, said,
    el("div", { class: "actions" },
      el("button", { type: "button", text: "Cancel", onclick: () => dialog.close("") }),
      el("button", { type: "submit", class: "primary", text: "Continue" })));
  const dialog = frame("API key", form);
  dialog.id = "key-dialog";
  const value = await show(dialog);
  return value ? value.slice(4) : null;
}

/** A picture as large as the window. */
export function enlarge(url, name, refer) {
  const say = el("button", { type: "button", onclick: () => { dialog.close(""); refer(); } }, icon("refer"), `Refer to ${name}`);
  const close = iconButton("close", "Close", () => dialog.close(""), { autofocus: true });
  const dialog = el("dialog", { class: "large", "aria-label": name }, el("img", { src: url, alt: name }), el("div", { class: "actions" }, say, close));
  return show(dialog);
}
