// The page: which conversation is shown, and the rounds under way.

import * as api from "./api.js";
import * as composer from "./composer.js";
import * as conversation from "./conversation.js";
import { askForKey, confirm } from "./dialogs.js";
import { $, announce, toast } from "./dom.js";
import { welcome } from "./examples.js";
import { drawStrip, itemsOf } from "./items.js";
import { download, release } from "./media.js";
import { connectMicrophone } from "./microphone.js";
import { connectTheme, openSettings, requestSettings, settings } from "./settings.js";
import { linkOf, refresh, titleOf } from "./sidebar.js";
import { wantOf, wantPicker } from "./want.js";

const NEW = "New conversation";
const RANGES = { read: [0, 0.1], write: [0.1, 0.45], decode: [0.45, 1] }; // shares of the progress bar
const shown = { session: null, rounds: [], makes: ["text"] };
const runs = new Map(); // session → its round under way
const drafts = new Map(); // session → a message that failed while another conversation was shown
let picker = wantPicker([]);
let opening = 0; // the newest `open`: an older one that answers later is not shown

const handlers = {
  refer: (name) => composer.refer(name),
  edit: (number, message, want) => replace(number, message, want, false),
  regenerate: async (round) => {
    const later = shown.rounds.length - 1 - round.number;
    if (later && !(await confirm("Make this reply again?", `${later === 1 ? "The round" : `The ${later} rounds`} after it will be removed.`, "Make again"))) return;
    const names = round.items.map((item) => item.item);
    const media = round.items.map((item) => ({ ...item, kind: item.type }));
    const message = { text: round.words, media, names, content: composer.content(round.words, round.items, names) };
    replace(round.number, message, wantOf(round.options), true);
  },
  undo: async () => {
    if (!(await confirm("Undo this round?", "The last message and its reply are removed from the server.", "Undo"))) return;
    try {
      await api.undo(shown.session);
      await open(shown.session);
    } catch (error) {
      toast(error.message);
    }
  },
};

// ---- what is shown

async function open(session) {
  const mine = ++opening;
  let rounds = [];
  try {
    if (session) rounds = await api.rounds(session);
  } catch (error) {
    if (mine !== opening) return;
    toast(error.status === 404 ? "This conversation is not here any more." : error.message);
    history.replaceState(null, "", "#");
    session = null;
  }
  if (mine !== opening) return;
  release();
  Object.assign(shown, { session, rounds });
  redraw();
  if (drafts.has(session)) composer.putBack(drafts.get(session));
  drafts.delete(session);
  await list();
}

function redraw() {
  const run = runs.get(shown.session);
  const kept = run && run.number !== null ? shown.rounds.slice(0, run.number) : shown.rounds;
  conversation.draw({ ...shown, rounds: kept }, handlers);
  if (run) $("#talk").append(...run.view.elements);
  if (!shown.rounds.length && !run) $("#talk").append(welcome(shown.makes, example));
  drawStrip(shown.session, shown.rounds, handlers.refer);
  composer.setCounts((kind) => itemsOf(shown.rounds).filter((item) => item.type === kind).length);
  busy(Boolean(run));
  $("#export").hidden = !shown.rounds.length;
  if (shown.rounds.length || run) scrollDown(true);
  else $("#scroll").scrollTop = 0;
}

async function list() {
  try {
    const sessions = await refresh(shown.session, { deleted, renamed: list, running: (id) => runs.has(id) });
    const current = sessions.find((session) => session.id === shown.session);
    $("#title").textContent = current ? titleOf(current) : NEW;
    document.title = current ? `${titleOf(current)} – CoDi-2` : "CoDi-2";
  } catch (error) {
    toast(error.message);
  }
}

function deleted(id) {
  runs.get(id)?.controller.abort();
  announce("The conversation is deleted.");
  if (id === shown.session) location.hash = "";
  else list();
  $("#new").focus();
}

function busy(on) {
  $("#send").hidden = on;
  $("#stop").hidden = !on;
}

function scrollDown(always = false) {
  const box = $("#scroll");
  if (always || box.scrollHeight - box.scrollTop - box.clientHeight < 200) box.scrollTop = box.scrollHeight;
}

// ---- rounds

async function send() {
  if (runs.has(shown.session) || sending) return;
  sending = true;
  try {
    const message = await composer.take();
    if (message) await play(null, message, picker.value());
  } finally {
    sending = false;
  }
}
let sending = false; // a message is being taken out of the composer, or its conversation is being made

async function example(words, files, want) {
  picker.set(want);
  $("#words").value = words;
  composer.attach(files);
  await send();
}

function replace(number, message, want, fresh) {
  if (runs.has(shown.session)) toast("A reply is being made. Stop it first, or wait for it.");
  else play(number, message, want, fresh);
}

/** The first words of a message. */
function titleFor({ text, names }) {
  const words = text.replace(/\s+/g, " ");
  const characters = [...words]; // a slice of the string could end within an emoji
  if (characters.length <= 60) return words || names.join(", ");
  return `${characters.slice(0, 60).join("").replace(/\s\S*$/, "")}…`;
}

/** Plays a round in the conversation that is shown; returns when it is on its way. */
async function play(number, message, want, fresh = false) {
  let { session } = shown;
  const made = session === null;
  if (made) {
    const title = titleFor(message);
    try {
      session = (await api.createSession(title, settings().system)).id;
    } catch (error) {
      composer.putBack(message);
      toast(error.message);
      return;
    }
    opening++;
    shown.session = session;
    history.pushState(null, "", linkOf(session));
  }
  const run = { number, message, text: "", stage: "waiting", share: 0, controller: new AbortController(), made };
  run.view = conversation.pending(message, () => run.controller.abort());
  runs.set(session, run);
  redraw();
  list();
  announce("The reply is being made.");
  const known = number === null ? {} : { rounds: shown.rounds.length };
  follow(session, run, { content: message.content, ...known, ...requestSettings(want, fresh) });
}

async function follow(session, run, body) {
  const here = () => shown.session === session;
  try {
    let round = null;
    for await (const event of api.play(session, run.number, body, run.controller.signal)) {
      if (event.type === "text") run.text += event.text;
      else if (event.type === "progress") advance(run, event);
      else if (event.type === "done") round = event.round;
      run.view.update(run);
      if (here()) scrollDown();
    }
    if (round === null) throw new api.ApiError(0, "The connection ended before the reply was there. Try again.");
    runs.delete(session);
    if (here()) finished(round);
  } catch (error) {
    runs.delete(session);
    await failed(session, run, error);
  }
  list();
}

function advance(run, { stage, step, total }) {
  const [from, to] = RANGES[stage] ?? [0, 1];
  run.stage = stage;
  run.share = Math.max(run.share, from + ((to - from) * step) / Math.max(1, total));
}

function finished(round) {
  if (round.number > shown.rounds.length) { // another window has added rounds
    open(shown.session);
    return;
  }
  shown.rounds = [...shown.rounds.slice(0, round.number), round];
  redraw();
  conversation.announceReply(round);
}

async function failed(session, run, error) {
  if (error.name === "AbortError") announce("Stopped.");
  else toast(error.message);
  if (run.number === null && shown.session === session) composer.putBack(run.message);
  else if (run.number === null) drafts.set(session, run.message);
  if (run.made && shown.session === session && (await api.rounds(session).catch(() => [0])).length === 0) {
    await api.deleteSession(session).catch(() => {});
    if (shown.session === session) {
      history.replaceState(null, "", "#");
      Object.assign(shown, { session: null, rounds: [] });
    }
  }
  if (shown.session === session && error.status === 409) await open(session); // another window has changed it
  else if (shown.session === session || shown.session === null) redraw();
}

// ---- the frame

function drawer(on) {
  document.body.classList.toggle("drawer", on);
  $("#shade").hidden = !on;
  frame();
}

/** On narrow windows the sidebar is a drawer: while it is shut, nothing in it takes the focus. */
function frame() {
  const narrow = matchMedia("(max-width: 800px)").matches;
  const open = narrow ? document.body.classList.contains("drawer") : !document.body.classList.contains("wide");
  $("#sidebar").inert = !open;
  $("main").inert = narrow && open;
  $("#menu").setAttribute("aria-expanded", String(open));
}

function toggleSidebar() {
  if (matchMedia("(max-width: 800px)").matches) {
    const on = !document.body.classList.contains("drawer");
    drawer(on);
    (on ? $("#hide") : $("#menu")).focus();
  } else {
    document.body.classList.toggle("wide");
    frame();
    if ($("#sidebar").inert) $("#menu").focus();
  }
}

/** The session that the address names, or null. */
function sessionOf() {
  try {
    return decodeURIComponent(location.hash.match(/^#\/c\/(.+)$/)?.[1] ?? "") || null;
  } catch { // a broken escape, such as %zz
    return null;
  }
}

async function start() {
  api.key.onWanted(askForKey);
  connectTheme($("#theme"));
  composer.connect({ send, editLast: () => [...document.querySelectorAll('.user [aria-label="Edit the message"]')].at(-1)?.click() });
  connectMicrophone($("#record"), $("#clock"), (file) => composer.attach([file]));
  $("#stop").addEventListener("click", () => runs.get(shown.session)?.controller.abort());
  $("#open-settings").addEventListener("click", openSettings);
  $("#export").addEventListener("click", () => download(api.exportPath(shown.session), "conversation"));
  $("#menu").addEventListener("click", toggleSidebar);
  $("#hide").addEventListener("click", toggleSidebar);
  $("#shade").addEventListener("click", () => drawer(false));
  $("#new").addEventListener("click", () => {
    if (location.hash) location.hash = "";
    drawer(false);
    composer.focus();
  });
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && document.body.classList.contains("drawer")) toggleSidebar();
  });
  addEventListener("hashchange", async () => {
    drawer(false);
    await open(sessionOf());
    composer.focus();
  });
  addEventListener("pagehide", () => {
    const run = runs.get(shown.session); // it ends with the page: its words are in the message after a reload
    if (run?.number === null) composer.putBack(run.message);
  });
  matchMedia("(max-width: 800px)").addEventListener("change", () => drawer(false));
  frame();
  composer.focus(); // before anything is loaded, so that no key is lost
  try {
    const [model] = await api.models();
    shown.makes = model.codi2.makes;
    picker = wantPicker(shown.makes);
    $("#want").replaceWith(picker.element);
    await open(sessionOf());
  } catch (error) {
    toast(error.message);
  }
}

start();
