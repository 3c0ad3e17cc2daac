// The strip of the conversation's items above the message: pressing one puts a reference into the message.

import { $, el } from "./dom.js";
import { thumbnail } from "./media.js";

/** All items of the rounds, in the order in which they came. */
export function itemsOf(rounds) {
  return rounds.flatMap((round) => [...round.items, ...round.reply.filter((part) => part.type !== "text")]);
}

/** Draws the strip. */
export function drawStrip(session, rounds, refer) {
  const strip = $("#items");
  const items = itemsOf(rounds);
  strip.hidden = !items.length;
  strip.replaceChildren(...items.map((item) => el("button", {
    type: "button", class: `thumb ${item.type}`, title: `Refer to ${item.item}`, "aria-label": `Refer to ${item.item}`, onclick: () => refer(item.item),
  }, thumbnail(session, item), el("span", { text: item.item }))));
  strip.scrollLeft = strip.scrollWidth;
}
