// A clip without an end: pieces are fetched as they come and put together by the browser. See pyramid/ui/live.py.
const KIND = 'video/mp4; codecs="avc1.640028"', BEHIND = 20, AHEAD = 60;  // seconds that are held around the present one
let streamed = null;
const TOGETHER = 4;  // pieces that are fetched at once
const latest = () => Number(document.querySelector("#status [data-last]")?.dataset.last ?? -1);
const pause = (time) => new Promise((done) => setTimeout(done, time));
const settled = (buffer) => new Promise((done) => buffer.addEventListener("updateend", done, {once: true}));
const endOf = ({buffered}) => buffered.length ? buffered.end(buffered.length - 1) : 0;
const piece = (video, number) => fetch(`${video.dataset.stream}unit-${String(number).padStart(6, "0")}.mp4`)
  .then((answer) => answer.ok ? answer.arrayBuffer() : null).catch(() => null);
const append = async (buffer, video, bytes) => {
  const end = endOf(buffer);
  buffer.appendBuffer(bytes);
  await settled(buffer);
  if (video.currentTime > end + 0.05) video.currentTime = end;  // it ran dry, and its clock on: what came is seen from its start
  const past = Math.min(video.currentTime, end) - BEHIND;
  if (past > 0) { buffer.remove(0, past); await settled(buffer); }
  if (video.paused && !video.dataset.held) video.play().catch(() => {});
};
const follow = async (video) => {
  const media = new MediaSource(), mine = video;
  streamed = video;
  video.src = URL.createObjectURL(media);
  await new Promise((done) => media.addEventListener("sourceopen", done, {once: true}));
  const buffer = media.addSourceBuffer(KIND);
  buffer.mode = "sequence";
  let next = Math.max(0, latest() - 1);
  while (mine.isConnected && streamed === mine) {
    const last = latest();
    if (next > last || endOf(buffer) - video.currentTime > AHEAD) { await pause(200); continue; }
    const numbers = Array.from({length: Math.min(TOGETHER, last - next + 1)}, (_, n) => next + n);
    const pieces = await Promise.all(numbers.map((number) => piece(video, number)));
    for (const bytes of pieces) if (bytes) await append(buffer, video, bytes);
    next += pieces.length;
    if (!pieces.some(Boolean)) { next = Math.max(next, last - 1); await pause(200); }  // they are gone: from the latest on
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
