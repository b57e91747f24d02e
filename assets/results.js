// The grid of results and the one that is opened: hover plays, buttons tell the server. See pyramid/ui/results.py.
const hold = (button, words) => { button.disabled = true; button.textContent = words; };
const send = (action, job, value) => trigger("click", {action, job: job || "", value: value || ""});
let shown = "";  // the job that is opened
const back = (job, tries) => {  // to what it was opened with; the grid may be drawn anew at the same time
  const button = document.querySelector(`#results-grid [data-action="open"][data-job="${job}"]`);
  if (button && document.activeElement === document.body) button.focus({preventScroll: true});
  if (tries) setTimeout(() => back(job, tries - 1), 50);
};
const present = () => {  // what is opened lies over the page until it is closed
  const dialog = element.querySelector("dialog");
  if (dialog && !dialog.open) dialog.showModal();
  if (!dialog && shown) back(shown, 10);
  shown = dialog?.querySelector("[data-job]")?.dataset.job || "";
};
watch("value", present);
present();
// Players that were there stay in place of their copies when the grid is drawn anew: they would blink.
// One that is put back shows nothing for a moment, so its first frame lies behind it.
const players = new Map(), stills = new Map();
const behind = (media, still) => {
  if (!still) return;
  Object.assign(media.parentElement.style, {backgroundImage: `url(${still})`, backgroundSize: "contain",
    backgroundPosition: "center", backgroundRepeat: "no-repeat"});
};
const stay = () => element.querySelectorAll(".media [src]").forEach((media) => {
  const source = media.getAttribute("src"), before = players.get(source);
  behind(media, stills.get(source));
  if (before && before !== media && !before.isConnected) media.replaceWith(before);
  else players.set(source, media);
});
element.addEventListener("loadeddata", ({target}) => {
  const source = target.getAttribute("src");
  if (!target.closest(".media") || stills.has(source)) return;
  const canvas = document.createElement("canvas");
  const scale = Math.min(1, 320 / Math.max(target.videoWidth, target.videoHeight));
  canvas.width = target.videoWidth * scale;
  canvas.height = target.videoHeight * scale;
  canvas.getContext("2d").drawImage(target, 0, 0, canvas.width, canvas.height);
  stills.set(source, canvas.toDataURL("image/jpeg", 0.85));
  if (stills.size > 300) stills.delete(stills.keys().next().value);
  behind(target, stills.get(source));
}, true);
let sure = "";  // the job whose deletion was asked for once, also when its card is drawn anew meanwhile
const ask = () => {
  for (const button of element.querySelectorAll('[data-action="delete"]')) {
    const asked = button.dataset.job === sure;
    if (asked === "words" in button.dataset) continue;
    if (asked) {
      button.dataset.words = button.innerHTML;
      button.textContent = "Delete?";
      button.dataset.sure = "yes";
    } else {
      button.dataset.sure = "";
      button.innerHTML = button.dataset.words;
      delete button.dataset.words;
    }
  }
};
new MutationObserver(() => { stay(); ask(); }).observe(element, {childList: true, subtree: true});
stay();
element.addEventListener("cancel", (event) => { event.preventDefault(); send("close"); }, true);
element.addEventListener("click", (event) => {
  if (event.target.nodeName === "DIALOG") { send("close"); return; }
  const button = event.target.closest("[data-action]");
  if (!button || button.disabled) return;
  const {action, job} = button.dataset;
  if (action === "delete" && sure !== job) {  // asks once more, for four seconds
    sure = job;
    ask();
    setTimeout(() => { if (sure === job) sure = ""; ask(); }, 4000);
    return;
  }
  if (button.closest("form")) {
    const value = Object.fromEntries(new FormData(button.closest("form")).entries());
    hold(button, "Working …");
    send(action, job, JSON.stringify(value));
    return;
  }
  send(action, job, button.dataset.value);
});
element.addEventListener("submit", (event) => event.preventDefault());
element.addEventListener("input", (event) => {
  const form = event.target.closest("form");
  if (!form) return;
  if (event.target.name === "quality") form.querySelector("output").textContent = event.target.value;
  if (event.target.name === "kind") form.dataset.kind = event.target.value;
});
const play = (event) => {
  const video = event.target.closest?.(".media")?.querySelector("video");
  if (video && video.paused && !matchMedia("(prefers-reduced-motion: reduce)").matches) video.play().catch(() => {});
};
const rest = (event) => {
  const media = event.target.closest?.(".media");
  if (!media || media.contains(event.relatedTarget)) return;
  const video = media.querySelector("video");
  if (video) { video.pause(); video.currentTime = 0; }
};
element.addEventListener("mouseover", play);
element.addEventListener("focusin", play);
element.addEventListener("mouseout", rest);
element.addEventListener("focusout", rest);
