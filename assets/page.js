// What concerns the whole page: keys, the tab's title, notifications, marks beside fields. See pyramid/ui/page.py.
const find = (name) => document.querySelector(name);
const kept = localStorage.getItem("pyramid-theme");
if (kept) document.body.classList.toggle("dark", kept === "dark");
const models = () => find("#models");
const tell = () => element.querySelector("#model")?.setAttribute("aria-expanded",
  Boolean(models()?.classList.contains("open")));
watch("value", tell);
tell();
element.addEventListener("click", (event) => {
  if (event.target.closest("#model")) { models().classList.toggle("open"); tell(); }
  if (!event.target.closest("#theme")) return;
  const dark = document.body.classList.toggle("dark");
  localStorage.setItem("pyramid-theme", dark ? "dark" : "light");
});

// Ctrl+Enter and Cmd+Enter do what the large button does.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || find("dialog[open]")) return;
  event.preventDefault();
  document.activeElement?.blur();  // a field tells its value when it is left
  setTimeout(() => (find("#edit-save") || find("#generate"))?.click(), 50);
});

// Asked once, when something is begun for the first time: whether the end may be told by the system.
document.addEventListener("click", (event) => {
  if (!event.target.closest?.("#generate, #variations") || !("Notification" in window)) return;
  if (Notification.permission !== "default" || localStorage.getItem("pyramid-asked")) return;
  localStorage.setItem("pyramid-asked", "yes");
  Notification.requestPermission();
});

// The tab's title says how far the work is, and that it ended until the page is looked at again.
const NAME = "Pyramid";
let busy = false;
const ended = (words) => {
  document.title = `${words} · ${NAME}`;
  if (document.hidden && "Notification" in window && Notification.permission === "granted")
    new Notification(NAME, {body: words, tag: "pyramid"});
};
const title = () => {
  const bar = find("#status .busy .bar");
  if (bar) document.title = `${bar.getAttribute("aria-valuenow")} % · ${NAME}`;
  else if (busy) ended(find("#status .failed") ? "Failed" : find("#status")?.textContent.startsWith("Stopped") ? "Stopped" : "Done");
  busy = Boolean(bar);
};
document.addEventListener("visibilitychange", () => { if (!document.hidden && !busy) document.title = NAME; });

// The field that the sentence near the button is about: its mark, and a click that leads to it.
const STEPS = {num_inference_steps: "first", video_num_inference_steps: "rest"};
const OF = {num_frames: "seconds", image: "picture", video: "clip", prompt_suffix: "suffix", guidance_scale: "guidance",
  video_guidance_scale: "video-guidance", min_guidance_scale: "min-guidance", negative_prompt: "negative-prompt"};
const fieldOf = ({field, part}) => {
  const stage = part?.replace("stage ", "") || "1";
  return find(`#${STEPS[field] ? `${STEPS[field]}-${stage}` : OF[field] || field.replaceAll("_", "-")}`);
};
const mark = () => {
  document.querySelectorAll("[data-wrong]").forEach((at) => { delete at.dataset.wrong; });
  const problem = find("#verdict .problem[data-field]");
  const field = problem && fieldOf(problem.dataset);
  if (field) field.dataset.wrong = problem.dataset.say;
};
document.addEventListener("click", (event) => {
  const problem = event.target.closest?.("#verdict .problem[data-field]");
  const field = problem && fieldOf(problem.dataset);
  if (!field) return;
  field.scrollIntoView({block: "center"});
  field.querySelector("input, textarea")?.focus({preventScroll: true});
});
const look = () => { title(); mark(); };
const follow = () => {
  const parts = [find("#status"), find("#verdict")];
  if (parts.some((part) => !part)) { setTimeout(follow, 200); return; }
  for (const part of parts)
    new MutationObserver(look).observe(part, {subtree: true, childList: true, characterData: true, attributes: true});
  look();
};
follow();
