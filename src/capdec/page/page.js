// Captions photos: one request a photo, a few at a time. What files and the server say is shown as text, never as markup.
// A card is waiting, captioning, done or error; `queue` holds those waiting. Only photos near the viewport are decoded.

const IN_FLIGHT = 4;
const SILENT = "The server does not answer. Is it running, and in reach? What it said so far is kept here.";
const AT_ONCE = 100; // cards made between two looks at what the person does
const PHOTO = /\.(avif|bmp|gif|heic|heif|jfif|jpe?g|jxl|png|ppm|tiff?|webp)$/i; // where the system does not know the type

const $ = (id) => document.getElementById(id);
const cards = new Map(); // by their elements, in the page's order
const flying = new Set(); // what aborts each request
let queue = new Set();
let service = null; // what /v1/models says
let chosen = {}; // what is asked beside each photo
let stopped = false; // by the person
let problem = ""; // why nothing can be sent
let busy = 0; // the timer of a server that asked us to wait
let pasted = 0;

const key = () => sessionStorage.getItem("key") ?? "";
const headers = () => (key() ? { Authorization: `Bearer ${key()}` } : {});
const many = (number, one) => `${number.toLocaleString("en")} ${one}${number === 1 ? "" : "s"}`;
const megabytes = (bytes) => `${(bytes / 1e6).toLocaleString("en", { maximumSignificantDigits: 3 })} MB`;
const signed = (number) => number.toFixed(2).replace("-", "\u2212");
const all = (state) => [...cards.values()].filter((card) => card.state === state);
const retryAfter = (response) => 1000 * Math.min(Math.max(Number(response.headers.get("Retry-After")) || 2, 1), 60);
const refusal = async (response) => {
  const body = await response.json().catch(() => ({})); // a proxy need not answer in JSON
  const error = body.results?.[0]?.error ?? body.error ?? {};
  return { ...body, error: { code: "failed", message: `the server answered with status ${response.status}.`, ...error } };
};

// What the server offers

async function load() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (response.status === 401) return askForKey();
    if (response.status === 503) setTimeout(load, retryAfter(response));
    if (!response.ok) return halt((await refusal(response)).error.message);
    service = await response.json();
  } catch {
    return halt(SILENT);
  }
  if ($("key-form").contains(document.activeElement)) $("photos").focus();
  $("key-form").hidden = true;
  const before = $("captioner").value;
  $("captioner").replaceChildren(...service.models.map(({ name }) => new Option(name)));
  if (service.models.some(({ name }) => name === before)) $("captioner").value = before;
  else choose();
  describe();
  $("fields").disabled = false;
  for (const card of queue) refuseIfTooLarge(card);
  goOn();
}

function askForKey() {
  $("key-form").hidden = false;
  halt(key() ? "The server refused this API key." : "This server asks for its API key.");
}

const captioner = () => service.models.find(({ name }) => name === $("captioner").value) ?? service.models[0];

/** The captioner's own settings, and three captions where it would give one. */
function choose() {
  const own = captioner().decoding ?? {};
  $("captions").value = Math.max(own.captions ?? 1, 3);
  $("beams").value = own.beams ?? 5;
  $("max_tokens").value = own.max_tokens ?? 30;
  const styles = captioner().styles ?? [];
  $("style").replaceChildren(...styles.map((style) => new Option(style || "plain", style, false, style === own.style)));
  $("style").parentElement.hidden = styles.length < 2;
  $("length").parentElement.hidden = !captioner().has_lengths;
}

/** Ranges and words of the settings; brings what was typed into range. */
function describe() {
  const { description, supervision, has_neighbours: remembers, decoding = {} } = captioner();
  $("captioner-about").textContent = [description, supervision && `Learned from ${supervision}`].filter(Boolean).join(". ");
  $("neighbours").parentElement.hidden = !remembers;
  $("beams").parentElement.hidden = decoding.strategy === "nucleus";
  const words = { captions: " a photo", beams: ", more is slower", max_tokens: " tokens", neighbours: " shown" };
  for (const [name, said] of Object.entries(words)) {
    const field = $(name);
    const least = Number(field.min);
    const most = service.limits?.[name] ?? (name === "neighbours" ? 10 : Infinity);
    if (most < Infinity) field.max = most;
    field.value = Math.min(Math.max(Math.round(field.valueAsNumber) || least, least), most);
    $(`${name}-hint`).textContent = `${least} ${most < Infinity ? `to ${most}` : "or more"}${said}`;
  }
  if ($("beams").valueAsNumber < $("captions").valueAsNumber) $("beams").value = $("captions").value;
  chosen = settings();
}

/** In the server's words. */
function settings() {
  const { name, decoding = {}, has_neighbours: remembers } = captioner();
  const [captions, beams, max_tokens, neighbours] = ["captions", "beams", "max_tokens", "neighbours"].map((id) => $(id).valueAsNumber);
  const asked = { model: name, captions, max_tokens };
  if (!$("style").parentElement.hidden) asked.style = $("style").value;
  if ($("length").value && !$("length").parentElement.hidden) asked.length = $("length").value;
  if (remembers && neighbours) asked.neighbours = neighbours;
  if (decoding.strategy === "nucleus") return asked;
  Object.assign(asked, { strategy: "beam", beams });
  if (decoding.candidates > beams) Object.assign(asked, beams > 1 ? { candidates: beams } : { candidates: 0, rerank: "none", score_weight: 0 });
  return asked;
}

// Photos come in

const isPhoto = (file) => (file.type ? file.type.startsWith("image/") : PHOTO.test(file.name));

/** Cards for the photos among `files`, pairs of a File and its name. */
async function add(files) {
  if (service) describe(); // a field that was not left yet counts too
  let others = 0;
  let shown = document.createDocumentFragment();
  const append = () => {
    $("cards").append(shown);
    shown = document.createDocumentFragment();
    pump();
  };
  for await (const [file, name] of files) {
    if (!file || !isPhoto(file)) {
      others++;
      continue;
    }
    shown.append(cardOf(file, name).element);
    if (shown.childElementCount < AT_ONCE) continue;
    append();
    await new Promise((resolve) => setTimeout(resolve));
  }
  if (shown.childElementCount) append();
  $("notice").textContent = others ? `${many(others, "file")} left out: not a photo, or not to be read.` : "";
}

function cardOf(file, name) {
  const element = $("card").content.firstElementChild.cloneNode(true);
  const card = { file, name, element, part: (selector) => element.querySelector(selector) };
  cards.set(element, card);
  card.part("bdi").textContent = name;
  for (const button of element.querySelectorAll("button")) button.setAttribute("aria-label", `${button.textContent}: ${name}`);
  card.part("img").addEventListener("error", () => card.part(".photo").classList.add("none"));
  nearby.observe(element);
  wait(card);
  refuseIfTooLarge(card);
  return card;
}

/** Photos are decoded while they are near, and let go when they are not. */
const nearby = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    const card = cards.get(target);
    if (card && isIntersecting) card.part("img").src = card.url ??= URL.createObjectURL(card.file);
    else if (card) letGo(card);
  }
}, { rootMargin: "600px" });

function letGo(card) {
  card.part("img").removeAttribute("src");
  if (card.url) URL.revokeObjectURL(card.url);
  card.url = undefined;
}

/** [File, its path] of everything below a dropped file or folder; null for what cannot be read. */
async function* below(entry) {
  const path = entry.fullPath.slice(1);
  const asked = (ask) => new Promise((resolve) => ask(resolve, () => resolve(null)));
  if (entry.isFile) return yield [await asked((...answers) => entry.file(...answers)), path];
  const reader = entry.createReader();
  for (;;) {
    const some = await asked((...answers) => reader.readEntries(...answers)); // 100 at most
    if (!some) yield [null, path];
    if (!some?.length) return;
    for (const each of some) yield* below(each);
  }
}

async function* dropped(entries, files) {
  for (const [place, entry] of entries.entries()) {
    if (!entry) yield [files[place], files[place].name];
    else yield* below(entry);
  }
}

const named = (files) => [...files].map((file) => [file, file.webkitRelativePath || file.name]);

for (const input of [$("photos"), $("folder")]) {
  input.addEventListener("change", () => {
    add(named(input.files));
    input.value = ""; // the same file may be chosen again
  });
}
$("drop").addEventListener("click", ({ target }) => target.closest("label, input") || $("photos").click());

const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", ({ relatedTarget }) => relatedTarget || document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  document.body.classList.remove("dragging");
  if (!carriesFiles(event)) return;
  event.preventDefault();
  const items = [...event.dataTransfer.items].filter(({ kind }) => kind === "file");
  const files = items.map((item) => item.getAsFile());
  add(dropped(items.map((item) => item.webkitGetAsEntry?.()), files)); // entries are gone after this event
});
addEventListener("paste", ({ clipboardData }) => {
  const files = [...(clipboardData?.files ?? [])];
  if (!files.length) return;
  // Every picture copied out of a program is called image.png.
  add(files.map((file) => [file, file.name === "image.png" ? `pasted ${++pasted}.png` : file.name]));
});

// Photos are sent

function wait(card) {
  queue.add(card);
  show(card, "waiting");
}

function refuseIfTooLarge(card) {
  const most = service?.limits?.body_bytes - 4096; // the form around it
  if (!(card.file.size > most)) return;
  queue.delete(card);
  const message = `${megabytes(card.file.size)} are too many, the server takes ${megabytes(most)}. Save the photo smaller.`;
  fail(card, { code: "too_large", message });
}

function pump() {
  while (service && !stopped && !problem && !busy && flying.size < IN_FLIGHT && queue.size) {
    const [card] = queue;
    queue.delete(card);
    send(card);
  }
  refresh();
}

async function send(card) {
  const flight = new AbortController();
  flying.add(flight);
  Object.assign(card, { flight, asked: chosen });
  show(card, "captioning");
  try {
    const form = new FormData();
    for (const [name, value] of Object.entries(card.asked)) form.append(name, value);
    form.append("image", card.file, card.file.name || "photo");
    const response = await fetch("v1/captions", { method: "POST", body: form, headers: headers(), signal: flight.signal });
    const answer = response.ok ? await response.json() : await refusal(response);
    if (!flight.signal.aborted) take(card, response, answer);
  } catch {
    if (!flight.signal.aborted) await unanswered(card, flight);
  } finally {
    flying.delete(flight);
    pump();
  }
}

function take(card, response, { results, error = results[0].error }) {
  const { status } = response;
  if (!error) return show(card, "done", results[0]);
  const setting = ["bad_setting", "no_such_model"].includes(error.code); // is so for every photo
  if (![401, 429, 503].includes(status) && !setting) return fail(card, error, status >= 500);
  back([card]);
  if (status === 401) return askForKey();
  if (setting) return halt(error.message);
  clearTimeout(busy);
  busy = setTimeout(() => {
    busy = 0;
    pump();
  }, retryAfter(response));
}

/** To the head of the queue. */
function back(some) {
  queue = new Set([...some, ...queue]);
  for (const card of some) show(card, "waiting");
}

/** A photo that changed or moved since it was chosen looks like a server that does not answer. */
async function unanswered(card, flight) {
  const readable = await card.file.slice(0, 1).arrayBuffer().then(() => true, () => false);
  if (flight.signal.aborted) return;
  if (!readable) return fail(card, { code: "unreadable", message: "the file has changed or moved since. Choose it again." });
  fail(card, { code: "unreachable", message: "the server did not answer." }, true);
  halt(SILENT);
}

const fail = (card, error, retry = false) => show(card, "error", { error }, retry);

function halt(why) {
  problem = why;
  refresh();
}

function goOn() {
  stopped = false;
  problem = "";
  pump();
}

/** Whatever failed and might not a second time. The server may be another one by now. */
function tryAgain() {
  for (const card of all("error")) if (card.retry) wait(card);
  load();
}

function abort(some) {
  for (const card of some) if (card.state === "captioning") card.flight.abort();
}

// What is shown

function list(element, entries, figure) {
  element.replaceChildren(...entries.map((entry) => {
    const line = document.createElement("li");
    const text = document.createElement("span");
    const value = document.createElement("data");
    text.dir = "auto";
    text.textContent = entry.caption;
    value.value = entry[figure];
    value.textContent = signed(entry[figure]);
    line.append(text, value);
    return line;
  }));
}

function show(card, state, result = {}, retry = false) {
  Object.assign(card, { state, result, retry });
  const { caption, score, confidence, unsure = false, alternatives = [], neighbours = [], error } = result;
  const { part } = card;
  card.element.dataset.state = state;
  part("img").alt = caption || card.name;
  part(".caption").textContent = state === "done" ? caption || "(an empty caption)" : "";
  part(".state").textContent = { waiting: "Waiting", captioning: "Captioning \u2026" }[state] ?? "";
  part(".error").hidden = !error;
  part(".error span").textContent = error?.message ?? "";
  part(".source span").hidden = state !== "done";
  if (state === "done") {
    part(".source data").value = score;
    part(".source data").textContent = signed(score) + (confidence === undefined ? "" : `, ${Math.round(100 * confidence)}%`) + (unsure ? ", unsure" : "");
  }
  part(".others").hidden = !alternatives.length;
  list(part(".others ul"), alternatives, "score");
  part("details").hidden = !neighbours.length;
  list(part("details ul"), neighbours, "cosine");
  part("[data-do=copy]").hidden = state !== "done";
  part("[data-do=retry]").hidden = !retry;
  refresh();
}

let refreshing = 0;
function refresh() {
  refreshing ||= setTimeout(() => {
    refreshing = 0;
    const focused = document.activeElement;
    const [done, failed] = [all("done"), all("error")];
    const left = cards.size - done.length - failed.length;
    const retries = failed.filter(({ retry }) => retry).length;
    const now = JSON.stringify(chosen);
    const earlier = [...done, ...failed].some(({ asked }) => asked && JSON.stringify(asked) !== now);
    const why = stopped || problem ? "; stopped" : busy ? "; waiting, the server is busy" : "";
    const count = `${done.length.toLocaleString("en")} of ${cards.size.toLocaleString("en")} captioned`;
    $("count").textContent = `${count}${failed.length ? `, ${failed.length.toLocaleString("en")} failed` : ""}${left ? why : ""}`;
    $("progress").max = cards.size || 1;
    $("progress").value = cards.size - left;
    $("results").hidden = !cards.size;
    document.body.classList.toggle("begun", cards.size > 0);
    $("problem").hidden = !problem;
    if ($("problem").firstElementChild.textContent !== problem) $("problem").firstElementChild.textContent = problem;
    $("reload").hidden = cards.size > 0 || !$("key-form").hidden; // where the bar or the key's form do not offer it
    $("stop").hidden = !left || Boolean(problem);
    $("stop").textContent = stopped ? "Go on" : "Stop";
    $("retry").hidden = !(retries || (problem && $("key-form").hidden));
    $("again").hidden = !earlier;
    for (const id of ["copy", "json", "csv"]) $(id).disabled = !(done.length + (id === "copy" ? 0 : failed.length));
    if (focused.hidden) $("count").focus(); // it was on a button that is gone
    announce(!left || stopped || Boolean(problem));
  }, 60);
}

/** Tells a screen reader the count: now and then, and where it ends. */
let announcing = 0;
function announce(ended) {
  if (announcing && !ended) return;
  clearTimeout(announcing);
  announcing = setTimeout(() => {
    announcing = 0;
    $("status").textContent = cards.size ? $("count").textContent : "";
  }, ended ? 200 : 5000);
}

// What the person does

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", $("key").value);
  $("key").value = "";
  load();
});
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("settings").addEventListener("change", ({ target }) => {
  if (target === $("captioner")) choose();
  if (target === $("beams") && $("captions").valueAsNumber > target.valueAsNumber) $("captions").value = target.value;
  describe();
  refresh();
});
$("stop").addEventListener("click", () => {
  if (stopped) return goOn();
  stopped = true;
  const flown = all("captioning");
  abort(flown);
  back(flown);
});
for (const id of ["reload", "retry"]) $(id).addEventListener("click", tryAgain);
$("again").addEventListener("click", () => {
  abort(cards.values());
  queue = new Set();
  for (const card of cards.values()) {
    wait(card);
    refuseIfTooLarge(card);
  }
  goOn();
});
$("clear").addEventListener("click", () => {
  if (all("done").length && !confirm(`Clear ${many(cards.size, "photo")} and their captions?`)) return;
  remove([...cards.values()]);
  $("photos").focus();
});
$("cards").addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (!button) return;
  const card = cards.get(button.closest(".card"));
  if (button.dataset.do === "copy") copy(button, card.result.caption);
  if (button.dataset.do === "retry") {
    wait(card);
    card.part("[data-do=remove]").focus(); // the one pressed is gone
    load();
  }
  if (button.dataset.do === "remove") {
    const beside = card.element.nextElementSibling ?? card.element.previousElementSibling;
    remove([card]);
    (beside?.querySelector("[data-do=remove]") ?? $("photos")).focus();
  }
});

function remove(some) {
  abort(some);
  for (const card of some) {
    cards.delete(card.element);
    queue.delete(card);
    nearby.unobserve(card.element);
    letGo(card);
    card.element.remove();
  }
  pump();
}

addEventListener("beforeunload", (event) => {
  if (flying.size || busy) event.preventDefault();
});

// Captions go out

/** A cell that no spreadsheet takes for a formula. */
const plain = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);

const finished = () => [...cards.values()].filter(({ state }) => state === "done" || state === "error");

function asJson() {
  const row = ({ name, asked: { model, neighbours, ...decoding } = {}, result }) => ({ ...result, name, model, decoding });
  return JSON.stringify(finished().map(row), null, 2);
}

function asCsv() {
  const rows = finished();
  const others = Math.max(0, ...rows.map(({ result }) => result.alternatives?.length ?? 0));
  const sure = rows.some(({ result }) => result.confidence !== undefined) ? ["confidence", "unsure"] : [];
  const styles = rows.some(({ asked }) => asked?.style) ? ["style"] : [];
  const head = ["name", "caption", "score", ...sure, ...Array.from({ length: others }, (_, place) => `alternative_${place + 1}`), "model", ...styles, "error"];
  const lines = rows.map(({ name, asked, result }) => [
    plain(name), plain(result.caption ?? ""), result.score ?? "", ...sure.map((key) => result[key] ?? ""), ...Array.from({ length: others }, (_, place) => plain(result.alternatives?.[place]?.caption ?? "")),
    plain(asked?.model ?? ""), ...styles.map((key) => plain(asked?.[key] ?? "")), plain(result.error?.message ?? ""),
  ]);
  const quoted = (cell) => (/[",\r\n]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : cell);
  return "\ufeff" + [head, ...lines].map((line) => `${line.map(quoted).join(",")}\r\n`).join(""); // the mark tells spreadsheets that it is UTF-8
}

function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Clipboards are for secure origins; elsewhere a selection can be copied. */
async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "unseen";
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const words = (button.dataset.words ??= button.textContent);
  button.textContent = "Copied";
  $("status").textContent = "Copied";
  setTimeout(() => (button.textContent = words), 1500);
}

$("copy").addEventListener("click", ({ currentTarget }) => {
  const cell = (text) => plain(text.replace(/\s+/g, " "));
  copy(currentTarget, all("done").map(({ name, result }) => `${cell(name)}\t${cell(result.caption)}`).join("\n"));
});
$("json").addEventListener("click", () => download("captions.json", "application/json", asJson()));
$("csv").addEventListener("click", () => download("captions.csv", "text/csv", asCsv()));

load();
