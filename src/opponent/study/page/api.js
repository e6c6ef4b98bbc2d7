/* Talking with the server: who we are, and answers that are sent until they are stored. */

const WAIT_MS = 15000;
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30000;

/** What the server refused, and why. */
export class Refused extends Error {
  constructor(status, body) {
    super(body.message || `the server said ${status}`);
    this.status = status;
    this.reason = body.error;
  }
}

const NAMES = ["PROLIFIC_PID", "STUDY_ID", "SESSION_ID"];
const given = new URLSearchParams(window.location.search);
const ids = {};
for (const name of NAMES) {
  if (given.get(name)) ids[name] = given.get(name);
}
/* People who share a computer have sessions of their own. */
const KEY = `opponent-session ${ids.PROLIFIC_PID || ""}`;

let token = null;

function kept() {
  try {
    return window.localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function keep(value) {
  token = value;
  try {
    if (value) window.localStorage.setItem(KEY, value);
    else window.localStorage.removeItem(KEY);
  } catch {
    /* Without storage everything works, but a reload cannot go on. */
  }
}

/** Forget the session of this browser. */
export const forget = () => keep(null);

async function once(method, path, body) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), WAIT_MS);
  try {
    const headers = {};
    if (token) headers.authorization = `Bearer ${token}`;
    if (body) headers["content-type"] = "application/json";
    const reply = await fetch(path, {
      method,
      headers,
      body: body && JSON.stringify(body),
      signal: stop.signal,
      cache: "no-store",
      credentials: "omit",
      referrerPolicy: "no-referrer",
    });
    return { status: reply.status, after: reply.headers.get("retry-after"), body: await reply.json() };
  } finally {
    clearTimeout(timer);
  }
}

/** Whom to tell that the network fails: called with {pause, now} or null when all is well. */
let tellTrouble = () => {};
export const onTrouble = (tell) => {
  tellTrouble = tell;
};

function pause(ms, saving) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      window.removeEventListener("online", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    window.addEventListener("online", done);
    tellTrouble({ seconds: Math.ceil(ms / 1000), saving, now: done });
  });
}

/**
 * Ask the server, again and again while it or the network fails.
 *
 * Everything that is sent may be sent twice: the server stores it once.
 */
async function ask(method, path, body) {
  for (let tries = 0; ; tries += 1) {
    let reply = null;
    try {
      reply = await once(method, path, body);
    } catch {
      /* No network, no server, or no reply that could be read. */
    }
    if (reply && reply.status < 400) {
      tellTrouble(null);
      return reply.body;
    }
    if (reply && reply.status < 500 && reply.status !== 429 && reply.status !== 408) {
      tellTrouble(null);
      throw new Refused(reply.status, reply.body);
    }
    const backoff = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** tries) * (0.75 + Math.random() / 2);
    const wanted = reply && reply.after ? Number(reply.after) * 1000 : 0;
    await pause(Math.max(backoff, wanted), path === "/api/answer");
  }
}

/** Go on with this browser's session, or begin one; what to show. */
export async function session() {
  token = kept();
  if (token) {
    try {
      return await ask("GET", "/api/session");
    } catch (error) {
      if (error.status !== 401) throw error;
      keep(null);
    }
  }
  const browser = {
    window: [window.innerWidth, window.innerHeight],
    screen: [window.screen.width, window.screen.height],
    pixel_ratio: window.devicePixelRatio,
  };
  keep((await ask("POST", "/api/session", { ...ids, browser })).token);
  return ask("GET", "/api/session");
}

export const consent = (version, agreed) => ask("POST", "/api/consent", { version, agreed });
export const answer = (body) => ask("POST", "/api/answer", body);
export const finish = () => ask("POST", "/api/finish");
export const screenOut = (reason) => ask("POST", "/api/screen_out", { reason });
export const withdraw = () => ask("POST", "/api/withdraw");
