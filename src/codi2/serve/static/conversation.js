// The messages of a conversation: words, items, what can be done with each, and the reply that is being made.

import { $, el, icon, iconButton, announce, toast } from "./dom.js";
import { figure, thumbnail } from "./media.js";
import { content, grow } from "./composer.js";
import { wantOf, wantPicker } from "./want.js";

const STAGES = { waiting: "Waiting", read: "Reading", write: "Writing", decode: "Drawing" };
const REFERENCE = /(\[(?:image|audio|video|depth|thermal|imu)\d{1,4}\])/i;

/** Draws a conversation. `shown`: { session, rounds, makes }; `handlers`: refer, edit, regenerate, undo. */
export function draw(shown, handlers) {
  $("#talk").replaceChildren(...shown.rounds.flatMap((round) => roundOf(shown, round, handlers)));
}

/** Adds a round at the end. */
export function add(shown, round, handlers) {
  $("#talk").append(...roundOf(shown, round, handlers));
}

function roundOf(shown, round, handlers) {
  return [asked(shown, round, handlers), replied(shown, round, handlers)];
}

/** The words as they were written; references stand out. */
function wordsOf(text) {
  const spans = text.split(REFERENCE).map((piece, i) => (i % 2 ? el("span", { class: "reference", text: piece }) : piece));
  return el("div", { class: "words" }, ...spans);
}

function figures(shown, items, handlers) {
  if (!items.length) return null;
  return el("div", { class: "figures" }, ...items.map(([item, names]) => figure(shown.session, item, names, handlers.refer)));
}

function asked(shown, round, handlers) {
  const message = el("article", { class: "message user", "aria-label": "You", "data-round": round.number });
  const body = [
    figures(shown, round.items.map((item) => [item, [item.item]]), handlers),
    round.words ? wordsOf(round.words) : null,
    el("div", { class: "acts" },
      round.words ? iconButton("copy", "Copy the message", () => copy(round.words)) : null,
      iconButton("edit", "Edit the message", () => edit(message, shown, round, handlers))),
  ].filter(Boolean);
  message.append(...body);
  return message;
}

function edit(message, shown, round, handlers) {
  const before = [...message.childNodes];
  const field = el("textarea", { "aria-label": "Edit the message", rows: 1 });
  const picker = wantPicker(shown.makes, wantOf(round.options));
  let items = [...round.items];
  const names = Object.fromEntries(round.items.map((item) => [item.id, item.item]));
  const strip = el("div", { class: "figures small" });
  const drawItems = () => strip.replaceChildren(...items.map((item) => el("div", { class: "kept" }, thumbnail(shown.session, item), el("span", { text: names[item.id] }),
    iconButton("close", `Remove ${names[item.id]}`, () => { items = items.filter((other) => other !== item); drawItems(); field.focus(); }))));
  const close = () => {
    message.replaceChildren(...before);
    message.classList.remove("editing");
    message.querySelector('[aria-label="Edit the message"]').focus();
  };
  const send = () => {
    const text = field.value.trim();
    if (!text && !items.length) return;
    const called = items.map((item) => names[item.id]);
    handlers.edit(round.number, { text, media: items.map((item) => ({ ...item, kind: item.type })), names: called, content: content(text, items, called) }, picker.value());
  };
  field.value = round.words;
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  });
  grow(field);
  const later = shown.rounds.length - 1 - round.number;
  drawItems();
  message.classList.add("editing");
  message.replaceChildren(el("div", { class: "box" }, strip, field, el("div", { class: "tools" }, picker.element)),
    el("div", { class: "actions" },
      later ? el("small", { text: later === 1 ? "The round after this one is removed." : `The ${later} rounds after this one are removed.` }) : null,
      el("button", { type: "button", text: "Cancel", onclick: close }),
      el("button", { type: "button", class: "primary", text: "Send", onclick: send })));
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}

function replied(shown, round, handlers) {
  const rows = [];
  const joined = new Set(); // sounds that a clip plays
  for (const part of round.reply) if (part.sound) joined.add(part.sound);
  const itemOf = (id) => round.reply.find((part) => part.type === "audio" && part.id === id).item;
  for (const part of round.reply) {
    if (part.type === "text") rows.push(wordsOf(part.text.trim()));
    else if (!(part.type === "audio" && joined.has(part.id))) {
      const names = part.sound ? [part.item, itemOf(part.sound)] : [part.item];
      const row = figures(shown, [[part, names]], handlers);
      const last = rows.at(-1);
      if (last?.classList.contains("figures")) last.append(...row.children);
      else rows.push(row);
    }
  }
  if (!rows.length) rows.push(el("p", { class: "note", text: "The reply is empty." }));
  const text = round.reply.filter((part) => part.type === "text").map((part) => part.text.trim()).join("\n");
  const last = round.number === shown.rounds.length - 1;
  return el("article", { class: "message model", "aria-label": "CoDi-2", "data-round": round.number },
    el("img", { class: "face", src: "/static/icon.svg", alt: "", width: 28, height: 28 }),
    el("div", { class: "body" }, ...rows,
      ...round.notes.map((note) => el("p", { class: "note", text: note })),
      el("div", { class: "acts" },
        iconButton("again", "Make this reply again", () => handlers.regenerate(round)),
        text ? iconButton("copy", "Copy the reply", () => copy(text)) : null,
        last ? iconButton("undo", "Undo this round", () => handlers.undo()) : null,
        el("span", { class: "made", text: madeOf(round) }))));
}

function madeOf({ recipe, options }) {
  const seconds = Object.values(recipe.seconds ?? {}).reduce((sum, value) => sum + value, 0);
  return [recipe.model, options.seed === undefined ? null : `seed ${options.seed}`, seconds ? `${seconds.toFixed(1)} s` : null].filter(Boolean).join(" · ");
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.", "note");
  } catch {
    toast("The browser does not allow copying here.");
  }
}

/** A round that is being made: `element`s and `update(run)`. `stop` ends it. */
export function pending(message, stop) {
  const previews = message.media.map(({ kind, url }, i) => el("figure", { class: `item ${kind}` },
    url ? el("img", { src: url, alt: message.names[i], onerror: (event) => event.target.replaceWith(icon(kind)) }) : el("div", { class: "placeholder" }, icon(kind)),
    el("figcaption", { text: message.names[i] })));
  const user = el("article", { class: "message user", "aria-label": "You" },
    previews.length ? el("div", { class: "figures" }, ...previews) : null, message.text ? wordsOf(message.text) : null);
  const said = el("div", { class: "words" });
  const bar = el("progress", { "aria-label": "Progress of the reply", max: 1 });
  const stage = el("span", { class: "stage", text: STAGES.waiting });
  const stopButton = el("button", { type: "button", class: "line stop", onclick: stop }, icon("stop"), "Stop");
  const model = el("article", { class: "message model pending", "aria-label": "CoDi-2", "aria-busy": "true" },
    el("img", { class: "face", src: "/static/icon.svg", alt: "", width: 28, height: 28 }),
    el("div", { class: "body" }, said, el("div", { class: "progress" }, stage, bar, stopButton)));
  const update = (run) => {
    said.textContent = run.text;
    stage.textContent = STAGES[run.stage] ?? run.stage;
    if (run.stage === "waiting") bar.removeAttribute("value");
    else bar.value = run.share;
  };
  return { elements: [user, model], update };
}

/** Tells screen readers what the reply is. */
export function announceReply(round) {
  const items = round.reply.filter((part) => part.type !== "text").map((part) => part.item);
  const text = round.reply.filter((part) => part.type === "text").map((part) => part.text.trim()).join(" ");
  announce(["The reply is here.", text, items.length ? `It has ${items.join(", ")}.` : ""].filter(Boolean).join(" "));
}
