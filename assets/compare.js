// Two players kept together: the longer one leads. See pyramid/ui/compare.py.
const find = (name) => element.querySelector(name);
const videos = () => [...element.querySelectorAll("video")];
let playing = true, rate = 1;
const leader = () => videos().reduce((a, b) => (b.duration > a.duration ? b : a));
const place = (time) => videos().forEach((v) => {
  const at = Math.min(time, Math.max(0, v.duration - 0.001));
  if (Math.abs(v.currentTime - at) > 0.04) v.currentTime = at;
});
const show = () => {
  const all = videos(), button = find(".play");
  if (!all.length || !button) return;
  button.textContent = playing ? "Pause" : "Play";
  const lead = leader(), bar = find(".seek");
  if (document.activeElement !== bar || playing) bar.value = lead.currentTime / lead.duration || 0;
  find(".time").textContent = lead.currentTime.toFixed(2) + " s";
};
const run = () => {
  const all = videos();
  all.forEach((v) => { v.playbackRate = rate; });
  const lead = leader();
  if (playing) all.forEach((v) => (v === lead || lead.currentTime < v.duration ? v.play().catch(() => {}) : v.pause()));
  else all.forEach((v) => v.pause());
  show();
};
let following = false;
const follow = () => { if (!following) { following = true; requestAnimationFrame(tick); } };
const tick = () => {
  const all = videos();
  following = element.isConnected && all.length > 0;
  if (!following) return;
  if (all.every((v) => v.readyState >= 1)) {
    const lead = leader();
    if (playing && lead.ended) { place(0); run(); }
    for (const v of all) if (v !== lead && !v.seeking) {
      const at = Math.min(lead.currentTime, v.duration - 0.001);
      if (Math.abs(v.currentTime - at) > 0.06) v.currentTime = at;
    }
    element.dataset.apart = Math.max(...all.map((v) => Math.abs(v.currentTime - Math.min(lead.currentTime, v.duration))));
    show();
  }
  requestAnimationFrame(tick);
};
let opener = "", shown = false;  // the job whose button was pressed last
document.addEventListener("click", (event) => {
  const button = event.target.closest?.('[data-action="compare"]');
  if (button) opener = button.dataset.job;
}, true);
const back = (tries) => {  // the grid may be drawn anew at the same time
  const button = document.querySelector(`#results-grid [data-action="compare"][data-job="${opener}"]`);
  if (button && document.activeElement === document.body) button.focus({preventScroll: true});
  if (tries) setTimeout(() => back(tries - 1), 50);
};
const begin = () => {
  const dialog = find("dialog");
  if (dialog && !dialog.open) dialog.showModal();
  if (!dialog && shown) back(10);
  shown = Boolean(dialog);
  playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  const all = videos();
  if (!all.length) return;
  follow();
  let ready = 0;
  all.forEach((v) => {
    const go = () => { if (++ready === all.length) { place(0); run(); } };
    v.readyState >= 2 ? go() : v.addEventListener("loadeddata", go, {once: true});
  });
};
const close = () => trigger("click", {action: "uncompare", job: "", value: ""});
element.addEventListener("cancel", (event) => { event.preventDefault(); close(); }, true);
element.addEventListener("click", (event) => {
  if (event.target.nodeName === "DIALOG") { close(); return; }
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.action) close();
  else if (button.classList.contains("play")) { playing = !playing; run(); }
  else if (button.dataset.frames) {
    playing = false; run();
    place(Math.max(0, leader().currentTime + Number(button.dataset.frames)));
  } else if (button.classList.contains("over")) {
    const on = find(".pair").classList.toggle("wipe");
    button.setAttribute("aria-pressed", on);
    button.textContent = on ? "Side by side" : "Over each other";
  }
});
element.addEventListener("input", (event) => {
  if (event.target.classList.contains("seek")) { playing = false; run(); place(event.target.value * leader().duration); }
  if (event.target.classList.contains("line")) find(".pair").style.setProperty("--at", event.target.value + "%");
  if (event.target.classList.contains("rate")) { rate = Number(event.target.value); run(); }
});
watch("value", begin);
begin();
