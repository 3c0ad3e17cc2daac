// The list of conversations: open, rename, delete.

import * as api from "./api.js";
import { $, el, iconButton, toast } from "./dom.js";
import { confirm } from "./dialogs.js";

const DAY = 86_400;

function groupOf(session) {
  const midnight = new Date().setHours(0, 0, 0, 0) / 1000;
  if (session.changed >= midnight) return "Today";
  if (session.changed >= midnight - DAY) return "Yesterday";
  return session.changed >= midnight - 7 * DAY ? "The last seven days" : "Earlier";
}

export const titleOf = (session) => session.title.trim() || "Untitled";
export const linkOf = (id) => `#/c/${encodeURIComponent(id)}`;

/** Draws the list. `handlers`: `deleted(id)`, `renamed(session)`, `running(id)`. */
export async function refresh(current, handlers) {
  const sessions = await api.sessions();
  const nav = $("#sessions");
  const focused = document.activeElement?.closest?.("#sessions li")?.dataset.id;
  nav.replaceChildren();
  for (const [group, members] of Map.groupBy(sessions, groupOf)) {
    const list = el("ul", { "aria-label": group }, ...members.map((session) => row(session, current, handlers)));
    nav.append(el("h2", { text: group }), list);
  }
  if (!sessions.length) nav.append(el("p", { class: "empty", text: "No conversation yet." }));
  if (focused) nav.querySelector(`li[data-id="${CSS.escape(focused)}"] a`)?.focus();
  return sessions;
}

function row(session, current, handlers) {
  const title = titleOf(session);
  const link = el("a", { href: linkOf(session.id), title, text: title, "aria-current": session.id === current ? "page" : null });
  const item = el("li", { "data-id": session.id, class: handlers.running(session.id) ? "running" : "" }, link,
    iconButton("edit", `Rename ${title}`, () => rename(session, item, handlers)),
    iconButton("delete", `Delete ${title}`, () => remove(session, handlers)));
  return item;
}

function rename(session, item, handlers) {
  const field = el("input", { "aria-label": `New title of ${titleOf(session)}`, maxlength: 200 });
  field.value = session.title;
  const before = [...item.childNodes];
  let open = true;
  const close = async (keep) => {
    if (!open) return;
    open = false;
    const title = field.value.trim();
    item.replaceChildren(...before);
    item.querySelector("a").focus();
    if (!keep || title === session.title) return;
    try {
      handlers.renamed(await api.renameSession(session.id, title));
    } catch (error) {
      toast(error.message);
    }
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") close(true);
    if (event.key === "Escape") { event.stopPropagation(); close(false); }
  });
  field.addEventListener("blur", () => close(true));
  item.replaceChildren(field);
  field.select();
}

async function remove(session, handlers) {
  const text = `“${titleOf(session)}” and its media are removed from the server for good.`;
  if (!(await confirm("Delete this conversation?", text, "Delete"))) return;
  try {
    await api.deleteSession(session.id);
    handlers.deleted(session.id);
  } catch (error) {
    toast(error.message);
  }
}
