// The API of this server (docs/api.md). The key is kept in this tab's session storage and sent in a header only.

const KEY = "codi2.key";
const RETRIES = 3; // of a request that reads, when the key's minute is used up

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let keyWanted = null; // asks the user for a key: set by the page
let asking = null; // one question for all requests that wait for a key

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
  onWanted: (ask) => { keyWanted = ask; },
};

async function askForKey(refused) {
  if (key.get() !== refused) return; // another request has got one meanwhile
  asking ??= keyWanted(refused !== null).finally(() => { asking = null; });
  const given = await asking;
  if (given === null) throw new ApiError(401, "This server asks for an API key.");
  key.set(given);
}

/** A response with a good status. Raises ApiError with the server's sentence. */
export async function request(method, path, { json, body, signal } = {}) {
  for (let attempt = 0; ; attempt++) {
    const sent = key.get();
    const headers = {};
    if (sent !== null) headers.Authorization = `Bearer ${sent}`;
    if (json !== undefined) headers["Content-Type"] = "application/json";
    else if (body !== undefined) headers["Content-Type"] = "application/octet-stream";
    let response;
    try {
      response = await fetch(path, { method, headers, signal, body: json === undefined ? body : JSON.stringify(json), cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The server cannot be reached. Check that it is running, then try again.");
    }
    if (response.ok) return response;
    if (response.status === 401) {
      await askForKey(sent);
      continue;
    }
    const wait = Number(response.headers.get("Retry-After"));
    if (response.status === 429 && method === "GET" && attempt < RETRIES && wait > 0 && wait <= 60) {
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
      continue;
    }
    throw await failure(response);
  }
}

async function failure(response) {
  let message = "";
  try {
    message = (await response.json()).error.message;
  } catch {
    message = `The server answered ${response.status}.`;
  }
  return new ApiError(response.status, sentence(message));
}

function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

const json = async (...args) => (await request(...args)).json();
const at = (session) => `/v1/sessions/${encodeURIComponent(session)}`;

export const models = async () => (await json("GET", "/v1/models")).data;
export const sessions = async () => (await json("GET", "/v1/sessions")).data;
export const createSession = (title, system) => json("POST", "/v1/sessions", { json: { title, system } });
export const renameSession = (id, title) => json("PATCH", at(id), { json: { title } });
export const deleteSession = (id) => json("DELETE", at(id));
export const rounds = async (id) => (await json("GET", `${at(id)}/rounds`)).data;
export const undo = (id) => json("DELETE", `${at(id)}/rounds/last`);
export const upload = (file, signal) => json("POST", "/v1/media", { body: file, signal });
export const deleteUpload = (id) => json("DELETE", `/v1/media/${encodeURIComponent(id)}`);
export const blob = async (path) => (await request("GET", path)).blob();
export const exportPath = (id) => `${at(id)}/export`;

/** Where the bytes of an item are; `side`: at most so many pixels. */
export function mediaPath(session, item, { sound, side } = {}) {
  const path = `${at(session)}/media/${encodeURIComponent(item)}`;
  if (side) return `${path}/thumbnail?side=${side}`;
  return sound ? `${path}?sound=${encodeURIComponent(sound)}` : path;
}

/** The events of a round: `text`, `progress`, `done`. `number` is the round that it replaces; null adds one. */
export async function* play(session, number, message, signal) {
  const path = number === null ? `${at(session)}/rounds` : `${at(session)}/rounds/${number}`;
  const method = number === null ? "POST" : "PUT";
  const response = await request(method, path, { json: { ...message, stream: true, media: "ids" }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data === "[DONE]") return;
      const parsed = JSON.parse(data);
      if (parsed.error) throw new ApiError(400, sentence(parsed.error.message));
      yield parsed;
    }
  }
}
