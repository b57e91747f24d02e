// A clip without an end: pieces are fetched as they come and put together by the browser. See pyramid/ui/live.py.
const KIND = 'video/mp4; codecs="avc1.640028"', BEHIND = 20, AHEAD = 60;  // seconds that are held around the present one
let streamed = null;
const latest = () => Number(document.querySelector("#status [data-last]")?.dataset.last ?? -1);
const settled = (buffer) => new Promise((done) => buffer.addEventListener("updateend", done, {once: true}));
const follow = async (video) => {
  const media = new MediaSource(), mine = video;
  streamed = video;
  video.src = URL.createObjectURL(media);
  await new Promise((done) => media.addEventListener("sourceopen", done, {once: true}));
  const buffer = media.addSourceBuffer(KIND);
  buffer.mode = "sequence";
  let next = Math.max(0, latest() - 1);
  while (mine.isConnected && streamed === mine) {
    const last = latest(), held = buffer.buffered;
    const ahead = held.length ? held.end(held.length - 1) - video.currentTime : 0;
    if (next > last || ahead > AHEAD) { await new Promise((done) => setTimeout(done, 200)); continue; }
    const answer = await fetch(`${video.dataset.stream}unit-${String(next).padStart(6, "0")}.mp4`).catch(() => null);
    if (!answer?.ok) { next = Math.max(next + 1, last - 1); await new Promise((done) => setTimeout(done, 200)); continue; }
    buffer.appendBuffer(await answer.arrayBuffer());
    await settled(buffer);
    next += 1;
    const past = video.currentTime - BEHIND;
    if (past > 0) { buffer.remove(0, past); await settled(buffer); }
    if (video.paused && !video.dataset.held) video.play().catch(() => {});
  }
};
const begin = () => {
  const video = element.querySelector("video[data-stream]");
  if (!video || video === streamed || !("MediaSource" in window) || !MediaSource.isTypeSupported(KIND)) return;
  video.addEventListener("pause", () => { if (video.buffered.length && video.currentTime < video.buffered.end(0) - 0.3) video.dataset.held = "yes"; });
  video.addEventListener("play", () => { delete video.dataset.held; });
  follow(video).catch((error) => console.warn("the clip cannot be streamed:", error.message));
};
watch("value", begin);
begin();
