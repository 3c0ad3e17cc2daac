// Elements. Text goes in as text nodes only: nothing that a user or the model writes is ever read as markup.

export const $ = (selector, root = document) => root.querySelector(selector);

/** An element. `options`: attributes, `text`, `class`, and listeners as `onclick`. Children: nodes and texts. */
export function el(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "class") node.className = value;
    else if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** An icon of the sprite in index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows an icon and says `label`. */
export function iconButton(name, label, onclick, options = {}) {
  return el("button", { type: "button", class: "quiet", "aria-label": label, title: label, onclick, ...options }, icon(name));
}

/** Says something to screen readers. */
export function announce(text) {
  $("#announce").textContent = text;
}

/** Shows a message for some seconds; it is an alert to screen readers. */
export function toast(text, kind = "error") {
  const shown = el("div", { class: `toast ${kind}` }, el("span", { text }));
  const close = () => shown.remove();
  shown.append(iconButton("close", "Close this message", close));
  $("#toasts").append(shown);
  setTimeout(close, 10_000);
}
