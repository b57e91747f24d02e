// A rater's page: both clips are fetched whole before either plays, and play together.
"use strict";

const base = location.pathname.replace(/\/?$/, "/");
const part = (id) => document.getElementById(id);
const players = [part("a"), part("b")];
const SIDES = ["a", "tie", "b"];
const LABELS = {a: "A", tie: "About the same", b: "B"};
const APART = 0.05; // seconds that the clips may be apart before one is moved
const fetched = new Map(); // place -> both clips, on their way or here
let state = null; // what the server says: title, questions, of, done
let place = 0;
let shown = 0; // which showing this is: what an earlier one still waits for is dropped
let given = {}; // question -> side
let seen = false; // whether both clips have been played to their end
let since = 0;
let busy = false; // an answer is on its way
let loading = true; // the pair that is wanted is not there yet

async function ask(path, body) {
  const how = body ? {method: "POST", body: JSON.stringify(body), headers: {"Content-Type": "application/json"}} : {};
  const answer = await fetch(base + path, how);
  if (!answer.ok) throw new Error(answer.status === 429 ? "Too many requests: wait a minute." : `The server answers ${answer.status}.`);
  return answer;
}

function clips(at) {
  if (!fetched.has(at)) {
    const one = async (side) => URL.createObjectURL(await (await ask(`clip/${at}/${side}`)).blob());
    const both = Promise.all([one("a"), one("b")]);
    both.catch(() => fetched.delete(at));
    fetched.set(at, both);
  }
  return fetched.get(at);
}

function forget() { // all but the pair that is shown and its neighbors
  for (const [at, both] of fetched) {
    if (Math.abs(at - place) > 1) {
      fetched.delete(at);
      both.then((urls) => urls.forEach((url) => URL.revokeObjectURL(url)), () => {});
    }
  }
}

const ready = (player, url) => new Promise((resolve, reject) => {
  player.oncanplaythrough = resolve;
  player.onerror = () => reject(new Error("A clip cannot be played by this browser."));
  player.src = url;
  player.load();
});

async function show(at) {
  place = at;
  const mine = ++shown;
  part("problem").hidden = true;
  part("progress").textContent = `${Math.min(at + 1, state.of)} of ${state.of}`;
  part("rating").hidden = at >= state.of;
  part("end").hidden = at < state.of;
  if (at >= state.of) return players.forEach((player) => player.pause());
  players.forEach((player) => player.pause());
  loading = true;
  given = {};
  seen = false; // nothing of the pair before counts for this one
  draw();
  const [item, urls] = await Promise.all([ask(`item/${at}`).then((answer) => answer.json()), clips(at)]);
  if (mine !== shown) return;
  part("prompt").textContent = item.prompt;
  await Promise.all(players.map((player, index) => ready(player, urls[index])));
  if (mine !== shown) return;
  forget();
  loading = false;
  given = {...item.given};
  seen = Object.keys(given).length > 0; // answered before: watched before
  since = performance.now();
  play(true);
  if (at + 1 < state.of) clips(at + 1); // while this pair is looked at
}

function hint(words) { part("hint").textContent = words; }

async function play(fromStart) {
  if (fromStart) players.forEach((player) => { player.currentTime = 0; });
  try {
    await Promise.all(players.map((player) => player.ended ? null : player.play()));
  } catch (error) { // a phone that saves power wants to be asked first
    draw();
    hint("Press Play.");
    return;
  }
  draw();
}

const longer = () => players[0].duration >= players[1].duration ? players[0] : players[1];
const paused = () => players.every((player) => player.paused || player.ended);

function together() { // a frame of the screen: both at the same moment, and again from the start at the end
  const [a, b] = players;
  if (!loading && a.readyState > 1 && b.readyState > 1) {
    const lead = longer(), other = lead === a ? b : a;
    const wanted = Math.min(lead.currentTime, other.duration);
    if (!lead.paused && !other.ended && Math.abs(other.currentTime - wanted) > APART) other.currentTime = wanted;
    if (document.activeElement !== part("seek")) part("seek").value = 1000 * lead.currentTime / lead.duration;
    if (a.ended && b.ended) {
      if (!seen) { seen = true; draw(); }
      play(true);
    }
  }
  requestAnimationFrame(together);
}

// -- the questions
const names = () => Object.keys(state.questions);
const current = () => names().find((name) => !given[name]);

function build() {
  part("title").textContent = document.title = state.title;
  part("questions").replaceChildren(...names().map((name) => {
    const field = document.createElement("fieldset"), legend = document.createElement("legend");
    legend.textContent = state.questions[name];
    const buttons = SIDES.map((side) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = LABELS[side];
      button.dataset.side = side;
      button.addEventListener("click", () => choose(name, side));
      return button;
    });
    field.id = `q-${name}`;
    field.append(legend, ...buttons);
    return field;
  }));
}

function draw() {
  for (const name of names()) {
    const field = part(`q-${name}`);
    field.classList.toggle("current", seen && name === current());
    for (const button of field.querySelectorAll("button")) {
      button.disabled = !seen;
      button.setAttribute("aria-pressed", given[name] === button.dataset.side);
    }
  }
  part("next").disabled = busy || !seen || Boolean(current());
  part("back").disabled = busy || place === 0;
  part("play").textContent = paused() ? "Play" : "Pause";
  if (loading) hint("The clips are being fetched …");
  else hint(seen ? "" : "Watch both to the end, then answer.");
}

function choose(name, side) {
  if (!seen) return;
  given[name] = side;
  draw();
}

async function next() {
  if (part("next").disabled) return;
  busy = true;
  draw();
  try {
    const seconds = (performance.now() - since) / 1000;
    state = await (await ask(`answer/${place}`, {...given, seconds})).json();
    busy = false;
    await show(place + 1);
  } catch (error) { problem(error); }
}

function back() {
  if (!busy && place > 0) show(place - 1).catch(problem);
}

function problem(error) {
  busy = false;
  part("problem").hidden = false;
  part("problem").textContent = `${error.message} Your answers so far are kept: try again, or come back later by the same link.`;
  if (state) draw();
}

function key(event) {
  if (!state || part("rating").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === part("seek") && event.key.startsWith("Arrow")) return;
  const onButton = event.target.tagName === "BUTTON" && (event.key === " " || event.key === "Enter");
  if (onButton) return; // it is pressed
  const sides = {ArrowLeft: "a", ArrowDown: "tie", ArrowRight: "b"};
  const acts = {
    ArrowUp: () => { const last = names().filter((name) => given[name]).pop(); if (last) { delete given[last]; draw(); } },
    Enter: next,
    Backspace: back,
    " ": toggle,
    r: () => play(true),
  };
  if (sides[event.key]) {
    if (current()) choose(current(), sides[event.key]);
  } else if (acts[event.key]) acts[event.key]();
  else return;
  event.preventDefault();
}

function toggle() {
  if (paused()) play(players.every((player) => player.ended));
  else players.forEach((player) => player.pause());
  draw();
}

part("play").addEventListener("click", toggle);
part("again").addEventListener("click", () => play(true));
part("next").addEventListener("click", next);
part("back").addEventListener("click", back);
part("last").addEventListener("click", () => show(state.of - 1).catch(problem));
part("seek").addEventListener("input", () => {
  players.forEach((player) => {
    player.pause();
    player.currentTime = Math.min(longer().duration * part("seek").value / 1000, player.duration);
  });
});
part("seek").addEventListener("change", () => part("seek").blur());
players.forEach((player) => ["play", "pause"].forEach((name) => player.addEventListener(name, () => state && draw())));
document.addEventListener("keydown", key);
document.addEventListener("click", (event) => { if (event.detail) document.activeElement.blur(); }); // keys are for the questions then

(async () => {
  state = await (await ask("state")).json();
  build();
  requestAnimationFrame(together);
  await show(state.done);
})().catch(problem);
